"""The reference path against the recorded outputs and gradients of the published code."""

from __future__ import annotations

import torch
from support.golden import GoldenCase, check_golden_gradients, golden_cases, random_params, seeded

from liif_fast.backends import reference
from liif_fast.geometry import make_cell, make_coord


def test_golden_output(golden: GoldenCase) -> None:
    out = reference.query(golden.feat, golden.coord, golden.cell, golden.params)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, golden.out, rtol=0, atol=2e-7)


def test_every_recorded_case_is_here() -> None:
    assert len(golden_cases()) == 32


def test_golden_gradients() -> None:
    cases = [case for case in golden_cases() if case.spec["grad"]]
    assert len(cases) == 10
    for case in cases:
        leaves = [case.feat, *case.params.weights, *case.params.biases]
        for leaf in leaves:
            leaf.requires_grad_()
        out = reference.query(case.feat, case.coord, case.cell, case.params)
        (out * seeded(list(out.shape), case.spec["seed"] + 200, 1)).sum().backward()
        check_golden_gradients(case)


def test_chunks_equal_the_whole() -> None:
    params = random_params(4, [16])
    feat = seeded((2, 4, 5, 6), 3, 1)
    coord = make_coord((13, 17)).expand(2, -1, -1)
    cell = make_cell((13, 17)).expand(2, -1, -1)
    whole = reference.query(feat, coord, cell, params)
    torch.testing.assert_close(reference.batched_query(feat, coord, cell, params, bsize=50), whole, rtol=0, atol=1e-7)


def test_truth_shares_the_float32_neighbours() -> None:
    """float64 features with float32 coordinates differ from float32 only by rounding, at ties too."""
    case = next(case for case in golden_cases() if case.name == "ties-31")
    double = random_params(4, [16], seed=51)
    weights = tuple(w.double() for w in double.weights)
    biases = tuple(b.double() for b in double.biases)
    truth = reference.query(case.feat.double(), case.coord, case.cell, type(double)(weights, biases, 4))
    assert truth.dtype == torch.float64
    torch.testing.assert_close(truth.float(), case.out, rtol=0, atol=3e-7)
