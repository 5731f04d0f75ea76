"""The sizes that a low-resolution picture and its original may have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from liif_fast.errors import UsageError

Size = tuple[int, int]  # (height, width)


def covered(low: Size, high: Size) -> Size:
    """The number of rows and columns of the original that the low-resolution picture shows.

    If low = floor(high / scale) on both sides for whole numbers `scale`, these are low * scale: the rest, less than a
    pixel of the low-resolution picture, was cut off when it was made (the published `img_hr[:, :h_lr * s, :w_lr * s]`).
    Otherwise the whole original is shown, and the scale is the ratio of the sizes.
    """
    scales = [large // small for small, large in zip(low, high, strict=True)]
    if any(scale < 1 or large // scale != small for small, large, scale in zip(low, high, scales, strict=True)):
        return high
    return low[0] * scales[0], low[1] * scales[1]


def check_scales(pairs: Sequence[tuple[Path, Size, Path, Size]]) -> None:
    """Raises UsageError for a pair (low-resolution file, size, original file, size) whose sizes do not fit.

    The original must not be smaller. But for rounding, its scale must be the same for both sides, or differ between
    the sides as it does in the first pair.
    """
    for low_path, low, high_path, high in pairs:
        both = f"{low_path} ({low[0]} x {low[1]}) and {high_path} ({high[0]} x {high[1]})"
        if high[0] < low[0] or high[1] < low[1]:
            raise UsageError(f"{both}: expected the second picture to be the larger one; are the folders swapped?")
        scales = _scales(low, high)
        first = _scales(pairs[0][1], pairs[0][3])
        if not (_overlap(*scales) or (_overlap(scales[0], first[0]) and _overlap(scales[1], first[1]))):
            raise UsageError(
                f"{both}: expected the shape of one picture, got scales of {high[0] / low[0]:.3g} and "
                f"{high[1] / low[1]:.3g}; are both folders in the same order?"
            )


def without_partner(low: Sequence[Path], high: Sequence[Path]) -> list[Path]:
    """The files whose name, without suffix and scale (`0801x2.png`), is in only one of the lists."""
    stems = [{_stem(path) for path in paths} for paths in (low, high)]
    return [
        path for paths, others in ((low, stems[1]), (high, stems[0])) for path in paths if _stem(path) not in others
    ] or list(low[len(high) :] or high[len(low) :])


def _stem(path: Path) -> str:
    return re.sub(r"[_-]?x\d+(\.\d+)?$", "", path.stem, flags=re.IGNORECASE)


def _scales(low: Size, high: Size) -> list[tuple[float, float]]:
    """For each side, the open interval of the scales that give these sizes by rounding up, down or to the nearest."""
    return [
        (large / (small + 1), large / (small - 1) if small > 1 else float("inf"))
        for small, large in zip(low, high, strict=True)
    ]


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return max(a[0], b[0]) < min(a[1], b[1])
