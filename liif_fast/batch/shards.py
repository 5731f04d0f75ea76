"""Splitting a plan between several processes or machines, without a server between them."""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from liif_fast.batch.plan import Item
from liif_fast.errors import UsageError


class Shard(NamedTuple):
    """Part `number` (counted from 1) of `of` parts.

    local: this process's number, from 0, among those of this machine; None where the launcher does not say it.
    """

    number: int
    of: int
    local: int | None = None

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def device(self) -> str | None:
        """Return the GPU of this process where several processes share a machine; None to leave the choice open."""
        import torch

        gpus = torch.cuda.device_count()
        return f"cuda:{self.local % gpus}" if self.local is not None and gpus > 1 else None

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return this shard's items, in order.

        Each item is in exactly one shard if all shards see the same files: the split depends on the items' names and
        the sizes of their sources only; the largest items are dealt first, each to the shard with the least so far.
        """
        sized = sorted(((_weight(item), str(item.source), index) for index, item in enumerate(items)), reverse=True)
        loads = [(0, number) for number in range(1, self.of + 1)]
        mine = []
        for weight, _, index in sized:
            load, number = loads[0]
            heapq.heapreplace(loads, (load + weight, number))
            if number == self.number:
                mine.append(index)
        return [items[index] for index in sorted(mine)]


def parse(text: str, environment: Mapping[str, str]) -> Shard:
    """Return the shard "I/N" with I from 1 to N, or, for "auto", the one that torchrun or Slurm gave this process."""
    if text == "auto":
        return _from_launcher(environment)
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"expected I/N with I from 1 to N, such as 2/3, or auto, got {text!r}")
    return Shard(int(found[1]), int(found[2]))


def _from_launcher(environment: Mapping[str, str]) -> Shard:
    def number(name: str, default: int | None = None) -> int:
        text = environment.get(name, default)
        try:
            return int(text)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise UsageError(f"auto: expected a whole number in {name}, got {text!r}") from None

    if "WORLD_SIZE" in environment:
        rank, count = number("RANK"), number("WORLD_SIZE")
        local = "LOCAL_RANK"
    elif "SLURM_NTASKS" in environment or "SLURM_ARRAY_TASK_COUNT" in environment:
        # A job array has several jobs, each of several tasks.
        step = (number("SLURM_ARRAY_TASK_ID", 0) - number("SLURM_ARRAY_TASK_MIN", 0)) // number(
            "SLURM_ARRAY_TASK_STEP", 1
        )
        tasks = number("SLURM_NTASKS", 1)
        rank, count = step * tasks + number("SLURM_PROCID", 0), number("SLURM_ARRAY_TASK_COUNT", 1) * tasks
        local = "SLURM_LOCALID"
    else:
        raise UsageError(
            "auto: expected RANK and WORLD_SIZE, or Slurm's variables, in the environment; start the command by "
            "torchrun or srun, or say I/N"
        )
    if not 0 <= rank < count:
        raise UsageError(f"auto: expected a process from 0 to {count - 1}, got {rank}")
    return Shard(rank + 1, count, number(local) if local in environment else None)


def _weight(item: Item) -> int:
    try:
        size = item.source.stat().st_size
    except OSError:
        return 1
    part = item.part
    return 1 + (size if part is None else size * part.box.pixels // (part.size[0] * part.size[1]))
