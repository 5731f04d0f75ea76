"""Results that keep the means of their picture: exact for whole factors, the same in parts, flat where it is flat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import tiny_liif
from torch import Tensor

import liif_fast
from liif_fast.rendering.consistency import Axis
from liif_fast.rendering.options import Fidelity, Options
from liif_fast.rendering.request import Request
from liif_fast.rendering.source import open_picture
from liif_fast.upscaling import prepare_output

MODEL = tiny_liif()


def noise(channels: int = 3, height: int = 40, width: int = 33) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4


def made(picture: Tensor, scale: float, tile: int | None = None, **request: Any) -> Tensor:
    pixels = open_picture(picture, MODEL, any_level=True)
    region = Request(scale, **request).region((picture.shape[-2], picture.shape[-1]), None)
    output = prepare_output(MODEL, pixels, region, Options(tile=tile), fidelity=Fidelity(consistent=True))
    result: Tensor = output.whole(picture)
    return result


def means(result: Tensor, height: int, width: int) -> Tensor:
    """The result averaged over the footprint of each input pixel."""
    rows = Axis(height, result.shape[-2]).means(0, height)
    return Axis(width, result.shape[-1]).means(0, width)(rows(result, 1, 0), 2, 0)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.data())
def test_what_is_spread_has_the_means_that_it_was_spread_from(length: int, factor: int, data: st.DataObject) -> None:
    axis = Axis(length, length * factor)
    values = torch.tensor(data.draw(st.lists(st.floats(-1, 1, width=32), min_size=length, max_size=length)))
    wide = axis.spread(0, axis.out)(values, 0, 0)
    assert wide.shape == (axis.out,)
    assert (axis.means(0, length)(wide, 0, 0) - values).abs().max() < 1e-5


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 200))
def test_constants_stay_constant_on_every_axis(length: int, out: int) -> None:
    axis = Axis(length, out)
    assert (axis.spread(0, out)(torch.ones(length), 0, 0) - 1).abs().max() < 1e-5
    assert (axis.means(0, length)(torch.ones(out), 0, 0) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_means_are_those_of_the_picture(scale: int) -> None:
    picture = noise()
    result = made(picture, scale)
    assert (F.avg_pool2d(result, scale) - picture).abs().max() < 2e-6


@pytest.mark.parametrize(("scale", "most"), [(2.7, 1e-4), (3.3, 1e-4), (1.5, 2e-3)])
def test_means_come_near_for_other_factors(scale: float, most: float) -> None:
    picture = noise()
    result = made(picture, scale)
    assert (means(result, 40, 33) - picture).abs().max() < most
    assert abs(float(result.mean() - picture.mean())) < 1e-4


@pytest.mark.parametrize("scale", [2, 2.7, 1.5, 0.7])
def test_parts_equal_the_whole(scale: float) -> None:
    picture = noise()
    whole = made(picture, scale)
    assert torch.equal(made(picture, scale, tile=16), whole)
    roi = (7, 9, 20, 15)
    top, left, height, width = Request(scale, roi=roi).region((40, 33), None).box
    assert torch.equal(made(picture, scale, roi=roi), whole[:, top : top + height, left : left + width])


@pytest.mark.parametrize("scale", [2, 4, 12, 3.3, 0.5])
@pytest.mark.parametrize("level", [0.0, 1.0, 0.3])
def test_flat_pictures_stay_flat_to_their_borders(level: float, scale: float) -> None:
    assert (made(torch.full((3, 20, 17), level), scale) - level).abs().max() < 1e-6


def test_a_shrunk_picture_keeps_its_mean() -> None:
    picture = noise()
    assert abs(float(made(picture, 0.5).mean() - picture.mean())) < 2e-5


def test_outliers_come_back_and_spoil_nothing() -> None:
    picture = noise()
    picture[:, 20, 16] = 30.0
    back = F.avg_pool2d(made(picture, 2), 2)
    # No result goes beyond the greatest value and 0, so that the one pixel falls short of it, and some leaks beside it.
    assert (back[:, 20, 16] > 27).all()
    back[:, 18:23, 14:19] = picture[:, 18:23, 14:19]
    assert (back - picture).abs().max() < 1e-4
    assert torch.equal(made(picture, 2)[:, :12], made(noise(), 2)[:, :12])


# -- through `upscale` ----------------------------------------------------------------------------------------------


def test_eight_bits_sixteen_bits_and_floats_keep_their_means() -> None:
    base = noise(3, 24, 20).permute(1, 2, 0).numpy()
    for dtype, full in ((np.uint8, 255), (np.uint16, 65535), (np.float32, 1)):
        array = (base * full).round().astype(dtype) if full > 1 else base
        result = liif_fast.upscale(array, 3, model=MODEL, consistent=True)
        assert result.dtype == dtype
        back = result.astype(float).reshape(24, 3, 20, 3, 3).mean(axis=(1, 3))
        assert np.abs(back - array).max() <= (0.51 if full > 1 else 1e-5)


@pytest.mark.parametrize("alpha", [False, True])
def test_gray_in_three_channels_stays_gray(alpha: bool) -> None:
    gray = (noise(1, 24, 20)[0].numpy() * 255).round().astype(np.uint8)
    planes = [gray, gray, gray, np.where(gray > 120, 255, 80).astype(np.uint8)][: 4 if alpha else 3]
    result = liif_fast.upscale(np.dstack(planes), 2.5, model=MODEL, consistent=True)
    assert result.shape == (60, 50, 4 if alpha else 3)
    assert (result[..., 0] == result[..., 1]).all()
    assert (result[..., 0] == result[..., 2]).all()
    # Without the option, the published code's colours.
    assert (liif_fast.upscale(np.dstack(planes[:3]), 2.5, model=MODEL)[..., 0] != result[..., 0]).any()


def test_saturated_flats_move_by_two_levels_at_most() -> None:
    for colour in ((0, 255, 0), (255, 0, 255), (254, 254, 254), (1, 1, 1)):
        picture = np.full((24, 20, 3), colour, np.uint8)
        for scale in (2, 4, 7.3):
            result = liif_fast.upscale(picture, scale, model=MODEL, consistent=True).astype(int)
            assert np.abs(result - colour).max() <= 2


def test_a_picture_that_repeats(tmp_path: Any) -> None:
    picture = noise(3, 24, 20)
    result = liif_fast.upscale(picture, 2, model=MODEL, consistent=True, wrap="xy")
    assert (F.avg_pool2d(result, 2) - picture).abs().max() < 2e-6
    rolled = liif_fast.upscale(picture.roll((7, 5), (1, 2)), 2, model=MODEL, consistent=True, wrap="xy")
    assert (rolled - result.roll((14, 10), (1, 2))).abs().max() < 1e-5
