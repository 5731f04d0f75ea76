"""Barriers of a block and of a cluster, mbarriers, fences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ptx.memory import AccessError
from ptx.parser import Instruction, Literal
from ptx.registry import Effect, Unknown, instruction
from ptx.scalars import LANES
from ptx.warp import AT_BARRIER, AT_CLUSTER, Block, Warp, address, has, lanes_of, read, write

RANK_BIT = 24  # addresses of a peer's shared memory carry its rank + 1 from this bit on


@instruction("bar.sync", "barrier.sync")
def _barrier(ins: Instruction) -> Effect:
    numbers = [int(operand.text, 0) for operand in ins.operands if isinstance(operand, Literal)]
    if len(numbers) != len(ins.operands):
        raise Unknown(f"{ins.name} with a register")

    def wait(warp: Warp, mask: Any) -> None:
        warp.state = AT_BARRIER
        warp.barrier = numbers[0], numbers[1] if len(numbers) > 1 else warp.machine.threads

    return wait


@instruction("barrier.cluster.arrive", "barrier.cluster.wait")
def _cluster_barrier(ins: Instruction) -> Effect:
    """The arrival is taken for part of the wait, which is stricter than the program asks."""
    waits = ins.parts[2] == "wait"

    def wait(warp: Warp, mask: Any) -> None:
        if waits:
            warp.state = AT_CLUSTER

    return wait


@instruction("fence", "membar", "setmaxnreg", "griddepcontrol", "prefetch", "wgmma.fence", "bar.warp.sync")
def _nothing(ins: Instruction) -> Effect:
    """Memory is in order here, and registers are as many as are named; but see fence.proxy.async."""
    return lambda warp, mask: None


@instruction("fence.proxy.async")
def _proxy_fence(ins: Instruction) -> Effect:
    return lambda warp, mask: warp.block.shared.fence()


@dataclass
class MBarrier:
    """A barrier in shared memory: arrivals and bytes that its phase still waits for."""

    count: int
    pending: int
    bytes: int = 0
    phase: int = 0


def _at(warp: Warp, place: int) -> tuple[Block, int]:
    """The block and the offset of an address of shared memory, a peer's where it carries a rank."""
    rank, offset = place >> RANK_BIT, place & ((1 << RANK_BIT) - 1)
    block = warp.block if rank == 0 else warp.block.peers[rank - 1]
    if offset % 8:
        raise AccessError(f"mbarrier: misaligned, {offset}")
    return block, offset


def _barrier_at(block: Block, offset: int) -> MBarrier:
    if offset not in block.mbarriers:
        raise AccessError(f"mbarrier: nothing was initialised at {offset}")
    barrier: MBarrier = block.mbarriers[offset]
    return barrier


def _settle(warp: Warp, barrier: MBarrier) -> None:
    warp.machine.events += 1
    if barrier.pending == 0 and barrier.bytes == 0:
        barrier.phase ^= 1
        barrier.pending = barrier.count


def expect_bytes(warp: Warp, block: Block, offset: int, count: int) -> None:
    """Add to the bytes that a phase waits for; negative: they have come."""
    barrier = _barrier_at(block, offset)
    barrier.bytes += count
    _settle(warp, barrier)


@instruction("mbarrier.init")
def _init(ins: Instruction) -> Effect:
    where, count = address(ins.operands[0]), read(ins.operands[1], "u32")

    def init(warp: Warp, mask: Any) -> None:
        for lane in lanes_of(mask):
            block, offset = _at(warp, int(where(warp)[lane]))
            number = int(count(warp)[lane])
            block.mbarriers[offset] = MBarrier(number, number)

    return init


@instruction("mbarrier.arrive")
def _arrive(ins: Instruction) -> Effect:
    """With .expect_tx the number is one of bytes, added before the arrival."""
    _, where_operand, *number = ins.operands
    where, expects = address(where_operand), has(ins, "expect_tx")
    amount = read(number[0], "u32") if number else None

    def arrive(warp: Warp, mask: Any) -> None:
        for lane in lanes_of(mask):
            block, offset = _at(warp, int(where(warp)[lane]))
            barrier = _barrier_at(block, offset)
            given = 1 if amount is None else int(amount(warp)[lane])
            if expects:
                barrier.bytes += given
            barrier.pending -= 1 if expects else given
            if barrier.pending < 0:
                raise RuntimeError("mbarrier: more arrivals than it waits for")
            _settle(warp, barrier)

    return arrive


@instruction("mbarrier.try_wait.parity", "mbarrier.test_wait.parity")
def _try_wait(ins: Instruction) -> Effect:
    """Whether the phase of this parity is over; where it is not, other warps run first."""
    put, where, parity = write(ins.operands[0]), address(ins.operands[1]), read(ins.operands[2], "u32")

    def try_wait(warp: Warp, mask: Any) -> None:
        lane = int(lanes_of(mask)[0])
        block, offset = _at(warp, int(where(warp)[lane]))
        over = _barrier_at(block, offset).phase != int(parity(warp)[lane]) & 1
        if not over:
            warp.wait()
        put(warp, np.full(LANES, over), mask)

    return try_wait


@instruction("mbarrier.inval")
def _invalidate(ins: Instruction) -> Effect:
    where = address(ins.operands[0])

    def invalidate(warp: Warp, mask: Any) -> None:
        for lane in lanes_of(mask):
            block, offset = _at(warp, int(where(warp)[lane]))
            block.mbarriers.pop(offset, None)

    return invalidate


@instruction("mapa.shared::cluster")
def _map_address(ins: Instruction) -> Effect:
    put, where, rank = write(ins.operands[0]), read(ins.operands[1], "u32"), read(ins.operands[2], "u32")
    return lambda warp, mask: put(warp, where(warp) | (rank(warp) + np.uint32(1)) << np.uint32(RANK_BIT), mask)
