"""The torch.library operators behind every fused backend: one boundary for torch.compile and torch.export.

All three take the fields of a `Call`.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from liif_fast.backends.call import CALL_SCHEMA, Call, Query, call_of
from liif_fast.backends.implementations import BACKWARD, KEEPING, KERNELS, Answers, Gradients
from liif_fast.errors import BackendError
from liif_fast.native import decoder as cpu_decoder


def ask(asked: Query, backend: str) -> Tensor:
    """The answers of a fused backend: [B, Q, out_dim] float32."""
    call = call_of(asked, backend)
    learning = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (call.source, *asked.params.weights, *asked.params.biases)
    )
    if backend in KEEPING and call.kernel is None and call.coord is not None and learning:
        answer, _ = query_keeping(*call)
        return answer
    return query(*call)


# Not by custom_op, as the two operators of training: its first call loads torch.compile's machinery, for a second.
torch.library.define("liif_fast::query", f"({CALL_SCHEMA}) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
query = torch.ops.liif_fast.query.default


@torch.library.impl("liif_fast::query", "default")
def _query(*args: Any) -> Tensor:
    """The signal at each coordinate: [B, Q, out_dim] float32. Call.backend is a key of KERNELS.

    It is differentiable once, by BACKWARD[backend], in source, rest, weights and biases, where a projected map and
    coordinates are given; functional.query takes the `torch` backend for everything else.
    """
    call = Call(*args)
    run = KERNELS[call.backend]
    if "torch._dynamo" in sys.modules:
        # Where torch.compile leaves an operator to Python, it would otherwise look into what the operator runs.
        run = torch.compiler.disable(run)
    return run(call)


@torch.library.register_fake("liif_fast::query")
def _(*args: Any) -> Tensor:
    return _empty_answer(Call(*args))


@torch.library.custom_op("liif_fast::query_keeping", mutates_args=(), schema=f"({CALL_SCHEMA}) -> (Tensor, Tensor)")
def query_keeping(*args: Any) -> Answers:
    """`query` on a projected map, and the hidden layers' activations, which its backward then need not compute again.

    The second result is for `query_backward` alone: uint8, only partly written. Call.backend is a key of KEEPING.
    """
    call = Call(*args)
    return KEEPING[call.backend](call)


@query_keeping.register_fake
def _(*args: Any) -> Answers:
    call = Call(*args)
    assert call.coord is not None
    widths = [int(bias.shape[0]) for bias in call.biases]
    size = cpu_decoder.kept_bytes(widths, call.coord.shape[1], call.local_ensemble)
    kept = call.source.new_empty(call.source.shape[0], size, dtype=torch.uint8)
    return _empty_answer(call), kept


@torch.library.custom_op(
    "liif_fast::query_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor? kept, {CALL_SCHEMA}) -> (Tensor, Tensor, Tensor[], Tensor[])",
)
def query_backward(grad: Tensor, kept: Tensor | None, *args: Any) -> Gradients:
    """Gradients of `query` on a projected map: those of source, rest, weights and biases, each float32 of its shape.

    grad: [B, Q, out_dim] float32, of the answers. kept: the second result of `query_keeping`; without it the forward
    is computed again. Call.backend is a key of BACKWARD. Not differentiable.
    """
    call = Call(*args)
    return BACKWARD[call.backend](grad, kept, call)


@query_backward.register_fake
def _(grad: Tensor, kept: Tensor | None, *args: Any) -> Gradients:
    def like(tensor: Tensor) -> Tensor:
        return tensor.new_empty(tensor.shape, dtype=torch.float32)

    call = Call(*args)
    return like(call.source), like(call.rest), [like(w) for w in call.weights], [like(b) for b in call.biases]


def _empty_answer(call: Call) -> Tensor:
    if call.coord is not None:
        queries = call.coord.shape[1]
    else:
        assert call.grid is not None
        queries = call.grid[4] * call.grid[5]
    return call.source.new_empty(call.source.shape[0], queries, call.biases[-1].shape[0], dtype=torch.float32)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor | Answers) -> None:
    call = Call(*inputs)
    # Without this, autograd would make zeros of the size of what is kept.
    ctx.set_materialize_grads(False)
    ctx.refused = call.kernel is not None or call.coord is None or call.backend not in BACKWARD
    if ctx.refused:
        return
    kept = output[1] if isinstance(output, tuple) else None
    ctx.switches = call.local_ensemble, call.window, call.backend, call.precision
    ctx.layers = len(call.biases)
    ctx.save_for_backward(kept, call.source, call.coord, call.cell, call.rest, *call.biases, *call.weights)


def _differentiate(ctx: Any, grad: Tensor, _: Any = None) -> tuple[Any, ...]:
    if ctx.refused or any(ctx.needs_input_grad[2:4]):
        raise BackendError(
            "a fused backend has gradients of a projected map and of the weights only, for given coordinates, "
            f"and only {', '.join(BACKWARD)} has them; use liif_fast.query or backend='torch'"
        )
    kept, source, coord, cell, rest, *layers = ctx.saved_tensors
    biases, weights = layers[: ctx.layers], layers[ctx.layers :]
    call = Call(source, None, coord, cell, None, rest, weights, biases, *ctx.switches)
    d_source, d_rest, d_weights, d_biases = query_backward(grad, kept, *call)
    gradients = call._replace(
        source=d_source.to(source.dtype),
        coord=None,
        cell=None,
        rest=d_rest.to(rest.dtype),
        weights=[d.to(weight.dtype) for d, weight in zip(d_weights, weights, strict=True)],
        biases=[d.to(bias.dtype) for d, bias in zip(d_biases, biases, strict=True)],
    )
    return (*gradients[:8], None, None, None, None)


def _refuse(ctx: Any, *grads: Any) -> None:
    raise BackendError("the fused decoder has first derivatives only, got a second one; use backend='torch'")


torch.library.register_autograd("liif_fast::query", _differentiate, setup_context=_remember)
query_keeping.register_autograd(_differentiate, setup_context=_remember)
query_backward.register_autograd(_refuse)
