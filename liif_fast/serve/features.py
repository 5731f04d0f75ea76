"""A model's features of a picture by blocks, of which the latest are kept in bounded memory."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from liif_fast.rendering.encoding import Encoding, Pixels
from liif_fast.rendering.tiling import Span
from liif_fast.serve.cache import Cache

BLOCK = 128  # features on a side of a block: those of EDSR's 64 channels are 4 MiB


class KeptEncoding(Encoding):
    """An encoding whose parts are joined from blocks; on a CPU they equal those of the whole map bit for bit.

    The features stay in the model's own type. What has been forgotten is encoded again, region by region. key: tells
    the encoding's blocks apart from others in the cache.
    """

    def __init__(self, model: nn.Module, inp: Pixels, blocks: Cache[Tensor], key: Hashable) -> None:
        super().__init__(model, inp)
        self._blocks, self._key = blocks, key

    def part(self, rows: Span, cols: Span, precision: str) -> Tensor:
        height, width = self.shape(precision)
        across = _blocks(cols, width)
        found = {(y, x): self._blocks.get(self._name(y, x, precision)) for y in _blocks(rows, height) for x in across}
        missing = [place for place, block in found.items() if block is None]
        if missing:
            found |= self._encoded(missing, precision)
        ys, xs = sorted({y for y, _ in found}), sorted({x for _, x in found})
        lines: list[Any] = [torch.cat([found[y, x] for x in xs], dim=3) for y in ys]  # type: ignore[misc]
        feat = torch.cat(lines, dim=2)
        top, left = ys[0].start, xs[0].start
        return feat[:, :, rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]

    def whole(self, precision: str) -> Tensor:
        """The whole map, of an encoder that cannot make less; kept only as long as the cache has room for it."""
        name = self._name(Span(0, 0), Span(0, 0), precision)
        feat = self._blocks.get(name)
        if feat is None:
            feat = super().whole(precision)
            self.forget()
            self._blocks.put(name, feat, _bytes(feat))
        return feat

    def _encoded(self, missing: list[tuple[Span, Span]], precision: str) -> dict[tuple[Span, Span], Tensor]:
        """All blocks of the smallest rectangle around the missing ones: one halo costs less than that of each."""
        rows = Span(min(y.start for y, _ in missing), max(y.stop for y, _ in missing))
        cols = Span(min(x.start for _, x in missing), max(x.stop for _, x in missing))
        feat = super().part(rows, cols, precision)
        self._roll = None  # the rows that a rolling encoder keeps for the part below would be memory beside the cache
        encoded = {}
        for y in _blocks(rows, rows.stop):
            for x in _blocks(cols, cols.stop):
                own = slice(y.start - rows.start, y.stop - rows.start), slice(x.start - cols.start, x.stop - cols.start)
                block = feat[:, :, own[0], own[1]].clone()
                self._blocks.put(self._name(y, x, precision), block, _bytes(block))
                encoded[y, x] = block
        return encoded

    def _name(self, rows: Span, cols: Span, precision: str) -> Hashable:
        return self._key, precision, rows.start, cols.start, rows.stop, cols.stop


def _blocks(span: Span, length: int) -> list[Span]:
    """The blocks of an axis of `length` features that a span touches."""
    first = span.start // BLOCK * BLOCK
    return [Span(start, min(start + BLOCK, length)) for start in range(first, span.stop, BLOCK)]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
