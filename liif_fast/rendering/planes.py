"""The planes of a picture that a model takes: gray and alpha through a model that knows RGB only."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from liif_fast.box import Box
from liif_fast.rendering.alpha import fill_hidden_colour
from liif_fast.rendering.encoding import INTEGER_MAX, Pixels, input_channels
from liif_fast.rendering.options import PUBLISHED, Fidelity


class AlphaTarget(Protocol):
    """What a target (`output.Target`) knows of alpha."""

    def constant(self, value: Tensor, box: Box) -> Tensor:
        """The box of the output, [1, h, w], of a picture that has this one value [1, 1, 1] everywhere."""

    def clamp_alpha(self, values: Tensor, alpha: Tensor, box: Box) -> Tensor:
        """values [1, h, w] of a box, kept within the source's alpha [1, 1, H', W'] around each of its points."""


class Planes:
    """A picture [1, C, H, W] taken apart into what its model takes, and how the values are joined again.

    A picture of the model's own channels is one plane. Gray and alpha become three equal channels each, whose mean
    comes back. given: what the model is given, pictures of one size.
    """

    def __init__(self, pixels: Pixels, model: nn.Module, fidelity: Fidelity = PUBLISHED) -> None:
        # Gray in three channels is computed as gray, and tripled again.
        self._tripled = fidelity.keep_gray and input_channels(model) == 3 and _is_gray(pixels)
        if self._tripled:
            assert isinstance(pixels, Tensor)
            pixels = torch.cat((pixels[:, :1], pixels[:, 3:]), dim=1)
        channels = pixels.shape[1]
        self.given: list[Pixels] = [pixels]
        self._apart = channels != input_channels(model)
        self._gray = channels < 3
        self._alpha: Tensor | None = None
        self._constant_alpha: Tensor | None = None  # an alpha that is the same everywhere need not be computed
        if not self._apart:
            return
        colour: Pixels = pixels
        if channels % 2 == 0:
            # No picture that stays in its file has alpha.
            assert isinstance(pixels, Tensor)
            alpha = pixels[:, -1:]
            colour = pixels[:, :-1]
            if not fidelity.keep_hidden_colour:
                colour = fill_hidden_colour(colour, alpha)
            if bool((alpha == alpha[0, 0, 0, 0]).all()):
                self._constant_alpha = alpha[0, :, :1, :1].float() / INTEGER_MAX.get(alpha.dtype, 1)
            else:
                self._alpha = alpha
        self.given = [_tripled(colour) if self._gray else colour]
        if self._alpha is not None:
            self.given.append(_tripled(self._alpha))

    def join(self, values: Tensor, target: AlphaTarget, box: Box) -> Tensor:
        """Values [C, h, w] of a box of the output, of what the model made of all that it was given."""
        if not self._apart:
            return values
        colour = _mean(values[:3]) if self._gray else values[:3]
        colour = colour.repeat(3, 1, 1) if self._tripled else colour
        if self._alpha is not None:
            return torch.cat((colour, target.clamp_alpha(_mean(values[3:]), self._alpha, box)))
        if self._constant_alpha is not None:
            return torch.cat((colour, target.constant(self._constant_alpha, box)))
        return colour


def _is_gray(pixels: Pixels) -> bool:
    """Whether red, green and blue are equal everywhere; of a picture that stays in its file this is not asked."""
    if not isinstance(pixels, Tensor) or pixels.shape[1] < 3:
        return False
    red, green, blue = pixels[:, 0], pixels[:, 1], pixels[:, 2]
    return torch.equal(red, green) and torch.equal(red, blue)


def _tripled(plane: Pixels) -> Pixels:
    return plane.expand(-1, 3, -1, -1)


def _mean(values: Tensor) -> Tensor:
    return values.mean(dim=0, keepdim=True)
