"""Files to Pillow pictures and back: formats, depth, colour profile, EXIF; a file is written whole or not at all."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError, features

from liif_fast.errors import ImageError
from liif_fast.files import replacing

PathLike = str | os.PathLike[str]


class Format(NamedTuple):
    """How pictures of one suffix are written: Pillow's name, what it can hold, how it is saved."""

    name: str
    alpha: bool = False
    deep: bool = False  # 16-bit gray
    most: int = 2**31 - 1  # pixels on a side
    options: tuple[tuple[str, Any], ...] = ()
    needs: str = ""  # Pillow feature


_JPEG = Format("JPEG", most=65_535, options=(("quality", 95), ("subsampling", 0)))
# Not compressed: with compression Pillow cannot write the EXIF and GPS directories.
_TIFF = Format("TIFF", alpha=True, deep=True, options=(("compression", "raw"),))
FORMATS = {
    ".png": Format("PNG", alpha=True, deep=True),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": Format("WEBP", alpha=True, most=16_383, options=(("quality", 95),), needs="webp"),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".avif": Format("AVIF", alpha=True, most=65_536, options=(("quality", 90),), needs="avif"),
    ".bmp": Format("BMP"),
    ".ppm": Format("PPM"),
    ".zarr": Format("zarr", alpha=True, deep=True),  # written by `liif_fast.streaming`
}

HEADER = 65_536  # bytes of a file in which its depth is looked for
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
# TIFF tags that describe how the old file was laid out, and tags that the orientation and the new size make false.
_LAYOUT_TAGS = frozenset(
    (254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 284, 290, 291, 292, 293, 317)
) | frozenset((318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 338, 339, 340, 341, 347, 529, 530, 531, 532, 34675))
_PIXEL_DIMENSIONS = (0xA002, 0xA003)


class Picture(NamedTuple):
    """A picture as it is upscaled, and what is kept of its file.

    image: mode L, LA, RGB, RGBA, or I;16 for 16-bit gray; upright.
    icc, exif, dpi: as the file had them (exif without orientation and layout), None where it had none.
    notes: what was changed in reading, one sentence each.
    """

    image: Image.Image
    icc: bytes | None = None
    exif: Image.Exif | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def read(path: PathLike, *, trusted: bool = False) -> Picture:
    """The picture in a file.

    trusted: read it however many pixels its header states (Pillow refuses some 179 megapixels and more, since a small
    file can ask for all memory).

    Raises ImageError: no such file, a folder, not readable, empty, damaged, not a picture, or of a kind that would be
    silently reduced (16-bit RGB, floating point).
    """
    path = Path(path)
    if not path.exists():
        raise ImageError(f"{path}: no such file")
    if not path.is_file():
        got = "a folder; name the files in it" if path.is_dir() else "something else"
        raise ImageError(f"{path}: expected a picture file, got {got}")
    with _reading(path, trusted), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with open(path, "rb") as stream:
            start = stream.read(HEADER)
        if not start:
            raise ImageError(f"{path}: expected a picture, got an empty file")
        with Image.open(path) as opened:
            # Pillow would hand the file to another program to draw it.
            if opened.format in ("EPS", "WMF"):
                raise ImageError(f"{path}: expected a picture of pixels, got {opened.format}; draw it at a size first")
            reduced = _reduced_depth(opened, start)
            if reduced:
                raise ImageError(f"{path}: expected 8 bits a channel or 16-bit gray, got {reduced}; convert it first")
            notes = _frames(opened)
            opened.load()
            exif = _upright(opened, notes)
            dpi = _dpi(opened)
            icc = opened.info.get("icc_profile")
            image, changes = plain(opened)
            # A profile of other colour channels would misread the converted ones.
            if opened.mode in ("CMYK", "LAB", "YCbCr"):
                icc = None
    notes += changes + [f"warning while reading: {_line(warning.message)}" for warning in caught]
    return Picture(image, icc, exif, dpi, tuple(notes))


def plain(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """The picture in mode L, LA, RGB, RGBA or I;16, and what was changed; ImageError for what would lose by it."""
    mode = image.mode
    if mode in DEEP_MODES:
        # A transparent gray level has no alpha channel of 16 bits to become.
        if "transparency" in image.info:
            raise ImageError("expected 16-bit gray, got a transparent colour with it; convert it to 8 bits first")
        return (image, []) if mode == "I;16" else (Image.fromarray(np.asarray(image).astype(np.uint16)), [])
    if mode == "I":
        return _sixteen_bit(image), []
    if mode == "F":
        raise ImageError("expected 8 or 16 bits a channel, got a floating-point picture; scale it to 16 bits first")
    clear = "transparency" in image.info
    if mode in ("L", "RGB"):
        return (image.convert("LA" if mode == "L" else "RGBA"), []) if clear else (image, [])
    if mode in ("LA", "RGBA"):
        return image, []
    if mode == "1":
        return image.convert("L"), ["black and white converted to gray"]
    if mode in ("P", "PA"):
        return image.convert("RGBA" if clear or mode == "PA" else "RGB"), ["palette converted to RGB"]
    if mode in ("CMYK", "LAB"):
        return _by_profile(image), [f"{mode} converted to sRGB"]
    into = {"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
    return image.convert(into), [f"{mode} converted to {into}"]


def format_of(path: PathLike) -> Format:
    """How a file of this name is written, or ImageError for a suffix that cannot be."""
    suffix = Path(path).suffix.lower()
    known = [name for name, form in FORMATS.items() if not form.needs or features.check(form.needs)]
    if suffix not in known:
        raise ImageError(
            f"{path}: expected a name that ends in one of {', '.join(known)}, got {suffix or 'no suffix'!r}"
        )
    return FORMATS[suffix]


def check_fits(path: PathLike, mode: str, size: tuple[int, int]) -> None:
    """ImageError unless a file of this name can hold a picture of this mode and (width, height)."""
    form = format_of(path)
    lost = "transparency" if mode in ("LA", "RGBA") and not form.alpha else ""
    lost = "16 bits" if mode in DEEP_MODES and not form.deep else lost
    if lost:
        raise ImageError(f"{path}: {form.name} cannot keep the picture's {lost}; write .png or .tif")
    if max(size) > form.most:
        raise ImageError(
            f"{path}: expected at most {form.most} pixels on a side for {form.name}, got {size[0]} x {size[1]}; "
            "write .png or .tif"
        )


def write(image: Image.Image, path: PathLike, like: Picture | None = None) -> None:
    """Write a picture under its final name only when it is complete; like gives the metadata to keep.

    Raises ImageError when the format cannot hold it or the file cannot be written; an existing file is replaced.
    """
    path = Path(path)
    check_fits(path, image.mode, image.size)
    form = FORMATS[path.suffix.lower()]
    options: dict[str, Any] = dict(form.options)
    if like is not None:
        options |= _metadata(like, image.size)
    try:
        with replacing(path) as temporary:
            image.save(temporary, format=form.name, **options)
    # Encoders, like decoders, raise errors of any type.
    except Exception as error:
        raise ImageError(f"{path}: cannot be written: {_line(error)}") from error


def _metadata(like: Picture, size: tuple[int, int]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if like.icc:
        options["icc_profile"] = like.icc
    if like.dpi:
        options["dpi"] = like.dpi
    if like.exif:
        details = like.exif.get_ifd(ExifTags.IFD.Exif)
        for tag, side in zip(_PIXEL_DIMENSIONS, size, strict=True):
            if tag in details:
                details[tag] = side
        options["exif"] = like.exif
    return options


@contextmanager
def _reading(path: Path, trusted: bool) -> Iterator[None]:
    """Whatever goes wrong inside becomes an ImageError of one line; Pillow's limit is off for trusted files."""
    limit = Image.MAX_IMAGE_PIXELS
    if trusted:
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    except ImageError as error:
        text = str(error)
        raise (error if text.startswith(str(path)) else ImageError(f"{path}: {text}")) from error.__cause__
    except Image.DecompressionBombError:
        raise ImageError(
            f"{path}: expected a picture below Pillow's safety limit of {2 * (limit or 0) / 1e6:.0f} megapixels, got "
            "more; pass --force (trusted=True in Python) if you know where it comes from"
        ) from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: expected a picture, got something that Pillow does not know") from None
    except PermissionError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    except MemoryError:
        raise ImageError(f"{path}: the picture does not fit into memory") from None
    # Decoders answer damaged files with errors of any type.
    except Exception as error:
        raise ImageError(f"{path}: expected a picture, got a damaged or unknown file ({_line(error)})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _reduced_depth(image: Image.Image, start: bytes) -> str:
    """What Pillow would silently make 8 bits of, or an empty text."""
    if image.mode in ("F", *DEEP_MODES) or image.mode.startswith("I"):
        return ""
    tiles = getattr(image, "tile", [])
    deep = any(";16" in str(tile[3]) for tile in tiles)
    if image.format == "PPM":
        deep = any(tile[0].startswith("ppm") and tile[3][-1] > 255 for tile in tiles)
    elif image.format == "JPEG2000":
        # The SIZ marker behind the codestream's first: its 39th byte is the depth of the first component.
        at = start.find(b"\xff\x4f\xff\x51")
        deep = 0 <= at < len(start) - 42 and (start[at + 42] & 0x7F) > 7
    elif image.format == "AVIF":
        at = start.find(b"av1C")
        deep = 0 <= at < len(start) - 6 and bool(start[at + 6] & 0x40)
    return f"more than 8 bits a channel of {image.mode}" if deep else ""


def _frames(image: Image.Image) -> list[str]:
    count = getattr(image, "n_frames", 1)
    return [f"only the first of {count} frames is used"] if count > 1 else []


def _upright(image: Image.Image, notes: list[str]) -> Image.Exif | None:
    """Apply the orientation in place; a copy of the EXIF data that is true of another file too, None without any."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
        exif = image.getexif()
        # Loaded now: the directories are read from the file when they are first asked for.
        for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            if directory in exif:
                exif.get_ifd(directory)
        for tag in _LAYOUT_TAGS & set(exif):
            del exif[tag]
        kept = Image.Exif()
        kept.load(exif.tobytes())
        return kept if len(kept) else None
    # EXIF parsers answer damaged data with errors of any type, and the picture itself is unharmed.
    except Exception as error:
        notes.append(f"unreadable EXIF data dropped ({_line(error)})")
        return None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None


def _sixteen_bit(image: Image.Image) -> Image.Image:
    array = np.asarray(image)
    if array.size and (array.min() < 0 or array.max() > 65535):
        raise ImageError(f"expected at most 16 bits a channel, got values from {array.min()} to {array.max()}")
    return Image.fromarray(array.astype(np.uint16))


def _by_profile(image: Image.Image) -> Image.Image:
    """CMYK or LAB as sRGB: by the picture's own profile where it has a usable one, else by the plain formula."""
    profile = image.info.get("icc_profile")
    try:
        if image.mode == "LAB":
            source: Any = ImageCms.createProfile("LAB")
        elif profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        else:
            return image.convert("RGB")
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        assert converted is not None
        return converted
    except ImageCms.PyCMSError as error:
        if image.mode == "LAB":
            raise ImageError(
                f"expected RGB, gray, palette or CMYK, got LAB that cannot be converted ({error})"
            ) from error
        return image.convert("RGB")


def _line(error: object) -> str:
    """What a library says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
