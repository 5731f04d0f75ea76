"""Reading what Pillow has no mode for: 16-bit colour in PNG; TIFF of many types and bands. The extra `formats`."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL import TiffImagePlugin as Tiff
from PIL.ExifTags import Base

from liif_fast.errors import ImageError, one_line
from liif_fast.image import kinds, metadata, tags
from liif_fast.image.extras import Extras
from liif_fast.image.formats import PathLike, extra
from liif_fast.image.values import Pixels

# Others hold pictures with headers of their own, or reduce to 8 bits.
_COMPRESSIONS = {
    *(1, 32773),  # none, PackBits
    *(5, 8, 32946),  # LZW, deflate
    *(34925, 50000, 34887),  # LZMA, Zstandard, LERC
}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_UNSPECIFIED, _PREMULTIPLIED, _SEPARATE = 0, 1, 2  # kinds of extra channels
_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "f2", "f4", "f8")


class Decoded(NamedTuple):
    """array: [H, W] or [H, W, C], upright, of native byte order; the rest from the file's tags.

    bands: the channels [H, W] behind the colours and their alpha. kinds: what TIFF says of each extra channel.
    """

    array: Pixels
    notes: list[str]
    icc: bytes | None = None
    exif: Image.Exif | None = None
    dpi: tuple[float, float] | None = None
    extras: Extras = Extras()
    bands: tuple[Pixels, ...] = ()


def check_size(width: int, height: int) -> None:
    """Raise Pillow's own error beyond its own limit, for what Pillow does not decode."""
    if Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError


def png(path: Path) -> Pixels:
    """Return the uint16 pixels [H, W, C] of a PNG of 16 bits."""
    imagecodecs = extra("imagecodecs", f"{path}: a PNG of 16 bits and more than one channel")
    data = path.read_bytes()
    # Of several headers, Pillow goes by the last and libpng by the first.
    check_size(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
    array: Pixels = imagecodecs.png_decode(data)
    return array


def tiff(path: PathLike, frame: int | None = None, bands: Sequence[int] | None = None) -> Decoded:
    """Return a picture of a TIFF or BigTIFF: gray or RGB, with or without alpha, and any further bands.

    frame: the number of its directory, from 0; None for the first that is a page (no thumbnail, pyramid or mask), with
    a note on other pages. bands: the channels to
    take, counted from 1, None for all.
    """
    tifffile = extra("tifffile", f"{path}: this kind of TIFF")
    extra("imagecodecs", f"{path}: this kind of TIFF")
    # What it would log beside raising, or instead of it.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    with tifffile.TiffFile(path) as file:
        if frame is not None:
            return _decoded(file, _whole(file.pages[frame]), bands)
        found = pages(file)
        decoded = _decoded(file, _whole(file.pages[found[0]]), bands)
        if len(found) > 1:
            decoded.notes.append(f"only the first of {len(found)} frames is used")
        return decoded


def pages(file: Any) -> list[int]:
    """Return which pages of one of tifffile's files are pictures of their own: no thumbnails, pyramids or masks."""
    found = []
    for number in range(len(file.pages)):
        kind = _whole(file.pages[number]).tags.valueof(Base.NewSubfileType, default=0)
        if not (isinstance(kind, int) and kind & (tags.REDUCED | tags.MASK)):
            found.append(number)
    # A file of one picture may call it anything.
    return found or [0]


def _whole(page: Any) -> Any:
    """Return a page with all of its tags, of which tifffile reads only some at first."""
    return page.aspage() if hasattr(page, "aspage") else page


def _decoded(file: Any, page: Any, bands: Sequence[int] | None) -> Decoded:
    _check(page, file.filehandle.size)
    notes: list[str] = []
    # One thread: the others would not see the limits of this one.
    array = page.asarray(maxworkers=1, squeeze=False).reshape(page.shape)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    array = np.moveaxis(array, 0, 2) if page.axes == "SYX" else array
    exif, turn, extras = described(file, page, notes)
    array = metadata.upright(array, turn)
    if turn > 1 and extras.geo:
        notes.append("place on the ground left out of a turned picture")
        extras = extras._replace(geo={})
    icc = page.tags.valueof(Tiff.ICCPROFILE)
    colours, others, extras = _split(array, page, bands, extras, notes)
    dpi = metadata.turned(resolution(page), turn)
    return Decoded(colours, notes, icc if isinstance(icc, bytes) else None, exif, dpi, extras, others)


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
    if page.dtype is None or page.dtype.str[1:] not in _TYPES or page.bitspersample != page.dtype.itemsize * 8:
        kind = "integers" if page.sampleformat in (1, 2) else "values"
        raise ImageError(
            f"expected 8, 16 or 32 bits a channel or floating point, got {page.bitspersample}-bit {kind}; convert it "
            "first"
        )
    if page.photometric in (tags.COLOUR_FILTER_ARRAY, tags.LINEAR_RAW):
        raise ImageError(f"expected a picture, {kinds.RAW.reason}")
    colours = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3}.get(page.photometric)
    if colours is None or channels < colours:
        kind = getattr(page.photometric, "name", page.photometric)
        raise ImageError(f"expected gray or RGB, got {channels} channels of {kind}; convert it first")
    if page.compression not in _COMPRESSIONS:
        kind = getattr(page.compression, "name", page.compression)
        raise ImageError(f"expected no, LZW, deflate, Zstandard or LZMA compression, got {kind}; convert it first")
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    # GDAL writes no data for a tile that holds nothing.
    whole = all(offset + count <= size for offset, count in segments) and any(count > 0 for _, count in segments)
    sparse = page.tags.valueof(tags.GDAL_NODATA_TAG) is not None or all(o > 0 and c > 0 for o, c in segments)
    if not whole or not sparse or len(segments) != math.prod(page.chunked):
        raise ImageError("expected a whole picture, got a damaged file (data missing)")


def _split(
    array: Pixels, page: Any, wanted: Sequence[int] | None, extras: Extras, notes: list[str]
) -> tuple[Pixels, tuple[Pixels, ...], Extras]:
    """Return the colours with their straight alpha, the other bands, and the extras with what is said of these.

    White is the greatest value.
    """
    if page.photometric == _WHITE_IS_ZERO:
        colours = array if array.ndim == 2 else array[:, :, :1]
        turned = (1 if array.dtype.kind == "f" else np.iinfo(array.dtype).max) - colours
        array = turned if array.ndim == 2 else np.concatenate([turned, array[:, :, 1:]], axis=2)
    if array.ndim == 2:
        _check_bands(wanted, 1)
        return array, (), extras
    channels = array.shape[2]
    count = 3 if page.photometric == _RGB else 1
    stated = tuple(int(kind) for kind in page.extrasamples)
    kinds = stated or ((_SEPARATE,) if channels == count + 1 else ())
    kinds = (kinds + (_UNSPECIFIED,) * channels)[: channels - count]
    if wanted is not None:
        _check_bands(wanted, channels)
        order = [band - 1 for band in wanted]
        array = array[:, :, order]
        kinds = tuple(kinds[band - count] if band >= count else _UNSPECIFIED for band in order)
        count = 3 if count == 3 and order[:3] == [0, 1, 2] else 1
        kinds = kinds[count:]
        extras = extras.with_bands(order)
    alpha = kinds[:1] in ((_SEPARATE,), (_PREMULTIPLIED,))
    colours = array[:, :, : count + alpha]
    if alpha and kinds[0] == _PREMULTIPLIED:
        colours = _straight(colours)
        notes.append("colours divided by their alpha")
    others = tuple(array[:, :, band] for band in range(count + alpha, array.shape[2]))
    return (colours[:, :, 0] if colours.shape[2] == 1 else colours), others, extras


def _check_bands(wanted: Sequence[int] | None, channels: int) -> None:
    if wanted is not None and (not wanted or min(wanted) < 1 or max(wanted) > channels):
        raise ImageError(f"--bands: expected numbers from 1 to {channels}, got {','.join(map(str, wanted))}")


def _straight(array: Pixels) -> Pixels:
    full = 1.0 if array.dtype.kind == "f" else float(np.iinfo(array.dtype).max)
    alpha = array[:, :, -1:].astype(np.float64)
    colours = array[:, :, :-1] * (full / np.where(alpha > 0, alpha, np.inf))
    if array.dtype.kind != "f":
        colours = colours.round().clip(0, full)
    return np.concatenate([colours.astype(array.dtype), array[:, :, -1:]], axis=2)


def described(file: Any, page: Any, notes: list[str]) -> tuple[Image.Exif | None, int, Extras]:
    """Return what is kept of the page's tags, read as Pillow reads the TIFFs that it knows, and the orientation."""
    carried = {tag.code: tag.value for tag in page.tags if tag.code in tags.CARRIED}
    extras = metadata.extras_of_tags(carried, notes)
    if file.is_bigtiff and file.byteorder == ">":
        # Pillow takes the directory for a classic one.
        notes.append("EXIF data of a big-endian BigTIFF dropped")
        return None, page.tags.valueof(Base.Orientation, default=1), extras
    exif = Image.Exif()
    exif.bigtiff, exif.endian = file.is_bigtiff, file.byteorder
    with open(file.filehandle.path, "rb") as stream:
        try:
            exif.load_from_fp(stream, page.offset)
            turn = metadata.orientation(exif)
        # As in `metadata.kept`.
        except Exception as error:
            notes.append(f"unreadable EXIF data dropped ({one_line(error)})")
            return None, 1, extras
        return metadata.kept(exif, notes), turn, extras


def density(page: Any) -> tuple[float, float] | None:
    """Return (x, y) in pixels per unit of one of tifffile's pages, whatever the unit is; None where none are stated."""
    try:
        x, y = (a / b for a, b in (page.tags.valueof(tag) for tag in tags.RESOLUTION[:2]))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if x > 0 and y > 0 else None


def resolution(page: Any) -> tuple[float, float] | None:
    """Return (x, y) in dots per inch of one of tifffile's pages, None where it says nothing of use."""
    *sides, unit = (page.tags.valueof(tag) for tag in tags.RESOLUTION)
    try:
        x, y = (a / b for a, b in sides)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return metadata.stated(x, y, unit)
