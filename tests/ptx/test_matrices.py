"""Matrix instructions and asynchronous copies against NumPy, and the faults that the interpreter has to find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.ptx_kernels import run

import ptx
from ptx.matrix import _operand, fragment16
from ptx.memory import SharedMemory

RANDOM = np.random.default_rng(5)


def lanes(values: np.ndarray) -> torch.Tensor:
    """[registers, 32] -> a tensor that a lane reads its registers from, one beside the other."""
    return torch.from_numpy(np.ascontiguousarray(values.T).view("i4"))


LOAD = """mul.wide.u32 %rd20, %r0, {bytes}; add.s64 %rd21, %rd{pointer}, %rd20;"""


@pytest.mark.parametrize("kind", ["f16", "bf16", "tf32"])
def test_mma(kind: str) -> None:
    """Fragments as PTX's tables of them: rows by groups of four lanes, columns within a group."""
    depth = 8 if kind == "tf32" else 16
    a, b = RANDOM.integers(-8, 8, (16, depth)).astype("f4"), RANDOM.integers(-8, 8, (depth, 8)).astype("f4")
    registers = []
    for matrix, places in ((a, [(0, 0), (8, 0), (0, 1), (8, 1)]), (b.T, [(0, 0), (0, 1)])):
        for up, half in places:
            found = []
            for lane in range(32):
                row, col = lane // 4 + up, (depth // 2) * half
                if kind == "tf32":
                    found.append(matrix[row, col + lane % 4].view("u4"))
                else:
                    two = matrix[row, col + 2 * (lane % 4) : col + 2 * (lane % 4) + 2]
                    bits = two.astype("f2").view("u2") if kind == "f16" else (two.view("u4") >> 16).astype("u2")
                    found.append(bits.view("u4")[0])
            registers.append(found)
    out = torch.full((32, 4), 100.0)
    shape = "m16n8k8" if kind == "tf32" else "m16n8k16"
    body = LOAD.format(bytes=24, pointer=10) + "".join(f"ld.global.b32 %r{10 + k}, [%rd21+{4 * k}];" for k in range(6))
    body += LOAD.format(bytes=16, pointer=11) + "ld.global.v4.b32 {%r20, %r21, %r22, %r23}, [%rd21];"
    body += (
        f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {{%r20, %r21, %r22, %r23}}, "
        "{%r10, %r11, %r12, %r13}, {%r14, %r15}, {%r20, %r21, %r22, %r23};"
        "st.global.v4.b32 [%rd21], {%r20, %r21, %r22, %r23};"
    )
    run(body, lanes(np.array(registers, "u4")), out)
    want, got = a @ b + 100, np.zeros((16, 8), "f4")
    for lane in range(32):
        got[lane // 4, 2 * (lane % 4) : 2 * (lane % 4) + 2] = out[lane, :2]
        got[lane // 4 + 8, 2 * (lane % 4) : 2 * (lane % 4) + 2] = out[lane, 2:]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("turned", [False, True])
def test_ldmatrix_and_stmatrix(turned: bool) -> None:
    matrix = torch.arange(64, dtype=torch.int16).view(8, 8)
    out = torch.zeros(8, 8, dtype=torch.int16)
    trans = ".trans" if turned else ""
    body = f"""
    setp.lt.u32 %p1, %r0, 8; shl.b32 %r1, %r0, 4; mul.wide.u32 %rd20, %r0, 16;
    add.s64 %rd21, %rd10, %rd20; add.s64 %rd22, %rd11, %rd20;
    @%p1 ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%rd21]; @%p1 st.shared.v4.b32 [%r1], {{%r4, %r5, %r6, %r7}};
    bar.sync 0; and.b32 %r1, %r1, 127;
    ldmatrix.sync.aligned.m8n8.x1{trans}.shared.b16 {{%r8}}, [%r1];
    stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1+128], {{%r8}}; bar.sync 0;
    @%p1 ld.shared.v4.b32 {{%r4, %r5, %r6, %r7}}, [%r1+128]; @%p1 st.global.v4.b32 [%rd22], {{%r4, %r5, %r6, %r7}};
    """
    run(body, matrix, out, shared=256)
    assert torch.equal(out, matrix.T if turned else matrix)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
@pytest.mark.parametrize("turned", [0, 1])
def test_operands_of_wgmma_in_shared_memory(mode: int, turned: int) -> None:
    """Each swizzle and both directions: the layout is written here value by value, as PTX's figures show it."""
    rows, depth = 64, 16
    matrix = RANDOM.integers(-99, 99, (rows, depth)).astype("f2")
    span = {0: 8, 1: 64, 2: 32, 3: 16}[mode]
    leading, stride = (16 * rows, 8 * 16) if not mode else (8 * span * 2 * 2, 8 * span * 2)
    shared = SharedMemory(1 << 16)
    for row in range(rows):
        for k in range(depth):
            if not turned and mode:
                place = row // 8 * stride + row % 8 * span * 2 + 2 * k
            elif not turned:
                place = row // 8 * stride + row % 8 * 16 + k // 8 * leading + 2 * (k % 8)
            elif mode:
                place = row // span * leading + k // 8 * stride + k % 8 * span * 2 + 2 * (row % span)
            else:
                place = row // 8 * stride + k // 8 * leading + k % 8 * 16 + 2 * (row % 8)
            line = place >> 7 & {0: 0, 1: 7, 2: 3, 3: 1}[mode]
            shared.store(np.array([place ^ line << 4]), matrix[row : row + 1, k : k + 1].view(np.uint8))
    shared.fence()
    descriptor = leading >> 4 << 16 | stride >> 4 << 32 | mode << 62
    got = _operand({}, shared, descriptor, rows, turned, "f16")
    np.testing.assert_array_equal(got, matrix)


WGMMA = """
shl.b32 %r1, %r0, 4; mul.wide.u32 %rd20, %r0, 16; add.s64 %rd21, %rd10, %rd20;
setp.lt.u32 %p1, %r0, 16; @%p1 ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%rd21];
@%p1 st.shared.v4.b32 [%r1], {{%r4, %r5, %r6, %r7}};
{fence} bar.sync 0;
mov.b32 %r10, 0x3C003C00; mov.b64 %rd22, 0x{descriptor:x};
mov.b32 %r20, 0; mov.b32 %r21, 0; mov.b32 %r22, 0; mov.b32 %r23, 0;
wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16
{{%r20, %r21, %r22, %r23}}, {{%r10, %r10, %r10, %r10}}, %rd22, 0, 1, 1, 0;
wgmma.commit_group.sync.aligned;
{wait}
mul.wide.u32 %rd23, %r0, 16; add.s64 %rd24, %rd11, %rd23; st.global.v4.b32 [%rd24], {{%r20, %r21, %r22, %r23}};
"""


def _wgmma(fence: str, wait: str) -> torch.Tensor:
    """64 rows of ones times [16, 8] values: every row is their columns' sums."""
    b = torch.arange(128, dtype=torch.float16).view(2, 8, 8)  # [half of k, column, k]
    out = torch.full((128, 4), -1.0)
    run(WGMMA.format(fence=fence, wait=wait, descriptor=128 >> 4 << 16), b, out, threads=128, shared=256)
    return out


def test_wgmma() -> None:
    out = _wgmma("fence.proxy.async;", "wgmma.wait_group.sync.aligned 0;")
    sums = torch.arange(128.0).view(2, 8, 8).sum((0, 2))
    for thread in range(128):
        col = 2 * (thread % 4)
        assert out[thread].tolist() == [sums[col], sums[col + 1], sums[col], sums[col + 1]]


def test_a_missing_wait_and_a_missing_fence_show() -> None:
    assert not _wgmma("fence.proxy.async;", "").any()  # the sums are still what they were
    with pytest.raises(ptx.AccessError, match=r"no fence\.proxy\.async"):
        _wgmma("", "wgmma.wait_group.sync.aligned 0;")


COPY = """
shl.b32 %r1, %r0, 2; add.s64 %rd20, %rd10, %rd0;
cp.async.ca.shared.global [%r1], [%rd20], 4; cp.async.commit_group;
cp.async.wait_group {pending};
{barrier}
xor.b32 %r2, %r1, 252; ld.shared.b32 %r3, [%r2]; add.s64 %rd21, %rd11, %rd0; st.global.b32 [%rd21], %r3;
"""


@pytest.mark.parametrize(
    ("pending", "barrier", "right"), [(0, "bar.sync 0;", True), (1, "bar.sync 0;", False), (0, "", False)]
)
def test_copies_come_when_they_are_waited_for(pending: int, barrier: str, right: bool) -> None:
    """The threads of two warps exchange their values; without the wait or the barrier that goes wrong in some order."""
    values = torch.arange(64, dtype=torch.int32)
    found = []
    for seed in range(4):
        out = torch.zeros(64, dtype=torch.int32)
        run(COPY.format(pending=pending, barrier=barrier), values, out, threads=64, shared=256, seed=seed)
        found.append(torch.equal(out, values.flip(0)))
    assert all(found) == right


BULK = """
{{ .reg .pred q; setp.eq.b32 q, %r0, 0; mov.b32 %r1, 512; @!q bra skip;
mbarrier.init.shared::cta.b64 [%r1], 1; fence.mbarrier_init.release.cluster;
mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 128;
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [0], [%rd10], 128, [%r1];
skip: bar.sync 0;
{wait}
}}
shl.b32 %r4, %r0, 2; ld.shared.b32 %r3, [%r4]; add.s64 %rd21, %rd11, %rd0; st.global.b32 [%rd21], %r3;
"""
WAIT = "again: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0; @!%p1 bra again;"


@pytest.mark.parametrize("waits", [True, False])
def test_bulk_copies_and_mbarriers(waits: bool) -> None:
    values = torch.arange(32, dtype=torch.int32)
    found = []
    for seed in range(6):
        out = torch.zeros(32, dtype=torch.int32)
        run(BULK.format(wait=WAIT if waits else ""), values, out, shared=528, seed=seed)
        found.append(torch.equal(out, values))
    assert all(found) == waits


def test_a_barrier_that_not_all_can_reach_is_a_deadlock() -> None:
    out = torch.zeros(64, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="deadlock"):
        run("setp.lt.u32 %p1, %r0, 32; @%p1 bra end; bar.sync 0; end: bar.sync 1;", out, threads=64)
    with pytest.raises(RuntimeError, match="divergent barrier"):
        run("setp.lt.u32 %p1, %r0, 5; @%p1 bar.sync 0;", out)


def test_fragments_hold_every_element_once() -> None:
    registers = [
        np.arange(32, dtype="u4") * 2 + 64 * k | (np.arange(32, dtype="u4") * 2 + 64 * k + 1) << 16 for k in range(4)
    ]
    with np.errstate(all="ignore"):
        matrix = fragment16(registers, "bf16")
    assert len(np.unique(matrix)) == 256
