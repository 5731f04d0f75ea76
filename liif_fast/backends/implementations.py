"""What each fused backend runs behind the operators of ops.py, which give it their own arguments but for its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from liif_fast.box import Box
from liif_fast.geometry import Grid, Window, grid_queries
from liif_fast.native import extension

Answers = tuple[Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, list[Tensor], list[Tensor]]


def _for_cpu(
    source: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    local_ensemble: bool,
    window: Sequence[int],
    precision: str,
) -> tuple[Any, ...]:
    """What every C++ operator is given."""
    return (
        source.float(),
        coord,
        cell,
        rest.float(),
        [weight.float() for weight in weights],
        [bias.float() for bias in biases],
        local_ensemble,
        window,
        extension.BEST["bf16" if precision == "bf16" else "fp32"],
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
    if coord is None:
        coord, cell = grid_queries(_grid(grid), source.shape[0])
        cell = cell if rest.shape[1] == 4 else None
    given = _for_cpu(source, coord, cell, rest, weights, biases, local_ensemble, window, precision)
    found: Tensor = torch.ops.liif_fast.cpu_query(*given)
    return found


def _cpu_keeping(*args: Any) -> Answers:
    found: Answers = torch.ops.liif_fast.cpu_query_keeping(*_for_cpu(*args))
    return found


def _cpu_backward(*args: Any) -> Gradients:
    grad, *given, kept = args
    if kept is None:
        _, kept = _cpu_keeping(*given)
    found: Gradients = torch.ops.liif_fast.cpu_query_backward(grad.float(), *_for_cpu(*given), kept)
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


def _triton_backward(*args: Any) -> Gradients:
    from liif_fast.kernels import launch_backward

    *given, _ = args
    return launch_backward.backward(*given)


def _grid(numbers: Sequence[int]) -> Grid:
    return Grid((numbers[0], numbers[1]), Box(*numbers[2:]))


# Of ops.query, ops.query_keeping and ops.query_backward: backend -> what computes them.
KERNELS: dict[str, Callable[..., Tensor]] = {"cpu": _cpu, "triton": _triton}
KEEPING: dict[str, Callable[..., Answers]] = {"cpu": _cpu_keeping}
BACKWARD: dict[str, Callable[..., Gradients]] = {"cpu": _cpu_backward, "triton": _triton_backward}
