"""What runs: a warp with its registers, a block with its shared memory, and the ways to read and write operands."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from ptx.memory import SharedMemory
from ptx.parser import Address, Instruction, Literal, Operand, Register, Shared, Sink, Special
from ptx.registry import Unknown
from ptx.scalars import DTYPES, LANE, LANES, Array

READY, DONE, AT_BARRIER, AT_CLUSTER, WAITING = "ready", "done", "at a barrier", "at a cluster barrier", "waiting"
Job = Callable[[dict[Any, Any]], None]


class Block:
    """A thread block: shared memory, named barriers, mbarriers; peers are the blocks of its cluster."""

    def __init__(self, at: tuple[int, int], rank: int, shared: int) -> None:
        self.at, self.rank = at, rank
        self.shared = SharedMemory(shared)
        self.mbarriers: dict[int, Any] = {}
        self.warps: list[Warp] = []
        self.peers: list[Block] = [self]


class Warp:
    """32 lanes; `lane_pc` is None while all of them are at `pc`."""

    def __init__(self, machine: Any, block: Block, index: int) -> None:
        self.machine, self.block, self.index = machine, block, index
        self.registers: list[Any] = [_fresh(kind) for kind in machine.program.registers]
        self.pc = 0
        self.lane_pc: Array | None = None
        self.live = np.ones(LANES, bool)
        self.state, self.barrier, self.seen, self.again = READY, (0, 0), 0, False
        self.executed = 0
        self.copies: list[list[Job]] = [[]]  # cp.async, in groups; the last one is open
        self.products: list[list[Job]] = [[]]  # wgmma, likewise
        self.committed = self.finished = 0  # groups of products
        self.special = {
            "%tid.x": index * LANES + LANE, "%tid.y": 0 * LANE, "%tid.z": 0 * LANE, "%laneid": LANE,
            "%ntid.x": 0 * LANE + machine.threads, "%warpid": 0 * LANE + index,
            "%ctaid.x": 0 * LANE + block.at[0], "%ctaid.y": 0 * LANE + block.at[1], "%ctaid.z": 0 * LANE,
            "%nctaid.x": 0 * LANE + machine.grid[0], "%nctaid.y": 0 * LANE + machine.grid[1],
            "%cluster_ctarank": 0 * LANE + block.rank,
        }  # fmt: skip

    @property
    def mates(self) -> list[Warp]:
        """The four warps of its warpgroup."""
        first = self.index // 4 * 4
        return self.block.warps[first : first + 4]

    def wait(self) -> None:
        """Nothing to do until something happens elsewhere."""
        self.state, self.seen = WAITING, self.machine.events


@lru_cache(maxsize=64)
def _fresh(kind: str) -> Array:
    """What a register holds that nothing was written to: bits of NaN; a predicate is false."""
    return np.zeros(LANES, bool) if kind == "pred" else np.full(LANES, -1, f"i{DTYPES[kind].itemsize}")


Read = Callable[[Warp], Array]


def read(operand: Operand, kind: str) -> Read:
    """Values of an operand as an array of PTX's type `kind` (of bools for "pred")."""
    if isinstance(operand, Register):
        return _register(operand, kind)
    if isinstance(operand, Special):
        name, dtype = operand.name, DTYPES[kind]

        def special(warp: Warp) -> Array:
            if name not in warp.special:
                raise Unknown(f"unknown register {name}")
            return warp.special[name].astype(dtype)

        return special
    if isinstance(operand, Shared):
        constant = np.full(LANES, operand.offset, DTYPES[kind])
    elif isinstance(operand, Literal):
        constant = _literal(operand.text, kind)
    else:
        raise Unknown(f"unknown operand {operand} as {kind}")
    return lambda warp: constant


def _register(register: Register, kind: str) -> Read:
    place = register.index
    if kind == "pred" or register.type == "pred":
        if kind != register.type:
            raise Unknown(f"register of type {register.type} as {kind}")
        return lambda warp: warp.registers[place]
    dtype, own = DTYPES[kind], DTYPES[register.type]
    if dtype.itemsize != own.itemsize:
        # A wider register gives its lower part.
        unsigned = np.dtype(f"u{own.itemsize}")
        return lambda warp: warp.registers[place].view(unsigned).astype(f"u{dtype.itemsize}").view(dtype)

    def same_size(warp: Warp) -> Array:
        value = warp.registers[place]
        return value if value.dtype is dtype else value.view(dtype)

    return same_size


def _literal(text: str, kind: str) -> Array:
    if kind == "pred":
        return np.full(LANES, int(text, 0) != 0)
    dtype = DTYPES[kind]
    if text.startswith("0f"):
        return (
            np.full(LANES, int(text[2:], 16), "u4").view("f4").astype(dtype if dtype.kind == "f" else "f4").view(dtype)
        )
    if text.startswith("0d"):
        return np.full(LANES, struct.unpack(">d", bytes.fromhex(text[2:]))[0], "f8").view(dtype)
    if dtype.kind == "f":
        return np.full(LANES, float(text), dtype)
    value = int(text.rstrip("U"), 0) & ((1 << 8 * dtype.itemsize) - 1)
    return np.full(LANES, value, f"u{dtype.itemsize}").view(dtype)


Write = Callable[[Warp, Array, Any], None]


def write(operand: Operand) -> Write:
    """Puts an array into a register, for the lanes of a mask (None: all)."""
    if isinstance(operand, Sink):
        return lambda warp, value, mask: None
    if not isinstance(operand, Register):
        raise Unknown(f"unknown destination {operand}")
    place = operand.index
    size = 1 if operand.type == "pred" else DTYPES[operand.type].itemsize

    def put(warp: Warp, value: Array, mask: Any) -> None:
        if value.dtype.itemsize != size:
            value = value.astype(f"{'i' if value.dtype.kind == 'i' else 'u'}{size}")
        if mask is not None:
            value = np.where(mask, value, warp.registers[place].view(value.dtype))
        warp.registers[place] = value

    return put


def address(operand: Operand) -> Read:
    """Byte addresses, int64."""
    if not isinstance(operand, Address):
        raise Unknown(f"unknown address {operand}")
    offset = operand.offset
    if operand.base is None:
        constant = np.full(LANES, offset, np.int64)
        return lambda warp: constant
    if isinstance(operand.base, str):
        raise Unknown(f"address of parameter {operand.base}")
    base = read(operand.base, "u64" if operand.base.type.endswith("64") else "u32")
    return lambda warp: base(warp).astype(np.int64) + offset


def vector(operand: Operand) -> tuple[Operand, ...]:
    """The parts of {a, b, ...}; of anything else, itself."""
    return operand if isinstance(operand, tuple) else (operand,)


def lanes_of(mask: Any) -> Array:
    """Numbers of the lanes of a mask."""
    return LANE if mask is None else np.flatnonzero(mask)


def has(ins: Instruction, *parts: str) -> bool:
    return any(part in ins.parts for part in parts)
