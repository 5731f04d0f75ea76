"""The published optimizers, and a moving average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from liif_fast.errors import UsageError, one_line, suggestion

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


def make_optimizer(model: nn.Module, spec: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Builds the optimizer of a published `{name: adam | sgd, args}` spec; UsageError for wrong names and values."""
    name = spec.get("name")
    if name not in OPTIMIZERS:
        raise UsageError(
            f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {name!r}{suggestion(str(name), OPTIMIZERS)}"
        )
    try:
        return OPTIMIZERS[name](model.parameters(), **(spec.get("args") or {}))
    except (TypeError, ValueError) as error:
        raise UsageError(f"optimizer {name}: {one_line(error)}") from error


class Averager:
    """An exponential moving average of a model's parameters, in a copy of the model; with decay 0 the model itself."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False) if decay else model
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards the model; the decay is lower in early steps, so that the start soon fades."""
        if self.decay:
            keep = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - keep)
