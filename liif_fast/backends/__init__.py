"""Who computes a query: the table of backends, the choice between them, and why one cannot run.

A backend is a module with NAME, BACKWARD, unusable_reason(device, precision, params), detail() and run(query). Adding
one takes one file and one line of the table; the table is static, so that torch.compile can trace through it.
"""

from __future__ import annotations

import functools
import warnings
from types import ModuleType
from typing import NamedTuple

import torch

from liif_fast.backends import cpu, cuda, pytorch, triton
from liif_fast.backends.proof import Form, form_of
from liif_fast.errors import BackendError, SlowBackendWarning, UsageError
from liif_fast.native import library
from liif_fast.params import DecoderParams

PRECISIONS = ("auto", "fp32", "tf32x3", "tf32", "fp16", "bf16")
# Best first for "auto", which falls back to `torch`; the reference is the oracle and is never chosen for its own sake.
FUSED: dict[str, ModuleType] = {cuda.NAME: cuda, triton.NAME: triton, cpu.NAME: cpu}
NAMES = ("reference", pytorch.NAME, *FUSED)


class BackendReport(NamedTuple):
    """One row of `liif-fast info`: reason says why the backend cannot run here and what would help, or is empty."""

    name: str
    usable: bool
    reason: str
    detail: str


def unusable_reason(
    name: str, device: torch.device, precision: str = "fp32", params: DecoderParams | None = None
) -> str | None:
    """Why a backend cannot run here, or None when it can."""
    if name == "reference":
        return None if precision == "fp32" else f"computes in the features' own precision, got precision={precision!r}"
    module = FUSED.get(name, pytorch)
    reason: str | None = module.unusable_reason(device, precision, params)
    return reason


def select(
    name: str,
    device: torch.device,
    precision: str,
    params: DecoderParams | None = None,
    *,
    plain: bool = False,
    gradient: bool = False,
    form: Form | None = None,
) -> str:
    """The backend that runs: the best usable one for "auto", else the named one or BackendError.

    plain: only PyTorch operations will do (gradients of coordinates, float64). gradient: features or weights need a
    gradient. A fused backend that cannot gives way to `torch`. form: what "auto" wants proved of a GPU backend; by
    default that of a picture's grid.
    """
    if name == "auto":
        form = form or form_of(params, grid=True, direct=False, gradient=gradient)
        name = pytorch.NAME if plain else _best(device, precision, params, form)
    elif name not in NAMES:
        raise UsageError(f"backend: expected one of auto, {', '.join(NAMES)}, got {name!r}")
    reason = unusable_reason(name, device, precision, params)
    if reason is not None:
        raise BackendError(f"backend {name!r} cannot run: {reason}")
    gives_way = name in FUSED and (plain or (gradient and not FUSED[name].BACKWARD))
    return pytorch.NAME if gives_way else name


def arithmetic(name: str, precision: str) -> str:
    """Return what backend `cpu` computes a precision in ("bf16" is fixed point there); an empty text for the others."""
    return cpu.arithmetic(precision) if name == cpu.NAME else ""


def eight_bit_precision(name: str) -> str:
    """The fastest precision of a backend whose answers, rounded to 8 bits, are those of fp32 (but for rare ties)."""
    return FUSED[name].EIGHT_BIT_PRECISION if name in FUSED else "fp32"


def _best(device: torch.device, precision: str, params: DecoderParams | None, form: Form) -> str:
    for name, module in FUSED.items():
        runs = module.unusable_reason(device, precision, params) is None
        if runs and module.unchosen_reason(device, precision, form) is None:
            return name
    if device.type == "cpu" and not torch.compiler.is_compiling():
        _say_what_is_missing()
    return pytorch.NAME


@functools.cache
def _say_what_is_missing() -> None:
    """Say once why a decoder runs on a CPU without the kernels that would make it many times as fast."""
    reason = library.unusable_reason()
    if reason is not None:
        warnings.warn(f"liif_fast computes through PyTorch, many times slower: {reason}", SlowBackendWarning, 2)


def report(params: DecoderParams | None = None, precision: str = "fp32") -> list[BackendReport]:
    """Every backend: usable here, for this decoder if one is given, or why not; and why `auto` leaves a usable one."""
    rows = []
    for name in NAMES:
        device = _its_device(name)
        reason = unusable_reason(name, device, precision, params)
        about = "published arithmetic, for comparison" if name == "reference" else ""
        module = FUSED.get(name, pytorch if name == pytorch.NAME else None)
        if module is not None and reason is None:
            about = module.detail()
            form = form_of(params, grid=True, direct=False, gradient=False)
            unchosen = module.unchosen_reason(device, precision, form) if name in FUSED else None
            about += "" if unchosen is None else f"; not taken by auto: {unchosen}"
        rows.append(BackendReport(name, reason is None, reason or "", about))
    return rows


def available_backends() -> list[str]:
    """Names of the backends that can run here."""
    return [name for name in NAMES if unusable_reason(name, _its_device(name)) is None]


def _its_device(name: str) -> torch.device:
    """Where a backend is asked about: the GPU for that of GPUs where there is one, else the CPU."""
    return torch.device("cuda" if name in (cuda.NAME, triton.NAME) and torch.cuda.is_available() else "cpu")
