"""The genuine published LIIF, from a checkout of its repository, on the CPU."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from liif_fast.params import DecoderParams


def load(path: Path, params: DecoderParams) -> Any:
    """Its LIIF with EDSR-baseline; the tensors of `params` become those of its MLP."""
    sys.path.insert(0, str(path))
    # Its helpers import a logger that is not needed here.
    sys.modules.setdefault("tensorboardX", types.SimpleNamespace(SummaryWriter=None))  # type: ignore[arg-type]
    import models as their_models  # type: ignore[import-not-found]

    width = {"out_dim": params.out_dim, "hidden_list": list(params.hidden)}
    encoder = {"name": "edsr-baseline", "args": {"no_upsampling": True}}
    model = their_models.make(
        {"name": "liif", "args": {"encoder_spec": encoder, "imnet_spec": {"name": "mlp", "args": width}}}
    )
    for module, weight, bias in zip(model.imnet.layers[::2], params.weights, params.biases, strict=True):
        module.weight, module.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
    return model


@contextmanager
def on_cpu() -> Iterator[None]:
    """It moves one tensor to the GPU unasked: not in here."""
    cuda, torch.Tensor.cuda = torch.Tensor.cuda, lambda t: t  # type: ignore[method-assign, assignment, misc]
    try:
        yield
    finally:
        torch.Tensor.cuda = cuda  # type: ignore[method-assign]
