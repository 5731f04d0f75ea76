"""What the README says of the whole command and of training is what was measured."""

from __future__ import annotations

import json
import re
from typing import Any

from support.paths import ROOT


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
    return found


def said(pattern: str) -> list[tuple[str, ...]]:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found = re.findall(pattern, text)
    assert found, pattern
    return found


def test_ratios_to_the_demo() -> None:
    cells = said(r"\[([\d.]+) \(([\d.]+)\)\]\(benchmarks/results/(command-[^)]*)\)")
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
    ((photographs, percent),) = said(r"in (\d+) photographs at most ([\d.]+) % of the samples differ from `fp32`")
    assert "by one 8-bit level, none by more" in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for measured in found:
        assert measured["beyond_one_level"] <= 0.001
        assert measured["largest_levels"] == 1
        assert int(photographs) == len(measured["photographs"])
    others = [row["other"] for measured in found for row in measured["photographs"].values()]
    assert float(percent) == round(100 * max(others), 2)


def test_training() -> None:
    """README's sentences on training, on every processor."""
    decoder = r"decoder(?:'s forward and backward)? was ([\d.]+)(?: times as fast in fp32)? and ([\d.]+) times"
    step = r"a (?:whole )?step(?: of this recipe was)? ([\d.]+)(?: times as fast in fp32)? and ([\d.]+) times"
    places = ("cpu-avx512-bf16", "cpu-avx512", "cpu-avx2")
    for place, speeds, steps in zip(places, said(decoder), said(step), strict=True):
        runs = result(f"training-{place}-2-threads-decoder.json")["decoder"]["runs"]
        measured = [round(runs[name]["times_reference"], 1) for name in ("cpu fp32", "cpu bf16")]
        assert [float(speed) for speed in speeds] == measured
        runs = result(f"training-{place}-2-threads-step.json")["step"]["runs"]
        measured = [round(runs[name]["times_published"], 1) for name in ("cpu fp32", "cpu bf16 autocast")]
        assert [float(speed) for speed in steps] == measured
