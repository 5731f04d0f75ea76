"""Prove and time the GPU kernels on the GPU at hand: `python -m benchmarks.gpu_report --out benchmarks/results/`.

It runs in stages, each of which writes a file of its own, gpu-report-STAGE.json, as soon as it is over, so that an
interrupted run leaves what it had; `--stages proof kernels` runs only these. On a machine that is lent for minutes a
warm TRITON_CACHE_DIR saves the compilations. In this order:

proof      the kernels of the published decoder against float64, forward and backward, fp16, bf16 and fp32
kernels    the kernels alone, by events, in turn with a matrix product whose speed is the peak
drop-in    whole queries: published arithmetic in fp32, TF32 and autocast, `torch`, `triton`, compiled ones
suite      the equivalence tests on this GPU, a process for each core
sanitizer  two of them under compute-sanitizer
training   a training step's gradients

The exit code is 1 when something does not agree; then no later stage runs. It is 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu_problems import SHAPES, SMOKE, SMOKE_TRAINING, TRAINING, Problem, Training
from benchmarks.machine import describe
from liif_fast.backends import cuda, proof, triton
from liif_fast.backends.proof import Form

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/backends/test_triton.py", "tests/backends/test_triton_backward.py")
SANITIZED = "test_windows_equal_the_whole or test_widths_depths_and_outputs"
SMALL = Form(channels=16, width=64, hidden=3)


class Options(NamedTuple):
    """How a run goes. smoke: tiny shapes, on a CPU too; the figures mean nothing."""

    device: torch.device
    rounds: int
    compiled: bool
    smoke: bool


Report = dict[str, Any]


def prove(options: Options) -> Report:
    """Each kind of kernel that the published decoder needs, compared with float64."""
    published = SMALL if options.smoke else Form()
    kinds = {
        "grid": published,
        "coordinates": published._replace(grid=False),
        "gradients": published._replace(grid=False, gradient=True),
    }
    rows = []
    for module, precision, (kind, form) in product(
        (triton, cuda), ("fp16", "fp32") if options.device.type == "cpu" else ("fp16", "bf16", "fp32"), kinds.items()
    ):
        unfit = module.unusable_reason(options.device, precision) is not None
        if unfit or (form.gradient and not module.BACKWARD):
            continue
        started = time.perf_counter()
        wrong = proof.disproof(module.run, options.device, precision, form)
        took = time.perf_counter() - started
        rows.append({"backend": module.NAME, "precision": precision, "kind": kind, "wrong": wrong, "seconds": took})
        print(f"{module.NAME:<8}{precision:<6}{kind:<14}{wrong or 'agrees'} ({took:.0f} s)", flush=True)
    return {"rows": rows, "failed": sum(row["wrong"] is not None for row in rows)}


def kernels(options: Options) -> Report:
    """The kernels alone beside the fastest fp16 matrix product, in turn."""
    side = 64 if options.smoke else 8192
    a, b = (torch.randn(side, side, device=options.device, dtype=torch.float16) for _ in range(2))
    rows = []
    for shape in SMOKE if options.smoke else SHAPES:
        problem = Problem(shape, options.device)
        runs: dict[str, Callable[[], Any]] = {"matrix product": lambda: a @ b, **problem.kernel_only()}
        medians = {name: statistics.median(times) for name, times in _in_turn(runs, options).items()}
        peak = 2 * side**3 / medians.pop("matrix product")
        for name, median in medians.items():
            flops = problem.flop * problem.count / median
            rows.append(
                {"shape": problem.name, "contender": name, "seconds": median, "share_of_fp16_peak": flops / peak,
                 "flops": flops, "fp16_matrix_peak": peak}
            )  # fmt: skip
            print(f"{problem.name:<36}{name:<26}{median * 1e3:>10.3f} ms{100 * flops / peak:>7.1f} %", flush=True)
    return {"rows": rows}


def drop_in(options: Options) -> Report:
    """Whole queries, with all that the host does."""
    problems = [Problem(shape, options.device) for shape in (SMOKE if options.smoke else SHAPES)]
    return {"rows": [row for problem in problems for row in measure(problem, options)]}


def training(options: Options) -> Report:
    """The gradients of a training step."""
    problems = [Training(shape, options.device) for shape in (SMOKE_TRAINING if options.smoke else TRAINING)]
    return {"rows": [row for problem in problems for row in measure(problem, options)]}


def suite(options: Options) -> Report:
    """The equivalence tests on this GPU."""
    if options.smoke:
        return {"left_out": "smoke"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(os.cpu_count()), *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-2000:], done.stderr[-2000:])
    return {"failed": done.returncode, "summary": (done.stdout.splitlines() or [""])[-1]}


def sanitizer(options: Options) -> Report:
    """Two tests under compute-sanitizer, where it is installed."""
    tool = shutil.which("compute-sanitizer")
    if options.smoke or tool is None:
        return {"left_out": "smoke" if options.smoke else "compute-sanitizer is not installed"}
    command = [tool, "--error-exitcode", "9", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run([*command, "-k", SANITIZED], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if "ERROR SUMMARY" in line]
    return {"failed": done.returncode, "summary": " ".join(lines[-1:])}


STAGES: dict[str, Callable[[Options], Report]] = {
    "proof": prove,
    "kernels": kernels,
    "drop-in": drop_in,
    "suite": suite,
    "sanitizer": sanitizer,
    "training": training,
}


def measure(problem: Problem, options: Options) -> Iterator[Report]:
    """A row for each contender: median seconds and spread over interleaved rounds, memory, agreement."""
    device, runs = options.device, problem.contenders(options.compiled)
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
    times = _in_turn(runs, options)
    base = statistics.median(times["published fp32"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{problem.name:<36}{name:<26}{median * 1e3:>10.2f} ms{base / median:>8.1f}x", flush=True)
        yield {
            "shape": problem.name, "contender": name, "seconds": median, "least": min(values), "most": max(values),
            "times_published": base / median, "queries": problem.count,
            "flops": problem.flop * problem.count / median,
            "peak_bytes": memory[name], "relative_error": errors[name],
        }  # fmt: skip


def _in_turn(runs: dict[str, Callable[[], Any]], options: Options) -> dict[str, list[float]]:
    """Seconds of each run, several rounds of all of them, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(options.rounds + 1):
        for name, run in runs.items():
            took = seconds(run, options.device)
            if turn:
                times[name].append(took)
    return times


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Of one call: on a GPU by its own events, so that what the host does before the first kernel does not count."""
    if device.type != "cuda":
        started = time.perf_counter()
        run()
        return time.perf_counter() - started
    torch.cuda.synchronize(device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def about(device: torch.device) -> Report:
    import triton as compiler

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "none, interpreted"
    versions = {"cuda": torch.version.cuda, "triton": compiler.__version__, "date": time.strftime("%Y-%m-%d")}
    return {"gpu": name, **versions, **describe()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="only these, in this order")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, on the CPU too; figures mean nothing")
    args = parser.parse_args(argv)
    if not (torch.cuda.is_available() or args.smoke):
        print("gpu_report: expected a CUDA GPU, PyTorch sees none; run it on a machine that has one", file=sys.stderr)
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options = Options(device, args.rounds, not args.no_compile, args.smoke)
    machine = about(device)
    args.out.mkdir(parents=True, exist_ok=True)
    for stage in args.stages:
        started = time.perf_counter()
        report = STAGES[stage](options)
        report = {**machine, "stage": stage, "took": time.perf_counter() - started, **report}
        (args.out / f"gpu-report-{stage}.json").write_text(json.dumps(report, indent=1) + "\n")
        if report.get("failed"):
            print(f"gpu_report: the kernels do not agree with PyTorch on this GPU, see stage {stage}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
