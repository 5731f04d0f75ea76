"""The wheel in an environment of its own, without a compiler: with the lowest PyTorch claimed, then the newest."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.models import bilinear_liif
from support.paths import ROOT
from support.workspace import PHOTO

from liif_fast import checkpoint, upscale

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("LIIF_FAST_TEST_WHEELS") != "1",
        reason="downloads two builds of PyTorch, some 6 GB: LIIF_FAST_TEST_WHEELS=1, or make test-wheels",
    ),
]
UNREACHABLE = ("error sending request", "dns error", "Failed to fetch", "operation timed out")


def call(*command: str | Path, **options: Any) -> str:
    """What a command prints; its failure fails the test."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def install(python: Path, *arguments: str | Path) -> None:
    """uv pip install into the environment; the test is skipped where the package index cannot be reached."""
    command = [sys.executable, "-m", "uv", "pip", "install", "-q", "--python", python, *arguments]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False, "cwd": python.parent}
    try:
        done = subprocess.run([str(c) for c in command], timeout=900, **options)
    except subprocess.TimeoutExpired:
        pytest.skip("the package index takes more than a quarter of an hour")
    if done.returncode and any(text in done.stderr for text in UNREACHABLE):
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The wheel of the checkout."""
    left_out = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "source", symlinks=True, ignore=left_out)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path)
    call(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", *options, tmp_path / "source")
    (built,) = tmp_path.glob("*.whl")
    return built


def lowest(name: str) -> str:
    """The lowest version of a dependency that pyproject.toml allows."""
    (found,) = re.findall(rf'^    "{name}>=([\d.]+)",$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    return str(found)


def check(programs: Path) -> str:
    """The kernels can be used, and a photograph comes out as it does here; the version of PyTorch."""
    environment = {"PATH": str(programs), "HOME": str(programs), "TMPDIR": str(programs.parent)}
    folder = programs.parent
    facts = json.loads(call(programs / "liif-fast", "info", "--json", env=environment, cwd=folder))
    (row,) = (row for row in facts["backends"] if row["name"] == "cpu")
    assert row["usable"], row["reason"]
    command = (
        "upscale",
        PHOTO,
        "-o",
        "large.png",
        "-s",
        "1.5",
        "--model",
        "model.safetensors",
        "--overwrite",
        "--json",
    )
    record = json.loads(call(programs / "liif-fast", *command, env=environment, cwd=folder))
    assert (record["backend"], record["ok"]) == ("cpu", True)
    expected = np.asarray(upscale(PHOTO, 1.5, model=bilinear_liif()), dtype=int)
    with Image.open(folder / "large.png") as found:
        assert np.abs(np.asarray(found, dtype=int) - expected).max() <= 1
    return str(facts["versions"]["torch"])


def test_one_wheel_runs_with_the_lowest_pytorch_and_after_an_upgrade(wheel: Path, tmp_path: Path) -> None:
    assert "-py3-none-" in wheel.name, "a wheel for one Python only"
    environment = tmp_path / "environment"
    call(sys.executable, "-m", "uv", "venv", "-q", "--python", sys.executable, environment)
    programs = environment / "bin"
    checkpoint.save(bilinear_liif(), environment / "model.safetensors")
    # Of what a wheel asks for only pyproject.toml makes direct requirements.
    install(programs / "python", "--resolution", "lowest-direct", "-r", ROOT / "pyproject.toml", wheel)
    assert check(programs).startswith(lowest("torch"))
    install(programs / "python", "--upgrade", "torch", "numpy", "pillow", "safetensors")
    assert not check(programs).startswith(lowest("torch"))
