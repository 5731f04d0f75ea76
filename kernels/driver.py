"""Loads machine code and launches it by CUDA's driver, in PyTorch's context and on its current stream."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class Launch(NamedTuple):
    """One launch. arguments: the kernel's only parameter; tensors: whose memory its pointers are in."""

    name: str
    code: bytes
    blocks: int
    threads: int
    shared: int
    arguments: bytes
    tensors: Sequence[Tensor]


@lru_cache(maxsize=1)
def library() -> Any:
    """libcuda, or None."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def launch(asked: Launch) -> None:
    """On the device of the tensors and its current stream. Raises RuntimeError with the driver's words."""
    device = asked.tensors[0].device
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream(device).cuda_stream
        function = _function(asked.code, asked.name, asked.shared, torch.cuda.current_device())
        block = ctypes.create_string_buffer(asked.arguments, len(asked.arguments))
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(block))
        _check(library().cuLaunchKernel(
            function, asked.blocks, 1, 1, asked.threads, 1, 1, asked.shared, ctypes.c_void_p(stream), parameters, None
        ))  # fmt: skip


@lru_cache(maxsize=64)
def _function(code: bytes, name: str, shared: int, device: int) -> ctypes.c_void_p:
    """Loaded once for each device; a module stays as long as the process."""
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _check(library().cuModuleLoadData(ctypes.byref(module), code))
    _check(library().cuModuleGetFunction(ctypes.byref(function), module, name.encode()))
    _check(library().cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED, shared))
    return function


def _check(result: int) -> None:
    if result:
        text = ctypes.c_char_p()
        library().cuGetErrorString(result, ctypes.byref(text))
        raise RuntimeError(f"CUDA error: {(text.value or b'unknown').decode()} ({result})")
