"""What is asked of a picture: the size of the result, the part of it, the tiles and the memory, checked.

The command line checks its arguments with this module, so it imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from liif_fast.box import Box, Region
from liif_fast.errors import ImageError, UsageError

MAX_PIXELS = 400_000_000  # output pixels beyond which a picture must be asked for twice (400 megapixels)
MAX_SCALE = 1_000.0
# Beyond about this many pixels on an axis, float32 coordinates no longer tell neighbours apart reliably.
MAX_SIDE = 1_000_000
SMALLEST_TILE = 16  # input pixels: no tile is made smaller than this


class Request(NamedTuple):
    """How large a result shall be, and which part of it is wanted; it fits any picture.

    scale: a number or a pair (y, x); the whole output is round(H * scale) x round(W * scale).
    size: (H, W) of the result; width, height: one side of it, the other in proportion (both: size).
    roi: (x, y, width, height) in input pixels. With a scale the result is exactly that part of the whole output;
        with a size the result has that size, and the whole output is as large as that implies.
    """

    scale: float | Sequence[float] | None = None
    size: Sequence[int] | None = None
    width: int | None = None
    height: int | None = None
    roi: Sequence[int] | None = None

    def region(self, shape: tuple[int, int], max_pixels: int | None) -> Region:
        """The part of the whole output that this asks of a picture of shape (H, W).

        max_pixels: the pixels that the result may have, None for any number.

        Raises UsageError for numbers that make no sense, ImageError for a region outside of the picture and for a
        result beyond max_pixels.
        """
        part = _input_box(self.roi, shape)
        sides = None if self.width is None and self.height is None else (self.height, self.width)
        ways = {"scale": self.scale, "size": self.size, "width/height": sides}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            got = " and ".join(given) or "neither"
            raise UsageError(f"expected either a scale, a size, or a width and/or height, got {got}")
        if self.scale is not None:
            result = _scaled(shape, part, self.scale)
        else:
            rows, cols = _sides(part, self.width, self.height) if self.size is None else _pair(self.size, "size")
            result = _sized(shape, part, (check_side(rows, "height"), check_side(cols, "width")))
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
    """The side of a tile in input pixels, or UsageError unless it is a whole number from SMALLEST_TILE."""
    number = _number(value, "tile")
    if number < SMALLEST_TILE or number != int(number):
        raise UsageError(f"tile: expected a whole number of at least {SMALLEST_TILE} input pixels, got {value}")
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


def _input_box(roi: Sequence[int] | None, shape: tuple[int, int]) -> Box:
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


def _sides(part: Box, width: int | None, height: int | None) -> tuple[int, int]:
    """(H, W) of the result from one side of it or both."""
    if width is None:
        return check_side(height, "height"), max(1, round(check_side(height, "height") * part.width / part.height))
    down = round(check_side(width, "width") * part.height / part.width)
    return max(1, down) if height is None else check_side(height, "height"), check_side(width, "width")


def _scaled(shape: tuple[int, int], part: Box, scale: float | Sequence[float]) -> Region:
    pair = _pair(scale, "scale") if isinstance(scale, (tuple, list)) else (scale, scale)
    factors = check_scale(pair[0]), check_scale(pair[1])
    size = max(1, round(shape[0] * factors[0])), max(1, round(shape[1] * factors[1]))
    top, bottom = _output_span(part.top, part.bottom, shape[0], size[0])
    left, right = _output_span(part.left, part.right, shape[1], size[1])
    return Region(size, Box(top, left, bottom - top, right - left))


def _sized(shape: tuple[int, int], part: Box, result: tuple[int, int]) -> Region:
    height = max(result[0], round(result[0] * shape[0] / part.height))
    width = max(result[1], round(result[1] * shape[1] / part.width))
    top = min(_edge(part.top, shape[0], height), height - result[0])
    left = min(_edge(part.left, shape[1], width), width - result[1])
    return Region((height, width), Box(top, left, *result))


def _output_span(start: int, stop: int, length: int, out: int) -> tuple[int, int]:
    """The output pixels of input pixels start <= i < stop, at least one."""
    first = min(_edge(start, length, out), out - 1)
    return first, max(first + 1, _edge(stop, length, out))


def _edge(edge: int, length: int, out: int) -> int:
    """Output edge nearest to an input edge, halves upwards."""
    return (2 * edge * out + length) // (2 * length)
