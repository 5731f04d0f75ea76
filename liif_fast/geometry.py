"""Where a query looks and how its answers are weighed: coordinates, cells, neighbours, areas.

Everything here is float32 whatever the features are (float64 only when the coordinates are), and does the published
operations in the published order: a neighbour is chosen by rounding, so another order picks another pixel at ties.
This is the one Python home of the decoder's epsilons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from liif_fast.box import Box

SHIFT_EPS = 1e-6  # moves the four look-ups off the pixel borders, on which they would all fall at a pixel's centre
CLAMP = 1 - 1e-6  # keeps the look-ups inside the map
AREA_EPS = 1e-9  # keeps the sum of the areas above zero


class Window(NamedTuple):
    """A part of a full feature map: the given rows start at (top, left) of a map of height x width."""

    height: int
    width: int
    top: int = 0
    left: int = 0


class Grid(NamedTuple):
    """Queries at the pixels of `box`, row by row, of a whole output picture of size (H, W)."""

    size: tuple[int, int]
    box: Box


class Corner(NamedTuple):
    """One neighbour of every query.

    row, col: int64 [B, Q], pixel of the full map. rel: [B, Q, 2], (y, x) offset from the neighbour's centre, in
    half pixels (paper: x_q - v*_t, scaled by the map's size). area: [B, Q], |dy * dx| + 1e-9.
    """

    row: Tensor
    col: Tensor
    rel: Tensor
    area: Tensor


def axis_coord(n: int, lo: float = -1.0, hi: float = 1.0, device: torch.device | str | None = None) -> Tensor:
    """Pixel centres of one axis: n float32 values inside [lo, hi]. Its slices are the coordinates of a band."""
    r = (hi - lo) / (2 * n)
    return lo + r + (2 * r) * torch.arange(n, device=device).float()


def make_coord(
    shape: Sequence[int],
    ranges: Sequence[tuple[float, float]] | None = None,
    flatten: bool = True,
    device: torch.device | str | None = None,
) -> Tensor:
    """The pixel centres of a grid, float32, in (y, x) order.

    Args:
        shape: (H, W) of the grid.
        ranges: the bounds of each axis, (-1, 1) by default.
        flatten: ``[H * W, 2]``, row by row, instead of ``[H, W, 2]``.
        device: where the result is made.
    """
    bounds = [(-1.0, 1.0)] * len(shape) if ranges is None else ranges
    axes = [axis_coord(n, lo, hi, device) for n, (lo, hi) in zip(shape, bounds, strict=True)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return grid.view(-1, grid.shape[-1]) if flatten else grid


def grid_queries(grid: Grid, batch: int = 1, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """coord and cell [batch, pixels, 2] of a grid's queries: exactly those of make_coord and make_cell."""
    (height, width), box = grid
    ys = axis_coord(height, device=device)[box.top : box.bottom]
    xs = axis_coord(width, device=device)[box.left : box.right]
    coord = torch.stack(torch.meshgrid(ys, xs, indexing="ij"), dim=-1).view(1, -1, 2)
    cell = make_cell(grid.size, 1, device=device)
    return coord.expand(batch, -1, -1), cell.expand(batch, box.pixels, 2)


def make_cell(shape: Sequence[int], count: int | None = None, device: torch.device | str | None = None) -> Tensor:
    """The size of one pixel of an H x W output, (2/H, 2/W), once for each query: ``[count, 2]`` float32.

    Args:
        shape: (H, W) of the output.
        count: the number of queries, H * W by default.
        device: where the result is made.
    """
    height, width = shape
    cell = torch.ones(height * width if count is None else count, 2, device=device)
    cell[:, 0] *= 2 / height
    cell[:, 1] *= 2 / width
    return cell


def shifts(local_ensemble: bool) -> list[tuple[int, int]]:
    """Direction (y, x) of each look-up, y outer and x inner."""
    return [(vy, vx) for vy in (-1, 1) for vx in (-1, 1)] if local_ensemble else [(0, 0)]


def lookup_coord(coord: Tensor, shape: Sequence[int], shift: tuple[int, int], local_ensemble: bool) -> Tensor:
    """Where a shifted look-up falls, clamped into the map; coord and result [B, Q, 2]."""
    eps = SHIFT_EPS if local_ensemble else 0
    # Each sum is one double rounded once to the coordinates' dtype, as the published in-place addition does.
    y = coord[..., 0] + (shift[0] * (2 / shape[0] / 2) + eps)
    x = coord[..., 1] + (shift[1] * (2 / shape[1] / 2) + eps)
    return torch.stack([y, x], dim=-1).clamp(-CLAMP, CLAMP)


def nearest_index(coord: Tensor, n: int) -> Tensor:
    """Pixel nearest to each coordinate on an axis of n pixels: int64; halves go to the even one, NaN to pixel 0."""
    position = ((coord + 1) * n - 1) / 2
    return position.nan_to_num(0.0).round().clamp(0, n - 1).long()


def corners(coord: Tensor, shape: Sequence[int], local_ensemble: bool) -> list[Corner]:
    """The four nearest neighbours of every query (one without local_ensemble); coord [B, Q, 2], shape (H, W)."""
    height, width = shape
    centres_y = axis_coord(height, device=coord.device).to(coord.dtype)
    centres_x = axis_coord(width, device=coord.device).to(coord.dtype)
    found = []
    for shift in shifts(local_ensemble):
        look = lookup_coord(coord.detach(), shape, shift, local_ensemble)
        row, col = nearest_index(look[..., 0], height), nearest_index(look[..., 1], width)
        rel_y = (coord[..., 0] - centres_y[row]) * height
        rel_x = (coord[..., 1] - centres_x[col]) * width
        found.append(Corner(row, col, torch.stack([rel_y, rel_x], dim=-1), (rel_y * rel_x).abs() + AREA_EPS))
    return found


def blend_weights(areas: Sequence[Tensor]) -> list[Tensor]:
    """Share of each prediction: the area spanned with the opposite neighbour, over the sum (paper, equation 4)."""
    total = torch.stack(list(areas)).sum(dim=0)
    return [area / total for area in reversed(areas)]


def relative_cell(cell: Tensor, shape: Sequence[int]) -> Tensor:
    """Cell in half pixels of the feature map: cell [B, Q, 2] times (H, W)."""
    return torch.stack([cell[..., 0] * shape[0], cell[..., 1] * shape[1]], dim=-1)
