"""What goes out: the parts of a result in the type of the picture that came in, and the whole as its kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from liif_fast.box import Box
from liif_fast.rendering.encoding import INTEGER_MAX, Pixels
from liif_fast.rendering.options import NOTHING, PUBLISHED, Fidelity, Held, Options
from liif_fast.rendering.planes import AlphaTarget, Planes


class Target(AlphaTarget, Protocol):
    """The points of the picture at which a result of `size` (H, W) is asked for: a regular output, or any grid."""

    size: tuple[int, int]

    def parts(self, model: nn.Module, pictures: Sequence[Pixels], options: Options) -> Iterator[tuple[Box, Tensor]]:
        """Parts of the result one after another: (box in it, [out_dim, height, width] float32 in [0, 1]).

        The values of several pictures of one size lie one after another.
        """


class Output:
    """The result for one picture, to be had in parts, or whole.

    size: (H, W). channels, dtype: those of the parts, which are the picture's.
    """

    def __init__(
        self, model: nn.Module, pixels: Pixels, target: Target, options: Options, fidelity: Fidelity = PUBLISHED
    ) -> None:
        self.size, self.channels, self.dtype = target.size, pixels.shape[1], pixels.dtype
        self._model, self._target, self._options = model, target, options
        self._planes = Planes(pixels, model, fidelity)

    def parts(self, held: Held = NOTHING) -> Iterator[tuple[Box, Tensor]]:
        """(box, values [channels, h, w] in the picture's type); those of a regular output in the order of its tiles.

        held: what the receiver keeps of the rows of tiles, counted as working memory.
        """
        options = replace(self._options, held=held)
        for box, values in self._target.parts(self._model, self._planes.given, options):
            yield box, quantise(self._planes.join(values, self._target, box), self.dtype)

    def whole(self, image: Any) -> Any:
        """All of it, as the same kind of object as the image that came in."""
        out: Tensor | None = None
        for box, values in self.parts():
            if out is None:
                out = _empty_like(image, values, self.size)
            out[:, box.top : box.bottom, box.left : box.right] = values
        assert out is not None
        return _as_kind_of(image, out)


def quantise(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values in [0, 1] in the dtype, integers rounded to nearest; values may be overwritten."""
    return values.mul_(INTEGER_MAX[dtype]).round_().to(dtype) if dtype in INTEGER_MAX else values.to(dtype)


def _empty_like(image: Any, values: Tensor, size: tuple[int, int]) -> Tensor:
    """An empty result [C, H, W] of the type of its parts, laid out as the kind of picture that came in wants it."""
    if isinstance(image, Tensor):
        return values.new_empty(values.shape[0], *size)
    return values.new_empty(*size, values.shape[0], device="cpu").permute(2, 0, 1)


def _as_kind_of(image: Any, out: Tensor) -> Any:
    """The result [C, H, W] as the kind of picture that came in."""
    if isinstance(image, Tensor):
        return out.unsqueeze(0) if image.dim() == 4 else out
    array = out.permute(1, 2, 0).numpy()
    if array.shape[2] == 1 and not (isinstance(image, np.ndarray) and image.ndim == 3):
        array = array[:, :, 0]
    if not isinstance(image, Image.Image):
        return array
    picture = Image.fromarray(array)
    picture.info = {key: image.info[key] for key in ("icc_profile", "dpi") if key in image.info}
    return picture
