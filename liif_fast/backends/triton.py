"""Backend `triton`: the fused kernel (kernels/) on a GPU; with TRITON_INTERPRET=1 set, in Python on CPU tensors."""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from importlib.util import find_spec

import torch
from torch import Tensor

from liif_fast.backends import operators, pytorch
from liif_fast.backends.call import Query
from liif_fast.backends.proof import Form, Proof, constant
from liif_fast.params import DecoderParams

PUBLISHED = Form()
NAME = "triton"
DIRECT = True  # it can unfold the features itself
BACKWARD = True  # it has gradients of the map and of the weights
PRECISIONS = ("fp32", "tf32x3", "tf32", "fp16", "bf16")
MIN_CAPABILITY = (8, 0)
MAX_WIDTH, MAX_OUT = 256, 16

INSTALLED = find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# Its answers are 74 dB from those of fp32: rounded to 8 bits, the same but for some that lie between two levels.
EIGHT_BIT_PRECISION = "fp16"
# Below 3.5 the compiler aborts the process on Hopper's direct form and spills elsewhere; below 2.9, the release with
# Triton 3.5, torch has no float32 products of half-precision matrices (torch.bmm's out_dtype, 2.8).
MIN_TRITON, MIN_TORCH = (3, 5), (2, 9)


def unusable_reason(device: torch.device, precision: str, params: DecoderParams | None = None) -> str | None:
    """Why this cannot run, or None."""
    return _unfit_device(device, precision) or (None if params is None else _unfit_decoder(params))


@constant
def _unfit_device(device: torch.device, precision: str) -> str | None:
    if not INSTALLED:
        return "the package triton is not installed; CUDA builds of PyTorch bring it, else: pip install triton"
    if precision not in PRECISIONS:
        return f"expected precision {', '.join(PRECISIONS)}, got {precision!r}"
    if device.type == "cpu" and INTERPRETED:
        if precision in ("bf16", "tf32"):
            return f"{precision} needs a GPU, Triton's interpreter gets it wrong; use fp16 or fp32"
        return None
    if torch.version.hip is not None:
        return "written for NVIDIA GPUs and tested for no other, got ROCm; use backend='torch'"
    if device.type != "cuda":
        return f"expected tensors on a CUDA device, got {device}; or set TRITON_INTERPRET=1 to try it on a CPU"
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    old = _too_old(torch.__version__, version("triton"))
    if old is not None:
        return old
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


def _too_old(torch_version: str, triton_version: str) -> str | None:
    """Why a version is not enough, or None."""
    for name, found, least in (("torch", torch_version, MIN_TORCH), ("triton", triton_version, MIN_TRITON)):
        if tuple(int(number) for number in re.findall(r"\d+", found)[:2]) < least:
            wanted = ".".join(map(str, least))
            return f"expected {name} {wanted} or newer, got {found}; use backend='torch', or pip install torch>=2.9"
    return None


@constant
def unchosen_reason(device: torch.device, precision: str, form: Form = PUBLISHED) -> str | None:
    """Why `auto` leaves this backend alone although it can run, or None: see proof.py."""
    if device.type != "cuda":
        return "interpreted in Python"
    return PROOF.reason(device, precision, form, {pytorch.NAME: pytorch.run})


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


PROOF = Proof(run)
