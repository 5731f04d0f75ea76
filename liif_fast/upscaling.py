"""`upscale`: a picture of any kind in, the same kind out; gray and alpha through a model that knows RGB only."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from liif_fast import checkpoint, tiling
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
    model: a module (normalised by its `data_norm`, by the published 0.5 and 0.5 where it has none), the path of a
        checkpoint, or None for the model that comes with the package.
    backend, precision: as in `liif_fast.query`.
    tile, memory, progress: as in `liif_fast.render.render`.
    max_pixels: pixels of the result above which the call is refused, None for no limit.

    Raises UsageError for arguments that make no sense, ImageError for a picture or region that does not fit,
    BackendError, CheckpointError, and LiifError when memory does not suffice.
    """
    network = model if isinstance(model, nn.Module) else _load(None if model is None else os.fspath(model))
    source = _source(image, network)
    goal = tiling.target(
        (source.shape[-2], source.shape[-1]),
        scale,
        size=size,
        width=width,
        height=height,
        roi=roi,
        max_pixels=max_pixels,
    )
    options: dict[str, Any] = {"backend": backend, "precision": precision, "tile": tile, "memory": memory}
    direct = source.shape[1] == input_channels(network)
    sink = _Sink(image, source, goal.box, alpha=not direct and source.shape[1] % 2 == 0)
    with torch.no_grad():
        if direct:
            _draw(network, source, goal, sink, progress, options)
        else:
            _draw_apart(network, source, goal, sink, progress, options)
    return sink.result()


@lru_cache(maxsize=1)
def _load(path: str | None) -> nn.Module:
    return checkpoint.load(path)


# -- what comes in --------------------------------------------------------------------------------------------------


def _kind(image: Any) -> str:
    for kind, cls in (("pillow", Image.Image), ("array", np.ndarray), ("tensor", Tensor)):
        if isinstance(image, cls):
            return kind
    raise UsageError(f"image: expected a Pillow picture, a NumPy array or a tensor, got {type(image).__name__}")


def _source(image: Any, model: nn.Module) -> Tensor:
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
        "call upscale once for each picture of a batch"
    )


def _check_range(source: Tensor) -> None:
    low, high = (float(value) for value in torch.aminmax(source))
    # A little beyond is what filters leave behind; far beyond is another unit.
    if not (low >= -0.5 and high <= 1.5):
        raise ImageError(f"image: expected floating values in [0, 1], got {low:g} to {high:g}; divide by the maximum")


# -- what is computed -----------------------------------------------------------------------------------------------


def _draw(
    model: nn.Module,
    source: Tensor,
    goal: Target,
    sink: _Sink,
    progress: Progress | None,
    options: dict[str, Any],
    change: Callable[[Tensor, Box], Tensor] | None = None,
    alpha: bool = False,
) -> None:
    """The source through the model into the sink; change sees each tile (and its place in the whole) on the way."""
    for part, values in pieces(model, source, goal.size, goal.box, progress=progress, **options):
        place = Box(part.top - goal.box.top, part.left - goal.box.left, part.height, part.width)
        sink.put(place, values if change is None else change(values, part), alpha)


def _draw_apart(
    model: nn.Module,
    source: Tensor,
    goal: Target,
    sink: _Sink,
    progress: Progress | None,
    options: dict[str, Any],
) -> None:
    """Gray and alpha through a model for RGB: gray as three equal channels whose mean comes back, alpha likewise."""
    alpha = source[:, -1:] if sink.alpha else None
    colour = source if alpha is None else hide(source[:, :-1], alpha)
    flat = alpha is None or bool((alpha == alpha[0, 0, 0, 0]).all())
    total = goal.box.pixels * (1 if flat else 2)

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
        sink.put(Box(0, 0, *goal.box[2:]), level.expand(1, *goal.box[2:]).clone(), alpha=True)
        return

    def keep(values: Tensor, part: Box) -> Tensor:
        return bounded(_mean(values), alpha, part, goal.size)

    again = goal.box.pixels
    _draw(model, _tripled(alpha), goal, sink, lambda done, _: report(done, again), options, keep, alpha=True)


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


def bounded(values: Tensor, alpha: Tensor, part: Box, size: tuple[int, int]) -> Tensor:
    """values [1, h, w] of a tile kept between the least and the greatest alpha of the 3 x 3 input pixels around.

    What is wholly opaque or wholly clear stays exactly so.
    """
    height, width = alpha.shape[-2:]
    rows = _owners(part.top, part.bottom, size[0], height)
    cols = _owners(part.left, part.right, size[1], width)
    top, left = max(0, int(rows[0]) - 1), max(0, int(cols[0]) - 1)
    near = alpha[:, :, top : int(rows[-1]) + 2, left : int(cols[-1]) + 2].float() / FULL.get(alpha.dtype, 1)
    high = F.max_pool2d(near, 3, stride=1, padding=1)[0]
    low = -F.max_pool2d(-near, 3, stride=1, padding=1)[0]
    rows, cols = (rows - top).to(alpha.device), (cols - left).to(alpha.device)
    low, high = (bound.index_select(1, rows).index_select(2, cols) for bound in (low, high))
    return torch.minimum(torch.maximum(values, low), high)


def _owners(start: int, stop: int, out: int, length: int) -> Tensor:
    """The input pixel in which each output pixel's centre lies."""
    return (2 * torch.arange(start, stop) + 1) * length // (2 * out)


# -- what goes out --------------------------------------------------------------------------------------------------


class _Sink:
    """Collects tiles in the source's type, laid out as the kind of picture that came in wants it."""

    def __init__(self, image: Any, source: Tensor, box: Box, alpha: bool) -> None:
        self.image, self.kind = image, _kind(image)
        self.dtype, self.device = source.dtype, source.device
        self.box, self.alpha = box, alpha
        self.out: Tensor | None = None

    def put(self, place: Box, values: Tensor, alpha: bool = False) -> None:
        """values [C, h, w] in [0, 1] into their place; alpha says that they are the last channel."""
        if self.out is None:
            self.out = self._empty(values.shape[0] + self.alpha)
        channels = slice(-1, None) if alpha else slice(0, values.shape[0])
        self.out[channels, place.top : place.bottom, place.left : place.right] = quantised(values, self.dtype)

    def _empty(self, channels: int) -> Tensor:
        if self.kind == "tensor":
            return torch.empty(channels, *self.box[2:], dtype=self.dtype, device=self.device)
        return torch.empty(*self.box[2:], channels, dtype=self.dtype).permute(2, 0, 1)

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
