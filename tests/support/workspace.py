"""A folder with a photograph and a model for the command line to work in, and what tests ask of such a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from liif_fast import checkpoint
from liif_fast.cli import main
from support.models import bilinear_liif
from support.paths import RECORDED

PHOTO = RECORDED / "colosseum.png"  # 128 x 96, RGB


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: photo.png, and model.safetensors, which is bilinear interpolation."""
    return make_workspace(tmp_path, monkeypatch)


def make_workspace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`workspace` in a folder that a test has chosen itself."""
    monkeypatch.chdir(folder)
    photo().save("photo.png")
    checkpoint.save(bilinear_liif(), "model.safetensors")
    return folder


def photo() -> Image.Image:
    with Image.open(PHOTO) as image:
        return image.convert("RGB")


def upscale(*arguments: str) -> int:
    """`liif-fast upscale` with the model of the workspace: the exit code."""
    return main(["upscale", "--model", "model.safetensors", *arguments])


def names(folder: Path) -> list[str]:
    """What is in a folder, beside the record of what is done."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".liif-fast")


def size(path: str) -> tuple[int, int]:
    """Width and height of a picture file."""
    with Image.open(path) as image:
        return image.size
