"""GeoTIFF and GDAL's tags: the place of the pixels on the ground, scaled and shifted as the picture is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

PIXEL_SCALE, TIE_POINTS, TRANSFORMATION = 33550, 33922, 34264
KEYS, DOUBLES, TEXTS = 34735, 34736, 34737
GDAL_METADATA, GDAL_NODATA, RPC = 42112, 42113, 50844
TAGS = frozenset((PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, KEYS, DOUBLES, TEXTS, GDAL_METADATA, GDAL_NODATA, RPC))
PLACE = frozenset((PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, KEYS, DOUBLES, TEXTS, RPC))
TYPES = {  # TIFF's numbers of the types that readers expect
    **dict.fromkeys((PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, DOUBLES, RPC), 12),
    KEYS: 3,
    **dict.fromkeys((TEXTS, GDAL_METADATA, GDAL_NODATA), 2),
}
_RASTER_TYPE, _PIXEL_IS_POINT = 1025, 2
# What GDAL writes of a band and stays true when the band is resized; statistics, histograms and sizes do not.
_ROLES = ("scale", "offset", "unittype", "description")
_ITEMS = ("TIFFTAG_DATETIME", "TIFFTAG_SOFTWARE", "TIFFTAG_ARTIST", "TIFFTAG_COPYRIGHT", "TIFFTAG_IMAGEDESCRIPTION")


class Resampling(NamedTuple):
    """How the pixels of a result lie over those of its source.

    source: (H, W) of the source. whole: (H, W) of the whole output. corner: (top, left) of the result in it.
    """

    source: tuple[int, int]
    whole: tuple[int, int]
    corner: tuple[int, int] = (0, 0)

    @property
    def scale(self) -> tuple[float, float]:
        """Output pixels per source pixel, (y, x)."""
        return self.whole[0] / self.source[0], self.whole[1] / self.source[1]


def resampled(tags: Mapping[int, Any], how: Resampling) -> dict[int, Any]:
    """Return the tags of a file, true of its resampled picture.

    A point (x, y) of the source's raster space lies at (x * scale - left, y * scale - top) of the result's where raster
    coordinates count from a pixel's corner; where they count from its centre (PixelIsPoint), half a pixel is added
    before and taken off behind.
    """
    (down, across), (top, left) = how.scale, how.corner
    half = 0.5 if _raster_type(tags) == _PIXEL_IS_POINT else 0.0
    result = dict(tags)
    if PIXEL_SCALE in tags:
        x, y, *rest = tags[PIXEL_SCALE]
        result[PIXEL_SCALE] = (x / across, y / down, *rest)
    if TIE_POINTS in tags:
        values = list(tags[TIE_POINTS])
        for at in range(0, len(values) - 5, 6):
            values[at] = (values[at] + half) * across - half - left
            values[at + 1] = (values[at + 1] + half) * down - half - top
        result[TIE_POINTS] = tuple(values)
    if TRANSFORMATION in tags:
        result[TRANSFORMATION] = _transformation(tags[TRANSFORMATION], down, across, top, left, half)
    if RPC in tags:
        values = list(tags[RPC])
        # Lines and samples count from the centre of a pixel.
        values[2] = (values[2] + 0.5) * down - 0.5 - top
        values[3] = (values[3] + 0.5) * across - 0.5 - left
        values[7], values[8] = values[7] * down, values[8] * across
        result[RPC] = tuple(values)
    return result


def _transformation(
    matrix: Sequence[float], down: float, across: float, top: float, left: float, half: float
) -> tuple[float, ...]:
    """Return the 4 x 4 matrix (by rows) from the result's raster space to the ground."""
    rows = [list(matrix[at : at + 4]) for at in range(0, 16, 4)]
    # A source coordinate is (result + half + corner) / scale - half.
    shift_x, shift_y = (half + left) / across - half, (half + top) / down - half
    for row in rows[:3]:
        row[3] += row[0] * shift_x + row[1] * shift_y
        row[0], row[1] = row[0] / across, row[1] / down
    return tuple(value for row in rows for value in row)


def _raster_type(tags: Mapping[int, Any]) -> int:
    keys = tags.get(KEYS, ())
    for at in range(4, len(keys) - 3, 4):
        if keys[at] == _RASTER_TYPE:
            return int(keys[at + 3])
    return 1


def kept(tags: Mapping[int, Any], notes: list[str]) -> dict[int, Any]:
    """Return the tags with well-formed values only; GDAL's metadata without what a resized picture makes false."""
    found = {tag: value for tag, value in tags.items() if tag in TAGS and _is_sound(tag, value)}
    if GDAL_METADATA in found:
        text = _true_metadata(str(found.pop(GDAL_METADATA)), notes)
        if text:
            found[GDAL_METADATA] = text
    return found


def _is_sound(tag: int, value: Any) -> bool:
    lengths = {PIXEL_SCALE: (3, 3), TIE_POINTS: (6, None), TRANSFORMATION: (16, 16), RPC: (92, 92), KEYS: (4, None)}
    if TYPES[tag] == 2:
        return isinstance(value, str)
    least, most = lengths.get(tag, (1, None))
    whole = isinstance(value, tuple) and len(value) >= least and (most is None or len(value) <= most)
    return whole and all(isinstance(number, int | float) for number in value)


def _true_metadata(text: str, notes: list[str]) -> str:
    try:
        if "<!" in text:
            raise ValueError
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        notes.append("unreadable GDAL metadata left out")
        return ""
    dropped = [item for item in root if item.get("role") not in _ROLES and item.get("name") not in _ITEMS]
    for item in dropped:
        root.remove(item)
    if dropped:
        names = ", ".join(sorted({str(item.get("name")) for item in dropped}))
        notes.append(f"GDAL metadata left out that the result may make false: {names}")
    return ElementTree.tostring(root, encoding="unicode") if len(root) else ""


def with_bands(tags: Mapping[int, Any], bands: Sequence[int]) -> dict[int, Any]:
    """Return the tags for a file of these bands only (counted from 0): GDAL's metadata name bands by number."""
    result = dict(tags)
    if GDAL_METADATA in tags:
        root = ElementTree.fromstring(tags[GDAL_METADATA])
        for item in list(root):
            sample = item.get("sample")
            if sample is not None and sample.isdigit():
                if int(sample) in bands:
                    item.set("sample", str(list(bands).index(int(sample))))
                else:
                    root.remove(item)
        result[GDAL_METADATA] = ElementTree.tostring(root, encoding="unicode")
    return result


def nodata(tags: Mapping[int, Any]) -> float | None:
    """Return GDAL's value for pixels without data, None where the file states none."""
    try:
        return float(str(tags[GDAL_NODATA]).strip("\0 "))
    except (KeyError, ValueError):
        return None
