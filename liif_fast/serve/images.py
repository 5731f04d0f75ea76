"""The IIIF services: one picture by one way of enlarging it, from request to bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from liif_fast.batch.conversion import Converter
from liif_fast.serve import iiif
from liif_fast.serve.cache import Cache
from liif_fast.serve.drawing import ByBicubic, ByModel, Enlarger, Step, draw
from liif_fast.serve.pictures import Pictures, UnknownError

BICUBIC = "bicubic"


class Way(NamedTuple):
    """How pictures are enlarged: by a model, or without one by bicubic interpolation; `title` is for people."""

    name: str
    title: str
    converter: Converter | None = None


class Budget(NamedTuple):
    """How memory is divided: bytes of features, of decoded pictures, of pictures as models take them, of answers."""

    features: int
    pictures: int
    sources: int
    answers: int

    @classmethod
    def of(cls, memory: int) -> Budget:
        return cls(memory // 2, memory // 4, memory // 8, memory // 8)


class Images:
    """All pictures by all ways; what has been asked for is kept in bounded memory."""

    def __init__(
        self, pictures: Pictures, ways: Sequence[Way], budget: Budget, limits: iiif.Limits, step: Step
    ) -> None:
        self._step = step
        self.pictures, self.limits = pictures, limits
        self.ways = {way.name: way for way in ways}
        self._features: Cache[Tensor] = Cache(budget.features)
        self._sources: Cache[ByModel] = Cache(budget.sources)
        self._answers: Cache[bytes] = Cache(budget.answers)

    def way(self, name: str) -> Way:
        found = self.ways.get(name)
        if found is None:
            raise UnknownError(f"expected one of {', '.join(self.ways)} in the address, got another name")
        return found

    def resolve(self, key: str, request: iiif.ImageRequest) -> iiif.Resolved:
        """What a request means for a picture. Raises iiif.RequestError, ImageError."""
        return iiif.resolve(request, *self.pictures.size(key), self.limits)

    def kept(self, way: str, key: str, asked: iiif.Resolved) -> bytes | None:
        """The answer, where it is still in memory."""
        return self._answers.get((way, self.pictures.version(key), asked))

    def answer(self, way: str, key: str, asked: iiif.Resolved) -> bytes:
        """The bytes of the answer. Raises ImageError for a file that holds no picture."""
        version = self.pictures.version(key)
        opened = self.pictures.open(key)
        found = draw(opened, self._enlarger(self.way(way), version, key), asked)
        self._answers.put((way, version, asked), found, len(found))
        return found

    def _enlarger(self, way: Way, version: tuple[str, int, int], key: str) -> Enlarger:
        opened = self.pictures.open(key)
        if way.converter is None:
            return ByBicubic(opened.image)
        source = self._sources.get((way.name, version))
        if source is None:
            source = ByModel(opened.image, way.converter, self._features, (way.name, version), self._step)
            self._sources.put((way.name, version), source, 2 * opened.bytes)
        return source
