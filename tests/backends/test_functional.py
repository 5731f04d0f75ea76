"""The functional entry on PyTorch operations: the projected form against float64 truth, its gradients, its errors."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.golden import (
    SWITCHES,
    GoldenCase,
    check_golden_gradients,
    golden_cases,
    random_params,
    random_queries,
    seeded,
    to_double,
)
from torch import Tensor

from liif_fast import backends
from liif_fast.backends import reference
from liif_fast.errors import BackendError, UsageError
from liif_fast.functional import Window, project, query, resolve_precision
from liif_fast.geometry import make_cell, make_coord
from liif_fast.params import DecoderParams


def test_golden_output(golden: GoldenCase) -> None:
    out = query(golden.feat, golden.coord, golden.cell, golden.params, backend="torch")
    torch.testing.assert_close(out, golden.out, rtol=0, atol=3e-7)


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize(("batch", "size", "count"), [(1, (1, 1), 1), (2, (3, 7), 63), (1, (9, 4), 129)])
def test_error_is_within_twice_pytorchs_own(
    switches: tuple[bool, bool, bool], batch: int, size: tuple[int, int], count: int
) -> None:
    names = ("local_ensemble", "feat_unfold", "cell_decode")
    params = random_params(5, [24, 40], seed=7, **dict(zip(names, switches, strict=True)))
    feat = seeded((batch, 5, *size), 1, 1)
    coord, cell = random_queries(batch, count)
    truth = reference.query(feat.double(), coord, cell, to_double(params))
    own = (reference.query(feat, coord, cell, params) - truth).abs().max()
    got = query(feat, coord, cell, params, backend="torch")
    assert got.shape == (batch, count, 3)
    assert (got - truth).abs().max() <= 2 * own + 1e-6


def test_golden_gradients() -> None:
    for case in golden_cases():
        if not case.spec["grad"]:
            continue
        for leaf in (case.feat, *case.params.weights, *case.params.biases):
            leaf.requires_grad_()
        out = query(case.feat, case.coord, case.cell, case.params)
        (out * seeded(list(out.shape), case.spec["seed"] + 200, 1)).sum().backward()
        check_golden_gradients(case)


@pytest.mark.parametrize("switches", SWITCHES)
def test_gradcheck_in_float64(switches: tuple[bool, bool, bool]) -> None:
    names = ("local_ensemble", "feat_unfold", "cell_decode")
    params = to_double(random_params(2, [6, 5], seed=3, **dict(zip(names, switches, strict=True))))
    coord, cell = (t.double() for t in random_queries(1, 4))
    feat = seeded((1, 2, 3, 4), 5, 1).double()
    leaves = [t.requires_grad_() for t in (feat, coord, cell, *params.weights, *params.biases)]

    def run(feat: Tensor, coord: Tensor, cell: Tensor, *layers: Tensor) -> Tensor:
        half = len(layers) // 2
        return query(feat, coord, cell, dataclasses.replace(params, weights=layers[:half], biases=layers[half:]))

    assert torch.autograd.gradcheck(run, leaves)


def test_many_queries_in_chunks_equal_one_call_each() -> None:
    params = random_params(3, [8, 8])
    feat = seeded((1, 3, 6, 5), 1, 1)
    coord, cell = random_queries(1, 20_000)
    whole = query(feat, coord, cell, params, backend="torch")
    tail = query(feat, coord[:, 19_000:], cell[:, 19_000:], params, backend="torch")
    torch.testing.assert_close(whole[:, 19_000:], tail, rtol=0, atol=1e-7)


def test_a_projection_serves_every_query_of_its_map() -> None:
    params = random_params(3, [8, 8])
    feat = seeded((2, 3, 6, 5), 1, 1)
    coord, cell = random_queries(2, 70)
    projected = project(feat, params)
    assert projected.shape == (2, 6, 5, 8)
    assert projected.is_contiguous()
    whole = query(feat, coord, cell, params)
    assert torch.equal(query(None, coord, cell, params, projected=projected), whole)


@pytest.mark.parametrize("backend", [n for n in backends.available_backends() if n != "reference"])
def test_a_window_answers_as_the_whole_map(backend: str) -> None:
    params = random_params(3, [8, 8])
    feat = seeded((1, 3, 12, 10), 1, 1)
    coord = make_coord((31, 27)).view(31, 27, 2)[10:20, 5:15].reshape(1, -1, 2)
    cell = make_cell((31, 27), count=100)[None]
    projected = project(feat, params)
    whole = query(None, coord, cell, params, projected=projected, backend=backend)
    part = projected[:, 2:10, 1:8].contiguous()
    got = query(None, coord, cell, params, projected=part, window=Window(12, 10, 2, 1), backend=backend)
    assert torch.equal(got, whole)


@pytest.mark.parametrize("backend", [n for n in backends.available_backends() if n != "reference"])
def test_strided_inputs(backend: str) -> None:
    params = random_params(4, [16, 16])
    feat = seeded((1, 9, 6, 8), 1, 1)[:, ::2][:, :4].transpose(2, 3)
    coord = seeded((1, 2, 40), 2, 1).transpose(1, 2)
    cell = torch.tensor([0.1, 0.2]).expand(1, 40, 2)
    want = query(feat.contiguous(), coord.contiguous(), cell.contiguous(), params, backend="torch")
    torch.testing.assert_close(query(feat, coord, cell, params, backend=backend), want, rtol=0, atol=1e-6)


def test_a_single_linear_layer() -> None:
    params = random_params(4, [])
    feat = seeded((1, 4, 5, 5), 1, 1)
    coord, cell = random_queries(1, 33)
    truth = reference.query(feat, coord, cell, params)
    torch.testing.assert_close(query(feat, coord, cell, params, backend="torch"), truth, rtol=0, atol=1e-6)


def test_compiles_in_one_graph_and_keeps_gradients() -> None:
    params = random_params(4, [16, 16])
    feat = seeded((1, 4, 5, 6), 1, 1).requires_grad_()
    coord, cell = random_queries(1, 30)

    def loss(feat: Tensor, backend: str) -> Tensor:
        return query(feat, coord, cell, params, backend=backend).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for backend in backends.available_backends():
        if backend == "reference":
            continue
        (want,) = torch.autograd.grad(loss(feat, "torch"), feat)
        (got,) = torch.autograd.grad(compiled(feat, backend), feat)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_precision_follows_autocast_and_dtype() -> None:
    tensor = torch.zeros(1)
    assert resolve_precision("auto", tensor) == "fp32"
    assert resolve_precision("auto", tensor.bfloat16()) == "bf16"
    assert resolve_precision("fp32", tensor.bfloat16()) == "fp32"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert resolve_precision("auto", tensor) == "bf16"


def test_bf16_keeps_coordinates_in_float32() -> None:
    """Half-precision centres would pick wrong pixels on a wide map: the error stays that of the arithmetic."""
    params = random_params(8, [64, 64])
    feat = seeded((1, 8, 2, 1024), 1, 1)
    coord, cell = make_coord((4, 2048))[None], make_cell((4, 2048))[None]
    want = query(feat, coord, cell, params, backend="torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = query(feat, coord, cell, params, backend="torch")
    assert got.dtype == torch.float32
    peak = want.max() - want.min()
    assert 20 * torch.log10(peak / (got - want).square().mean().sqrt()) > 40


BAD = {
    "feat": (lambda a: a | {"feat": a["feat"][0]}, r"feat: expected .*\[B, 4, H, W\].* got .*\[4, 5, 6\]"),
    "channels": (lambda a: a | {"feat": a["feat"][:, :3]}, "feat: expected"),
    "integer feat": (lambda a: a | {"feat": a["feat"].long()}, "got torch.int64"),
    "empty map": (lambda a: a | {"feat": a["feat"][:, :, :0]}, "H, W >= 1"),
    "coord shape": (lambda a: a | {"coord": a["coord"][0]}, r"coord: expected \[B, Q, 2\]"),
    "coord dtype": (lambda a: a | {"coord": a["coord"].long()}, "coord: expected floating"),
    "batch": (lambda a: a | {"coord": a["coord"].expand(2, -1, -1)}, "B=1"),
    "NaN": (lambda a: a | {"coord": a["coord"] * float("nan")}, "coord: expected finite values, got NaN"),
    "infinite cell": (lambda a: a | {"cell": a["cell"] / 0}, "cell: expected finite"),
    "no cell": (lambda a: a | {"cell": None}, "make_cell"),
    "cell shape": (lambda a: a | {"cell": a["cell"][:, :2]}, "cell: expected one for each of 9 queries"),
    "backend": (lambda a: a | {"backend": "cuda9"}, "backend: expected one of auto, reference, torch"),
    "precision": (lambda a: a | {"precision": "fp7"}, "precision: expected one of auto, fp32"),
    "nothing": (lambda a: a | {"feat": None}, "got neither"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_get_one_clear_line(name: str) -> None:
    coord, cell = random_queries(1, 9)
    good = {"feat": seeded((1, 4, 5, 6), 1, 1), "coord": coord, "cell": cell, "params": random_params(4, [8])}
    spoil, message = BAD[name]
    with pytest.raises(UsageError, match=message) as raised:
        query(**spoil(good))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("backend", ["auto", *backends.available_backends()])
def test_no_queries_get_no_answers(backend: str) -> None:
    feat = seeded((2, 4, 5, 6), 1, 1).requires_grad_()
    nowhere = torch.empty(2, 0, 2)
    answers = query(feat, nowhere, nowhere, random_params(4, [8]), backend=backend)
    assert answers.shape == (2, 0, 3)
    answers.sum().backward()
    assert feat.grad is not None
    assert not feat.grad.any()


@pytest.mark.parametrize("backend", backends.available_backends())
def test_points_and_cells_serve_a_whole_batch(backend: str) -> None:
    feat, params = seeded((2, 4, 5, 6), 1, 1), random_params(4, [8])
    coord, _ = random_queries(1, 30)
    cells = torch.tensor([[0.1, 0.2], [0.3, 0.05]])
    want = query(feat, coord.repeat(2, 1, 1), cells[:, None].repeat(1, 30, 1), params, backend=backend)
    for cell in (cells, cells[:, None]):
        assert torch.equal(query(feat, coord, cell, params, backend=backend), want)


def test_a_named_backend_that_cannot_run_says_why() -> None:
    coord, cell = random_queries(1, 9)
    with pytest.raises(BackendError, match=r"tf32.*CUDA"):
        query(seeded((1, 4, 5, 6), 1, 1), coord, cell, random_params(4, [8]), backend="torch", precision="tf32")


def test_the_report_names_every_backend() -> None:
    rows = {row.name: row for row in backends.report()}
    assert set(rows) == set(backends.NAMES)
    assert rows["torch"].usable
    assert rows["reference"].usable
    assert all(row.usable or row.reason for row in rows.values())


def test_params_refuse_layers_that_do_not_fit() -> None:
    good = random_params(4, [8])
    with pytest.raises(UsageError, match="layer 0: expected"):
        dataclasses.replace(good, channels=5)
    with pytest.raises(UsageError, match="one bias for each"):
        dataclasses.replace(good, biases=good.biases[:1])
    with pytest.raises(UsageError, match="Linear, ReLU"):
        DecoderParams.from_mlp(torch.nn.Sequential(torch.nn.Linear(40, 3), torch.nn.Tanh()), 4)
