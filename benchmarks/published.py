"""The genuine published LIIF, from a checkout of its repository."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liif_fast.params import DecoderParams


def load(path: Path, params: DecoderParams) -> Any:
    """Its LIIF with EDSR-baseline; the tensors of `params` become those of its MLP."""
    if not (path / "models" / "liif.py").exists():
        raise SystemExit(f"--published: expected a checkout of the published repository, got {path}")
    sys.path.insert(0, str(path))
    # Its helpers import a logger that is not needed here.
    sys.modules.setdefault("tensorboardX", types.SimpleNamespace(SummaryWriter=None))  # type: ignore[arg-type]
    their_models = importlib.import_module("models")

    width = {"out_dim": params.out_dim, "hidden_list": list(params.hidden)}
    encoder = {"name": "edsr-baseline", "args": {"no_upsampling": True}}
    switches = {name: getattr(params, name) for name in ("local_ensemble", "feat_unfold", "cell_decode")}
    model = their_models.make(
        {"name": "liif", "args": {"encoder_spec": encoder, "imnet_spec": {"name": "mlp", "args": width}, **switches}}
    )
    for module, weight, bias in zip(model.imnet.layers[::2], params.weights, params.biases, strict=True):
        module.weight, module.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
    return model


def ask(model: Any, feat: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Its query_rgb on features, on their device: (coord, cell) -> answers."""

    def run(coord: Tensor, cell: Tensor) -> Tensor:
        model.feat = feat
        with on_cpu() if feat.device.type == "cpu" else torch.cuda.device(feat.device):
            answer: Tensor = model.query_rgb(coord, cell)
        return answer

    return run


@contextmanager
def on_cpu() -> Iterator[None]:
    """It moves one tensor to the GPU unasked: not in here."""
    cuda, torch.Tensor.cuda = torch.Tensor.cuda, lambda t: t  # type: ignore[method-assign, assignment, misc]
    try:
        yield
    finally:
        torch.Tensor.cuda = cuda  # type: ignore[method-assign]
