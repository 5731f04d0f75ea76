"""Tiles of an output picture, in whole numbers: how it is cut, and which input each tile sees.

An axis of n output pixels lies over one of m input (or feature) pixels so that both span [-1, 1]: the centre of output
pixel o is at (2 o + 1) m / (2 n) - 1/2 input pixels. Everything here is exact integer arithmetic on that line.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from liif_fast.box import Box
from liif_fast.rendering.request import SMALLEST_TILE

ROUNDING = 1  # pixels by which a float32 look-up may differ from the exact one


class Span(NamedTuple):
    """Pixels start <= i < stop of an axis."""

    start: int
    stop: int


def feature_span(start: int, stop: int, out: int, feat: int, *, from_corner: bool = False) -> Span:
    """Features that the queries of output pixels start <= o < stop can look at.

    out, feat: pixels of the whole output axis and of the whole feature axis. The neighbours are the two features
    around a query's centre (for any switch setting); ROUNDING allows for float32 coordinates.
    from_corner: a query looks at the one feature under the top-left corner of its pixel, as in Meta-SR.
    """
    if from_corner:
        first, last = start * feat // out, (stop - 1) * feat // out
    else:
        first = (2 * start + 1) * feat // (2 * out) - 1
        last = -(-(2 * stop - 1) * feat // (2 * out))
    return Span(max(0, first - ROUNDING), min(feat, last + ROUNDING + 1))


def widen(span: Span, margin: int, length: int) -> Span:
    """The span with margin pixels more on each side, as far as the axis reaches."""
    return Span(max(0, span.start - margin), min(length, span.stop + margin))


def cut(start: int, stop: int, most: int) -> list[Span]:
    """The span start <= i < stop cut into as few spans of at most `most` pixels as possible, of even sizes."""
    count = -(-(stop - start) // most)
    edges = [start + k * (stop - start) // count for k in range(count + 1)]
    return [Span(a, b) for a, b in pairwise(edges)]


def tiles(box: Box, height: int, width: int) -> list[Box]:
    """The box cut into tiles of at most height x width pixels, row by row: every pixel lies in exactly one."""
    return [
        Box(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)
        for rows in cut(box.top, box.bottom, height)
        for cols in cut(box.left, box.right, width)
    ]


def core_sides(height: int, width: int, halo: int, pixels: int, tallest: int | None = None) -> tuple[int, int]:
    """Sides of the largest tiles of a height x width picture that have `pixels` pixels with a halo on each side.

    They are the whole picture where that is small enough (it needs no halo), and otherwise at least SMALLEST_TILE long.
    tallest: the most rows that a tile may have (but never below SMALLEST_TILE); it is then as wide as `pixels` allows.
    """
    tallest = height if tallest is None else max(SMALLEST_TILE, tallest)
    if height * width <= pixels and height <= tallest:
        return height, width
    side = int(pixels**0.5)
    if width <= side:
        rows, cols = pixels // width - 2 * halo, width
    elif height <= side:
        rows, cols = height, pixels // height - 2 * halo
    else:
        rows, cols = side - 2 * halo, side - 2 * halo
    if rows > tallest:
        rows, cols = tallest, min(width, pixels // (tallest + 2 * halo) - 2 * halo)
    return max(min(SMALLEST_TILE, height), rows), max(min(SMALLEST_TILE, width), cols)


def strip_rows(width: int, memory: int, column: int, pixel: int) -> int:
    """Rows of strips as wide as the picture, each of which goes on from the one above; 0 where memory is too small.

    column, pixel: bytes that each column of the picture and each pixel of a strip take.
    """
    rows = (memory - width * column) // (width * pixel)
    return rows if rows >= SMALLEST_TILE else 0


def halves(box: Box) -> list[Box]:
    """The box cut in two across its longer side."""
    if box.height >= box.width:
        return tiles(box, -(-box.height // 2), box.width)
    return tiles(box, box.height, -(-box.width // 2))
