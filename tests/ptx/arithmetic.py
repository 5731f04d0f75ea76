"""Integers, floating point, bits, comparisons and selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ptx.parser import Instruction, Literal
from ptx.registry import Effect, Unknown, instruction
from ptx.scalars import DTYPES, WIDER, Array, from_bfloat16, narrow
from ptx.warp import Warp, has, read, vector, write

Function = Callable[..., Array]


def _simple(ins: Instruction, function: Function, kinds: list[str] | None = None) -> Effect:
    """A destination and sources of the instruction's type (or of `kinds`)."""
    kinds = kinds or [ins.type] * (len(ins.operands) - 1)
    sources = [read(operand, kind) for operand, kind in zip(ins.operands[1:], kinds, strict=True)]
    put = write(ins.operands[0])
    return lambda warp, mask: put(warp, function(*[source(warp) for source in sources]), mask)


def _packed(ins: Instruction, function: Function) -> Effect:
    """The same on pairs: f16x2 and bf16x2 through float64, rounded once; f32x2 as two float32."""
    kind = ins.type[:-2]

    def unpack(bits: Array) -> Array:
        if kind == "f32":
            return bits.view("f4")
        return (bits.view("f2") if kind == "f16" else from_bfloat16(bits.view("u2"))).astype("f8")

    def packed(*values: Array) -> Array:
        found = function(*map(unpack, values))
        bits = found.astype("f4") if kind == "f32" else narrow(found, kind)
        return bits.view(DTYPES[ins.type])

    return _simple(ins, packed)


def _only(ins: Instruction, *known: str) -> None:
    """Unknown unless what stands between an instruction's name and its type is known."""
    for part in ins.parts[1:-1]:
        if part not in known:
            raise Unknown(f"unknown modifier .{part} of {ins.name}")


def _mixed(ins: Instruction, function: Function) -> Effect:
    """add, sub or fma in float32 of narrow values: all sources but the last are f16 or bf16."""
    kinds = [ins.type] * (len(ins.operands) - 2) + ["f32"]
    widen = from_bfloat16 if ins.type == "bf16" else (lambda value: value.astype("f4"))
    return _simple(ins, lambda *values: function(*map(widen, values[:-1]), values[-1]), kinds)


def _floating(ins: Instruction, function: Function) -> Effect:
    """By the type: single values, pairs, with .relu."""
    relu = has(ins, "relu")
    limited = (lambda *values: _relu(function(*values))) if relu else function
    if ins.type.endswith("x2"):
        return _packed(ins, limited)
    if ins.type == "bf16":
        return _simple(ins, lambda *v: narrow(limited(*map(from_bfloat16, v)), "bf16"))
    if ins.type == "f16" and ins.parts[0] == "fma":
        return _simple(ins, lambda *v: limited(*(x.astype("f8") for x in v)).astype("f2"))
    return _simple(ins, limited)


def _relu(value: Array) -> Array:
    """max(x, 0), NaN stays."""
    return np.where(value > 0, value, np.where(np.isnan(value), value, value.dtype.type(0)))


def _is_float(kind: str) -> bool:
    return "f" in kind


@instruction("add", "sub")
def _add(ins: Instruction) -> Effect:
    function = np.add if ins.parts[0] == "add" else np.subtract
    if ins.parts[-2:] in (("f32", "f16"), ("f32", "bf16")):
        _only(ins, "rn", "f32")
        return _mixed(ins, function)
    _only(ins, "rn")
    return _floating(ins, function) if _is_float(ins.type) else _simple(ins, function)


@instruction("mul", "mad")
def _multiply(ins: Instruction) -> Effect:
    if _is_float(ins.type):
        _only(ins, "rn")
        return _floating(ins, np.multiply)
    _only(ins, "lo", "hi", "wide")
    adds = ins.parts[0] == "mad"
    wide = WIDER.get(ins.type, "")
    if has(ins, "wide"):
        dtype = DTYPES[wide]

        def function(a: Array, b: Array, c: Any = 0) -> Array:
            return a.astype(dtype) * b.astype(dtype) + dtype.type(0) + c

        return _simple(ins, function, [ins.type, ins.type, wide][: len(ins.operands) - 1])
    if has(ins, "hi"):
        if adds:
            raise Unknown(f"unknown form {ins.name}")
        return _simple(ins, _high)
    return _simple(ins, (lambda a, b, c: a * b + c) if adds else np.multiply)


def _high(a: Array, b: Array) -> Array:
    """Upper half of the product."""
    bits = 8 * a.dtype.itemsize
    return np.array([(int(x) * int(y)) >> bits for x, y in zip(a, b, strict=True)]).astype(a.dtype)


@instruction("fma")
def _fma(ins: Instruction) -> Effect:
    if ins.parts[-2:] in (("f32", "f16"), ("f32", "bf16")):
        _only(ins, "rn", "f32")
        return _mixed(ins, _fma32)
    _only(ins, "rn", "relu")
    if ins.type == "f32":
        return _simple(ins, _fma32)
    if ins.type == "f32x2":
        return _packed(ins, _fma32)
    return _floating(ins, lambda a, b, c: a * b + c)


def _fma32(a: Array, b: Array, c: Array) -> Array:
    """The product is exact in float64; the sum is rounded there first, which can show in a float32's last bit."""
    return (a.astype("f8") * b.astype("f8") + c.astype("f8")).astype("f4")


@instruction("min", "max")
def _extreme(ins: Instruction) -> Effect:
    _only(ins, "NaN")
    least = ins.parts[0] == "min"
    if not _is_float(ins.type):
        return _simple(ins, np.minimum if least else np.maximum)
    if has(ins, "NaN"):
        return _floating(ins, np.minimum if least else np.maximum)
    return _floating(ins, np.fmin if least else np.fmax)


@instruction("neg", "abs")
def _sign(ins: Instruction) -> Effect:
    _only(ins)
    function = np.negative if ins.parts[0] == "neg" else np.abs
    return _floating(ins, function) if _is_float(ins.type) else _simple(ins, function)


@instruction("div", "rem")
def _divide(ins: Instruction) -> Effect:
    _only(ins, "rn", "full")
    if _is_float(ins.type):
        return _simple(ins, np.divide)
    quotient = ins.parts[0] == "div"

    def function(a: Array, b: Array) -> Array:
        divisor = np.where(b == 0, 1, b).astype(b.dtype)
        found = a // divisor
        # NumPy rounds down, PTX towards zero.
        found = found + ((found < 0) & (found * divisor != a)).astype(a.dtype)
        return found if quotient else a - found * divisor

    return _simple(ins, function)


@instruction("and", "or", "xor", "not")
def _logic(ins: Instruction) -> Effect:
    functions = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert}
    return _simple(ins, functions[ins.parts[0]])


@instruction("lop3")
def _lop3(ins: Instruction) -> Effect:
    """Any function of three bits; its table is the last operand."""
    *operands, table = ins.operands
    assert isinstance(table, Literal)
    bits = int(table.text, 0)

    def function(a: Array, b: Array, c: Array) -> Array:
        found = np.zeros_like(a)
        for case in range(8):
            if bits >> case & 1:
                found |= (a if case & 4 else ~a) & (b if case & 2 else ~b) & (c if case & 1 else ~c)
        return found

    return _simple(Instruction(ins.parts, tuple(operands), ins.guard, ins.negated, ins.text), function)


@instruction("shl", "shr")
def _shift(ins: Instruction) -> Effect:
    bits = 8 * DTYPES[ins.type].itemsize
    left = ins.parts[0] == "shl"

    def function(value: Array, count: Array) -> Array:
        some = np.minimum(count, bits - 1).astype(value.dtype)
        found = value << some if left else value >> some
        # Beyond the width everything is shifted out, but for the sign.
        all_out = value >> value.dtype.type(bits - 1) if not left and value.dtype.kind == "i" else np.zeros_like(value)
        return np.where(count >= bits, all_out, found)

    return _simple(ins, function, [ins.type, "u32"])


@instruction("shf")
def _funnel(ins: Instruction) -> Effect:
    """32 bits of a pair of registers (low, high), shifted."""
    left, wraps = ins.parts[1] == "l", has(ins, "wrap")

    def function(low: Array, high: Array, count: Array) -> Array:
        count = ((count & 31) if wraps else np.minimum(count, 32)).astype("u8")
        both = low.astype("u8") | high.astype("u8") << np.uint64(32)
        shifted = (both << count) >> np.uint64(32) if left else both >> count
        return shifted.astype("u4")

    return _simple(ins, function, ["u32"] * 3)


@instruction("prmt")
def _permute(ins: Instruction) -> Effect:
    """Four bytes chosen out of eight."""
    if len(ins.parts) != 2:
        raise Unknown(f"unknown form {ins.name}")

    def function(a: Array, b: Array, choice: Array) -> Array:
        eight = np.stack([a, b], 1).view("u1")
        rows, found = np.arange(len(a)), np.empty((len(a), 4), "u1")
        for byte in range(4):
            pick = choice >> np.uint32(4 * byte)
            value = eight[rows, pick & 7]
            found[:, byte] = np.where(pick & 8, np.where(value & 128, 255, 0), value)
        return found.view("u4")[:, 0]

    return _simple(ins, function, ["u32"] * 3)


@instruction("bfe")
def _extract(ins: Instruction) -> Effect:
    bits, signed = 8 * DTYPES[ins.type].itemsize, ins.type[0] == "s"

    def function(value: Array, start: Array, length: Array) -> Array:
        found = []
        for v, s, n in zip(value.tolist(), (start & 255).tolist(), (length & 255).tolist(), strict=True):
            taken = v >> s & ((1 << n) - 1) if signed else (v & ((1 << bits) - 1)) >> s & ((1 << n) - 1)
            found.append(taken - (1 << n) if signed and n and taken >> (n - 1) & 1 else taken)
        return np.array(found, DTYPES[ins.type])

    return _simple(ins, function, [ins.type, "u32", "u32"])


@instruction("bfi")
def _insert(ins: Instruction) -> Effect:
    def function(value: Array, into: Array, start: Array, length: Array) -> Array:
        rows = zip(value.tolist(), into.tolist(), (start & 255).tolist(), (length & 255).tolist(), strict=True)
        top = (1 << 8 * value.dtype.itemsize) - 1
        found = [b & ~(((1 << n) - 1) << s) & top | (a & ((1 << n) - 1)) << s & top for a, b, s, n in rows]
        return np.array(found, value.dtype)

    return _simple(ins, function, [ins.type, ins.type, "u32", "u32"])


COMPARISONS: dict[str, Function] = {
    **{"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater},
    **{"ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal},
}


def _comparison(name: str, kind: str) -> Function:
    if not _is_float(kind):
        return COMPARISONS[name]
    if name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    if name.endswith("u"):  # true of NaN
        ordered = COMPARISONS[name[:-1]]
        return lambda a, b: ordered(a, b) | np.isnan(a) | np.isnan(b)
    if name == "ne":
        return lambda a, b: (a != b) & ~(np.isnan(a) | np.isnan(b))
    return COMPARISONS[name]


@instruction("setp")
def _compare(ins: Instruction) -> Effect:
    kind, puts = ins.type, [write(operand) for operand in vector(ins.operands[0])]
    compare = _comparison(ins.parts[1], kind)
    a, b = (read(operand, kind) for operand in ins.operands[1:3])
    combine = ins.parts[2] if len(ins.parts) > 3 and ins.parts[2] in ("and", "or", "xor") else None
    other = read(ins.operands[3], "pred") if combine else None
    if len(ins.parts) > (4 if combine else 3):
        raise Unknown(f"unknown form {ins.name}")
    join = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}

    def pairs(warp: Warp, mask: Any) -> None:
        values = [source(warp) for source in (a, b)]
        both = [v.view("f2") if kind == "f16x2" else from_bfloat16(v.view("u2")) for v in values]
        found = compare(*both).reshape(-1, 2)
        for half, put in enumerate(puts):
            put(warp, found[:, half], mask)

    def single(warp: Warp, mask: Any) -> None:
        values = [source(warp) for source in (a, b)]
        found = compare(*(map(from_bfloat16, values) if kind == "bf16" else values))
        sides = [found, ~found]
        for side, put in zip(sides, puts, strict=False):
            put(warp, side if combine is None or other is None else join[combine](side, other(warp)), mask)

    return pairs if kind.endswith("x2") else single


@instruction("selp")
def _select(ins: Instruction) -> Effect:
    def function(a: Array, b: Array, which: Array) -> Array:
        return np.where(which, a, b)

    return _simple(ins, function, [ins.type, ins.type, "pred"])
