"""Learning-rate schedules, as a factor of the optimizer's own rate."""

from __future__ import annotations

import math
from typing import Any


def learning_rate_factor(config: dict[str, Any], epoch: int, step: int, total_steps: int) -> float:
    """The factor for one step.

    epoch counts from 1, step from 0. The config may hold one of
      multi_step_lr {milestones, gamma}: times gamma once each milestone's number of epochs is over (published);
      cosine_lr {warmup, final}: linear rise over `warmup` steps, then half a cosine down to `final`;
    or neither, for a constant rate.
    """
    if config.get("multi_step_lr") is not None:
        spec = config["multi_step_lr"]
        gamma, passed = float(spec.get("gamma", 0.1)), sum(epoch > milestone for milestone in spec["milestones"])
        return float(gamma**passed)
    if config.get("cosine_lr") is not None:
        spec = config["cosine_lr"]
        warmup, final = int(spec.get("warmup", 0)), float(spec.get("final", 0))
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        return final + (1 - final) * (1 + math.cos(math.pi * min(1, progress))) / 2
    return 1.0
