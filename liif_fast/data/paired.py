"""The published wrappers of paired pictures: one crops both, one resizes the originals to many sizes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from liif_fast.data.pairing import Size, covered
from liif_fast.data.pictures import Picture, resize
from liif_fast.data.samples import WHOLE, Pair, Sample, Samples, Span, augmented, padded, to_sample, whole_number
from liif_fast.data.wrappers import warn_small
from liif_fast.errors import UsageError


class SRImplicitPaired(Samples):
    """A low-resolution picture and its original; the scale is the ratio of their sizes, whole or not.

    At a scale that is not whole the crops' borders fall between pixels of the original; the coordinates say where
    exactly. Low-resolution pictures smaller than inp_size are mirrored, and so are their originals.

    Args:
        dataset: item i is a pair of ``[h, w, C]`` and ``[H, W, C]`` uint8.
        inp_size: side of a crop of the low-resolution picture, drawn uniformly; the truth is the pixels of the original
            whose centres lie in it, floor(inp_size * scale) a side. None takes the whole pictures.
        augment: as for `SRImplicitDownsampled`.
        sample_q: as for `SRImplicitDownsampled`.
        seed: as for `SRImplicitDownsampled`.
    """

    paired: ClassVar[bool] = True

    def __init__(
        self,
        dataset: Any,
        inp_size: int | None = None,
        augment: bool = False,
        sample_q: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, augment, sample_q, seed)
        self.inp_size = None if inp_size is None else whole_number("inp_size", inp_size)
        if self.inp_size is not None:
            warn_small(dataset, self.inp_size)

    def __getitem__(self, index: int) -> Sample:
        rng = self.rng(index)
        low, high = self.dataset[index]
        rows, columns = covered(low.shape[:2], high.shape[:2])
        pair, span = (low, high[:rows, :columns]), WHOLE
        if self.inp_size is not None:
            pair, span = crop(pair, self.inp_size, rng)
        if self.augment:
            pair, span = augmented(pair, rng, span)
        return to_sample(pair, self.sample_q, rng, span)


def crop(pair: Pair, side: int, rng: np.random.Generator) -> tuple[Pair, Span]:
    """Draws a side x side part of the first picture.

    Returns it with the pixels of the second picture whose centres lie in it, and the span of those pixels.
    """
    small, large = (picture.shape[:2] for picture in pair)
    # Whole numbers keep rounding from adding or losing a pixel.
    sides: Size = (side * large[0] // small[0], side * large[1] // small[1])
    low, high = padded(pair[0], side, side), padded(pair[1], *sides)
    starts, firsts, span = [], [], []
    for length, n, total, count in zip(low.shape[:2], small, large, sides, strict=True):
        start = int(rng.integers(length - side + 1))
        # The smallest k with (k + 0.5) * n / total >= start is the first pixel of the original.
        first = -((n - 2 * start * total) // (2 * n))
        lo, hi = (2 * ((k * n) / total - start) / side - 1 for k in (first, first + count))
        starts.append(start)
        firsts.append(first)
        span.append((lo, hi))
    (top, left), (row, column) = starts, firsts
    low = low[top : top + side, left : left + side]
    return (low, high[row : row + sides[0], column : column + sides[1]]), (span[0], span[1])


class SRImplicitUniformVaried(Samples):
    """A low-resolution picture and its original, whose shorter side is reduced to a size that grows with the index.

    Samples of different sizes fit into one batch if sample_q is given.

    Args:
        dataset: item i is a pair of ``[h, w, C]`` and ``[H, W, C]`` uint8, the whole of which is used.
        size_min: shorter side of the truth for the first item. A data set of one item draws it between the two sizes.
        size_max: shorter side of the truth for the last item; None takes size_min.
        augment: horizontal flips only, as published.
        gt_resize: shorter side to which the truth is then resized, so that all truths have one size.
        sample_q: as for `SRImplicitDownsampled`.
        seed: as for `SRImplicitDownsampled`.
    """

    paired: ClassVar[bool] = True

    def __init__(
        self,
        dataset: Any,
        size_min: int,
        size_max: int | None = None,
        augment: bool = False,
        gt_resize: int | None = None,
        sample_q: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, augment, sample_q, seed)
        self.size_min = whole_number("size_min", size_min)
        self.size_max = self.size_min if size_max is None else whole_number("size_max", size_max)
        self.gt_resize = None if gt_resize is None else whole_number("gt_resize", gt_resize)
        if self.size_max < self.size_min:
            raise UsageError(f"sizes: expected size_min <= size_max, got {size_min} and {size_max}")

    def __getitem__(self, index: int) -> Sample:
        rng = self.rng(index)
        low, high = self.dataset[index]
        place = index / (len(self) - 1) if len(self) > 1 else float(rng.random())
        high = resize_shorter(high, round(self.size_min + (self.size_max - self.size_min) * place))
        if self.augment and rng.random() < 0.5:
            low, high = low[:, ::-1], high[:, ::-1]
        if self.gt_resize is not None:
            high = resize_shorter(high, self.gt_resize)
        return to_sample((low, high), self.sample_q, rng)


def resize_shorter(picture: Picture, side: int) -> Picture:
    """Resizes so that the shorter side is `side` and the longer one int(side * long / short), as torchvision does."""
    height, width = picture.shape[:2]
    if min(height, width) == side:
        return picture
    if height <= width:
        return resize(picture, side, int(side * width / height))
    return resize(picture, int(side * height / width), side)
