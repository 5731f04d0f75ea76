"""Coordinates, cells and neighbours against closed forms, grid_sample and exact arithmetic."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from liif_fast import geometry

SIZES = st.integers(1, 2048)


def test_make_coord_puts_pixel_centres_row_major_y_first() -> None:
    coord = geometry.make_coord((2, 4))
    assert coord.dtype == torch.float32
    assert coord.tolist()[:5] == [[-0.5, -0.75], [-0.5, -0.25], [-0.5, 0.25], [-0.5, 0.75], [0.5, -0.75]]


def test_make_coord_takes_ranges_and_keeps_the_grid() -> None:
    coord = geometry.make_coord((2, 1), ranges=[(0, 1), (2, 4)], flatten=False)
    assert coord.shape == (2, 1, 2)
    assert coord[:, 0].tolist() == [[0.25, 3.0], [0.75, 3.0]]


def test_make_cell_is_one_output_pixel() -> None:
    assert geometry.make_cell((4, 8)).shape == (32, 2)
    assert geometry.make_cell((4, 8), count=2).tolist() == [[0.5, 0.25], [0.5, 0.25]]


@given(n=SIZES, out=SIZES)
@settings(max_examples=60, deadline=None)
def test_axis_coord_slices_are_the_grid(n: int, out: int) -> None:
    grid = geometry.make_coord((n, out), flatten=False) if n * out < 100_000 else None
    if grid is not None:
        assert torch.equal(grid[:, 0, 0], geometry.axis_coord(n))
        assert torch.equal(grid[0, :, 1], geometry.axis_coord(out))


@given(n=SIZES, out=SIZES, shift=st.sampled_from([-1, 0, 1]))
@settings(max_examples=200, deadline=None)
def test_nearest_index_agrees_with_grid_sample(n: int, out: int, shift: int) -> None:
    """At every output size, ties included: x2 and its like put look-ups exactly between two pixels."""
    axis = geometry.axis_coord(out)
    coord = torch.stack([torch.zeros_like(axis), axis], dim=-1)[None]
    look = geometry.lookup_coord(coord, (1, n), (0, shift), local_ensemble=shift != 0)
    pixels = torch.arange(n, dtype=torch.float32).view(1, 1, 1, n)
    sampled = F.grid_sample(pixels, look.flip(-1).unsqueeze(1), mode="nearest", align_corners=False)
    assert torch.equal(geometry.nearest_index(look[0, :, 1], n).float(), sampled.flatten())


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_corners_surround_the_query_and_shares_sum_to_one(height: int, width: int, seed: int) -> None:
    coord = torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    found = geometry.corners(coord, (height, width), local_ensemble=True)
    assert len(found) == 4
    for corner in found:
        assert 0 <= corner.row.min() <= corner.row.max() < height
        assert 0 <= corner.col.min() <= corner.col.max() < width
        assert corner.rel.abs().max() <= 2 + 1e-3
    assert (found[0].row <= found[3].row).all()
    assert (found[0].col <= found[3].col).all()
    shares = torch.stack(geometry.blend_weights([corner.area for corner in found]))
    assert torch.allclose(shares.sum(dim=0), torch.ones(1, 50), atol=1e-6)


def test_shares_are_the_opposite_areas() -> None:
    # A quarter of the way from pixel (1, 1) to pixel (2, 2) on a 4 x 4 map: bilinear weights 9/16, 3/16, 3/16, 1/16.
    at = -1 + (2 * (1 + 0.25) + 1) / 4
    found = geometry.corners(torch.tensor([[[at, at]]]), (4, 4), local_ensemble=True)
    assert [(int(c.row), int(c.col)) for c in found] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    shares = torch.stack(geometry.blend_weights([c.area for c in found])).flatten()
    assert torch.allclose(shares, torch.tensor([9, 3, 3, 1]) / 16, atol=1e-5)


def test_without_ensemble_the_nearest_pixel_answers_alone() -> None:
    found = geometry.corners(torch.tensor([[[0.0, 0.99]]]), (3, 5), local_ensemble=False)
    assert [(int(c.row), int(c.col)) for c in found] == [(1, 4)]
    assert torch.allclose(found[0].rel, torch.tensor([[[0.0, (0.99 - 0.8) * 5]]]), atol=1e-6)
    assert geometry.blend_weights([found[0].area])[0].item() == 1


def test_coordinates_outside_the_map_see_its_border() -> None:
    far = torch.tensor([[[-7.0, 9.0]]])
    for corner in geometry.corners(far, (3, 5), local_ensemble=True):
        assert (int(corner.row), int(corner.col)) == (0, 4)
