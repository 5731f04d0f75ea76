"""Prove and time the Triton kernel on the GPU at hand: `python -m benchmarks.gpu_report --out benchmarks/results/`.

First the whole equivalence suite, gradients included, runs on the GPU (some of it under compute-sanitizer where that is
installed), then the contenders are timed in one process, interleaved, medians of several rounds. Writes
gpu-report.json with device, versions and commit, prints a short table last. Exit code 1 when something does not agree:
then nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.contenders import CHUNK
from benchmarks.decoder import FLOP_PER_PIXEL
from benchmarks.machine import describe
from liif_fast import functional
from liif_fast.backends import reference
from liif_fast.box import Box
from liif_fast.geometry import Grid, Window, grid_queries
from liif_fast.params import DecoderParams

ROOT = Path(__file__).resolve().parents[1]
CHANNELS = 64
WIDTHS = (580, 256, 256, 256, 256, 3)
TESTS = ("tests/test_triton.py", "tests/test_triton_backward.py")
SANITIZED = "test_widths_depths_and_outputs or test_every_depth or test_any_layout or test_windows"


class Shape(NamedTuple):
    """A map and what is asked of it: a grid where `queries` is None, else random coordinates."""

    name: str
    batch: int
    side: int
    out: int
    queries: int | None = None


SHAPES = (
    Shape("x2 512 to 1024", 1, 512, 1024),
    Shape("x4 512 to 2048", 1, 512, 2048),
    Shape("x8 256 to 2048", 1, 256, 2048),
    Shape("training 16 x 48 x 48, 2304 random", 16, 48, 0, 2304),
)
TRAINING = (Shape("gradients 16 x 48 x 48, 2304 random", 16, 48, 0, 2304),)
SMOKE = (Shape("smoke", 1, 4, 8), Shape("smoke random", 2, 4, 0, 5))
SMOKE_TRAINING = (Shape("smoke gradients", 2, 4, 0, 5),)


class Problem:
    """One shape's tensors, and every contender as a function without arguments."""

    flop = FLOP_PER_PIXEL

    def __init__(self, shape: Shape, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        pairs = list(zip(WIDTHS[1:], WIDTHS[:-1], strict=True))
        weights = [(torch.rand(n, m, generator=generator) * 2 - 1) * m**-0.5 for n, m in pairs]
        biases = [(torch.rand(n, generator=generator) * 2 - 1) * m**-0.5 for n, m in pairs]
        moved = [tuple(t.to(device) for t in tensors) for tensors in (weights, biases)]
        self.params = DecoderParams(moved[0], moved[1], CHANNELS)
        feat = torch.rand(shape.batch, CHANNELS, shape.side, shape.side, generator=generator) * 2 - 1
        self.feat = feat.to(device).contiguous(memory_format=torch.channels_last)
        self.name, self.size = shape.name, (shape.out, shape.out)
        if shape.queries is None:
            self.coord, cell = grid_queries(Grid(self.size, Box(0, 0, *self.size)), shape.batch, device)
        else:
            random = torch.rand(shape.batch, shape.queries, 2, generator=generator) * 2 - 1
            self.coord, cell = random.to(device), torch.full((shape.batch, shape.queries, 2), 0.01, device=device)
        self.cell = cell.contiguous()
        self.grid = shape.queries is None
        self.count = shape.batch * self.coord.shape[1]

    def contenders(self, compiled: bool) -> dict[str, Callable[[], Tensor]]:
        found: dict[str, Callable[[], Tensor]] = {
            "published fp32": self._published("highest"),
            "published tf32": self._published("high"),
            "published autocast fp16": self._published("highest", autocast=True),
            "torch fp16": self._backend("torch"),
            "triton fp16 projected": self._backend("triton", "projected"),
            "triton fp16 direct": self._backend("triton", "direct"),
            "triton fp32 projected": self._backend("triton", "projected", precision="fp32"),
            "triton tf32x3 projected": self._backend("triton", "projected", precision="tf32x3"),
        }
        if compiled:
            found["published fp32 compiled"] = self._published("highest", compiled=True)
            found["torch fp16 compiled"] = self._backend("torch", compiled=True)
        return found

    def _published(self, matmul: str, autocast: bool = False, compiled: bool = False) -> Callable[[], Tensor]:
        ask = torch.compile(reference.query) if compiled else reference.query

        def run() -> Tensor:
            torch.set_float32_matmul_precision(matmul)
            with torch.no_grad(), torch.autocast(self.feat.device.type, dtype=torch.float16, enabled=autocast):
                parts = [
                    ask(self.feat, self.coord[:, q : q + CHUNK], self.cell[:, q : q + CHUNK], self.params)
                    for q in range(0, self.coord.shape[1], CHUNK)
                ]
            torch.set_float32_matmul_precision("highest")
            return torch.cat(parts, dim=1)

        return run

    def _backend(
        self, backend: str, prologue: str = "auto", compiled: bool = False, precision: str = "fp16"
    ) -> Callable[[], Tensor]:
        def ask() -> Tensor:
            options: dict[str, Any] = {"backend": backend, "precision": precision, "prologue": prologue}
            if self.grid and not compiled:
                return functional.query_grid(self.feat, self.size, self.params, **options)
            return functional.query(self.feat, self.coord, self.cell, self.params, **options)

        return torch.no_grad()(torch.compile(ask) if compiled else ask)

    def kernel_only(self) -> dict[str, Callable[[], Tensor]]:
        """The projected kernel without its projection, which is timed but gives no new answer."""
        projected = functional.project(self.feat, self.params, "fp16")
        window = Window(*self.feat.shape[2:])

        def run() -> Tensor:
            if self.grid:
                return functional.query_grid(
                    None, self.size, self.params, backend="triton", precision="fp16", projected=projected, window=window
                )
            return functional.query(
                None, self.coord, self.cell, self.params, backend="triton", precision="fp16", projected=projected
            )

        return {"triton fp16 kernel alone": torch.no_grad()(run)}


class Training(Problem):
    """The same with gradients: each contender answers with that of the features, after those of every weight."""

    flop = 3 * FLOP_PER_PIXEL

    def __init__(self, shape: Shape, device: torch.device) -> None:
        super().__init__(shape, device)
        self.leaves = [self.feat, *self.params.weights, *self.params.biases]
        for leaf in self.leaves:
            leaf.requires_grad_()
        self.grad = torch.rand(shape.batch, self.coord.shape[1], WIDTHS[-1], device=device) * 2 - 1

    def contenders(self, compiled: bool) -> dict[str, Callable[[], Tensor]]:
        found = {
            "published fp32": self._step(reference.query),
            "published autocast fp16": self._step(reference.query, autocast=True),
            "torch autocast fp16": self._step(functional.query, autocast=True, backend="torch"),
            "triton autocast fp16": self._step(functional.query, autocast=True, backend="triton"),
        }
        if compiled:
            query = torch.compile(functional.query)
            found["torch autocast fp16 compiled"] = self._step(query, autocast=True, backend="torch")
        return found

    def kernel_only(self) -> dict[str, Callable[[], Tensor]]:
        return {}

    def _step(self, query: Callable[..., Tensor], autocast: bool = False, **options: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.autocast(self.feat.device.type, dtype=torch.float16, enabled=autocast):
                answer = query(self.feat, self.coord, self.cell, self.params, **options)
            return torch.autograd.grad(answer, self.leaves, self.grad.to(answer.dtype))[0]

        return run


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Wall time of one call, the device's work included."""
    _wait(device)
    started = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_peak(device: torch.device, side: int) -> float:
    """FLOP/s of the best of ten fp16 matrix products of this side."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.float16) for _ in range(2))
    return 2 * side**3 / min(seconds(lambda: a @ b, device) for _ in range(10))


def measure(
    problem: Problem, device: torch.device, rounds: int, compiled: bool, peak: float
) -> Iterator[dict[str, Any]]:
    """A row for each contender: median seconds and spread over interleaved rounds, memory, agreement."""
    runs = problem.contenders(compiled)
    want = runs["published fp32"]()
    spread = float(want.max() - want.min())
    memory, errors = {}, {}
    for name, run in runs.items():
        run()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        errors[name] = float((run() - want).abs().max()) / spread
        memory[name] = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0
    for name, run in problem.kernel_only().items():
        run()
        runs[name] = run
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run, device))
    base = statistics.median(times["published fp32"])
    for name, values in times.items():
        median = statistics.median(values)
        yield {
            "shape": problem.name, "contender": name, "seconds": median, "least": min(values), "most": max(values),
            "times_published": base / median, "queries": problem.count,
            "share_of_fp16_peak": problem.flop * problem.count / median / peak,
            "peak_bytes": memory.get(name), "relative_error": errors.get(name),
        }  # fmt: skip


def suite() -> dict[str, Any]:
    """The equivalence tests on this GPU, and some of them under compute-sanitizer."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-2000:], done.stderr[-2000:])
    report: dict[str, Any] = {"exit": done.returncode, "summary": (done.stdout.splitlines() or [""])[-1]}
    sanitizer = shutil.which("compute-sanitizer")
    report["sanitizer"] = "not installed"
    if sanitizer and done.returncode == 0:
        checked = subprocess.run(
            [sanitizer, "--error-exitcode", "9", *command, "-k", SANITIZED],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line for line in checked.stdout.splitlines() if "ERROR SUMMARY" in line]
        report["sanitizer"] = f"exit {checked.returncode}: {' '.join(lines[-1:])}"
        report["exit"] = report["exit"] or checked.returncode
    return report


def about(device: torch.device) -> dict[str, Any]:
    import triton

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "none, interpreted"
    versions = {"cuda": torch.version.cuda, "triton": triton.__version__, "date": time.strftime("%Y-%m-%d")}
    return {"gpu": name, **versions, **describe()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, on the CPU too; figures mean nothing")
    args = parser.parse_args(argv)
    if not (torch.cuda.is_available() or args.smoke):
        print("gpu_report: expected a CUDA GPU, PyTorch sees none; run it on a machine that has one", file=sys.stderr)
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report: dict[str, Any] = about(device)
    if not args.smoke:
        report["equivalence"] = suite()
        if report["equivalence"]["exit"]:
            print("gpu_report: the kernels do not agree with PyTorch on this GPU; nothing was timed", file=sys.stderr)
    if args.smoke or not report["equivalence"]["exit"]:
        peak = matrix_peak(device, 64 if args.smoke else 8192)
        report["fp16_matrix_peak"] = peak
        options = (device, args.rounds, not args.no_compile, peak)
        problems = [Problem(shape, device) for shape in (SMOKE if args.smoke else SHAPES)]
        problems += [Training(shape, device) for shape in (SMOKE_TRAINING if args.smoke else TRAINING)]
        report["rows"] = [row for problem in problems for row in measure(problem, *options)]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gpu-report.json").write_text(json.dumps(report, indent=1) + "\n")
    for row in report.get("rows", []):
        print(
            f"{row['shape']:<36}{row['contender']:<26}{row['seconds'] * 1e3:>10.2f} ms{row['times_published']:>8.1f}x"
            f"{100 * row['share_of_fp16_peak']:>7.1f} % of peak"
        )
    return 1 if report.get("equivalence", {}).get("exit") else 0


if __name__ == "__main__":
    sys.exit(main())
