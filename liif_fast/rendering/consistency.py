"""Results that are consistent with their picture: their mean over each input pixel's footprint is that pixel.

A model changes the mean of an area by some levels, and a flat area not everywhere alike. What the means lack is spread
over the output by an interpolation that keeps means: in each input pixel a parabola whose mean is the pixel's value and
whose ends are shared with its neighbours (Colella & Woodward 1984, the piecewise parabolic method), averaged over each
output pixel. For whole factors one pass is exact; for others the rest shrinks from pass to pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liif_fast.box import Box, Region
from liif_fast.rendering import periodic
from liif_fast.rendering.alpha import owner_pixels
from liif_fast.rendering.encoding import INTEGER_MAX, Pixels
from liif_fast.rendering.options import Held, Options
from liif_fast.rendering.output import Target
from liif_fast.rendering.render import pieces
from liif_fast.rendering.source import FilePixels
from liif_fast.rendering.tiling import Span

PASSES = 5  # for factors that are no whole numbers
SLOW_PASSES = 10  # for such factors below 2, where an output pixel has a part in several input pixels
REACH = 4  # input pixels beside its own on which an output pixel depends, for each pass
# How far results may leave the range of the 3 x 3 input pixels around them, in such ranges: flat areas stay flat.
OVERSHOOT = 0.5


class Taps(NamedTuple):
    """A linear map along an axis: the sum of weights [n, K] times the values at the places [n, K]."""

    places: Tensor
    weights: Tensor

    def __call__(self, values: Tensor, axis: int, start: int) -> Tensor:
        """values: the axis holds what is at the places from `start` on."""
        shape = [1] * values.dim()
        shape[axis] = -1
        total: Tensor | None = None
        for index, weight in zip(self.places.unbind(1), self.weights.unbind(1), strict=True):
            # Beyond what is given, only weights of 0 and outputs that are cut off reach.
            part = values.index_select(axis, (index - start).clamp(0, values.shape[axis] - 1).to(values.device))
            part = part * weight.view(shape).to(values.device)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total


class Axis(NamedTuple):
    """An axis of `length` input pixels and `out` output pixels."""

    length: int
    out: int

    def covered(self, first: int, last: int) -> Span:
        """The output pixels that the input pixels first <= i < last touch."""
        return Span(first * self.out // self.length, min(self.out, -(-last * self.out // self.length)))

    def touched(self, first: int, last: int) -> Span:
        """The input pixels that the output pixels first <= o < last touch."""
        return Span(first * self.length // self.out, min(self.length, -(-last * self.length // self.out)))

    def means(self, first: int, last: int) -> Taps:
        """From the output to its means over the footprints of the input pixels first <= i < last."""
        return _overlaps(first, last, self.out, self.length)

    def spread(self, first: int, last: int) -> Taps:
        """From input pixels to the output pixels first <= o < last, so that `means` gives the input pixels again."""
        if self.out < self.length:
            # An output pixel covers several input pixels: their mean.
            return _overlaps(first, last, self.length, self.out)
        ends = np.arange(first, last + 1) * (self.length / self.out)
        cells = np.floor(ends[:-1] + 1e-9).astype(np.int64)
        weight = np.zeros((last - first, 6))
        for cell in range(2):
            low = np.clip(ends[:-1] - cells - cell, 0, 1)
            high = np.clip(ends[1:] - cells - cell, 0, 1)
            left, right, own = (above - below for above, below in zip(_parabola(high), _parabola(low), strict=True))
            # The value between two pixels, of the two on either side of it, is (-1, 7, 7, -1) / 12 of these.
            for tap, part in enumerate(
                (-left, 7 * left - right, 7 * left + 7 * right + 12 * own, 7 * right - left, -right)
            ):
                weight[:, cell + tap] += part / 12
        weight /= (ends[1:] - ends[:-1])[:, None]
        index = np.clip(cells[:, None] + np.arange(-2, 4), 0, self.length - 1)
        return Taps(torch.from_numpy(index), torch.from_numpy(weight.astype(np.float32)))


def _parabola(end: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The integral from 0 of a parabola on [0, 1], by the weights of its left end, its right end and its mean."""
    square, cube = end**2, end**3
    return end - 2 * square + cube, cube - square, 3 * square - 2 * cube


def _overlaps(first: int, last: int, length: int, cells: int) -> Taps:
    """Means of an axis of `length` pixels over the cells first <= i < last of `cells` equal ones."""
    # Whole numbers, so that a cell's ends are where they belong: lengths in 1 / cells of a pixel.
    ends = np.arange(first, last + 1, dtype=np.int64) * length
    starts = ends[:-1] // cells
    count = int((-(-ends[1:] // cells) - starts).max())
    index = starts[:, None] + np.arange(count)
    overlap = np.minimum(ends[1:, None], (index + 1) * cells) - np.maximum(ends[:-1, None], index * cells)
    weight = np.maximum(overlap, 0) / length
    return Taps(torch.from_numpy(np.minimum(index, length - 1)), torch.from_numpy(weight.astype(np.float32)))


class ConsistentTarget:
    """A region of a regular output, as an `output.Target`, made consistent with the picture.

    Its tiles are made with a border of some input pixels around the region, and corrected in rows as they come.
    """

    def __init__(self, plain: Target, region: Region, shape: tuple[int, int], margin: tuple[int, int]) -> None:
        """plain: the target without a correction. shape: (H, W) of the picture. margin: as for `periodic.pad`."""
        self.size = region.box.height, region.box.width
        self._plain = plain
        wider = (margin[0] and margin[0] + SLOW_PASSES * REACH, margin[1] and margin[1] + SLOW_PASSES * REACH)
        self._margin, self._region = periodic.padded_region(region, shape, wider)

    def parts(self, model: nn.Module, pictures: Sequence[Pixels], options: Options) -> Iterator[tuple[Box, Tensor]]:
        padded = [periodic.pad(picture, self._margin) for picture in pictures]
        size, box = self._region
        height, width = padded[0].shape[-2:]
        correction = Correction(Axis(height, size[0]), Axis(width, size[1]), padded)
        frame = correction.frame(box)
        # Beside what the receiver keeps: the rows that wait for those below them, and copies while they are corrected.
        row = 16 * frame.width * sum(picture.shape[1] for picture in padded)
        waiting = 2 * correction.halo * -(-size[0] // height)
        held = Held(options.held.row_bytes + row, options.held.rows + waiting)
        options = replace(options, held=held)
        made = pieces(model, [_bounded(picture) for picture in padded], Region(size, frame), options)
        for rows, values in _rows(made, frame.height, frame.width):
            yield from correction.ready(rows, values, frame, box)

    def constant(self, value: Tensor, box: Box) -> Tensor:
        return self._plain.constant(value, box)

    def clamp_alpha(self, values: Tensor, alpha: Tensor, box: Box) -> Tensor:
        return self._plain.clamp_alpha(values, alpha, box)


def _bounded(picture: Pixels) -> Pixels:
    """What the model sees: levels beyond [0, 1], of a few values far from the others, are not its range."""
    if isinstance(picture, Tensor):
        return picture.clamp(0, 1) if picture.is_floating_point() else picture
    return _Bounded(picture) if picture.dtype.is_floating_point else picture


class _Bounded:
    """A picture that stays in its file, with its levels in [0, 1]."""

    def __init__(self, picture: Any) -> None:
        self._picture = picture
        self.shape, self.dtype, self.device = picture.shape, picture.dtype, picture.device

    def expand(self, *sizes: int) -> _Bounded:
        return _Bounded(self._picture.expand(*sizes))

    def __getitem__(self, key: tuple[slice, slice, slice, slice]) -> Tensor:
        window: Tensor = self._picture[key]
        return window.clamp(0, 1)


def _rows(made: Iterator[tuple[Box, Tensor]], height: int, width: int) -> Iterator[tuple[Span, Tensor]]:
    """Rows of the frame as they are complete over its whole width: (rows, values [C, rows, W]), from top to bottom."""
    held: Tensor | None = None
    filled = torch.zeros(height, dtype=torch.int64)
    top = 0
    for box, values in made:
        if held is None:
            held = values.new_empty(values.shape[0], 0, width)
        if box.bottom > top + held.shape[1]:
            more = values.new_empty(values.shape[0], box.bottom - top - held.shape[1], width)
            held = torch.cat((held, more), dim=1)
        held[:, box.top - top : box.bottom - top, box.left : box.right] = values
        filled[box.top : box.bottom] += box.width
        waiting = (filled[top : top + held.shape[1]] < width).nonzero()
        count = int(waiting[0]) if len(waiting) else held.shape[1]
        if count:
            yield Span(top, top + count), held[:, :count]
            held, top = held[:, count:], top + count


class Correction:
    """The correction of an output of a picture, or of several of one size, whose values lie one after another."""

    def __init__(self, rows: Axis, cols: Axis, pictures: Sequence[Pixels]) -> None:
        self.rows, self.cols, self.pictures = rows, cols, pictures
        whole = rows.out % rows.length == 0 and cols.out % cols.length == 0
        below_two = any(axis.length < axis.out < 2 * axis.length for axis in (rows, cols))
        self.passes = 1 if whole else SLOW_PASSES if below_two else PASSES
        self.halo = self.passes * REACH
        self._limits = _limits(pictures)
        self._held: Tensor | None = None
        self._top = 0  # row of the frame at which the held rows begin
        self._done = 0  # rows of the region that have been given

    def frame(self, box: Box) -> Box:
        """The box with the output around it that its correction depends on."""
        rows = _wider(self.rows, box.top, box.bottom, self.halo)
        cols = _wider(self.cols, box.left, box.right, self.halo)
        return Box(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)

    def ready(self, rows: Span, values: Tensor, frame: Box, box: Box) -> Iterator[tuple[Box, Tensor]]:
        """Take further rows of the frame; give (box in the region, values) for what is complete by them."""
        self._held = values if self._held is None else torch.cat((self._held, values), dim=1)
        last = rows.stop == frame.height
        bottom = frame.top + rows.stop
        reach = self._complete(bottom, box) if not last else box.bottom
        first = box.top + self._done
        if reach > first:
            yield self._corrected(first, reach, frame, box)
            self._done = reach - box.top
            keep = _wider(self.rows, min(reach, box.bottom - 1), box.bottom, self.halo).start - frame.top
            if keep > self._top:
                self._held = self._held[:, keep - self._top :].clone()
                self._top = keep

    def _complete(self, bottom: int, box: Box) -> int:
        """The row of the output down to which all is known that the correction depends on."""
        inputs = bottom * self.rows.length // self.rows.out - self.halo - 1
        return min(box.bottom, max(box.top, inputs * self.rows.out // self.rows.length))

    def _corrected(self, first: int, last: int, frame: Box, box: Box) -> tuple[Box, Tensor]:
        assert self._held is not None
        rows = _wider(self.rows, first, last, self.halo)
        top = rows.start - frame.top - self._top
        known = self._held[:, top : top + rows.stop - rows.start]
        place = Box(rows.start, frame.left, rows.stop - rows.start, frame.width)
        values = self.apply(known, place)
        inside = values[:, first - rows.start : last - rows.start, box.left - frame.left : box.right - frame.left]
        return Box(first - box.top, 0, last - first, box.width), inside

    def apply(self, values: Tensor, place: Box) -> Tensor:
        """The values [C, h, w] of a box of the output, corrected; exact but for a border of it (`halo`)."""
        rows = self.rows.touched(place.top, place.bottom)
        cols = self.cols.touched(place.left, place.right)
        source = torch.cat([_levels(picture, rows, cols) for picture in self.pictures]).to(values.device)
        values = self._near(values, source, place, rows, cols)
        means = self.rows.means(*rows), self.cols.means(*cols)
        spread = self.rows.spread(place.top, place.bottom), self.cols.spread(place.left, place.right)
        for _ in range(self.passes):
            lacking = source - means[1](means[0](values, 1, place.top), 2, place.left)
            values = values + spread[1](spread[0](lacking, 1, rows.start), 2, cols.start)
        return values.clamp_(*self._limits)

    def _near(self, values: Tensor, source: Tensor, place: Box, rows: Span, cols: Span) -> Tensor:
        """The values kept near those of the 3 x 3 input pixels around each."""
        high = F.max_pool2d(source.unsqueeze(0), 3, stride=1, padding=1)[0]
        low = -F.max_pool2d(-source.unsqueeze(0), 3, stride=1, padding=1)[0]
        more = (high - low) * OVERSHOOT
        down = (owner_pixels(place.top, place.bottom, self.rows.out, self.rows.length) - rows.start).to(values.device)
        across = (owner_pixels(place.left, place.right, self.cols.out, self.cols.length) - cols.start).to(values.device)
        at = down.unsqueeze(1), across.unsqueeze(0)
        low, high = low - more, high + more
        return torch.minimum(torch.maximum(values, low[:, at[0], at[1]]), high[:, at[0], at[1]])


def _wider(axis: Axis, first: int, last: int, halo: int) -> Span:
    """The output pixels first <= o < last with those of so many input pixels more on each side."""
    inputs = axis.touched(first, last)
    return axis.covered(max(0, inputs.start - halo), min(axis.length, inputs.stop + halo))


def _limits(pictures: Sequence[Pixels]) -> tuple[float, float]:
    """The levels between which a result lies: [0, 1], or as far as the pictures go beyond."""
    low, high = 0.0, 1.0
    for picture in pictures:
        if isinstance(picture, Tensor) and picture.is_floating_point():
            least, most = torch.aminmax(picture)
            low, high = min(low, float(least)), max(high, float(most))
        elif isinstance(picture, FilePixels):
            low, high = min(low, picture.array.limits[0]), max(high, picture.array.limits[1])
    return low, high


def _levels(picture: Pixels, rows: Span, cols: Span) -> Tensor:
    """A window [C, h, w] of the picture, float32 with 1 for the greatest integer."""
    every = slice(None)
    window = picture[every, every, slice(*rows), slice(*cols)][0]
    return window.float() / INTEGER_MAX.get(window.dtype, 1)
