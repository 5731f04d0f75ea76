"""Backend `cuda`: the Hopper kernel (csrc/cuda/), compiled at run time by NVRTC; no Triton and no nvcc are needed."""

from __future__ import annotations

import torch
from torch import Tensor

from liif_fast.backends import operators, pytorch, triton
from liif_fast.backends.call import Query
from liif_fast.backends.proof import Form, Proof, Run, constant
from liif_fast.params import DecoderParams

NAME = "cuda"
DIRECT = False  # it reads projected maps only
BACKWARD = False  # gradients go through `torch`
PRECISIONS = ("fp16", "bf16")
EIGHT_BIT_PRECISION = triton.EIGHT_BIT_PRECISION
CAPABILITY = (9, 0)  # its instructions (sm_90a) exist on no older and on no newer GPU
MAX_WIDTH, MAX_OUT = 256, 8
ELSEWHERE = "use backend='triton' or 'torch'"


def unusable_reason(device: torch.device, precision: str, params: DecoderParams | None = None) -> str | None:
    """Why this cannot run, or None."""
    return _unfit_device(device, precision) or (None if params is None else _unfit_decoder(params))


@constant
def _unfit_device(device: torch.device, precision: str) -> str | None:
    if precision not in PRECISIONS:
        return f"expected precision {' or '.join(PRECISIONS)}, got {precision!r}; {ELSEWHERE}"
    if torch.version.hip is not None:
        return "written for NVIDIA GPUs, got ROCm; use backend='torch'"
    if device.type != "cuda":
        return f"expected tensors on a CUDA device, got {device}"
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    capability = torch.cuda.get_device_capability(device)
    if capability != CAPABILITY:
        return f"expected compute capability 9.0 (Hopper), got {capability[0]}.{capability[1]}; {ELSEWHERE}"
    from liif_fast.kernels import driver, nvrtc

    if nvrtc.library() is None:
        return "NVRTC 12 or newer is not there; CUDA builds of PyTorch bring it, else: pip install nvidia-cuda-nvrtc"
    return None if driver.library() is not None else "the driver's library libcuda.so.1 cannot be loaded"


def _unfit_decoder(params: DecoderParams) -> str | None:
    widths = set(params.hidden)
    if len(widths) != 1 or max(widths) > MAX_WIDTH:
        return f"expected hidden layers of one width up to {MAX_WIDTH}, got {list(params.hidden)}; {ELSEWHERE}"
    if params.out_dim > MAX_OUT:
        return f"expected at most {MAX_OUT} outputs, got {params.out_dim}; {ELSEWHERE}"
    most = _most_hidden(max(widths))
    if len(params.hidden) > most:
        return f"expected at most {most} hidden layers of this width, got {len(params.hidden)}; {ELSEWHERE}"
    return None


@constant
def _most_hidden(width: int) -> int:
    from liif_fast.kernels import hopper

    return hopper.most_hidden(hopper.padded_width(width))


@constant
def unchosen_reason(device: torch.device, precision: str, form: Form) -> str | None:
    """Why `auto` leaves this backend alone although it can run, or None: see proof.py."""
    if form.gradient:
        return "it has no gradients of its own"
    peers: dict[str, Run] = {pytorch.NAME: pytorch.run}
    if triton.unusable_reason(device, precision) is None:
        peers[triton.NAME] = triton.run
    return PROOF.reason(device, precision, form._replace(direct=False), peers)


def detail() -> str:
    from liif_fast.kernels import nvrtc

    major, minor = nvrtc.version(nvrtc.library())
    return f"{torch.cuda.get_device_name(torch.cuda.current_device())}, NVRTC {major}.{minor}"


def run(asked: Query) -> Tensor:
    """[B, Q, out_dim] float32 from the projected map, without gradients."""
    return operators.ask(asked, NAME)


PROOF = Proof(run)
