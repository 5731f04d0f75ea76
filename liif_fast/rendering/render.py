"""A regular output of a picture, tile by tile.

Each output pixel belongs to exactly one tile, which asks at slices of the whole output's coordinates, so that tiles and
whole agree to float32's rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from liif_fast.box import Box, Region
from liif_fast.geometry import Grid
from liif_fast.rendering import decoders, tiling
from liif_fast.rendering.encoding import Pixels, input_channels, placement
from liif_fast.rendering.job import answer_tiles, open_jobs
from liif_fast.rendering.options import Options, Progress
from liif_fast.rendering.tiling import Span


@dataclass(frozen=True)
class RegularTile:
    """A tile of a regular output."""

    region: Region

    @property
    def count(self) -> int:
        return self.region.box.pixels

    def features(self, shape: tuple[int, int], halo: int, from_corner: bool) -> tuple[Span, Span]:
        size, box = self.region
        rows = tiling.feature_span(box.top, box.bottom, size[0], shape[0], from_corner=from_corner)
        cols = tiling.feature_span(box.left, box.right, size[1], shape[1], from_corner=from_corner)
        return tiling.widen(rows, halo, shape[0]), tiling.widen(cols, halo, shape[1])

    def bands(self, most: int, device: torch.device) -> Iterator[Grid]:
        size, box = self.region
        return (Grid(size, band) for band in tiling.tiles(box, max(1, most // box.width), most))

    def halves(self) -> list[RegularTile]:
        return [RegularTile(Region(self.region.size, half)) for half in tiling.halves(self.region.box)]


def render(
    model: nn.Module,
    inp: Tensor,
    size: tuple[int, int],
    box: Box | None = None,
    *,
    backend: str = "auto",
    precision: str = "auto",
    tile: int | None = None,
    memory: int | str | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """The picture that the model makes of inp at size (H, W), or the part `box` of it.

    inp: [1, C, h, w] in [0, 1], or uint8 / uint16 standing for that; normalised by the model's `data_norm`.
    tile: side of a tile in input pixels, without its halo; otherwise it follows from memory.
    memory: bytes (or "1.5G") of working memory beside the input, the output and the model: 640 MiB by default on the
        CPU, half of what is free on a GPU. An encoder that sees the whole picture needs what it needs.
    progress: called with (output pixels done, all output pixels) after each band.

    Returns [1, out_dim, H, W] (or the box's size) float32 in [0, 1], on inp's device.
    Raises UsageError for arguments that do not fit, BackendError for a backend that cannot run, LiifError when memory
    does not suffice for the smallest tile or the model gives no numbers even in float32.
    """
    box = Box(0, 0, *size) if box is None else box
    result: Tensor | None = None
    options = Options(backend, precision, tile, memory, progress=progress)
    for part, values in pieces(model, [inp], Region(size, box), options):
        if result is None:
            result = torch.empty(1, values.shape[0], box.height, box.width, device=inp.device)
        result[0, :, part.top : part.bottom, part.left : part.right] = values
    assert result is not None
    return result


def pieces(
    model: nn.Module, pictures: Sequence[Pixels], region: Region, options: Options
) -> Iterator[tuple[Box, Tensor]]:
    """The tiles of a region of an output, one after another: (box in the region, [out_dim, height, width] float32).

    The rows of tiles follow each other from top to bottom, the tiles in a row from left to right. Of several pictures
    of one size, the values lie one after another, [pictures * out_dim, height, width]; progress counts the pixels of
    all.
    """
    size, box = region
    jobs = open_jobs(model, pictures, options)
    boxes = tiling.tiles(box, *jobs[0].tile_sides(region, options))

    def report(done: int) -> None:
        if options.progress is not None:
            options.progress(done, box.pixels * len(jobs))

    for tile, values in answer_tiles(jobs, [RegularTile(Region(size, part)) for part in boxes], report):
        part = tile.region.box
        place = part._replace(top=part.top - box.top, left=part.left - box.left)
        yield place, values.view(-1, part.height, part.width)


def settle(model: nn.Module, backend: str = "auto", precision: str = "auto") -> tuple[str, str]:
    """The backend and the precision that would render with this model ("model" where it decodes by itself).

    Raises UsageError or BackendError for what is unknown or cannot run.
    """
    where = placement(model, torch.zeros(1, input_channels(model), 1, 1))
    decoder, precision = decoders.choose(model, *where, backend, precision)
    return decoder.name, precision
