"""`sample`: a picture at the points of any grid, such as a rotation, a perspective, a lens or a panorama.

The points are dealt to tiles of the feature map. A tile that no point looks into is never encoded; one that is gets
encoded with an exact halo and answers all of its points, wherever they lie in the grid.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from liif_fast import functional, geometry
from liif_fast.box import Box
from liif_fast.errors import UsageError
from liif_fast.geometry import Window
from liif_fast.rendering import periodic
from liif_fast.rendering.alpha import bounded
from liif_fast.rendering.encoding import Pixels, input_channels
from liif_fast.rendering.render import MODEL, Job, Progress
from liif_fast.rendering.tiling import Span, cut, widen
from liif_fast.upscaling import Painting, collect, open_model, open_picture

PADDINGS = ("border", "zeros")
# Input pixels. Models are trained on cells of 1/4 to 1; far beyond, the MLP extrapolates to no picture at all.
MAX_CELL = 4.0
POINT_BYTES = 64  # of a point while its block is made: its tile, its order, its answer
FOOTPRINT = (MAX_CELL, MAX_CELL)
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

    model, image: as in `liif_fast.upscale`, None for the model that comes with the package.
    grid: [H, W, 2] or [1, H, W, 2], floating, laid out as for torch.nn.functional.grid_sample with
        align_corners=False: a point is (x, y), from (-1, -1), the outer corner of the first pixel, to (1, 1), that of
        the last. What affine_grid(..., align_corners=False) makes fits. A point that is NaN or infinite shows nothing.
    padding: what a point outside of the picture shows: "border", its nearest point inside, or "zeros", nothing.
        Nothing is 0 in every channel: black, or transparent in a picture with alpha.
    wrap: the picture repeats along "x" (a panorama of 360 degrees), "y" or both ("xy", True), as in
        `liif_fast.upscale`; no point is outside along these axes, and a grid may jump from one end to the other.
    backend, precision, tile, progress: as in `liif_fast.upscale`.
    memory: as there, beside the grid too. A grid of more points than a quarter of it holds, at 64 bytes a point, is
        made in blocks of rows, each of which encodes what it sees.

    The cell of each point (the size of the pixel asked for, paper, equation 5) is its footprint on the picture: along
    y and along x the root of the squared steps to the neighbours in the row and in the column, by central differences,
    one-sided beside ends and points that show nothing. So a rotation leaves it alone, and a regular grid gives what
    `upscale` gives, up to float32's rounding. A point is one evaluation: where the grid takes more than a pixel of
    the picture at a step, the result aliases as any point sampling does (shrink the picture before, or average a finer
    grid), and the cell ends at 4 pixels, beyond which no model is of use. There are no gradients.

    Raises UsageError for a grid or an argument that makes no sense, and what `upscale` raises.
    """
    network = open_model(model)
    source = open_picture(image, network)
    shape = source.shape[-2], source.shape[-1]
    points = _Points(
        _checked(grid).to(source.device),
        shape,
        padding,
        periodic.axes(wrap),
        periodic.margins(network, wrap, FOOTPRINT),
    )
    options: dict[str, Any] = {"backend": backend, "precision": precision, "tile": tile, "memory": memory}
    return collect(image, Painting(network, source, points), progress=progress, **options)


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
    """The goal that a grid is: its points, numbered row by row."""

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
        self.sides = grid.shape[0], grid.shape[1]
        self.xy = grid.reshape(-1, 2)
        self.shape, self.padding, self.along, self.margin = shape, padding, along, margin
        self.padded = shape[0] + 2 * margin[0], shape[1] + 2 * margin[1]

    # -- as a goal -----------------------------------------------------------------------------------------------

    def pieces(
        self, model: nn.Module, sources: Sequence[Pixels], progress: Progress | None, **options: Any
    ) -> Iterator[tuple[Box, Tensor]]:
        """Bands of the grid's rows."""
        tile, memory = options.pop("tile"), options.pop("memory")
        jobs = [_Job(model, periodic.pad(source, self.margin), self, **options) for source in sources]
        tile_sides = jobs[0].tile_sides(Box(0, 0, *self.padded), tile, memory)
        height, width = self.sides
        done = 0

        def report(before: int, points: int) -> None:
            if progress is not None:
                progress(before + points, height * width * len(jobs))

        training = model.training
        model.eval()
        try:
            for rows in cut(0, height, jobs[0].rows_at_once(memory)):
                span, answers = Span(rows.start * width, rows.stop * width), []
                for job in jobs:
                    answers.append(job.block(span, tile_sides, partial(report, done)))
                    done += span.stop - span.start
                values = torch.cat(answers)
                yield Box(rows.start, 0, rows.stop - rows.start, width), values.view(len(values), -1, width)
        finally:
            model.train(training)

    def level(self, value: Tensor, place: Box) -> Tensor:
        shown = self.shown(Span(place.top * place.width, place.bottom * place.width)).view(1, place.height, -1)
        return torch.where(shown, value, 0.0)

    def bounded(self, values: Tensor, alpha: Tensor, place: Box) -> Tensor:
        points = Span(place.top * place.width, place.bottom * place.width)
        shown = self.shown(points)
        index = torch.arange(*points, device=self.xy.device)[shown]
        rows, cols = self.pixels(index)
        answers = values.flatten(1)
        if len(index):
            answers[:, shown] = bounded(answers[:, shown], periodic.pad(alpha, self.margin), rows.long(), cols.long())
        return answers.view_as(values)

    # -- geometry ------------------------------------------------------------------------------------------------

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
        height, width = self.sides
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


class _Job(Job):
    """The points of a grid, dealt to tiles of the picture; a `part` is a run of one tile's points."""

    def __init__(self, model: nn.Module, inp: Pixels, points: _Points, backend: str, precision: str) -> None:
        super().__init__(model, inp, (inp.shape[-2], inp.shape[-1]), backend, precision)
        self.points = points
        self.todo: list[tuple[Box, Tensor]] = []

    def rows_at_once(self, memory: int | str | None) -> int:
        """Rows of the grid whose points fit into the part of the memory that is for answers."""
        return max(1, self._budget(memory) // 4 // POINT_BYTES // self.points.sides[1])

    def block(self, points: Span, tile_sides: tuple[int, int], report: Callable[[int], None]) -> Tensor:
        """The values of these points, [out_dim, points] float32 on the input's device, 0 for one that shows nothing."""
        values: Tensor | None = None
        shown = self.points.shown(points).nonzero().flatten().add_(points.start)
        count = points.stop - points.start
        done = count - len(shown)
        self.todo = self.deal(shown, *tile_sides)[::-1]
        while self.todo:
            part, index = self.todo[-1]

            def step(asked: int, before: int = done) -> None:
                report(before + asked)

            answer = self.attempt(Box(0, 0, 1, len(index)), step)
            if answer is None:
                self.check_divisible(part)
                self.todo = [half for whole in self.todo for half in self.halves(*whole)[::-1]]
                continue
            if values is None:
                values = torch.zeros(len(answer), count, device=self.inp.device)
            values[:, (index - points.start).to(values.device)] = answer[:, 0]
            self.todo.pop()
            done += len(index)
        if values is None:
            decoder = self.params or self.metasr
            channels = decoder.out_dim if decoder else input_channels(self.model)
            values = torch.zeros(channels, count, device=self.inp.device)
            report(count)
        return values

    def deal(self, index: Tensor, height: int, width: int) -> list[tuple[Box, Tensor]]:
        """The points by tiles of at most height x width pixels: (what the tile's points see, its points)."""
        if not len(index):
            return []
        rows, cols = self.points.pixels(index)
        tops, lefts = (
            torch.tensor([span.start for span in cut(int(axis.min()), int(axis.max()) + 1, side)], device=axis.device)
            for axis, side in ((rows, height), (cols, width))
        )
        number = torch.searchsorted(tops, rows, right=True).sub_(1).mul_(len(lefts))
        number += torch.searchsorted(lefts, cols, right=True).sub_(1)
        counts = number.bincount().tolist()
        order = number.argsort(stable=True)
        runs = zip(*(values[order].split(counts) for values in (rows, cols, index)), strict=True)
        return [(_around(ys, xs), run) for ys, xs, run in runs if len(run)]

    def halves(self, part: Box, index: Tensor) -> list[tuple[Box, Tensor]]:
        """The tile cut in two across its longer side."""
        if part.height >= part.width:
            return self.deal(index, -(-part.height // 2), part.width)
        return self.deal(index, part.height, -(-part.width // 2))

    def _decoder(self, part: Box, precision: str) -> Callable[[Box], Tensor]:
        """A function of a run of the tile's points that gives [out_dim, 1, points] float32."""
        ask = self._ask(self.todo[-1][0], precision)
        index = self.todo[-1][1]

        def decode(run: Box) -> Tensor:
            points = index[run.left : run.right]
            coord, cell = self.points.coord(points), self.points.cell(points)
            answer = ask(coord.unsqueeze(0).to(self.device), cell.unsqueeze(0).to(self.device))
            return answer[0].float().t().unsqueeze(1)

        return decode

    def _ask(self, seen: Box, precision: str) -> Callable[[Tensor, Tensor], Tensor]:
        """A function of coord and cell, [1, points, 2], of points on the pixels `seen`, that gives their values."""
        height, width = self.encoding.shape(precision)
        if self.backend == MODEL and self.metasr is None:
            self.encoding.whole(precision)
            return self.model.query_rgb  # type: ignore[return-value]
        rows = self._span(seen.top, seen.bottom, height, self.inp.shape[-2])
        cols = self._span(seen.left, seen.right, width, self.inp.shape[-1])
        window = Window(height, width, rows.start, cols.start)
        if self.metasr is not None:
            model, matrices = self.metasr, self.metasr.project(self.encoding.part(rows, cols, precision))
            return lambda coord, cell: model.decode(matrices, coord, cell, window)
        if self.params is None:
            feat = self.encoding.part(rows, cols, precision)
            return lambda coord, cell: _nearest(feat, coord, window)
        params = self.params
        options: dict[str, Any] = {"backend": self.backend, "precision": precision}
        if self.backend == "reference":
            options["feat"] = self.encoding.whole(precision)
        else:
            projected = functional.project(self.encoding.part(rows, cols, precision), params, precision)
            options |= {"feat": None, "projected": projected, "window": window}
        return lambda coord, cell: functional.query(coord=coord, cell=cell, params=params, **options)

    def _span(self, start: int, stop: int, features: int, pixels: int) -> Span:
        """The features that points on the pixels start <= i < stop of an axis can look at."""
        unfold = 1 if self.metasr is not None or (self.params is not None and self.params.feat_unfold) else 0
        # Meta-SR looks half a cell away.
        away = int(MAX_CELL / 2) if self.metasr is not None else 0
        under = Span((start - away) * features // pixels, -(-(stop + away) * features // pixels))
        return widen(under, REACH + unfold, features)


def _around(rows: Tensor, cols: Tensor) -> Box:
    """The smallest box that holds these pixels."""
    top, left = int(rows.min()), int(cols.min())
    return Box(top, left, int(rows.max()) + 1 - top, int(cols.max()) + 1 - left)


def _nearest(feat: Tensor, coord: Tensor, window: Window) -> Tensor:
    """The feature nearest to each point, [1, points, C] (what LIIF is without an MLP)."""
    rows = geometry.nearest_index(coord[0, :, 0], window.height) - window.top
    cols = geometry.nearest_index(coord[0, :, 1], window.width) - window.left
    return feat[0, :, rows, cols].t().unsqueeze(0)
