"""The torch.library operator behind every fused backend: one boundary for torch.compile and torch.export.

Import this module before loading a program that was exported with the operator in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from liif_fast import extension

SCHEMA = (
    "(Tensor projected, Tensor coord, Tensor? cell, Tensor rest, Tensor[] weights, Tensor[] biases, "
    "bool local_ensemble, SymInt[] window, str backend, str precision) -> Tensor"
)


def _cpu(
    projected: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    local_ensemble: bool,
    window: Sequence[int],
    precision: str,
) -> Tensor:
    arithmetic = extension.BEST["bf16" if precision == "bf16" else "fp32"]
    found: Tensor = torch.ops.liif_fast.cpu_query(
        projected, coord, cell, rest, weights, biases, local_ensemble, window, arithmetic
    )
    return found


KERNELS: dict[str, Callable[..., Tensor]] = {"cpu": _cpu}


@torch.library.custom_op("liif_fast::query", mutates_args=(), schema=SCHEMA)
def query(
    projected: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    local_ensemble: bool,
    window: Sequence[int],
    backend: str,
    precision: str,
) -> Tensor:
    """Signal at each coordinate from a projected feature map (functional.project): [B, Q, out_dim] float32.

    projected: [B, h, w, N0], the part of full maps that starts at (top, left). coord, cell: [B, Q, 2] float32; cell is
    given where the MLP reads it. rest: [N0, 2 or 4], the first layer's columns dy, dx(, cell_h, cell_w).
    weights: those of the layers after the first; biases: those of all layers. window: [H, W, top, left].
    backend: a key of KERNELS; precision: "fp32", "bf16" or "fp16".

    Not differentiable: functional.query takes the `torch` backend where a gradient is needed.
    """
    return KERNELS[backend](projected, coord, cell, rest, weights, biases, local_ensemble, window, precision)


@query.register_fake
def _(
    projected: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    local_ensemble: bool,
    window: Sequence[int],
    backend: str,
    precision: str,
) -> Tensor:
    return projected.new_empty(coord.shape[0], coord.shape[1], biases[-1].shape[0], dtype=torch.float32)
