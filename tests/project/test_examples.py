"""The examples, with a small model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.models import bilinear_liif
from support.paths import ROOT

import liif_fast


def run_example(*arguments: str | Path, name: str = "demo.py") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / name), *(str(a) for a in arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint of a small LIIF that is bilinear interpolation."""
    liif_fast.save(bilinear_liif(), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


@pytest.mark.slow
def test_demo_writes_both_results_and_a_comparison(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_example("--model", model, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "megapixels a second" in done.stdout
    assert "backend" in done.stdout
    files = sorted(out.iterdir())
    assert [file.name for file in files] == ["comparison.png", "osprey_1200x800.png", "osprey_819x718.png"]
    assert all(str(file) in done.stdout for file in files)
    sheet = Image.open(files[0])
    with Image.open(ROOT / "examples" / "osprey.jpg") as file:
        photograph = file.convert("RGB")
    for path, size in ((files[1], (1200, 800)), (files[2], (819, 718))):
        result = Image.open(path)
        assert result.size == size
        assert shows(sheet, result), f"{path.name} is not in the comparison"
        # A model that interpolates stays close to an interpolation: not upside down, not shifted, not dark.
        smooth = np.asarray(photograph.resize(size, Image.Resampling.BILINEAR), dtype=float)
        assert np.abs(np.asarray(result, dtype=float) - smooth).mean() < 6
        assert shows(sheet, photograph.resize(size, Image.Resampling.BICUBIC)), "bicubic is not in the comparison"


def shows(sheet: Image.Image, picture: Image.Image) -> bool:
    """Whether the sheet holds the picture somewhere, pixel for pixel."""
    whole, part = np.asarray(sheet.convert("RGB")), np.asarray(picture.convert("RGB"))
    first = part[0, : min(40, part.shape[1])].tobytes()
    for top in range(whole.shape[0] - part.shape[0] + 1):
        row = whole[top].tobytes()
        left = row.find(first)
        while left != -1:
            x = left // 3
            if left % 3 == 0 and np.array_equal(whole[top : top + part.shape[0], x : x + part.shape[1]], part):
                return True
            left = row.find(first, left + 1)
    return False


@pytest.mark.parametrize("name", ["missing.jpg", "text.jpg"])
def test_demo_with_a_bad_picture_is_one_line(name: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    done = run_example("--input", tmp_path / name, "--model", model, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert name in done.stderr
    assert not (tmp_path / "out").exists()


def test_grids_show_what_they_say(model: Path, tmp_path: Path) -> None:
    """The middle and the corners of both views are the colours of the places that they look at."""
    ramp = np.zeros((64, 128, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 250, 128)
    ramp[..., 1] = np.linspace(0, 250, 64)[:, None]
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    options = ("--input", tmp_path / "ramp.png", "--size", "60", "80", "--model", model, "--out", tmp_path)
    done = run_example(*options, "--yaw", "90", "--pitch", "45", name="sample.py")
    assert done.returncode == 0, done.stderr

    def place(name: str, row: int, col: int) -> tuple[float, float]:
        """(x, y) in [-1, 1] that a pixel shows, read from its colour."""
        with Image.open(tmp_path / name) as picture:
            red, green, _ = np.asarray(picture)[row, col] / 125.0 - 1
        return float(red), float(green)

    corners = {(0, 0): (-0.45, -0.75), (0, -1): (0.2, -0.95), (-1, -1): (0.55, 0.3), (-1, 0): (-0.6, 0.15)}
    for pixel, corner in corners.items():
        assert place("perspective.png", *pixel) == pytest.approx(corner, abs=0.05)
    # 90 degrees to the right is x = 1/2, 45 degrees upwards y = -1/2; the middle column keeps its longitude.
    assert place("camera.png", 30, 40) == pytest.approx((0.5, -0.5), abs=0.05)
    up = 45 + np.degrees(np.arctan(60 / 80))
    assert place("camera.png", 0, 40) == pytest.approx((0.5, -up / 90), abs=0.05)


def test_sample_with_a_bad_picture_is_one_line(model: Path, tmp_path: Path) -> None:
    done = run_example("--input", tmp_path / "missing.jpg", "--model", model, "--out", tmp_path / "o", name="sample.py")
    assert (done.returncode, len(done.stderr.splitlines()), (tmp_path / "o").exists()) == (1, 1, False)
