"""Tiles and sizes: every output pixel in one tile, every neighbour in its window, sizes as they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from liif_fast import geometry
from liif_fast.box import Box
from liif_fast.rendering import tiling
from liif_fast.rendering.request import MAX_PIXELS, Request, parse_memory
from liif_fast.rendering.tiling import Span

sides = st.integers(1, 150)


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), sides, sides, sides, sides)
def test_tiles_hold_each_pixel_once(top: int, left: int, height: int, width: int, rows: int, cols: int) -> None:
    box = Box(top, left, height, width)
    count = np.zeros((top + height, left + width), dtype=int)
    parts = tiling.tiles(box, rows, cols)
    for part in parts:
        assert part.height <= rows
        assert part.width <= cols
        count[part.top : part.bottom, part.left : part.right] += 1
    assert (count[top:, left:] == 1).all()
    assert count.sum() == box.pixels
    assert len(parts) == -(-height // rows) * -(-width // cols)


@settings(deadline=None)
@given(sides, sides)
def test_halves_hold_each_pixel_once(height: int, width: int) -> None:
    parts = tiling.halves(Box(3, 4, height, width))
    assert len(parts) == (1 if height == width == 1 else 2)
    assert sum(part.pixels for part in parts) == height * width
    assert max(part.pixels for part in parts) <= -(-max(height, width) // 2) * min(height, width)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.data())
@example(10_000, 2_500, None)
@example(999_999, 7, None)
@example(7, 999_999, None)
def test_spans_cover_every_neighbour_and_little_more(out: int, feat: int, data: Any) -> None:
    start = 0 if data is None else data.draw(st.integers(0, out - 1))
    stop = min(out, start + 50) if data is None else data.draw(st.integers(start + 1, out))
    span = tiling.feature_span(start, stop, out, feat)
    ys = geometry.axis_coord(out)[start:stop]
    coord = torch.stack([ys, torch.zeros_like(ys)], dim=-1)[None]
    rows = torch.cat([c.row for e in (True, False) for c in geometry.corners(coord, (feat, 5), e)])
    low, high = int(rows.min()), int(rows.max())
    assert span.start <= low
    assert high < span.stop
    assert low - span.start <= 3
    assert span.stop - high <= 4


@settings(deadline=None)
@given(sides, sides, st.integers(0, 40), st.integers(1, 200_000))
def test_core_sides_fit_the_pixels_where_they_can(height: int, width: int, halo: int, pixels: int) -> None:
    rows, cols = tiling.core_sides(height, width, halo, pixels)
    assert rows >= min(16, height)
    assert cols >= min(16, width)
    if rows > 16 and cols > 16 and (rows < height or cols < width):
        assert min(height, rows + 2 * halo) * min(width, cols + 2 * halo) <= pixels


@pytest.mark.parametrize(("margin", "expected"), [(0, Span(3, 5)), (2, Span(1, 7)), (9, Span(0, 8))])
def test_widen_stops_at_the_ends(margin: int, expected: Span) -> None:
    assert tiling.widen(Span(3, 5), margin, 8) == expected


@settings(deadline=None)
@given(sides, sides, st.floats(0.01, 40))
def test_scale_gives_the_rounded_size(height: int, width: int, scale: float) -> None:
    goal = Request(scale).region((height, width), None)
    assert goal.size == (max(1, round(height * scale)), max(1, round(width * scale)))
    assert goal.box == Box(0, 0, *goal.size)


@settings(deadline=None)
@given(sides, sides, st.floats(0.05, 20), st.data())
def test_regions_of_a_partition_are_a_partition(height: int, width: int, scale: float, data: Any) -> None:
    x, y = data.draw(st.integers(0, width)), data.draw(st.integers(0, height))
    whole = Request(scale).region((height, width), None)
    if not (0 < x < width and 0 < y < height) or min(whole.size) < 2 * max(height, width):
        return
    boxes = [
        Request(scale, roi=(a, b, c - a, d - b)).region((height, width), None)
        for a, c in ((0, x), (x, width))
        for b, d in ((0, y), (y, height))
    ]
    assert all(goal.size == whole.size for goal in boxes)
    assert sum(goal.box.pixels for goal in boxes) == whole.box.pixels


@settings(deadline=None)
@given(sides, sides, sides, sides, st.data())
def test_a_sized_region_has_that_size_and_lies_inside(h: int, w: int, rows: int, cols: int, data: Any) -> None:
    x, y = data.draw(st.integers(0, w - 1)), data.draw(st.integers(0, h - 1))
    roi = (x, y, data.draw(st.integers(1, w - x)), data.draw(st.integers(1, h - y)))
    goal = Request(size=(rows, cols), roi=roi).region((h, w), MAX_PIXELS)
    assert goal.box[2:] == (rows, cols)
    assert goal.box.top >= 0
    assert goal.box.left >= 0
    assert goal.box.bottom <= goal.size[0]
    assert goal.box.right <= goal.size[1]


def test_one_side_gives_the_other_in_proportion() -> None:
    assert Request(width=50).region((300, 200), MAX_PIXELS).size == (75, 50)
    assert Request(height=50).region((300, 200), MAX_PIXELS).size == (50, 33)
    assert Request(height=50, width=60).region((300, 200), MAX_PIXELS).size == (50, 60)
    assert Request(width=50, roi=(0, 0, 100, 20)).region((300, 200), MAX_PIXELS).box == Box(0, 0, 10, 50)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.5G", 1_610_612_736), ("800M", 838_860_800), (2**30, 2**30), ("64MiB", 2**26), ("1gb", 2**30)],
)
def test_memory_in_words(text: str | int, expected: int) -> None:
    assert parse_memory(text) == expected
