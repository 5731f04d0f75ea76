"""The size that a picture file states, without decoding its pixels."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from liif_fast.image import kinds, metadata, quirks
from liif_fast.image.formats import PathLike, extra
from liif_fast.image.reading import HEADER, refusing


def stated_size(path: PathLike, *, trusted: bool = False) -> tuple[int, int]:
    """Return the (width, height) that `read` will find, by what a file says of itself.

    trusted: as in `read`. Raises ImageError for what has no header of a picture; the rest of a file may be damaged.
    """
    path = Path(path)
    with refusing(path, trusted), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open(path, "rb") as stream:
            start = stream.read(HEADER)
        kinds.load_plugins(start)
        try:
            with Image.open(path) as opened:
                # Pillow gives the sides of a TIFF as they are when it is upright.
                turn = 1 if isinstance(opened, TiffImageFile) else metadata.orientation(_exif(opened))
                width, height = opened.size
                if opened.format == "AVIF" and (box := quirks.clean_aperture(opened.size, start)):
                    width, height = box[2] - box[0], box[3] - box[1]
        except UnidentifiedImageError:
            tifffile: Any = extra("tifffile", f"{path}: this kind of TIFF")
            with tifffile.TiffFile(path) as file:
                page = file.pages.first
                width, height, turn = page.imagewidth, page.imagelength, page.tags.valueof(274, default=1)
    return (height, width) if turn in (5, 6, 7, 8) else (width, height)


def _exif(opened: Image.Image) -> Image.Exif:
    if isinstance(opened, PngImageFile) and "exif" not in opened.info:
        # It may lie behind the pixels, which Pillow would decode to find it.
        opened.info["exif"] = _chunk(opened.fp, b"eXIf")
    return Image.Image.getexif(opened)


def _chunk(stream: Any, name: bytes) -> bytes | None:
    """Return what a chunk of a PNG holds, None where there is none of this name."""
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == name:
            return bytes(stream.read(length))
        stream.seek(length + 4, 1)
    return None
