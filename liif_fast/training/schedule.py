"""Learning-rate schedules, as a factor of the optimizer's own rate."""

from __future__ import annotations

import math

from liif_fast.training.config import CosineSchedule, MultiStepSchedule


def learning_rate_factor(
    schedule: MultiStepSchedule | CosineSchedule | None, epoch: int, step: int, total_steps: int
) -> float:
    """The factor for one step of a run of `total_steps`; without a schedule it is 1.

    epoch counts from 1, step from 0. The factor depends on nothing else, so that a resumed run goes on exactly.
    """
    if isinstance(schedule, MultiStepSchedule):
        return float(schedule.gamma ** sum(epoch > milestone for milestone in schedule.milestones))
    if isinstance(schedule, CosineSchedule):
        if step < schedule.warmup:
            return (step + 1) / schedule.warmup
        progress = (step - schedule.warmup) / max(1, total_steps - schedule.warmup)
        return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * min(1, progress))) / 2
    return 1.0
