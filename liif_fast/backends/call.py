"""One query of a decoder, as the package hands it on: to a backend (`Query`), and to the operators (`Call`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from liif_fast.geometry import Grid, Window
from liif_fast.params import DecoderParams

Coordinates = tuple[Tensor, Tensor | None]


class Query(NamedTuple):
    """What every backend is asked.

    feat: the feature map [B, C, h, w]. projected: the map after layer one's feature columns (`functional.project`),
    [B, h, w, N0]. One of them may be None: a backend that gets no projection unfolds the features itself. Both are the
    part `window` of a full map.
    where: (coord, cell), each [B, Q, 2], or the pixels of a regular output. Without cell_decode, cell may be None.
    precision: "fp32", "tf32x3", "tf32", "fp16" or "bf16".
    """

    feat: Tensor | None
    projected: Tensor | None
    where: Coordinates | Grid
    params: DecoderParams
    window: Window
    precision: str


class Call(NamedTuple):
    """The arguments of every operator in `liif_fast.ops`, in the order of their schemas.

    source: the projected map [B, h, w, N0]; where `kernel` is given, the features [B, C, h, w] that it projects.
        Either is the part of a full map that starts at (top, left): window = [H, W, top, left].
    kernel: [N0, C, k, k], the first layer's feature columns, or None.
    coord, cell: [B, Q, 2] float32; cell is given where the MLP reads it.
    grid: without coord, [H_out, W_out, top, left, height, width] asks for the pixels of a part of a regular output,
        row by row; else None.
    rest: [N0, 2 or 4], the first layer's columns dy, dx(, cell_h, cell_w).
    weights: those of the layers after the first; biases: those of all layers.
    """

    source: Tensor
    kernel: Tensor | None
    coord: Tensor | None
    cell: Tensor | None
    grid: Sequence[int] | None
    rest: Tensor
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    local_ensemble: bool
    window: Sequence[int]
    backend: str
    precision: str


CALL_SCHEMA = (
    "Tensor source, Tensor? kernel, Tensor? coord, Tensor? cell, SymInt[]? grid, Tensor rest, Tensor[] weights, "
    "Tensor[] biases, bool local_ensemble, SymInt[] window, str backend, str precision"
)


def call_of(query: Query, backend: str) -> Call:
    """The operators' arguments for a query. The tensors are shared."""
    feat, projected, where, params, window, precision = query
    kernel, rest = params.split()
    coord, cell = (None, None) if isinstance(where, Grid) else where
    source = feat if projected is None else projected
    assert source is not None
    return Call(
        source,
        kernel if projected is None else None,
        coord,
        cell if params.cell_decode else None,
        [*where.size, *where.box] if isinstance(where, Grid) else None,
        rest,
        list(params.weights[1:]),
        list(params.biases),
        params.local_ensemble,
        list(window),
        backend,
        precision,
    )
