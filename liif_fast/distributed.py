"""Several processes on one training, as torchrun starts them: each computes its share of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from liif_fast.training_state import TrainingError


def world() -> tuple[int, int]:
    """(rank of this process, number of processes)."""
    return (dist.get_rank(), dist.get_world_size()) if _joined() else (0, 1)


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Inside the block the processes that torchrun has started are one group; gives this one's own device.

    A process that fails leaves without waiting for the others: torchrun ends them, or the broken connection does, by
    a TrainingError.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise TrainingError("the connection to another process is lost; what ended it stands there") from error
        raise
    dist.destroy_process_group()


def total(values: Tensor) -> Tensor:
    """The sum of `values` over all processes, the same bits in each."""
    if _joined():
        dist.all_reduce(values)
    return values


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
