"""What changes the weights: the published optimizers, and an average of the weights beside them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from liif_fast.errors import UsageError, suggestion

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


def make_optimizer(model: nn.Module, spec: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer of a published `{name: adam | sgd, args}` spec; UsageError for what it does not take."""
    name = spec.get("name")
    if name not in OPTIMIZERS:
        raise UsageError(
            f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {name!r}{suggestion(str(name), OPTIMIZERS)}"
        )
    try:
        return OPTIMIZERS[name](model.parameters(), **(spec.get("args") or {}))
    except (TypeError, ValueError) as error:
        raise UsageError(f"optimizer {name}: {error}") from error


class Averager:
    """Exponential moving average of a model's parameters, kept as a model of its own; with decay 0 the model itself."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False) if decay else model
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average; early steps count for more, so that the start is soon forgotten."""
        if self.decay:
            keep = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - keep)
