"""Reading what Pillow has no mode for: 16-bit colour in PNG and TIFF, floating-point TIFF; the extra `formats`."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from liif_fast.errors import ImageError, one_line
from liif_fast.image import metadata
from liif_fast.image.formats import PathLike, extra
from liif_fast.image.picture import Pixels

# Others hold pictures with headers of their own, or reduce to 8 bits.
_COMPRESSIONS = {
    *(1, 32773),  # none, PackBits
    *(5, 8, 32946),  # LZW, deflate
    *(34925, 50000),  # LZMA, Zstandard
}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_PREMULTIPLIED, _SEPARATE = 1, 2  # kinds of alpha; 0 says nothing of what the extra channel is


class Decoded(NamedTuple):
    """array: [H, W] or [H, W, C], upright, of native byte order; the rest from the file's tags."""

    array: Pixels
    notes: list[str]
    icc: bytes | None = None
    exif: Image.Exif | None = None
    dpi: tuple[float, float] | None = None


def check_size(width: int, height: int) -> None:
    """Pillow's own limit, for what Pillow does not decode."""
    if Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError


def png(path: Path) -> Pixels:
    """The uint16 pixels [H, W, C] of a PNG of 16 bits."""
    imagecodecs = extra("imagecodecs", f"{path}: a PNG of 16 bits and more than one channel")
    data = path.read_bytes()
    # Of several headers, Pillow goes by the last and libpng by the first.
    check_size(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
    array: Pixels = imagecodecs.png_decode(data)
    return array


def tiff(path: PathLike) -> Decoded:
    """The first picture of a TIFF or BigTIFF: gray or RGB, with or without alpha, uint8, uint16 or floating."""
    tifffile = extra("tifffile", f"{path}: this kind of TIFF")
    extra("imagecodecs", f"{path}: this kind of TIFF")
    # What it would log beside raising, or instead of it.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        _check(page, file.filehandle.size)
        notes: list[str] = []
        # One thread: the others would not see the limits of this one.
        array = page.asarray(maxworkers=1, squeeze=False).reshape(page.shape)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        array = _colours(np.moveaxis(array, 0, 2) if page.axes == "SYX" else array, page, notes)
        if len(file.pages) > 1:
            notes.append(f"only the first of {len(file.pages)} frames is used")
        exif, turn = described(file, page, notes)
        icc = page.tags.valueof(34675)
        array = metadata.upright(array, turn)
        return Decoded(array, notes, icc if isinstance(icc, bytes) else None, exif, resolution(page))


def _check(page: Any, size: int) -> None:
    """ImageError unless the page is a picture that is understood here, whole, and of the size that it states."""
    sides = page.imagewidth, page.imagelength, page.tilewidth, page.tilelength
    if not all(isinstance(value, int) for value in (*sides, page.samplesperpixel)):
        raise ImageError("expected a picture, got a damaged file (several sizes)")
    check_size(*sides[:2])
    check_size(*sides[2:])
    if page.axes not in ("YX", "YXS", "SYX") or not math.prod(page.shape) > 0:
        raise ImageError(f"expected one plane picture, got {page.axes or 'nothing'} of {page.shape}")
    channels = page.samplesperpixel if page.axes != "YX" else 1
    known = page.dtype is not None and (page.dtype.kind == "f" or page.dtype in (np.uint8, np.uint16))
    if not known or page.bitspersample != page.dtype.itemsize * 8:
        bits = "integers" if page.sampleformat in (1, 2) else "values"
        raise ImageError(f"expected 8 or 16 bits a channel or floating point, got {page.bitspersample}-bit {bits}")
    colours = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3}.get(page.photometric)
    if colours is None or channels < colours or channels > 8:
        kind = getattr(page.photometric, "name", page.photometric)
        raise ImageError(f"expected gray or RGB, got {channels} channels of {kind}; convert it first")
    if page.compression not in _COMPRESSIONS:
        kind = getattr(page.compression, "name", page.compression)
        raise ImageError(f"expected no, LZW, deflate, Zstandard or LZMA compression, got {kind}; convert it first")
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    whole = all(offset > 0 and count > 0 and offset + count <= size for offset, count in segments)
    if not whole or len(segments) != math.prod(page.chunked):
        raise ImageError("expected a whole picture, got a damaged file (data missing)")


def _colours(array: Pixels, page: Any, notes: list[str]) -> Pixels:
    """Gray or RGB, and straight alpha where the file has alpha; white is the greatest value."""
    if page.photometric == _WHITE_IS_ZERO:
        array = (1 if array.dtype.kind == "f" else np.iinfo(array.dtype).max) - array
    if array.ndim == 2:
        return array
    colours = 3 if page.photometric == _RGB else 1
    kinds = tuple(page.extrasamples) or ((_SEPARATE,) if array.shape[2] == colours + 1 else ())
    alpha = kinds[:1] in ((_SEPARATE,), (_PREMULTIPLIED,))
    channels = colours + alpha
    if channels < array.shape[2]:
        notes.append(f"only the first {channels} of {array.shape[2]} channels are used")
    array = array[:, :, :channels]
    if alpha and kinds[0] == _PREMULTIPLIED:
        array = _straight(array)
        notes.append("colours divided by their alpha")
    return array[:, :, 0] if channels == 1 else array


def _straight(array: Pixels) -> Pixels:
    full = 1.0 if array.dtype.kind == "f" else float(np.iinfo(array.dtype).max)
    alpha = array[:, :, -1:].astype(np.float64)
    colours = array[:, :, :-1] * (full / np.where(alpha > 0, alpha, np.inf))
    if array.dtype.kind != "f":
        colours = colours.round().clip(0, full)
    return np.concatenate([colours.astype(array.dtype), array[:, :, -1:]], axis=2)


def described(file: Any, page: Any, notes: list[str]) -> tuple[Image.Exif | None, int]:
    """What is kept of the page's tags, read as Pillow does in the TIFF pictures that it knows, and the orientation."""
    if file.is_bigtiff and file.byteorder == ">":
        # Pillow takes the directory for a classic one.
        notes.append("EXIF data of a big-endian BigTIFF dropped")
        return None, page.tags.valueof(274, default=1)
    exif = Image.Exif()
    exif.bigtiff, exif.endian = file.is_bigtiff, file.byteorder
    with open(file.filehandle.path, "rb") as stream:
        try:
            exif.load_from_fp(stream, page.offset)
            turn = metadata.orientation(exif)
        # As in `metadata.kept`.
        except Exception as error:
            notes.append(f"unreadable EXIF data dropped ({one_line(error)})")
            return None, 1
        return metadata.kept(exif, notes), turn


def resolution(page: Any) -> tuple[float, float] | None:
    """(x, y) in dots per inch of one of tifffile's pages, None where it says nothing of use."""
    *sides, unit = (page.tags.valueof(tag) for tag in metadata.RESOLUTION)
    try:
        x, y = (a / b for a, b in sides)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return metadata.stated(x, y, unit)
