"""Batches of samples for training: their order, their share of each process, the workers that make them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from liif_fast.data import collate
from liif_fast.errors import LiifError
from liif_fast.training import distributed

Batch = dict[str, Tensor]


class Order(NamedTuple):
    """The samples of a whole training, in batches; each epoch's order is drawn from (seed, epoch).

    length: samples of an epoch. size: samples of a batch, over all processes; the last of an epoch may be smaller.
    """

    length: int
    size: int
    seed: int

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return -(-self.length // self.size)

    def joint(self, batch: int) -> int:
        """Samples of one batch (counted from 0 within its epoch), over all processes."""
        return min(self.size, self.length - batch * self.size)

    def share(self, batch: int) -> float:
        """What this process's mean loss counts in the mean over the processes, so that this is the joint batch's."""
        rank, processes = distributed.world()
        joint = self.joint(batch)
        return len(range(rank, joint, processes)) * processes / joint

    def walk(self, epoch: int, batch: int, last_epoch: int) -> Iterator[list[tuple[int, int]]]:
        """This process's part of each batch from (epoch, batch) to the end, as pairs (epoch, index)."""
        rank, processes = distributed.world()
        for current in range(epoch, last_epoch + 1):
            order = np.random.default_rng((self.seed, current)).permutation(self.length).tolist()
            first = batch if current == epoch else 0
            for start in range(first * self.size, self.length, self.size):
                joint = order[start : start + self.size]
                # Every process must take part in every step: one without a sample computes one that counts nothing.
                yield [(current, index) for index in joint[rank::processes] or joint[:1]]


class EpochSamples(Dataset[Batch]):
    """Samples by (epoch, index), so that workers can run ahead into the next epoch."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __getitem__(self, place: tuple[int, int]) -> Batch:
        epoch, index = place
        self.samples.set_epoch(epoch)
        sample: Batch = self.samples[index]
        return sample


def training_batches(
    samples: Any, order: Order, start: tuple[int, int, int], device: torch.device, workers: int | None
) -> Iterator[Batch]:
    """All batches of this process from start = (epoch, batch, last epoch) on, by workers that live to the end."""
    loader = make_loader(EpochSamples(samples), order.walk(*start), device, workers)
    return one_line_errors(iter(loader))


def validation_loader(
    samples: Any, size: int, device: torch.device, workers: int | None
) -> tuple[Iterable[Batch], int]:
    """This process's part of the validation batches, the same every time, and the number of samples in it."""
    rank, processes = distributed.world()
    length = len(samples)
    batches = [range(start, min(start + size, length)) for start in range(0, length, size)][rank::processes]
    return make_loader(samples, batches, device, workers), sum(map(len, batches))


def make_loader(
    samples: Any, batches: Iterable[Any], device: torch.device, workers: int | None
) -> DataLoader[dict[str, Tensor]]:
    """Loads `batches` of indices; on a GPU through page-locked memory and, unless told, by up to 8 workers."""
    on_gpu = device.type == "cuda"
    if workers is None:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        workers = min(8, (os.cpu_count() or 1) // local) if on_gpu else 0
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=on_gpu,
        collate_fn=collate,
        worker_init_fn=_leave_interrupts_to_trainer,
        # Its own: a loader draws from the global one when it starts, which a resumed run would do once more.
        generator=torch.Generator(),
    )


def one_line_errors(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches; an error of a worker comes without the worker's traceback."""
    try:
        yield from batches
    except LiifError as error:
        last = str(error).strip().splitlines()[-1]
        raise type(error)(last.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from error


def _leave_interrupts_to_trainer(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal: a worker that died of it would keep the trainer from its last step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
