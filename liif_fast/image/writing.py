"""Pictures to files: under their final name only when they are complete, with the metadata that is kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.TiffTags import LONG8

from liif_fast.errors import ImageError
from liif_fast.files import replacing
from liif_fast.image import metadata
from liif_fast.image.formats import FORMATS, PathLike, check_fits, extra
from liif_fast.image.picture import Picture, Pixels, mode_of, plain, restored, size_of

CLASSIC_TIFF = 2**32 - 2**24  # bytes of pixels beyond which a TIFF becomes a BigTIFF: the rest is for the metadata
_STRIP = 2**23  # bytes of pixels that lie together in a TIFF
_PNG_HEADER = 33  # bytes: signature and IHDR
_LONG = 4  # TIFF's type of 32-bit numbers
_BIGTIFF_START = b"II+\0\x08\0\0\0" + bytes(8)


def write(image: Image.Image | Pixels, path: PathLike, like: Picture | None = None) -> None:
    """Write a picture under its final name only when it is complete; like gives the metadata to keep.

    image: as in `Picture`; floating values are brought back into the span of `like`.

    Raises ImageError when the format cannot hold it or the file cannot be written; an existing file is replaced.
    """
    path = Path(path)
    if isinstance(image, np.ndarray) and (image.dtype == np.uint8 or (image.dtype == np.uint16 and image.ndim == 2)):
        image = Image.fromarray(image)
    check_fits(path, mode_of(image), size_of(image))
    form = FORMATS[path.suffix.lower()]
    options = {} if like is None else metadata.options(like, size_of(image))
    try:
        with replacing(path) as temporary, _Stream(io.FileIO(str(temporary), "w")) as stream:
            if form.name == "TIFF":
                array = np.asarray(plain(image)[0]) if isinstance(image, Image.Image) else image
                _write_tiff(stream, restored(array, like.span if like else None), options)
            elif isinstance(image, np.ndarray):
                stream.write(_png(image, options))
            else:
                image.save(stream, format=form.name, **dict(form.options), **options)
    # Encoders, like decoders, raise errors of any type.
    except Exception as error:
        raise ImageError(f"{path}: cannot be written: {metadata.line(error)}") from error


class _Stream(io.BufferedWriter):
    """A file that Pillow cannot write to by its number: where the disk is full it takes a part for the whole."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation


def _png(array: Pixels, options: dict[str, Any]) -> bytes:
    """A PNG of uint16 [H, W, C], with the metadata as Pillow writes it into a PNG of a single pixel."""
    encoded: bytes = extra("imagecodecs", "a 16-bit PNG").png_encode(np.ascontiguousarray(array))
    bare, tagged = io.BytesIO(), io.BytesIO()
    Image.new("L", (1, 1)).save(bare, "PNG")
    Image.new("L", (1, 1)).save(tagged, "PNG", **options)
    rest = len(bare.getvalue()) - _PNG_HEADER
    return b"".join((encoded[:_PNG_HEADER], tagged.getvalue()[_PNG_HEADER:-rest], encoded[_PNG_HEADER:]))


def _write_tiff(stream: IO[bytes], array: Pixels, options: dict[str, Any]) -> None:
    """A TIFF, or where it must be a BigTIFF, of [H, W] or [H, W, C]: 8 or 16 bits or floating, not compressed.

    Pillow's own writer knows fewer types; other writers cannot nest the EXIF and GPS directories.
    """
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    height, width = array.shape[:2]
    channels = 1 if array.ndim == 2 else array.shape[2]
    big = array.nbytes > CLASSIC_TIFF
    tags = ImageFileDirectory_v2(_BIGTIFF_START) if big else ImageFileDirectory_v2(prefix=b"II")
    for tag, value in metadata.directory(options.get("exif")).items():
        tags[tag] = value
    if "icc_profile" in options:
        tags[34675] = options["icc_profile"]
    if "dpi" in options:
        tags[296] = 2  # inches
        tags[282], tags[283] = options["dpi"]
    tags[256], tags[257], tags[258] = width, height, (array.itemsize * 8,) * channels
    tags[259], tags[262], tags[277] = 1, 2 if channels > 2 else 1, channels  # compression, photometric, samples
    tags[284], tags[339] = 1, (3 if array.dtype.kind == "f" else 1,) * channels  # planar, sample format
    if channels in (2, 4):
        tags[338] = 2  # alpha, not multiplied into the colours
    row = array.nbytes // height
    rows = min(height, max(1, _STRIP // row))
    starts = range(0, height, rows)
    tags[278] = rows
    tags.tagtype[273] = tags.tagtype[279] = LONG8 if big else _LONG
    tags[273] = tuple(start * row for start in starts)  # Pillow adds where the pixels begin
    tags[279] = tuple(min(rows, height - start) * row for start in starts)
    tags.save(stream)
    stream.write(array.data)
