"""EXIF data, resolution and orientation: read so that they are true of another file too, and given to its writer."""

from __future__ import annotations

from typing import Any

from PIL import ExifTags, Image

from liif_fast.image.picture import Picture, Pixels

# TIFF tags that describe how the old file was laid out, and tags that the orientation and the new size make false.
_LAYOUT_TAGS = frozenset(
    (254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 284, 290, 291, 292, 293, 317)
) | frozenset((318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 338, 339, 340, 341, 347, 529, 530, 531, 532, 34675))
_GEOGRAPHIC_TAGS = frozenset((33550, 33922, 34264))  # GeoTIFF's size and place of a pixel
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


def line(error: object) -> str:
    """What a library says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


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


def kept(exif: Image.Exif, notes: list[str]) -> Image.Exif | None:
    """A copy of the EXIF data that is true of an upright file of another size, None where nothing is left of it."""
    try:
        # Loaded now: the directories are read from the file when they are first asked for.
        for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            if directory in exif:
                exif.get_ifd(directory)
        for tag in (_LAYOUT_TAGS | _GEOGRAPHIC_TAGS) & set(exif):
            del exif[tag]
        # The copy is a classic TIFF directory also where the file was a BigTIFF.
        exif.bigtiff = False
        copy = Image.Exif()
        copy.load(exif.tobytes())
        return copy if len(copy) else None
    # EXIF parsers answer damaged data with errors of any type, and the picture itself is unharmed.
    except Exception as error:
        notes.append(f"unreadable EXIF data dropped ({line(error)})")
        return None


def resolution(given: Any) -> tuple[float, float] | None:
    """(x, y) in dots per inch, None for what is none."""
    try:
        x, y = (float(value) for value in given)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None


def options(like: Picture, size: tuple[int, int]) -> dict[str, Any]:
    """Pillow's options for saving a picture of (width, height) with what is kept."""
    found: dict[str, Any] = {}
    if like.icc:
        found["icc_profile"] = like.icc
    if like.dpi:
        found["dpi"] = like.dpi
    if like.exif:
        details = like.exif.get_ifd(ExifTags.IFD.Exif)
        for tag, side in zip(_PIXEL_DIMENSIONS, size, strict=True):
            if tag in details:
                details[tag] = side
        found["exif"] = like.exif
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
    return tags
