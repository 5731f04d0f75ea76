"""Runs a kernel: blocks of a cluster together, their warps in a random order."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ptx import arithmetic, asynchronous, barriers, conversion, matrix, movement  # noqa: F401  (they register)
from ptx.memory import GlobalMemory
from ptx.parser import Instruction, Label, Program
from ptx.registry import build
from ptx.scalars import ALL, DTYPES, LANES
from ptx.warp import AT_BARRIER, AT_CLUSTER, DONE, READY, WAITING, Block, Warp

MOST_STEPS = 400  # instructions that a warp runs before another may


class Machine:
    """One launch. late: asynchronous work happens as late as the program allows, else at once."""

    def __init__(
        self,
        program: Program,
        memory: GlobalMemory,
        grid: tuple[int, int],
        *,
        shared: int,
        threads: int | None = None,
        late: bool = True,
        seed: int = 0,
        arguments: bytes = b"",
    ) -> None:
        self.program, self.memory, self.grid = program, memory, grid
        self.shared, self.threads = shared, threads or program.threads
        self.late, self.random = late, random.Random(seed)
        self.arguments = np.frombuffer(arguments.ljust(program.parameter_bytes + 16, b"\0"), np.uint8)
        self.steps = [_step(ins) for ins in program.instructions]
        self.events = 0  # what warps that wait may be waiting for
        self.bulk: list[Callable[[], None]] = []
        self.executed = self.unwritten_reads = 0

    def run(self, blocks: Iterable[tuple[int, int]] | None = None) -> Machine:
        """Runs these blocks (whole clusters), or the whole grid."""
        if blocks is None:
            blocks = [(x, y) for y in range(self.grid[1]) for x in range(self.grid[0])]
        chosen = list(blocks)
        with np.errstate(all="ignore"):
            for first in range(0, len(chosen), self.program.cluster):
                self._run_cluster(chosen[first : first + self.program.cluster])
        return self

    def _run_cluster(self, places: list[tuple[int, int]]) -> None:
        cluster = [Block(at, rank, self.shared) for rank, at in enumerate(places)]
        for block in cluster:
            block.peers = cluster
            block.warps = [Warp(self, block, index) for index in range(-(-self.threads // LANES))]
        warps = [warp for block in cluster for warp in block.warps]
        while any(warp.state != DONE for warp in warps):
            self._turn(cluster, warps)
        for job in self.bulk:
            job()
        self.bulk = []
        self.executed += sum(warp.executed for warp in warps)
        self.unwritten_reads += sum(block.shared.unwritten_reads for block in cluster)

    def _turn(self, cluster: list[Block], warps: list[Warp]) -> None:
        for warp in warps:
            if warp.state == WAITING and warp.seen != self.events:
                warp.state = READY
        self._release(cluster, warps)
        ready = [warp for warp in warps if warp.state == READY]
        if self.bulk and (not ready or self.random.random() < 0.3):
            self.bulk.pop(self.random.randrange(len(self.bulk)))()
        elif ready:
            warp = self.random.choice(ready)
            self._advance(warp, self.random.randrange(1, MOST_STEPS))
        else:
            states = [(w.block.rank, w.index, w.state, w.barrier) for w in warps if w.state != DONE]
            raise RuntimeError(f"deadlock: {states}, {[block.mbarriers for block in cluster]}")

    def _release(self, cluster: list[Block], warps: list[Warp]) -> None:
        """Lets the warps go on for which a barrier's last one has come."""
        freed: list[Warp] = []
        for block in cluster:
            waiting = [warp for warp in block.warps if warp.state == AT_BARRIER]
            for barrier, threads in {warp.barrier for warp in waiting}:
                here = [warp for warp in waiting if warp.barrier[0] == barrier]
                if LANES * len(here) >= threads:
                    freed += here
        at_cluster = [warp for warp in warps if warp.state == AT_CLUSTER]
        if len(at_cluster) == sum(warp.state != DONE for warp in warps):
            freed += at_cluster
        for warp in freed:
            warp.state = READY

    def _advance(self, warp: Warp, count: int) -> None:
        steps = self.steps
        for _ in range(count):
            if warp.lane_pc is None:
                pc, active = warp.pc, None
            else:
                pc = int(warp.lane_pc[warp.live].min())
                active = warp.live & (warp.lane_pc == pc)
                if active.all():
                    warp.lane_pc, warp.pc, active = None, pc, None
            warp.executed += 1
            if pc >= len(steps):
                _exit(warp, active, active, pc)
            else:
                steps[pc](warp, active, pc)
            if warp.state != READY or warp.again:
                warp.again = False
                return


Step = Callable[[Warp, Any, int], None]


def _step(ins: Instruction) -> Step:
    """An instruction with its guard: the effect, and where the lanes go next."""
    register, negated = ins.guard, ins.negated

    def guarded(warp: Warp, active: Any) -> Any:
        if register is None:
            return active
        value = warp.registers[register.index]
        value = ~value if negated else value
        taken = value if active is None else active & value
        return None if active is None and taken.all() else taken

    if ins.parts[0] == "bra":
        return _branch(ins, guarded)
    if ins.parts[0] in ("ret", "exit"):
        return lambda warp, active, pc: _exit(warp, active, guarded(warp, active), pc)
    effect = build(ins)
    collective = ins.parts[0] in ("bar", "barrier")

    def step(warp: Warp, active: Any, pc: int) -> None:
        mask = guarded(warp, active)
        if collective and mask is not None and not (mask == warp.live).all():
            raise RuntimeError(f"divergent barrier: {ins.text}")
        if mask is None or mask.any():
            try:
                effect(warp, mask)
            except Exception as error:
                where = f"block {warp.block.at}, warp {warp.index}, instruction {pc}: {ins.text[:160]}"
                raise type(error)(f"{error}; {where}") from error
        if not warp.again:
            _go(warp, active, pc + 1)

    return step


def _go(warp: Warp, active: Any, target: int) -> None:
    if active is None:
        warp.pc = target
    else:
        assert warp.lane_pc is not None
        warp.lane_pc = np.where(active, target, warp.lane_pc)


def _branch(ins: Instruction, guarded: Callable[[Warp, Any], Any]) -> Step:
    (label,) = ins.operands
    assert isinstance(label, Label)
    name = label.name

    def step(warp: Warp, active: Any, pc: int) -> None:
        target = warp.machine.program.labels[name]
        taken = guarded(warp, active)
        if active is None and taken is None:
            warp.pc = target
        elif active is None and not taken.any():
            warp.pc = pc + 1
        else:
            lanes = ALL if active is None else active
            old = np.full(LANES, pc) if warp.lane_pc is None else warp.lane_pc
            warp.lane_pc = np.where(lanes, np.where(taken, target, pc + 1), old)

    return step


def _exit(warp: Warp, active: Any, taken: Any, pc: int) -> None:
    warp.live = warp.live & ~(ALL if taken is None else taken)
    if not warp.live.any():
        warp.state = DONE
        warp.machine.events += 1
        return
    old = np.full(LANES, pc) if warp.lane_pc is None else warp.lane_pc
    warp.lane_pc = np.where(ALL if active is None else active, pc + 1, old)


def pack(program: Program, values: Sequence[Any]) -> bytes:
    """A kernel's arguments as it reads them; pointers are integers."""
    block = bytearray(program.parameter_bytes)
    for parameter, value in zip(program.parameters.values(), values, strict=True):
        if isinstance(value, bytes):
            data = value.ljust(parameter.size, b"\0")
        elif DTYPES[parameter.type].kind == "f":
            data = struct.pack("<f", value)
        else:
            data = int(value).to_bytes(parameter.size, "little", signed=value < 0)
        block[parameter.offset : parameter.offset + parameter.size] = data
    return bytes(block)


def launch(
    program: Program,
    grid: tuple[int, int],
    arguments: Sequence[Any],
    tensors: list[Any],
    *,
    shared: int = 0,
    blocks: Iterable[tuple[int, int]] | None = None,
    **options: Any,
) -> Machine:
    """Runs a kernel on the memory of `tensors`; arguments are integers, floats or bytes, in the kernel's order.

    shared: bytes of dynamic shared memory; blocks: only these of the grid; options: late, seed, threads.
    """
    size = -(-program.static // 16) * 16 + shared
    machine = Machine(
        program, GlobalMemory(tensors), grid, shared=size, arguments=pack(program, arguments), **options
    )  # fmt: skip
    return machine.run(blocks)
