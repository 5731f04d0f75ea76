"""CUDA text -> machine code or PTX, by NVRTC: it is in every CUDA build of PyTorch and in nvidia-cuda-nvrtc."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from liif_fast.files import replacing

LEAST = (12, 0)  # the first that knows sm_90a


class CompileError(RuntimeError):
    """What NVRTC says of a text."""


@lru_cache(maxsize=1)
def library() -> Any:
    """The library, or None where there is none that is new enough."""
    for path in (*_packaged(), Path("libnvrtc.so.13"), Path("libnvrtc.so.12")):
        try:
            # Some versions look for their second library where the system's are, and not beside themselves.
            for beside in path.parent.glob("libnvrtc-builtins.so*") if path.is_absolute() else ():
                ctypes.CDLL(str(beside))
            found = ctypes.CDLL(str(path))
        except OSError:
            continue
        if version(found) >= LEAST:
            return found
    return None


def _packaged() -> list[Path]:
    """Where NVIDIA's packages and PyTorch put it, the newest first."""
    places = [Path(entry) for entry in sys.path if entry]
    folders = ("nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib", "torch/lib")
    return [path for place in places for folder in folders for path in sorted((place / folder).glob("libnvrtc.so*"))]


def version(found: Any) -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    found.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def compiled(text: str, header: Mapping[str, str], macros: Mapping[str, int], arch: str) -> bytes:
    """`compile_text`, kept in the user's cache directory."""
    found = library()
    assert found is not None, "nvrtc.library says whether it is there"
    parts = [text, *(f"{k}={v}" for k, v in (*header.items(), *macros.items())), arch, str(version(found))]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "liif_fast" / "cuda" / hashlib.sha256("\n".join(parts).encode()).hexdigest()
    try:
        return path.read_bytes()
    except OSError:
        code = compile_text(text, header, macros, arch)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(code)
    except OSError:  # A full or read-only disk costs two seconds at the next start.
        pass
    return code


def compile_text(text: str, header: Mapping[str, str], macros: Mapping[str, int], arch: str) -> bytes:
    """Machine code for arch "sm_90a", PTX for "compute_90a"; header: included names and their text.

    Raises CompileError with NVRTC's words.
    """
    nvrtc, program = library(), ctypes.c_void_p()
    names, texts = ([part.encode() for part in parts] for parts in (header.keys(), header.values()))
    strings = ctypes.c_char_p * len(names)
    _check(nvrtc, nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), b"decoder.cu", len(names), strings(*texts), strings(*names)
    ))  # fmt: skip
    try:
        options = [f"--gpu-architecture={arch}", "-std=c++17", *(f"-D{name}={value}" for name, value in macros.items())]
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if nvrtc.nvrtcCompileProgram(program, len(options), array):
            raise CompileError(_output(nvrtc, program, "ProgramLog").decode(errors="replace"))
        return _output(nvrtc, program, "PTX" if arch.startswith("compute") else "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _output(nvrtc: Any, program: Any, kind: str) -> bytes:
    size = ctypes.c_size_t()
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{kind}")(program, buffer))
    return buffer.raw if kind == "CUBIN" else buffer.value


def _check(nvrtc: Any, result: int) -> None:
    if result:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise CompileError(f"expected NVRTC to succeed, got {nvrtc.nvrtcGetErrorString(result).decode()}")
