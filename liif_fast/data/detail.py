"""A lookup, in constant time, of how much fine detail a crop of a picture holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 16


class DetailMap:
    """The high-frequency energy of a picture [H, W, C] uint8, summed over blocks of 16 x 16 pixels.

    The energy is the mean square of the gray picture's discrete Laplacian. FLOOR (in squared gray levels) is added so
    that flat crops, such as skies, are still drawn now and then.
    """

    FLOOR = 4.0

    def __init__(self, picture: NDArray[np.uint8]) -> None:
        gray = picture.astype(np.float32).mean(axis=2)
        laplacian = np.zeros_like(gray)
        laplacian[1:-1, 1:-1] = (
            4 * gray[1:-1, 1:-1] - gray[:-2, 1:-1] - gray[2:, 1:-1] - gray[1:-1, :-2] - gray[1:-1, 2:]
        )
        rows, columns = (-(-length // BLOCK) for length in gray.shape)
        full = np.zeros((rows * BLOCK, columns * BLOCK), np.float32)
        full[: gray.shape[0], : gray.shape[1]] = laplacian**2
        blocks = full.reshape(rows, BLOCK, columns, BLOCK).sum(axis=(1, 3), dtype=np.float64)
        self._sums = np.pad(blocks.cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def energy(self, top: int, left: int, side: int) -> float:
        """The mean energy of the square crop at (top, left), whose edges are rounded to blocks."""
        last_row, last_column = (length - 1 for length in self._sums.shape)
        row, column = min(top // BLOCK, last_row - 1), min(left // BLOCK, last_column - 1)
        bottom = min(max(row + 1, round((top + side) / BLOCK)), last_row)
        right = min(max(column + 1, round((left + side) / BLOCK)), last_column)
        total = (
            self._sums[bottom, right] - self._sums[row, right] - self._sums[bottom, column] + self._sums[row, column]
        )
        mean: float = float(total) / ((bottom - row) * (right - column) * BLOCK**2)
        return mean + self.FLOOR
