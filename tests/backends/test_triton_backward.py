"""The Triton kernel's gradients against float64 autograd of the reference: on the GPU, else in Triton's interpreter."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from support.golden import random_params, random_queries, seeded, to_double
from support.triton_device import DEVICE, PRECISIONS, on_device, poison
from torch import Tensor

from liif_fast import functional
from liif_fast.backends import implementations, reference, triton
from liif_fast.backends.call import Call
from liif_fast.kernels import launch_backward
from liif_fast.kernels.launch_backward import backward
from liif_fast.params import DecoderParams

__all__ = ["poison"]
# Relative to the truth's norm; where a ReLU flips in half precision a whole path of the gradient goes or comes.
FLOORS = {"fp32": 1e-6, "tf32x3": 1e-6, "tf32": 2e-3, "fp16": 2e-3, "bf16": 2e-2}

pytestmark = pytest.mark.skipif(
    triton.unusable_reason(DEVICE, "fp32") is not None, reason=str(triton.unusable_reason(DEVICE, "fp32"))
)


def leaves(feat: Tensor, params: DecoderParams) -> list[Tensor]:
    return [feat, *params.weights, *params.biases]


def tracked(params: DecoderParams) -> DecoderParams:
    weights, biases = (
        tuple(t.detach().clone().requires_grad_() for t in tensors) for tensors in (params.weights, params.biases)
    )
    return dataclasses.replace(params, weights=weights, biases=biases)


def fused(
    grad: Tensor, feat: Tensor, coord: Tensor, cell: Tensor | None, params: DecoderParams, precision: str
) -> list[Tensor]:
    """Gradients of feat, every weight and every bias: the kernel's, then autograd's of the projection."""
    feat, params = feat.detach().clone().requires_grad_(), tracked(params)
    projected = functional.project(feat, params, precision)
    _, rest = params.split()
    window = [*feat.shape[2:], 0, 0]
    ensemble = params.local_ensemble
    cell = cell if params.cell_decode else None
    shared = (rest, params.weights[1:], params.biases, ensemble, window, "triton", precision)
    d_source, d_rest, d_weights, d_biases = backward(grad, Call(projected, None, coord, cell, None, *shared))
    assert d_source.shape == projected.shape
    assert {t.dtype for t in (d_source, d_rest, *d_weights, *d_biases)} == {torch.float32}
    through = (projected, rest), (d_source.to(projected.dtype), d_rest)
    d_feat, d_first = torch.autograd.grad(through[0], (feat, params.weights[0]), through[1])
    return [d_feat, d_first, *d_weights, *d_biases]


def plain(
    grad: Tensor, feat: Tensor, coord: Tensor, cell: Tensor | None, params: DecoderParams, **options: Any
) -> list[Tensor]:
    """The same by autograd alone: of the reference, or of the torch backend at a precision."""
    feat, params = feat.detach().clone().requires_grad_(), tracked(params)
    if options:
        found = functional.query(feat, coord, cell, params, backend="torch", **options)
    else:
        found = reference.query(feat, coord, cell, params)
    return list(torch.autograd.grad(found, leaves(feat, params), grad.to(found.dtype)))


Case = tuple[Tensor, Tensor, Tensor, DecoderParams]


def check(cases: list[Case], precision: str) -> None:
    """Over the cases, each gradient's error is at most twice that of PyTorch at the same precision, plus a floor."""
    squares = torch.stack([_squares(case, precision) for case in cases]).sum(0)
    for name, (error, own, size) in zip(leaf_names(cases[0][-1]), squares.sqrt().tolist(), strict=True):
        limit = 2 * own + FLOORS[precision] * size
        assert error <= limit, f"{name}: {error:.2e} of {size:.2e}, {limit:.2e} allowed"


def _squares(case: Case, precision: str) -> Tensor:
    """For each gradient, the squared norms of the kernel's error, of PyTorch's and of the truth: [leaves, 3]."""
    feat, coord, cell, params = case
    grad = seeded((*coord.shape[:2], params.out_dim), 9, 1).to(DEVICE)
    truth = plain(grad, feat.double(), coord, cell, to_double(params))
    own = plain(grad, feat, coord, cell, params, precision="fp32" if precision == "tf32x3" else precision)
    ours = fused(grad, feat, coord, cell, params, precision)
    assert [t.shape for t in ours] == [t.shape for t in truth]
    rows = [torch.stack([a - t, b - t, t]).flatten(1) for a, b, t in zip(ours, own, truth, strict=True)]
    return torch.stack([row.square().sum(1) for row in rows])


def leaf_names(params: DecoderParams) -> list[str]:
    return ["feat", *(f"{kind} {k}" for kind in ("weight", "bias") for k in range(len(params.weights)))]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("switches", [(e, c) for e in (True, False) for c in (True, False)])
def test_switches_at_awkward_sizes(switches: tuple[bool, bool], precision: str) -> None:
    # Whether a ReLU flips in half precision is luck, for PyTorch too: several cases even it out.
    seeds = range(4) if precision in ("fp16", "bf16") else range(1)
    for batch, size, count, width, depth in ((1, (1, 1), 1, 16, 1), (2, (3, 7), 63, 24, 2), (1, (9, 4), 129, 40, 3)):
        cases = []
        for seed in seeds:
            options = {"local_ensemble": switches[0], "cell_decode": switches[1]}
            params = random_params(5, [width] * depth, seed=7 + 50 * seed, **options)
            queries = random_queries(batch, count, seed=7 * seed)
            feat = seeded((batch, 5, *size), seed + 1, 1).to(DEVICE)
            cases.append((feat, queries[0].to(DEVICE), queries[1].to(DEVICE), on_device(params)))
        check(cases, precision)


@pytest.mark.parametrize(("width", "depth", "out_dim"), [(17, 6, 16), (100, 2, 1), (256, 4, 3)])
def test_widths_depths_and_outputs(width: int, depth: int, out_dim: int) -> None:
    params = on_device(random_params(3, [width] * depth, out_dim=out_dim, seed=5))
    feat = seeded((2, 3, 4, 5), 1, 1).to(DEVICE)
    coord, cell = (t.to(DEVICE) for t in random_queries(2, 20))
    for precision in PRECISIONS:
        check([(feat, coord, cell, params)], precision)


@pytest.mark.parametrize("deterministic", [False, True])
def test_many_queries_on_one_pixel_in_several_chunks(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_backward, "CHUNK", 1024 * 16)
    params = on_device(random_params(3, [16, 16], seed=5))
    feat = seeded((2, 3, 4, 5), 1, 1).to(DEVICE)
    coord, cell = (t.to(DEVICE) for t in random_queries(2, 260))
    torch.use_deterministic_algorithms(deterministic)
    try:
        check([(feat, coord * 0.1, cell, params)], "fp32")
        grad = seeded((2, 260, 3), 9, 1).to(DEVICE)
        runs = [fused(grad, feat, coord * 0.1, cell, params, "fp32") for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    if deterministic:
        assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_a_window_and_any_strides() -> None:
    params = on_device(random_params(3, [8, 8]))
    _, rest = params.split()
    feat = seeded((1, 3, 12, 10), 1, 1).to(DEVICE)
    coord = (seeded((1, 2, 40), 2, 0.2) + 0.1).transpose(1, 2).to(DEVICE)
    cell = torch.tensor([0.1, 0.2], device=DEVICE).expand(1, 40, 2)
    grad = torch.ones(1, 1, 1, device=DEVICE).expand(1, 40, 3)
    projected = functional.project(feat, params)
    shared = (rest, params.weights[1:], params.biases, True)
    whole = backward(grad, Call(projected, None, coord, cell, None, *shared, [12, 10, 0, 0], "triton", "fp32"))
    inner = projected[:, 3:9, 2:9]
    part = backward(grad, Call(inner, None, coord, cell, None, *shared, [12, 10, 3, 2], "triton", "fp32"))
    outside = whole[0].clone()
    outside[:, 3:9, 2:9] = 0
    assert not outside.any()
    torch.testing.assert_close(part[0], whole[0][:, 3:9, 2:9], rtol=0, atol=1e-6)
    for ours, its in zip((part[1], *part[2], *part[3]), (whole[1], *whole[2], *whole[3]), strict=True):
        assert torch.equal(ours, its)


def test_a_neighbour_outside_of_the_window_gets_no_gradient_and_does_no_harm() -> None:
    params = on_device(random_params(3, [8, 8]))
    _, rest = params.split()
    projected = functional.project(seeded((1, 3, 6, 6), 1, 1).to(DEVICE), params)[:, 2:4]
    coord, cell = (t.to(DEVICE) for t in random_queries(1, 40))
    grad = seeded((1, 40, 3), 9, 1).to(DEVICE)
    shared = (rest, params.weights[1:], params.biases, True, [6, 6, 2, 0], "triton", "fp32")
    call = Call(projected, None, coord, cell, None, *shared)
    atomic = backward(grad, call)
    torch.use_deterministic_algorithms(True)
    try:
        summed = backward(grad, call)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(atomic[0], summed[0], rtol=0, atol=1e-5)
    assert torch.isfinite(atomic[0]).all()


def test_relu_has_no_gradient_at_zero() -> None:
    params = on_device(random_params(2, [16, 16]))
    zero = dataclasses.replace(params, biases=tuple(torch.zeros_like(b) for b in params.biases))
    feat = torch.zeros(1, 2, 3, 3, device=DEVICE)
    coord = torch.zeros(1, 1, 2, device=DEVICE)
    single = dataclasses.replace(zero, local_ensemble=False)
    grads = fused(torch.ones(1, 1, 3, device=DEVICE), feat, coord, torch.zeros_like(coord), single, "fp32")
    assert not any(g.any() for g in grads[:-1])
    assert (grads[-1] == 1).all()


def test_a_query_takes_the_fused_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the operator, eager and compiled, under autocast."""
    params = tracked(on_device(random_params(4, [16, 16])))
    feat = seeded((2, 4, 5, 6), 1, 1).to(DEVICE).requires_grad_()
    coord, cell = (t.to(DEVICE) for t in random_queries(2, 30))
    right, calls = implementations.BACKWARD["triton"], []
    monkeypatch.setitem(
        implementations.BACKWARD, "triton", lambda *args: calls.append(args[-1].precision) or right(*args)
    )

    def loss(backend: str) -> Tensor:
        return functional.query(feat, coord, cell, params, backend=backend).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    want = torch.autograd.grad(loss("torch"), leaves(feat, params))
    for run in (loss, compiled):
        for ours, its in zip(torch.autograd.grad(run("triton"), leaves(feat, params)), want, strict=True):
            torch.testing.assert_close(ours, its, rtol=1e-4, atol=1e-5 * float(its.abs().max()))
    with torch.autocast(DEVICE.type, dtype=torch.float16):
        answer = loss("triton")
    torch.autograd.grad(answer, leaves(feat, params))
    assert calls == ["fp32", "fp32", "fp16"]


def test_opcheck() -> None:
    params = on_device(random_params(4, [16, 16]))
    _, rest = params.split()
    coord, cell = (t.to(DEVICE) for t in random_queries(1, 9))
    projected = functional.project(seeded((1, 4, 5, 6), 1, 1).to(DEVICE), params)
    grad = seeded((1, 9, 3), 9, 1).to(DEVICE)
    shared = (rest, list(params.weights[1:]), list(params.biases), True, [5, 6, 0, 0], "triton", "fp32")
    torch.library.opcheck(
        torch.ops.liif_fast.query_backward.default, (grad, None, projected, None, coord, cell, None, *shared)
    )


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")
def test_gradients_in_a_captured_graph() -> None:
    params = tracked(on_device(random_params(4, [16, 16])))
    feat = seeded((2, 4, 5, 6), 1, 1).to(DEVICE).requires_grad_()
    coord, cell = (t.to(DEVICE) for t in random_queries(2, 30))

    def run() -> Tensor:
        answer = functional.query(feat, coord, cell, params, backend="triton", precision="fp32")
        return torch.autograd.grad(answer.sum(), feat)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        want = run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    captured.zero_()
    graph.replay()
    torch.testing.assert_close(captured, want, rtol=0, atol=1e-5)
