"""Sizes, regions and tiles of an output picture, in whole numbers: what is asked for and what it takes to make it.

An axis of n output pixels lies over one of m input (or feature) pixels so that both span [-1, 1]: the centre of output
pixel o is at (2 o + 1) m / (2 n) - 1/2 input pixels. Everything here is exact integer arithmetic on that line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from liif_fast.box import Box
from liif_fast.errors import ImageError, UsageError

MAX_PIXELS = 400_000_000  # output pixels beyond which a picture must be asked for twice (400 megapixels)
MAX_SCALE = 1_000.0
# Beyond about this many pixels on an axis, float32 coordinates no longer tell neighbours apart reliably.
MAX_SIDE = 1_000_000
SMALLEST = 16  # input pixels: no tile is made smaller than this
ROUNDING = 1  # pixels by which a float32 look-up may differ from the exact one


class Span(NamedTuple):
    """Pixels start <= i < stop of an axis."""

    start: int
    stop: int


class Target(NamedTuple):
    """What to render: `box` of a whole output picture of `size` (H, W)."""

    size: tuple[int, int]
    box: Box


def feature_span(start: int, stop: int, out: int, feat: int) -> Span:
    """Features that the queries of output pixels start <= o < stop can look at.

    out, feat: pixels of the whole output axis and of the whole feature axis. The neighbours are the two features
    around a query's centre (for any switch setting); ROUNDING allows for float32 coordinates.
    """
    first = (2 * start + 1) * feat // (2 * out) - 1
    last = -(-(2 * stop - 1) * feat // (2 * out))
    return Span(max(0, first - ROUNDING), min(feat, last + ROUNDING + 1))


def widen(span: Span, margin: int, length: int) -> Span:
    """The span with margin pixels more on each side, as far as the axis reaches."""
    return Span(max(0, span.start - margin), min(length, span.stop + margin))


def cut(start: int, stop: int, most: int) -> list[Span]:
    """The span start <= i < stop in as few spans of at most `most` pixels as will do, of even sizes."""
    count = -(-(stop - start) // most)
    edges = [start + k * (stop - start) // count for k in range(count + 1)]
    return [Span(a, b) for a, b in pairwise(edges)]


def tiles(box: Box, height: int, width: int) -> list[Box]:
    """The box in tiles of at most height x width pixels, row by row: every pixel lies in exactly one."""
    return [
        Box(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)
        for rows in cut(box.top, box.bottom, height)
        for cols in cut(box.left, box.right, width)
    ]


def core_sides(height: int, width: int, halo: int, pixels: int, tallest: int | None = None) -> tuple[int, int]:
    """Sides of the largest tiles of a height x width picture that have `pixels` pixels with a halo on each side.

    The whole picture where that is small enough (it needs no halo); otherwise at least SMALLEST on a side. Where a
    tallest is given, not higher than that (or SMALLEST), and then as wide as the pixels allow.
    """
    tallest = height if tallest is None else max(SMALLEST, tallest)
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
    return max(min(SMALLEST, height), rows), max(min(SMALLEST, width), cols)


def strip_rows(width: int, memory: int, column: int, pixel: int) -> int:
    """Rows of strips as wide as the picture, where a strip takes on what the one above it left; 0 without the memory.

    column, pixel: bytes that each column of the picture and each pixel of a strip take.
    """
    rows = (memory - width * column) // (width * pixel)
    return rows if rows >= SMALLEST else 0


def halves(box: Box) -> list[Box]:
    """The box cut in two across its longer side."""
    if box.height >= box.width:
        return tiles(box, -(-box.height // 2), box.width)
    return tiles(box, box.height, -(-box.width // 2))


def target(
    shape: tuple[int, int],
    scale: float | Sequence[float] | None = None,
    *,
    size: Sequence[int] | None = None,
    width: int | None = None,
    height: int | None = None,
    roi: Sequence[int] | None = None,
    max_pixels: int | None = MAX_PIXELS,
) -> Target:
    """What to render of a picture of shape (H, W).

    scale: a number or a pair (y, x); the whole output is round(H * scale) x round(W * scale).
    size: (H, W) of the result; width, height: one side of it, the other in proportion (both: size).
    roi: (x, y, width, height) in input pixels. With a scale the result is exactly that part of the whole output;
        with a size the result has that size, and the whole output is as large as that implies.
    max_pixels: result pixels allowed, None for any number.

    Raises UsageError for numbers that make no sense, ImageError for a region outside of the picture and for a result
    beyond max_pixels.
    """
    region = _region(roi, shape)
    sides = width is not None or height is not None
    given = [
        name for name, there in (("scale", scale is not None), ("size", size is not None), ("sides", sides)) if there
    ]
    if len(given) != 1:
        got = " and ".join(given).replace("sides", "width/height") or "neither"
        raise UsageError(f"expected either a scale, a size, or a width and/or height, got {got}")
    if scale is not None:
        result = _scaled(shape, region, scale)
    else:
        rows, cols = _sides(region, width, height) if size is None else _pair(size, "size")
        result = _sized(shape, region, (check_side(rows, "height"), check_side(cols, "width")))
    for side in result.size:
        check_side(side, "side of the whole output")
    if max_pixels is not None and result.box.pixels > max_pixels:
        raise ImageError(
            f"expected an output of at most {max_pixels / 1e6:g} megapixels, got {result.box.pixels / 1e6:,.0f} "
            f"({result.box.width} x {result.box.height}): ask for less, or pass --force (max_pixels=None in Python)"
        )
    return result


def check_scale(value: Any) -> float:
    """The scale, or UsageError unless it is a number above 0 and at most MAX_SCALE."""
    number = _number(value, "scale")
    if not 0 < number <= MAX_SCALE:
        raise UsageError(f"scale: expected a number above 0 and at most {MAX_SCALE:g}, got {value}")
    return number


def check_side(value: Any, name: str) -> int:
    """The side in pixels, or UsageError unless it is a whole number from 1 to MAX_SIDE."""
    number = _number(value, name)
    if not 1 <= number <= MAX_SIDE or number != int(number):
        raise UsageError(f"{name}: expected a whole number of pixels from 1 to {MAX_SIDE}, got {value}")
    return int(number)


def check_tile(value: Any) -> int:
    """The side of a tile in input pixels, or UsageError unless it is a whole number from SMALLEST."""
    number = _number(value, "tile")
    if number < SMALLEST or number != int(number):
        raise UsageError(f"tile: expected a whole number of at least {SMALLEST} input pixels, got {value}")
    return int(number)


def parse_memory(value: int | float | str) -> int:
    """Bytes of a number or of a text such as "1.5G" or "800M" (1,024 to the step); UsageError otherwise."""
    text = str(value).strip().upper().removesuffix("B").removesuffix("I")
    power = "KMGT".find(text[-1:]) + 1 if text else 0
    try:
        number = float(text[:-1] if power else text) * 1024**power
    except ValueError:
        number = math.nan
    if not 2**20 <= number <= 2**50:
        raise UsageError(f'memory: expected bytes, or a text such as "1.5G" or "800M", of at least 1M, got {value!r}')
    return int(number)


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name}: expected a number, got {value!r}") from None
    if not math.isfinite(number):
        raise UsageError(f"{name}: expected a finite number, got {value}")
    return number


def _pair(values: Any, name: str) -> tuple[Any, Any]:
    try:
        first, second = values
    except (TypeError, ValueError):
        raise UsageError(f"{name}: expected a pair (height, width), got {values!r}") from None
    return first, second


def _region(roi: Sequence[int] | None, shape: tuple[int, int]) -> Box:
    height, width = shape
    if roi is None:
        return Box(0, 0, height, width)
    try:
        x, y, across, down = (int(value) for value in roi)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"roi: expected (x, y, width, height) in input pixels, got {roi!r}") from None
    if x < 0 or y < 0 or across < 1 or down < 1 or x + across > width or y + down > height:
        raise ImageError(
            f"roi: expected a region inside of the {width} x {height} picture, got x={x}, y={y}, {across} x {down}"
        )
    return Box(y, x, down, across)


def _sides(region: Box, width: int | None, height: int | None) -> tuple[int, int]:
    """(H, W) of the result from one side of it or both."""
    if width is None:
        return check_side(height, "height"), max(1, round(check_side(height, "height") * region.width / region.height))
    down = round(check_side(width, "width") * region.height / region.width)
    return max(1, down) if height is None else check_side(height, "height"), check_side(width, "width")


def _scaled(shape: tuple[int, int], region: Box, scale: float | Sequence[float]) -> Target:
    pair = _pair(scale, "scale") if isinstance(scale, (tuple, list)) else (scale, scale)
    factors = check_scale(pair[0]), check_scale(pair[1])
    size = max(1, round(shape[0] * factors[0])), max(1, round(shape[1] * factors[1]))
    rows = _part(region.top, region.bottom, shape[0], size[0])
    cols = _part(region.left, region.right, shape[1], size[1])
    return Target(size, Box(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start))


def _sized(shape: tuple[int, int], region: Box, result: tuple[int, int]) -> Target:
    height = max(result[0], round(result[0] * shape[0] / region.height))
    width = max(result[1], round(result[1] * shape[1] / region.width))
    top = min(_edge(region.top, shape[0], height), height - result[0])
    left = min(_edge(region.left, shape[1], width), width - result[1])
    return Target((height, width), Box(top, left, *result))


def _part(start: int, stop: int, length: int, out: int) -> Span:
    """The output pixels of input pixels start <= i < stop, at least one."""
    first = min(_edge(start, length, out), out - 1)
    return Span(first, max(first + 1, _edge(stop, length, out)))


def _edge(edge: int, length: int, out: int) -> int:
    """Output edge nearest to an input edge, halves upwards."""
    return (2 * edge * out + length) // (2 * length)
