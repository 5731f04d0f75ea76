"""TIFF and BigTIFF: a whole picture, and what any of them says beside its pixels."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.TiffTags import LONG, LONG8

from liif_fast.image import metadata
from liif_fast.image.picture import Pixels

CLASSIC = 2**32 - 2**25  # bytes of pixels beyond which TIFF must be BigTIFF; the rest is for its tables and metadata
_STRIP = 2**23  # bytes of pixels that lie together in a TIFF
_BIG_START = b"II+\0\x08\0\0\0" + bytes(8)


def write(stream: IO[bytes], array: Pixels, options: Mapping[str, Any]) -> None:
    """A TIFF, or where it must be a BigTIFF, of [H, W] or [H, W, C]: 8 or 16 bits or floating, not compressed.

    options: what is kept, as `metadata.options` has it. Pillow's own writer knows fewer types; other writers cannot
    nest the EXIF and GPS directories.
    """
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    height, width = array.shape[:2]
    channels = 1 if array.ndim == 2 else array.shape[2]
    big = array.nbytes > CLASSIC
    tags = ImageFileDirectory_v2(_BIG_START) if big else ImageFileDirectory_v2(prefix=b"II")
    for tag, value in _kept(options).items():
        tags[tag] = value
    tags[256], tags[257], tags[258] = width, height, (array.itemsize * 8,) * channels
    tags[259], tags[262], tags[277] = 1, 2 if channels > 2 else 1, channels  # compression, photometric, samples
    tags[284], tags[339] = 1, (3 if array.dtype.kind == "f" else 1,) * channels  # planar, sample format
    if channels in (2, 4):
        tags[338] = 2  # alpha, not multiplied into the colours
    row = array.nbytes // height
    rows = min(height, max(1, _STRIP // row))
    starts = range(0, height, rows)
    tags[278] = rows
    tags.tagtype[273] = tags.tagtype[279] = LONG8 if big else LONG
    tags[273] = tuple(start * row for start in starts)  # Pillow adds where the pixels begin
    tags[279] = tuple(min(rows, height - start) * row for start in starts)
    tags.save(stream)
    stream.write(array.data)


def label(path: Path, options: Mapping[str, Any]) -> None:
    """Give a complete, tiled TIFF of one picture what is kept, in place of all that it said beside how its tiles lie.

    Its directory is written anew, behind the pixels, with those of EXIF data and GPS; options: as in `write`.
    """
    with open(path, "r+b") as stream:
        start = stream.read(len(_BIG_START))
        start = start if start[2:4] in (b"+\0", b"\0+") else start[:8]
        old = ImageFileDirectory_v2(start)
        stream.seek(old.next)
        old.load(stream)
        tiles = {tag: value for tag, value in old.items() if tag in metadata.LAYOUT_TAGS}
        place = _append(stream, start, {**_kept(options), **tiles}, old.tagtype)
        stream.seek(len(start) // 2)
        stream.write(_packed(start, place))


def _kept(options: Mapping[str, Any]) -> dict[int, Any]:
    """The tags of what is kept, dictionaries in place of directories."""
    tags = metadata.directory(options.get("exif"))
    if "icc_profile" in options:
        tags[34675] = options["icc_profile"]
    if "dpi" in options:
        tags.update(metadata.resolution_tags(options["dpi"]))
    return tags


def _append(
    stream: IO[bytes], start: bytes, tags: Mapping[int, Any], types: Mapping[int, int], group: int | None = None
) -> int:
    """Write a directory behind all else, and before it those that lie in it; its place.

    start: that of the file. group: the tag of a directory in another one, where tags have meanings of their own.
    """
    directory = ImageFileDirectory_v2(start, group=group)
    for tag, value in tags.items():
        if tag in types:
            directory.tagtype[tag] = types[tag]
        if isinstance(value, dict):
            # Pillow alone would state 4 bytes for a place also where it has 8.
            directory.tagtype[tag] = LONG8 if len(start) == len(_BIG_START) else LONG
            value = _append(stream, start, value, {}, tag)
        directory[tag] = value
    place = stream.seek(0, os.SEEK_END)
    # Directories begin at even places.
    place += stream.write(bytes(place % 2))
    stream.write(directory.tobytes(place))
    return place


def _packed(start: bytes, place: int) -> bytes:
    return struct.pack(("<" if start[:2] == b"II" else ">") + ("Q" if len(start) == len(_BIG_START) else "L"), place)
