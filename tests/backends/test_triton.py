"""The Triton kernel against float64 truth: on the GPU where there is one, else by Triton's interpreter on the CPU."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.golden import SWITCHES, GoldenCase, golden_cases, random_params, random_queries, seeded, to_double
from support.paths import ROOT
from support.triton_device import DEVICE, PRECISIONS, on_device
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from liif_fast import backends, functional
from liif_fast.backends import implementations, reference, triton
from liif_fast.backends.call import Call
from liif_fast.box import Box
from liif_fast.errors import BackendError, UsageError
from liif_fast.functional import Window, project, query, query_grid
from liif_fast.geometry import Grid, make_cell, make_coord
from liif_fast.kernels import launch, launch_backward
from liif_fast.params import DecoderParams

FLOORS = {"fp32": 1e-6, "tf32x3": 1e-6, "tf32": 1e-3, "fp16": 1e-3, "bf16": 1e-2}
PROLOGUES = ("projected", "direct")

pytestmark = pytest.mark.skipif(
    triton.unusable_reason(DEVICE, "fp32") is not None, reason=str(triton.unusable_reason(DEVICE, "fp32"))
)


def check(
    feat: Tensor, coord: Tensor, cell: Tensor | None, params: DecoderParams, prologue: str, precision: str
) -> None:
    """The kernel's error is at most twice that of PyTorch at the same precision, plus a floor."""
    truth = reference.query(feat.double(), coord, cell, to_double(params))
    on_cpu_fp16 = precision == "fp16" and DEVICE.type == "cpu"
    plain = "fp32" if on_cpu_fp16 or precision == "tf32x3" else precision
    own = query(feat, coord, cell, params, backend="torch", precision=plain)
    got = query(feat, coord, cell, params, backend="triton", prologue=prologue, precision=precision)
    assert got.shape == truth.shape
    assert torch.isfinite(got).all()
    limit = 2 * (own - truth).abs().max() + FLOORS[precision] * max(1.0, float(truth.abs().max()))
    assert (got - truth).abs().max() <= limit


@pytest.mark.parametrize("prologue", PROLOGUES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("switches", SWITCHES)
def test_every_switch_at_awkward_sizes(switches: tuple[bool, bool, bool], precision: str, prologue: str) -> None:
    names = ("local_ensemble", "feat_unfold", "cell_decode")
    for batch, size, count, width, depth in ((1, (1, 1), 1, 16, 1), (2, (3, 7), 63, 24, 2), (1, (9, 4), 129, 40, 3)):
        params = random_params(5, [width] * depth, seed=7, **dict(zip(names, switches, strict=True)))
        feat = seeded((batch, 5, *size), 1, 1).to(DEVICE)
        coord, cell = (t.to(DEVICE) for t in random_queries(batch, count))
        check(feat, coord, cell, on_device(params), prologue, precision)


@pytest.mark.parametrize("prologue", PROLOGUES)
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_every_depth(depth: int, prologue: str) -> None:
    params = on_device(random_params(20, [32] * depth, out_dim=5, seed=3))
    feat = seeded((1, 20, 6, 5), 1, 1).to(DEVICE)
    coord, cell = (t.to(DEVICE) for t in random_queries(1, 40))
    check(feat, coord, cell, params, prologue, "fp32")


@pytest.mark.parametrize("prologue", PROLOGUES)
@pytest.mark.parametrize(("width", "depth", "out_dim"), [(17, 7, 16), (100, 2, 1), (200, 3, 15)])
def test_widths_that_are_padded_and_every_number_of_outputs(
    width: int, depth: int, out_dim: int, prologue: str
) -> None:
    params = on_device(random_params(3, [width] * depth, out_dim=out_dim, seed=5))
    feat = seeded((2, 3, 4, 5), 1, 1).to(DEVICE)
    coord, cell = (t.to(DEVICE) for t in random_queries(2, 9))
    for precision in ("fp32", "tf32x3", "fp16"):
        check(feat, coord, cell, params, prologue, precision)


def test_a_map_beyond_32_bits() -> None:
    """Rows 2^31 elements apart, of which only the few that are read take memory."""
    if DEVICE.type == "cuda":
        storage = torch.zeros(2**31 + 2**10, dtype=torch.float16, device=DEVICE)
    else:
        no_reserve = 0x4000  # Linux's MAP_NORESERVE, which older Pythons do not name
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
        storage = torch.frombuffer(mmap.mmap(-1, 2**32 + 2**11, flags=flags), dtype=torch.float16)
    params = on_device(random_params(4, [16, 16]))
    coord, cell = (t.to(DEVICE) for t in random_queries(1, 20))
    near = seeded((1, 4, 2, 6), 1, 1).half().to(DEVICE)
    projected = project(near, params).half()
    options: dict[str, Any] = {"backend": "triton", "precision": "fp16"}
    far = storage.as_strided(near.shape, (0, 1, 2**31, 4)).copy_(near)
    want = query(near, coord, cell, params, prologue="direct", **options)
    assert torch.equal(query(far, coord, cell, params, prologue="direct", **options), want)
    far = storage.as_strided(projected.shape, (0, 2**31, 16, 1)).copy_(projected)
    want = query(None, coord, cell, params, projected=projected, **options)
    assert torch.equal(query(None, coord, cell, params, projected=far, **options), want)


def light(case: GoldenCase) -> bool:
    """Cases that the interpreter can run in seconds; on a GPU all of them run."""
    wide = max(case.params.hidden) > 64 or case.coord.shape[1] > 1600
    return len(set(case.params.hidden)) == 1 and (DEVICE.type == "cuda" or not wide)


@pytest.mark.parametrize("case", [case for case in golden_cases() if light(case)], ids=lambda case: case.name)
@pytest.mark.parametrize("prologue", PROLOGUES)
def test_golden_output(case: GoldenCase, prologue: str) -> None:
    """Ties and edges are among them: a wrong neighbour shows at once."""
    got = query(
        case.feat.to(DEVICE),
        case.coord.to(DEVICE),
        case.cell.to(DEVICE),
        on_device(case.params),
        backend="triton",
        prologue=prologue,
        precision="fp32",
    )
    torch.testing.assert_close(got.cpu(), case.out, rtol=0, atol=4e-7)


@pytest.mark.slow
def test_the_published_width() -> None:
    params = on_device(random_params(64, [256] * 4, seed=71))
    feat = seeded((1, 64, 6, 9), 1, 1).to(DEVICE)
    coord, cell = (t.to(DEVICE) for t in random_queries(1, 65))
    for prologue in PROLOGUES:
        for precision in PRECISIONS:
            check(feat, coord, cell, params, prologue, precision)


@pytest.mark.parametrize("prologue", PROLOGUES)
def test_a_grid_gives_the_numbers_of_its_coordinates(prologue: str) -> None:
    params = on_device(random_params(4, [16, 16]))
    feat = seeded((2, 4, 5, 6), 1, 1).to(DEVICE)
    size, box = (13, 17), Box(3, 2, 7, 9)
    coord = make_coord(size).view(*size, 2)[3:10, 2:11].reshape(1, -1, 2).expand(2, -1, -1).to(DEVICE)
    cell = make_cell(size, count=63).expand(2, -1, -1).to(DEVICE)
    options: dict[str, Any] = {"backend": "triton", "prologue": prologue, "precision": "fp32"}
    want = query(feat, coord, cell, params, **options)
    assert torch.equal(query_grid(feat, size, params, box=box, **options), want)


@pytest.mark.parametrize("prologue", PROLOGUES)
def test_any_layout_of_features(prologue: str) -> None:
    params = on_device(random_params(4, [16, 16]))
    plain = seeded((1, 4, 6, 8), 1, 1).to(DEVICE)
    coord, cell = (t.to(DEVICE) for t in random_queries(1, 30))
    options: dict[str, Any] = {"backend": "triton", "prologue": prologue, "precision": "fp32"}
    want = query(plain, coord, cell, params, **options)
    spread = torch.zeros(1, 8, 6, 16, device=DEVICE)[:, ::2, :, ::2].copy_(plain)
    for feat in (plain.contiguous(memory_format=torch.channels_last), spread):
        assert torch.equal(query(feat, coord, cell, params, **options), want)
    strided = torch.stack([coord, coord], dim=-1)[..., 0]
    assert torch.equal(query(plain, strided, cell[:, :1].expand_as(cell).clone().copy_(cell), params, **options), want)


@pytest.mark.parametrize("prologue", PROLOGUES)
def test_more_pictures_than_one_launch_takes(prologue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = on_device(random_params(4, [16, 16]))
    feat = seeded((5, 4, 5, 6), 1, 1).to(DEVICE)
    coord, cell = (t.to(DEVICE) for t in random_queries(5, 9))
    options: dict[str, Any] = {"backend": "triton", "prologue": prologue, "precision": "fp32"}
    want = query(feat, coord, cell, params, **options), query_grid(feat, (3, 4), params, **options)
    monkeypatch.setattr(launch, "MOST_PICTURES", 2)
    assert torch.equal(query(feat, coord, cell, params, **options), want[0])
    assert torch.equal(query_grid(feat, (3, 4), params, **options), want[1])


def test_windows_equal_the_whole() -> None:
    params = on_device(random_params(3, [8, 8]))
    feat = seeded((1, 3, 12, 10), 1, 1).to(DEVICE)
    grid_box = Box(10, 5, 10, 10)
    projected = project(feat, params)
    options: dict[str, Any] = {"backend": "triton", "precision": "fp32"}
    whole = query_grid(None, (31, 27), params, box=grid_box, projected=projected, **options)
    part = projected[:, 2:10, 1:8]
    got = query_grid(None, (31, 27), params, box=grid_box, projected=part, window=Window(12, 10, 2, 1), **options)
    assert torch.equal(got, whole)


def test_the_cheaper_prologue_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few queries on a large map unfold inside of the kernel, many go through a projection."""
    kernels = []
    monkeypatch.setitem(
        implementations.KERNELS, "triton", lambda call: kernels.append(call.kernel) or torch.zeros(1, 1, 3)
    )
    params = random_params(4, [16])
    for side, count, direct in ((20, 24, True), (20, 25, False), (4, 4, False)):
        coord, cell = random_queries(1, count)
        query(seeded((1, 4, side, side), 1, 1), coord, cell, params, backend="triton")
        assert (kernels.pop() is not None) is direct


def test_what_the_kernel_cannot_run_is_said_and_falls_back() -> None:
    coord, cell = (t.to(DEVICE) for t in random_queries(1, 9))
    feat = seeded((1, 4, 5, 6), 1, 1).to(DEVICE)
    for hidden, out_dim, message in (([16, 24], 3, "one width"), ([512], 3, "one width"), ([16], 17, "16 outputs")):
        params = on_device(random_params(4, hidden, out_dim=out_dim))
        with pytest.raises(BackendError, match=message):
            query(feat, coord, cell, params, backend="triton", precision="fp32")
        want = query(feat, coord, cell, params, backend="torch")
        torch.testing.assert_close(query(feat, coord, cell, params), want, rtol=0, atol=1e-6)


def test_the_report_gives_the_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(params: DecoderParams, precision: str = "fp32") -> backends.BackendReport:
        return next(row for row in backends.report(params, precision) if row.name == "triton")

    assert row(random_params(4, [16])).usable
    assert "one width" in row(random_params(4, [16, 24])).reason
    assert "expected precision" in row(random_params(4, [16]), "int8").reason
    monkeypatch.setattr(triton, "unchosen_reason", lambda *_: "it was wrong")
    assert row(random_params(4, [16])).detail.endswith("; not taken by auto: it was wrong")


def test_tf32x3_is_the_triton_backends_alone() -> None:
    params = on_device(random_params(4, [16]))
    coord, cell = (t.to(DEVICE) for t in random_queries(1, 9))
    feat = seeded((1, 4, 5, 6), 1, 1).to(DEVICE)
    for backend in set(backends.available_backends()) - {"triton"}:
        with pytest.raises(BackendError, match="tf32x3"):
            query(feat, coord, cell, params, backend=backend, precision="tf32x3")


def test_a_launch_reads_no_value_and_so_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph cannot hold what waits for the device: .item(), a copy to the host, a size that depends on data."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert not func._schema.name.endswith(("_local_scalar_dense", "nonzero", "_unique2", "masked_select"))
            return func(*args, **(kwargs or {}))

    launched = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *args, **options: launched.append(grid)

    monkeypatch.setattr(launch, "liif_forward", Kernel())
    monkeypatch.setattr(launch_backward, "liif_backward", Kernel())
    params = on_device(random_params(4, [16, 16]))
    kernel, rest = params.split()
    feat = seeded((1, 4, 5, 6), 1, 1).to(DEVICE)
    coord, cell = (t.to(DEVICE) for t in random_queries(1, 9))
    shared = (rest, list(params.weights[1:]), list(params.biases), True, [5, 6, 0, 0], "triton", "fp16")
    projected = project(feat, params)
    with Watch():
        implementations.KERNELS["triton"](Call(feat, kernel, coord, cell, None, *shared))
        implementations.KERNELS["triton"](Call(projected, None, None, None, [9, 8, 1, 2, 3, 4], *shared))
        launch_backward.backward(torch.ones(1, 9, 3, device=DEVICE), Call(projected, None, coord, cell, None, *shared))
    assert len(launched) == 3


def test_the_projection_in_float32_is_not_rounded_to_tf32() -> None:
    feat, kernel = seeded((2, 4, 5, 6), 1, 1), seeded((8, 4, 3, 3), 2, 1)
    feat, kernel = feat.to(DEVICE).requires_grad_(), kernel.to(DEVICE).requires_grad_()
    want = F.conv2d(feat.double(), kernel.double(), padding=1)
    got = torch.compile(functional._float32_convolution, fullgraph=True, backend="aot_eager")(feat, kernel, [1, 1])
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5)
    for ours, truth in zip(
        torch.autograd.grad(got.sum(), (feat, kernel)), torch.autograd.grad(want.sum(), (feat, kernel)), strict=True
    ):
        torch.testing.assert_close(ours, truth, rtol=0, atol=1e-5)


def test_bad_arguments() -> None:
    params = on_device(random_params(4, [16]))
    coord, cell = (t.to(DEVICE) for t in random_queries(1, 9))
    feat = seeded((1, 4, 5, 6), 1, 1).to(DEVICE)
    with pytest.raises(UsageError, match="prologue: expected one of auto"):
        query(feat, coord, cell, params, backend="triton", prologue="inside")
    with pytest.raises(UsageError, match="reads projected maps only"):
        query(feat, coord, cell, params, backend="torch", prologue="direct")
    with pytest.raises(UsageError, match="box: expected a part of a 4 x 4 output"):
        query_grid(feat, (4, 4), params, box=Box(0, 0, 5, 1))


def test_opcheck() -> None:
    params = on_device(random_params(4, [16, 16]))
    kernel, rest = params.split()
    feat = seeded((1, 4, 5, 6), 1, 1).to(DEVICE)
    coord, cell = (t.to(DEVICE) for t in random_queries(1, 9))
    shared = (rest, list(params.weights[1:]), list(params.biases), True, [5, 6, 0, 0], "triton", "fp32")
    torch.library.opcheck(torch.ops.liif_fast.query.default, (feat, kernel, coord, cell, [], *shared))
    torch.library.opcheck(
        torch.ops.liif_fast.query.default, (project(feat, params), None, None, None, [9, 8, 1, 2, 3, 4], *shared)
    )


def test_auto_never_takes_the_interpreter() -> None:
    """On a GPU `auto` takes the kernel where its first use agreed with PyTorch, on a CPU never."""
    params = random_params(4, [16])
    chosen = backends.select("auto", DEVICE, "fp32", params)
    assert chosen == ("triton" if DEVICE.type == "cuda" else backends.select("auto", torch.device("cpu"), "fp32"))
    assert DEVICE.type == "cuda" or chosen != "triton"


@pytest.mark.parametrize("prologue", PROLOGUES)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_overflow_reaches_the_answers(value: float, depth: int, prologue: str) -> None:
    """So that render asks again in float32, and GradScaler sees it."""
    params = on_device(random_params(4, [16] * depth))
    feat = seeded((1, 4, 5, 6), 1, 1).to(DEVICE)
    feat[0, 1] = value
    coord, cell = (t.to(DEVICE) for t in random_queries(1, 20))
    answer = query(feat, coord, cell, params, backend="triton", prologue=prologue, precision="fp16")
    assert not torch.isfinite(answer).any()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_overflow_reaches_the_answers_of_every_backend(value: float) -> None:
    params = on_device(random_params(4, [16] * 3))
    feat = seeded((1, 4, 5, 6), 1, 1).to(DEVICE)
    feat[0, 1] = value
    coord, cell = (t.to(DEVICE) for t in random_queries(1, 20))
    ran = 0
    for name in backends.NAMES:
        for precision in ("fp32", "bf16", "fp16"):
            if backends.unusable_reason(name, DEVICE, precision) is None:
                answer = query(feat, coord, cell, params, backend=name, precision=precision)
                assert not torch.isfinite(answer).any()
                ran += 1
    assert ran >= 5


@pytest.mark.slow
def test_every_generation_compiles_without_a_gpu() -> None:
    """Registers, spills, shared memory, matrix instructions of one configuration and prologue a generation."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.compile_report", "--quick"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Three of each generation by Triton, four of Hopper's own where NVRTC is there.
    assert done.stdout.splitlines()[-1] in ("18 kernels, 0 with misses", "22 kernels, 0 with misses")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_launch_goes_to_the_tensors_device() -> None:
    params = random_params(4, [16, 16])
    coord, cell = random_queries(1, 30)
    answers = []
    for device in ("cuda:0", "cuda:1"):
        weights, biases = ([t.to(device) for t in tensors] for tensors in (params.weights, params.biases))
        moved = DecoderParams(tuple(weights), tuple(biases), params.channels)
        feat = seeded((1, 4, 5, 6), 1, 1).to(device)
        answers.append(query(feat, coord.to(device), cell.to(device), moved, backend="triton", precision="fp32").cpu())
    assert torch.equal(*answers)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")
def test_graph_capture_and_other_streams() -> None:
    params = on_device(random_params(8, [64] * 3))
    feat = seeded((1, 8, 9, 7), 1, 1).to(DEVICE)
    grid = Grid((20, 30), Box(0, 0, 20, 30))

    def run() -> Tensor:
        return query_grid(feat, grid.size, params, backend="triton", precision="fp16")

    want = run()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        assert torch.equal(run(), want)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    captured.zero_()
    graph.replay()
    assert torch.equal(captured, want)
