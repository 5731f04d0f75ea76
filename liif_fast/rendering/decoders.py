"""The kinds of decoders, as one ladder: how each reads a part of the feature map and answers queries from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from liif_fast import backends, functional, geometry
from liif_fast.acceleration import decoder_params
from liif_fast.box import Region
from liif_fast.geometry import Grid, Window, grid_queries
from liif_fast.models.metasr import MetaSR
from liif_fast.params import DecoderParams
from liif_fast.rendering.encoding import Encoding, input_channels
from liif_fast.rendering.tiling import Span

Queries = Grid | tuple[Tensor, Tensor]  # pixels of a regular output, or coord and cell, each [1, Q, 2]
Answer = Callable[[Queries], Tensor]  # -> [1, Q, out_dim]
AnyTile = TypeVar("AnyTile", bound="Tile")

BAND = 2**17  # queries at a time: their coordinates, cells and answers are small beside a tile
GPU_BAND = 2**22  # on a GPU: what a fused kernel needs for more than a launch's own time
PLAIN_BAND = 30_000  # the published demo's, for decoders that hold all activations of a band
OPAQUE = "model"  # the name of decoders that are no backend's


class Tile(Protocol):
    """Queries, `count` of them, that are answered from one part of the feature map.

    region: the pixels of the whole output, or of the picture, that the tile covers.
    """

    @property
    def region(self) -> Region: ...

    @property
    def count(self) -> int: ...

    def features(self, shape: tuple[int, int], halo: int, from_corner: bool) -> tuple[Span, Span]:
        """Rows and columns of a feature map of shape (H, W) that the queries look at.

        halo: features read beside those that are looked at. from_corner: as in `tiling.feature_span`.
        """

    def bands(self, most: int, device: torch.device) -> Iterator[Queries]:
        """The queries in order, at most so many at a time."""

    def halves(self: AnyTile) -> Sequence[AnyTile]:
        """The same queries in two tiles, or more, that each need less memory."""


class Decoder:
    """What turns features into values.

    name: that of the backend, or OPAQUE. out_dim: channels of a value. band: queries that are answered at a time.
    floats: numbers that it makes for each feature of its part of the map, before the first query.
    """

    band = BAND
    floats = 0
    reads_whole_map = False  # whether the feature map is needed whole
    asks_model = False  # whether the model must make the map itself, and keep it

    def __init__(self, name: str, out_dim: int, halo: int = 0, *, from_corner: bool = False) -> None:
        self.name, self.out_dim = name, out_dim
        self._halo, self._from_corner = halo, from_corner

    def open(self, encoding: Encoding, tile: Tile, precision: str) -> Answer:
        """A function that answers the queries of a tile, with no more of the feature map than they look at."""
        raise NotImplementedError

    def _seen(self, encoding: Encoding, tile: Tile, precision: str) -> tuple[Span, Span, Window]:
        """The rows and columns of the feature map that a tile looks at, and the window that they are."""
        shape = encoding.shape(precision)
        rows, cols = tile.features(shape, self._halo, self._from_corner)
        return rows, cols, Window(*shape, rows.start, cols.start)


class _Liif(Decoder):
    """LIIF's MLP on a backend, from the projection of the part; the reference reads the whole map instead."""

    def __init__(self, params: DecoderParams, backend: str) -> None:
        super().__init__(backend, params.out_dim, halo=1 if params.feat_unfold else 0)
        self.params = params
        self.floats = params.weights[0].shape[0]
        self.reads_whole_map = backend == "reference"
        band = GPU_BAND if params.weights[0].is_cuda else BAND
        self.band = PLAIN_BAND if self.reads_whole_map else band

    def open(self, encoding: Encoding, tile: Tile, precision: str) -> Answer:
        if self.reads_whole_map:
            feat = encoding.whole(precision)
            return lambda queries: self._query(feat, queries, precision)
        rows, cols, window = self._seen(encoding, tile, precision)
        # The part has no name here, so that its memory is free as soon as the projection has laid it out anew.
        projected = functional.project(encoding.part(rows, cols, precision), self.params, precision)
        return lambda queries: self._query(None, queries, precision, projected, window)

    def _query(
        self,
        feat: Tensor | None,
        queries: Queries,
        precision: str,
        projected: Tensor | None = None,
        window: Window | None = None,
    ) -> Tensor:
        how: Any = {"backend": self.name, "precision": precision, "projected": projected, "window": window}
        if isinstance(queries, Grid):
            return functional.query_grid(feat, queries.size, self.params, box=queries.box, **how)
        return functional.query(feat, *queries, self.params, **how)


class _MetaSR(Decoder):
    """Meta-SR's predicted weights."""

    def __init__(self, model: MetaSR) -> None:
        super().__init__(OPAQUE, model.out_dim, halo=1, from_corner=True)
        self.model, self.floats = model, model.matrix_size

    def open(self, encoding: Encoding, tile: Tile, precision: str) -> Answer:
        rows, cols, window = self._seen(encoding, tile, precision)
        projected = self.model.project(encoding.part(rows, cols, precision))
        return lambda queries: self.model.decode(projected, *_coordinates(queries, encoding.device), window)


class _Nearest(Decoder):
    """The feature nearest to each query: what LIIF is without an MLP."""

    def open(self, encoding: Encoding, tile: Tile, precision: str) -> Answer:
        rows, cols, window = self._seen(encoding, tile, precision)
        feat = encoding.part(rows, cols, precision)

        def answer(queries: Queries) -> Tensor:
            coord, _ = _coordinates(queries, feat.device)
            rows = geometry.nearest_index(coord[0, :, 0], window.height) - window.top
            cols = geometry.nearest_index(coord[0, :, 1], window.width) - window.left
            return feat[0, :, rows, cols].t().unsqueeze(0)

        return answer


class _Opaque(Decoder):
    """A decoder that only the model itself knows, by the published protocol: it answers of the map it made last."""

    band = PLAIN_BAND
    asks_model = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__(OPAQUE, input_channels(model))
        self.model: Any = model
        self._latest: Encoding | None = None

    def open(self, encoding: Encoding, tile: Tile, precision: str) -> Answer:
        if self._latest is not encoding:
            encoding.forget()
        self._latest = encoding
        encoding.whole(precision)
        return lambda queries: self.model.query_rgb(*_coordinates(queries, encoding.device))


def choose(
    model: nn.Module, device: torch.device, dtype: torch.dtype, backend: str, precision: str
) -> tuple[Decoder, str]:
    """The decoder of a model that computes on a device in a type, and the precision; "auto" asks the model first.

    Raises UsageError or BackendError for a backend or a precision that is unknown or cannot run.
    """
    params = decoder_params(model)
    backend = getattr(model, "backend", "auto") if backend == "auto" else backend
    precision = getattr(model, "precision", "auto") if precision == "auto" else precision
    precision = functional.resolve_precision(precision, torch.empty(0, dtype=dtype, device=device))
    name = backends.select(backend, device, precision, params)
    if params is not None:
        return _Liif(params, name), precision
    if isinstance(model, MetaSR) and type(model).query_rgb is MetaSR.query_rgb and model.is_plain():
        return _MetaSR(model), precision
    if getattr(model, "imnet", model) is None:
        return _Nearest(name, input_channels(model)), precision
    return _Opaque(model), precision


def _coordinates(queries: Queries, device: torch.device) -> tuple[Tensor, Tensor]:
    return grid_queries(queries, device=device) if isinstance(queries, Grid) else queries
