"""What is computed once for each pixel of a feature map: kept from query to query, and never stale."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from liif_fast import backends, functional
from liif_fast.errors import BackendError
from liif_fast.native.tracing import autocast_dtype, is_traced
from liif_fast.params import DecoderParams, Switches, plain_layers

# Pixels along each side of the grid on which features are compared.
WITNESSES = 8


class _Entry(NamedTuple):
    feat: weakref.ref[Tensor]
    key: tuple[Any, ...]
    weights: tuple[Tensor, ...]  # private copies of the weights that project
    content: Tensor  # private copy of `_witness(feat)`
    projected: Tensor


class ProjectionCache:
    """Keeps what a model computes once for each pixel of a feature map, for the latest map.

    A stored projection is used again only if all it was made of is unchanged: the same tensor at the same version,
    the same content of the weights (which sees optimizer steps, `load_state_dict` and writes through `.data` alike),
    the same precision and autocast state. Inference tensors count no versions: their whole content is
    compared. Other features are compared on a sparse grid of pixels besides, for writers that torch does not count
    (`.data`, a CUDA graph); one that changes a few pixels only must be followed by `clear`. On a GPU only versions are
    compared, since contents would have to wait for it: there every uncounted writer must be followed by `clear`.

    The features are referred to weakly: the entry goes when they go. Copies and pickles of a cache are empty.
    """

    def __init__(self) -> None:
        self._entry: _Entry | None = None

    def clear(self) -> None:
        """Forget the stored projection."""
        self._entry = None

    def project(self, feat: Tensor, params: DecoderParams, precision: str = "auto") -> Tensor:
        """``functional.project(feat, params, precision)``, outside of any autograd graph."""
        switches = params.feat_unfold, precision
        return self.keep(feat, params.weights[:1], lambda: functional.project(feat, params, precision), *switches)

    def keep(self, feat: Tensor, weights: tuple[Tensor, ...], compute: Callable[[], Tensor], *switches: Any) -> Tensor:
        """What `compute` makes of ``feat [B, C, H, W]``, `weights` and `switches`, outside of any autograd graph."""
        key = _key(feat, weights, switches)
        # Read once: threads that share a model may replace the entry, but never see a mixed one.
        entry = self._entry
        if entry is not None and _fits(entry, feat, weights, key):
            return entry.projected
        self.clear()
        with torch.no_grad():
            projected = compute()
            content = _witness(feat).clone()
            own_weights = tuple(weight.detach().clone() for weight in weights)
        self._entry = _Entry(weakref.ref(feat, _forgetter(self)), key, own_weights, content, projected)
        return projected

    def __deepcopy__(self, memo: dict[int, Any]) -> ProjectionCache:
        return ProjectionCache()

    def __copy__(self) -> ProjectionCache:
        return ProjectionCache()

    def __reduce__(self) -> tuple[type[ProjectionCache], tuple[()]]:
        return ProjectionCache, ()


def decode(
    cache: ProjectionCache,
    feat: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    imnet: nn.Module,
    switches: Switches,
    backend: str,
    precision: str,
) -> Tensor:
    """LIIF's answers: from the weights of a plain MLP by `query`, else by calling `imnet` as a module.

    Raises BackendError where a fused backend is named that cannot call a module.
    """
    layers = plain_layers(imnet)
    if isinstance(layers, str):
        if backend in backends.FUSED:
            raise BackendError(f"backend {backend!r} cannot run: imnet: {layers}; use backend='auto', which calls it")
        return functional.query_module(feat, coord, cell, imnet, switches, precision=precision)
    channels = feat.shape[1] if feat.dim() == 4 else 0
    return query(cache, feat, coord, cell, DecoderParams(*layers, channels, *switches), backend, precision)


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
    projected = None
    if backend != "reference" and may_keep(feat, (feat, coord, cell, *params.weights, *params.biases)):
        projected = cache.project(feat, params, precision)
    return functional.query(feat, coord, cell, params, backend=backend, precision=precision, projected=projected)


def may_keep(feat: Tensor, inputs: Iterable[Tensor | None]) -> bool:
    """Whether a query of these inputs may use a cache: not inside a gradient's graph, a traced or a captured one."""
    if is_traced() or (feat.is_cuda and torch.cuda.is_current_stream_capturing()):
        return False
    return not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs))


def _key(feat: Tensor, weights: tuple[Tensor, ...], switches: tuple[Any, ...]) -> tuple[Any, ...]:
    version = None if feat.is_inference() else feat._version
    return (
        version,
        feat.data_ptr(),
        feat.shape,
        feat.stride(),
        feat.dtype,
        feat.device,
        *((weight.shape, weight.dtype, weight.device) for weight in weights),
        *((w.data_ptr(), w._version) for w in weights if _counts_changes(feat, weights)),
        switches,
        autocast_dtype(feat.device),
        functional.multiplies_in_tf32(),
    )


def _fits(entry: _Entry, feat: Tensor, weights: tuple[Tensor, ...], key: tuple[Any, ...]) -> bool:
    if entry.feat() is not feat or entry.key != key:
        return False
    if _counts_changes(feat, weights):
        return True
    return all(map(torch.equal, entry.weights, weights)) and torch.equal(entry.content, _witness(feat))


def _counts_changes(feat: Tensor, weights: tuple[Tensor, ...]) -> bool:
    """Whether the versions in the key are all that is looked at.

    On a GPU a comparison of contents waits for the device at each query, longer than the query takes.
    """
    return feat.is_cuda and not any(tensor.is_inference() for tensor in (feat, *weights))


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
