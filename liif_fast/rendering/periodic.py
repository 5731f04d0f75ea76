"""Pictures that repeat (textures, panoramas): a margin of the neighbouring periods, as wide as anything can see.

A padded picture is rendered by the same tiles as any other. The whole output grows by whole output pixels too, so each
pixel that is asked for keeps its place in its input pixel; what the encoder makes of the padding's own ends is never
looked at.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from liif_fast.box import Region
from liif_fast.errors import UsageError
from liif_fast.rendering.encoding import Pixels, encoder_of

NONE = (0, 0)
REACH = 4  # input pixels that a query sees beside its own: neighbours, unfolding, rounding, and one more


def axes(wrap: bool | str | None) -> tuple[bool, bool]:
    """Whether the picture repeats along (y, x): of True or "xy" (both), "x", "y", or None or False (neither).

    Raises UsageError for anything else.
    """
    named = "xy" if wrap is True else wrap or ""
    if named not in ("", "x", "y", "xy", "yx"):
        raise UsageError(f'wrap: expected True, "x", "y", "xy" or None, got {wrap!r}')
    return "y" in named, "x" in named


def margins(model: nn.Module, wrap: bool | str | None, footprint: tuple[float, float]) -> tuple[int, int]:
    """Input pixels (y, x) that a repeating picture needs on each side; 0 along an axis that does not repeat.

    footprint: the greatest side, in input pixels, of an output pixel. UsageError for an encoder without a known
    `receptive_radius`: one that takes means over the whole picture (RCAN) sees the padding's ends from everywhere.
    """
    along = axes(wrap)
    if not any(along):
        return NONE
    radius = getattr(encoder_of(model), "receptive_radius", None)
    if radius is None:
        raise UsageError(
            f"wrap: expected an encoder with a known receptive_radius, got {type(encoder_of(model)).__name__}, which "
            "may see the whole picture; use an EDSR or RDN model"
        )
    # Meta-SR looks half a footprint away from the query.
    needed = (int(radius) + REACH + math.ceil(side / 2) for side in footprint)
    down, across = (need if there else 0 for need, there in zip(needed, along, strict=True))
    return down, across


def pad(picture: Pixels, margin: tuple[int, int]) -> Any:
    """The picture [1, C, H, W] with margin (y, x) more pixels of its neighbouring periods on each side.

    Raises UsageError for a picture that stays in its file, which has no margin.
    """
    if not isinstance(picture, Tensor):
        if margin != NONE:
            raise UsageError("wrap: expected a picture in memory, got one that stays in its file; read it whole")
        return picture
    for dim, width in zip((-2, -1), margin, strict=True):
        if width:
            length = picture.shape[dim]
            index = torch.arange(-width, length + width, device=picture.device) % length
            picture = picture.index_select(dim, index)
    return picture


def padded_region(region: Region, shape: tuple[int, int], margin: tuple[int, int]) -> tuple[tuple[int, int], Region]:
    """(margin, region) by which a region of the output of a picture of `shape` is rendered from the padded picture.

    The margin is widened so that it makes a whole number of output pixels; at most to whole periods.
    """
    wider, steps = [], []
    for width, length, out in zip(margin, shape, region.size, strict=True):
        unit = length // math.gcd(length, out)
        wider.append(-(-width // unit) * unit)
        steps.append(wider[-1] * out // length)
    size, box = region
    size = size[0] + 2 * steps[0], size[1] + 2 * steps[1]
    return (wider[0], wider[1]), Region(size, box._replace(top=box.top + steps[0], left=box.left + steps[1]))
