"""Backend `triton`: the fused kernel (kernels/) on a GPU; with TRITON_INTERPRET=1 set, in Python on CPU tensors."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from liif_fast import geometry
from liif_fast.backends import operators, pytorch, reference
from liif_fast.backends.call import Query
from liif_fast.box import Box
from liif_fast.geometry import Grid, Window
from liif_fast.params import DecoderParams

F = TypeVar("F", bound=Callable[..., Any])
NAME = "triton"
DIRECT = True  # it can unfold the features itself
BACKWARD = True  # it has gradients of the map and of the weights
PRECISIONS = ("fp32", "tf32x3", "tf32", "fp16", "bf16")
MIN_CAPABILITY = (8, 0)
MAX_WIDTH, MAX_OUT = 256, 16

INSTALLED = find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# Largest relative difference from PyTorch that the small case of `unchosen_reason` may show, in answers and gradients.
PROOF_TOLERANCE = {"fp32": 1e-5, "tf32x3": 1e-5, "tf32": 5e-3, "fp16": 5e-3, "bf16": 4e-2}
GRADIENT_TOLERANCE = {"fp32": 1e-4, "tf32x3": 1e-4, "tf32": 5e-2, "fp16": 5e-2, "bf16": 2e-1}
_proofs: dict[tuple[int, str, bool], str | None] = {}


def _constant(function: F) -> F:
    """Dynamo's mark for a function whose result does not change while the program runs.

    torch.compiler.assume_constant_result sets the same mark, but imports Dynamo and Triton: a second at every start.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def unusable_reason(device: torch.device, precision: str, params: DecoderParams | None = None) -> str | None:
    """Why this cannot run, or None."""
    return _unfit_device(device, precision) or (None if params is None else _unfit_decoder(params))


@_constant
def _unfit_device(device: torch.device, precision: str) -> str | None:
    if not INSTALLED:
        return "the package triton is not installed; CUDA builds of PyTorch bring it, else: pip install triton"
    if precision not in PRECISIONS:
        return f"expected precision {', '.join(PRECISIONS)}, got {precision!r}"
    if device.type == "cpu" and INTERPRETED:
        if precision in ("bf16", "tf32"):
            return f"{precision} needs a GPU, Triton's interpreter gets it wrong; use fp16 or fp32"
        return None
    if device.type != "cuda":
        return f"expected tensors on a CUDA device, got {device}; or set TRITON_INTERPRET=1 to try it on a CPU"
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return f"expected compute capability 8.0 or newer, got {capability[0]}.{capability[1]}; use backend='torch'"
    return None


def _unfit_decoder(params: DecoderParams) -> str | None:
    widths = set(params.hidden)
    if len(widths) != 1 or max(widths) > MAX_WIDTH:
        return f"expected hidden layers of one width up to {MAX_WIDTH}, got {list(params.hidden)}; use backend='torch'"
    if params.out_dim > MAX_OUT:
        return f"expected at most {MAX_OUT} outputs, got {params.out_dim}; use backend='torch'"
    return None


@_constant
def unchosen_reason(device: torch.device, precision: str, gradient: bool = False) -> str | None:
    """Why `auto` leaves this backend alone although it can run, or None.

    The kernels are compiled for each device by whatever Triton is installed there, so the first choice on a device
    compares a small case with PyTorch, that for gradients their gradients; `auto` takes the backend where that agrees.
    """
    if device.type != "cuda":
        return "interpreted in Python"
    index = torch.cuda.current_device() if device.index is None else device.index
    case = index, precision, gradient
    if case not in _proofs:
        if torch.cuda.is_current_stream_capturing():
            return "not yet compared with PyTorch on this device; run it once before the capture"
        _proofs[case] = _disproof(torch.device("cuda", index), precision, gradient)
    return _proofs[case]


def _disproof(device: torch.device, precision: str, gradient: bool = False) -> str | None:
    """What is wrong with the kernels on a device, on a case with edges and ties; None if nothing is.

    Compared are the answers of both prologues or, for gradients, those of the map and of every weight and bias.
    """
    generator = torch.Generator().manual_seed(0)
    differ, tolerance = (_off_gradients, GRADIENT_TOLERANCE) if gradient else (_off_answers, PROOF_TOLERANCE)
    # A first use may come without gradients, in inference mode or under autocast.
    with torch.inference_mode(False), torch.set_grad_enabled(gradient), torch.autocast(device.type, enabled=False):
        try:
            worst = differ(device, precision, generator)
        # Whatever a compiler or driver raises, the answer is to use another backend.
        except Exception as error:
            return f"it failed its first use on this device: {type(error).__name__}: {error}".splitlines()[0]
    if not worst <= tolerance[precision]:
        return f"its first use on this device differed from PyTorch by {worst:.1e} of its values"
    return None


def _small_case(device: torch.device, generator: torch.Generator) -> DecoderParams:
    widths = [16 * 9 + 4, 64, 64, 64, 3]
    weights = [torch.rand(n, m, generator=generator) * 2 - 1 for m, n in pairwise(widths)]
    scaled = tuple((weight * (3 / weight.shape[1]) ** 0.5).to(device) for weight in weights)
    biases = tuple((torch.rand(n, generator=generator) - 0.5).to(device) for n in widths[1:])
    return DecoderParams(scaled, biases, 16)


def _off_answers(device: torch.device, precision: str, generator: torch.Generator) -> float:
    """Largest difference of the answers, of the largest of them."""
    params = _small_case(device, generator)
    feat = (torch.rand(1, 16, 5, 7, generator=generator) * 2 - 1).to(device)
    grid = Grid((10, 21), Box(0, 0, 10, 21))
    coord, cell = geometry.grid_queries(grid, 1, device)
    want = reference.query(feat.double(), coord, cell, _double(params))
    asked = Query(feat, None, (coord, cell), params, Window(5, 7), precision)
    answers = [run(asked), run(asked._replace(where=grid))]
    return max(float((answer - want).abs().max() / want.abs().max()) for answer in answers)


def _off_gradients(device: torch.device, precision: str, generator: torch.Generator) -> float:
    """Largest norm of a gradient's difference, relative to its own: a flipped ReLU moves single values far."""
    params = _small_case(device, generator)
    projected = (torch.rand(1, 5, 7, 64, generator=generator) * 2 - 1).to(device)
    coord, cell = geometry.grid_queries(Grid((10, 21), Box(0, 0, 10, 21)), 1, device)
    window, found = Window(5, 7), []
    for source, its in ((projected, params), (projected.double(), _double(params))):
        leaves = [source, *its.weights, *its.biases]
        for leaf in leaves:
            leaf.requires_grad_()
        asked = Query(None, source, (coord, cell), its, window, precision)
        out = run(asked) if source is projected else pytorch.run(asked)
        found.append(torch.autograd.grad(out.square().sum(), leaves))
    return max(float((got - want).norm() / want.norm()) for got, want in zip(*found, strict=True))


def _double(params: DecoderParams) -> DecoderParams:
    weights, biases = ([t.double() for t in tensors] for tensors in (params.weights, params.biases))
    return DecoderParams(tuple(weights), tuple(biases), params.channels)


def detail() -> str:
    if INTERPRETED:
        return "interpreted in Python (TRITON_INTERPRET=1): for tests, very slow"
    device = torch.cuda.current_device()
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"


def run(asked: Query) -> Tensor:
    """[B, Q, out_dim] float32, from the projected map, or from the features where there is no projection.

    Differentiable in the projected map and the weights where coordinates are given.
    """
    return operators.ask(asked, NAME)
