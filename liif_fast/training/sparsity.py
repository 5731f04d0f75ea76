"""A penalty under which more hidden units of the decoder are zero; the CPU kernels skip the zero ones.

The fused decoder keeps no hidden activations, so the penalty computes them again in PyTorch for a part of the queries.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from liif_fast import geometry
from liif_fast.errors import UsageError
from liif_fast.models import LIIF
from liif_fast.params import DecoderParams
from liif_fast.training.config import Sparsity


def check_sparsity(settings: Sparsity, model: Any) -> None:
    """Raises UsageError unless the model is a LIIF whose MLP has one hidden layer for each weight of the penalty."""
    layers = len(model.decoder_params().hidden) if isinstance(model, LIIF) and model.imnet is not None else 0
    if len(settings.weights) != layers:
        raise UsageError(
            f"sparsity.weights: expected one number for each hidden layer of imnet, {layers} here, "
            f"got {len(settings.weights)}"
        )


def sparsity_penalty(settings: Sparsity, model: Any, coord: Tensor, cell: Tensor) -> Tensor:
    """The L1 penalty on the hidden activations of imnet: the weighted sum of each layer's mean activation, a scalar.

    model: a LIIF right after it encoded its input. coord, cell: [B, Q, 2], of which the first queries of each sample
    are taken; every fourth of them is decoded from the same one of the four neighbours.
    """
    count = max(1, round(settings.queries * coord.shape[1]))
    params = model.decoder_params()
    # Half precision would round the small means that the penalty is made of.
    with torch.autocast(coord.device.type, enabled=False):
        layers = hidden_activations(model.feat.float(), coord[:, :count], cell[:, :count], params)
        means = torch.stack([layer.mean() for layer in layers])
        return (means * means.new_tensor(list(settings.weights))).sum()


def hidden_activations(feat: Tensor, coord: Tensor, cell: Tensor, params: DecoderParams) -> list[Tensor]:
    """What stands behind each ReLU of f_theta (paper, eq. 1): [B, Q, width] for each hidden layer.

    feat: [B, C, H, W]. coord, cell: [B, Q, 2]. Query q is decoded from its neighbour number q modulo their number.
    """
    size = (feat.shape[2], feat.shape[3])
    found = geometry.corners(coord, size, params.local_ensemble)
    number = torch.arange(coord.shape[1], device=coord.device)
    turn = number % len(found)
    row, col, rel = (torch.stack(parts)[turn, :, number].transpose(0, 1) for parts in _parts(found))
    rows = [_unfolded(feat, row, col) if params.feat_unfold else _picked(feat, row, col), rel]
    if params.cell_decode:
        rows.append(geometry.relative_cell(cell, size))
    hidden = torch.cat(rows, dim=-1)
    layers = []
    for weight, bias in zip(params.weights[:-1], params.biases[:-1], strict=True):
        hidden = F.linear(hidden, weight, bias).relu()
        layers.append(hidden)
    return layers


def _parts(found: list[geometry.Corner]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    return [corner.row for corner in found], [corner.col for corner in found], [corner.rel for corner in found]


def _picked(feat: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """The features [B, Q, C] of the map [B, C, H, W] at rows and columns [B, Q]."""
    sample = torch.arange(len(feat), device=feat.device).unsqueeze(1)
    return feat.permute(0, 2, 3, 1)[sample, row, col]


def _unfolded(feat: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """The features with those of their 8 neighbours (paper, eq. 3): [B, Q, C * 9], zero outside of the map."""
    padded = F.pad(feat, (1, 1, 1, 1))
    taps = [_picked(padded, row + y, col + x) for y in range(3) for x in range(3)]
    return torch.stack(taps, dim=-1).flatten(2)
