"""cp.async, the ordinary one, and bulk copies to every block of a cluster."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptx.barriers import expect_bytes
from ptx.memory import AccessError
from ptx.parser import Instruction, Literal
from ptx.registry import Effect, Unknown, instruction
from ptx.warp import Warp, address, has, lanes_of, read


@instruction("cp.async.ca", "cp.async.cg")
def _copy(ins: Instruction) -> Effect:
    """16 bytes or fewer a lane; only the first `taken` come from memory, the rest are zeros."""
    target, source, whole = address(ins.operands[0]), address(ins.operands[1]), ins.operands[2]
    if has(ins, "L2::cache_hint") or not isinstance(whole, Literal):
        raise Unknown(f"unknown form {ins.name}")
    size = int(whole.text, 0)
    taken = read(ins.operands[3], "u32") if len(ins.operands) > 3 else None

    def copy(warp: Warp, mask: Any) -> None:
        lanes = lanes_of(mask)
        to, come = target(warp)[lanes], source(warp)[lanes]
        counts = np.full(len(lanes), size) if taken is None else taken(warp)[lanes]
        if ((counts != 0) & (counts != size)).any():
            raise Unknown(f"{ins.name} of a part of its {size} bytes")

        def job(_: dict[Any, Any]) -> None:
            data, some = np.zeros((len(to), size), np.uint8), counts > 0
            if some.any():
                data[some] = warp.machine.memory.load(come[some], size)
            warp.block.shared.store(to, data)

        if warp.machine.late:
            warp.copies[-1].append(job)
        else:
            job({})

    return copy


@instruction("cp.async.commit_group")
def _commit(ins: Instruction) -> Effect:
    return lambda warp, mask: warp.copies.append([])


@instruction("cp.async.wait_group", "cp.async.wait_all")
def _wait(ins: Instruction) -> Effect:
    pending = 0
    if ins.operands:
        assert isinstance(ins.operands[0], Literal)
        pending = int(ins.operands[0].text, 0)
    everything = ins.parts[2] == "wait_all"

    def wait(warp: Warp, mask: Any) -> None:
        if everything:
            warp.copies.append([])
        while len(warp.copies) - 1 > pending:
            for job in warp.copies.pop(0):
                job({})

    return wait


@instruction("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes")
def _bulk(ins: Instruction) -> Effect:
    """Bytes in a row to a place in the shared memory of this block, or of each whose bit is set; an mbarrier counts."""
    target, source, size = address(ins.operands[0]), address(ins.operands[1]), read(ins.operands[2], "u32")
    barrier = address(ins.operands[3])
    blocks = read(ins.operands[4], "u16") if has(ins, "multicast::cluster") else None

    def copy(warp: Warp, mask: Any) -> None:
        for lane in lanes_of(mask):
            to, come, count, counter = (int(value(warp)[lane]) for value in (target, source, size, barrier))
            if any(number % 16 for number in (to, come, count)):
                raise AccessError(f"bulk copy: misaligned, {to}, {hex(come)}, {count} bytes")
            bits = 1 << warp.block.rank if blocks is None else int(blocks(warp)[lane])
            if blocks is not None and bits >> len(warp.block.peers):
                raise AccessError(f"bulk copy: expected blocks of the cluster, got mask {bits:b}")

            def job(
                to: int = to, come: int = come, count: int = count, counter: int = counter, bits: int = bits
            ) -> None:
                data = warp.machine.memory.read(come, count).reshape(-1, 16)
                for block in warp.block.peers:
                    if bits >> block.rank & 1:
                        block.shared.store(to + 16 * np.arange(len(data)), data, ordinary=False)
                        expect_bytes(warp, block, counter, -count)

            if warp.machine.late:
                warp.machine.bulk.append(job)
            else:
                job()

    return copy
