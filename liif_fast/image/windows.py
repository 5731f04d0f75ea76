"""Pictures that stay in their file: windows of them are read when they are asked for (TIFF and zarr).

This needs the extra `large`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from liif_fast.errors import ImageError, one_line
from liif_fast.image import deep
from liif_fast.image.formats import extra
from liif_fast.image.geotiff import GDAL_NODATA
from liif_fast.image.picture import FileArray, Picture
from liif_fast.image.values import sampled_values

SAMPLED_ROWS = 16
WINDOWED_FROM = 2**27  # bytes of pixels: smaller TIFF files are read whole


def open_lazily(path: str | os.PathLike[str], *, consistent: bool = False) -> Picture | None:
    """Return the picture of a zarr folder or a large TIFF file as a `FileArray`; None for what is better read whole.

    A TIFF file is better read whole where it is small, is turned by its orientation, has floating values (whose range
    must be known), alpha, a palette or another colour space than gray and RGB, or is not laid out in tiles or strips of
    whole pixels.

    consistent: values of 16 bits become levels in a robust range (`Picture.values`), by a sample of them.

    Raises ImageError for a zarr folder that holds no picture, or where the extra is missing for it.
    """
    path = Path(path)
    found: Picture | None = None
    if path.suffix.lower() == ".zarr" and path.is_dir():
        found = _zarr(path)
    elif path.suffix.lower() in (".tif", ".tiff") and path.is_file() and path.stat().st_size:
        found = _tiff(path)
    if found is not None and consistent and isinstance(found.image, FileArray) and found.image.dtype == np.uint16:
        return _levelled(found, found.image)
    return found


def _levelled(picture: Picture, array: FileArray) -> Picture:
    """Give a picture of 16 bits as levels of the range of some of its rows."""
    height = array.shape[0]
    count = min(height, SAMPLED_ROWS)
    rows = ((2 * k + 1) * height // (2 * count) for k in range(count))
    sample = np.concatenate([array[slice(row, row + 1), slice(None)] for row in rows])
    values = sampled_values(sample, 1 if array.ndim == 2 else array.shape[2])
    low, high = values.ends[0]
    return picture._replace(image=array.levelled(low, high), values=values) if high > low else picture


def _zarr(path: Path) -> Picture:
    zarr = extra("zarr", f"{path}: this kind of picture", "large")
    try:
        array = zarr.open_array(str(path), mode="r")
    # Damaged metadata raises errors of any type.
    except Exception as error:
        raise ImageError(f"{path}: expected a zarr array, got {one_line(error)}") from error
    if not _is_picture(array.shape, array.dtype):
        raise ImageError(
            f"{path}: expected an array [H, W] or [H, W, 3], uint8, uint16 or float32, got {array.dtype} "
            f"{list(array.shape)}"
        )
    profile = array.attrs.get("icc_profile")
    return Picture(FileArray(array), icc=bytes.fromhex(profile) if isinstance(profile, str) else None)


def _tiff(path: Path) -> Picture | None:
    try:
        import tifffile
        import zarr
    except ImportError:
        return None
    try:
        # It stays open as long as the array is in use.
        file = tifffile.TiffFile(path)
        page: Any = file.pages[0]
        plain = page.planarconfig == 1 and page.photometric in (1, 2) and not page.extrasamples
        turned = "Orientation" in page.tags and page.tags["Orientation"].value != 1
        size = page.imagelength * page.imagewidth * page.samplesperpixel * page.dtype.itemsize
        # Where pixels have no data must be known before the first is computed.
        whole = page.dtype.kind == "f" or GDAL_NODATA in page.tags
        if size < WINDOWED_FROM or whole or not plain or turned or not _is_picture(page.shape, page.dtype):
            file.close()
            return None
        notes: list[str] = []
        exif, _, extras = deep.described(file, page, notes)
        dpi = deep.resolution(page)
    # What is damaged or unknown is answered by the reader of whole pictures.
    except Exception:
        return None
    array = FileArray(zarr.open_array(page.aszarr(), mode="r"))
    return Picture(array, page.iccprofile, exif, dpi, tuple(notes), extras)


def _is_picture(shape: Sequence[int], dtype: Any) -> bool:
    return (
        (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))
        and 0 not in shape
        and str(np.dtype(dtype).newbyteorder("=")) in ("uint8", "uint16", "float32")
    )
