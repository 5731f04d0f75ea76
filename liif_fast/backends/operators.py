"""The torch.library operators behind every fused backend: one boundary for torch.compile and torch.export.

Import this module before loading a program that was exported with one of them in it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from liif_fast.backends.implementations import BACKWARD, KEEPING, KERNELS, Answers, Gradients
from liif_fast.errors import BackendError
from liif_fast.geometry import Grid, Window
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
    learning = torch.is_grad_enabled() and any(t.requires_grad for t in (source, *params.weights, *params.biases))
    if backend in KEEPING and coord is not None and not direct and learning:
        answer, _ = query_keeping(
            source,
            coord,
            cell if params.cell_decode else None,
            rest,
            list(params.weights[1:]),
            list(params.biases),
            params.local_ensemble,
            list(window),
            backend,
            precision,
        )
        return answer
    return query(
        source,
        kernel if direct else None,
        coord,
        cell if params.cell_decode else None,
        [*where.size, *where.box] if isinstance(where, Grid) else [],
        rest,
        list(params.weights[1:]),
        list(params.biases),
        params.local_ensemble,
        list(window),
        backend,
        precision,
    )


# Not by custom_op, as those of training: that loads torch.compile's machinery, for a second, at the first call.
torch.library.define("liif_fast::query", SCHEMA, tags=torch.Tag.pt2_compliant_tag)
query = torch.ops.liif_fast.query.default


@torch.library.impl("liif_fast::query", "default")
def _query(
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
    backend: a key of KERNELS ("cpu" takes projected maps only); precision: "fp32", "tf32x3", "tf32", "fp16", "bf16".

    Differentiable once, by BACKWARD[backend], in source, rest, weights and biases, where projected maps and coord are
    given; functional.query takes the `torch` backend for everything else.
    """
    run = KERNELS[backend]
    if "torch._dynamo" in sys.modules:
        # Where torch.compile leaves an operator to Python, it would else look into what the operator runs.
        run = torch.compiler.disable(run)
    return run(source, kernel, coord, cell, grid, rest, weights, biases, local_ensemble, window, precision)


@torch.library.register_fake("liif_fast::query")
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


KEEPING_SCHEMA = (
    "(Tensor source, Tensor coord, Tensor? cell, Tensor rest, Tensor[] weights, Tensor[] biases, "
    "bool local_ensemble, SymInt[] window, str backend, str precision) -> (Tensor, Tensor)"
)


@torch.library.custom_op("liif_fast::query_keeping", mutates_args=(), schema=KEEPING_SCHEMA)
def query_keeping(
    source: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    local_ensemble: bool,
    window: Sequence[int],
    backend: str,
    precision: str,
) -> Answers:
    """`query` on a projected map, and the hidden layers' activations that its backward then need not compute again.

    The second result is for `query_backward` alone: uint8, only partly written. backend: a key of KEEPING.
    """
    return KEEPING[backend](source, coord, cell, rest, weights, biases, local_ensemble, window, precision)


@query_keeping.register_fake
def _(
    source: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    local_ensemble: bool,
    window: Sequence[int],
    backend: str,
    precision: str,
) -> Answers:
    # kept_bytes in csrc/decoder.cpp: tiles of 128 rows, a mask of 2 bytes for each 16 values of 4 bytes.
    rows = 4 * coord.shape[1] if local_ensemble else coord.shape[1]
    tile = sum((bias.shape[0] + 15) // 16 * 128 * 66 + 64 for bias in biases[1:-1])
    return (
        source.new_empty(source.shape[0], coord.shape[1], biases[-1].shape[0], dtype=torch.float32),
        source.new_empty(source.shape[0], (rows + 127) // 128 * tile, dtype=torch.uint8),
    )


BACKWARD_SCHEMA = (
    "(Tensor grad, Tensor source, Tensor coord, Tensor? cell, Tensor rest, Tensor[] weights, Tensor[] biases, "
    "bool local_ensemble, SymInt[] window, str backend, str precision, Tensor? kept=None) "
    "-> (Tensor, Tensor, Tensor[], Tensor[])"
)


@torch.library.custom_op("liif_fast::query_backward", mutates_args=(), schema=BACKWARD_SCHEMA)
def query_backward(
    grad: Tensor,
    source: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    local_ensemble: bool,
    window: Sequence[int],
    backend: str,
    precision: str,
    kept: Tensor | None = None,
) -> Gradients:
    """Gradients of `query` on a projected map: (d_source, d_rest, d_weights, d_biases), float32.

    grad: [B, Q, out_dim] float32, of the answers; the rest as in `query`, of which each gradient has the shape.
    kept: the second result of `query_keeping`; without it the forward is computed again. backend: a key of BACKWARD.
    Not differentiable.
    """
    given = (grad, source, coord, cell, rest, weights, biases, local_ensemble, window, precision)
    return BACKWARD[backend](*given, kept)


@query_backward.register_fake
def _(
    grad: Tensor,
    source: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    local_ensemble: bool,
    window: Sequence[int],
    backend: str,
    precision: str,
    kept: Tensor | None = None,
) -> Gradients:
    def like(tensor: Tensor) -> Tensor:
        return tensor.new_empty(tensor.shape, dtype=torch.float32)

    return like(source), like(rest), [like(weight) for weight in weights], [like(bias) for bias in biases]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    source, kernel, coord, cell, _, rest, weights, biases, *ctx.switches = inputs
    ctx.projected = kernel is None and coord is not None
    if ctx.projected:
        ctx.layers = len(biases)
        ctx.save_for_backward(source, coord, cell, rest, *biases, *weights)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    backend = ctx.switches[2]
    if not ctx.projected or backend not in BACKWARD or any(ctx.needs_input_grad[2:4]):
        raise BackendError(
            f"backend {backend!r} has gradients of a projected map and of the weights only, for given coordinates, "
            f"and only {', '.join(BACKWARD)} has them; use liif_fast.query or backend='torch'"
        )
    source, coord, cell, rest, *layers = ctx.saved_tensors
    biases, weights = layers[: ctx.layers], layers[ctx.layers :]
    found = query_backward(grad, source, coord, cell, rest, weights, biases, *ctx.switches)
    d_source, d_rest, d_weights, d_biases = found
    return (
        *(d_source.to(source.dtype), None, None, None, [], d_rest.to(rest.dtype)),
        [d.to(weight.dtype) for d, weight in zip(d_weights, weights, strict=True)],
        [d.to(bias.dtype) for d, bias in zip(d_biases, biases, strict=True)],
        *(None, None, None, None),
    )


def _remember_kept(ctx: Any, inputs: tuple[Any, ...], output: Answers) -> None:
    source, coord, cell, rest, weights, biases, *ctx.switches = inputs
    # Else autograd would make zeros of the size of what is kept.
    ctx.set_materialize_grads(False)
    ctx.layers = len(biases)
    ctx.save_for_backward(source, coord, cell, rest, output[1], *biases, *weights)


def _differentiate_kept(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    if any(ctx.needs_input_grad[1:3]):
        raise BackendError("query_keeping has no gradients of coordinates; use liif_fast.query or backend='torch'")
    source, coord, cell, rest, kept, *layers = ctx.saved_tensors
    biases, weights = layers[: ctx.layers], layers[ctx.layers :]
    found = query_backward(grad, source, coord, cell, rest, weights, biases, *ctx.switches, kept)
    d_source, d_rest, d_weights, d_biases = found
    return (
        *(d_source.to(source.dtype), None, None, d_rest.to(rest.dtype)),
        [d.to(weight.dtype) for d, weight in zip(d_weights, weights, strict=True)],
        [d.to(bias.dtype) for d, bias in zip(d_biases, biases, strict=True)],
        *(None, None, None, None),
    )


def _refuse(ctx: Any, *grads: Any) -> None:
    raise BackendError("the fused decoder has first derivatives only, got a second one; use backend='torch'")


torch.library.register_autograd("liif_fast::query", _differentiate, setup_context=_remember)
query_keeping.register_autograd(_differentiate_kept, setup_context=_remember_kept)
query_backward.register_autograd(_refuse)
