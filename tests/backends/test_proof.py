"""What `auto` wants of a GPU backend before it takes it: versions, answers of the caller's form, speed."""

from __future__ import annotations

import pytest
import torch
from support.golden import random_params, seeded
from support.triton_device import DEVICE, PRECISIONS, on_device
from torch import Tensor

from liif_fast import backends, functional
from liif_fast.backends import implementations, proof, triton
from liif_fast.backends.call import Call, Query
from liif_fast.models import projection_cache

pytestmark = pytest.mark.skipif(
    triton.unusable_reason(DEVICE, "fp32") is not None, reason=str(triton.unusable_reason(DEVICE, "fp32"))
)

FORM = proof.Form(channels=16, width=64, hidden=3)
EVERY_KIND = [(grid, direct) for grid in (False, True) for direct in (False, True)]


@pytest.mark.parametrize(("grid", "direct"), EVERY_KIND)
def test_the_proof_on_a_device_finds_a_wrong_kernel_of_the_callers_form(
    grid: bool, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the kernel of this very prologue and kind of query is wrong."""
    form = FORM._replace(grid=grid, direct=direct)
    assert proof.disproof(triton.run, DEVICE, "fp32", form) is None
    right = implementations.KERNELS["triton"]

    def wrong(call: Call) -> Tensor:
        its = (call.grid is not None, call.kernel is not None) == (grid, direct)
        return right(call) * (1.001 if its else 1)

    monkeypatch.setitem(implementations.KERNELS, "triton", wrong)
    assert "differed from PyTorch" in str(proof.disproof(triton.run, DEVICE, "fp32", form))
    other = form._replace(direct=not direct)
    assert proof.disproof(triton.run, DEVICE, "fp32", other) is None


def test_the_proof_takes_the_callers_width_depth_and_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setitem(implementations.KERNELS, "triton", lambda call: asked.append(call) or 1 / 0)
    params = random_params(7, [24] * 5, out_dim=2, cell_decode=False, local_ensemble=False)
    form = proof.form_of(params, grid=True, direct=True, gradient=False)
    assert "ZeroDivisionError" in str(proof.disproof(triton.run, DEVICE, "fp32", form))
    (call,) = asked
    assert [bias.shape[0] for bias in call.biases] == [24] * 5 + [2]
    assert call.kernel.shape == (24, 7, 3, 3)
    assert call.rest.shape == (24, 2)
    assert not call.local_ensemble


def test_auto_leaves_a_backend_that_is_slower_than_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(asked: Query) -> Tensor:
        return torch.zeros(2)

    def fast(asked: Query) -> Tensor:
        return torch.zeros(1)

    monkeypatch.setattr(proof, "_milliseconds", lambda run, asked, gradient: float(len(run(asked))))
    assert "'torch' was faster" in str(proof.slower(slow, DEVICE, "fp32", FORM, {"torch": fast}))
    assert proof.slower(fast, DEVICE, "fp32", FORM, {"torch": slow}) is None
    assert proof.slower(fast, DEVICE, "fp32", FORM, {}) is None


def test_a_verdict_is_kept_for_each_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "disproof", lambda run, device, precision, form: f"wrong at {form.width}")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    kept = proof.Proof(triton.run)
    for width in (64, 256, 64):
        assert kept.reason(torch.device("cuda"), "fp16", FORM._replace(width=width), {}) == f"wrong at {width}"
    assert len(kept.verdicts) == 2


@pytest.mark.slow
def test_the_proof_of_the_gradients_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    form = FORM._replace(gradient=True, grid=False)
    with torch.inference_mode():
        assert [proof.disproof(triton.run, DEVICE, precision, form) for precision in PRECISIONS] == [None] * len(
            PRECISIONS
        )
    right = implementations.BACKWARD["triton"]
    monkeypatch.setitem(implementations.BACKWARD, "triton", lambda *args: (right(*args)[0] * 1.001, *right(*args)[1:]))
    assert "differed from PyTorch" in str(proof.disproof(triton.run, DEVICE, "fp32", form))
    assert proof.disproof(triton.run, DEVICE, "fp32", form._replace(gradient=False)) is None
    monkeypatch.setattr(triton, "unchosen_reason", lambda device, precision, form: "wrong" if form.gradient else None)
    params = on_device(random_params(4, [16]))
    assert backends.select("auto", DEVICE, "fp32", params) == "triton"
    assert backends.select("auto", DEVICE, "fp32", params, gradient=True) != "triton"


def test_what_is_too_old_or_another_makers_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "triton 3.5 or newer, got 3.4.0" in str(triton._too_old("2.9.1", "3.4.0"))
    assert "torch 2.9 or newer, got 2.8.0+cu128" in str(triton._too_old("2.8.0+cu128", "3.5.0"))
    assert triton._too_old("2.10.0", "3.5.1") is None
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "ROCm" in str(triton._unfit_device(torch.device("cuda"), "fp16"))


def test_the_newer_tf32_setting_of_torch_breaks_no_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is used, torch refuses to tell the older one."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("torch 2.9 and newer have it")
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert functional.multiplies_in_tf32()
        params = random_params(4, [16])
        cache = projection_cache.ProjectionCache()
        assert cache.project(seeded((1, 4, 5, 6), 1, 1), params).shape == (1, 5, 6, 16)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert not functional.multiplies_in_tf32()
