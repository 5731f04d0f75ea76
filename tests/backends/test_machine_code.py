"""What compile_report sees in compiled code: products that ptxas serializes, work done twice, static cycles."""

from __future__ import annotations

import pytest
from support.compiled_gpu import CompiledGPU
from support.golden import random_params, random_queries, seeded

from liif_fast.backends import triton
from liif_fast.backends.call import Query
from liif_fast.functional import Window
from liif_fast.kernels import configs
from liif_fast.kernels.configs import Tile

machine_code = pytest.importorskip("benchmarks.machine_code", reason="Triton's compiler and its tools")


class Enough(Exception):
    """The text is there; nothing need run."""


def compiled(arch: int, tile: Tile, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str, bytes]:
    """PTX, TTGIR and machine code of the projected fp16 kernel of the published decoder with this tile."""
    monkeypatch.setitem(configs.HALF, arch, (tile, tile))

    def keep(text: str) -> str:
        raise Enough

    gpu = CompiledGPU(arch, change=keep)
    asked = Query(
        None,
        seeded((1, 4, 5, 256), 1, 1).half(),
        random_queries(1, 9),
        random_params(64, [256] * 4),
        Window(4, 5),
        "fp16",
    )
    with gpu.in_use(), pytest.raises(Enough):
        triton.run(asked)
    assert gpu.compiled is not None
    return gpu.compiled.ptx, gpu.compiled.ttgir, gpu.compiled.cubin


SHIPPED_BEFORE = {80: Tile(64, 64, 32, 64, 8, 3), 90: Tile(128, 64, 64, 64, 8, 3)}


def test_products_that_ptxas_serializes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hopper tile that was shipped before: 250 registers and no spill, but one wgmma after the other."""
    before = machine_code.resources(compiled(90, SHIPPED_BEFORE[90], monkeypatch)[0], 90)
    assert before["spill"] == 0
    assert any("C7512" in why and "insufficient register" in why for why in before["serialized"])
    now = machine_code.resources(compiled(90, Tile(128, 64, 32, 64, 8, 3), monkeypatch)[0], 90)
    assert now["serialized"] == []


@pytest.mark.parametrize(("tile", "times"), [(SHIPPED_BEFORE[80], 4 / 3), (Tile(64, 64, 64, 64, 8, 2), 1)])
def test_tensor_work_that_is_done_twice(tile: Tile, times: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of 32 columns for eight warps of 8 columns each: one layer in three is computed twice."""
    _, ttgir, cubin = compiled(80, tile, monkeypatch)
    assert (machine_code.duplicated(ttgir) > 1) == (times > 1)
    counts = machine_code.cycles(cubin, 80, tile.warps, [256 // tile.block_k, 256 // tile.block_n])
    # The last layer's 16 columns are counted too.
    assert counts.tensor == pytest.approx(times * tile.rows * 256 * 256 * 3 / 1024, rel=0.03)
    assert counts.shared > counts.tensor > counts.issue
