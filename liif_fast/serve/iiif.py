"""Requests of the IIIF Image API 3.0 (https://iiif.io/api/image/3.0/) as pure values: parsed, then fitted to a picture.

Nothing here reads a picture. A text is parsed into an `ImageRequest`; `resolve` says which pixels of a picture of a
known size that means, and how large the result is.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import NamedTuple

from liif_fast.box import Box
from liif_fast.errors import LiifError

FORMATS = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
QUALITIES = ("default", "color", "gray")
LONGEST = 200  # characters of one part of a request


class RequestError(LiifError):
    """A request that breaks the standard or asks for more than the server gives: status 400."""


class Limits(NamedTuple):
    """The largest picture that one answer holds, in pixels: its sides and its area."""

    width: int = 4096
    height: int = 4096
    area: int = 2**23


class RegionSpec(NamedTuple):
    """kind: full, square, pixels or percent. values: x, y, width, height of the last two."""

    kind: str
    values: tuple[Fraction, ...] = ()


class SizeSpec(NamedTuple):
    """kind: max, sides, inside (`!w,h`) or percent. values: width and height, None where it follows; or the percent."""

    kind: str
    values: tuple[Fraction | None, ...] = ()
    upscale: bool = False


class ImageRequest(NamedTuple):
    """The five parts of a request; rotation in degrees clockwise, after mirroring."""

    region: RegionSpec
    size: SizeSpec
    rotation: int
    mirror: bool
    quality: str
    format: str


class Resolved(NamedTuple):
    """What a request means for one picture.

    box: the pixels of the picture. size: (H, W) of the result before it is turned. canonical: the request in the
    standard's canonical form, `{region}/{size}/{rotation}/{quality}.{format}`.
    """

    box: Box
    size: tuple[int, int]
    rotation: int
    mirror: bool
    gray: bool
    format: str
    canonical: str


def parse(region: str, size: str, rotation: str, last: str) -> ImageRequest:
    """The request of four path segments, the last being `{quality}.{format}`; RequestError for any other text."""
    if max(map(len, (region, size, rotation, last))) > LONGEST:
        raise RequestError(f"expected at most {LONGEST} characters in each part of the request, got more")
    quality, _, form = last.rpartition(".")
    if quality not in QUALITIES:
        raise RequestError(f"quality: expected one of {', '.join(QUALITIES)}, got {quality!r}")
    if form not in FORMATS:
        raise RequestError(f"format: expected one of {', '.join(FORMATS)}, got {form!r}")
    angle, mirror = _rotation(rotation)
    return ImageRequest(_region(region), _size(size), angle, mirror, quality, form)


def resolve(request: ImageRequest, width: int, height: int, limits: Limits) -> Resolved:
    """What the request means for a picture of this size; RequestError where the standard says that it is an error."""
    box = _box(request.region, width, height)
    size = _fitted(request.size, box, limits)
    canonical = "/".join(
        (
            "full" if box == Box(0, 0, height, width) else f"{box.left},{box.top},{box.width},{box.height}",
            _canonical_size(size, box, limits),
            f"{'!' if request.mirror else ''}{request.rotation}",
            f"{'gray' if request.quality == 'gray' else 'default'}.{request.format}",
        )
    )
    gray = request.quality == "gray"
    return Resolved(box, size, request.rotation, request.mirror, gray, request.format, canonical)


# -- parsing ----------------------------------------------------------------------------------------------------------

_NUMBER = r"\d{1,9}(?:\.\d{1,20})?|\.\d{1,20}"
_SIDE = r"\d{1,9}"


def _region(text: str) -> RegionSpec:
    if text in ("full", "square"):
        return RegionSpec(text)
    found = re.fullmatch(rf"({_SIDE}),({_SIDE}),({_SIDE}),({_SIDE})", text, re.ASCII)
    if found:
        return RegionSpec("pixels", tuple(map(Fraction, found.groups())))
    found = re.fullmatch(rf"pct:({_NUMBER}),({_NUMBER}),({_NUMBER}),({_NUMBER})", text, re.ASCII)
    if found:
        return RegionSpec("percent", tuple(map(Fraction, found.groups())))
    raise RequestError(f"region: expected full, square, x,y,w,h or pct:x,y,w,h, got {text!r}")


def _size(text: str) -> SizeSpec:
    upscale, rest = text.startswith("^"), text.removeprefix("^")
    if rest == "max":
        return SizeSpec("max", (), upscale)
    found = re.fullmatch(rf"pct:({_NUMBER})", rest, re.ASCII)
    if found:
        percent = Fraction(found[1])
        if percent > 100 and not upscale:
            raise RequestError(f"size: expected at most 100 percent, or ^pct:{found[1]} to enlarge, got {text!r}")
        return SizeSpec("percent", (percent,), upscale)
    found = re.fullmatch(rf"(!?)({_SIDE})?,({_SIDE})?", rest, re.ASCII)
    if not found or not (found[2] or found[3]) or (found[1] and not (found[2] and found[3])):
        raise RequestError(f"size: expected max, w, or ,h or pct:n or w,h or !w,h, with ^ to enlarge, got {text!r}")
    sides = tuple(None if side is None else Fraction(side) for side in (found[2], found[3]))
    if 0 in sides:
        raise RequestError(f"size: expected sides of at least one pixel, got {text!r}")
    return SizeSpec("inside" if found[1] else "sides", sides, upscale)


def _rotation(text: str) -> tuple[int, bool]:
    mirror, rest = text.startswith("!"), text.removeprefix("!")
    if not re.fullmatch(_NUMBER, rest, re.ASCII) or Fraction(rest) not in (0, 90, 180, 270, 360):
        raise RequestError(f"rotation: expected 0, 90, 180 or 270, with ! to mirror first, got {text!r}")
    return int(Fraction(rest)) % 360, mirror


# -- fitting to a picture ---------------------------------------------------------------------------------------------


def _box(spec: RegionSpec, width: int, height: int) -> Box:
    """The pixels that a region means, cut off where the picture ends."""
    if spec.kind == "full":
        return Box(0, 0, height, width)
    if spec.kind == "square":
        side = min(width, height)
        return Box((height - side) // 2, (width - side) // 2, side, side)
    x, y, across, down = spec.values
    if spec.kind == "percent":
        x, across = x * width / 100, across * width / 100
        y, down = y * height / 100, down * height / 100
    left, top = _rounded(x), _rounded(y)
    right, bottom = min(_rounded(x + across), width), min(_rounded(y + down), height)
    if right <= left or bottom <= top:
        raise RequestError(f"region: expected some pixels of the {width} x {height} picture, got none")
    return Box(top, left, bottom - top, right - left)


def _fitted(spec: SizeSpec, box: Box, limits: Limits) -> tuple[int, int]:
    """(H, W) of the result."""
    width, height = Fraction(box.width), Fraction(box.height)
    if spec.kind in ("max", "inside"):
        return _largest(spec, box, limits)
    if spec.kind == "percent":
        (percent,) = spec.values
        assert percent is not None
        across, down = width * percent / 100, height * percent / 100
    else:
        given_width, given_height = spec.values
        assert given_width is not None or given_height is not None
        across = width * (given_height or 0) / height if given_width is None else given_width
        down = height * (given_width or 0) / width if given_height is None else given_height
    result = _rounded(down), _rounded(across)
    if 0 in result:
        raise RequestError("size: expected at least one pixel on each side, got less")
    if not spec.upscale and (result[0] > box.height or result[1] > box.width):
        raise RequestError(
            f"size: expected at most the region's {box.width} x {box.height}, or ^ to enlarge it, "
            f"got {result[1]} x {result[0]}"
        )
    if not _within(result, limits):
        raise RequestError(
            f"size: expected at most {limits.width} x {limits.height} and {limits.area} pixels, "
            f"got {result[1]} x {result[0]}"
        )
    return result


def _largest(spec: SizeSpec, box: Box, limits: Limits) -> tuple[int, int]:
    """The largest size in proportion that fits the limits, a given rectangle, and, without `^`, the region itself."""
    bounds = [Fraction(limits.width, box.width), Fraction(limits.height, box.height)]
    if not spec.upscale:
        bounds.append(Fraction(1))
    if spec.kind == "inside":
        across, down = spec.values
        assert across is not None
        assert down is not None
        bounds += [across / box.width, down / box.height]
    scale = min(bounds)
    if scale * scale * box.width * box.height > limits.area:
        # The square root's error is far below half a pixel; what it leaves is cut off below.
        scale = Fraction(math.sqrt(limits.area / (box.width * box.height)))
    height, width = max(1, _rounded(scale * box.height)), max(1, _rounded(scale * box.width))
    # Rounding may have gone a pixel beyond a limit.
    height, width = min(height, limits.height), min(width, limits.width)
    while height * width > limits.area:
        height, width = (height - 1, width) if height >= width else (height, width - 1)
    return height, width


def _canonical_size(size: tuple[int, int], box: Box, limits: Limits) -> str:
    if size == _largest(SizeSpec("max"), box, limits):
        return "max"
    mark = "^" if size[0] > box.height or size[1] > box.width else ""
    return f"{mark}{size[1]},{size[0]}"


def _within(size: tuple[int, int], limits: Limits) -> bool:
    height, width = size
    return width <= limits.width and height <= limits.height and width * height <= limits.area


def _rounded(value: Fraction) -> int:
    """The nearest whole number, halves upwards."""
    return math.floor(value + Fraction(1, 2))
