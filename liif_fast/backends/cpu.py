"""Backend `cpu`: the fused C++ decoder (csrc/)."""

from __future__ import annotations

import torch
from torch import Tensor

from liif_fast.backends import operators
from liif_fast.backends.call import Query
from liif_fast.backends.proof import Form
from liif_fast.native import library
from liif_fast.params import DecoderParams

NAME = "cpu"
DIRECT = False  # it reads projected maps only
BACKWARD = True  # it has gradients of the map and of the weights
# fp16 runs in float32 arithmetic; bf16 in the fastest that is at least as accurate as bfloat16 (csrc/layers/layer.h).
PRECISIONS = ("fp32", "bf16", "fp16")
# The fastest whose results are those of fp32 when they are rounded to 8 bits, but for some that lie between two levels:
# 16-bit fixed point is (benchmarks/results/command-agreement-*.json).
EIGHT_BIT_PRECISION = "bf16" if library.BEST["bf16"] in library.FIXED_POINT else "fp32"


def unusable_reason(device: torch.device, precision: str, params: DecoderParams | None = None) -> str | None:
    """Why this cannot run, or None. Any decoder fits."""
    absent = library.unusable_reason()
    if absent is not None:
        return absent
    if device.type != "cpu":
        return f"expected tensors on the CPU, got {device}; move them or use backend='torch'"
    if precision not in PRECISIONS:
        return f"expected precision {', '.join(PRECISIONS)}, got {precision!r}"
    return None


def unchosen_reason(device: torch.device, precision: str, form: Form) -> str | None:
    """None: `auto` takes this backend wherever it can run."""
    return None


def detail() -> str:
    return (
        f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, "
        f"fp32 by {library.BEST['fp32']}, bf16 by {library.BEST['bf16']}, built by {library.compiler()}"
    )


def arithmetic(precision: str) -> str:
    """Return what a precision is computed in on this processor, such as "vnni-int16" (csrc/layers/layer.h)."""
    return library.BEST["bf16" if precision == "bf16" else "fp32"]


def run(asked: Query) -> Tensor:
    """[B, Q, out_dim] float32 from the projected map; differentiable in map and weights where coordinates are given."""
    return operators.ask(asked, NAME)
