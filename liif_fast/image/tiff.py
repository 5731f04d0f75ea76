"""TIFF and BigTIFF: a whole picture, and what any of them says beside its pixels."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import TiffImagePlugin as Tiff
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.TiffTags import BYTE, LONG, LONG8, UNDEFINED

from liif_fast.image import geotiff, metadata
from liif_fast.image.tags import LAYOUT
from liif_fast.image.values import Pixels

CLASSIC = 2**32 - 2**25  # bytes of pixels beyond which TIFF must be BigTIFF; the rest is for its tables and metadata
_STRIP = 2**23  # bytes of pixels that lie together in a TIFF
_TYPES = {**geotiff.TYPES, Tiff.XMP: BYTE, Tiff.IPTC_NAA_CHUNK: UNDEFINED}
_SMALL_START = b"II*\0" + bytes(4)
_BIG_START = b"II+\0\x08\0\0\0" + bytes(8)


def write(
    stream: IO[bytes], array: Pixels, options: Mapping[str, Any], colours: int | None = None, alpha: bool | None = None
) -> None:
    """Write a TIFF, or where it must be one a BigTIFF, of [H, W] or [H, W, C]: integers or floating, not compressed.

    options: what is kept, as `metadata.options` has it. colours: how many channels are gray (1) or RGB (3), and alpha:
    whether the next one is its alpha, by default as the number of channels has it; others are bands by themselves.
    Pillow's own writer knows fewer types (its issue 1888); other writers cannot nest the EXIF and GPS directories.
    """
    Pages(stream, big=array.nbytes > CLASSIC).add(array, options, colours, alpha)


class Pages:
    """A TIFF of several pictures, written one after another into an empty file; big: it is a BigTIFF."""

    def __init__(self, stream: IO[bytes], *, big: bool) -> None:
        self._stream, self._start = stream, _BIG_START if big else _SMALL_START
        stream.write(self._start)
        # Where the place of the next directory is stated.
        self._link = len(self._start) // 2

    def add(
        self, array: Pixels, options: Mapping[str, Any], colours: int | None = None, alpha: bool | None = None
    ) -> None:
        """Add a picture; the arguments are those of `write`."""
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        layout = _layout(array, colours, alpha)
        types = {**_TYPES, **dict.fromkeys((Tiff.STRIPOFFSETS, Tiff.STRIPBYTECOUNTS), self._long())}
        place, link = _append(self._stream, self._start, {**_kept(options), **layout}, types)
        self._stream.seek(self._link)
        self._stream.write(_packed(self._start, place))
        self._link = link
        # Pillow's directory states the strips as behind it.
        self._stream.seek(0, os.SEEK_END)
        self._stream.write(array.data)

    def _long(self) -> int:
        return LONG8 if self._start is _BIG_START else LONG


def _layout(array: Pixels, colours: int | None, alpha: bool | None) -> dict[int, Any]:
    """Return the tags of uncompressed pixels; the places of their strips count from the first one's."""
    height, width = array.shape[:2]
    channels = 1 if array.ndim == 2 else array.shape[2]
    tags: dict[int, Any] = {}
    colours = (3 if channels > 2 else 1) if colours is None else colours
    alpha = channels in (2, 4) if alpha is None else alpha
    tags[Tiff.IMAGEWIDTH], tags[Tiff.IMAGELENGTH] = width, height
    tags[Tiff.BITSPERSAMPLE] = (array.itemsize * 8,) * channels
    tags[Tiff.COMPRESSION], tags[Tiff.PHOTOMETRIC_INTERPRETATION] = 1, 2 if colours == 3 else 1
    tags[Tiff.SAMPLESPERPIXEL], tags[Tiff.PLANAR_CONFIGURATION] = channels, 1
    tags[Tiff.SAMPLEFORMAT] = ({"u": 1, "i": 2, "f": 3}[array.dtype.kind],) * channels
    if channels > colours:
        # 2: alpha, not multiplied into the colours; 0: nothing is said of the band.
        tags[Tiff.EXTRASAMPLES] = ((2,) if alpha else ()) + (0,) * (channels - colours - alpha)
    row = array.nbytes // height
    rows = min(height, max(1, _STRIP // row))
    starts = range(0, height, rows)
    tags[Tiff.ROWSPERSTRIP] = rows
    tags[Tiff.STRIPOFFSETS] = tuple(start * row for start in starts)
    tags[Tiff.STRIPBYTECOUNTS] = tuple(min(rows, height - start) * row for start in starts)
    return tags


def label(path: Path, options: Mapping[str, Any]) -> None:
    """Give a complete, tiled TIFF of one picture what is kept, in place of all that it says beside how its tiles lie.

    Its directory is written anew, behind the pixels, with those of EXIF data and GPS; options: as in `write`.
    """
    with open(path, "r+b") as stream:
        start = stream.read(len(_BIG_START))
        start = start if start[2:4] in (b"+\0", b"\0+") else start[:8]
        old = ImageFileDirectory_v2(start)
        stream.seek(old.next)
        old.load(stream)
        tiles = {tag: value for tag, value in old.items() if tag in LAYOUT}
        place, _ = _append(stream, start, {**_kept(options), **tiles}, {**_TYPES, **old.tagtype})
        stream.seek(len(start) // 2)
        stream.write(_packed(start, place))


def _kept(options: Mapping[str, Any]) -> dict[int, Any]:
    """Return the tags of what is kept, dictionaries in place of directories."""
    tags = metadata.directory(options.get("exif"))
    if "icc_profile" in options:
        tags[Tiff.ICCPROFILE] = options["icc_profile"]
    if "dpi" in options:
        tags.update(metadata.resolution_tags(options["dpi"]))
    if "xmp" in options:
        tags[Tiff.XMP] = options["xmp"]
    if "iptc" in options:
        tags[Tiff.IPTC_NAA_CHUNK] = options["iptc"]
    return tags | dict(options.get("geo", {}))


def _append(
    stream: IO[bytes], start: bytes, tags: Mapping[int, Any], types: Mapping[int, int], group: int | None = None
) -> tuple[int, int]:
    """Write a directory behind all else, and before it those that lie in it; return its place and that of its link.

    Where the next directory lies is stated at the link, which is empty.

    start: the beginning of the file. group: the tag of a directory in another one, where tags mean something else.
    """
    directory = ImageFileDirectory_v2(start, group=group)
    for tag, value in tags.items():
        if tag in types:
            directory.tagtype[tag] = types[tag]
        if isinstance(value, dict):
            # Pillow alone would state 4 bytes for a place also where it has 8.
            directory.tagtype[tag] = LONG8 if len(start) == len(_BIG_START) else LONG
            value, _ = _append(stream, start, value, {}, tag)
        directory[tag] = value
    place = stream.seek(0, os.SEEK_END)
    # Directories begin at even places.
    place += stream.write(bytes(place % 2))
    data = directory.tobytes(place)
    stream.write(data)
    size, entry = (8, 20) if len(start) == len(_BIG_START) else (2, 12)
    count = int.from_bytes(data[:size], "little" if start[:2] == b"II" else "big")
    return place, place + size + count * entry


def _packed(start: bytes, place: int) -> bytes:
    return struct.pack(("<" if start[:2] == b"II" else ">") + ("Q" if len(start) == len(_BIG_START) else "L"), place)
