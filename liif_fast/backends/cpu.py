"""Backend `cpu`: the fused C++ decoder (csrc/)."""

from __future__ import annotations

import torch
from torch import Tensor

from liif_fast import extension, ops
from liif_fast.geometry import Window
from liif_fast.params import DecoderParams

NAME = "cpu"
# fp16 runs in float32 arithmetic; bf16 in the fastest that is at least as accurate as bfloat16 (csrc/layer.h).
PRECISIONS = ("fp32", "bf16", "fp16")


def unusable_reason(device: torch.device, precision: str, params: DecoderParams | None = None) -> str | None:
    """Why this cannot run, or None. Any decoder fits."""
    if extension.import_error is not None:
        return (
            f"the C++ extension is not built ({extension.import_error}); install a C++ compiler and ninja, then "
            "reinstall with: pip install --no-build-isolation -e ."
        )
    if device.type != "cpu":
        return f"expected tensors on the CPU, got {device}; move them or use backend='torch'"
    if precision not in PRECISIONS:
        return f"expected precision {', '.join(PRECISIONS)}, got {precision!r}"
    return None


def detail() -> str:
    return (
        f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, "
        f"fp32 by {extension.BEST['fp32']}, bf16 by {extension.BEST['bf16']}"
    )


def run(
    projected: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    params: DecoderParams,
    window: Window,
    precision: str,
) -> Tensor:
    """projected [B, h, w, N0], coord and cell [B, Q, 2] -> [B, Q, out_dim] float32, without a gradient."""
    _, rest = params.split()
    return ops.query(
        projected.detach().float(),
        coord.detach(),
        cell.detach() if cell is not None and params.cell_decode else None,
        rest.detach().float(),
        [weight.detach().float() for weight in params.weights[1:]],
        [bias.detach().float() for bias in params.biases],
        params.local_ensemble,
        list(window),
        NAME,
        precision,
    )
