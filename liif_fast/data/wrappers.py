"""The published wrapper for training, which reduces pictures on the fly by a scale drawn for each sample."""

from __future__ import annotations

import logging
import math
from typing import Any, ClassVar

import numpy as np

from liif_fast.data.detail import DetailMap
from liif_fast.data.folder import shown
from liif_fast.data.pictures import Picture, resize
from liif_fast.data.samples import Pair, Sample, Samples, augmented, padded, to_sample, whole_number
from liif_fast.errors import UsageError

logger = logging.getLogger(__name__)


class SRImplicitDownsampled(Samples):
    """A picture and its bicubic reduction by a scale drawn uniformly from [scale_min, scale_max].

    Pictures smaller than the crop are mirrored beyond their edges, and one warning names them.

    Args:
        dataset: item i is ``[H, W, C]`` uint8.
        inp_size: side of the low-resolution crop; the truth is a crop of round(inp_size * scale), reduced by itself.
            None takes the whole picture.
        scale_min: the smallest scale, 1 or more.
        scale_max: the largest scale; None takes scale_min.
        augment: flips and transposition, each with probability one half.
        sample_q: queries of a sample, at distinct pixels as long as there are enough; None takes every pixel.
        detail_candidates: draws that many crops from as many pictures and keeps one with a probability proportional to
            its high-frequency energy; 1 is the published uniform draw.
        seed: a sample depends only on the seed, the epoch and its index.
    """

    paired: ClassVar[bool] = False

    def __init__(
        self,
        dataset: Any,
        inp_size: int | None = None,
        scale_min: float = 1,
        scale_max: float | None = None,
        augment: bool = False,
        sample_q: int | None = None,
        detail_candidates: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, augment, sample_q, seed)
        self.inp_size = None if inp_size is None else whole_number("inp_size", inp_size)
        self.scale_min = scale_min
        self.scale_max = scale_min if scale_max is None else scale_max
        self.detail_candidates = whole_number("detail_candidates", detail_candidates)
        if not 1 <= self.scale_min <= self.scale_max:
            raise UsageError(f"scales: expected 1 <= scale_min <= scale_max, got {scale_min} and {scale_max}")
        self._details: dict[int, DetailMap] = {}
        if self.inp_size is None:
            return
        smallest, largest = (round(self.inp_size * scale) for scale in (self.scale_min, self.scale_max))
        if sample_q is not None and sample_q > smallest**2:
            raise UsageError(
                f"sample_q: expected at most the {smallest**2} pixels of a {smallest} x {smallest} crop, got {sample_q}"
            )
        warn_small(dataset, largest)

    def __getitem__(self, index: int) -> Sample:
        rng = self.rng(index)
        scale = float(rng.uniform(self.scale_min, self.scale_max))
        pair = self._whole(index, scale) if self.inp_size is None else self._crop(index, scale, self.inp_size, rng)
        if self.augment:
            pair, _ = augmented(pair, rng)
        return to_sample(pair, self.sample_q, rng)

    def _whole(self, index: int, scale: float) -> Pair:
        least = math.ceil(scale)
        picture = padded(self.dataset[index], least, least)
        # Without 1e-9, a size that is a whole multiple of the scale could lose a row to rounding.
        height, width = (math.floor(side / scale + 1e-9) for side in picture.shape[:2])
        high = picture[: round(height * scale), : round(width * scale)]
        return resize(high, height, width), high

    def _crop(self, index: int, scale: float, inp_size: int, rng: np.random.Generator) -> Pair:
        side = round(inp_size * scale)
        indices = [index, *rng.integers(len(self.dataset), size=self.detail_candidates - 1).tolist()]
        draws = []
        for candidate in indices:
            picture = padded(self.dataset[candidate], side, side)
            top, left = (int(rng.integers(length - side + 1)) for length in picture.shape[:2])
            draws.append((candidate, picture, top, left))
        chosen = 0
        if len(draws) > 1:
            energies = np.array([self._detail(which, p).energy(t, x, side) for which, p, t, x in draws])
            chosen = int(rng.choice(len(draws), p=energies / energies.sum()))
        _, picture, top, left = draws[chosen]
        high = picture[top : top + side, left : left + side]
        return resize(high, inp_size, inp_size), high

    def _detail(self, index: int, picture: Picture) -> DetailMap:
        key = index % getattr(self.dataset, "count", len(self.dataset))
        if key not in self._details:
            self._details[key] = DetailMap(picture)
        return self._details[key]


def warn_small(dataset: Any, side: int) -> None:
    """Warns of pictures in a folder that are smaller than a crop of side x side and will be mirrored."""
    store = dataset.stores[0] if hasattr(dataset, "stores") else None
    if store is None:
        return
    sizes = {entry.path.name: store.size(number) for number, entry in enumerate(store.entries)}
    small = [f"{name} ({height} x {width})" for name, (height, width) in sizes.items() if min(height, width) < side]
    if small:
        logger.warning(
            "%d of %d pictures are smaller than the largest crop, %d x %d, and mirrored beyond their edges: %s",
            *(len(small), len(sizes), side, side, shown(small)),
        )
