"""Each family of instructions against NumPy: small kernels whose lanes read their inputs and write their result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.ptx_kernels import run

import ptx
from ptx.scalars import to_bfloat16

KINDS = {torch.float32: "f32", torch.int32: "b32", torch.int64: "b64", torch.int16: "b16", torch.float16: "b16"}


def each(instruction: str, *inputs: NDArray[Any], result: str = "f4") -> NDArray[Any]:
    """instruction, with $0 for its result and $1, $2, ... for its inputs, on 32 values of 2, 4 or 8 bytes each."""
    prefix, step = {2: "%h", 4: "%r", 8: "%rd2"}, {2: "%rd2", 4: "%rd0", 8: "%rd1"}
    out = np.zeros(32, result)
    lines, text = [], instruction
    for place, values in enumerate([out, *inputs]):
        size = values.dtype.itemsize
        register = f"{prefix[size]}{10 + place}" if size < 8 else f"{prefix[8]}{place}"
        text = text.replace(f"${place}", register)
        lines.append(f"add.s64 %rd3{place}, %rd1{place}, {step[size]};")
        if place:
            lines.append(f"ld.global.b{8 * size} {register}, [%rd3{place}];")
        else:
            store = f"st.global.b{8 * size} [%rd30], {register};"
    tensors = [torch.from_numpy(values.view(f"i{values.dtype.itemsize}").copy()) for values in (out, *inputs)]
    run("\n".join([*lines, text, store]), *tensors)
    return tensors[0].numpy().view(result)


RANDOM = np.random.default_rng(3)
INTEGERS = RANDOM.integers(-(2**31), 2**31, (3, 32)).astype("i4")
FLOATS = RANDOM.normal(size=(3, 32)).astype("f4")
FLOATS[0, :4] = [np.nan, np.inf, -np.inf, 0.0]
HALVES = FLOATS.astype("f2")


@pytest.mark.parametrize(
    ("instruction", "want"),
    [
        ("add.s32 $0, $1, $2;", lambda a, b: a + b),
        ("sub.s32 $0, $1, $2;", lambda a, b: a - b),
        ("mul.lo.s32 $0, $1, $2;", lambda a, b: a * b),
        ("mul.hi.s32 $0, $1, $2;", lambda a, b: (a.astype("i8") * b) >> 32),
        ("mad.lo.s32 $0, $1, $2, 7;", lambda a, b: a * b + 7),
        ("div.s32 $0, $1, $2;", lambda a, b: np.trunc(a / b)),
        ("rem.s32 $0, $1, $2;", lambda a, b: np.fmod(a, b)),
        ("min.s32 $0, $1, $2;", np.minimum),
        ("max.u32 $0, $1, $2;", lambda a, b: np.maximum(a.view("u4"), b.view("u4")).view("i4")),
        ("and.b32 $0, $1, $2;", lambda a, b: a & b),
        ("xor.b32 $0, $1, -1;", lambda a, b: ~a),
        ("lop3.b32 $0, $1, $2, 255, 0xE8;", lambda a, b: (a & b) | (a & 255) | (b & 255)),
        ("shl.b32 $0, $1, 5;", lambda a, b: a << 5),
        ("shr.s32 $0, $1, 40;", lambda a, b: a >> 31),
        ("shr.u32 $0, $1, 3;", lambda a, b: (a.view("u4") >> 3).view("i4")),
        ("shf.l.wrap.b32 $0, $1, $2, 8;", lambda a, b: (b << 8) | (a.view("u4") >> 24).view("i4")),
        ("prmt.b32 $0, $1, $2, 0x5410;", lambda a, b: (a & 0xFFFF) | (b << 16)),
        ("bfe.u32 $0, $1, 4, 14;", lambda a, b: (a >> 4) & 0x3FFF),
        ("bfe.s32 $0, $1, 3, 1;", lambda a, b: -((a >> 3) & 1)),
        ("bfi.b32 $0, $1, $2, 8, 4;", lambda a, b: (b & ~0xF00) | ((a & 15) << 8)),
        ("not.b32 $0, $1;", lambda a, b: ~a),
        ("abs.s32 $0, $1;", lambda a, b: np.abs(a)),
        ("{ .reg .pred q; setp.lt.s32 q, $1, $2; selp.b32 $0, 1, 2, q; }", lambda a, b: np.where(a < b, 1, 2)),
    ],
)  # fmt: skip
def test_integers(instruction: str, want: Any) -> None:
    a, b = INTEGERS[0], INTEGERS[1]
    assert (each(instruction, a, b, result="i4") == want(a, b).astype("i8").astype("i4")).all()


def test_products_of_twice_the_width() -> None:
    a, b = INTEGERS[0], INTEGERS[1]
    wide = a.astype("i8") * b
    assert (each("mul.wide.s32 $0, $1, $2;", a, b, result="i8") == wide).all()
    assert (each("mad.wide.s32 $0, $1, $2, $3;", a, b, wide, result="i8") == 2 * wide).all()
    unsigned = a.view("u4").astype("u8") * b.view("u4")
    assert (each("mul.wide.u32 $0, $1, $2;", a, b, result="u8") == unsigned).all()


@pytest.mark.parametrize(
    ("instruction", "want"),
    [
        ("add.rn.f32 $0, $1, $2;", lambda a, b, c: a + b),
        ("sub.f32 $0, $1, $2;", lambda a, b, c: a - b),
        ("mul.rn.f32 $0, $1, $2;", lambda a, b, c: a * b),
        ("div.full.f32 $0, $1, $2;", lambda a, b, c: a / b),
        ("fma.rn.f32 $0, $1, $2, $3;", lambda a, b, c: (a.astype("f8") * b + c).astype("f4")),
        ("max.f32 $0, $1, 0f00000000;", lambda a, b, c: np.fmax(a, 0)),
        ("max.NaN.f32 $0, $1, 0f00000000;", lambda a, b, c: np.maximum(a, 0)),
        ("min.f32 $0, $1, $2;", lambda a, b, c: np.fmin(a, b)),
        ("abs.f32 $0, $1;", lambda a, b, c: np.abs(a)),
        ("neg.f32 $0, $1;", lambda a, b, c: -a),
    ],
)
def test_floating_point(instruction: str, want: Any) -> None:
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(each(instruction, *FLOATS), want(*FLOATS).astype("f4"))


def test_pairs_of_halves() -> None:
    packed = [np.ascontiguousarray(np.stack([HALVES[k], HALVES[k][::-1]], 1)).view("u4")[:, 0] for k in range(3)]
    with np.errstate(all="ignore"):
        want = HALVES[0].astype("f8") * HALVES[1] + HALVES[2]
        relu = np.where(want < 0, 0, want).astype("f2")
    got = each("fma.rn.relu.f16x2 $0, $1, $2, $3;", *packed, result="u4").view("f2").reshape(32, 2)
    np.testing.assert_array_equal(got[:, 0], relu)
    np.testing.assert_array_equal(got[:, 1], relu[::-1])


def test_sums_of_mixed_width() -> None:
    with np.errstate(all="ignore"):
        wide = HALVES[0].astype("f4")
        np.testing.assert_array_equal(each("add.rn.f32.f16 $0, $1, $2;", HALVES[0], FLOATS[1]), wide + FLOATS[1])
        np.testing.assert_array_equal(
            each("fma.rn.f32.f16 $0, $1, $2, $3;", HALVES[0], HALVES[1], FLOATS[2]),
            (wide.astype("f8") * HALVES[1] + FLOATS[2]).astype("f4"),
        )


def test_pairs_of_float32() -> None:
    packed = [np.ascontiguousarray(np.stack([FLOATS[k], FLOATS[2]], 1)).view("u8")[:, 0] for k in range(2)]
    got = each("add.rn.f32x2 $0, $1, $2;", *packed, result="u8").view("f4").reshape(32, 2)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(got, np.stack([FLOATS[0] + FLOATS[1], FLOATS[2] + FLOATS[2]], 1))


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge", "neu", "ltu", "num", "nan"])
def test_comparisons_with_nan(name: str) -> None:
    a, b = FLOATS[0], np.roll(FLOATS[0], 1)
    nan = np.isnan(a) | np.isnan(b)
    ordered = {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}
    want = {"num": ~nan, "nan": nan}.get(name)
    if want is None:
        want = ordered[name[:2]] | nan if name.endswith("u") else ordered[name] & ~nan
    text = f"{{ .reg .pred q; setp.{name}.f32 q, $1, $2; selp.b32 $0, 1, 0, q; }}"
    assert (each(text, a, b, result="i4") == want).all()


@pytest.mark.parametrize(
    ("instruction", "value", "want"),
    [
        ("cvt.rzi.s32.f32 $0, $1;", FLOATS[1] * 9, np.trunc(FLOATS[1] * 9).astype("i4")),
        ("cvt.rni.s32.f32 $0, $1;", np.arange(32, dtype="f4") / 2, np.rint(np.arange(32) / 2).astype("i4")),
        ("cvt.rn.f32.s32 $0, $1;", INTEGERS[0], INTEGERS[0].astype("f4")),
        ("cvt.rn.f16.f32 $0, $1;", FLOATS[0], FLOATS[0].astype("f2")),
        ("cvt.f32.f16 $0, $1;", HALVES[0], HALVES[0].astype("f4")),
        ("cvt.rn.bf16.f32 $0, $1;", FLOATS[0], to_bfloat16(FLOATS[0])),
        ("cvt.s64.s32 $0, $1;", INTEGERS[0], INTEGERS[0].astype("i8")),
        ("cvt.u64.u32 $0, $1;", INTEGERS[0], INTEGERS[0].view("u4").astype("u8")),
        ("cvt.u16.u32 $0, $1;", INTEGERS[0], INTEGERS[0].astype("u2")),
    ],
)
def test_conversions(instruction: str, value: NDArray[Any], want: NDArray[Any]) -> None:
    np.testing.assert_array_equal(each(instruction, value, result=want.dtype.str), want)


def test_roundings_that_numpy_lacks() -> None:
    finite = FLOATS[1]
    torch_bf16 = torch.from_numpy(finite).bfloat16().view(torch.int16).numpy()
    assert (to_bfloat16(finite).view("i2") == torch_bf16).all()
    tf32 = each("cvt.rna.tf32.f32 $0, $1;", finite)
    assert (np.abs(tf32 - finite) <= np.abs(finite) * 2.0**-11).all()
    assert not (tf32.view("u4") & 0x1FFF).any()
    with np.errstate(all="ignore"):
        relu = np.where(FLOATS[0] < 0, 0, FLOATS[0]).astype("f2").view("u2").astype("u4")
    got = each("cvt.rn.relu.f16x2.f32 $0, $1, $2;", FLOATS[0], FLOATS[1], result="u4")
    assert (got >> 16 == relu).all()


def test_vectors_shuffles_and_atomics() -> None:
    values, out = torch.arange(32, dtype=torch.float32), torch.zeros(2, 4)
    body = """
    add.s64 %rd20, %rd10, %rd0; ld.global.b32 %r1, [%rd20];
    shfl.sync.bfly.b32 %r2, %r1, 4, 0x1f, -1;
    shfl.sync.idx.b32 %r3, %r1, 3, 0x1f, -1;
    setp.lt.u32 %p1, %r0, 2; mul.wide.u32 %rd21, %r0, 16; add.s64 %rd22, %rd11, %rd21;
    @%p1 atom.global.gpu.relaxed.add.v4.f32 {%r4, %r5, %r6, %r7}, [%rd22], {%r1, %r2, %r3, %r1};
    @%p1 red.global.add.f32 [%rd22+12], 0f3F800000;
    """
    run(body, values, out)
    assert out.tolist() == [[0, 4, 3, 1], [1, 5, 3, 2]]


def test_a_loop_and_lanes_that_part() -> None:
    """Lane k adds 1 k times; odd lanes leave early."""
    out = torch.zeros(32, dtype=torch.int32)
    body = """
    add.s64 %rd20, %rd10, %rd0; mov.b32 %r1, 0; and.b32 %r2, %r0, 1; setp.eq.b32 %p1, %r2, 1;
    @%p1 bra done;
    again: setp.ge.u32 %p2, %r1, %r0; @%p2 bra after; add.s32 %r1, %r1, 1; bra.uni again;
    after: st.global.b32 [%rd20], %r1;
    done:
    """
    run(body, out)
    assert out.tolist() == [k if k % 2 == 0 else 0 for k in range(32)]


def test_what_is_unknown_names_itself() -> None:
    out = torch.zeros(32, dtype=torch.int32)
    lines = (
        *(("sin.approx.f32 %r1, %r2;", "sin.approx.f32"), ("add.cc.u32 %r1, %r2, %r3;", "add.cc.u32")),
        *(("add.rn.ftz.f32 %r1, %r2, %r3;", ".ftz"), ("cvt.rn.satfinite.f16.f32 %h1, %r3;", ".satfinite")),
    )
    for line, name in lines:
        with pytest.raises(ptx.Unknown, match=name):
            run(line, out)
    with pytest.raises(ptx.Unknown, match=r"%clock"):
        run("mov.u32 %r1, %clock;", out)


def test_addresses_are_checked() -> None:
    out = torch.zeros(32, dtype=torch.int32)
    for offset, message in ((2, "misaligned"), (128, "out of bounds"), (-4, "out of bounds")):
        with pytest.raises(ptx.AccessError, match=message):
            run(f"ld.global.b32 %r1, [%rd10+{offset}];", out)
    with pytest.raises(ptx.AccessError, match="shared load: out of bounds"):
        run("mov.b32 %r1, 64; ld.shared.b32 %r2, [%r1];", out, shared=64)
    assert run("mov.b32 %r1, 0; ld.shared.b32 %r2, [%r1];", out, shared=64).unwritten_reads == 1
