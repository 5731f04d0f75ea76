"""`upscale`: a picture of any kind in, the same kind out; gray and alpha through a model that knows RGB only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from liif_fast import checkpoint, periodic, tiling
from liif_fast.box import Box
from liif_fast.encoding import INTEGER_MAX as FULL
from liif_fast.encoding import input_channels
from liif_fast.errors import ImageError, UsageError
from liif_fast.image import plain
from liif_fast.render import Progress, pieces
from liif_fast.tiling import Target


def upscale(
    image: Any,
    scale: float | Sequence[float] | None = None,
    *,
    size: Sequence[int] | None = None,
    width: int | None = None,
    height: int | None = None,
    roi: Sequence[int] | None = None,
    wrap: bool | str | None = None,
    model: nn.Module | str | os.PathLike[str] | None = None,
    backend: str = "auto",
    precision: str = "auto",
    tile: int | None = None,
    memory: int | str | None = None,
    max_pixels: int | None = tiling.MAX_PIXELS,
    progress: Progress | None = None,
) -> Any:
    """A picture at another size, by any factor, as the same kind of object.

    image: a Pillow picture; an array [H, W] or [H, W, C], uint8, uint16 or floating in [0, 1]; or a tensor [C, H, W]
        or [1, C, H, W] of the same types. C is what the model takes (3), or 1 (gray), 2 (gray, alpha), 4 (RGB, alpha):
        gray stays gray, alpha is upscaled apart. A Pillow picture of another mode comes back as RGB or gray; its EXIF
        orientation is left alone (PIL.ImageOps.exif_transpose applies it).
    scale: a number or (y, x); the result is round(H * scale) x round(W * scale). Or size: (H, W) of the result; or
        width, or height, the other in proportion.
    roi: (x, y, width, height) in input pixels: only that part of the result, without making the rest. A size is then
        the size of that part.
    wrap: the picture repeats along "x", "y" or both ("xy", True), as a texture does: its opposite edges see each
        other, and results laid side by side have no seam. Sizes that share no factor with the picture's need a copy
        of it three times as long. Not for encoders that see the whole picture (RCAN).
    model: a module (normalised by its `data_norm`, by the published 0.5 and 0.5 where it has none), the path of a
        checkpoint, or None for the model that comes with the package.
    backend, precision: as in `liif_fast.query`.
    tile, memory, progress: as in `liif_fast.render.render`.
    max_pixels: pixels of the result above which the call is refused, None for no limit.

    Raises UsageError for arguments that make no sense, ImageError for a picture or region that does not fit,
    BackendError, CheckpointError, and LiifError when memory does not suffice.
    """
    network = open_model(model)
    source = open_picture(image, network)
    shape = source.shape[-2], source.shape[-1]
    goal = tiling.target(shape, scale, size=size, width=width, height=height, roi=roi, max_pixels=max_pixels)
    options: dict[str, Any] = {"backend": backend, "precision": precision, "tile": tile, "memory": memory}
    footprint = shape[0] / goal.size[0], shape[1] / goal.size[1]
    regular = _Regular(goal, shape, periodic.margins(network, wrap, footprint))
    return paint(network, image, source, regular, progress, options)


def open_model(model: nn.Module | str | os.PathLike[str] | None) -> nn.Module:
    """The model itself, the one of a path (kept until another is asked for), or the one of the package."""
    return model if isinstance(model, nn.Module) else _load(None if model is None else os.fspath(model))


@lru_cache(maxsize=1)
def _load(path: str | None) -> nn.Module:
    return checkpoint.load(path)


# -- what comes in --------------------------------------------------------------------------------------------------


def _kind(image: Any) -> str:
    for kind, cls in (("pillow", Image.Image), ("array", np.ndarray), ("tensor", Tensor)):
        if isinstance(image, cls):
            return kind
    raise UsageError(f"image: expected a Pillow picture, a NumPy array or a tensor, got {type(image).__name__}")


def open_picture(image: Any, model: nn.Module) -> Tensor:
    """The picture as a tensor [1, C, H, W] of its own type, a view where that is possible; checked."""
    kind = _kind(image)
    if kind == "tensor":
        batched = image if image.dim() == 4 else image.unsqueeze(0)
        source, form = batched.detach(), "[C, H, W] or [1, C, H, W]"
    else:
        array = np.asarray(plain(image)[0]) if kind == "pillow" else image
        if array.dtype.kind not in "fu":
            raise _unfit(image, "[H, W] or [H, W, C]", model)
        native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
        if not native.flags.writeable:
            # torch warns of arrays it might write to; nothing here does, but it cannot know.
            native = native.copy()
        pixels = torch.from_numpy(native)
        source, form = pixels.unsqueeze(-1) if pixels.dim() == 2 else pixels, "[H, W] or [H, W, C]"
        source = source.permute(2, 0, 1).unsqueeze(0) if source.dim() == 3 else source
    allowed = {input_channels(model)} | ({1, 2, 4} if input_channels(model) == 3 else set())
    known = source.is_floating_point() or source.dtype in FULL
    if source.dim() != 4 or source.shape[0] != 1 or source.shape[1] not in allowed or 0 in source.shape or not known:
        raise _unfit(image, form, model)
    if source.is_floating_point():
        _check_range(source)
    return source


def _unfit(image: Any, form: str, model: nn.Module) -> ImageError:
    channels = input_channels(model)
    allowed = "1 to 4" if channels == 3 else str(channels)
    return ImageError(
        f"image: expected {form} with C {allowed}, uint8, uint16 or floating, got {image.dtype} {list(image.shape)}; "
        "call once for each picture of a batch"
    )


def _check_range(source: Tensor) -> None:
    low, high = (float(value) for value in torch.aminmax(source))
    # A little beyond is what filters leave behind; far beyond is another unit.
    if not (low >= -0.5 and high <= 1.5):
        raise ImageError(f"image: expected floating values in [0, 1], got {low:g} to {high:g}; divide by the maximum")


# -- what is computed -----------------------------------------------------------------------------------------------


class Goal(Protocol):
    """Where a picture is asked for: the pixels of an output of `sides` (H, W)."""

    sides: tuple[int, int]

    def pieces(
        self, model: nn.Module, source: Tensor, progress: Progress | None, **options: Any
    ) -> Iterator[tuple[Box, Tensor]]:
        """Parts one after another: (place in the output, [out_dim, height, width] float32 in [0, 1])."""
        ...

    def level(self, value: Tensor) -> Tensor:
        """The output [1, H, W] of a picture that has this one value [1, 1, 1]."""
        ...

    def bounded(self, values: Tensor, alpha: Tensor, place: Box) -> Tensor:
        """values [1, h, w] of a part, kept within the source's alpha [1, 1, H', W'] around each of its points."""
        ...


class _Regular:
    """A regular output, or a box of it; with a margin, of a picture that repeats."""

    def __init__(self, goal: Target, shape: tuple[int, int], margin: tuple[int, int]) -> None:
        self.sides = goal.box.height, goal.box.width
        self.margin, self.frame = periodic.frame(goal, shape, margin)

    def pieces(
        self, model: nn.Module, source: Tensor, progress: Progress | None, **options: Any
    ) -> Iterator[tuple[Box, Tensor]]:
        size, box = self.frame
        for part, values in pieces(model, periodic.pad(source, self.margin), size, box, progress=progress, **options):
            yield Box(part.top - box.top, part.left - box.left, part.height, part.width), values

    def level(self, value: Tensor) -> Tensor:
        return value.expand(1, *self.sides).clone()

    def bounded(self, values: Tensor, alpha: Tensor, place: Box) -> Tensor:
        size, box = self.frame
        alpha = periodic.pad(alpha, self.margin)
        rows = _owners(box.top + place.top, box.top + place.bottom, size[0], alpha.shape[-2])
        cols = _owners(box.left + place.left, box.left + place.right, size[1], alpha.shape[-1])
        return bounded(values, alpha, rows.unsqueeze(1), cols.unsqueeze(0))


def paint(
    model: nn.Module, image: Any, source: Tensor, goal: Goal, progress: Progress | None, options: dict[str, Any]
) -> Any:
    """What the goal asks for of the image, whose tensor is `source` (`open_picture`), as the same kind of object."""
    direct = source.shape[1] == input_channels(model)
    sink = _Sink(image, source, goal.sides, alpha=not direct and source.shape[1] % 2 == 0)
    with torch.no_grad():
        if direct:
            _draw(model, source, goal, sink, progress, options)
        else:
            _draw_apart(model, source, goal, sink, progress, options)
    return sink.result()


def _draw(
    model: nn.Module,
    source: Tensor,
    goal: Goal,
    sink: _Sink,
    progress: Progress | None,
    options: dict[str, Any],
    change: Callable[[Tensor, Box], Tensor] | None = None,
    alpha: bool = False,
) -> None:
    """The source through the model into the sink; change sees each part (and its place) on the way."""
    for place, values in goal.pieces(model, source, progress, **options):
        sink.put(place, values if change is None else change(values, place), alpha)


def _draw_apart(
    model: nn.Module,
    source: Tensor,
    goal: Goal,
    sink: _Sink,
    progress: Progress | None,
    options: dict[str, Any],
) -> None:
    """Gray and alpha through a model for RGB: gray as three equal channels whose mean comes back, alpha likewise."""
    alpha = source[:, -1:] if sink.alpha else None
    colour = source if alpha is None else hide(source[:, :-1], alpha)
    flat = alpha is None or bool((alpha == alpha[0, 0, 0, 0]).all())
    pixels = goal.sides[0] * goal.sides[1]
    total = pixels * (1 if flat else 2)

    def report(done: int, base: int = 0) -> None:
        if progress is not None:
            progress(base + done, total)

    if colour.shape[1] == 1:
        _draw(
            model, _tripled(colour), goal, sink, lambda done, _: report(done), options, lambda values, _: _mean(values)
        )
    else:
        _draw(model, colour, goal, sink, lambda done, _: report(done), options)
    if alpha is None:
        return
    if flat:
        level = alpha[0, :, :1, :1].float() / FULL.get(alpha.dtype, 1)
        sink.put(Box(0, 0, *goal.sides), goal.level(level), alpha=True)
        return

    def keep(values: Tensor, place: Box) -> Tensor:
        return goal.bounded(_mean(values), alpha, place)

    _draw(model, _tripled(alpha), goal, sink, lambda done, _: report(done, pixels), options, keep, alpha=True)


def _tripled(plane: Tensor) -> Tensor:
    return plane.expand(-1, 3, -1, -1)


def _mean(values: Tensor) -> Tensor:
    return values.mean(dim=0, keepdim=True)


def hide(colour: Tensor, alpha: Tensor) -> Tensor:
    """colour [1, C, H, W] with what shows nowhere replaced by the visible colour around it.

    Invisible pixels hold anything, black as a rule, and the model would draw it into the edges. The fill is a pyramid:
    means of visible colour over ever larger squares, each used where the finer one saw nothing.
    """
    unseen = alpha == 0
    if not bool(unseen.any()) or bool(unseen.all()):
        return colour
    weight = (~unseen).float()
    filled = _fill(colour.float() * weight, weight)
    if colour.dtype in FULL:
        filled = filled.round_()
    return torch.where(unseen, filled.to(colour.dtype), colour)


def _fill(total: Tensor, weight: Tensor) -> Tensor:
    """Weighted means total / weight, completed from half the resolution where the weight is 0."""
    mean = total / weight.clamp_min(1e-12)
    height, width = weight.shape[-2:]
    if (height == 1 and width == 1) or bool((weight > 0).all()):
        return mean
    coarse = _fill(F.avg_pool2d(total, 2, ceil_mode=True), F.avg_pool2d(weight, 2, ceil_mode=True))
    spread = F.interpolate(coarse, scale_factor=2, mode="nearest")[..., :height, :width]
    return torch.where(weight > 0, mean, spread)


def bounded(values: Tensor, alpha: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """values [1, h, w] kept between the least and the greatest alpha of the 3 x 3 input pixels around each.

    rows, cols: those input pixels, int64, of shapes that broadcast to [h, w]. What is wholly opaque or wholly clear
    stays exactly so.
    """
    top, left = max(0, int(rows.min()) - 1), max(0, int(cols.min()) - 1)
    near = alpha[:, :, top : int(rows.max()) + 2, left : int(cols.max()) + 2].float() / FULL.get(alpha.dtype, 1)
    high = F.max_pool2d(near, 3, stride=1, padding=1)[0]
    low = -F.max_pool2d(-near, 3, stride=1, padding=1)[0]
    rows, cols = (rows - top).to(alpha.device), (cols - left).to(alpha.device)
    return torch.minimum(torch.maximum(values, low[:, rows, cols]), high[:, rows, cols])


def _owners(start: int, stop: int, out: int, length: int) -> Tensor:
    """The input pixel in which each output pixel's centre lies."""
    return (2 * torch.arange(start, stop) + 1) * length // (2 * out)


# -- what goes out --------------------------------------------------------------------------------------------------


class _Sink:
    """Collects tiles in the source's type, laid out as the kind of picture that came in wants it."""

    def __init__(self, image: Any, source: Tensor, sides: tuple[int, int], alpha: bool) -> None:
        self.image, self.kind = image, _kind(image)
        self.dtype, self.device = source.dtype, source.device
        self.sides, self.alpha = sides, alpha
        self.out: Tensor | None = None

    def put(self, place: Box, values: Tensor, alpha: bool = False) -> None:
        """values [C, h, w] in [0, 1] into their place; alpha says that they are the last channel."""
        if self.out is None:
            self.out = self._empty(values.shape[0] + self.alpha)
        channels = slice(-1, None) if alpha else slice(0, values.shape[0])
        self.out[channels, place.top : place.bottom, place.left : place.right] = quantised(values, self.dtype)

    def _empty(self, channels: int) -> Tensor:
        if self.kind == "tensor":
            return torch.empty(channels, *self.sides, dtype=self.dtype, device=self.device)
        return torch.empty(*self.sides, channels, dtype=self.dtype).permute(2, 0, 1)

    def result(self) -> Any:
        assert self.out is not None
        if self.kind == "tensor":
            return self.out.unsqueeze(0) if self.image.dim() == 4 else self.out
        array = self.out.permute(1, 2, 0).numpy()
        if array.shape[2] == 1 and (self.kind == "pillow" or self.image.ndim == 2):
            array = array[:, :, 0]
        if self.kind == "array":
            return array
        picture = Image.fromarray(array)
        picture.info = {key: self.image.info[key] for key in ("icc_profile", "dpi") if key in self.image.info}
        return picture


def quantised(values: Tensor, dtype: torch.dtype) -> Tensor:
    """values in [0, 1] in the dtype, integers rounded to nearest; values may be overwritten."""
    return values.mul_(FULL[dtype]).round_().to(dtype) if dtype in FULL else values.to(dtype)
