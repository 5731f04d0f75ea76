"""The kind of a file by its first bytes: a picture that can be read, or something else and what to do about it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

START = 1024  # bytes of a file that tell its kind


class Kind(NamedTuple):
    """A kind of file.

    name: what it is called. extra: the extra of this package that reads it ("" for none needed) and the module behind
    it. advice: what to do with a kind that cannot be read at all, "" for a picture.
    """

    name: str
    extra: str = ""
    module: str = ""
    advice: str = ""

    @property
    def readable(self) -> bool:
        """Whether this is a kind of picture that can be read here."""
        return not self.advice and (not self.module or find_spec(self.module) is not None)

    @property
    def reason(self) -> str:
        """Why it cannot be read, and what to do; "" where it can."""
        if self.advice:
            return f"got {self.name}; {self.advice}"
        if not self.readable:
            package = self.module.replace("_", "-")
            return f"got {self.name}, which needs {package}: pip install 'liif_fast[{self.extra}]'"
        return ""


HEIC = Kind("HEIC", "heif", "pillow_heif")
JPEG_XL = Kind("JPEG XL", "jxl", "pillow_jxl")
RAW = Kind("a raw photograph", advice="develop it first, with darktable or RawTherapee for example")
_DRAW_IT = "draw it at a size first"
_UNPACK_IT = "unpack it first"
_STARTS = (
    (b"\x89PNG\r\n\x1a\n", Kind("PNG")),
    (b"\xff\xd8\xff", Kind("JPEG")),
    (b"GIF87a", Kind("GIF")),
    (b"GIF89a", Kind("GIF")),
    (b"II*\0", Kind("TIFF")),
    (b"MM\0*", Kind("TIFF")),
    (b"II+\0", Kind("TIFF")),
    (b"MM\0+", Kind("TIFF")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", Kind("JPEG 2000")),
    (b"\xff\x4f\xff\x51", Kind("JPEG 2000")),
    (b"\0\0\0\x0cJXL \r\n\x87\n", JPEG_XL),
    (b"\xff\x0a", JPEG_XL),
    (b"8BPS", Kind("PSD")),
    (b"DDS ", Kind("DDS")),
    (b"qoif", Kind("QOI")),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"IIU\0", RAW),
    (b"IIRO", RAW),
    (b"IIRS", RAW),
    (b"MMOR", RAW),
    (b"FOVb", RAW),
    (b"%PDF", Kind("PDF", advice=_DRAW_IT)),
    (b"%!PS", Kind("PostScript", advice=_DRAW_IT)),
    (b"v/1\x01", Kind("OpenEXR", advice="convert it to a floating-point TIFF first")),
    (b"#?RADIANCE", Kind("Radiance HDR", advice="convert it to a floating-point TIFF first")),
    (b"#?RGBE", Kind("Radiance HDR", advice="convert it to a floating-point TIFF first")),
    (b"\x89HDF\r\n", Kind("HDF5", advice="write the array that is meant as a TIFF first")),
    (b"\x93NUMPY", Kind("a NumPy array", advice="write it as a TIFF first")),
    (b"PK\x03\x04", Kind("a ZIP archive or a document", advice=_UNPACK_IT)),
    (b"\x1f\x8b", Kind("a gzip archive", advice=_UNPACK_IT)),
    (b"7z\xbc\xaf", Kind("a 7z archive", advice=_UNPACK_IT)),
    (b"Rar!", Kind("a RAR archive", advice=_UNPACK_IT)),
    (b"\x1aE\xdf\xa3", Kind("a video", advice="extract its frames first")),
    (b"version https://git-lfs", Kind("a Git LFS pointer", advice="fetch the file itself first, with git lfs pull")),
)
_BRANDS = {  # of the files that begin with a box "ftyp"
    **dict.fromkeys((b"avif", b"avis"), Kind("AVIF")),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), HEIC),
    b"crx ": RAW,
}
_WORDS = (
    (b"<svg", Kind("SVG", advice=_DRAW_IT)),
    (b"<html", Kind("HTML", advice="fetch the picture itself; this is a web page in its place")),
    (b"<!doctype html", Kind("HTML", advice="fetch the picture itself; this is a web page in its place")),
    (b"<?xml", Kind("XML", advice="name a picture")),
)


def kind_of(start: bytes) -> Kind | None:
    """Return the kind of the file that begins with these bytes, None for an unknown one."""
    if start[4:8] == b"ftyp":
        return _by_brand(start)
    if start[:4] == b"RIFF":
        return Kind("WebP") if start[8:12] == b"WEBP" else Kind("audio or video", advice="name a picture")
    if start[:2] in (b"II", b"MM") and start[8:10] == b"CR":
        return RAW
    if start[128:132] == b"DICM":
        return Kind("DICOM", advice="convert it to a 16-bit TIFF first, with pydicom for example")
    found = next((kind for sign, kind in _STARTS if start.startswith(sign)), None)
    if found is None:
        text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        found = next((kind for word, kind in _WORDS if text.startswith(b"<") and word in text), None)
    return found


def kind_of_file(path: str | os.PathLike[str]) -> Kind | None:
    """Return the kind of a file, None for an unknown one and for a file that cannot be read."""
    try:
        with open(path, "rb") as stream:
            return kind_of(stream.read(START))
    except OSError:
        return None


def load_plugins(start: bytes) -> None:
    """Make Pillow read the kind of the file that begins with these bytes, where an installed extra does."""
    kind = kind_of(start)
    if kind in (HEIC, JPEG_XL) and kind.readable:
        module = __import__(kind.module)
        if kind is HEIC:
            module.register_heif_opener(thumbnails=False)


def is_picture(path: Path) -> bool:
    """Say whether the file begins like a picture that can be read here."""
    kind = kind_of_file(path)
    return kind is not None and kind.readable


def _by_brand(start: bytes) -> Kind:
    length = min(int.from_bytes(start[:4], "big"), len(start))
    brands = [start[8:12], *(start[at : at + 4] for at in range(16, length - 3, 4))]
    # The first is the file's own; a HEIC may also be called mif1, and so may an AVIF.
    for brand in brands:
        if brand in _BRANDS and brand not in (b"mif1", b"msf1"):
            return _BRANDS[brand]
    found = next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    return found or Kind("a video", advice="extract its frames first")
