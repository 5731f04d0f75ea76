"""Batches of samples for training: their order, the share of each process, and the workers that make them."""

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
    """The order of a whole training's samples, in batches; each epoch's order is drawn from (seed, epoch).

    length: the number of samples in an epoch. size: the number of samples in a batch, over all processes; the last
    batch of an epoch may be smaller.
    """

    length: int
    size: int
    seed: int

    @property
    def batches(self) -> int:
        """The number of batches in an epoch."""
        return -(-self.length // self.size)

    def joint(self, batch: int) -> int:
        """The number of samples in one batch (counted from 0 within its epoch), over all processes."""
        return min(self.size, self.length - batch * self.size)

    def share(self, batch: int) -> float:
        """The weight of this process's mean loss, with which the mean over the processes is that of the joint batch."""
        rank, processes = distributed.world()
        joint = self.joint(batch)
        return len(range(rank, joint, processes)) * processes / joint

    def walk(self, epoch: int, batch: int, last_epoch: int) -> Iterator[list[tuple[int, int]]]:
        """Yields this process's part of each batch from (epoch, batch) to the end, as pairs (epoch, index)."""
        rank, processes = distributed.world()
        for current in range(epoch, last_epoch + 1):
            order = np.random.default_rng((self.seed, current)).permutation(self.length).tolist()
            first = batch if current == epoch else 0
            for start in range(first * self.size, self.length, self.size):
                joint = order[start : start + self.size]
                # Every process must take part in every step: one without a sample computes one of weight 0.
                yield [(current, index) for index in joint[rank::processes] or joint[:1]]


class EpochSamples(Dataset[Batch]):
    """Gives samples by (epoch, index), so that workers can run ahead into the next epoch."""

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
    """Yields this process's batches from start = (epoch, batch, last epoch) on; the workers live to the end."""
    loader = make_loader(EpochSamples(samples), order.walk(*start), device, workers)
    return one_line_errors(iter(loader))


def validation_loader(
    samples: Any, size: int, device: torch.device, workers: int | None
) -> tuple[Iterable[Batch], int]:
    """This process's part of the validation batches, which is the same every time, and its number of samples."""
    rank, processes = distributed.world()
    length = len(samples)
    batches = [range(start, min(start + size, length)) for start in range(0, length, size)][rank::processes]
    return make_loader(samples, batches, device, workers), sum(map(len, batches))


def make_loader(
    samples: Any, batches: Iterable[Any], device: torch.device, workers: int | None
) -> DataLoader[dict[str, Tensor]]:
    """A loader of `batches` of indices; for a GPU it pins memory and, by default, uses up to 8 workers."""
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
        # A loader draws from its generator when it starts. From the global one, a resumed run would draw twice.
        generator=torch.Generator(),
    )


def one_line_errors(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yields the batches; an error of a worker is raised without the worker's traceback."""
    try:
        yield from batches
    except LiifError as error:
        last = str(error).strip().splitlines()[-1]
        raise type(error)(last.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from error


def _leave_interrupts_to_trainer(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal. A worker that died of it would end the trainer's last step, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
