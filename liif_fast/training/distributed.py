"""Several processes on one training, as torchrun starts them: each computes its share of every batch."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
import torch.distributed as dist
from torch import Tensor

from liif_fast.training.interrupts import Stopped
from liif_fast.training.state import TrainingError


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
    a TrainingError. One that ends or is Stopped, which is so for all of them, waits until they have all come to that:
    what it sent them last may else be lost with it.
    """
    if not _several():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    except Stopped:
        _end()
        raise
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise TrainingError("the connection to another process is lost; what ended it stands there") from error
        raise
    _end()


def leave(code: int) -> int:
    """The exit code; one of several processes ends here, with it.

    A group's threads may still have a tensor to let go of, for which they need the interpreter. Where that is ending
    by then, they end the process by abort, whatever its exit code was to be.
    """
    if _several():
        sys.stdout.flush()
        sys.stderr.flush()
        for worker in multiprocessing.active_children():
            worker.terminate()
        os._exit(code)
    return code


def total(values: Tensor) -> Tensor:
    """The sum of `values` over all processes, the same bits in each."""
    if _joined():
        dist.all_reduce(values)
    return values


def _end() -> None:
    """Of the group, once all processes are here, or one has left by its own fault or by a second signal."""
    with suppress(RuntimeError):
        dist.barrier()
    dist.destroy_process_group()


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
