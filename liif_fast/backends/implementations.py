"""What each fused backend runs behind the operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from liif_fast.backends.call import Call
from liif_fast.box import Box
from liif_fast.geometry import Grid, Window, grid_queries
from liif_fast.native import decoder, library

Answers = tuple[Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, list[Tensor], list[Tensor]]


def _cpu_arguments(call: Call) -> tuple[Any, ...]:
    """What every function of the C++ decoder is given."""
    coord, cell = call.coord, call.cell
    if call.grid is not None:
        coord, cell = grid_queries(_grid(call.grid), call.source.shape[0])
    return (
        call.source.float(),
        coord,
        cell if call.rest.shape[1] == 4 else None,
        call.rest.float(),
        [weight.float() for weight in call.weights],
        [bias.float() for bias in call.biases],
        call.local_ensemble,
        call.window,
        library.BEST["bf16" if call.precision == "bf16" else "fp32"],
    )


def _cpu(call: Call) -> Tensor:
    return decoder.query(*_cpu_arguments(call))


def _cpu_keeping(call: Call) -> Answers:
    return decoder.query_keeping(*_cpu_arguments(call))


def _cpu_backward(grad: Tensor, kept: Tensor | None, call: Call) -> Gradients:
    if kept is None:
        _, kept = _cpu_keeping(call)
    return decoder.query_backward(grad.float(), kept, *_cpu_arguments(call))


def _cuda(call: Call) -> Tensor:
    from liif_fast.kernels import hopper

    return hopper.forward(call)


def _triton(call: Call) -> Tensor:
    from liif_fast.kernels import launch, tuning

    source, kernel, precision = call.source, call.kernel, call.precision
    width = launch.padded_width(call.rest.shape[0])
    tile = tuning.tile_for(source, precision, direct=kernel is not None, width=width)
    packed = launch.packed(kernel, call.rest, call.weights, call.biases, launch.DTYPES[precision], tile.block_c)
    return launch.forward(
        source,
        (call.coord, call.cell) if call.coord is not None else _grid(call.grid or ()),
        packed,
        source.shape[3] if kernel is None else source.shape[1],
        call.biases[-1].shape[0],
        Window(*call.window),
        local_ensemble=call.local_ensemble,
        cell_decode=call.rest.shape[1] == 4,
        precision=precision,
        tile=tile,
    )


def _triton_backward(grad: Tensor, kept: Tensor | None, call: Call) -> Gradients:
    from liif_fast.kernels import launch_backward

    return launch_backward.backward(grad, call)


def _grid(numbers: Sequence[int]) -> Grid:
    return Grid((numbers[0], numbers[1]), Box(*numbers[2:]))


# For each operator: backend -> what computes it.
KERNELS: dict[str, Callable[[Call], Tensor]] = {"cpu": _cpu, "triton": _triton, "cuda": _cuda}
KEEPING: dict[str, Callable[[Call], Answers]] = {"cpu": _cpu_keeping}
BACKWARD: dict[str, Callable[[Tensor, Tensor | None, Call], Gradients]] = {
    "cpu": _cpu_backward,
    "triton": _triton_backward,
}
