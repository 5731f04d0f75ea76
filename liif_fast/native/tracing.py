"""Who else looks at the operations of a query: compilers, exporters, transforms and modes of PyTorch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

_PLAIN = (Tensor, torch.nn.Parameter)


def needs_plain_operations(*tensors: Tensor | None) -> bool:
    """Whether only PyTorch's own operations will do, as the `torch` backend has them.

    So it is for exports to ONNX, torch.jit.trace, the transforms of torch.func, modes that see every operation (FLOP
    counters, fake tensors), meta tensors and subclasses of Tensor. torch.compile and torch.export know the operators.
    """
    if torch.compiler.is_compiling():
        return torch.onnx.is_in_onnx_export()
    return is_traced() or any(t is not None and (type(t) not in _PLAIN or t.is_meta) for t in tensors)


def is_traced() -> bool:
    """Whether a query's values cannot be looked at, nor anything be kept from it for the next one."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of the autocast that is on for a device, or None. Meta tensors know no autocast."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which autocast is off for a device."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
