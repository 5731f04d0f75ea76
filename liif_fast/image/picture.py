"""A picture as Pillow has it, as an array where Pillow has no mode for it, or in its file; what is kept of its file."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from liif_fast.box import Region
from liif_fast.errors import ImageError, one_line
from liif_fast.image.extras import Extras
from liif_fast.image.formats import DEEP_ARRAYS, DEEP_MODES, FLOAT_ARRAYS, SHALLOW_ARRAYS
from liif_fast.image.geotiff import Resampling
from liif_fast.image.values import Pixels, Values


class FileArray:
    """A picture [H, W] or [H, W, C], uint8, uint16 or float32, that stays in its file; slices of it are read.

    array: anything that is sliced as NumPy's arrays are. ends: the values that are given as the levels 0 and 1, in
    float32; None to give the values themselves.
    limits: the levels between which all values lie.
    """

    def __init__(self, array: Any, ends: tuple[float, float] | None = None) -> None:
        self._array, self.ends = array, ends
        self.shape: tuple[int, ...] = tuple(array.shape)
        self._values, self.ndim = np.dtype(array.dtype).newbyteorder("="), len(self.shape)
        self.dtype, self.limits = self._values, (0.0, 1.0)
        if ends is not None:
            low, high = ends
            self.dtype = np.dtype(np.float32)
            self.limits = -low / (high - low), (float(np.iinfo(self._values).max) - low) / (high - low)

    def levelled(self, low: float, high: float) -> FileArray:
        """The same picture as levels of these ends."""
        return FileArray(self._array, (low, high))

    def __getitem__(self, window: tuple[slice, slice]) -> Pixels:
        """The rows and columns of a window, contiguous and of native byte order."""
        try:
            found: Pixels = np.ascontiguousarray(self._array[window], self._values)
        # Decoders answer damaged files with errors of any type.
        except Exception as error:
            raise ImageError(f"expected a picture, got a damaged file ({one_line(error)})") from error
        if self.ends is None:
            return found
        low, high = self.ends
        levels: Pixels = (found.astype(np.float32) - np.float32(low)) / np.float32(high - low)
        return levels


class Picture(NamedTuple):
    """A picture as it is upscaled, and what is kept of its file.

    image: upright. A Pillow picture of mode L, LA, RGB, RGBA or I;16 (16-bit gray), else an array [H, W] or [H, W, C]
        with C 2 (gray, alpha), 3 or 4 (RGB, alpha): uint16, or floating in [0, 1]. Or a `FileArray`, gray or RGB.
    icc, exif, dpi: as the file had them (exif without orientation and layout), None where it had none.
    notes: what was changed in reading, one sentence each.
    extras: what else the file says and is kept.
    values: what brings levels in [0, 1] back into the file's type and range, None where they are the file's values.
    bands: the channels of a TIFF behind colours and alpha, each a gray picture.
    """

    image: Image.Image | Pixels | FileArray
    icc: bytes | None = None
    exif: Image.Exif | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    extras: Extras = Extras()
    values: Values | None = None
    bands: tuple[Picture, ...] = ()

    @property
    def mode(self) -> str:
        """Pillow's mode, or one of `formats.DEEP_ARRAYS`, `formats.FLOAT_ARRAYS`; what its file holds, not its levels.

        Signed integers and those of 32 bits end in ";I", and further bands in their number, such as "+1".
        """
        mode = mode_of(self.image)
        if self.values is not None:
            channels, dtype = len(self.values.ends), np.dtype(self.values.dtype)
            mode = {"u1": SHALLOW_ARRAYS, "u2": DEEP_ARRAYS}.get(dtype.str[1:], FLOAT_ARRAYS)[channels]
            mode = mode if dtype.kind == "f" or dtype.str[1:] in ("u1", "u2") else mode.replace(";F", ";I")
        return f"{mode}+{len(self.bands)}" if self.bands else mode

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return size_of(self.image)

    def resampled(self, region: Region) -> Picture:
        """Return the picture with what is true of this region of its output beside the pixels."""
        width, height = self.size
        extras = self.extras.resampled(Resampling((height, width), region.size, (region.box.top, region.box.left)))
        bands = tuple(band.resampled(region) for band in self.bands)
        values = self.values and self.values._replace(region=region)
        return self._replace(extras=extras, values=values, bands=bands)

    def stripped(self) -> Picture:
        """Return the picture without what its file says beside the pixels."""
        return self._replace(icc=None, exif=None, dpi=None, extras=self.extras.without_metadata())


def mode_of(image: Image.Image | Pixels | FileArray) -> str:
    """Return Pillow's mode, or the name of the array's kind."""
    if isinstance(image, Image.Image):
        return image.mode
    channels = 1 if image.ndim == 2 else image.shape[2]
    if image.dtype == np.uint8:
        return {1: "L", 3: "RGB"}[channels]
    return (FLOAT_ARRAYS if image.dtype.kind == "f" else DEEP_ARRAYS)[channels]


def size_of(image: Image.Image | Pixels | FileArray) -> tuple[int, int]:
    """Return (width, height)."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def hides_colour(image: Image.Image | Pixels | FileArray) -> bool:
    """Say whether there is more than one colour under an alpha of 0, in a picture that is not wholly clear."""
    if isinstance(image, Image.Image):
        if image.mode not in ("LA", "RGBA"):
            return False
        image = np.asarray(image)
    if isinstance(image, FileArray) or image.ndim == 2 or image.shape[2] not in (2, 4):
        return False
    hidden = image[:, :, :-1][image[:, :, -1] == 0]
    return 0 < len(hidden) < image.shape[0] * image.shape[1] and bool((hidden != hidden[0]).any())


def plain(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return the picture in mode L, LA, RGB, RGBA or I;16, with notes; ImageError for what would lose by it."""
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


def _sixteen_bit(image: Image.Image) -> Image.Image:
    array = np.asarray(image)
    if array.size and (array.min() < 0 or array.max() > 65535):
        raise ImageError(f"expected at most 16 bits a channel, got values from {array.min()} to {array.max()}")
    return Image.fromarray(array.astype(np.uint16))


def _by_profile(image: Image.Image) -> Image.Image:
    """Convert CMYK or LAB to sRGB by the picture's own profile where it has a usable one, else by the plain formula."""
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
