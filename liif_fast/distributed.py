"""Several processes on one training, as torchrun starts them: each computes its share of every batch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from liif_fast.training_state import TrainingError


def world() -> tuple[int, int]:
    """(rank of this process, number of processes)."""
    return (dist.get_rank(), dist.get_world_size()) if _joined() else (0, 1)


def own(device: torch.device) -> torch.device:
    """This process's device: under torchrun the GPU of its number on this machine, in place of just any."""
    local = os.environ.get("LOCAL_RANK")
    return device if device.type != "cuda" or local is None else torch.device("cuda", int(local))


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Inside the block the processes that torchrun has started are one group, each on its `own` device.

    A process that fails leaves without waiting for the others: torchrun ends them, or the broken connection does, by
    a TrainingError.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise TrainingError("the connection to another process is lost; what ended it stands there") from error
        raise
    dist.destroy_process_group()


def leave(code: int) -> int:
    """The exit code of a failure; within a group it ends the process at once.

    What the group's threads still had to do they would else do while the interpreter ends, which then ends by abort.
    """
    if _joined():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def total(values: Tensor) -> Tensor:
    """The sum of `values` over all processes, the same bits in each."""
    if _joined():
        dist.all_reduce(values)
    return values


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
