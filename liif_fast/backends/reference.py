"""The decoder in plain PyTorch, operation by operation as published: the oracle of every kernel.

Slow on purpose: it unfolds the whole map for each call and runs the MLP four times, as the published code does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from liif_fast import geometry
from liif_fast.params import DecoderParams


def sample_nearest(grid: Tensor, coord: Tensor) -> Tensor:
    """Nearest pixel of grid [B, C, H, W] at coord [B, Q, 2]: [B, Q, C]."""
    if grid.dtype == coord.dtype:
        flipped = coord.flip(-1).unsqueeze(1)
        sampled = F.grid_sample(grid, flipped, mode="nearest", align_corners=False)
        return sampled[:, :, 0, :].permute(0, 2, 1)
    # The coordinates' precision chooses the pixels, so that float64 features see the neighbours of float32 ones.
    row = geometry.nearest_index(coord[..., 0], grid.shape[-2])
    col = geometry.nearest_index(coord[..., 1], grid.shape[-1])
    flat = (row * grid.shape[-1] + col).unsqueeze(1).expand(-1, grid.shape[1], -1)
    return grid.flatten(2).gather(2, flat).permute(0, 2, 1)


def mlp(rows: Tensor, params: DecoderParams) -> Tensor:
    """f_theta on rows [N, in]: Linear, ReLU, ..., Linear."""
    for k, (weight, bias) in enumerate(zip(params.weights, params.biases, strict=True)):
        rows = F.linear(rows if k == 0 else rows.relu(), weight, bias)
    return rows


def query(feat: Tensor, coord: Tensor, cell: Tensor | None, params: DecoderParams) -> Tensor:
    """Signal at each coordinate, s_q (paper, eq. 4).

    feat [B, C, H, W]; coord and cell [B, Q, 2] in [-1, 1] units, (y, x) order; returns [B, Q, out_dim] in feat's dtype.
    With float32 coordinates and float64 features and weights, everything that depends on the coordinates alone is
    float32 and the rest float64: the truth that kernels are held against.
    """
    batch, queries = coord.shape[:2]
    height, width = feat.shape[-2:]
    if params.feat_unfold:
        feat = F.unfold(feat, 3, padding=1).view(batch, -1, height, width)
    centres = geometry.make_coord((height, width), flatten=False, device=feat.device).to(coord.dtype)
    centres = centres.permute(2, 0, 1).unsqueeze(0).expand(batch, 2, height, width)

    predictions, areas = [], []
    for shift in geometry.shifts(params.local_ensemble):
        look = geometry.lookup_coord(coord, (height, width), shift, params.local_ensemble)
        rel = coord - sample_nearest(centres, look)
        rel = torch.stack([rel[..., 0] * height, rel[..., 1] * width], dim=-1)
        rows = torch.cat([sample_nearest(feat, look), rel.to(feat.dtype)], dim=-1)
        if params.cell_decode:
            assert cell is not None
            # A second copy of the wide rows, as published: the oracle is also the baseline of every ratio.
            rows = torch.cat([rows, geometry.relative_cell(cell, (height, width)).to(feat.dtype)], dim=-1)
        predictions.append(mlp(rows.view(batch * queries, -1), params).view(batch, queries, -1))
        areas.append((rel[..., 0] * rel[..., 1]).abs() + geometry.AREA_EPS)

    result = torch.zeros_like(predictions[0])
    for prediction, share in zip(predictions, geometry.blend_weights(areas), strict=True):
        result = result + prediction * share.unsqueeze(-1).to(feat.dtype)
    return result


def batched_query(
    feat: Tensor, coord: Tensor, cell: Tensor | None, params: DecoderParams, bsize: int = 30_000
) -> Tensor:
    """query in chunks of bsize coordinates without gradients, as the published demo runs it."""
    with torch.no_grad():
        chunks = [
            query(feat, coord[:, q : q + bsize], None if cell is None else cell[:, q : q + bsize], params)
            for q in range(0, coord.shape[1], bsize)
        ]
    return torch.cat(chunks, dim=1)


def metasr_query(feat: Tensor, coord: Tensor, cell: Tensor, imnet: Callable[[Tensor], Tensor]) -> Tensor:
    """Meta-SR (Hu et al. 2019) as LIIF's authors publish it: each query's own weights times its unfolded feature.

    feat [B, C, H, W]; coord and cell [B, Q, 2] in [-1, 1] units, (y, x) order; imnet maps [N, 3] in feat's dtype to
    [N, 9 * C * out_dim]; returns [B, Q, out_dim] in feat's dtype. Dtypes are treated as by `query`.
    """
    batch, queries = coord.shape[:2]
    height, width = feat.shape[-2:]
    unfolded = F.unfold(feat, 3, padding=1).view(batch, -1, height, width)
    # Meta-SR thinks in corners: of the pixel asked for, and of the feature's pixel that it falls into.
    half = torch.tensor([(2 / height) / 2, (2 / width) / 2], device=feat.device)
    corners = (geometry.make_coord((height, width), flatten=False, device=feat.device) - half).to(coord.dtype)
    corners = corners.permute(2, 0, 1).unsqueeze(0).expand(batch, 2, height, width)
    corner = coord - cell / 2
    look = geometry.lookup_coord(corner, (height, width), (0, 0), local_ensemble=True)
    place = corner - sample_nearest(corners, look)
    place = torch.stack([place[..., 0] * (height / 2), place[..., 1] * (width / 2)], dim=-1)
    zoom = cell[..., :1] * (height / 2)
    weight = imnet(torch.cat([place, zoom], dim=-1).to(feat.dtype).view(batch * queries, 3))
    picked = sample_nearest(unfolded, look).reshape(batch * queries, 1, -1)
    return torch.bmm(picked, weight.view(batch * queries, picked.shape[-1], -1)).view(batch, queries, -1)
