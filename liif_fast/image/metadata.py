"""EXIF data, resolution and orientation: read so that they are true of another file too, and given to its writer."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from PIL import ExifTags, Image

from liif_fast.errors import one_line
from liif_fast.image.formats import Format
from liif_fast.image.picture import Pixels

# TIFF tags that describe how the old file was laid out, and tags that the orientation and the new size make false.
LAYOUT_TAGS = frozenset(
    (254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 284, 290, 291, 292, 293, 317)
) | frozenset((318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 338, 339, 340, 341, 347, 529, 530, 531, 532, 34675))
_GEOGRAPHIC_TAGS = frozenset((33550, 33922, 34264))  # GeoTIFF's size and place of a pixel
_LONG = 512  # bytes of a value that is worth leaving out by itself
RESOLUTION = (282, 283, 296)  # the tags of x, y and their unit
_PIXEL_DIMENSIONS = (0xA002, 0xA003)
_ORIENTATION = ExifTags.Base.Orientation
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(exif: Image.Exif | None) -> int:
    """1 to 8, 1 (upright) where it says nothing else."""
    value = None if exif is None else exif.get(_ORIENTATION)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(array: Pixels, turn: int) -> Pixels:
    """The array [H, W] or [H, W, C] as the EXIF orientation says."""
    if turn > 4:
        array = array.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array[::-1] if turn in (3, 4, 7, 8) else array


class _Text(str):
    """Text of a file, which Pillow reads as Latin-1, to be written with the bytes that it was read from.

    Pillow alone writes a question mark in place of each byte beyond ASCII: a copyright sign, an accent.
    """

    def encode(self, encoding: str = "latin-1", errors: str = "replace") -> bytes:
        return super().encode("latin-1", "replace")


def kept(exif: Image.Exif, notes: list[str]) -> Image.Exif | None:
    """A copy of the EXIF data that is true of an upright file of another size, None where nothing is left of it."""
    try:
        _load(exif)
        for tag in (LAYOUT_TAGS | _GEOGRAPHIC_TAGS) & set(exif):
            del exif[tag]
        # The copy is a classic TIFF directory also where the file was a BigTIFF.
        exif.bigtiff = False
        copy = Image.Exif()
        copy.load(exif.tobytes())
        _load(copy)
        return copy if len(copy) else None
    # EXIF parsers answer damaged data with errors of any type, and the picture itself is unharmed.
    except Exception as error:
        notes.append(f"unreadable EXIF data dropped ({one_line(error)})")
        return None


def _load(exif: Image.Exif) -> list[MutableMapping[int, Any]]:
    """The directories, read now; by itself Pillow reads them from the file when they are first asked for."""
    found: list[MutableMapping[int, Any]] = [exif]
    found += [exif.get_ifd(tag) for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo) if tag in exif]
    for tags in found:
        for tag, value in list(tags.items()):
            if isinstance(value, str) and not value.isascii():
                tags[tag] = _Text(value)
    return found


def lost(icc: bytes | None, exif: Image.Exif | None, dpi: tuple[float, float] | None, form: Format) -> tuple[str, ...]:
    """What of this a file of the format cannot hold, in a sentence; EXIF data are made to fit."""
    here = {"colour profile": icc, "EXIF data": exif, "resolution": dpi}
    without = [name for name, value in here.items() if value and name not in form.keeps]
    notes = [f"{', '.join(without)} left out, which {form.name} cannot hold"] if without else []
    if exif and "EXIF data" in form.keeps and (names := _shorten(exif, form.exif)):
        notes.append(f"{', '.join(names)} left out: {form.name} has room for {form.exif} bytes of EXIF data")
    return tuple(notes)


def _shorten(exif: Image.Exif, most: int) -> list[str]:
    """Leave out the longest values until so many bytes are enough, or all; the names of what is left out."""
    names: list[str] = []
    directories = _load(exif)
    while len(exif.tobytes()) > most:
        values = [(_length(value), tag, tags) for tags in directories for tag, value in tags.items()]
        length, tag, tags = max(values, key=lambda found: found[0])
        if length < _LONG:
            exif.clear()
            return ["EXIF data"]
        names.append(ExifTags.TAGS.get(tag, f"EXIF tag {tag}"))
        del tags[tag]
    return names


def _length(value: Any) -> int:
    """Bytes, or fewer."""
    return len(value) if isinstance(value, str | bytes | tuple) else 1


def resolution(given: Any) -> tuple[float, float] | None:
    """(x, y) in dots per inch, None for what is none."""
    try:
        x, y = (float(value) for value in given)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None


def stated(x: Any, y: Any, unit: Any) -> tuple[float, float] | None:
    """The resolution in dots per inch by the values of `RESOLUTION`, None where they say nothing of use."""
    inches = {None: 1.0, 2: 1.0, 3: 2.54}.get(unit)
    try:
        return None if inches is None else resolution((x * inches, y * inches))
    except TypeError:
        return None


def resolution_tags(dpi: tuple[float, float]) -> dict[int, Any]:
    """The values of `RESOLUTION` that say (x, y) in dots per inch."""
    return dict(zip(RESOLUTION, (*dpi, 2), strict=True))  # 2: inches


def options(
    icc: bytes | None, exif: Image.Exif | None, dpi: tuple[float, float] | None, size: tuple[int, int]
) -> dict[str, Any]:
    """Pillow's options for saving a picture of (width, height) with what is kept."""
    found: dict[str, Any] = {}
    if icc:
        found["icc_profile"] = icc
    if dpi:
        found["dpi"] = dpi
    if exif:
        details = exif.get_ifd(ExifTags.IFD.Exif)
        for tag, side in zip(_PIXEL_DIMENSIONS, size, strict=True):
            if tag in details:
                details[tag] = side
        found["exif"] = exif
    return found


def directory(exif: Image.Exif | None) -> dict[int, Any]:
    """The tags of EXIF data for a TIFF, with the directories themselves in place of where they lay."""
    if exif is None:
        return {}
    tags = dict(exif)
    for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if tag in tags:
            tags[tag] = dict(exif.get_ifd(tag))
    details = tags.get(ExifTags.IFD.Exif, {})
    if ExifTags.IFD.Interop in details:
        details[ExifTags.IFD.Interop] = dict(exif.get_ifd(ExifTags.IFD.Interop))
    # A directory without tags is none.
    return {tag: value for tag, value in tags.items() if value != {}}
