"""A picture as Pillow has it, as an array where Pillow has no mode for it, or in its file; what is kept of its file."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from liif_fast.errors import ImageError
from liif_fast.image.formats import DEEP_ARRAYS, DEEP_MODES, FLOAT_ARRAYS

Pixels = NDArray[Any]  # [H, W] or [H, W, C]


class FileArray:
    """A picture [H, W] or [H, W, C], uint8, uint16 or float32, that stays in its file; slices of it are read.

    array: anything that is sliced as NumPy's arrays are.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype, self.ndim = np.dtype(array.dtype).newbyteorder("="), len(self.shape)

    def __getitem__(self, window: tuple[slice, slice]) -> Pixels:
        """The rows and columns of a window, contiguous and of native byte order."""
        try:
            return np.ascontiguousarray(self._array[window], self.dtype)
        # Decoders answer damaged files with errors of any type.
        except Exception as error:
            raise ImageError(f"expected a picture, got a damaged file ({' '.join(str(error).split())})") from error


class Picture(NamedTuple):
    """A picture as it is upscaled, and what is kept of its file.

    image: upright. A Pillow picture of mode L, LA, RGB, RGBA or I;16 (16-bit gray), else an array [H, W] or [H, W, C]
        with C 2 (gray, alpha), 3 or 4 (RGB, alpha): uint16, or floating in [0, 1]. Or a `FileArray`, gray or RGB.
    icc, exif, dpi: as the file had them (exif without orientation and layout), None where it had none.
    notes: what was changed in reading, one sentence each.
    span: for floating values that were brought into [0, 1]: the file's value at 0 and at 1, of each channel.
    """

    image: Image.Image | Pixels | FileArray
    icc: bytes | None = None
    exif: Image.Exif | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    span: tuple[tuple[float, float], ...] | None = None

    @property
    def mode(self) -> str:
        """Pillow's, or one of `formats.DEEP_ARRAYS` and `formats.FLOAT_ARRAYS`."""
        return mode_of(self.image)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return size_of(self.image)

    def stripped(self) -> Picture:
        """Without colour profile, EXIF data and resolution."""
        return self._replace(icc=None, exif=None, dpi=None)


def mode_of(image: Image.Image | Pixels | FileArray) -> str:
    """Pillow's mode, or the name of the array's kind."""
    if isinstance(image, Image.Image):
        return image.mode
    channels = 1 if image.ndim == 2 else image.shape[2]
    if image.dtype == np.uint8:
        return {1: "L", 3: "RGB"}[channels]
    return (FLOAT_ARRAYS if image.dtype.kind == "f" else DEEP_ARRAYS)[channels]


def size_of(image: Image.Image | Pixels | FileArray) -> tuple[int, int]:
    """(width, height)."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


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
        raise ImageError("expected 8 or 16 bits a channel, got a floating-point picture; make it an array in [0, 1]")
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


def levelled(array: Pixels) -> tuple[Pixels, tuple[tuple[float, float], ...] | None, list[str]]:
    """Floating values in [0, 1], the span that `restored` needs, a note.

    The colours keep their proportions: where one leaves [0, 1], their least becomes 0 and their greatest 1. Alpha
    beyond 1 is divided by its greatest. Raises ImageError for what cannot be brought back: not finite, negative alpha.
    """
    planes = array if array.ndim == 3 else array[:, :, None]
    alpha = planes.shape[2] in (2, 4)
    colours = planes[:, :, :-1] if alpha else planes
    spans = [_span(colours)] * colours.shape[2]
    if alpha:
        low, high = _span(planes[:, :, -1])
        if low < 0:
            raise ImageError(f"expected alpha from 0, got {low:g}")
        spans.append((0.0, high))
    if all(span == (0.0, 1.0) for span in spans):
        return array, None, []
    widths = np.array([high - low or 1.0 for low, high in spans], array.dtype)
    if not np.isfinite(widths).all():
        raise ImageError(
            f"expected a range of values that {array.dtype} can hold, got {spans[0][0]:g} to {spans[0][1]:g}"
        )
    levels = (planes - np.array([low for low, _ in spans], array.dtype)) / widths
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    note = f"values from {low:g} to {high:g} computed as 0 to 1 and written in that range again"
    return levels.clip(0, 1).reshape(array.shape), tuple(spans), [note]


def restored(array: Pixels, span: tuple[tuple[float, float], ...] | None) -> Pixels:
    """What `levelled` was given, of its results; rounded to the array's type."""
    if span is None or array.dtype.kind != "f":
        return array
    planes = array if array.ndim == 3 else array[:, :, None]
    low, high = (np.array(ends, array.dtype) for ends in zip(*span, strict=True))
    stretched: np.ndarray = (planes * (high - low) + low).clip(low, high)
    return stretched.reshape(array.shape)


def _span(values: Pixels) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("expected finite values, got infinite ones or NaN; replace them first")
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


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
