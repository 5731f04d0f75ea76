"""The command's default precision: the faster one where 8 bits do not show it, float32 for everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.workspace import photo

import liif_fast
from liif_fast.backends import cpu
from liif_fast.batch import conversion
from liif_fast.rendering.options import Options
from liif_fast.rendering.request import Request


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions that pictures were made in."""
    found: list[str] = []
    prepare_output = conversion.prepare_output

    def noted(model: Any, pixels: Any, region: Any, options: Options, *rest: Any) -> Any:
        found.append(options.precision)
        return prepare_output(model, pixels, region, options, *rest)

    monkeypatch.setattr(conversion, "prepare_output", noted)
    return found


def converter(**settings: Any) -> conversion.Converter:
    return conversion.Converter(conversion.Settings(Request(1.7), device="cpu", **settings))


def test_eight_bits_do_not_show_it(tmp_path: Path, asked: list[str]) -> None:
    photo().save(tmp_path / "photo.png")
    levels = []
    for precision in ("auto", "fp32"):
        output = tmp_path / f"{precision}.png"
        converter(precision=precision)(tmp_path / "photo.png", output)
        levels.append(np.asarray(Image.open(output), dtype=np.int16))
    backend = converter().backend
    assert asked == [cpu.EIGHT_BIT_PRECISION if backend == "cpu" else "fp32", "fp32"]
    difference = np.abs(levels[0] - levels[1])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


def test_sixteen_bits_are_made_in_float32(tmp_path: Path, asked: list[str]) -> None:
    gray = np.asarray(photo().convert("L").resize((24, 16))).astype(np.uint16) * 257
    Image.fromarray(gray).save(tmp_path / "deep.png")
    converter()(tmp_path / "deep.png", tmp_path / "out.png")
    assert asked == ["fp32"]


def test_what_was_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "EIGHT_BIT_PRECISION", "bf16")
    assert converter(precision="fp32").precision == "fp32"
    assert converter(backend="torch").precision == "fp32"
    model = liif_fast.load("default", "cpu")
    model.precision = "fp32"  # type: ignore[assignment]
    monkeypatch.setattr(conversion.checkpoint, "load", lambda *_: model)
    assert converter().precision == "fp32"
