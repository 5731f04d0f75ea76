"""The demo of `make demo`, with a small model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import liif_fast

ROOT = Path(__file__).resolve().parents[1]


def run_demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), *(str(a) for a in arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint of a small LIIF that starts as bilinear interpolation."""
    from liif_fast.bilinear_init import bilinear_init

    torch.manual_seed(0)
    encoder = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8, "no_upsampling": True}}
    liif = liif_fast.LIIF(encoder, {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16, 16]}})
    bilinear_init(liif)
    liif_fast.save(liif, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_demo_writes_both_results_and_a_comparison(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_demo("--model", model, "--out", out)
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
    done = run_demo("--input", tmp_path / name, "--model", model, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert name in done.stderr
    assert not (tmp_path / "out").exists()
