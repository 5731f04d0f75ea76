"""mov, loads and stores, atomics, shuffles, ldmatrix and stmatrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptx.parser import Address, Instruction
from ptx.registry import Effect, Unknown, instruction
from ptx.scalars import DTYPES, LANE, LANES, Array, pair
from ptx.warp import Warp, address, has, lanes_of, read, vector, write


@instruction("mov", "cvta")
def _move(ins: Instruction) -> Effect:
    target, source = ins.operands
    if isinstance(target, tuple):
        puts, whole = [write(part) for part in target], read(source, ins.type)
        size = DTYPES[ins.type].itemsize // len(puts)

        def unpack(warp: Warp, mask: Any) -> None:
            parts = np.ascontiguousarray(whole(warp)).view(f"u{size}").reshape(LANES, -1)
            for place, put in enumerate(puts):
                put(warp, parts[:, place].copy(), mask)

        return unpack
    put = write(target)
    if isinstance(source, tuple):
        size = DTYPES[ins.type].itemsize // len(source)
        reads = [read(part, f"b{8 * size}") for part in source]

        def pack(warp: Warp, mask: Any) -> None:
            put(warp, np.stack([part(warp) for part in reads], 1).view(f"u{size * len(reads)}")[:, 0], mask)

        return pack
    value = read(source, ins.type)
    return lambda warp, mask: put(warp, value(warp), mask)


@instruction("ld")
def _load(ins: Instruction) -> Effect:
    if has(ins, "param"):
        return _load_parameter(ins)
    parts = vector(ins.operands[0])
    puts, where, dtype = [write(part) for part in parts], address(ins.operands[1]), DTYPES[ins.type]
    size, shared = dtype.itemsize * len(parts), _in_shared(ins)

    def load(warp: Warp, mask: Any) -> None:
        lanes = lanes_of(mask)
        memory = warp.block.shared if shared else warp.machine.memory
        raw = memory.load(where(warp)[lanes], size).view(dtype)
        for place, put in enumerate(puts):
            value = np.ascontiguousarray(raw[:, place])
            if mask is not None:
                value = np.zeros(LANES, dtype)
                value[lanes] = raw[:, place]
            put(warp, value, mask)

    return load


def _load_parameter(ins: Instruction) -> Effect:
    parts, operand = vector(ins.operands[0]), ins.operands[1]
    assert isinstance(operand, Address)
    puts, dtype = [write(part) for part in parts], DTYPES[ins.type]
    size = dtype.itemsize * len(parts)
    moving = None if operand.base is None or isinstance(operand.base, str) else address(operand)

    def load(warp: Warp, mask: Any) -> None:
        if moving is None:
            parameters = warp.machine.program.parameters
            start = operand.offset + (parameters[operand.base].offset if isinstance(operand.base, str) else 0)
            at = np.full(LANES, start)
        else:
            at = np.where(True if mask is None else mask, moving(warp), 0)
        raw = warp.machine.arguments[at[:, None] + np.arange(size)].view(dtype)
        for place, put in enumerate(puts):
            put(warp, raw[:, place].copy(), mask)

    return load


@instruction("st")
def _store(ins: Instruction) -> Effect:
    where, shared = address(ins.operands[0]), _in_shared(ins)
    reads = [read(part, ins.type) for part in vector(ins.operands[1])]

    def store(warp: Warp, mask: Any) -> None:
        lanes = lanes_of(mask)
        data = np.stack([value(warp) for value in reads], 1)[lanes].view(np.uint8)
        if shared:
            warp.block.shared.store(where(warp)[lanes], data)
        else:
            warp.machine.memory.store(where(warp)[lanes], data)

    return store


def _in_shared(ins: Instruction) -> bool:
    if has(ins, "shared", "shared::cta"):
        return True
    if not has(ins, "global"):
        raise Unknown(f"unknown memory of {ins.name}")
    return False


@instruction("atom", "red")
def _atomic(ins: Instruction) -> Effect:
    """Additions in global memory, lane after lane."""
    if not has(ins, "add") or not has(ins, "global"):
        raise Unknown(f"unknown form {ins.name}")
    returns = ins.parts[0] == "atom"
    puts = [write(part) for part in vector(ins.operands[0])] if returns else []
    where = address(ins.operands[int(returns)])
    reads, dtype = [read(part, ins.type) for part in vector(ins.operands[int(returns) + 1])], DTYPES[ins.type]
    size = dtype.itemsize * len(reads)

    def add(warp: Warp, mask: Any) -> None:
        places, values = where(warp), np.stack([value(warp) for value in reads], 1)
        before = np.zeros((LANES, len(reads)), dtype)
        for lane in lanes_of(mask):
            ((_, block, offset),) = warp.machine.memory.find(places[lane : lane + 1], size, "atomic")
            cell = block[int(offset[0]) : int(offset[0]) + size].view(dtype)
            before[lane] = cell
            cell += values[lane]
        for place, put in enumerate(puts):
            put(warp, before[:, place].copy(), mask)

    return add


@instruction("shfl.sync")
def _shuffle(ins: Instruction) -> Effect:
    targets, mode = vector(ins.operands[0]), ins.parts[2]
    put, put_inside = write(targets[0]), write(targets[1]) if len(targets) > 1 else None
    value, step, clamp = (read(operand, "b32") for operand in ins.operands[1:4])

    def shuffle(warp: Warp, mask: Any) -> None:
        by, bound = step(warp).astype(int) & 31, clamp(warp).astype(int)
        segment, top = bound >> 8 & 31, bound & 31
        first = LANE & segment
        last = first | (top & ~segment & 31)
        source = {"up": LANE - by, "down": LANE + by, "bfly": LANE ^ by, "idx": first | (by & ~segment & 31)}[mode]
        inside = source >= last if mode == "up" else source <= last
        put(warp, value(warp)[np.where(inside, source, LANE)], mask)
        if put_inside is not None:
            put_inside(warp, inside, mask)

    return shuffle


ROW, PAIR = LANE // 4, 2 * (LANE % 4)  # which two elements of an 8 x 8 matrix a lane holds


@instruction("ldmatrix.sync.aligned.m8n8")
def _load_matrices(ins: Instruction) -> Effect:
    """8 x 8 matrices of halves; lanes 8 k to 8 k + 7 give the addresses of matrix k's rows."""
    puts, where, transposed = (
        [write(part) for part in vector(ins.operands[0])],
        address(ins.operands[1]),
        has(ins, "trans"),
    )

    def load(warp: Warp, mask: Any) -> None:
        rows = warp.block.shared.load(where(warp)[: 8 * len(puts)], 16).view("u2").reshape(-1, 8, 8)
        for put, matrix in zip(puts, rows, strict=True):
            matrix = matrix.T if transposed else matrix
            put(warp, pair(matrix[ROW, PAIR], matrix[ROW, PAIR + 1]), mask)

    return load


@instruction("stmatrix.sync.aligned.m8n8")
def _store_matrices(ins: Instruction) -> Effect:
    where, transposed = address(ins.operands[0]), has(ins, "trans")
    reads = [read(part, "b32") for part in vector(ins.operands[1])]

    def store(warp: Warp, mask: Any) -> None:
        places = where(warp)
        for k, value in enumerate(reads):
            matrix: Array = np.zeros((8, 8), "u2")
            both = value(warp).view("u2").reshape(-1, 2)
            matrix[ROW, PAIR], matrix[ROW, PAIR + 1] = both[:, 0], both[:, 1]
            matrix = np.ascontiguousarray(matrix.T if transposed else matrix)
            warp.block.shared.store(places[8 * k : 8 * k + 8], matrix.view(np.uint8))

    return store
