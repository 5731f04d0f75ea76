"""The C++ decoder on tensors: what csrc/interface.h offers, with its arguments checked.

Errors are BackendErrors that name the tensor.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from liif_fast.errors import BackendError
from liif_fast.native import library

Gradients = tuple[Tensor, Tensor, list[Tensor], list[Tensor]]


class _Call(NamedTuple):
    """A struct liif_query, and what its pointers are of."""

    query: library.Query
    widths: list[int]
    projected: Tensor
    coord: Tensor
    cell: Tensor | None
    rest: Tensor
    weights: list[Tensor]
    biases: list[Tensor]


def query(
    projected: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    local_ensemble: bool,
    window: Sequence[int],
    arithmetic: str,
) -> Tensor:
    """Signal at each coordinate: [B, Q, out_dim].

    projected: [B, h, w, N0], the part of a map that starts at (top, left): window = [H, W, top, left].
    coord, cell: [B, Q, 2]; rest: [N0, 4], or [N0, 2] without cell.
    weights: those of the layers after the first; biases: those of all layers. Everything is float32 on the CPU.
    arithmetic: one of `library.arithmetics("any")`.
    """
    call = _prepare(projected, coord, cell, rest, weights, biases, local_ensemble, window, arithmetic)
    out = torch.empty(*coord.shape[:2], call.widths[-1])
    _done(library.loaded().liif_answer(call.query, out.data_ptr(), None))
    return out


def query_keeping(*given: Any) -> tuple[Tensor, Tensor]:
    """`query`, and the bytes that its backward takes over: uint8 [B, n]."""
    call = _prepare(*given)
    batch, queries = call.query.batch, call.query.queries
    out = torch.empty(batch, queries, call.widths[-1])
    kept = _reused_bytes(batch, kept_bytes(call.widths, queries, bool(call.query.local_ensemble)))
    _done(library.loaded().liif_answer(call.query, out.data_ptr(), kept.data_ptr()))
    return out, kept


def kept_bytes(widths: Sequence[int], queries: int, local_ensemble: bool) -> int:
    """Bytes that the forward keeps of a map's queries. widths: those of all layers; queries may be symbolic."""
    tile: int = library.loaded().liif_tile_queries(local_ensemble)
    bytes_of_tile: int = library.loaded().liif_kept_bytes(_widths(widths), len(widths))
    return (queries + tile - 1) // tile * bytes_of_tile


def query_backward(grad: Tensor, kept: Tensor, *given: Any) -> Gradients:
    """The gradients of projected, rest, weights and biases: given are `query_keeping`'s arguments.

    grad: [B, Q, out_dim], of the answers; kept: `query_keeping`'s second result.
    """
    call = _prepare(*given)
    batch, queries = call.query.batch, call.query.queries
    if grad.shape != (batch, queries, call.widths[-1]):
        raise BackendError(f"grad: expected {[batch, queries, call.widths[-1]]}, got {list(grad.shape)}")
    grad = _ready(grad, "grad")
    size = [batch, kept_bytes(call.widths, queries, bool(call.query.local_ensemble))]
    if list(kept.shape) != size or kept.dtype != torch.uint8 or not kept.is_contiguous():
        raise BackendError(
            f"kept: expected the second result of query_keeping, uint8 {size}, got {kept.dtype} {list(kept.shape)}"
        )
    d_projected, d_rest = torch.zeros(call.projected.shape), torch.zeros(call.rest.shape)
    d_weights, d_biases = ([torch.zeros(t.shape) for t in tensors] for tensors in (call.weights, call.biases))
    targets = d_projected.data_ptr(), d_rest.data_ptr(), _pointers(d_weights), _pointers(d_biases)
    _done(library.loaded().liif_backward(call.query, grad.data_ptr(), kept.data_ptr(), *targets))
    return d_projected, d_rest, d_weights, d_biases


def layer(rows: Tensor, weight: Tensor, bias: Tensor, arithmetic: str) -> Tensor:
    """One hidden layer, relu(rows @ weight.T + bias), widths multiples of 16: for tests, and to measure the product."""
    rows, weight, bias = _ready(rows, "rows"), _ready(weight, "weight"), _ready(bias, "bias")
    (count, width), outputs = rows.shape, bias.shape[0]
    if weight.shape != (outputs, width) or width % 16 or outputs % 16 or not width * outputs:
        raise BackendError(f"weight: expected [{outputs}, {width}] of multiples of 16, got {list(weight.shape)}")
    out = torch.empty(count, outputs)
    pointers = rows.data_ptr(), weight.data_ptr(), bias.data_ptr()
    sizes = count, width, outputs, arithmetic.encode(), torch.get_num_threads()
    _done(library.loaded().liif_layer(*pointers, *sizes, out.data_ptr()))
    return out


def _done(problem: bytes | None) -> None:
    if problem is not None:
        raise BackendError(problem.decode())


def _ready(tensor: Tensor, name: str) -> Tensor:
    if tensor.dtype != torch.float32 or not tensor.is_cpu:
        raise BackendError(f"{name}: expected float32 on the CPU, got {tensor.dtype} on {tensor.device}")
    return tensor.contiguous()


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


def _widths(widths: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(widths))(*widths)


def _prepare(
    projected: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    local_ensemble: bool,
    window: Sequence[int],
    arithmetic: str,
) -> _Call:
    """Everything checked, made contiguous and written into a struct."""
    if projected.dim() != 4 or 0 in projected.shape[1:]:
        raise BackendError(f"projected: expected [B, h, w, N0] with h, w, N0 >= 1, got {list(projected.shape)}")
    batch, height, width, n0 = projected.shape
    if coord.dim() != 3 or coord.shape[0] != batch or coord.shape[2] != 2 or coord.shape[1] >= 2**31:
        raise BackendError(f"coord: expected [{batch}, Q, 2] with Q below 2^31, got {list(coord.shape)}")
    if cell is not None and cell.shape != coord.shape:
        raise BackendError(f"cell: expected {list(coord.shape)} as coord, got {list(cell.shape)}")
    columns = 2 if cell is None else 4
    if rest.shape != (n0, columns):
        raise BackendError(f"rest: expected [{n0}, {columns}], got {list(rest.shape)}")
    if len(biases) != len(weights) + 1:
        raise BackendError(f"biases: expected one more than weights, got {len(biases)} and {len(weights)}")
    full_height, full_width, top, left = window
    if top < 0 or left < 0 or top + height > full_height or left + width > full_width:
        raise BackendError(
            f"window: expected a part of a {full_height} x {full_width} map, got {height} x {width} at ({top}, {left})"
        )
    widths = [n0, *(weight.shape[0] for weight in weights)]
    for k, bias in enumerate(biases):
        if bias.shape != (widths[k],) or not widths[k]:
            raise BackendError(f"biases: expected [{widths[k]}], got {list(bias.shape)}")
        if k and weights[k - 1].shape != (widths[k], widths[k - 1]):
            raise BackendError(f"weights: expected [{widths[k]}, {widths[k - 1]}], got {list(weights[k - 1].shape)}")
    projected, coord, rest = _ready(projected, "projected"), _ready(coord, "coord"), _ready(rest, "rest")
    cell = None if cell is None else _ready(cell, "cell")
    weights, biases = [_ready(weight, "weights") for weight in weights], [_ready(bias, "biases") for bias in biases]
    made = library.Query(
        *(projected.data_ptr(), coord.data_ptr(), None if cell is None else cell.data_ptr(), rest.data_ptr()),
        *(_pointers(weights), _pointers(biases), _widths(widths), len(widths)),
        *(batch, coord.shape[1], height, width, full_height, full_width, top, left),
        *(local_ensemble, torch.get_num_threads(), arithmetic.encode()),
    )
    return _Call(made, widths, projected, coord, cell, rest, weights, biases)


# The memory that was let go last is given out again: fresh pages, which the kernel clears first, cost more time than
# what is written into them.
_spare: list[mmap.mmap] = []
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


def _reused_bytes(rows: int, columns: int) -> Tensor:
    """uint8 [rows, columns], with whatever stands there."""
    size = rows * columns
    if size == 0:
        return torch.empty(rows, columns, dtype=torch.uint8)
    try:
        memory = _spare.pop()
    except IndexError:
        memory = None
    if memory is None or len(memory) != size:
        memory = mmap.mmap(-1, size, **_PRIVATE)
    # Alive as long as the tensor's memory is in use.
    view = (ctypes.c_uint8 * size).from_buffer(memory)
    weakref.finalize(view, _let_go, memory).atexit = False
    return torch.frombuffer(view, dtype=torch.uint8).view(rows, columns)


def _let_go(memory: mmap.mmap) -> None:
    _spare[:] = [memory]
