"""The torch.library operator behind every fused backend: one boundary for torch.compile and torch.export.

Import this module before loading a program that was exported with the operator in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from liif_fast import extension
from liif_fast.box import Box
from liif_fast.geometry import Grid, Window, grid_queries
from liif_fast.params import DecoderParams

SCHEMA = (
    "(Tensor source, Tensor? kernel, Tensor? coord, Tensor? cell, SymInt[] grid, Tensor rest, Tensor[] weights, "
    "Tensor[] biases, bool local_ensemble, SymInt[] window, str backend, str precision) -> Tensor"
)


def ask(
    source: Tensor,
    where: tuple[Tensor, Tensor | None] | Grid,
    params: DecoderParams,
    window: Window,
    backend: str,
    precision: str,
    direct: bool = False,
) -> Tensor:
    """`query` for a decoder: where is (coord, cell) or a grid, source the features with `direct`, else projected."""
    kernel, rest = params.split()
    coord, cell = (None, None) if isinstance(where, Grid) else where
    return query(
        source.detach(),
        kernel.detach() if direct else None,
        None if coord is None else coord.detach(),
        None if cell is None or not params.cell_decode else cell.detach(),
        [*where.size, *where.box] if isinstance(where, Grid) else [],
        rest.detach(),
        [weight.detach() for weight in params.weights[1:]],
        [bias.detach() for bias in params.biases],
        params.local_ensemble,
        list(window),
        backend,
        precision,
    )


def _cpu(
    source: Tensor,
    kernel: Tensor | None,
    coord: Tensor | None,
    cell: Tensor | None,
    grid: Sequence[int],
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    local_ensemble: bool,
    window: Sequence[int],
    precision: str,
) -> Tensor:
    arithmetic = extension.BEST["bf16" if precision == "bf16" else "fp32"]
    if coord is None:
        coord, cell = grid_queries(_grid(grid), source.shape[0])
        cell = cell if rest.shape[1] == 4 else None
    found: Tensor = torch.ops.liif_fast.cpu_query(
        source.float(),
        coord,
        cell,
        rest.float(),
        [weight.float() for weight in weights],
        [bias.float() for bias in biases],
        local_ensemble,
        window,
        arithmetic,
    )
    return found


def _triton(
    source: Tensor,
    kernel: Tensor | None,
    coord: Tensor | None,
    cell: Tensor | None,
    grid: Sequence[int],
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    local_ensemble: bool,
    window: Sequence[int],
    precision: str,
) -> Tensor:
    from liif_fast.kernels import launch, tuning

    tile = tuning.tile_for(source, precision, direct=kernel is not None)
    packed = launch.pack(kernel, rest, weights, biases, launch.DTYPES[precision], tile.block_c)
    return launch.forward(
        source,
        _grid(grid) if coord is None else (coord, cell),
        packed,
        source.shape[3] if kernel is None else source.shape[1],
        biases[-1].shape[0],
        Window(*window),
        local_ensemble=local_ensemble,
        cell_decode=rest.shape[1] == 4,
        precision=precision,
        tile=tile,
    )


def _grid(numbers: Sequence[int]) -> Grid:
    return Grid((numbers[0], numbers[1]), Box(*numbers[2:]))


KERNELS: dict[str, Callable[..., Tensor]] = {"cpu": _cpu, "triton": _triton}


@torch.library.custom_op("liif_fast::query", mutates_args=(), schema=SCHEMA)
def query(
    source: Tensor,
    kernel: Tensor | None,
    coord: Tensor | None,
    cell: Tensor | None,
    grid: Sequence[int],
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    local_ensemble: bool,
    window: Sequence[int],
    backend: str,
    precision: str,
) -> Tensor:
    """Signal at each coordinate: [B, Q, out_dim] float32.

    source: projected map (functional.project) [B, h, w, N0]; where `kernel` is given, the features [B, C, h, w] that
    it projects. Either is the part of a full map that starts at (top, left): window = [H, W, top, left].
    kernel: [N0, C, k, k], the first layer's feature columns, or None. rest: [N0, 2 or 4], its columns dy, dx(, cell_h,
    cell_w). weights: those of the layers after the first; biases: those of all layers.
    coord, cell: [B, Q, 2] float32; cell is given where the MLP reads it. Without coord, grid = [H_out, W_out, top,
    left, height, width] asks for the pixels of a part of a regular output, row by row.
    backend: a key of KERNELS ("cpu" takes projected maps only); precision: "fp32", "tf32", "fp16" or "bf16".

    Not differentiable: functional.query takes the `torch` backend where a gradient is needed.
    """
    return KERNELS[backend](source, kernel, coord, cell, grid, rest, weights, biases, local_ensemble, window, precision)


@query.register_fake
def _(
    source: Tensor,
    kernel: Tensor | None,
    coord: Tensor | None,
    cell: Tensor | None,
    grid: Sequence[int],
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    local_ensemble: bool,
    window: Sequence[int],
    backend: str,
    precision: str,
) -> Tensor:
    queries = grid[4] * grid[5] if coord is None else coord.shape[1]
    return source.new_empty(source.shape[0], queries, biases[-1].shape[0], dtype=torch.float32)
