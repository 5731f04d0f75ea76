"""The projected feature map, computed once per feature map and never stale."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor

from liif_fast import functional
from liif_fast.params import DecoderParams

# Pixels along each side of the grid on which features are compared.
WITNESSES = 8


class _Entry(NamedTuple):
    feat: weakref.ref[Tensor]
    key: tuple[Any, ...]
    weight: Tensor  # private copy of layer one's weight
    content: Tensor  # private copy of `_witness(feat)`
    projected: Tensor  # [B, H, W, N0]


class ProjectionCache:
    """Keeps ``functional.project(feat, params, precision)`` for the latest feature map.

    A stored projection is used again only if all it was made of is unchanged: the same tensor at the same version,
    the same content of layer one's weight (which sees optimizer steps, `load_state_dict` and writes through `.data`
    alike), the same precision and autocast state. Inference tensors count no versions: their whole content is
    compared. Other features are compared on a sparse grid of pixels besides, for writers that torch does not count
    (`.data`, a CUDA graph); one that changes a few pixels only must be followed by `clear`.

    The features are referred to weakly: the entry goes when they go. Copies and pickles of a cache are empty.
    """

    def __init__(self) -> None:
        self._entry: _Entry | None = None

    def clear(self) -> None:
        """Forget the stored projection."""
        self._entry = None

    def project(self, feat: Tensor, params: DecoderParams, precision: str = "auto") -> Tensor:
        """The projection ``[B, H, W, N0]`` of ``feat [B, C, H, W]``, outside of any autograd graph."""
        weight = params.weights[0]
        key = _key(feat, weight, params, precision)
        # Read once: threads that share a model may replace the entry, but never see a mixed one.
        entry = self._entry
        if entry is not None and _fits(entry, feat, weight, key):
            return entry.projected
        self.clear()
        with torch.no_grad():
            projected = functional.project(feat, params, precision)
            content = _witness(feat).clone()
            own_weight = weight.detach().clone()
        self._entry = _Entry(weakref.ref(feat, _forgetter(self)), key, own_weight, content, projected)
        return projected

    def __deepcopy__(self, memo: dict[int, Any]) -> ProjectionCache:
        return ProjectionCache()

    def __copy__(self) -> ProjectionCache:
        return ProjectionCache()

    def __reduce__(self) -> tuple[type[ProjectionCache], tuple[()]]:
        return ProjectionCache, ()


def query(
    cache: ProjectionCache,
    feat: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    params: DecoderParams,
    backend: str,
    precision: str,
) -> Tensor:
    """`functional.query` with the cached projection, or with one inside the graph where a gradient is wanted.

    Shapes as in `functional.query`: ``feat [B, C, H, W]``, ``coord`` and ``cell [B, Q, 2]``, result
    ``[B, Q, out_dim]``. The reference backend starts from the features themselves, and a traced or captured graph
    holds no state: they go without the cache.
    """
    inputs = (feat, coord, cell, *params.weights, *params.biases)
    differentiable = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    projected = None
    if not (torch.compiler.is_compiling() or _capturing(feat) or differentiable or backend == "reference"):
        projected = cache.project(feat, params, precision)
    return functional.query(feat, coord, cell, params, backend=backend, precision=precision, projected=projected)


def _capturing(feat: Tensor) -> bool:
    return feat.is_cuda and torch.cuda.is_current_stream_capturing()


def _key(feat: Tensor, weight: Tensor, params: DecoderParams, precision: str) -> tuple[Any, ...]:
    device = feat.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    version = None if feat.is_inference() else feat._version
    return (
        version,
        feat.data_ptr(),
        feat.shape,
        feat.stride(),
        feat.dtype,
        feat.device,
        weight.shape,
        weight.dtype,
        weight.device,
        params.feat_unfold,
        precision,
        autocast,
        torch.get_float32_matmul_precision(),
    )


def _fits(entry: _Entry, feat: Tensor, weight: Tensor, key: tuple[Any, ...]) -> bool:
    same = entry.feat() is feat and entry.key == key
    return same and torch.equal(entry.weight, weight) and torch.equal(entry.content, _witness(feat))


def _witness(feat: Tensor) -> Tensor:
    """The features whose content is compared: all where torch counts no changes, else about 8 x 8 pixels."""
    feat = feat.detach()
    if feat.is_inference():
        return feat
    return feat[:, :, :: max(1, feat.shape[2] // WITNESSES), :: max(1, feat.shape[3] // WITNESSES)]


def _forgetter(cache: ProjectionCache) -> Any:
    """A callback for the features' end that does not itself keep the cache alive."""
    own = weakref.ref(cache)

    def forget(feat: weakref.ref[Tensor]) -> None:
        live = own()
        if live is not None and live._entry is not None and live._entry.feat is feat:
            live.clear()

    return forget
