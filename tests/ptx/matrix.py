"""mma.sync and wgmma: the layouts of fragments in registers and of operands in shared memory."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np

from ptx.memory import SharedMemory
from ptx.parser import Instruction, Literal
from ptx.registry import Effect, Unknown, instruction
from ptx.scalars import LANE, Array, from_bfloat16, halves, truncate_tf32
from ptx.warp import Warp, read, vector, write

GROUP, QUAD = LANE // 4, LANE % 4
HALF_KINDS = ("f16", "bf16")


def fragment16(registers: list[Array], kind: str) -> Array:
    """A [16, 16] operand of halves from the four registers of each lane, as float32."""
    matrix = np.zeros((16, 16), "f4")
    for register, (row, col) in zip(registers, ((0, 0), (8, 0), (0, 8), (8, 8)), strict=True):
        low, high = halves(register, kind)
        matrix[GROUP + row, 2 * QUAD + col], matrix[GROUP + row, 2 * QUAD + col + 1] = low, high
    return matrix


def _fragment8(registers: list[Array]) -> Array:
    """A [16, 8] operand of TF32."""
    matrix = np.zeros((16, 8), "f4")
    for register, (row, col) in zip(registers, ((0, 0), (8, 0), (0, 4), (8, 4)), strict=True):
        matrix[GROUP + row, QUAD + col] = truncate_tf32(register)
    return matrix


def _columns(registers: list[Array], kind: str) -> Array:
    """A [k, 8] second operand."""
    if kind == "tf32":
        matrix = np.zeros((4 * len(registers), 8), "f4")
        for k, register in enumerate(registers):
            matrix[QUAD + 4 * k, GROUP] = truncate_tf32(register)
        return matrix
    matrix = np.zeros((8 * len(registers), 8), "f4")
    for k, register in enumerate(registers):
        matrix[2 * QUAD + 8 * k, GROUP], matrix[2 * QUAD + 8 * k + 1, GROUP] = halves(register, kind)
    return matrix


@instruction("mma.sync.aligned")
def _mma(ins: Instruction) -> Effect:
    shape, kinds = ins.parts[3], ins.parts[-4:]
    kind = kinds[1]
    known = (shape == "m16n8k16" and kind in HALF_KINDS) or (shape == "m16n8k8" and kind == "tf32")
    if not known or kinds != ("f32", kind, kind, "f32") or ins.parts[4:6] != ("row", "col"):
        raise Unknown(f"unknown form {ins.name}")
    puts = [write(part) for part in vector(ins.operands[0])]
    a, b = ([read(part, "b32") for part in vector(operand)] for operand in ins.operands[1:3])
    c = [read(part, "f32") for part in vector(ins.operands[3])]
    places = [(GROUP + row, 2 * QUAD + col) for row, col in ((0, 0), (0, 1), (8, 0), (8, 1))]

    def multiply(warp: Warp, mask: Any) -> None:
        if mask is not None:
            raise RuntimeError("mma.sync by a part of a warp")
        left = [part(warp) for part in a]
        left_matrix = _fragment8(left) if kind == "tf32" else fragment16(left, kind)
        found = left_matrix @ _columns([part(warp) for part in b], kind)
        for put, value, place in zip(puts, c, places, strict=True):
            put(warp, found[place] + value(warp), None)

    return multiply


@instruction("wgmma.mma_async.sync.aligned")
def _wgmma(ins: Instruction) -> Effect:
    """64 rows of a warpgroup, 16 each warp: A's registers are read at once, memory and D when the group completes."""
    shape = re.fullmatch(r"m64n(\d+)k16", ins.parts[4])
    kind = ins.parts[-1]
    if shape is None or ins.parts[5] != "f32" or kind not in HALF_KINDS or ins.parts[-2] != kind:
        raise Unknown(f"unknown form {ins.name}")
    cols, scale_d = int(shape[1]), read(ins.operands[3], "pred")
    puts, sums = ([f(part) for part in vector(ins.operands[0])] for f in (write, lambda part: read(part, "f32")))
    left, right = ins.operands[1], read(ins.operands[2], "u64")
    in_registers = isinstance(left, tuple)
    a = [read(part, "b32") for part in vector(left)] if in_registers else [read(left, "u64")]
    signs, turned = _immediates(ins, in_registers)
    if signs != [1, 1] or len(puts) != cols // 2:
        raise Unknown(f"unknown form {ins.text[:120]}")

    def multiply(warp: Warp, mask: Any) -> None:
        if mask is not None:
            raise RuntimeError("wgmma by a part of a warp")
        adds, b_place = bool(scale_d(warp)[0]), int(right(warp)[0])
        a_place = None if in_registers else int(a[0](warp)[0])
        a_registers = [part(warp) for part in a]

        def job(done: dict[Any, Any]) -> None:
            shared = warp.block.shared
            b_matrix = _operand(done, shared, b_place, cols, turned[1], kind)
            if a_place is None:
                a_matrix = fragment16(a_registers, kind)
            else:
                rows = _operand(done, shared, a_place, 64, turned[0], kind)
                a_matrix = rows[16 * (warp.index % 4) : 16 * (warp.index % 4) + 16]
            _deliver(warp, a_matrix @ b_matrix.T, puts, sums if adds else None)

        if warp.machine.late:
            warp.products[-1].append(job)
        else:
            job({})

    return multiply


def _immediates(ins: Instruction, in_registers: bool) -> tuple[list[int], tuple[int, int]]:
    """Signs of both operands, and whether A and B lie with their rows along memory."""
    numbers = [int(operand.text, 0) for operand in ins.operands[4:] if isinstance(operand, Literal)]
    if in_registers:
        return numbers[:2], (0, numbers[2])
    return numbers[:2], (numbers[2], numbers[3])


def _deliver(warp: Warp, found: Array, puts: list[Any], sums: list[Any] | None) -> None:
    """A [16, cols] result to the registers of its lanes."""
    rows = np.stack([found[GROUP + up].reshape(32, -1, 4, 2)[LANE, :, QUAD] for up in (0, 8)], 2)
    values = np.ascontiguousarray(rows.reshape(32, -1).T)  # in the order n / 8, upper or lower half, column
    for place, put in enumerate(puts):
        put(warp, values[place] if sums is None else values[place] + sums[place](warp), None)


def _operand(done: dict[Any, Any], shared: SharedMemory, descriptor: int, rows: int, turned: int, kind: str) -> Array:
    """[rows, 16] of what a descriptor points to, as float32; `done` keeps it for the other warps of the group."""
    key = descriptor, rows, turned
    if key not in done:
        if descriptor >> 49 & 7:
            raise Unknown(f"descriptor with a base offset, {descriptor:#x}")
        fields = [(descriptor >> bit & 0x3FFF) << 4 for bit in (16, 32)]
        mode = descriptor >> 62 & 3
        chunks = ((descriptor & 0x3FFF) << 4) + _chunks(rows, turned, mode, *fields)
        if mode:
            # The 128-, 64- or 32-byte pattern moves 16-byte pieces by the number of their row.
            chunks = chunks ^ ((chunks >> 7 & {1: 7, 2: 3, 3: 1}[mode]) << 4)
        raw = shared.load_by_async_proxy(chunks.reshape(-1), 16).view("u2").reshape(*chunks.shape, 8)
        bits = raw.reshape(rows, 16) if not turned else raw.transpose(1, 2, 0).reshape(rows, 16)
        done[key] = bits.view("f2").astype("f4") if kind == "f16" else from_bfloat16(np.ascontiguousarray(bits))
    return done[key]


@lru_cache(maxsize=64)
def _chunks(rows: int, turned: int, mode: int, leading: int, stride: int) -> Array:
    """Offsets of pieces of 8 halves, without the swizzle: [rows, 2] along k; turned, [16, rows / 8] along the rows."""
    span = {0: 8, 1: 64, 2: 32, 3: 16}[mode]  # halves of a swizzled line
    if not turned:
        row, piece = np.meshgrid(np.arange(rows), np.arange(2), indexing="ij")
        if mode:
            return row % 8 * span * 2 + row // 8 * stride + piece * 16
        return row % 8 * 16 + row // 8 * stride + piece * leading
    k, piece = np.meshgrid(np.arange(16), np.arange(rows // 8), indexing="ij")
    if mode:
        row = 8 * piece
        return row % span * 2 + row // span * leading + k % 8 * span * 2 + k // 8 * stride
    return piece * stride + k % 8 * 16 + k // 8 * leading


@instruction("wgmma.commit_group")
def _commit(ins: Instruction) -> Effect:
    def commit(warp: Warp, mask: Any) -> None:
        warp.products.append([])
        warp.committed += 1
        warp.machine.events += 1

    return commit


@instruction("wgmma.wait_group")
def _wait(ins: Instruction) -> Effect:
    """Nothing is done before all four warps have committed as much."""
    (operand,) = ins.operands
    assert isinstance(operand, Literal)
    pending = int(operand.text, 0)

    def wait(warp: Warp, mask: Any) -> None:
        target = warp.committed - pending
        if any(mate.committed < target for mate in warp.mates):
            warp.wait()
            warp.again = True
            return
        while warp.finished < target:
            done: dict[Any, Any] = {}
            for mate in warp.mates:
                for job in mate.products.pop(0):
                    job(done)
                mate.finished += 1

    return wait
