"""What Triton compiles for each GPU generation, executed: tests/ptx runs the PTX of every form against float64 truth.

A few cases run with the other tests, all of them by `make compiled`. tests/ptx/__init__.py says what this does not see.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import ptx
import pytest
import torch
from support.compiled_gpu import CompiledGPU
from support.golden import GoldenCase, golden_cases, to_double
from support.triton_device import DEVICE, poison
from torch import Tensor

from liif_fast import functional
from liif_fast.backends import pytorch, reference, triton
from liif_fast.backends.call import Query, call_of
from liif_fast.box import Box
from liif_fast.geometry import Grid, Window, grid_queries
from liif_fast.kernels import launch, launch_backward
from liif_fast.params import DecoderParams

__all__ = ["poison"]
pytestmark = pytest.mark.skipif(not triton.INSTALLED, reason="the package triton is not installed")

ARCHES = (80, 86, 90, 120)
PRECISIONS = ("fp16", "bf16", "tf32", "tf32x3", "fp32")
FORWARD = ("projected", "projected grid", "direct", "direct grid")
BACKWARD = ("backward", "backward deterministic")
# Largest error beside the largest answer: what each precision's rounding of the operands costs at this depth.
TOLERANCE = {"fp32": 1e-6, "tf32x3": 1e-6, "tf32": 4e-3, "fp16": 1e-3, "bf16": 8e-3}
# Of a gradient's norm, beside twice what PyTorch's own loses at that precision: a flipped ReLU takes a path away.
GRADIENT_FLOOR = {"fp32": 1e-6, "tf32x3": 1e-6, "tf32": 1e-2, "fp16": 1e-2, "bf16": 5e-2}
ITS_OWN = {"tf32": "fp16", "tf32x3": "fp32"}  # what PyTorch computes in instead on a CPU: as many bits
SIZE = (10, 21)
QUICK = {
    *((80, "fp16", "projected grid"), (86, "bf16", "projected"), (90, "fp16", "projected grid")),
    *((90, "bf16", "direct"), (120, "fp16", "projected"), (90, "fp16", "backward")),
}
EVERY_CASE = [
    pytest.param(arch, precision, form, marks=[] if (arch, precision, form) in QUICK else pytest.mark.compiled)
    for arch in ARCHES
    for precision in PRECISIONS
    for form in (*FORWARD, *BACKWARD)
]


def decoder(width: int = 256, hidden: int = 4, channels: int = 64) -> DecoderParams:
    """Weights that keep the size of the activations, so that the answers are about 1."""
    generator = torch.Generator().manual_seed(3)
    widths = [channels * 9 + 4, *[width] * hidden, 3]
    weights = [(torch.rand(n, m, generator=generator) * 2 - 1) * (3 / m) ** 0.5 for m, n in pairwise(widths)]
    biases = [torch.rand(n, generator=generator) - 0.5 for n in widths[1:]]
    return DecoderParams(tuple(weights), tuple(biases), channels)


def features(channels: int = 64) -> Tensor:
    return torch.rand(1, channels, 5, 7, generator=torch.Generator().manual_seed(4)) * 2 - 1


def forward_error(gpu: CompiledGPU, precision: str, form: str, params: DecoderParams) -> float:
    """Largest error of the blocks that ran, beside the largest answer."""
    feat = features(params.channels)
    grid = Grid(SIZE, Box(0, 0, *SIZE))
    coord, cell = grid_queries(grid, 1)
    want = reference.query(feat.double(), coord, cell, to_double(params))[0]
    dtype, where = launch.DTYPES[precision], grid if form.endswith("grid") else (coord, cell)
    asked = Query(feat.to(dtype), None, where, params, Window(5, 7), precision)
    if form.startswith("projected"):
        asked = asked._replace(projected=functional.project(feat, params, "fp32").to(dtype))
    with gpu.in_use():
        got = triton.run(asked)[0]
    ran = ~torch.isnan(got).all(1)
    # Nothing but NaN is what a tile gives that reads what was never written.
    return float((got - want)[ran].abs().max() / want.abs().max()) if ran.any() else float("inf")


Question = tuple[Tensor, Tensor, Tensor, DecoderParams]  # projected map, coord, cell, decoder


def question(params: DecoderParams) -> Question:
    """Random coordinates, of two tiles."""
    projected = functional.project(features(params.channels), params, "fp32").detach()
    coord = torch.rand(1, 27, 2, generator=torch.Generator().manual_seed(6)) * 2 - 1
    return projected, coord, torch.full((1, 27, 2), 0.2), params


def by_autograd(asked: Question, grad: Tensor, precision: str) -> list[Tensor]:
    """Gradients of the map, the weights after the first and the biases by the torch backend."""
    projected, coord, cell, params = asked
    source, weights, biases = (
        projected.clone(),
        *(tuple(map(torch.clone, t)) for t in (params.weights, params.biases)),
    )
    leaves = [source, *weights[1:], *biases]
    for leaf in leaves:
        leaf.requires_grad_()
    its = DecoderParams(weights, biases, params.channels)
    answer = pytorch.run(Query(None, source, (coord, cell), its, Window(5, 7), precision))
    return list(torch.autograd.grad(answer, leaves, grad.to(answer.dtype)))


def gradient_excess(gpu: CompiledGPU, precision: str, form: str, params: DecoderParams) -> float:
    """The worst gradient's error, in units of what is allowed."""
    asked = question(params)
    projected, coord, cell, _ = asked
    grad = torch.rand(1, 27, 3, generator=torch.Generator().manual_seed(7)) * 2 - 1
    want = by_autograd((projected.double(), coord, cell, to_double(params)), grad, "fp32")
    own = by_autograd(asked, grad, ITS_OWN.get(precision, precision))
    torch.use_deterministic_algorithms(form.endswith("deterministic"))
    try:
        with gpu.in_use():
            half = projected.to(launch.DTYPES[precision])
            call = call_of(Query(None, half, (coord, cell), params, Window(5, 7), precision), "triton")
            d_source, _, d_weights, d_biases = launch_backward.backward(grad, call)
    finally:
        torch.use_deterministic_algorithms(False)
    excess = []
    for ours, plain, truth in zip([d_source, *d_weights, *d_biases], own, want, strict=True):
        errors = [float((t - truth).norm() / truth.norm()) for t in (ours, plain)]
        excess.append(errors[0] / (2 * errors[1] + GRADIENT_FLOOR[precision]))
    return float(np.max(excess))


@pytest.mark.parametrize(("arch", "precision", "form"), EVERY_CASE)
def test_a_tile_against_float64(arch: int, precision: str, form: str) -> None:
    """The table's tile at the published width, in two schedules, each on another tile of the queries."""
    for seed, block in ((1, 0), (2, 2)):
        if form in BACKWARD:
            gpu = CompiledGPU(arch, seed=seed)
            assert gradient_excess(gpu, precision, form, decoder()) <= 1
        else:
            gpu = CompiledGPU(arch, seed=seed, blocks=[block])
            assert forward_error(gpu, precision, form, decoder()) <= TOLERANCE[precision]
        assert gpu.executed > 0
        assert gpu.unwritten_reads == 0


@pytest.mark.compiled
@pytest.mark.parametrize(("width", "hidden"), [(16, 1), (32, 2), (64, 3), (128, 5)])
@pytest.mark.parametrize("form", ["projected", "direct grid", "backward"])
@pytest.mark.parametrize("arch", [80, 90])
def test_other_widths_and_depths(arch: int, form: str, width: int, hidden: int) -> None:
    params = decoder(width, hidden, 20)
    if form in BACKWARD:
        assert gradient_excess(CompiledGPU(arch), "fp16", form, params) <= 1
    else:
        assert forward_error(CompiledGPU(arch, blocks=[0, 3]), "fp16", form, params) <= TOLERANCE["fp16"]


@pytest.mark.compiled
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("late", [True, False])
def test_asynchronous_work_that_comes_early_or_late(arch: int, late: bool) -> None:
    gpu = CompiledGPU(arch, late=late, blocks=[1])
    assert forward_error(gpu, "fp16", "projected", decoder()) <= TOLERANCE["fp16"]


def wide(case: GoldenCase) -> bool:
    """The golden cases that Triton's interpreter is too slow for."""
    return len(set(case.params.hidden)) == 1 and (max(case.params.hidden) > 64 or case.coord.shape[1] > 1600)


@pytest.mark.compiled
@pytest.mark.parametrize("case", [case for case in golden_cases() if wide(case)], ids=lambda case: case.name)
@pytest.mark.parametrize("arch", [80, 90])
def test_golden_output_of_published_width(case: GoldenCase, arch: int) -> None:
    """Some tiles of each, in fp32, against the recorded answers of the published code."""
    params = case.params
    rows = 32 if params.local_ensemble else 8
    last = -(-case.coord.shape[1] * 4 // rows) - 1
    gpu = CompiledGPU(arch, blocks=sorted({0, last // 3, last // 2, last}))
    source = functional.project(case.feat, params, "fp32")
    with gpu.in_use():
        got = triton.run(Query(None, source, (case.coord, case.cell), params, Window(*case.feat.shape[2:]), "fp32"))
    ran = ~torch.isnan(got)
    assert ran.any()
    torch.testing.assert_close(got[ran], case.out[ran], rtol=0, atol=4e-7)


def without_barrier(number: int) -> Callable[[str], str]:
    """The text without one bar.sync."""

    def change(text: str) -> str:
        places = [match.start() for match in re.finditer(r"bar\.sync", text)]
        place = places[number % len(places)]
        return f"{text[:place]}//{text[place:]}"

    return change


def lenient(instruction: str) -> Callable[[str], str]:
    """Every wait of a kind leaves one group more than it should."""
    pattern = re.compile(rf"({re.escape(instruction)}\s+)(\d+)")
    return lambda text: pattern.sub(lambda match: f"{match[1]}{int(match[2]) + 1}", text)


def without_fences(text: str) -> str:
    return re.sub(r"fence\.proxy\.async[\w:.]*;", "", text)


MUTATIONS: dict[str, tuple[int, Callable[[str], str]]] = {
    "copies": (80, lenient("cp.async.wait_group")),
    "products": (90, lenient("wgmma.wait_group.sync.aligned")),
    "fences": (90, without_fences),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_fault_of_the_compiled_code_is_found(name: str) -> None:
    """The interpreter would be worth nothing if it passed code that waits too little."""
    arch, change = MUTATIONS[name]
    params = decoder(128, 3, 20)
    assert forward_error(CompiledGPU(arch, blocks=[0]), "fp16", "projected", params) <= TOLERANCE["fp16"]
    gpu = CompiledGPU(arch, blocks=[0], change=change)
    if name == "fences":
        with pytest.raises(ptx.AccessError, match=r"no fence\.proxy\.async"):
            forward_error(gpu, "fp16", "projected", params)
    else:
        assert not forward_error(gpu, "fp16", "projected", params) <= 10 * TOLERANCE["fp16"]


@pytest.mark.slow
def test_a_dropped_barrier_is_found() -> None:
    """Not each of them is needed in every schedule: of some, dropped one at a time, most show."""
    params = decoder(64, 3, 20)
    found = 0
    for number in range(2, 12, 2):
        gpu = CompiledGPU(80, seed=number, change=without_barrier(number))
        found += not gradient_excess(gpu, "fp16", "backward", params) <= 2
    assert found >= 3


def test_the_kernels_tests_do_not_skip_for_want_of_an_interpreter() -> None:
    """TRITON_INTERPRET counts only if it is set before the package is imported; test_triton.py would skip silently."""
    assert triton.unusable_reason(DEVICE, "fp32") is None


def test_the_stand_in_is_used_only_within_its_block() -> None:
    before: Any = launch.liif_forward
    with CompiledGPU(80).in_use():
        assert launch.liif_forward is not before
    assert launch.liif_forward is before
