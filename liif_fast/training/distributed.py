"""Training by several processes that torchrun starts: each computes its share of every batch."""

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
    """The rank of this process and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if _joined() else (0, 1)


def own(device: torch.device) -> torch.device:
    """This process's device: under torchrun, "cuda" becomes the GPU with this process's number on its machine."""
    local = os.environ.get("LOCAL_RANK")
    return device if device.type != "cuda" or local is None else torch.device("cuda", int(local))


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Inside the block, the processes that torchrun has started are one group, each on its `own` device.

    A process that fails leaves at once. Torchrun then ends the others, or they raise TrainingError because their
    connection broke. A process that ends well, or is Stopped, waits for the others, which come to the same end:
    otherwise what it sent last could be lost with it.
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
        _end_group()
        raise
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise TrainingError("the connection to another process is lost; its own messages say why") from error
        raise
    _end_group()


def leave(code: int) -> int:
    """Returns the exit code; if this is one of several processes, it ends the process with that code instead.

    Threads of a process group may still have to release a tensor, for which they need the interpreter. If the
    interpreter is shutting down by then, they abort the process and its exit code is lost.
    """
    if _several():
        sys.stdout.flush()
        sys.stderr.flush()
        for worker in multiprocessing.active_children():
            worker.terminate()
        os._exit(code)
    return code


def total(values: Tensor) -> Tensor:
    """The sum of `values` over all processes; every process gets the same bits."""
    if _joined():
        dist.all_reduce(values)
    return values


def _end_group() -> None:
    """Ends the group once all processes are here, or once one has left through an error or a second signal."""
    with suppress(RuntimeError):
        dist.barrier()
    dist.destroy_process_group()


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
