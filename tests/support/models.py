"""Tiny models, queries to put to them, and the answers that they should give."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from liif_fast import functional, make_cell, make_coord, models
from liif_fast.training.bilinear_init import bilinear_init

EDSR: dict[str, Any] = {"name": "edsr-baseline", "args": {"n_resblocks": 2, "n_feats": 8, "no_upsampling": True}}
MLP: dict[str, Any] = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16, 16]}}
# What another encoder needs beside the arguments of EDSR to be tiny too.
MORE_ARGUMENTS = {"rcan": {"n_resgroups": 1, "reduction": 2}}


class WideEncoder(nn.Module):
    """One convolution whose far taps weigh as much as its near ones: a halo too small by one pixel shows at once."""

    def __init__(self, radius: int = 4) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.out_dim, self.receptive_radius, self.scale = 6, radius, 1
        self.conv = nn.Conv2d(3, 6, 2 * radius + 1, padding=radius)

    def forward(self, x: Tensor) -> Tensor:
        return 4 * self.conv(x)


def encoder_spec(name: str = "edsr-baseline") -> dict[str, Any]:
    """The tiny encoder of this name."""
    return {"name": name, "args": {**EDSR["args"], **MORE_ARGUMENTS.get(name, {})}}


def liif_spec(encoder: dict[str, Any] = EDSR, **switches: bool) -> dict[str, Any]:
    """The tiny LIIF as a configuration names it."""
    args = {"encoder_spec": copy.deepcopy(encoder), "imnet_spec": copy.deepcopy(MLP), **switches}
    return {"name": "liif", "args": args}


def tiny_liif(encoder: str | nn.Module = "edsr-baseline", seed: int = 0, **options: Any) -> models.LIIF:
    """A LIIF with random weights in eval mode; the options are those of `LIIF`."""
    torch.manual_seed(seed)
    spec = encoder_spec(encoder) if isinstance(encoder, str) else encoder
    return models.LIIF(spec, MLP, **options).eval()


def bilinear_liif() -> models.LIIF:
    """A LIIF that is bilinear interpolation, exactly."""
    model = tiny_liif()
    bilinear_init(model, residual_gain=0)
    return model


def grid_queries(height: int = 9, width: int = 8, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Coordinates and cells of every pixel of an output of this size, [batch, height * width, 2] each."""
    coord, cell = make_coord((height, width)), make_cell((height, width))
    return coord.expand(batch, -1, -1), cell.expand(batch, -1, -1)


def reference_answer(model: models.LIIF, coord: Tensor, cell: Tensor) -> Tensor:
    """The answer worked out anew from the model's present features and weights."""
    assert model.feat is not None
    with torch.no_grad():
        return functional.query(model.feat, coord, cell, model.decoder_params(), backend="reference")
