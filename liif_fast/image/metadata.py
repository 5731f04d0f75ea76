"""What is kept of a file beside its pixels: only what is known to stay true of an upright picture of another size."""

from __future__ import annotations

import struct
from collections.abc import Mapping, MutableMapping
from typing import Any

from PIL import ExifTags, Image, TiffTags
from PIL import TiffImagePlugin as Tiff

from liif_fast.errors import one_line
from liif_fast.image import geotiff, tags, xmp
from liif_fast.image.extras import Extras
from liif_fast.image.formats import Format
from liif_fast.image.values import Pixels

_LONG = 512  # bytes of a value that is worth leaving out by itself
_NAMED = 6  # names that one note lists
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_XMP_TEXT = "XML:com.adobe.xmp"
# Texts of a PNG that other programs copy from a file's header or keep for its thumbnail.
_FALSE_TEXTS = ("png:", "exif:", "tiff:", "icc:", "jpeg:", "Thumb::", "Raw profile type ")
_IPTC_RESOURCE = 0x0404  # of Photoshop's image resources
_GAIN_MAPS = (b"hdrgm:Version", b"urn:iso:std:iso:ts:21496:-1", b"apple.com/2020/photo/hdrgainmap", b"HDRGainMap")
# How other programs describe all pages of a TIFF in its first one.
_SERIES = ("ImageJ=", '{"shape"', "<?xml", "<OME")


def orientation(exif: Image.Exif | None) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) where none is stated."""
    value = None if exif is None else exif.get(ExifTags.Base.Orientation)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(array: Pixels, turn: int) -> Pixels:
    """Return the array [H, W] or [H, W, C] turned as the EXIF orientation says."""
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


# -- EXIF data ------------------------------------------------------------------------------------------------------


_DIRECTORIES = {ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop}


def kept(exif: Image.Exif, notes: list[str]) -> Image.Exif | None:
    """Return a copy of the EXIF data with what stays true only; None where nothing is left."""
    try:
        directories = _load(exif)
        dropped = _drop_false(directories, notes)
        # The copy is a classic TIFF directory also where the file was a BigTIFF.
        exif.bigtiff = False
        copy = Image.Exif()
        copy.load(exif.tobytes())
        # A directory that is named and holds nothing is nothing left.
        is_empty = not any(set(directory) - _DIRECTORIES for directory in _load(copy).values())
    # EXIF parsers answer damaged data with errors of any type, and the picture itself is unharmed.
    except Exception as error:
        notes.append(f"unreadable EXIF data dropped ({one_line(error)})")
        return None
    if dropped:
        more = f" and {len(dropped) - _NAMED} more" if len(dropped) > _NAMED else ""
        notes.append(f"left out, as the result may make it false: {', '.join(dropped[:_NAMED])}{more}")
    return None if is_empty else copy


def _load(exif: Image.Exif) -> dict[int, MutableMapping[int, Any]]:
    """Return the directories by their tags (0 for the main one), read now and not when they are asked for."""
    found: dict[int, MutableMapping[int, Any]] = {0: exif}
    found |= {tag: exif.get_ifd(tag) for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo) if tag in exif}
    for directory in found.values():
        for tag, value in list(directory.items()):
            if isinstance(value, str) and not value.isascii():
                directory[tag] = _Text(value)
    return found


def _drop_false(directories: Mapping[int, MutableMapping[int, Any]], notes: list[str]) -> list[str]:
    """Delete what is not known to stay true; return the names of what is worth a word."""
    dropped = []
    description = directories[0].get(Tiff.IMAGEDESCRIPTION)
    if isinstance(description, str) and description.lstrip("\ufeff ").startswith(_SERIES):
        # `series` describes the result in the same way where it can.
        del directories[0][Tiff.IMAGEDESCRIPTION]
    for group, directory in directories.items():
        for tag in set(directory) - tags.TRUE[group]:
            del directory[tag]
            if tag not in tags.LAYOUT | tags.CARRIED and not (group and tag == ExifTags.IFD.Interop):
                names = ExifTags.GPSTAGS if group == ExifTags.IFD.GPSInfo else ExifTags.TAGS
                dropped.append(names.get(tag) or TiffTags.lookup(tag).name)
    return sorted(f"tag {name}" if str(name).isdigit() else str(name) for name in dropped)


# -- all else -------------------------------------------------------------------------------------------------------


def extras_of(opened: Image.Image, start: bytes, notes: list[str]) -> Extras:
    """Return what an open picture says in places of its own beside EXIF data, as far as it stays true.

    start: the beginning of the file.
    """
    info = opened.info
    packet = info.get("xmp")
    if packet is None and isinstance(info.get(_XMP_TEXT), str):
        packet = info[_XMP_TEXT].encode()
    texts = _true_texts(getattr(opened, "text", {}) if opened.format == "PNG" else {}, notes)
    directory = getattr(opened, "tag_v2", {}) if opened.format == "TIFF" else {}
    resources = info.get("photoshop")
    iptc = resources.get(_IPTC_RESOURCE) if isinstance(resources, dict) else None
    comment = info.get("comment") if opened.format in ("JPEG", "MPO", "GIF") else None
    if any(sign in start for sign in _GAIN_MAPS):
        notes.append("HDR gain map left out; the result has the standard range")
    carried = {tag: directory[tag] for tag in directory if tag in tags.CARRIED}
    if isinstance(iptc, bytes):
        carried[Tiff.IPTC_NAA_CHUNK] = iptc
    packet = packet if isinstance(packet, bytes) else None
    return extras_of_tags(carried, notes, packet)._replace(
        comment=comment.encode("latin-1", "replace") if isinstance(comment, str) else comment,
        texts=texts,
        gamma=info.get("gamma"),
        chromaticity=info.get("chromaticity"),
        coding=_colour_coding(opened, start),
        lossless=opened.format == "WEBP" and _is_lossless(start),
        loop=info.get("loop"),
    )


def extras_of_tags(directory: Mapping[int, Any], notes: list[str], packet: bytes | None = None) -> Extras:
    """Return what the carried tags of a TIFF say, as far as it stays true."""
    packet = directory.get(Tiff.XMP, packet)
    iptc = directory.get(Tiff.IPTC_NAA_CHUNK)
    if isinstance(iptc, tuple) and all(isinstance(value, int) for value in iptc):
        # Written as numbers of 4 bytes by some programs.
        iptc = struct.pack(f"<{len(iptc)}L", *iptc) if max(iptc, default=0) > 255 else bytes(iptc)
    packet = bytes(packet) if isinstance(packet, tuple) else packet
    return Extras(
        xmp=xmp.kept(packet, notes) if isinstance(packet, bytes) and packet else None,
        iptc=iptc if isinstance(iptc, bytes) and iptc else None,
        geo=geotiff.kept(directory, notes),
    )


def _true_texts(texts: Mapping[str, str], notes: list[str]) -> tuple[tuple[str, str], ...]:
    found = {key: value for key, value in texts.items() if key != _XMP_TEXT}
    dropped = sorted(key for key in found if key.startswith(_FALSE_TEXTS))
    if dropped:
        notes.append(f"texts left out that the result makes false: {', '.join(dropped[:_NAMED])}")
    return tuple((key, value) for key, value in found.items() if key not in dropped)


def _colour_coding(opened: Image.Image, start: bytes) -> tuple[int, int, int, int] | None:
    """Return the code points of colour (H.273: primaries, transfer, matrix, full range) of a PNG or an AVIF."""
    if opened.format == "PNG":
        at = start.find(b"cICP", 0, max(0, start.find(b"IDAT")))
        whole = 0 <= at < len(start) - 8
        return (start[at + 4], start[at + 5], start[at + 6], start[at + 7]) if whole else None
    if opened.format == "AVIF":
        at = start.find(b"colrnclx")
        if 0 <= at < len(start) - 15:
            primaries, transfer, matrix = struct.unpack(">3H", start[at + 8 : at + 14])
            # Wider numbers than there are code points.
            known = max(primaries, transfer, matrix) < 256
            return (primaries, transfer, matrix, start[at + 14] >> 7) if known else None
    return None


def _is_lossless(start: bytes) -> bool:
    return start[12:16] == b"VP8L" or (start[12:16] == b"VP8X" and b"VP8L" in start and b"VP8 " not in start)


# -- what a format can hold -----------------------------------------------------------------------------------------


def notes_on_dropped(
    icc: bytes | None,
    exif: Image.Exif | None,
    dpi: tuple[float, float] | None,
    form: Format,
    extras: Extras | None = None,
) -> tuple[str, ...]:
    """Say in sentences what of this a file of the format cannot hold; EXIF data are made to fit."""
    here: dict[str, Any] = {"colour profile": icc, "EXIF data": exif, "resolution": dpi}
    here |= {} if extras is None else extras.named()
    without = [name for name, value in here.items() if value and name not in form.keeps]
    notes = [f"{', '.join(without)} left out, which {form.name} cannot hold"] if without else []
    if exif and "EXIF data" in form.keeps and (names := _shorten(exif, form.exif)):
        notes.append(f"{', '.join(names)} left out: {form.name} has room for {form.exif} bytes of EXIF data")
    return tuple(notes)


def _shorten(exif: Image.Exif, most: int) -> list[str]:
    """Leave out the longest values until so many bytes are enough, or all; return the names of what is left out."""
    names: list[str] = []
    directories = _load(exif).values()
    while len(exif.tobytes()) > most:
        values = [(_length(value), tag, directory) for directory in directories for tag, value in directory.items()]
        length, tag, directory = max(values, key=lambda found: found[0])
        if length < _LONG:
            exif.clear()
            return ["EXIF data"]
        names.append(ExifTags.TAGS.get(tag, f"EXIF tag {tag}"))
        del directory[tag]
    return names


def _length(value: Any) -> int:
    """Return the bytes of a value, or fewer."""
    return len(value) if isinstance(value, str | bytes | tuple) else 1


# -- resolution -----------------------------------------------------------------------------------------------------


def resolution(given: Any) -> tuple[float, float] | None:
    """Return (x, y) in dots per inch, None for what is no resolution."""
    try:
        x, y = (float(value) for value in given)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None


def stated(x: Any, y: Any, unit: Any) -> tuple[float, float] | None:
    """Return the resolution in dots per inch by the values of `tags.RESOLUTION`, None where they say nothing of use."""
    inches = {None: 1.0, 2: 1.0, 3: 2.54}.get(unit)
    try:
        return None if inches is None else resolution((x * inches, y * inches))
    except TypeError:
        return None


def turned(dpi: tuple[float, float] | None, turn: int) -> tuple[float, float] | None:
    """Return the resolution of the upright picture: x and y change places with its sides."""
    return (dpi[1], dpi[0]) if dpi is not None and turn > 4 else dpi


def resolution_tags(dpi: tuple[float, float]) -> dict[int, Any]:
    """Return the values of `tags.RESOLUTION` for (x, y) in dots per inch."""
    return dict(zip(tags.RESOLUTION, (*dpi, 2), strict=True))  # 2: inches


# -- for writers ----------------------------------------------------------------------------------------------------


def options(
    icc: bytes | None,
    exif: Image.Exif | None,
    dpi: tuple[float, float] | None,
    size: tuple[int, int],
    extras: Extras | None = None,
) -> dict[str, Any]:
    """Return what a writer saves with a picture of (width, height), by Pillow's names where it has one."""
    found: dict[str, Any] = {}
    if icc:
        found["icc_profile"] = icc
    if dpi:
        found["dpi"] = dpi
    if exif:
        details = exif.get_ifd(ExifTags.IFD.Exif)
        for tag, side in zip(tags.PIXEL_DIMENSIONS, size, strict=True):
            if tag in details:
                details[tag] = side
        found["exif"] = exif
    if extras is not None:
        found |= {name: value for name, value in extras._asdict().items() if value}
    return found


def directory(exif: Image.Exif | None) -> dict[int, Any]:
    """Return the tags of EXIF data for a TIFF, with the directories themselves in place of where they lay."""
    if exif is None:
        return {}
    found = dict(exif)
    for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if tag in found:
            found[tag] = dict(exif.get_ifd(tag))
    details = found.get(ExifTags.IFD.Exif, {})
    if ExifTags.IFD.Interop in details:
        details[ExifTags.IFD.Interop] = dict(exif.get_ifd(ExifTags.IFD.Interop))
    # A directory without tags is none.
    return {tag: value for tag, value in found.items() if value != {}}
