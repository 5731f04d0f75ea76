"""Pictures to files: under their final name only when they are complete, with the metadata that is kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from liif_fast.errors import ImageError, one_line
from liif_fast.files import replacing
from liif_fast.image import metadata, tiff
from liif_fast.image.formats import FORMATS, PathLike, check_fits, extra
from liif_fast.image.picture import FileArray, Picture, Pixels, mode_of, plain, restored, size_of

_PNG_HEADER = 33  # bytes: signature and IHDR


def write(image: Image.Image | Pixels | FileArray, path: PathLike, like: Picture | None = None) -> None:
    """Write a picture under its final name only when it is complete; like gives the metadata to keep.

    image: as in `Picture`; floating values are brought back into the span of `like`.

    Raises ImageError when the format cannot hold it or the file cannot be written; an existing file is replaced.
    """
    path = Path(path)
    image = image[:, :] if isinstance(image, FileArray) else image
    if isinstance(image, np.ndarray) and (image.dtype == np.uint8 or (image.dtype == np.uint16 and image.ndim == 2)):
        image = Image.fromarray(image)
    check_fits(path, mode_of(image), size_of(image))
    form = FORMATS[path.suffix.lower()]
    options = {} if like is None else metadata.options(like.icc, like.exif, like.dpi, size_of(image))
    if form.dpi_in_exif and "dpi" in options:
        exif = options.setdefault("exif", Image.Exif())
        exif.update(metadata.resolution_tags(options["dpi"]))
    try:
        with replacing(path) as temporary, _Stream(io.FileIO(str(temporary), "w")) as stream:
            if form.name == "TIFF":
                array = np.asarray(plain(image)[0]) if isinstance(image, Image.Image) else image
                tiff.write(stream, restored(array, like.span if like else None), options)
            elif isinstance(image, np.ndarray):
                stream.write(_png(image, options))
            else:
                image.save(stream, format=form.name, **dict(form.options), **options)
    # Encoders, like decoders, raise errors of any type.
    except Exception as error:
        raise ImageError(f"{path}: cannot be written: {one_line(error)}") from error


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
