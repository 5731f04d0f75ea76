"""Pictures to files: under their final name only when they are complete, with the metadata that is kept."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from liif_fast.errors import ImageError, one_line
from liif_fast.files import replacing
from liif_fast.image import metadata, tiff
from liif_fast.image.formats import Format, PathLike, check_fits, extra, format_of
from liif_fast.image.picture import FileArray, Picture, mode_of, plain, size_of
from liif_fast.image.values import Pixels

_PNG_HEADER = 33  # bytes: signature and IHDR
_ONE_SEGMENT = 65_502  # bytes that one of a JPEG's segments has for XMP


def write(image: Image.Image | Pixels | FileArray, path: PathLike, like: Picture | None = None) -> None:
    """Write a picture under its final name only when it is complete; like gives the metadata to keep.

    image: as in `Picture`; levels are brought back into the file's values by `like.values`. The bands of `like` are
    written behind its channels; they have the size of `image`.

    Raises ImageError when the format cannot hold it or the file cannot be written; an existing file is replaced.
    """
    path = Path(path)
    image = image[:, :] if isinstance(image, FileArray) else image
    if like is not None:
        image = values_of(image, like)
    if isinstance(image, np.ndarray) and like is None and image.ndim == 2 and image.dtype in (np.uint8, np.uint16):
        image = Image.fromarray(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2] <= 4):
        image = Image.fromarray(image)
    bands = like is not None and bool(like.bands)
    check_fits(path, "L+1" if bands else mode_of(image), size_of(image))
    form = format_of(path)
    options = options_for(like, size_of(image)) if like is not None else {}
    try:
        with replacing(path) as temporary, _Stream(io.FileIO(str(temporary), "w")) as stream:
            if form.name == "TIFF":
                array = np.asarray(plain(image)[0]) if isinstance(image, Image.Image) else image
                tiff.write(stream, array, options, *(layout_of(like) if like is not None and bands else (None, None)))
            elif isinstance(image, np.ndarray) and image.ndim == 3:
                stream.write(_png(image, pillow_options(form, options)))
            else:
                save(image if isinstance(image, Image.Image) else Image.fromarray(image), stream, form, options)
    # Encoders, like decoders, raise errors of any type.
    except Exception as error:
        raise ImageError(f"{path}: cannot be written: {one_line(error)}") from error


def values_of(image: Image.Image | Pixels | FileArray, like: Picture) -> Image.Image | Pixels:
    """Return the file's values of a result and its bands, [H, W] or [H, W, C], or the picture where it has them."""
    found = _restored(image, like)
    if not like.bands:
        return found
    planes = [np.asarray(found)] + [np.asarray(_restored(band.image, band)) for band in like.bands]
    return np.concatenate([plane[:, :, None] if plane.ndim == 2 else plane for plane in planes], axis=2)


def _restored(image: Image.Image | Pixels | FileArray, like: Picture) -> Image.Image | Pixels:
    image = image[:, :] if isinstance(image, FileArray) else image
    if like.values is None or not isinstance(image, np.ndarray) or image.dtype.kind != "f":
        return image
    return like.values.restore(image)


def layout_of(like: Picture) -> tuple[int, bool]:
    """Return (how many channels are colours, whether alpha comes next) of a picture with bands."""
    channels = len(mode_of(like.image).partition(";")[0].rstrip("A"))
    return (3 if channels == 3 else 1), mode_of(like.image).partition(";")[0].endswith("A")


def options_for(like: Picture, size: tuple[int, int]) -> dict[str, Any]:
    """Return what a writer saves with a picture of (width, height)."""
    return metadata.options(like.icc, like.exif, like.dpi, size, like.extras)


def save(image: Image.Image, stream: Any, form: Format, options: Mapping[str, Any], **more: Any) -> None:
    """Have Pillow, or a plugin of it, write the picture in the format with what is kept."""
    if form.module:
        module = __import__(form.module)
        if form.name == "HEIF":
            module.register_heif_opener(thumbnails=False)
    ready = pillow_options(form, options)
    settings = form.lossless if options.get("lossless") and form.lossless else form.options
    if form.name == "GIF" and "save_all" not in more and image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGBA")
    image.save(stream, format=form.name, **dict(settings), **ready, **more)
    coding = options.get("coding")
    if form.name == "AVIF" and coding is not None:
        _state_coding(stream, coding)


def pillow_options(form: Format, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return Pillow's options for saving what is kept in this format, as far as it can hold it."""
    found = {name: options[name] for name in ("icc_profile", "dpi") if name in options}
    if "exif" in options and "EXIF data" in form.keeps:
        found["exif"] = options["exif"]
    if form.dpi_in_exif and "dpi" in found:
        exif = found.setdefault("exif", Image.Exif())
        exif.update(metadata.resolution_tags(found.pop("dpi")))
    if form.name == "PNG":
        found["pnginfo"] = _png_info(options)
    elif "xmp" in options and "XMP data" in form.keeps and (form.name != "JPEG" or len(options["xmp"]) < _ONE_SEGMENT):
        found["xmp"] = options["xmp"]
    if "comment" in options and form.name in ("JPEG", "GIF"):
        found["comment"] = options["comment"]
    if "iptc" in options and form.name == "JPEG":
        found["extra"] = _resources(options["iptc"])
    return found


def _png_info(options: Mapping[str, Any]) -> PngInfo:
    info = PngInfo()
    if "chromaticity" in options:
        info.add(b"cHRM", struct.pack(">8L", *(round(value * 100_000) for value in options["chromaticity"])))
    if "coding" in options:
        # Pixels of a PNG are RGB of the full range.
        info.add(b"cICP", bytes((*options["coding"][:2], 0, 1)))
    if "gamma" in options:
        info.add(b"gAMA", struct.pack(">L", round(options["gamma"] * 100_000)))
    if "xmp" in options:
        info.add_itxt("XML:com.adobe.xmp", options["xmp"].decode("utf-8", "replace"))
    texts = list(options.get("texts", ()))
    if "comment" in options and all(key != "Comment" for key, _ in texts):
        texts.append(("Comment", options["comment"].decode("latin-1")))
    for key, text in texts:
        info.add_text(key, text, zip=len(text) > 1024)
    return info


def _resources(iptc: bytes) -> bytes:
    """Return a JPEG's segment of Photoshop's resources with the IPTC data alone, empty where they are too long."""
    data = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">L", len(iptc)) + iptc + bytes(len(iptc) % 2)
    return b"\xff\xed" + struct.pack(">H", len(data) + 2) + data if len(data) < 65_533 else b""


def _state_coding(stream: Any, coding: tuple[int, int, int, int]) -> None:
    """State the primaries and the transfer of an AVIF's colours, for which Pillow has no option."""
    stream.flush()
    with open(stream.name, "r+b") as file:
        at = file.read(2**16).find(b"colrnclx")
        if at >= 0:
            file.seek(at + 8)
            file.write(struct.pack(">2H", *coding[:2]))


class _Stream(io.BufferedWriter):
    """A file that Pillow cannot write to by its number: where the disk is full it takes a part for the whole."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation


def _png(array: Pixels, options: dict[str, Any]) -> bytes:
    """Return a PNG of uint16 [H, W, C], with the metadata as Pillow writes it into a PNG of a single pixel.

    Three encodings are joined: the signature and IHDR of the picture (33 bytes, as in every PNG), the chunks that
    Pillow writes between IHDR and IDAT for these options, and the picture's own IDAT and IEND.
    """
    encoded: bytes = extra("imagecodecs", "a 16-bit PNG").png_encode(np.ascontiguousarray(array))
    bare, tagged = io.BytesIO(), io.BytesIO()
    Image.new("L", (1, 1)).save(bare, "PNG")
    Image.new("L", (1, 1)).save(tagged, "PNG", **options)
    rest = len(bare.getvalue()) - _PNG_HEADER
    return b"".join((encoded[:_PNG_HEADER], tagged.getvalue()[_PNG_HEADER:-rest], encoded[_PNG_HEADER:]))
