"""The Hopper kernel: NVRTC's PTX of every form, executed by the interpreter of PTX, against float64 truth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any
from unittest.mock import patch

import ptx
import pytest
import torch
from support.golden import random_params, seeded, to_double
from support.triton_device import poison

from liif_fast import backends, functional
from liif_fast.backends import cuda, proof, reference
from liif_fast.backends.call import Query
from liif_fast.box import Box
from liif_fast.geometry import Grid, Window, grid_queries
from liif_fast.params import DecoderParams

__all__ = ["poison"]
driver = pytest.importorskip("liif_fast.kernels.driver")
hopper = pytest.importorskip("liif_fast.kernels.hopper")
nvrtc = pytest.importorskip("liif_fast.kernels.nvrtc")
needs_nvrtc = pytest.mark.skipif(nvrtc.library() is None, reason="pip install nvidia-cuda-nvrtc")
TOLERANCE = {"fp16": 1.5e-3, "bf16": 1.2e-2}  # beside the largest answer: layer one's sums are halves too


class Interpreter:
    """In the place of CUDA's driver: `blocks` at a time, in a schedule of its own."""

    def __init__(self, seed: int = 0, clusters: int = 1, change: Callable[[str], str] = str, late: bool = True) -> None:
        self.seed, self.clusters, self.change, self.late = seed, clusters, change, late
        self.unwritten_reads = self.launches = 0

    @contextmanager
    def in_use(self) -> Iterator[Interpreter]:
        compiled = hopper.code
        with (
            patch.object(driver, "launch", self._launch),
            patch.object(hopper, "code", lambda build: compiled(build, "compute_90a")),
            patch.object(hopper, "_processors", lambda device: hopper.CLUSTER * self.clusters),
        ):
            yield self

    def _launch(self, asked: Any) -> None:
        program = ptx.parse(self.change(asked.code.decode()), asked.name)
        assert program.cluster == hopper.CLUSTER
        ran = ptx.launch(
            program, (asked.blocks, 1), [asked.arguments], list(asked.tensors),
            shared=asked.shared, threads=asked.threads, seed=self.seed, late=self.late,
        )  # fmt: skip
        self.launches += 1
        self.unwritten_reads += ran.unwritten_reads


def decoder(width: int, hidden: int, out_dim: int = 3, **switches: bool) -> DecoderParams:
    """Weights that keep the size of the activations, so that the answers are about 1."""
    plain = random_params(20, [width] * hidden, out_dim, 3, **switches)
    weights = tuple(weight * 3**0.5 for weight in plain.weights)
    return DecoderParams(weights, plain.biases, 20, plain.local_ensemble, plain.feat_unfold, plain.cell_decode)


def error(
    run: Interpreter, params: DecoderParams, precision: str, grid: bool, size: tuple[int, int] = (7, 11), batch: int = 1
) -> float:
    """Largest error, beside the largest answer."""
    feat = seeded((batch, 20, 5, 7), 4, 1)
    where = Grid(size, Box(0, 0, *size))
    coord, cell = (t.clone() for t in grid_queries(where, batch))
    if not grid:
        coord, cell = coord + 0.01, cell * seeded(list(cell.shape), 8, 0.5).add(1)
    want = reference.query(feat.double(), coord, cell, to_double(params))
    projected = functional.project(feat, params, "fp32").to(hopper.DTYPES[precision])
    with run.in_use():
        got = cuda.run(Query(None, projected, where if grid else (coord, cell), params, Window(5, 7), precision))
    assert got.shape == want.shape
    assert run.unwritten_reads == 0
    return float((got - want).abs().max() / want.abs().max())


@needs_nvrtc
@pytest.mark.parametrize(("precision", "grid"), [("fp16", True), ("bf16", False)])
def test_the_published_width(precision: str, grid: bool) -> None:
    assert error(Interpreter(), decoder(256, 4), precision, grid, (5, 9)) <= TOLERANCE[precision]


def _forms() -> Iterator[Any]:
    """All switches; a part of them, with every switch both ways in both precisions, is quick enough for each run."""
    for width, *switches in product((64, 128), (True, False), (True, False), (True, False)):
        for place, precision in enumerate(cuda.PRECISIONS):
            quick = width == 64 and sum(switches) % 2 == place
            yield pytest.param(precision, width, *switches, marks=[] if quick else pytest.mark.compiled)


@needs_nvrtc
@pytest.mark.parametrize(("precision", "width", "grid", "local_ensemble", "cell_decode"), list(_forms()))
def test_every_switch(precision: str, width: int, grid: bool, local_ensemble: bool, cell_decode: bool) -> None:
    params = decoder(width, 3, local_ensemble=local_ensemble, cell_decode=cell_decode)
    assert error(Interpreter(), params, precision, grid, (5, 9)) <= TOLERANCE[precision]


@needs_nvrtc
@pytest.mark.parametrize(
    ("width", "hidden", "out_dim"),
    [(64, 1, 1), (24, 2, 8), *(pytest.param(*case, marks=pytest.mark.compiled) for case in ((100, 6, 2), (200, 2, 5)))],
)
def test_padded_widths_every_depth_and_every_number_of_outputs(width: int, hidden: int, out_dim: int) -> None:
    assert error(Interpreter(), decoder(width, hidden, out_dim), "fp16", True, (5, 9)) <= TOLERANCE["fp16"]


@needs_nvrtc
@pytest.mark.parametrize("grid", [True, False])
def test_more_tiles_than_clusters_and_a_batch(grid: bool) -> None:
    """Persistent blocks: each takes several tiles, the ring goes round, pictures end within tiles."""
    run = Interpreter(seed=5, clusters=2)
    assert error(run, decoder(64, 4), "fp16", grid, (13, 17), batch=3) <= TOLERANCE["fp16"]
    assert run.launches == 1


@needs_nvrtc
@pytest.mark.compiled
@pytest.mark.parametrize(("late", "seed"), list(product((True, False), range(3))))
def test_schedules(late: bool, seed: int) -> None:
    run = Interpreter(seed, clusters=2, late=late)
    assert error(run, decoder(256, 4), "fp16", True, (13, 17)) <= TOLERANCE["fp16"]


@needs_nvrtc
def test_a_part_of_a_map_and_of_an_output_and_strides() -> None:
    params = decoder(64, 2)
    projected = functional.project(seeded((1, 20, 8, 9), 4, 1), params, "fp32").half()
    box = Box(4, 3, 6, 7)
    run = Interpreter()
    with run.in_use():
        whole = cuda.run(Query(None, projected, Grid((16, 18), box), params, Window(8, 9), "fp16"))
        part = cuda.run(Query(None, projected[:, 1:7, 1:7], Grid((16, 18), box), params, Window(8, 9, 1, 1), "fp16"))
        assert torch.equal(part, whole)
        coord, cell = grid_queries(Grid((16, 18), box), 1)
        spread = torch.stack([coord, coord], dim=-1)[..., 0]
        got = cuda.run(Query(None, projected, (spread, cell[:, :1].expand_as(cell)), params, Window(8, 9), "fp16"))
    torch.testing.assert_close(got, whole, rtol=0, atol=2e-3)


@needs_nvrtc
def test_far_queries_are_counted_in_64_bits() -> None:
    """The form for more than 2^31 queries gives the same numbers."""
    params, answers = decoder(64, 2), []
    for far in (False, True):
        with patch.object(hopper, "FAR", 0 if far else 2**31):
            answers.append(error(Interpreter(), params, "fp16", True))
    assert answers[0] == answers[1]


@needs_nvrtc
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("precision", cuda.PRECISIONS)
def test_an_overflow_reaches_the_answers(value: float, precision: str) -> None:
    params = decoder(64, 3)
    projected = functional.project(seeded((1, 20, 5, 7), 4, 1), params, "fp32")
    projected[..., 3] = value
    with Interpreter().in_use():
        asked = Query(
            None, projected.to(hopper.DTYPES[precision]), Grid((5, 9), Box(0, 0, 5, 9)), params, Window(5, 7), precision
        )
        assert not torch.isfinite(cuda.run(asked)).any()


def _without(pattern: str) -> Callable[[str], str]:
    """The text without these instructions."""
    return lambda text: re.sub(rf"^.*{pattern}.*$", "", text, flags=re.M)


MUTATIONS: dict[str, Callable[[str], str]] = {
    "a product not waited for": lambda text: re.sub(r"(wgmma\.wait_group\.sync\.aligned )0", r"\g<1>1", text),
    "a stage never given back": _without(r"mbarrier\.arrive\.shared::cluster"),
    "a stage read before it is full": _without(r"(mbarrier\.try_wait|@!over bra again)"),
    "what is written not shown to wgmma": _without(r"fence\.proxy\.async"),
}


@needs_nvrtc
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_fault_of_synchronisation_is_found(name: str) -> None:
    """The answers are wrong, or the interpreter ends: a deadlock, unwritten memory, too many arrivals, a fence."""
    run = Interpreter(seed=3, change=MUTATIONS[name])
    try:
        found = error(run, decoder(64, 4), "fp16", True, (17, 29))
    except (AssertionError, RuntimeError) as stopped:
        assert re.search("deadlock|unwritten|arrivals|fence.proxy.async", str(stopped))  # noqa: PT017
    else:
        assert not found <= 10 * TOLERANCE["fp16"]


@needs_nvrtc
def test_machine_code_is_made_and_kept(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    hopper.code.cache_clear()
    build = hopper.Build(64, 2, 3, 4, True, True, False, False)
    code = hopper.code(build)
    assert code.startswith(b"\x7fELF")
    hopper.code.cache_clear()
    monkeypatch.setattr(nvrtc, "compile_text", lambda *_: pytest.fail("it was kept"))
    assert hopper.code(build) == code
    hopper.code.cache_clear()


@needs_nvrtc
def test_a_text_that_does_not_compile_says_why() -> None:
    with pytest.raises(nvrtc.CompileError, match="identifier"):
        nvrtc.compile_text("__global__ void f() { nothing(); }", {}, {}, "compute_90a")


def test_what_it_cannot_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert "CUDA device" in str(cuda.unusable_reason(cpu, "fp16"))
    assert "fp16 or bf16" in str(cuda.unusable_reason(gpu, "fp32"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (10, 0))
    assert "9.0 (Hopper), got 10.0" in str(cuda.unusable_reason(gpu, "fp16"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(driver, "library", lambda: None)
    monkeypatch.setattr(nvrtc, "library", lambda: None)
    assert "pip install nvidia-cuda-nvrtc" in str(cuda.unusable_reason(gpu, "fp16"))
    monkeypatch.setattr(nvrtc, "library", lambda: True)
    assert "libcuda.so.1" in str(cuda.unusable_reason(gpu, "fp16"))
    monkeypatch.setattr(driver, "library", lambda: True)
    assert cuda.unusable_reason(gpu, "fp16", decoder(64, 4)) is None
    for params, reason in (
        (random_params(4, [16, 24]), "one width"),
        (random_params(4, [300]), "one width up to 256"),
        (random_params(4, [16], out_dim=9), "at most 8 outputs"),
        (random_params(4, [16] * 3000), "hidden layers of this width"),
    ):
        assert reason in str(cuda.unusable_reason(gpu, "fp16", params))


def test_auto_takes_it_only_where_it_is_right_and_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, peers = torch.device("cuda", 0), {}
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(cuda.triton, "unusable_reason", lambda *_: None)
    monkeypatch.setattr(proof, "disproof", lambda *_: None)
    monkeypatch.setattr(
        proof, "slower", lambda run, device, precision, form, others: peers.update(others) or "'triton' was faster"
    )
    monkeypatch.setattr(cuda, "PROOF", proof.Proof(cuda.run))
    assert "'triton' was faster" in str(cuda.unchosen_reason(gpu, "fp16", proof.Form()))
    assert set(peers) == {"torch", "triton"}
    assert "no gradients" in str(cuda.unchosen_reason(gpu, "fp16", proof.Form(gradient=True)))
    assert next(iter(backends.FUSED)) == "cuda"


def test_packing_puts_every_weight_where_the_fragments_are() -> None:
    """Each channel once; pieces of a row moved by the row's number, and nothing else."""
    for width in hopper.WIDTHS:
        assert sorted(hopper._fragment_order(width)) == list(range(width))
    matrix = torch.arange(64 * 128).view(64, 128)
    swizzled = hopper._swizzled(matrix)
    assert swizzled.shape == (2, 64, 8, 8)
    for step, row, piece in product(range(2), (0, 1, 13, 63), range(8)):
        want = matrix[row, 64 * step + 8 * piece : 64 * step + 8 * piece + 8]
        assert torch.equal(swizzled[step, row, piece ^ row % 8], want)


def test_the_ring_fits_shared_memory() -> None:
    for width, hidden, cell, grid in product(hopper.WIDTHS, (1, 4, 40), (True, False), (True, False)):
        build = hopper.Build(width, hidden, 3, 4, cell, grid, False, False)
        assert 2 <= build.stages <= hopper.MOST_STAGES[width]
        assert build.shared <= hopper.SHARED
