"""Where the Triton kernels are tested: on a GPU where there is one, else by Triton's interpreter on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from liif_fast.params import DecoderParams

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# PyTorch's own half precision is compared on the same device; the interpreter gets bf16 wrong.
PRECISIONS = ("fp32", "tf32x3", "fp16", "bf16", "tf32") if DEVICE.type == "cuda" else ("fp32", "fp16")


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory holds NaN, so that nothing unwritten passes."""
    empty = torch.empty

    def poisoned(*args: Any, **options: Any) -> Tensor:
        fresh: Tensor = empty(*args, **options)
        return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh

    monkeypatch.setattr(torch, "empty", poisoned)


def on_device(params: DecoderParams) -> DecoderParams:
    weights, biases = ([t.to(DEVICE) for t in tensors] for tensors in (params.weights, params.biases))
    return DecoderParams(
        tuple(weights), tuple(biases), params.channels, params.local_ensemble, params.feat_unfold, params.cell_decode
    )
