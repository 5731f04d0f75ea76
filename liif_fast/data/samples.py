"""Samples: a low-resolution picture, query points and their true colours (LIIF, section 4)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from liif_fast.data.pictures import Picture
from liif_fast.errors import UsageError
from liif_fast.geometry import axis_coord, make_coord

Sample = dict[str, Tensor]
Pair = tuple[Picture, Picture]  # low resolution, truth
# The part of the low-resolution picture that the truth covers: (from, to) of each axis, in LIIF's coordinates.
Span = tuple[tuple[float, float], tuple[float, float]]
WHOLE: Span = ((-1, 1), (-1, 1))


class Samples(Dataset[Sample]):
    """Base class of the wrappers: item i is {inp [C, h, w], coord [Q, 2], cell [Q, 2], gt [Q, C]} of picture i.

    augment: applies each flip with probability one half.
    sample_q: the number of queries, which are distinct pixels as long as there are enough; None asks for every pixel,
        row by row.
    seed: a sample depends only on (seed, epoch, index) and not on the number of workers, so that a resumed run sees
        what the interrupted one would have seen. The trainer calls `set_epoch`.
    """

    paired: ClassVar[bool]

    def __init__(self, dataset: Any, augment: bool, sample_q: int | None, seed: int) -> None:
        self.dataset = dataset
        self.augment = augment
        self.sample_q = None if sample_q is None else whole_number("sample_q", sample_q)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch for which the next samples are drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def rng(self, index: int) -> np.random.Generator:
        """The random number generator of one sample."""
        return np.random.default_rng((self.seed, self.epoch, index))


def whole_number(name: str, value: Any) -> int:
    """Returns the value; raises UsageError unless it is a whole number of 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name}: expected a whole number of 1 or more, got {value!r}")
    return value


def to_tensor(picture: Picture) -> Tensor:
    """Converts [H, W, C] uint8 to [C, H, W] float32 in [0, 1]."""
    return torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32, order="C")) / 255


def augmented(pair: Pair, rng: np.random.Generator, span: Span = WHOLE) -> tuple[Pair, Span]:
    """Flips and transposes both pictures alike, each with probability one half; returns them and their new span."""
    vertical, horizontal, transpose = rng.random(3) < 0.5
    low, high = pair
    rows, columns = span
    if vertical:
        low, high, rows = low[::-1], high[::-1], mirrored(rows)
    if horizontal:
        low, high, columns = low[:, ::-1], high[:, ::-1], mirrored(columns)
    if transpose:
        low, high, rows, columns = low.transpose(1, 0, 2), high.transpose(1, 0, 2), columns, rows
    return (low, high), (rows, columns)


def mirrored(bounds: tuple[float, float]) -> tuple[float, float]:
    """The bounds of one axis of a span after a flip."""
    return -bounds[1], -bounds[0]


def to_sample(pair: Pair, sample_q: int | None, rng: np.random.Generator, span: Span = WHOLE) -> Sample:
    """Makes {inp [C, h, w], coord [Q, 2], cell [Q, 2], gt [Q, C]} of a pair, by all pixels or `sample_q` of them.

    A truth of fewer than `sample_q` pixels gives all of them in random order, over and over.
    """
    low, high = pair
    shape = high.shape[:2]
    pixels = shape[0] * shape[1]
    if sample_q is None:
        coord = make_coord(shape, span)
        colours = high.reshape(pixels, -1)
    else:
        enough = pixels >= sample_q
        chosen = rng.choice(pixels, sample_q, replace=False) if enough else np.resize(rng.permutation(pixels), sample_q)
        places = np.divmod(chosen, shape[1])
        axes = [axis_coord(n, *bounds)[place] for n, bounds, place in zip(shape, span, places, strict=True)]
        coord = torch.stack(axes, dim=-1)
        colours = high[places]
    cell = torch.tensor([(hi - lo) / n for n, (lo, hi) in zip(shape, span, strict=True)])
    gt = torch.from_numpy(colours.astype(np.float32)) / 255
    return {"inp": to_tensor(low), "coord": coord, "cell": cell.expand(len(coord), 2).contiguous(), "gt": gt}


def padded(picture: Picture, height: int, width: int) -> Picture:
    """Mirrors the picture beyond its lower and right edges until it has at least height x width pixels."""
    missing = [max(0, side - length) for side, length in zip((height, width), picture.shape[:2], strict=True)]
    if not any(missing):
        return picture
    return np.pad(picture, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
