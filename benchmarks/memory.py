"""Peak memory of one contender of one shape, in a process of its own.

    python -m benchmarks.memory SHAPE CONTENDER [--threads N] [--published CHECKOUT]

prints the MiB that a call takes above what the process had before it, input and weights included there: resident
memory on the CPU, what PyTorch has allocated on a GPU. A first call, which compiles and loads, does not count.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import shapes
from benchmarks.contenders import build
from benchmarks.machine import device
from benchmarks.problem import Problem

ROOT = Path(__file__).resolve().parent.parent


def _resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def peak(call: Callable[[], Any], where: torch.device) -> float:
    """MiB that a call takes above what is there before it; Linux only on the CPU."""
    gc.collect()
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
        before = torch.cuda.memory_allocated(where)
        call()
        torch.cuda.synchronize(where)
        return (torch.cuda.max_memory_allocated(where) - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed goes back to the system
    resident = _resident("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the high-water mark
    call()
    return _resident("VmHWM:") - resident


def in_a_process(shape: str, contender: str, published: Path | None) -> float:
    """`peak` of a contender in a fresh process with as many threads as this one."""
    command = [sys.executable, "-m", "benchmarks.memory", shape, contender, "--threads", str(torch.get_num_threads())]
    command += [] if published is None else ["--published", str(published)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shape}, {contender}: no memory was measured\n{done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape")
    parser.add_argument("contender")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--published", type=Path, help="checkout of the published repository")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    call = build(args.contender, Problem(shapes.find(args.shape), device()), args.published)
    # ONNX Runtime has compiled already, and keeps for the next call what its first one takes.
    if args.contender != "onnxruntime":
        call()
    print(round(peak(call, device()), 1))


if __name__ == "__main__":
    main()
