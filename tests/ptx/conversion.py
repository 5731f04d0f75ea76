"""cvt: between integers, floating point of every width, and pairs of halves."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptx.parser import Instruction
from ptx.registry import Effect, Unknown, instruction
from ptx.scalars import DTYPES, Array, from_bfloat16, narrow, pair, round_tf32
from ptx.warp import Warp, has, read, write

ROUNDINGS = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}


@instruction("cvt")
def _convert(ins: Instruction) -> Effect:
    to, source = ins.parts[-2:]
    put = write(ins.operands[0])
    for part in ins.parts[1:-2]:
        if part not in ("rn", "rna", "relu", *ROUNDINGS):
            raise Unknown(f"unknown modifier .{part} of {ins.name}")
    if to in ("f16x2", "bf16x2"):
        return _to_pair(ins, to[:-2])
    if to == "tf32":
        if not has(ins, "rna") or has(ins, "relu"):
            raise Unknown(f"unknown form {ins.name}")
        bits = read(ins.operands[1], "b32")
        return lambda warp, mask: put(warp, round_tf32(bits(warp)), mask)
    if to not in DTYPES or source not in DTYPES:
        raise Unknown(f"unknown types of {ins.name}")
    value = read(ins.operands[1], source)
    relu = has(ins, "relu")

    def convert(warp: Warp, mask: Any) -> None:
        given = value(warp)
        given = from_bfloat16(given) if source == "bf16" else given
        if relu:
            given = np.where(given < 0, 0, given).astype(given.dtype)
        put(warp, _cast(given, ins, to), mask)

    return convert


def _cast(value: Array, ins: Instruction, to: str) -> Array:
    rounding = next((ROUNDINGS[part] for part in ins.parts if part in ROUNDINGS), None)
    if to == "bf16":
        return narrow(value, "bf16")
    dtype = DTYPES[to]
    if value.dtype.kind != "f":
        return value.astype(dtype)
    if dtype.kind == "f":
        found = value.astype(dtype)
        return found if rounding is None else rounding(found)
    if rounding is None:
        raise Unknown(f"{ins.name} without a rounding")
    # Out of range gives the nearest integer there is, NaN gives 0.
    limits = np.iinfo(dtype)
    whole = np.nan_to_num(rounding(value).astype("f8"), nan=0.0, posinf=np.inf, neginf=-np.inf)
    over, under = whole >= float(limits.max), whole <= float(limits.min)
    inside = np.where(over | under, 0, whole).astype(dtype)
    return np.where(over, limits.max, np.where(under, limits.min, inside)).astype(dtype)


def _to_pair(ins: Instruction, kind: str) -> Effect:
    """The first source becomes the upper half."""
    high, low = (read(operand, "f32") for operand in ins.operands[1:])
    put, relu = write(ins.operands[0]), has(ins, "relu")

    def half(value: Array) -> Array:
        return narrow(np.where(value < 0, np.float32(0), value) if relu else value, kind)

    return lambda warp, mask: put(warp, pair(half(low(warp)), half(high(warp))), mask)
