"""What the README says of the whole command is what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
    return found


def said(pattern: str) -> list[tuple[str, ...]]:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found = re.findall(pattern, text)
    assert found, pattern
    return found


@pytest.mark.parametrize(
    ("place", "pattern"),
    [
        ("cpu-avx512", r"at ([\d.]+) megapixels? ([\d.]+) times as fast \(([\d.]+) times\)"),
        ("cpu-avx2", r"with AVX2 at ([\d.]+) megapixels? ([\d.]+) times \(([\d.]+) times\)"),
    ],
)
def test_ratios_to_the_demo(place: str, pattern: str) -> None:
    for size, whole, kinder in said(pattern):
        measured = result(f"command-{place}-{size}-megapixels.json")
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


@pytest.mark.parametrize("place", ["cpu-avx512", "cpu-avx2"])
def test_agreement_with_fp32(place: str) -> None:
    measured = result(f"command-agreement-{place}.json")["agreement"]
    assert measured["beyond_one_level"] <= 0.001
    assert measured["largest_levels"] <= 2
    ((photographs, percent),) = said(r"in (\d+) photographs at most ([\d.]+) % of the samples differ from `fp32`")
    assert int(photographs) == len(measured["photographs"])
    others = [row["other"] for row in measured["photographs"].values()]
    assert round(100 * max(others), 2) <= float(percent)
    assert "by one 8-bit level, none by more" in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert measured["largest_levels"] == 1
