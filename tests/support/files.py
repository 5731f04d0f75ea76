"""Picture files: noise of a type, files with metadata, files that are no pictures."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms

from support.workspace import PHOTO, photo

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


FULL = {"uint8": 255, "uint16": 65_535, "float32": 1}


def noise(channels: int, dtype: str, height: int = 60, width: int = 80) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = (rng.random((height, width, channels)) * FULL[dtype]).astype(dtype)
    if channels in (2, 4):
        values[:20, :, -1] = 0
    return values


def png(header: bytes, raw: bytes) -> bytes:
    """A PNG of the IHDR's bytes and the raw scan lines."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tagged() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "Somebody"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = 128
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageHeight] = 96
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] = "A lens"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    # Only a loaded one lists its directories, which the TIFF writer goes by.
    whole = Image.Exif()
    whole.load(exif.tobytes())
    return whole


def bad_files(folder: Path) -> dict[str, str]:
    """Files that are no pictures, each with what is said of it."""
    whole = PHOTO.read_bytes()
    photo().save(folder / "whole.jpg")
    bomb = png(struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0), b"")
    files = {
        "empty.png": (b"", "empty file"),
        "text.png": (b"This is no picture.\n", "something that Pillow does not know"),
        "truncated.png": (whole[: len(whole) // 2], "damaged"),
        "truncated.jpg": ((folder / "whole.jpg").read_bytes()[:2000], "damaged"),
        "header.png": (whole[:20], "expected a picture, got"),
        "bomb.png": (bomb, "safety limit of 179 megapixels"),
        "noise.png": (whole[:8] + os.urandom(500), "expected a picture, got"),
        "flipped.png": (whole[:3000] + bytes(b ^ 255 for b in whole[3000:]), "damaged"),
    }
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    (folder / "folder.png").mkdir()
    return {name: message for name, (_, message) in files.items()} | {
        "folder.png": "got a folder",
        "missing.png": "no such file",
    }


BAD = [
    *("empty.png", "text.png", "truncated.png", "truncated.jpg", "header.png"),
    *("bomb.png", "noise.png", "flipped.png", "folder.png", "missing.png"),
]
