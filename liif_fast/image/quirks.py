"""What Pillow alone would get wrong or reduce without a word, by kind of file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from PIL import Image
from PIL import TiffImagePlugin as Tiff
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import TiffImageFile

from liif_fast.errors import ImageError
from liif_fast.image import kinds, tags
from liif_fast.image.formats import DEEP_MODES

_RAW_SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".k25", ".kdc", ".mef", ".mos", ".mrw"),
    *(".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
_PALETTE, _CMYK, _YCBCR, _LAB = 3, 5, 6, 8
# Channels that Pillow reads of each photometric interpretation, and with alpha behind them.
_CHANNELS = {0: (1,), 1: (1, 2), 2: (3, 4), _PALETTE: (1,), _CMYK: (4,), _YCBCR: (3,), _LAB: (3,)}


def check(opened: Image.Image, path: Path, start: bytes) -> None:
    """ImageError for a file whose pixels as Pillow has them are not the picture."""
    name = opened.format
    # Pillow would hand the file to another program to draw it.
    if name in ("EPS", "WMF"):
        raise ImageError(f"{path}: expected a picture of pixels, got {name}; draw it at a size first")
    if name == "TIFF" and is_raw(opened, path):
        raise ImageError(f"{path}: expected a picture, {kinds.RAW.reason}")
    if name == "DDS" and any("BC6" in str(tile) for tile in getattr(opened, "tile", ())):
        raise ImageError(f"{path}: expected 8 bits a channel, got a DDS of half-float values; convert it to TIFF first")
    if name == "PSD" and _has_merged_picture(start) is False:
        raise ImageError(
            f"{path}: expected a picture of all layers, got a PSD without one; save it with Maximize Compatibility"
        )
    reduced = reduced_depth(opened, start)
    if reduced and name not in ("PNG", "TIFF"):
        raise ImageError(f"{path}: expected 8 bits a channel or 16-bit gray, got {reduced}; convert it first")


def is_raw(opened: Image.Image, path: Path) -> bool:
    """Say whether a TIFF is a raw photograph, whose first picture as a rule is a thumbnail."""
    directory: Any = getattr(opened, "tag_v2", {})
    kinds = (tags.COLOUR_FILTER_ARRAY, tags.LINEAR_RAW)
    raw = tags.DNG_VERSION in directory or directory.get(Tiff.PHOTOMETRIC_INTERPRETATION) in kinds
    return raw or path.suffix.lower() in _RAW_SUFFIXES


def needs_tifffile(opened: TiffImageFile) -> bool:
    """Say whether Pillow would take the samples of a TIFF for others, or only a part of them."""
    directory = opened.tag_v2
    bits = _several(directory.get(Tiff.BITSPERSAMPLE, 1))
    formats = set(_several(directory.get(Tiff.SAMPLEFORMAT, 1)))
    channels = directory.get(Tiff.SAMPLESPERPIXEL, 1)
    kind = directory.get(Tiff.PHOTOMETRIC_INTERPRETATION, 0)
    extras = _several(directory.get(Tiff.EXTRASAMPLES, ()))
    if directory.get(Base.NewSubfileType, 0) & (tags.REDUCED | tags.MASK):
        return True
    if max(bits) > 8 or formats - {1, 4}:
        # Pillow has one channel of 16 and 32 bits.
        return channels > 1 or not formats <= {1, 3} or (max(bits) > 16 and formats <= {1})
    if kind not in _CHANNELS:
        return False
    if channels not in _CHANNELS[kind]:
        # Four channels of a gray picture, a fifth of a coloured one: Pillow drops what it has no mode for.
        return kind in (0, 1, 2)
    unspecified = bool(extras) and extras[0] not in (1, 2)
    planes = directory.get(Tiff.PLANAR_CONFIGURATION, 1) == 2
    return kind in (1, 2) and channels in (2, 4) and (unspecified or planes)


def _several(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def mended(opened: Image.Image, start: bytes, notes: list[str]) -> Image.Image:
    """Return the loaded picture with what Pillow takes for something else put right."""
    if isinstance(opened, TiffImageFile) and opened.mode == "P":
        colours = opened.tag_v2.get(Tiff.COLORMAP, ())
        if colours and max(colours) <= 255:
            # Written with 8 bits, where TIFF wants 16: libtiff too takes it so.
            count = len(colours) // 3
            opened.putpalette(bytes(colours[k * count + i] for i in range(count) for k in range(3)))
    if opened.format == "PSD" and opened.mode in ("RGBA", "LA") and not _has_transparency(start):
        notes.append("a stored selection left out")
        return opened.convert("RGB" if opened.mode == "RGBA" else "L")
    if opened.format == "AVIF" and (box := clean_aperture(opened.size, start)):
        return opened.crop(box)
    return opened


def clean_aperture(size: tuple[int, int], start: bytes) -> tuple[int, int, int, int] | None:
    """Return (left, upper, right, lower) of what an AVIF shows of its pixels, None where that is all of them."""
    at = start.find(b"clap")
    if at < 0 or at + 36 > len(start) or start.find(b"clap", at + 1) >= 0:
        return None
    values = struct.unpack(">4i4i", start[at + 4 : at + 36])
    if 0 in values[1::2]:
        return None
    width, height, x, y = (values[k] / values[k + 1] for k in range(0, 8, 2))
    left, top = (size[0] - width) / 2 + x, (size[1] - height) / 2 + y
    box = left, top, left + width, top + height
    whole = all(value == int(value) for value in box)
    inside = 0 <= left < left + width <= size[0] and 0 <= top < top + height <= size[1]
    return (int(left), int(top), int(box[2]), int(box[3])) if whole and inside else None


def reduced_depth(image: Image.Image, start: bytes) -> str:
    """Say what Pillow would silently make 8 bits of; an empty text where it does not."""
    if image.mode in ("F", *DEEP_MODES) or image.mode.startswith("I"):
        return ""
    tiles = getattr(image, "tile", [])
    more = any(";16" in str(tile[3]) for tile in tiles)
    if isinstance(image, TiffImageFile):
        # Of separate planes Pillow would take the bytes of a channel for pixels.
        more = max(_several(image.tag_v2.get(Tiff.BITSPERSAMPLE, 1))) > 8
    elif image.format == "PPM":
        more = any(tile[0].startswith("ppm") and isinstance(tile[3][-1], int) and tile[3][-1] > 255 for tile in tiles)
    elif image.format == "JPEG2000":
        # The SIZ marker behind the codestream's first: its 39th byte is the depth of the first component.
        at = start.find(b"\xff\x4f\xff\x51")
        more = 0 <= at < len(start) - 42 and (start[at + 42] & 0x7F) > 7
    elif image.format == "AVIF":
        at = start.find(b"av1C")
        more = 0 <= at < len(start) - 6 and bool(start[at + 6] & 0x40)
    return f"more than 8 bits a channel of {image.mode}" if more else ""


# -- Photoshop's sections -------------------------------------------------------------------------------------------


def _sections(start: bytes) -> tuple[bytes, bytes]:
    """Return (image resources, the beginning of the layers) of a PSD, as far as `start` reaches."""
    at = 26
    found = []
    for _ in range(2):
        length = int.from_bytes(start[at : at + 4], "big")
        found.append(start[at + 4 : at + 4 + length])
        at += 4 + length
    return found[1], start[at : at + 64]


def _has_transparency(start: bytes) -> bool:
    """Say whether the fourth channel of a PSD is its transparency: then the number of layers is stated as negative."""
    _, layers = _sections(start)
    if len(layers) < 10:
        # The resources are longer than what was looked at.
        return False
    length = int.from_bytes(layers[4:8], "big")
    return length > 0 and struct.unpack(">h", layers[8:10])[0] < 0


def _has_merged_picture(start: bytes) -> bool | None:
    """Return what a PSD says of its merged picture (in its version resource), None where it says nothing."""
    resources, _ = _sections(start)
    at = 0
    while at + 12 <= len(resources) and resources[at : at + 4] == b"8BIM":
        number = int.from_bytes(resources[at + 4 : at + 6], "big")
        name = resources[at + 6] + 1
        name += name % 2
        length = int.from_bytes(resources[at + 6 + name : at + 10 + name], "big")
        data = at + 10 + name
        if number == 1057 and data + 5 <= len(resources):
            return bool(resources[data + 4])
        at = data + length + length % 2
    return None
