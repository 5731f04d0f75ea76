"""Triton's compiler for any GPU generation, without a GPU; also as a process that tests talk to.

`python -m benchmarks.cross_compile` reads pickled requests from its standard input and answers on its standard output:
a program that runs Triton's interpreter (TRITON_INTERPRET=1) cannot compile in its own process.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from liif_fast.kernels.backward import liif_backward
from liif_fast.kernels.forward import liif_forward

KERNELS = {"liif_forward": liif_forward, "liif_backward": liif_backward}


class Request(NamedTuple):
    """A launch's arguments by name: ("*fp16", divisible by 16), (an integer), a float, or a compile-time constant."""

    kernel: str
    arch: int
    arguments: dict[str, Any]
    constants: dict[str, Any]
    warps: int
    stages: int


class Compiled(NamedTuple):
    """What a launch needs: the names of the arguments that are left, bytes of shared memory, PTX, machine code."""

    names: list[str]
    shared: int
    ptx: str
    cubin: bytes
    ttgir: str


def compile_launch(request: Request) -> Compiled:
    """Compiles as a launch with these arguments would, and specialises as it would."""
    function = KERNELS[request.kernel]
    constants = dict(request.constants)
    signature: dict[str, str] = {}
    aligned: dict[tuple[int], Any] = {}
    for place, parameter in enumerate(function.params):
        name = parameter.name
        value = request.arguments.get(name)
        if name not in constants and value == 1 and isinstance(value, int) and not parameter.do_not_specialize:
            constants[name] = 1
        if name in constants:
            signature[name] = "constexpr"
            continue
        if isinstance(value, tuple):
            signature[name], divisible = value
        elif isinstance(value, float):
            signature[name], divisible = "fp32", False
        else:
            signature[name] = "i32" if -(2**31) <= request.arguments[name] < 2**31 else "i64"
            divisible = request.arguments[name] % 16 == 0 and not parameter.do_not_specialize
        if divisible:
            aligned[(place,)] = [["tt.divisibility", 16]]
    kernel = triton.compile(
        ASTSource(fn=function, signature=signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", request.arch, 32),
        options={"num_warps": request.warps, "num_stages": request.stages, "enable_fp_fusion": False},
    )
    names = [name for name, kind in signature.items() if kind != "constexpr"]
    return Compiled(names, kernel.metadata.shared, kernel.asm["ptx"], kernel.asm["cubin"], kernel.asm["ttgir"])


def main() -> int:
    """Serves requests until the input ends."""
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr  # what a compiler prints is no answer
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return 0
        try:
            answer: Any = tuple(compile_launch(request))
        except Exception as error:
            answer = RuntimeError(f"{type(error).__name__}: {error}")
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    sys.exit(main())
