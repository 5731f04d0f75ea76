"""`upscale`: a picture of any kind in, the same kind out; gray and alpha through a model that knows RGB only."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from liif_fast import checkpoint
from liif_fast.box import Box
from liif_fast.errors import ImageError, UsageError
from liif_fast.image import plain
from liif_fast.image.windows import Windows, check_range
from liif_fast.rendering import periodic, tiling
from liif_fast.rendering.alpha import bounded, hide, owners
from liif_fast.rendering.encoding import INTEGER_MAX as FULL
from liif_fast.rendering.encoding import Pixels, input_channels
from liif_fast.rendering.render import NOTHING, Held, Progress, pieces
from liif_fast.rendering.tiling import Target


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
    tile, memory, progress: as in `liif_fast.rendering.render.render`.
    max_pixels: pixels of the result above which the call is refused, None for no limit.

    Raises UsageError for arguments that make no sense, ImageError for a picture or region that does not fit,
    BackendError, CheckpointError, and LiifError when memory does not suffice.
    """
    work = upscaling(
        image, scale, size=size, width=width, height=height, roi=roi, wrap=wrap, model=model, max_pixels=max_pixels
    )
    return collect(image, work, backend=backend, precision=precision, tile=tile, memory=memory, progress=progress)


def upscaling(
    image: Any,
    scale: float | Sequence[float] | None = None,
    *,
    size: Sequence[int] | None = None,
    width: int | None = None,
    height: int | None = None,
    roi: Sequence[int] | None = None,
    wrap: bool | str | None = None,
    model: nn.Module | str | os.PathLike[str] | None = None,
    max_pixels: int | None = tiling.MAX_PIXELS,
    part: Box | None = None,
) -> Painting:
    """What `upscale` makes of a picture, to be had in parts. Arguments and errors are those of `upscale`.

    image may also be `liif_fast.image.windows.Windows`, without wrap. part: only these pixels of the result.
    """
    network = open_model(model)
    source = open_picture(image, network)
    shape = source.shape[-2], source.shape[-1]
    goal = tiling.target(shape, scale, size=size, width=width, height=height, roi=roi, max_pixels=max_pixels)
    if part is not None:
        goal = goal._replace(box=part._replace(top=goal.box.top + part.top, left=goal.box.left + part.left))
    footprint = shape[0] / goal.size[0], shape[1] / goal.size[1]
    return Painting(network, source, _Regular(goal, shape, periodic.margins(network, wrap, footprint)))


def open_model(model: nn.Module | str | os.PathLike[str] | None) -> nn.Module:
    """The model itself, the one of a path (kept until another is asked for), or the one of the package."""
    return model if isinstance(model, nn.Module) else _load(None if model is None else os.fspath(model))


@lru_cache(maxsize=1)
def _load(path: str | None) -> nn.Module:
    return checkpoint.load(path)


# -- what comes in --------------------------------------------------------------------------------------------------


def _kind(image: Any) -> str:
    for kind, cls in (("pillow", Image.Image), ("array", np.ndarray), ("tensor", Tensor), ("windows", Windows)):
        if isinstance(image, cls):
            return kind
    raise UsageError(f"image: expected a Pillow picture, a NumPy array or a tensor, got {type(image).__name__}")


def open_picture(image: Any, model: nn.Module) -> Any:
    """The picture as a tensor [1, C, H, W] of its own type, a view where that is possible; checked.

    A picture that stays in its file (`Windows`) is sliced like one, and stays as it is.
    """
    kind = _kind(image)
    if kind == "windows":
        return image
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
        check_range(source)
    return source


def _unfit(image: Any, form: str, model: nn.Module) -> ImageError:
    channels = input_channels(model)
    allowed = "1 to 4" if channels == 3 else str(channels)
    return ImageError(
        f"image: expected {form} with C {allowed}, uint8, uint16 or floating, got {image.dtype} {list(image.shape)}; "
        "call once for each picture of a batch"
    )


# -- what is computed -----------------------------------------------------------------------------------------------


class Goal(Protocol):
    """Where a picture is asked for: the pixels of an output of `sides` (H, W)."""

    sides: tuple[int, int]

    def pieces(
        self, model: nn.Module, sources: Sequence[Pixels], progress: Progress | None, **options: Any
    ) -> Iterator[tuple[Box, Tensor]]:
        """Parts one after another: (place in the output, [out_dim, height, width] float32 in [0, 1]).

        Of several sources, of one size, the values of each part lie one after another.
        """
        ...

    def level(self, value: Tensor, place: Box) -> Tensor:
        """That part [1, h, w] of the output of a picture that has this one value [1, 1, 1]."""
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
        self, model: nn.Module, sources: Sequence[Pixels], progress: Progress | None, **options: Any
    ) -> Iterator[tuple[Box, Tensor]]:
        size, box = self.frame
        padded = [periodic.pad(source, self.margin) for source in sources]
        for part, values in pieces(model, padded, size, box, progress=progress, **options):
            yield Box(part.top - box.top, part.left - box.left, part.height, part.width), values

    def level(self, value: Tensor, place: Box) -> Tensor:
        return value.expand(1, place.height, place.width)

    def bounded(self, values: Tensor, alpha: Tensor, place: Box) -> Tensor:
        size, box = self.frame
        alpha = periodic.pad(alpha, self.margin)
        rows = owners(box.top + place.top, box.top + place.bottom, size[0], alpha.shape[-2])
        cols = owners(box.left + place.left, box.left + place.right, size[1], alpha.shape[-1])
        return bounded(values, alpha, rows.unsqueeze(1), cols.unsqueeze(0))


class Painting:
    """What a goal asks for of a picture (`open_picture`), to be had in parts: colour and alpha in the picture's type.

    size: (H, W) of the whole. channels, dtype: those of the parts.
    """

    def __init__(self, model: nn.Module, source: Pixels, goal: Goal) -> None:
        self.model, self.goal, self.size = model, goal, goal.sides
        self.dtype, self.channels = source.dtype, source.shape[1]
        self.direct = self.channels == input_channels(model)
        self.alpha: Tensor | None = None
        self.flat: Tensor | None = None  # an alpha that is the same everywhere and need not be computed
        self.sources: list[Pixels] = [source] if self.direct else self._apart(source)

    def parts(
        self,
        *,
        backend: str = "auto",
        precision: str = "auto",
        tile: int | None = None,
        memory: int | str | None = None,
        held: Held = NOTHING,
        progress: Progress | None = None,
    ) -> Iterator[tuple[Box, Tensor]]:
        """(place, values [channels, h, w] in the picture's type); of `upscaling` in the order of `render.pieces`.

        held: what the receiver keeps of the rows of tiles, counted as working memory. The rest is as in `upscale`.
        """
        options: dict[str, Any] = {"backend": backend, "precision": precision, "tile": tile, "memory": memory}
        if held != NOTHING:
            options["held"] = held
        for place, values in self.goal.pieces(self.model, self.sources, progress, **options):
            yield place, quantised(values if self.direct else self._joined(values, place), self.dtype)

    def _apart(self, source: Pixels) -> list[Pixels]:
        """Gray and alpha for a model for RGB: each as three equal channels, whose mean comes back."""
        if isinstance(source, Windows):
            return [source.tripled()]
        alpha = source[:, -1:] if self.channels % 2 == 0 else None
        colour = source if alpha is None else hide(source[:, :-1], alpha)
        sources: list[Pixels] = [_tripled(colour) if colour.shape[1] == 1 else colour]
        if alpha is not None and bool((alpha == alpha[0, 0, 0, 0]).all()):
            self.flat = alpha[0, :, :1, :1].float() / FULL.get(alpha.dtype, 1)
        elif alpha is not None:
            self.alpha = alpha
            sources.append(_tripled(alpha))
        return sources

    def _joined(self, values: Tensor, place: Box) -> Tensor:
        """Colour and alpha of what the model made of `sources`."""
        colour = _mean(values[:3]) if self.channels < 3 else values[:3]
        if self.alpha is not None:
            return torch.cat((colour, self.goal.bounded(_mean(values[3:]), self.alpha, place)))
        if self.flat is not None:
            return torch.cat((colour, self.goal.level(self.flat, place)))
        return colour


def _tripled(plane: Tensor) -> Tensor:
    return plane.expand(-1, 3, -1, -1)


def _mean(values: Tensor) -> Tensor:
    return values.mean(dim=0, keepdim=True)


def quantised(values: Tensor, dtype: torch.dtype) -> Tensor:
    """values in [0, 1] in the dtype, integers rounded to nearest; values may be overwritten."""
    return values.mul_(FULL[dtype]).round_().to(dtype) if dtype in FULL else values.to(dtype)


# -- what goes out --------------------------------------------------------------------------------------------------


def collect(image: Any, work: Painting, **options: Any) -> Any:
    """The whole work, as the same kind of object as the image. options: as in `Painting.parts`."""
    out: Tensor | None = None
    for place, values in work.parts(**options):
        if out is None:
            out = _empty(image, values, work.size)
        out[:, place.top : place.bottom, place.left : place.right] = values
    assert out is not None
    return _like(image, out)


def _empty(image: Any, values: Tensor, size: Sequence[int]) -> Tensor:
    """[C, H, W] like a part's values, laid out as the kind of picture that came in wants it."""
    if _kind(image) == "tensor":
        return values.new_empty(values.shape[0], *size)
    return values.new_empty(*size, values.shape[0], device="cpu").permute(2, 0, 1)


def _like(image: Any, out: Tensor) -> Any:
    """The result as the kind of picture that came in."""
    kind = _kind(image)
    if kind == "tensor":
        return out.unsqueeze(0) if image.dim() == 4 else out
    array = out.permute(1, 2, 0).numpy()
    if array.shape[2] == 1 and (kind != "array" or image.ndim == 2):
        array = array[:, :, 0]
    if kind != "pillow":
        return array
    picture = Image.fromarray(array)
    picture.info = {key: image.info[key] for key in ("icc_profile", "dpi") if key in image.info}
    return picture
