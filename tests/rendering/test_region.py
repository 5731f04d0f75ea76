"""`roi`: the pixels of the whole result, from an encoder that sees little more than the region."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import WideEncoder, tiny_liif

from liif_fast import upscale
from liif_fast.rendering.request import Request

HALO = 4 + 1 + 1 + 1  # the encoder's radius, unfolding, neighbours, rounding


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.2, 5), st.sampled_from([None, 16]), st.data())
def test_a_region_is_that_part_of_the_whole_and_little_more_is_encoded(
    height: int, width: int, scale: float, tile: int | None, data: Any
) -> None:
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    model: Any = tiny_liif(WideEncoder())
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    whole = upscale(image, scale, model=model)
    seen: list[torch.Size] = []
    model.encoder.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[2:]))
    part = upscale(image, scale, model=model, roi=(x, y, w, h), tile=tile)
    box = Request(scale, roi=(x, y, w, h)).region((height, width), None).box
    crop = whole[:, box.top : box.bottom, box.left : box.right]
    torch.testing.assert_close(part, crop, atol=1e-5, rtol=0)
    # An output pixel of a small scale covers more than the region.
    wide = int(1 / min(1.0, scale)) + 1
    assert all(rows <= h + 2 * (HALO + wide) and cols <= w + 2 * (HALO + wide) for rows, cols in seen)
    if tile is None:
        assert len(seen) == 1
