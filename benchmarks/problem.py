"""The tensors of a shape: features, coordinates, weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import liif_fast
from benchmarks import published_weights
from benchmarks.shapes import CHANNELS, HIDDEN, QUERIES, Shape
from liif_fast.geometry import make_cell, make_coord
from liif_fast.models import LIIF
from liif_fast.params import DecoderParams

PHOTOGRAPH = Path(__file__).resolve().parent.parent / "examples" / "osprey.jpg"


def photograph(size: tuple[int, int]) -> Tensor:
    """The middle of the photograph, mirrored where it is too small: [1, 3, height, width] in [0, 1]."""
    height, width = size
    pixels = np.asarray(Image.open(PHOTOGRAPH).convert("RGB"), dtype=np.float32) / 255
    missing = [max(0, want - have) for want, have in zip(size, pixels.shape[:2], strict=True)]
    pixels = np.pad(pixels, [*((n // 2, n - n // 2) for n in missing), (0, 0)], mode="symmetric")
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    part = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    return torch.from_numpy(part).permute(2, 0, 1)[None]


@torch.no_grad()
def trained(size: tuple[int, int], weights: str = "trained") -> tuple[Tensor, DecoderParams]:
    """A model's features of a photograph and its decoder: the package's model, or the `published` checkpoint.

    Raises published_weights.Unreachable where that has not been fetched and cannot be.
    """
    model = liif_fast.load(published_weights.fetch() if weights == "published" else "default", "cpu")
    assert isinstance(model, LIIF)
    return model.gen_feat(photograph(size) * 2 - 1), model.decoder_params()


def initial(
    size: int | tuple[int, int],
    dense: bool,
    hidden: tuple[int, ...] = HIDDEN,
    batch: int = 1,
    local_ensemble: bool = True,
    feat_unfold: bool = True,
    cell_decode: bool = True,
) -> tuple[Tensor, DecoderParams]:
    """PyTorch's initial weights and normal features; dense: their absolute values, so that every unit is active."""
    generator = torch.Generator().manual_seed(0)
    widths = (CHANNELS * (9 if feat_unfold else 1) + (4 if cell_decode else 2), *hidden, 3)

    def uniform(shape: tuple[int, ...], bound: float) -> Tensor:
        values = torch.rand(shape, generator=generator) * 2 * bound - bound
        return values.abs() if dense else values

    weights = tuple(uniform((b, a), a**-0.5) for a, b in pairwise(widths))
    biases = tuple(uniform((b,), a**-0.5) for a, b in pairwise(widths))
    height, width = (size, size) if isinstance(size, int) else size
    feat = torch.randn(batch, CHANNELS, height, width, generator=generator)
    params = DecoderParams(weights, biases, CHANNELS, local_ensemble, feat_unfold, cell_decode)
    return feat.abs() if dense else feat, params


def places(size: tuple[int, int], batch: int) -> tuple[Tensor, Tensor]:
    """coord and cell of random queries [batch, 2304, 2], one scale between 1 and 4 for each picture, as in training."""
    generator = torch.Generator().manual_seed(2)
    coord = torch.rand(batch, QUERIES, 2, generator=generator) * 2 - 1
    cell = torch.tensor([2 / size[0], 2 / size[1]]) / (1 + 3 * torch.rand(batch, 1, 1, generator=generator))
    return coord, cell.expand(batch, QUERIES, 2).contiguous()


class Problem:
    """What every contender of a shape is given, on one device."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.shape, self.device = shape, device
        if shape.weights in ("published", "trained"):
            feat, params = trained(shape.size, shape.weights)
        else:
            switches = (shape.local_ensemble, shape.feat_unfold, shape.cell_decode)
            feat, params = initial(shape.size, shape.weights == "dense", shape.hidden, shape.batch, *switches)
        if shape.out is None:
            coord, cell = places(shape.size, shape.batch)
        else:
            coord, cell = make_coord(shape.out)[None], make_cell(shape.out)[None]
        weights, biases = (
            tuple(t.detach().to(device).requires_grad_(shape.backward) for t in tensors)
            for tensors in (params.weights, params.biases)
        )
        switches = (params.local_ensemble, params.feat_unfold, params.cell_decode)
        self.params = DecoderParams(weights, biases, params.channels, *switches)
        self.feat = feat.to(device).requires_grad_(shape.backward)
        self.coord, self.cell = coord.to(device), cell.to(device)
        generator = torch.Generator().manual_seed(3)
        self.grad = torch.randn(*coord.shape[:2], params.out_dim, generator=generator).to(device)

    @property
    def leaves(self) -> list[Tensor]:
        """What gradients are asked of."""
        return [self.feat, *self.params.weights, *self.params.biases]
