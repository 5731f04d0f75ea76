"""A stand-in for a GPU: a launch of a Triton kernel is compiled for a generation, and its PTX is executed."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from typing import Any
from unittest.mock import patch

import ptx
import pytest
import torch
from torch import Tensor

from benchmarks.cross_compile import Compiled, Request
from liif_fast.backends import triton
from liif_fast.kernels import configs, launch, launch_backward, tuning
from support.paths import ROOT

if (too_old := triton._too_old(torch.__version__, version("triton"))) is not None:
    pytest.skip(f"compiled kernels: {too_old}", allow_module_level=True)

POINTERS = {
    **{torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64"},
    **{torch.int32: "*i32", torch.uint8: "*u8"},
}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


@lru_cache(maxsize=1)
def _compiler() -> subprocess.Popen[bytes]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.cross_compile"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def compiled(request: Request) -> Compiled:
    """The request's kernel by Triton's compiler, in a process of its own."""
    process = _compiler()
    assert process.stdin is not None
    assert process.stdout is not None
    pickle.dump(request, process.stdin)
    process.stdin.flush()
    answer = pickle.load(process.stdout)
    if isinstance(answer, Exception):
        raise answer
    return Compiled(*answer)


class CompiledGPU:
    """One generation; blocks: run only these of the first grid axis; change: what is done to the PTX first."""

    def __init__(
        self,
        arch: int,
        *,
        seed: int = 0,
        late: bool = True,
        blocks: list[int] | None = None,
        change: Callable[[str], str] | None = None,
    ) -> None:
        self.arch, self.blocks, self.change = arch, blocks, change
        self.options = {"seed": seed, "late": late}
        self.executed = self.unwritten_reads = 0
        self.compiled: Compiled | None = None  # the latest kernel

    @contextmanager
    def in_use(self) -> Iterator[CompiledGPU]:
        """While this lasts, launch.py and launch_backward.py launch here, with the tiles of this generation."""
        capability = divmod(self.arch, 10)
        with (
            patch.object(launch, "liif_forward", _Kernel(self, launch.liif_forward)),
            patch.object(launch_backward, "liif_backward", _Kernel(self, launch_backward.liif_backward)),
            patch.object(
                tuning,
                "tile_for",
                lambda source, precision, direct, width: configs.choose(capability, precision, direct),
            ),
            patch.object(
                launch_backward, "tile_for", lambda source, precision: configs.choose_backward(capability, precision)
            ),
        ):
            yield self

    def launch(self, kernel: Any, grid: tuple[int, ...], arguments: dict[str, Any], options: dict[str, Any]) -> None:
        assert options.pop("enable_fp_fusion") is False
        tensors = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
        described = {
            name: (POINTERS[value.dtype], value.data_ptr() % 16 == 0) if isinstance(value, Tensor) else value
            for name, value in arguments.items()
            if not name.isupper()
        }
        constants = {name: value for name, value in arguments.items() if name.isupper()}
        request = Request(kernel.__name__, self.arch, described, constants, options["num_warps"], options["num_stages"])
        found = self.compiled = compiled(request)
        text = found.ptx if self.change is None else self.change(found.ptx)
        program = ptx.parse(text, kernel.__name__)
        values = [tensors[name].data_ptr() if name in tensors else arguments[name] for name in found.names]
        values += [0] * (len(program.parameters) - len(values))  # scratch memory, of which these kernels want none
        size = grid[0], grid[1] if len(grid) > 1 else 1
        places = None if self.blocks is None else [(x, y) for y in range(size[1]) for x in self.blocks if x < size[0]]
        ran = ptx.launch(
            program, size, values, list(tensors.values()), shared=found.shared, blocks=places, **self.options
        )
        self.executed += ran.executed
        self.unwritten_reads += ran.unwritten_reads


class _Kernel:
    """kernel[grid](...) of a CompiledGPU."""

    def __init__(self, gpu: CompiledGPU, kernel: Any) -> None:
        self.gpu, self.kernel = gpu, kernel
        self.signature = inspect.signature(kernel.fn)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def run(*args: Any, **kwargs: Any) -> None:
            options = {name: kwargs.pop(name) for name in OPTIONS}
            arguments = self.signature.bind(*args, **kwargs).arguments
            self.gpu.launch(self.kernel.fn, grid, arguments, options)

        return run
