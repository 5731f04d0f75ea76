"""A picture that stays in its file: windows of it are read when they are asked for (TIFF and zarr).

It needs the extra `large`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from liif_fast.errors import ImageError
from liif_fast.image import deep
from liif_fast.image.formats import DEEP_ARRAYS, FLOAT_ARRAYS, extra

WINDOWED_FROM = 2**27  # bytes of pixels: smaller TIFF files are read whole


class Windows:
    """A picture [1, C, H, W], uint8, uint16 or float32 in [0, 1], that is sliced like a tensor and read by slicing.

    array: anything sliced as NumPy is, [H, W] or [H, W, C]. repeat: how often a gray picture's channel is given.
    size: (width, height), as Pillow has it.
    icc, exif, dpi, notes: as in `Picture`.
    """

    device = torch.device("cpu")
    span = None

    def __init__(
        self,
        array: Any,
        *,
        icc: bytes | None = None,
        exif: Image.Exif | None = None,
        dpi: tuple[float, float] | None = None,
        notes: tuple[str, ...] = (),
        repeat: int = 1,
    ) -> None:
        self.array, self.repeat = array, repeat
        self.icc, self.exif, self.dpi, self.notes = icc, exif, dpi, notes
        height, width, channels = (*array.shape, 1)[:3]
        self.shape = (1, channels * repeat, height, width)
        self.size = width, height
        self.dtype = getattr(torch, str(array.dtype))

    @property
    def mode(self) -> str:
        """That of a `Picture` of these pixels."""
        channels = 1 if len(self.array.shape) == 2 else int(self.array.shape[2])
        if self.dtype == torch.uint8:
            return {1: "L", 3: "RGB"}[channels]
        return (FLOAT_ARRAYS if self.is_floating_point() else DEEP_ARRAYS)[channels]

    def stripped(self) -> Windows:
        """Without colour profile, EXIF data and resolution."""
        return Windows(self.array, notes=self.notes, repeat=self.repeat)

    def dim(self) -> int:
        return 4

    def is_floating_point(self) -> bool:
        return bool(self.dtype.is_floating_point)

    def tripled(self) -> Windows:
        """A gray picture as three equal channels."""
        return Windows(self.array, repeat=3)

    def __getitem__(self, key: tuple[slice, slice, slice, slice]) -> Tensor:
        """A window; the slices of the first two axes are whole."""
        rows, cols = key[2:]
        try:
            window = np.ascontiguousarray(self.array[rows, cols])
        # Decoders answer damaged files with errors of any type.
        except Exception as error:
            raise ImageError(f"expected a picture, got a damaged file ({' '.join(str(error).split())})") from error
        pixels = torch.from_numpy(window.astype(window.dtype.newbyteorder("="), copy=False))
        if self.is_floating_point():
            check_range(pixels)
        pixels = pixels.unsqueeze(-1) if pixels.dim() == 2 else pixels
        return pixels.permute(2, 0, 1).unsqueeze(0).expand(-1, self.shape[1], -1, -1)


def check_range(pixels: Tensor) -> None:
    """ImageError unless floating values lie in [0, 1], or a little beyond."""
    low, high = (float(value) for value in torch.aminmax(pixels))
    # A little beyond is what filters leave behind; far beyond is another unit.
    if not (low >= -0.5 and high <= 1.5):
        raise ImageError(f"image: expected floating values in [0, 1], got {low:g} to {high:g}; divide by the maximum")


def opened(path: str | os.PathLike[str]) -> Windows | None:
    """The picture in a zarr folder or in a large TIFF file; None for what is better read whole.

    Read whole is a TIFF file that is small, is turned by its orientation, has floating values (whose range is looked
    for), alpha, a palette or another colour space than gray and RGB, or is not laid out in tiles or strips of whole
    pixels.

    Raises ImageError for a zarr folder that holds no picture, or where the extra is missing for it.
    """
    path = Path(path)
    if path.suffix.lower() == ".zarr" and path.is_dir():
        return _zarr(path)
    if path.suffix.lower() in (".tif", ".tiff") and path.is_file() and path.stat().st_size:
        return _tiff(path)
    return None


def _zarr(path: Path) -> Windows:
    zarr = extra("zarr", f"{path}: this kind of picture", "large")
    try:
        array = zarr.open_array(str(path), mode="r")
    # Damaged metadata raises errors of any type.
    except Exception as error:
        raise ImageError(f"{path}: expected a zarr array, got {' '.join(str(error).split())}") from error
    if not _pictured(array.shape, array.dtype):
        raise ImageError(
            f"{path}: expected an array [H, W] or [H, W, 3], uint8, uint16 or float32, got {array.dtype} "
            f"{list(array.shape)}"
        )
    profile = array.attrs.get("icc_profile")
    return Windows(array, icc=bytes.fromhex(profile) if isinstance(profile, str) else None)


def _tiff(path: Path) -> Windows | None:
    try:
        import tifffile
        import zarr
    except ImportError:
        return None
    try:
        # Open as long as the windows are.
        file = tifffile.TiffFile(path)
        page: Any = file.pages[0]
        plain = page.planarconfig == 1 and page.photometric in (1, 2) and not page.extrasamples
        turned = "Orientation" in page.tags and page.tags["Orientation"].value != 1
        size = page.imagelength * page.imagewidth * page.samplesperpixel * page.dtype.itemsize
        floating = page.dtype.kind == "f"
        if size < WINDOWED_FROM or floating or not plain or turned or not _pictured(page.shape, page.dtype):
            file.close()
            return None
        notes: list[str] = []
        exif, _ = deep.described(file, page, notes)
        dpi = deep.resolution(page)
    # What is damaged or unknown is answered by the reader of whole pictures.
    except Exception:
        return None
    return Windows(
        zarr.open_array(page.aszarr(), mode="r"), icc=page.iccprofile, exif=exif, dpi=dpi, notes=tuple(notes)
    )


def _pictured(shape: Sequence[int], dtype: Any) -> bool:
    return (
        (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))
        and 0 not in shape
        and str(np.dtype(dtype).newbyteorder("=")) in ("uint8", "uint16", "float32")
    )
