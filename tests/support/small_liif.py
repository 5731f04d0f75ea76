"""A small LIIF of this package, questions to put to it, and the answers it should give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from liif_fast import functional, make_cell, make_coord, models

TINY = {"n_resblocks": 1, "n_feats": 8, "no_upsampling": True}
IMNET = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16, 16]}}


def tiny(**switches: Any) -> models.LIIF:
    torch.manual_seed(0)
    return models.LIIF({"name": "edsr-baseline", "args": TINY}, IMNET, **switches)


def questions(height: int = 9, width: int = 8, batch: int = 1) -> tuple[Tensor, Tensor]:
    coord, cell = make_coord((height, width)), make_cell((height, width))
    return coord.expand(batch, -1, -1), cell.expand(batch, -1, -1)


def truth(model: models.LIIF, coord: Tensor, cell: Tensor) -> Tensor:
    """The answer worked out anew from the model's present features and weights."""
    assert model.feat is not None
    with torch.no_grad():
        return functional.query(model.feat, coord, cell, model.decoder_params(), backend="reference")
