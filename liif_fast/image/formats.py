"""Which suffix is written how, and what it can hold."""

from __future__ import annotations

import os
import zlib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, features

from liif_fast.errors import ImageError

PathLike = str | os.PathLike[str]

DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's 16-bit gray
# What Pillow has no mode for is an array of uint16 or floating values: the modes of these, by the number of channels.
DEEP_ARRAYS = {1: "I;16", 2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}
SHALLOW_ARRAYS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
FLOAT_ARRAYS = {1: "L;F", 2: "LA;F", 3: "RGB;F", 4: "RGBA;F"}
_COMMON = ("colour profile", "EXIF data", "resolution")
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Format(NamedTuple):
    """How pictures of one suffix are written: Pillow's name, what it can hold, how it is saved."""

    name: str
    alpha: bool = False
    deep: bool = False  # 16 bits a channel
    any_type: bool = False  # floating-point values, signed integers and those of 32 bits; any number of bands
    most: int = 2**31 - 1  # pixels on a side
    keeps: tuple[str, ...] = _COMMON  # beside the pixels
    exif: int = 2**31 - 1  # bytes of EXIF data
    dpi_in_exif: bool = False  # it has no other place for the resolution
    options: tuple[tuple[str, Any], ...] = ()
    lossless: tuple[tuple[str, Any], ...] = ()  # in place of `options` where the source loses nothing
    needs: str = ""  # Pillow's feature
    extra: str = ""  # of this package, and the module behind it
    module: str = ""
    moving: bool = False  # it holds animations

    def missing(self) -> bool:
        """Whether it cannot be written here."""
        if self.module:
            return find_spec(self.module) is None
        return bool(self.needs) and not features.check(self.needs)


_JPEG = Format(
    "JPEG",
    most=65_500,
    exif=65_533,
    keeps=(*_COMMON, "XMP data", "IPTC data", "comment"),
    options=(("quality", 95), ("subsampling", 0)),
)
# Runs only, at zlib's fastest level: a quarter of the time of level 6 and photographs up to 7 % larger.
_PNG = Format(
    "PNG",
    alpha=True,
    deep=True,
    keeps=(*_COMMON, "XMP data", "comment", "texts", "gamma and chromaticities", "colour coding"),
    options=(("compress_level", 1), ("compress_type", zlib.Z_RLE)),
    moving=True,
)
_TIFF = Format(
    "TIFF",
    alpha=True,
    deep=True,
    any_type=True,
    keeps=(*_COMMON, "XMP data", "IPTC data", "place on the ground", "GDAL's tags"),
)
_JPEG2000 = Format("JPEG2000", alpha=True, keeps=("colour profile",), needs="jpg_2000")
FORMATS = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": Format(
        "WEBP",
        alpha=True,
        most=16_383,
        keeps=(*_COMMON, "XMP data"),
        options=(("quality", 95),),
        lossless=(("lossless", True), ("exact", True)),
        needs="webp",
        dpi_in_exif=True,
        moving=True,
    ),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".avif": Format(
        "AVIF",
        alpha=True,
        most=65_536,
        keeps=(*_COMMON, "XMP data", "colour coding"),
        options=(("quality", 90),),
        needs="avif",
        dpi_in_exif=True,
        moving=True,
    ),
    ".jp2": _JPEG2000,
    ".j2k": _JPEG2000._replace(keeps=()),
    ".jxl": Format(
        "JXL",
        alpha=True,
        keeps=(*_COMMON, "XMP data"),
        options=(("quality", 95),),
        extra="jxl",
        module="pillow_jxl",
        dpi_in_exif=True,
    ),
    ".heic": Format(
        "HEIF",
        alpha=True,
        most=16_383,
        keeps=(*_COMMON, "XMP data"),
        options=(("quality", 90),),
        extra="heif",
        module="pillow_heif",
        dpi_in_exif=True,
    ),
    ".gif": Format("GIF", alpha=True, most=65_535, keeps=("comment",), moving=True),
    ".apng": _PNG,
    ".bmp": Format("BMP", keeps=("resolution",)),
    ".ppm": Format("PPM", keeps=()),
    # Written by `liif_fast.batch.streaming`.
    ".zarr": Format("zarr", alpha=True, deep=True, any_type=True, keeps=("colour profile",)),
}
# Phones call a JPEG with a second picture behind it so.
_VARIANTS = {"MPO": "JPEG"}


def format_of(path: PathLike) -> Format:
    """Return how a file of this name is written; ImageError for a suffix that cannot be."""
    suffix = Path(path).suffix.lower()
    known = [name for name, form in FORMATS.items() if not form.missing()]
    form = FORMATS.get(suffix)
    if form is not None and form.module and form.missing():
        package = form.module.replace("_", "-")
        raise ImageError(f"{path}: writing {form.name} needs {package}: pip install 'liif_fast[{form.extra}]'")
    if suffix not in known:
        raise ImageError(
            f"{path}: expected a name that ends in one of {', '.join(known)}, got {suffix or 'no suffix'!r}"
        )
    return FORMATS[suffix]


def suffix_of(path: PathLike) -> str:
    """Return the suffix for a result in the format of the picture in this file; .png where that cannot be written.

    A GIF that does not move becomes .png, which keeps all colours.
    """
    try:
        with open(path, "rb") as stream:
            if stream.read(4) in TIFF_STARTS:
                return ".tif"
        with Image.open(path) as opened:
            name = _VARIANTS.get(str(opened.format), opened.format)
            if name == "GIF" and not getattr(opened, "is_animated", False):
                return ".png"
    # As in `read`, which will say what is wrong.
    except Exception:
        return ".png"
    return next((suffix for suffix, form in FORMATS.items() if form.name == name), ".png")


def path_that_fits(path: PathLike, mode: str) -> Path:
    """Return the path, or one beside it that ends in .png (.tif) where its format would lose the transparency.

    Raises ImageError where that other file exists: nobody asked to replace it.
    """
    path, form = Path(path), format_of(path)
    if form.alpha or not _has_alpha(mode):
        return path
    other = path.with_suffix(".tif" if _kind(mode) in ("F", "I", "bands") else ".png")
    if other.exists():
        raise ImageError(
            f"{path}: {form.name} cannot keep the picture's transparency, and {other} exists already; "
            "name another output"
        )
    return other


def check_fits(path: PathLike, mode: str, size: tuple[int, int]) -> None:
    """ImageError unless a file of this name can hold a picture of this mode and (width, height)."""
    form = format_of(path)
    lost, better = "", ".png or .tif"
    if _has_alpha(mode) and not form.alpha:
        lost = "transparency"
    kind = _kind(mode)
    if kind == "16" and not form.deep:
        lost = "16 bits"
    if kind in _TIFF_ONLY and not form.any_type:
        lost, better = _TIFF_ONLY[kind], ".tif"
    if lost:
        raise ImageError(f"{path}: {form.name} cannot keep the picture's {lost}; write {better}")
    if max(size) > form.most:
        raise ImageError(
            f"{path}: expected at most {form.most} pixels on a side for {form.name}, got {size[0]} x {size[1]}; "
            "write .png or .tif"
        )
    if form.name == "PNG" and mode in DEEP_ARRAYS.values() and mode not in DEEP_MODES:
        extra("imagecodecs", f"{path}: a PNG of 16 bits and more than one channel")


def extra(module: str, what: str, name: str = "formats") -> Any:
    """Return a module of the extra of this name; ImageError says how to have it where it is missing."""
    try:
        return import_module(module)
    except ImportError:
        raise ImageError(f"{what} needs {module}: pip install 'liif_fast[{name}]'") from None


_TIFF_ONLY = {"F": "floating-point values", "I": "signed or 32-bit integers", "bands": "bands"}


def _kind(mode: str) -> str:
    """Return what a mode asks of a format: "" for 8 bits, "16", "F" (floating), "I" (other integers), "bands"."""
    if "+" in mode:
        return "bands"
    return "16" if mode in DEEP_MODES else mode.partition(";")[2]


def _has_alpha(mode: str) -> bool:
    return mode.partition("+")[0].partition(";")[0] in ("LA", "RGBA")
