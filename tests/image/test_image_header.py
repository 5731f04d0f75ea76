"""The size that a file states is that of the picture that is read from it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, features
from support.workspace import photo

from liif_fast import image
from liif_fast.errors import ImageError

SIZE = 40, 24


def turned(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    return exif


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_turned_pictures(suffix: str, turn: int, tmp_path: Path) -> None:
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / f"x{suffix}"
    photo().resize(SIZE).save(path, exif=turned(turn))
    assert image.stated_size(path) == image.read(path).size == (SIZE if turn < 5 else SIZE[::-1])


@pytest.mark.parametrize("turn", [1, 6])
def test_a_png_that_says_behind_its_pixels_how_it_is_turned(turn: int, tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "x.png"
    photo().resize(SIZE).save(path)
    kind, data = b"eXIf", turned(turn).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    whole = path.read_bytes()
    path.write_bytes(whole[:-12] + chunk + whole[-12:])
    expected = image.read(path).size
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("the pixels are decoded"))
    assert image.stated_size(path) == expected == (SIZE if turn == 1 else SIZE[::-1])


@pytest.mark.parametrize("turn", [1, 8])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_deep_tiffs(dtype: str, turn: int, tmp_path: Path) -> None:
    tifffile: Any = pytest.importorskip("tifffile")
    path = tmp_path / "x.tif"
    values = np.asarray(photo().resize(SIZE)).astype(dtype)
    tags = [(274, "H", 1, turn, True)]
    for planes in ("contig", "separate"):
        pixels = values if planes == "contig" else values.transpose(2, 0, 1)
        tifffile.imwrite(path, pixels, photometric="rgb", planarconfig=planes, bigtiff=True, extratags=tags)
        assert image.stated_size(path) == image.read(path).size == (SIZE if turn == 1 else SIZE[::-1])


def test_no_picture(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("text")
    for name in ("x.png", "missing.png"):
        with pytest.raises(ImageError, match=name):
            image.stated_size(tmp_path / name)


def test_more_pixels_than_pillow_allows(tmp_path: Path, monkeypatch: Any) -> None:
    photo().resize(SIZE).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="safety limit"):
        image.stated_size(tmp_path / "x.png")
    assert image.stated_size(tmp_path / "x.png", trusted=True) == SIZE
