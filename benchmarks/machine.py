"""What a result has to say about where it was measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from liif_fast.native import library


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def tag() -> str:
    """What the names of result files say of where they were measured.

    `cuda`, or the processor's instructions: `cpu-avx2`, `cpu-avx512`, `cpu-avx512-bf16` or the like.
    """
    where = device().type
    if where != "cpu":
        return where
    return f"{where}-{torch.backends.cpu.get_cpu_capability().lower()}{'-bf16' if library.HAS_BF16 else ''}"


def commit() -> str:
    """The checkout's commit, with a mark when tracked files other than results differ from it, or `unknown`."""
    name = _output(["git", "describe", "--always", "--exclude=*"])
    # A run of several commands writes results and documents, which change nothing of what is measured.
    mine = ["--", ":/", ":(top,exclude)benchmarks/results", ":(top,exclude)README.md", ":(top,exclude)docs"]
    changed = _output(["git", "status", "--porcelain", "--untracked-files=no", *mine])
    return f"{name}-dirty" if name and changed else name or "unknown"


def _output(command: list[str]) -> str:
    """What a command prints, nothing where it fails or is not there."""
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _cpuinfo(key: str) -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(key)]


def processor() -> str:
    """The processor's name as the system gives it."""
    names = _cpuinfo("model name")
    return names[0] if names else platform.processor() or platform.machine()


def clocks() -> dict[str, list[float]]:
    """MHz of every core and of the GPU, as far as they can be read."""
    found = {"cpu": sorted({float(value) for value in _cpuinfo("cpu MHz")})}
    gpu = _output(["nvidia-smi", "--query-gpu=clocks.sm,clocks.max.sm", "--format=csv,noheader,nounits"])
    found["gpu"] = [float(value) for value in re.findall(r"[\d.]+", gpu)]
    return {name: values for name, values in found.items() if values}


def triton() -> str:
    """Its version, or `not installed`."""
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "not installed"


def describe() -> dict[str, Any]:
    """Device, clocks, versions and commit, for a result file."""
    compiler = library.compiler() if library.import_error is None else "not built"
    gpu = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if torch.cuda.is_available() else {}
    return {
        "processor": processor(),
        **gpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock_mhz": clocks(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton(),
        "compiler": compiler,
        "commit": commit(),
    }
