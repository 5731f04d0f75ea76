"""What is made of weights on a GPU, kept for as long as torch counts no change of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
MOST = 8  # decoders, precisions and forms
_entries: OrderedDict[tuple[Any, ...], tuple[Sequence[Tensor], Any]] = OrderedDict()


def kept(weights: Sequence[Tensor], kind: Hashable, make: Callable[[], T]) -> T:
    """What `make` makes of these weights for this kind: made anew where one has changed.

    What torch does not count (writes through `.data`) needs `forget`.
    """
    if not counts_changes(weights):
        return make()
    key = kind, *((t.data_ptr(), t._version, t.dtype, t.shape, t.stride(), t.device) for t in weights)
    # The entry holds the weights, so that no others can come to lie at their addresses. Threads that race both make it.
    entry = _entries.pop(key, None) or (weights, make())
    _entries[key] = entry
    while len(_entries) > MOST:
        _entries.popitem(last=False)
    made: T = entry[1]
    return made


def forget() -> None:
    """Make everything anew at the next query."""
    _entries.clear()


def counts_changes(tensors: Sequence[Tensor]) -> bool:
    """Whether something may be kept: inference tensors count no changes, and a captured graph must hold the making."""
    on_gpu = tensors[0].is_cuda and not torch.cuda.is_current_stream_capturing()
    return on_gpu and not any(tensor.is_inference() for tensor in tensors)
