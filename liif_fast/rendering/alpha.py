"""Alpha beside colour: its edges get no dark or coloured fringe, and what is clear or opaque stays so."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from liif_fast.rendering.encoding import INTEGER_MAX


def fill_hidden_colour(colour: Tensor, alpha: Tensor) -> Tensor:
    """The colour [1, C, H, W] with that of fully transparent pixels replaced by the visible colour around them.

    Transparent pixels hold anything, black as a rule, and the model would draw it into the edges. The fill is a
    pyramid: means of visible colour over ever larger squares, each used where the finer one holds no visible pixel.
    """
    hidden = alpha == 0
    if not bool(hidden.any()) or bool(hidden.all()):
        return colour
    weight = (~hidden).float()
    filled = _fill(colour.float() * weight, weight)
    if colour.dtype in INTEGER_MAX:
        # Both types are exact in float32, and torch.where takes uint16 only from PyTorch 2.13 on.
        return torch.where(hidden, filled.round_(), colour.float()).to(colour.dtype)
    return torch.where(hidden, filled.to(colour.dtype), colour)


def _fill(total: Tensor, weight: Tensor) -> Tensor:
    """Weighted means total / weight, completed from half the resolution where the weight is 0."""
    mean = total / weight.clamp_min(1e-12)
    height, width = weight.shape[-2:]
    if (height == 1 and width == 1) or bool((weight > 0).all()):
        return mean
    coarse = _fill(F.avg_pool2d(total, 2, ceil_mode=True), F.avg_pool2d(weight, 2, ceil_mode=True))
    spread = F.interpolate(coarse, scale_factor=2, mode="nearest")[..., :height, :width]
    return torch.where(weight > 0, mean, spread)


def clamp_alpha(values: Tensor, alpha: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """The values [1, h, w], each clamped to the least and the greatest alpha of the 3 x 3 input pixels around it.

    rows, cols: the middle pixels of these squares, int64, of shapes that broadcast to [h, w]. What is wholly opaque or
    wholly clear stays exactly so.
    """
    top, left = max(0, int(rows.min()) - 1), max(0, int(cols.min()) - 1)
    near = alpha[:, :, top : int(rows.max()) + 2, left : int(cols.max()) + 2].float() / INTEGER_MAX.get(alpha.dtype, 1)
    high = F.max_pool2d(near, 3, stride=1, padding=1)[0]
    low = -F.max_pool2d(-near, 3, stride=1, padding=1)[0]
    rows, cols = (rows - top).to(alpha.device), (cols - left).to(alpha.device)
    return torch.minimum(torch.maximum(values, low[:, rows, cols]), high[:, rows, cols])


def owner_pixels(start: int, stop: int, out: int, length: int) -> Tensor:
    """The input pixel in which each output pixel's centre lies."""
    return (2 * torch.arange(start, stop) + 1) * length // (2 * out)
