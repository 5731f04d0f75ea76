"""`upscale`: a picture of any kind in, the same kind out, at any size."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from liif_fast.box import Box, Region
from liif_fast.image import values_of
from liif_fast.rendering import periodic
from liif_fast.rendering.alpha import clamp_alpha, owner_pixels
from liif_fast.rendering.consistency import ConsistentTarget
from liif_fast.rendering.encoding import Pixels
from liif_fast.rendering.options import PUBLISHED, Fidelity, Options, Progress
from liif_fast.rendering.output import Output, Target
from liif_fast.rendering.render import pieces
from liif_fast.rendering.request import MAX_PIXELS, Request
from liif_fast.rendering.source import open_model, open_picture, read_if_path


def upscale(
    image: Any,
    scale: float | Sequence[float] | None = None,
    *,
    size: Sequence[int] | None = None,
    width: int | None = None,
    height: int | None = None,
    roi: Sequence[int] | None = None,
    wrap: bool | str | None = None,
    consistent: bool = False,
    model: nn.Module | str | os.PathLike[str] | None = None,
    backend: str = "auto",
    precision: str = "auto",
    tile: int | None = None,
    memory: int | str | None = None,
    max_pixels: int | None = MAX_PIXELS,
    progress: Progress | None = None,
) -> Any:
    """A picture at another size, by any factor, as the same kind of object.

    Args:
        image: a Pillow picture; an array ``[H, W]`` or ``[H, W, C]``, uint8, uint16 or floating in [0, 1]; or a tensor
            ``[C, H, W]`` or ``[1, C, H, W]`` of the same types. C is what the model takes (3), or 1 (gray), 2 (gray,
            alpha) or 4 (RGB, alpha). Gray stays gray, alpha is upscaled separately. A Pillow picture of another mode
            comes back as RGB or gray; its EXIF orientation is left alone (PIL.ImageOps.exif_transpose applies it).
            The path of a file is read and turned upright: the result is a Pillow picture, or an array where the file
            has 16-bit colour or floating values. A warning says what reading changed.
        scale: a number or (y, x); the result is round(H * scale) x round(W * scale).
        size: (H, W) of the result, instead of a scale.
        width: width of the result, the height in proportion.
        height: height of the result, the width in proportion.
        roi: (x, y, width, height) in input pixels: only this part of the result, without computing the rest. A size is
            then the size of that part.
        wrap: the picture repeats along "x", "y" or both ("xy", True), as a texture does: opposite edges see each other,
            and results laid side by side have no seam. Sizes that share no factor with the picture's need a copy of it
            three times as long. Not for encoders that see the whole picture (RCAN).
        consistent: the result keeps to the picture where the published code does not: its mean over each input pixel's
            footprint is that pixel, flat areas stay flat, and a picture whose red, green and blue are equal stays gray.
        model: a module (normalised by its `data_norm`, by the published 0.5 and 0.5 if it has none), the path of a
            checkpoint, or None for the default model.
        backend: as for `liif_fast.query`.
        precision: as for `liif_fast.query`.
        tile: side of a tile in input pixels, without its halo; None chooses it by the memory.
        memory: bytes (or "1.5G") of working memory, None for the device's default.
        max_pixels: the call is refused if the result has more pixels; None for no limit.
        progress: called with (output pixels done, all output pixels).

    Raises:
        UsageError: arguments that make no sense.
        ImageError: a picture or region that does not fit.
        BackendError: the backend that was asked for cannot run.
        CheckpointError: a file that holds no model.
        LiifError: the memory does not suffice.
    """
    network, picture = open_model(model), read_if_path(image)
    pixels = open_picture(picture.image, network)
    region = Request(scale, size, width, height, roi).region((pixels.shape[-2], pixels.shape[-1]), max_pixels)
    options = Options(backend, precision, tile, memory, progress=progress)
    fidelity = Fidelity(consistent, keep_gray=consistent)
    output = prepare_output(network, pixels, region, options, wrap, fidelity)
    return values_of(output.whole(picture.image), picture)


def prepare_output(
    model: nn.Module,
    pixels: Pixels,
    region: Region,
    options: Options,
    wrap: bool | str | None = None,
    fidelity: Fidelity = PUBLISHED,
) -> Output:
    """A region of the output that `upscale` makes of a picture (`open_picture`), to be had in parts.

    A picture that stays in its file cannot wrap. The errors are those of `upscale`.
    """
    shape = pixels.shape[-2], pixels.shape[-1]
    footprint = shape[0] / region.size[0], shape[1] / region.size[1]
    margin = periodic.margins(model, wrap, footprint)
    target: Target = RegularTarget(region, shape, margin)
    if fidelity.consistent:
        target = ConsistentTarget(target, region, shape, margin)
    return Output(model, pixels, target, options, fidelity)


class RegularTarget:
    """A part of a regular output, as an `output.Target`; with a margin, that of a picture that repeats."""

    def __init__(self, region: Region, shape: tuple[int, int], margin: tuple[int, int]) -> None:
        self.size = region.box.height, region.box.width
        self._margin, self._region = periodic.padded_region(region, shape, margin)

    def parts(self, model: nn.Module, pictures: Sequence[Pixels], options: Options) -> Iterator[tuple[Box, Tensor]]:
        return pieces(model, [periodic.pad(picture, self._margin) for picture in pictures], self._region, options)

    def constant(self, value: Tensor, box: Box) -> Tensor:
        return value.expand(1, box.height, box.width)

    def clamp_alpha(self, values: Tensor, alpha: Tensor, box: Box) -> Tensor:
        (height, width), part = self._region.part(box)
        padded = periodic.pad(alpha, self._margin)
        rows = owner_pixels(part.top, part.bottom, height, padded.shape[-2])
        cols = owner_pixels(part.left, part.right, width, padded.shape[-1])
        return clamp_alpha(values, padded, rows.unsqueeze(1), cols.unsqueeze(0))
