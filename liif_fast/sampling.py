"""`sample`: a picture at the points of any grid, such as a rotation, a perspective, a lens or a panorama.

The points are dealt to tiles of the picture. A tile that no point looks into is never encoded; one that is gets encoded
with an exact halo and answers all of its points, wherever they lie in the grid.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from liif_fast.box import Box, Region
from liif_fast.errors import UsageError
from liif_fast.image import values_of
from liif_fast.rendering import periodic
from liif_fast.rendering.alpha import clamp_alpha
from liif_fast.rendering.encoding import Pixels
from liif_fast.rendering.job import Job, answer_tiles, open_jobs
from liif_fast.rendering.options import Options, Progress
from liif_fast.rendering.output import Output
from liif_fast.rendering.source import open_model, open_picture, read_if_path
from liif_fast.rendering.tiling import Span, cut, widen

PADDINGS = ("border", "zeros")
# Input pixels. Models are trained on cells of 1/4 to 1; far beyond, the MLP extrapolates to no picture at all.
MAX_CELL = 4.0
POINT_BYTES = 64  # of a point while its block is made: its tile, its order, its answer
REACH = 2  # features beside the one under a point that its neighbours may be: one, and one for rounding


def sample(
    model: nn.Module | str | os.PathLike[str] | None,
    image: Any,
    grid: Tensor | np.ndarray,
    *,
    padding: str = "border",
    wrap: bool | str | None = None,
    backend: str = "auto",
    precision: str = "auto",
    tile: int | None = None,
    memory: int | str | None = None,
    progress: Progress | None = None,
) -> Any:
    """The picture at each point of a grid, as the same kind of object: H x W pixels for a grid [H, W, 2].

    The cell of a point (the size of the pixel asked for, paper, equation 5) is its footprint on the picture: along y
    and along x the root of the squared steps to the neighbours in the row and in the column, by central differences,
    one-sided at ends and beside points that show nothing. So a rotation does not change it, and a regular grid gives
    what `upscale` gives, up to float32's rounding. Each point is evaluated once. Where the grid takes steps of more
    than a pixel of the picture, the result therefore aliases: reduce the picture before, or average a finer grid. The
    cell ends at 4 pixels, beyond which no model is of use. There are no gradients.

    Args:
        model: as for `liif_fast.upscale`, None for the default model.
        image: as for `liif_fast.upscale`.
        grid: ``[H, W, 2]`` or ``[1, H, W, 2]``, floating, laid out as for torch.nn.functional.grid_sample with
            align_corners=False: a point is (x, y), from (-1, -1), the outer corner of the first pixel, to (1, 1), that
            of the last. A point that is NaN or infinite shows nothing.
        padding: what a point outside the picture shows: "border", its nearest point inside, or "zeros", nothing.
            Nothing is 0 in every channel: black, or transparent in a picture with alpha.
        wrap: the picture repeats along "x" (a panorama of 360 degrees), "y" or both ("xy", True), as for
            `liif_fast.upscale`. No point is outside along these axes, and a grid may jump from one end to the other.
        backend: as for `liif_fast.query`.
        precision: as for `liif_fast.query`.
        tile: as for `liif_fast.upscale`.
        memory: as for `liif_fast.upscale`, without the grid. A grid of more points than a quarter of it holds, at 64
            bytes a point, is divided into blocks of rows, and each block encodes what it sees.
        progress: as for `liif_fast.upscale`.

    Raises:
        UsageError: a grid or an argument that makes no sense.
        ImageError: a picture that does not fit.
        BackendError: the backend that was asked for cannot run.
        CheckpointError: a file that holds no model.
        LiifError: the memory does not suffice.
    """
    network, picture = open_model(model), read_if_path(image)
    pixels = open_picture(picture.image, network)
    points = _Points(
        _checked(grid).to(pixels.device),
        (pixels.shape[-2], pixels.shape[-1]),
        padding,
        periodic.axes(wrap),
        periodic.margins(network, wrap, (MAX_CELL, MAX_CELL)),
    )
    options = Options(backend, precision, tile, memory, progress=progress)
    return values_of(Output(network, pixels, _PointTarget(points), options).whole(picture.image), picture)


def _checked(grid: Tensor | np.ndarray) -> Tensor:
    """The grid as a floating tensor [H, W, 2], or UsageError."""
    if not isinstance(grid, (Tensor, np.ndarray)):
        raise UsageError(f"grid: expected a tensor or an array [H, W, 2], got {type(grid).__name__}")
    floating = grid.is_floating_point() if isinstance(grid, Tensor) else grid.dtype.kind == "f"
    sides = grid.shape[1:] if grid.ndim == 4 and grid.shape[0] == 1 else grid.shape
    if len(sides) != 3 or sides[-1] != 2 or 0 in sides or not floating:
        raise UsageError(f"grid: expected floating [H, W, 2] or [1, H, W, 2], got {grid.dtype} {list(grid.shape)}")
    if isinstance(grid, np.ndarray):
        grid = torch.from_numpy(grid.astype(np.float64 if grid.dtype.itemsize > 4 else np.float32))
    return grid.detach().to(torch.promote_types(grid.dtype, torch.float32)).reshape(sides)


class _Points:
    """The points of a grid, numbered row by row, and where they lie on the padded picture."""

    def __init__(
        self,
        grid: Tensor,
        shape: tuple[int, int],
        padding: str,
        along: tuple[bool, bool],
        margin: tuple[int, int],
    ) -> None:
        """shape: (H, W) of the picture; along, margin: whether and with how many pixels it repeats, (y, x)."""
        if padding not in PADDINGS:
            raise UsageError(f"padding: expected one of {', '.join(PADDINGS)}, got {padding!r}")
        self.size = grid.shape[0], grid.shape[1]
        self.xy = grid.reshape(-1, 2)
        self.shape, self.padding, self.along, self.margin = shape, padding, along, margin
        self.padded = shape[0] + 2 * margin[0], shape[1] + 2 * margin[1]

    def shown(self, points: Span) -> Tensor:
        """Whether each of these points shows something of the picture: bool [points]."""
        xy = self.xy[points.start : points.stop]
        shown = xy.isfinite().all(dim=1)
        if self.padding == "zeros":
            for value, repeats in zip(xy.unbind(1), self.along[::-1], strict=True):
                shown &= (value.abs() <= 1) | repeats
        return shown

    def coord(self, index: Tensor) -> Tensor:
        """Where these points lie on the padded picture: [points, 2] float32, (y, x)."""
        axes = []
        lengths = zip(self.xy[index].flip(1).unbind(1), self.along, self.shape, self.padded, strict=True)
        for value, repeats, length, padded in lengths:
            inside = value - 2 * ((value + 1) / 2).floor() if repeats else value.clamp(-1, 1)
            axes.append((inside * (length / padded)).float())
        return torch.stack(axes, dim=1)

    def pixels(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of the padded picture's pixel under each of these points, int32."""
        rows, cols = (
            ((value + 1) * (length / 2)).int().clamp(0, length - 1)
            for value, length in zip(self.coord(index).unbind(1), self.padded, strict=True)
        )
        return rows, cols

    def cell(self, index: Tensor) -> Tensor:
        """Size of the pixel that each of these points stands for, on the padded picture: [points, 2] float32, (y, x).

        For steps (ax, ay) along the row and (bx, by) along the column it is (sqrt(ay^2 + by^2), sqrt(ax^2 + bx^2)):
        the upright pixel whose points vary along y and along x as much as those of the parallelogram of the steps.
        """
        height, width = self.size
        row, col = index // width, index % width
        along = self._step(index, 1, col > 0, col < width - 1)
        down = self._step(index, width, row > 0, row < height - 1)
        # Where the grid says nothing of one direction, pixels are square; where it says nothing at all, they are those
        # of the picture.
        turned = torch.stack([-along[:, 1], along[:, 0]], dim=1)
        along = torch.where(along.isnan(), torch.stack([down[:, 1], -down[:, 0]], dim=1), along)
        down = torch.where(down.isnan(), turned, down)
        sides = (along.square() + down.square()).sqrt().nan_to_num(1.0).clamp(max=MAX_CELL).flip(1)
        return (sides * (2 / sides.new_tensor(self.padded))).float()

    def _step(self, index: Tensor, offset: int, before: Tensor, after: Tensor) -> Tensor:
        """From a point to the next, [points, 2] (x, y) in pixels of the picture: the mean of the steps on both sides.

        before, after: whether there is a neighbour `offset` points away. NaN where there is none with a place.
        """
        here = self.xy[index]
        back = here - self.xy[(index - offset).clamp(min=0)]
        forth = self.xy[(index + offset).clamp(max=len(self.xy) - 1)] - here
        steps = torch.stack([back, forth])
        # A grid that jumps from one end of a repeating picture to the other has gone a short way.
        repeats = torch.tensor(self.along[::-1], device=steps.device)
        steps = torch.where(repeats, steps - 2 * (steps / 2).round(), steps)
        there = torch.stack([before, after]) & steps.isfinite().all(dim=-1)
        steps = steps.where(there.unsqueeze(-1), torch.nan).nanmean(dim=0)
        return steps * (steps.new_tensor(self.shape[::-1]) / 2)

    def deal(self, index: Tensor, height: int, width: int) -> list[_PointTile]:
        """These points by tiles of at most height x width pixels of the padded picture."""
        if not len(index):
            return []
        rows, cols = self.pixels(index)
        tops, lefts = (
            torch.tensor([span.start for span in cut(int(axis.min()), int(axis.max()) + 1, side)], device=axis.device)
            for axis, side in ((rows, height), (cols, width))
        )
        number = torch.searchsorted(tops, rows, right=True).sub_(1).mul_(len(lefts))
        number += torch.searchsorted(lefts, cols, right=True).sub_(1)
        counts = number.bincount().tolist()
        order = number.argsort(stable=True)
        runs = zip(*(values[order].split(counts) for values in (rows, cols, index)), strict=True)
        return [_PointTile(self, _around(ys, xs), run) for ys, xs, run in runs if len(run)]


@dataclass(frozen=True)
class _PointTile:
    """Points on one part of the padded picture. box: the pixels under them; index: their numbers."""

    points: _Points
    box: Box
    index: Tensor

    @property
    def region(self) -> Region:
        return Region(self.points.padded, self.box)

    @property
    def count(self) -> int:
        return len(self.index)

    def features(self, shape: tuple[int, int], halo: int, from_corner: bool) -> tuple[Span, Span]:
        # The corner of the pixel that a point stands for is half a cell away.
        away = int(MAX_CELL / 2) if from_corner else 0
        rows, cols = (
            widen(Span((start - away) * length // pixels, -(-(stop + away) * length // pixels)), REACH + halo, length)
            for start, stop, length, pixels in zip(
                self.box[:2], (self.box.bottom, self.box.right), shape, self.points.padded, strict=True
            )
        )
        return rows, cols

    def bands(self, most: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        for run in cut(0, self.count, most):
            index = self.index[run.start : run.stop]
            coord, cell = self.points.coord(index), self.points.cell(index)
            yield coord.unsqueeze(0).to(device), cell.unsqueeze(0).to(device)

    def halves(self) -> list[_PointTile]:
        height, width = self.box[2:]
        if height >= width:
            return self.points.deal(self.index, -(-height // 2), width)
        return self.points.deal(self.index, height, -(-width // 2))


class _PointTarget:
    """The points of a grid, as an `output.Target`."""

    def __init__(self, points: _Points) -> None:
        self.points, self.size = points, points.size

    def parts(self, model: nn.Module, pictures: Sequence[Pixels], options: Options) -> Iterator[tuple[Box, Tensor]]:
        """Blocks of the grid's rows, as many as a part of the memory has room for."""
        jobs = open_jobs(model, [periodic.pad(picture, self.points.margin) for picture in pictures], options)
        padded = self.points.padded
        tile_sides = jobs[0].tile_sides(Region(padded, Box(0, 0, *padded)), options)
        height, width = self.size
        for rows in cut(0, height, max(1, jobs[0].memory(options) // 4 // POINT_BYTES // width)):
            values = self._block(jobs, rows, tile_sides, options.progress)
            yield Box(rows.start, 0, rows.stop - rows.start, width), values.view(len(values), -1, width)

    def _block(self, jobs: Sequence[Job], rows: Span, tile_sides: tuple[int, int], progress: Progress | None) -> Tensor:
        """The values of these rows of the grid, [jobs * out_dim, points] float32, 0 for a point that shows nothing."""
        start, stop = rows.start * self.size[1], rows.stop * self.size[1]
        shown = self.points.shown(Span(start, stop)).nonzero().flatten().add_(start)
        nothing = (stop - start - len(shown)) * len(jobs)

        def report(done: int) -> None:
            if progress is not None:
                progress(start * len(jobs) + nothing + done, self.size[0] * self.size[1] * len(jobs))

        values: Tensor | None = None
        for tile, answers in answer_tiles(jobs, self.points.deal(shown, *tile_sides), report):
            if values is None:
                values = torch.zeros(len(answers), stop - start, device=answers.device)
            values[:, (tile.index - start).to(values.device)] = answers
        if values is None:
            report(0)
            values = torch.zeros(jobs[0].decoder.out_dim * len(jobs), stop - start, device=jobs[0].inp.device)
        return values

    def constant(self, value: Tensor, box: Box) -> Tensor:
        shown = self.points.shown(Span(box.top * box.width, box.bottom * box.width)).view(1, box.height, -1)
        return torch.where(shown, value, 0.0)

    def clamp_alpha(self, values: Tensor, alpha: Tensor, box: Box) -> Tensor:
        points = Span(box.top * box.width, box.bottom * box.width)
        shown = self.points.shown(points)
        index = torch.arange(*points, device=shown.device)[shown]
        rows, cols = self.points.pixels(index)
        answers = values.flatten(1)
        if len(index):
            padded = periodic.pad(alpha, self.points.margin)
            answers[:, shown] = clamp_alpha(answers[:, shown], padded, rows.long(), cols.long())
        return answers.view_as(values)


def _around(rows: Tensor, cols: Tensor) -> Box:
    """The smallest box that holds these pixels."""
    top, left = int(rows.min()), int(cols.min())
    return Box(top, left, int(rows.max()) + 1 - top, int(cols.max()) + 1 - left)
