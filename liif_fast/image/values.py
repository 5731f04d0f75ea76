"""The values of a file as levels in [0, 1] that a model computes with, and levels as such values again."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from liif_fast.box import Box, Region
from liif_fast.errors import ImageError

Pixels = NDArray[Any]  # [H, W] or [H, W, C]
EXACT = 2**24  # beyond this, float32 does not tell neighbouring whole numbers apart
_SAMPLES = 2**22  # values that are enough for a robust range
RANGE_NOTE = "values from "  # what notes on levels begin with
_TAIL = 0.05  # per cent of the values beyond either end of a robust range


class Values(NamedTuple):
    """How the values of a file stand to the levels that are computed: value = low + level * (high - low).

    dtype: the file's type, NumPy's name. ends: (low, high) of each channel, at the levels 0 and 1. bounds: (least,
    greatest) of each channel, beyond which no result goes. nodata: the value that stands for no data, None for none.
    mask: [H, W], where the source has no data, None for nowhere. region: which part of which whole output the result
    is, None for all of it.
    """

    dtype: str
    ends: tuple[tuple[float, float], ...]
    bounds: tuple[tuple[float, float], ...]
    nodata: float | None = None
    mask: NDArray[np.bool_] | None = None
    region: Region | None = None

    def restore(self, levels: Pixels, top: int = 0) -> Pixels:
        """Return levels [H, W] or [H, W, C] as values of the file's type; no data where the source has none.

        top: the row of the result at which they begin.
        """
        dtype = np.dtype(self.dtype)
        work = levels.dtype if levels.dtype.itemsize > 4 or dtype.itemsize < 8 else np.dtype(np.float64)
        work = np.dtype(np.float64) if dtype.kind != "f" else work
        planes = levels if levels.ndim == 3 else levels[:, :, None]
        low, high = (np.array(side, work) for side in zip(*self.ends, strict=True))
        least, most = (np.array(side, work) for side in zip(*self.bounds, strict=True))
        values = (planes.astype(work, copy=False) * (high - low) + low).clip(least, most)
        if dtype.kind != "f":
            values = np.rint(values)
        result = values.astype(dtype)
        if self.nodata is not None:
            result = self._without_data(result, self._clear(top, result.shape[:2]))
        shaped: Pixels = result.reshape(levels.shape)
        return shaped

    def _clear(self, top: int, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """Return [H, W], where these rows of the result have no data: where the nearest source pixel has none."""
        if self.mask is None:
            return None
        whole = (shape[0], shape[1])
        size, box = self.region or Region(whole, Box(0, 0, *whole))
        starts = box.top + top, box.left
        rows, cols = (
            (2 * np.arange(start, start + count) + 1) * length // (2 * out)
            for start, count, length, out in zip(starts, shape, self.mask.shape, size, strict=True)
        )
        found: NDArray[np.bool_] = self.mask[rows[:, None], cols[None, :]]
        return found

    def _without_data(self, result: Pixels, clear: NDArray[np.bool_] | None) -> Pixels:
        assert self.nodata is not None
        dtype = result.dtype
        nodata = np.array(self.nodata).astype(dtype)
        if not math.isnan(self.nodata):
            # No computed value may be taken for missing.
            near = nodata + dtype.type(1) if dtype.kind != "f" else np.nextafter(nodata, dtype.type(0))
            if dtype.kind != "f" and nodata == np.iinfo(dtype).max:
                near = nodata - dtype.type(1)
            planes = result if result.ndim == 3 else result[:, :, None]
            taken = (planes == nodata).all(axis=2)
            result[taken] = near
        if clear is not None:
            result[clear] = nodata
        return result


def sampled_values(sample: Pixels, channels: int) -> Values:
    """Return the levels of a robust range for a picture of whole numbers, by a sample of its values."""
    ends = _ends(sample, float(sample.min()), float(sample.max()), sample.dtype, robust=True)
    info = np.iinfo(sample.dtype)
    return Values(sample.dtype.name, (ends,) * channels, ((float(info.min), float(info.max)),) * channels)


def levels_of(
    array: Pixels, *, robust: bool = False, alpha: bool = False, nodata: float | None = None
) -> tuple[Pixels, Values | None, list[str]]:
    """Return the values as levels, what brings them back (None where they are levels already), and notes.

    array: [H, W] or [H, W, C], integers or floating, with an alpha channel last where there is one.
    robust: the ends are those of nearly all values, for what gives back to the result what lies beyond; otherwise
    the ends are the least and the greatest value where some value lies outside of [0, 1].

    The colours keep their proportions. Alpha beyond 1 is divided by its greatest. Levels are float32, float64 for
    float64. Raises ImageError: values that are not finite and not `nodata`, negative alpha, whole numbers that float32
    cannot hold.
    """
    dtype = array.dtype
    planes = array if array.ndim == 3 else array[:, :, None]
    colours = planes[:, :, :-1] if alpha else planes
    mask = _mask(colours, nodata)
    empty = mask is not None and bool(mask.all())
    valid = colours if mask is None else np.zeros((1, 1), dtype) if empty else colours[~mask]
    least, greatest = _range(valid)
    if dtype.kind != "f" and max(abs(least), abs(greatest)) > EXACT:
        raise ImageError(
            f"expected whole numbers up to {EXACT}, which float32 holds exactly, got {least:.0f} to {greatest:.0f}; "
            "subtract an offset or divide by a factor first"
        )
    ends = _ends(valid, least, greatest, dtype, robust)
    every, bounds = [ends] * colours.shape[2], [(least, greatest)] * colours.shape[2]
    if alpha:
        every, bounds = [*every, _alpha_ends(planes[:, :, -1])], [*bounds, _range(planes[:, :, -1])]
    work = np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)
    if mask is None and dtype == work and all(side == (0.0, 1.0) for side in every) and nodata is None and not robust:
        return array, None, []
    widths = np.array([high - low or 1.0 for low, high in every], np.float64)
    if not np.isfinite(widths.astype(work)).all():
        raise ImageError(f"expected a range of values that {work} can hold, got {least:g} to {greatest:g}")
    levels = (planes - np.array([low for low, _ in every], np.float64 if dtype.kind != "f" else work)) / widths
    levels = levels.astype(work, copy=False)
    natural = (0.0, 1.0) if dtype.kind == "f" else (0.0, float(np.iinfo(dtype).max))
    notes = [] if ends == natural or least == greatest else [_note(ends, least, greatest)]
    if mask is not None:
        levels = np.zeros_like(levels) if empty else _filled(levels, mask)
        count = int(mask.sum())
        notes.append(f"{count} of {mask.size} pixels without data ({nodata:g}) left out and written again")
    elif not robust:
        levels = levels.clip(0, 1)
    values = Values(dtype.name, tuple(every), tuple(bounds), nodata, mask)
    return levels.reshape(array.shape), values, notes


def _mask(colours: Pixels, nodata: float | None) -> NDArray[np.bool_] | None:
    """Return where no channel has data, None for nowhere: a black part of a colour is a value."""
    if nodata is None:
        return None
    missing: Any
    if math.isnan(nodata):
        missing = np.isnan(colours)
    elif colours.dtype.kind == "f":
        # A file states the value in decimals, and its pixels are rounded to their type.
        missing = colours == np.array(nodata).astype(colours.dtype)
        if abs(nodata) > 1e30:
            missing |= np.abs(colours) > 1e30
    else:
        missing = colours == nodata
    mask: NDArray[np.bool_] = missing.all(axis=2)
    return mask if mask.any() else None


def _range(values: Pixels) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(
            "expected finite values, got infinite ones or NaN; replace them, or pass --nodata nan if NaN stands for "
            "pixels without data"
        )
    return low, high


def _ends(values: Pixels, least: float, greatest: float, dtype: np.dtype[Any], robust: bool) -> tuple[float, float]:
    """Return the values that become the levels 0 and 1."""
    if dtype == np.uint8:
        return 0.0, 255.0
    if not robust:
        natural = (0.0, 1.0) if dtype.kind == "f" else None
        return (0.0, 1.0) if natural and least >= 0 and greatest <= 1 else (least, greatest)
    full = (0.0, 1.0) if dtype.kind == "f" else (0.0, float(np.iinfo(dtype).max))
    flat = values.reshape(-1)
    step = max(1, flat.size // _SAMPLES)
    low, high = (float(end) for end in np.percentile(flat[::step].astype(np.float64), (_TAIL, 100 - _TAIL)))
    if high <= low:
        low, high = least, greatest
    # Most outliers are no part of the picture; a tail that goes on is.
    low = least if low - least <= 0.25 * (high - low) else low
    high = greatest if greatest - high <= 0.25 * (high - low) else high
    if full[0] <= low and high <= full[1] and high - low >= 0.5 * (full[1] - full[0]):
        return full
    return low, high


def _alpha_ends(alpha: Pixels) -> tuple[float, float]:
    low, high = _range(alpha)
    if low < 0:
        raise ImageError(f"expected alpha from 0, got {low:g}")
    if alpha.dtype.kind != "f":
        return 0.0, float(np.iinfo(alpha.dtype).max)
    return (0.0, 1.0) if high <= 1 else (0.0, high)


def _note(ends: tuple[float, float], least: float, greatest: float) -> str:
    if ends == (least, greatest):
        return f"{RANGE_NOTE}{least:g} to {greatest:g} computed as 0 to 1 and written in that range again"
    return (
        f"{RANGE_NOTE}{ends[0]:g} to {ends[1]:g} (nearly all of {least:g} to {greatest:g}) computed as 0 to 1 and "
        "written in that range again"
    )


def _filled(levels: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """Return the levels with each pixel of the mask filled by means of its surroundings, over ever larger squares."""
    seen = (~mask).astype(levels.dtype)[:, :, None]
    known = np.where(mask[:, :, None], 0, levels)
    return np.where(mask[:, :, None], _pyramid(known, seen), levels)


def _pyramid(total: Pixels, weight: Pixels) -> Pixels:
    mean = total / np.maximum(weight, 1e-12)
    height, width = weight.shape[:2]
    if (height == 1 and width == 1) or (weight > 0).all():
        return mean
    coarse = _pyramid(_halved(total), _halved(weight))
    spread = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.where(weight > 0, mean, spread)


def _halved(planes: Pixels) -> Pixels:
    height, width = planes.shape[:2]
    padded = np.pad(planes, ((0, height % 2), (0, width % 2), (0, 0)))
    found: Pixels = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2, -1).sum(axis=(1, 3))
    return found
