"""The fused backward: every gradient against float64 autograd, at awkward sizes, bit for bit again, and its limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from support.golden import GoldenCase, check_golden_gradients, golden_cases, random_params, seeded
from support.models import grid_queries, tiny_liif
from torch import Tensor

from liif_fast import backends
from liif_fast.backends import operators, reference
from liif_fast.errors import BackendError
from liif_fast.functional import Window, project, query
from liif_fast.geometry import make_cell, make_coord
from liif_fast.native import library
from liif_fast.params import DecoderParams

BACKENDS = [n for n in backends.available_backends() if getattr(backends.FUSED.get(n), "BACKWARD", False)] or ["absent"]
SWITCHES = [(e, u, c) for e in (True, False) for u in (True, False) for c in (True, False)]
NAMES = ("local_ensemble", "feat_unfold", "cell_decode")
# Share of a gradient's largest value by which an error may always exceed twice PyTorch's: about a last digit's half.
FLOORS = {"fp32": 2e-6, "bf16": 2e-3}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "absent":
        pytest.skip("no backend with a backward can run here; tests/test_cpu.py says why and fails where one has to")
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def _fresh_memory_holds_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def precisions(backend: str, params: DecoderParams) -> list[str]:
    device = torch.device("cpu")
    return [p for p in FLOORS if backends.unusable_reason(backend, device, p, params) is None]


def random_queries(batch: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return seeded((batch, count, 2), seed, 1.05), seeded((batch, count, 2), seed + 1, 0.4).abs()


Answer = Callable[[Tensor, DecoderParams], Tensor]


def asking(coord: Tensor, cell: Tensor, backend: str, precision: str = "auto") -> Answer:
    return lambda feat, params: query(feat, coord, cell, params, backend=backend, precision=precision)


def gradients(feat: Tensor, params: DecoderParams, answer: Answer, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Of the features, the weights and the biases, for a fixed loss."""
    leaves = [t.detach().to(dtype).requires_grad_() for t in (feat, *params.weights, *params.biases)]
    count = len(params.weights)
    params = dataclasses.replace(params, weights=tuple(leaves[1 : 1 + count]), biases=tuple(leaves[1 + count :]))
    out = answer(leaves[0], params)
    return list(torch.autograd.grad((out * seeded(list(out.shape), 77, 1)).sum(), leaves))


def check_against_truth(backend: str, feat: Tensor, coord: Tensor, cell: Tensor, params: DecoderParams) -> None:
    truth = gradients(feat, params, lambda f, p: reference.query(f, coord, cell, p), torch.float64)
    for precision in precisions(backend, params):
        theirs = "reference" if precision == "fp32" else "torch"
        own = gradients(feat, params, asking(coord, cell, theirs, precision))
        got = gradients(feat, params, asking(coord, cell, backend, precision))
        for k, (want, plain, ours) in enumerate(zip(truth, own, got, strict=True)):
            allowed = 2 * (plain - want).abs().max() + FLOORS[precision] * want.abs().max()
            assert (ours - want).abs().max() <= allowed, f"{precision}, gradient {k}"


@pytest.mark.parametrize("case", [c for c in golden_cases() if c.spec["grad"]], ids=lambda c: c.name)
def test_golden_gradients(backend: str, case: GoldenCase) -> None:
    check_against_truth(backend, case.feat, case.coord, case.cell, case.params)
    for leaf in (case.feat, *case.params.weights, *case.params.biases):
        leaf.requires_grad_()
        leaf.grad = None  # the case serves every backend
    out = query(case.feat, case.coord, case.cell, case.params, backend=backend)
    (out * seeded(list(out.shape), case.spec["seed"] + 200, 1)).sum().backward()
    check_golden_gradients(case)


@pytest.mark.parametrize("arithmetic", library.arithmetics("any"))
def test_golden_gradients_by_every_arithmetic(monkeypatch: pytest.MonkeyPatch, arithmetic: str) -> None:
    """Also by those that another processor would take."""
    monkeypatch.setitem(library.BEST, "bf16" if arithmetic.endswith("int16") else "fp32", arithmetic)
    for case in golden_cases():
        if case.spec["grad"]:
            check_against_truth("cpu", case.feat, case.coord, case.cell, case.params)


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize(("batch", "size", "count"), [(1, (1, 1), 1), (2, (3, 7), 63), (1, (9, 4), 129)])
def test_awkward_sizes(
    backend: str, switches: tuple[bool, bool, bool], batch: int, size: tuple[int, int], count: int
) -> None:
    params = random_params(5, [32, 32], seed=7, **dict(zip(NAMES, switches, strict=True)))
    check_against_truth(backend, seeded((batch, 5, *size), 1, 1), *random_queries(batch, count), params)


@pytest.mark.parametrize("hidden", [[], [8], [24, 40], [33, 7, 20], [256, 256, 256]])
@pytest.mark.parametrize("out_dim", [1, 3, 20])
def test_any_widths(backend: str, hidden: list[int], out_dim: int) -> None:
    params = random_params(3, hidden, out_dim)
    reason = backends.unusable_reason(backend, torch.device("cpu"), "fp32", params)
    if reason is not None:
        pytest.skip(reason)
    check_against_truth(backend, seeded((2, 3, 6, 5), 1, 1), *random_queries(2, 50), params)


@pytest.mark.parametrize("same_place", [True, False])
def test_many_queries_on_one_pixel(backend: str, same_place: bool) -> None:
    params = random_params(4, [48, 48])
    coord, cell = random_queries(2, 700)
    coord = coord[:, :1].expand(-1, 700, -1) if same_place else coord / 40 + 0.3
    check_against_truth(backend, seeded((2, 4, 9, 11), 1, 1), coord, cell, params)


@pytest.mark.parametrize("scale", [0.0, 1e-36, 1e-12, 1e12])
def test_gradients_of_any_size(backend: str, scale: float) -> None:
    params = random_params(4, [48, 48, 48])
    feat, (coord, cell) = seeded((2, 4, 5, 6), 1, 1), random_queries(2, 70)
    for precision in precisions(backend, params):
        leaves = [feat.requires_grad_(), *(w.requires_grad_() for w in params.weights)]
        out = query(feat, coord, cell, params, backend=backend, precision=precision)
        want = torch.autograd.grad(reference.query(feat, coord, cell, params).sum(), leaves)
        for got, exact in zip(torch.autograd.grad(out.sum() * scale, leaves), want, strict=True):
            assert (got - exact * scale).norm() <= 2e-2 * (exact * scale).norm() + 1e-32


def test_a_gradient_that_is_not_finite_stays_so(backend: str) -> None:
    params = random_params(4, [48, 48, 48])
    params.weights[1].requires_grad_()
    for precision in precisions(backend, params):
        for bad in (float("nan"), float("inf")):
            out = query(
                seeded((1, 4, 5, 6), 1, 1), *random_queries(1, 70), params, backend=backend, precision=precision
            )
            scale = torch.ones_like(out)
            scale[0, 7] = bad
            (got,) = torch.autograd.grad((out * scale).sum(), params.weights[1])
            assert not got.isfinite().all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_same_bits_again(backend: str, threads: int) -> None:
    params = random_params(4, [48, 48, 48])
    feat, (coord, cell) = seeded((3, 4, 8, 9), 1, 1), random_queries(3, 300)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for precision in precisions(backend, params):
            answer = asking(coord, cell, backend, precision)
            first, second = gradients(feat, params, answer), gradients(feat, params, answer)
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif("cpu" not in BACKENDS, reason=str(backends.unusable_reason("cpu", torch.device("cpu"))))
@pytest.mark.parametrize("hidden", [[], [24, 40], [33, 7, 20]])
def test_what_the_forward_keeps_is_what_the_backward_would_compute(hidden: list[int]) -> None:
    params = random_params(4, hidden)
    source = project(seeded((2, 4, 5, 6), 1, 1), params)
    (coord, cell), (_, rest) = random_queries(2, 90), params.split()
    given = (source, None, coord, cell, None, rest, list(params.weights[1:]), list(params.biases), True, [5, 6, 0, 0])
    for precision in precisions("cpu", params):
        answer, kept = operators.query_keeping(*given, "cpu", precision)
        grad = seeded(list(answer.shape), 5, 1)
        found = (operators.query_backward(grad, k, *given, "cpu", precision) for k in (kept, None))
        for own, again in zip(*map(torch.utils._pytree.tree_leaves, found), strict=True):
            assert torch.equal(own, again)
    with pytest.raises(RuntimeError, match="kept: expected"):
        operators.query_backward(grad, torch.zeros(2, 7, dtype=torch.uint8), *given, "cpu", "fp32")


def test_a_windows_gradient_is_that_of_the_whole_map(backend: str) -> None:
    params = random_params(3, [32, 32])
    projected = project(seeded((1, 3, 12, 10), 1, 1), params)
    coord = make_coord((31, 27)).view(31, 27, 2)[10:20, 5:15].reshape(1, -1, 2)
    cell = make_cell((31, 27), count=100)[None]
    part = projected[:, 2:10, 1:8].contiguous().requires_grad_()
    projected.requires_grad_()
    query(None, coord, cell, params, projected=projected, backend=backend).square().sum().backward()
    window = Window(12, 10, 2, 1)
    query(None, coord, cell, params, projected=part, window=window, backend=backend).square().sum().backward()
    assert projected.grad is not None
    assert part.grad is not None
    torch.testing.assert_close(part.grad, projected.grad[:, 2:10, 1:8])


@pytest.mark.skipif("cpu" not in BACKENDS, reason=str(backends.unusable_reason("cpu", torch.device("cpu"))))
def test_a_neighbour_outside_of_the_window_is_said() -> None:
    """By the CPU: asking a GPU would wait for it (there it reads zeros, tests/test_triton_backward.py)."""
    params = random_params(3, [32, 32])
    small = project(seeded((1, 3, 12, 10), 1, 1), params)[:, 5:10, 1:8].contiguous().requires_grad_()
    coord, cell = make_coord((31, 27)).view(31, 27, 2)[10:20, 5:15].reshape(1, -1, 2), make_cell((31, 27), count=100)
    with pytest.raises(RuntimeError, match="window: expected every neighbour"):
        query(None, coord, cell[None], params, projected=small, window=Window(12, 10, 5, 1), backend="cpu")


def operands(backend: str, hidden: list[int], cell_decode: bool = True) -> tuple[object, ...]:
    params = random_params(4, hidden, cell_decode=cell_decode)
    coord, cell = random_queries(2, 30)
    _, rest = params.split()
    source = project(seeded((2, 4, 5, 6), 1, 1), params).requires_grad_()
    layers = ([w.clone().requires_grad_() for w in params.weights[1:]], [b.requires_grad_() for b in params.biases])
    shared = (rest.clone().requires_grad_(), *layers, params.local_ensemble, [5, 6, 0, 0], backend, "fp32")
    return source, None, coord, cell if cell_decode else None, None, *shared


@pytest.mark.parametrize("hidden", [[], [16], [16, 16]])
@pytest.mark.parametrize("cell_decode", [True, False])
def test_opcheck(backend: str, hidden: list[int], cell_decode: bool) -> None:
    reason = backends.unusable_reason(backend, torch.device("cpu"), "fp32", random_params(4, hidden))
    if reason is not None:
        pytest.skip(reason)
    given = operands(backend, hidden, cell_decode)
    assert set(torch.library.opcheck(operators.query, given).values()) == {"SUCCESS"}
    source, _, coord, cell, _, rest, weights, *others = given
    grad = seeded((2, 30, 3), 5, 1)
    plain = torch.utils._pytree.tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, others)
    plain_weights = [w.detach() for w in weights]
    arguments = (grad, None, source.detach(), None, coord, cell, None, rest.detach(), plain_weights, *plain)
    assert set(torch.library.opcheck(operators.query_backward, arguments).values()) == {"SUCCESS"}


def test_a_training_step_compiles_in_one_graph(backend: str) -> None:
    params = random_params(4, [16, 16])
    feat = seeded((2, 4, 5, 6), 1, 1)
    coord, cell = random_queries(2, 30)
    plain = gradients(feat, params, lambda f, p: query(f, coord, cell, p, backend=backend).square())
    for dynamic in (False, True):
        step = torch.compile(
            lambda f, p: query(f, coord, cell, p, backend=backend).square(),
            fullgraph=True,
            dynamic=dynamic,
            backend="aot_eager",
        )
        for got, want in zip(gradients(feat, params, step), plain, strict=True):
            torch.testing.assert_close(got, want)


def test_a_second_derivative_is_refused_in_one_line(backend: str) -> None:
    params = random_params(4, [16, 16])
    feat = seeded((1, 4, 5, 6), 1, 1).requires_grad_()
    out = query(feat, *random_queries(1, 30), params, backend=backend)
    (first,) = torch.autograd.grad(out.square().sum(), feat, create_graph=True)
    with pytest.raises(BackendError, match=r"first derivatives only.*backend='torch'") as raised:
        first.square().sum().backward()
    assert "\n" not in str(raised.value)


def test_the_operator_refuses_other_gradients(backend: str) -> None:
    given = list(operands(backend, [16]))
    coord = given[2]
    assert isinstance(coord, Tensor)
    with pytest.raises(BackendError, match="gradients of a projected map"):
        operators.query(*[*given[:2], coord.clone().requires_grad_(), *given[3:]]).sum().backward()
    grid = [*given[:2], None, None, [4, 5, 0, 0, 4, 5], *given[5:]]
    with pytest.raises(BackendError, match="for given coordinates"):
        operators.query(*grid).sum().backward()


def test_coordinates_that_need_a_gradient_get_it(backend: str) -> None:
    params = random_params(4, [16, 16])
    feat = seeded((1, 4, 5, 6), 1, 1).requires_grad_()
    coord, cell = (t.requires_grad_() for t in random_queries(1, 30))
    wanted = (feat, coord, cell)
    got, want = (
        torch.autograd.grad(query(feat, coord, cell, params, backend=name).square().sum(), wanted)
        for name in (backend, "torch")
    )
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_and_parameters_in_half_precision(backend: str, dtype: torch.dtype) -> None:
    params = random_params(4, [16, 16])
    if "bf16" not in precisions(backend, params):
        pytest.skip(f"{backend} has no bf16 here")
    feat, (coord, cell) = seeded((1, 4, 5, 1024), 1, 1), random_queries(1, 200)
    # Weights that are bfloat16 themselves are as they are: their rounding is no error.
    params = dataclasses.replace(
        params,
        weights=tuple(w.to(dtype).float() for w in params.weights),
        biases=tuple(b.to(dtype).float() for b in params.biases),
    )
    feat = feat.to(dtype).float()
    want = gradients(feat, params, asking(coord, cell, "reference"))

    def answer(feat: Tensor, params: DecoderParams) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = query(feat, coord, cell, params, backend=backend)
        assert out.dtype == torch.float32
        return out

    for got, exact in zip(gradients(feat, params, answer, dtype), want, strict=True):
        assert got.dtype == dtype
        assert (got - exact).norm() <= 0.03 * exact.norm()


def test_frozen_parts_get_no_gradient(backend: str) -> None:
    params = random_params(4, [16, 16])
    params.weights[1].requires_grad_()
    query(seeded((1, 4, 5, 6), 1, 1), *random_queries(1, 30), params, backend=backend).sum().backward()
    assert params.weights[1].grad is not None
    assert all(t.grad is None for t in (params.weights[0], params.weights[2], *params.biases))


def test_training_follows_the_reference(backend: str) -> None:
    """The loss after each of a few steps, from the features before it: no projection is stale."""
    losses: dict[str, list[float]] = {}
    for name in ("reference", backend):
        model = tiny_liif().train()
        model.backend = name
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        inp, (coord, cell) = seeded((2, 3, 8, 9), 1, 1), grid_queries(20, 20, batch=2)
        target = seeded((2, 400, 3), 2, 1)
        losses[name] = []
        for _ in range(8):
            loss = (model(inp, coord, cell) - target).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                losses[name].append(float((model.query_rgb(coord, cell) - target).abs().mean()))
    torch.testing.assert_close(losses[backend], losses["reference"], rtol=1e-2, atol=0)
