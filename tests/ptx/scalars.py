"""PTX's scalar types in NumPy, and the roundings that NumPy lacks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
LANES = 32
LANE = np.arange(LANES)
ALL = np.ones(LANES, bool)

# bf16 and pairs of halves are kept as the integers that hold their bits.
DTYPES: dict[str, np.dtype[Any]] = {
    **{f"{kind}{bits}": np.dtype(f"u{bits // 8}") for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{"f16": np.dtype("f2"), "f32": np.dtype("f4"), "f64": np.dtype("f8")},
    **{"bf16": np.dtype("u2"), "f16x2": np.dtype("u4"), "bf16x2": np.dtype("u4"), "f32x2": np.dtype("u8")},
}
WIDER = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}


def from_bfloat16(bits: Array) -> Array:
    """float32 values of bf16's bits."""
    return (bits.astype("u4") << 16).view("f4")


def to_bfloat16(values: Array) -> Array:
    """Bits of the nearest bf16, ties to the even one."""
    bits = np.ascontiguousarray(values, "f4").view("u4")
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("u2")
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def round_tf32(bits: Array) -> Array:
    """Bits of the nearest TF32, ties away from zero (cvt.rna)."""
    return (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)


def truncate_tf32(bits: Array) -> Array:
    """float32 values of what a matrix instruction reads of a 32-bit register."""
    return (bits & np.uint32(0xFFFFE000)).view("f4")


def halves(bits: Array, kind: str) -> tuple[Array, Array]:
    """Lower and upper half of 32-bit registers as float32; kind is f16 or bf16."""
    if kind == "bf16":
        return (bits << np.uint32(16)).view("f4"), (bits & np.uint32(0xFFFF0000)).view("f4")
    both = bits.view("f2").astype("f4").reshape(-1, 2)
    return both[:, 0], both[:, 1]


def narrow(values: Array, kind: str) -> Array:
    """The bits (u2) of float32 or float64 values, rounded to f16 or bf16."""
    return to_bfloat16(values) if kind == "bf16" else values.astype("f2").view("u2")


def pair(low: Array, high: Array) -> Array:
    """32-bit registers of two halves' bits."""
    return low.astype("u4") | (high.astype("u4") << np.uint32(16))
