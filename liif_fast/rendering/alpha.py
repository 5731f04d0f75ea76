"""Alpha beside colour: nothing dark or coloured at its edges, and what is clear or opaque stays so."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from liif_fast.rendering.encoding import INTEGER_MAX as FULL


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


def owners(start: int, stop: int, out: int, length: int) -> Tensor:
    """The input pixel in which each output pixel's centre lies."""
    return (2 * torch.arange(start, stop) + 1) * length // (2 * out)
