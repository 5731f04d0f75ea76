"""What docs/benchmarks.md says of the whole command and of training is what was measured."""

from __future__ import annotations

import json
import re
from typing import Any

from support.paths import ROOT


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
    return found


TEXT = " ".join((ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").split())


def said(pattern: str) -> list[tuple[str, ...]]:
    found = re.findall(pattern, TEXT)
    assert found, pattern
    return found


def test_ratios_to_the_demo() -> None:
    cells = said(r"\[([\d.]+) \(([\d.]+)\)\]\(\.\./benchmarks/results/(command-[^)]*)\)")
    assert len({name for _, _, name in cells}) == len(cells)
    for whole, kinder, name in cells:
        measured = result(name)
        assert float(whole) == round(measured["times_demo"], 1)
        assert float(kinder) == round(measured["times_kinder_demo"], 1)


def test_shares_of_the_time() -> None:
    shares = r"encoder (\d+) %, projection and decoder (\d+) %, all else ([\d.]+) %"
    pattern = rf"At (\d+) megapixels the command took (\d+) seconds: {shares}"
    ((size, seconds, encoder, decoder, else_),) = said(pattern)
    (measured,) = result(f"command-cpu-avx512-{size}-megapixels.json")["command"]
    share = {name: part["share"] for name, part in measured["parts"].items()}
    assert int(seconds) == round(measured["seconds"])
    assert int(encoder) == round(100 * share["encoder"])
    assert int(decoder) == round(100 * (share["projection"] + share["decoder"]))
    assert float(else_) == round(100 * measured["share_beside_arithmetic"], 1)


def test_agreement_with_fp32() -> None:
    places = ("cpu-avx512", "cpu-avx512-bf16", "cpu-avx2")
    found = [result(f"command-agreement-{place}.json")["agreement"] for place in places]
    ((photographs, percent),) = said(r"In (\d+) photographs at most ([\d.]+) % of the samples differ from `fp32`")
    assert "by one 8-bit level and never by more" in TEXT
    for measured in found:
        assert measured["beyond_one_level"] <= 0.001
        assert measured["largest_levels"] == 1
        assert int(photographs) == len(measured["photographs"])
    others = [row["other"] for measured in found for row in measured["photographs"].values()]
    assert float(percent) == round(100 * max(others), 2)


def test_training_speed() -> None:
    """The table of times as fast: decoder and whole step, in fp32 and bf16."""
    cells = said(r"\[([\d.]+)\]\(\.\./benchmarks/results/(training-[^)]*-(?:decoder|step)\.json)\)")
    assert len(cells) == 12
    for index, (ratio, name) in enumerate(cells):
        kind, key, halves = (
            ("decoder", "times_reference", "cpu bf16")
            if name.endswith("decoder.json")
            else ("step", "times_published", "cpu bf16 autocast")
        )
        measured = result(name)[kind]["runs"]["cpu fp32" if index % 2 == 0 else halves]
        assert float(ratio) == round(measured[key], 1)


def test_training_memory() -> None:
    cells = said(r"\| (\d+) \| \[(\d+)\]\(\.\./benchmarks/results/(training-[^)]*-memory\.json)\)")
    assert len(cells) == 3
    for published, ours, name in cells:
        measured = result(name)["peak_megabytes"]
        assert (int(published), int(ours)) == (round(measured["published"]), round(measured["cpu fp32"]))


def test_training_losses() -> None:
    for percent, name in said(r"\[([\d.]+) %\]\(\.\./benchmarks/results/(training-[^)]*-curve\.json)\)"):
        assert float(percent) == round(100 * result(name)["largest_relative_difference"]["cpu"], 2)


def test_large_results() -> None:
    ((seconds, megabytes, name),) = said(
        r"took (\d+) seconds and ([\d,]+) MB at the peak \(\[parts\]\([^)]*/(command-[^)]*)\)"
    )
    (measured,) = result(name)["command"]
    assert int(seconds) == round(measured["seconds"])
    assert int(megabytes.replace(",", "")) == measured["peak_memory_mb"]
    ((mebibytes, name),) = said(r"took (\d+) MiB \(\[run\]\([^)]*/(render-[^)]*)\)")
    assert int(mebibytes) == round(result(name)["peak_resident_kib"] / 1024)
