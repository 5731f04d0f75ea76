"""Samples for training: a low-resolution crop, query points and their true colours (LIIF, section 4)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from liif_fast.data.detail import DetailMap
from liif_fast.errors import UsageError
from liif_fast.geometry import make_coord

Picture = NDArray[np.uint8]


def resize(picture: Picture, height: int, width: int) -> Picture:
    """Pillow's bicubic resize of [H, W, 3] uint8: antialiased, rounded to 8 bits, as published."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def to_tensor(picture: Picture) -> Tensor:
    """[H, W, 3] uint8 to [3, H, W] float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float() / 255


def augmented(pictures: list[Picture], rng: np.random.Generator) -> list[Picture]:
    """The pictures flipped and transposed alike, each of the three with probability one half."""
    vertical, horizontal, transpose = rng.random(3) < 0.5
    if vertical:
        pictures = [picture[::-1] for picture in pictures]
    if horizontal:
        pictures = [picture[:, ::-1] for picture in pictures]
    if transpose:
        pictures = [picture.transpose(1, 0, 2) for picture in pictures]
    return pictures


def to_sample(low: Picture, high: Picture, sample_q: int | None, rng: np.random.Generator) -> dict[str, Tensor]:
    """inp [3, h, w], coord [Q, 2], cell [Q, 2], gt [Q, 3] of one pair; all pixels, or `sample_q` distinct ones."""
    height, width = high.shape[:2]
    coord = make_coord((height, width))
    gt = to_tensor(high).flatten(1).T.contiguous()
    if sample_q is not None:
        if sample_q > len(coord):
            raise UsageError(
                f"sample_q: expected at most the {len(coord)} pixels of a {height} x {width} crop, got {sample_q}"
            )
        chosen = torch.from_numpy(rng.choice(len(coord), sample_q, replace=False))
        coord, gt = coord[chosen], gt[chosen]
    cell = torch.tensor([2 / height, 2 / width]).expand(len(coord), 2).contiguous()
    return {"inp": to_tensor(low), "coord": coord, "cell": cell, "gt": gt}


class SRImplicitDownsampled(Dataset[dict[str, Tensor]]):
    """A picture and its bicubic reduction by a scale drawn uniformly from [scale_min, scale_max].

    inp_size: side of the low-resolution crop; the truth is a crop of round(inp_size * scale), reduced by itself.
        None takes the whole picture.
    augment: flips and transposition. sample_q: queries per sample, None for every pixel.
    detail_candidates: draws that many crops from as many pictures and keeps one with a probability
        proportional to its high-frequency energy; 1 is the published uniform draw.
    seed: a sample depends only on (seed, epoch, index), whatever the number of workers, so that a resumed
        run sees what the interrupted one would have seen. The trainer calls `set_epoch`.
    Pictures smaller than the crop are enlarged by mirroring.
    """

    def __init__(
        self,
        dataset: Dataset[Picture],
        inp_size: int | None = None,
        scale_min: float = 1,
        scale_max: float | None = None,
        augment: bool = False,
        sample_q: int | None = None,
        detail_candidates: int = 1,
        seed: int = 0,
    ) -> None:
        self.dataset: Any = dataset
        self.inp_size = inp_size
        self.scale_min = scale_min
        self.scale_max = scale_min if scale_max is None else scale_max
        self.augment = augment
        self.sample_q = sample_q
        self.detail_candidates = detail_candidates
        self.seed = seed
        self.epoch = 0
        if not 1 <= self.scale_min <= self.scale_max:
            raise UsageError(f"scales: expected 1 <= scale_min <= scale_max, got {scale_min} and {scale_max}")
        if detail_candidates < 1:
            raise UsageError(f"detail_candidates: expected 1 or more, got {detail_candidates}")
        self._details: dict[int, DetailMap] = {}

    def set_epoch(self, epoch: int) -> None:
        """The epoch to draw the next samples for."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        scale = float(rng.uniform(self.scale_min, self.scale_max))
        low, high = self._whole(index, scale) if self.inp_size is None else self._crop(index, scale, rng)
        if self.augment:
            low, high = augmented([low, high], rng)
        return to_sample(low, high, self.sample_q, rng)

    def _whole(self, index: int, scale: float) -> tuple[Picture, Picture]:
        picture = self.dataset[index]
        # 1e-9: a size that is a whole multiple of the scale must not lose a row to rounding
        height, width = (math.floor(side / scale + 1e-9) for side in picture.shape[:2])
        high = picture[: round(height * scale), : round(width * scale)]
        return resize(high, height, width), high

    def _crop(self, index: int, scale: float, rng: np.random.Generator) -> tuple[Picture, Picture]:
        assert self.inp_size is not None
        side = round(self.inp_size * scale)
        indices = [index, *rng.integers(len(self.dataset), size=self.detail_candidates - 1).tolist()]
        draws = []
        for candidate in indices:
            picture = padded(self.dataset[candidate], side)
            top, left = (int(rng.integers(length - side + 1)) for length in picture.shape[:2])
            draws.append((candidate, picture, top, left))
        chosen = 0
        if len(draws) > 1:
            energies = np.array([self._detail(which, p).energy(t, x, side) for which, p, t, x in draws])
            chosen = int(rng.choice(len(draws), p=energies / energies.sum()))
        _, picture, top, left = draws[chosen]
        high = picture[top : top + side, left : left + side]
        return resize(high, self.inp_size, self.inp_size), high

    def _detail(self, index: int, picture: Picture) -> DetailMap:
        entries = getattr(self.dataset, "entries", None)
        key = index % len(entries) if entries else index
        if key not in self._details:
            self._details[key] = DetailMap(picture)
        return self._details[key]


def padded(picture: Picture, side: int) -> Picture:
    """The picture, mirrored beyond its lower and right edges where it is smaller than side x side."""
    missing = [max(0, side - length) for length in picture.shape[:2]]
    if not any(missing):
        return picture
    return np.pad(picture, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
