"""The argument types of `liif-fast upscale`; their checks are quick and import nothing heavy."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from liif_fast.errors import LiifError, UsageError
from liif_fast.rendering.request import check_side

if TYPE_CHECKING:
    from liif_fast.batch.shards import Shard


def checked(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return an argparse type that reports the errors of the check as they are."""

    def convert(text: str) -> Any:
        try:
            return check(text)
        except LiifError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def number(check: Callable[[Any], Any], kind: type[int] | type[float]) -> Callable[[str], Any]:
    """Return an argparse type for a number that must pass the check."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise UsageError(f"expected a {'whole ' if kind is int else ''}number, got {text!r}") from None
        return check(value)

    return checked(parse)


def suffix(text: str) -> str:
    """Check the suffix of a format that can be written, with or without its dot."""
    from liif_fast.image import format_of

    found = f".{text.lower().removeprefix('.')}"
    format_of(f"x{found}")
    return found


def size(text: str) -> tuple[int, int]:
    """Parse WxH into (H, W)."""
    found = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text.strip())
    if not found:
        raise UsageError(f"expected WxH in whole pixels, such as 1920x1080, got {text!r}")
    return check_side(int(found[2]), "height"), check_side(int(found[1]), "width")


def resolution(text: str) -> tuple[int, int]:
    """Parse H,W."""
    found = re.fullmatch(r"(\d{1,9}),(\d{1,9})", text.strip())
    if not found:
        raise UsageError(f"expected H,W in whole pixels, such as 1080,1920, got {text!r}")
    return check_side(int(found[1]), "height"), check_side(int(found[2]), "width")


def roi(text: str) -> tuple[int, int, int, int]:
    """Parse x,y,w,h."""
    found = re.fullmatch(r"(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})", text.strip())
    if not found or int(found[3]) < 1 or int(found[4]) < 1:
        raise UsageError(f"expected x,y,w,h in whole input pixels, such as 100,50,320,240, got {text!r}")
    return int(found[1]), int(found[2]), int(found[3]), int(found[4])


def bands(text: str) -> tuple[int, ...]:
    """Parse numbers of bands, counted from 1, separated by commas."""
    if not re.fullmatch(r"[1-9]\d{0,4}(,[1-9]\d{0,4})*", text.strip()):
        raise UsageError(f"expected numbers of bands from 1, such as 4,3,2, got {text!r}")
    return tuple(int(number) for number in text.split(","))


def page(value: Any) -> int:
    """Check the number of a page, counted from 1."""
    if value < 1:
        raise UsageError(f"expected the number of a page, from 1, got {value}")
    return int(value)


def wrap(text: str) -> str:
    """Check the axes along which a picture repeats."""
    if text not in ("x", "y", "xy"):
        raise UsageError(f"expected x, y, xy or nothing, got {text!r}; name the pictures before --wrap")
    return text


def shard(text: str) -> Shard:
    """Parse I/N, or auto."""
    from liif_fast.batch import shards

    return shards.parse(text, os.environ)


def address(text: str) -> str:
    """Check the address of a cluster, as ray.init takes it, or ""; a path behind --ray was meant as a picture."""
    if text not in ("", "auto", "local") and not re.fullmatch(r"[\w.\-]+:\d+", text):
        raise UsageError(f"expected auto, local or HOST:PORT, got {text!r}; name the pictures before --ray")
    return text


def cores(value: Any) -> float:
    """Check the number of processor cores of one actor, which may be a fraction."""
    if not 0 < value <= 1024:
        raise UsageError(f"expected a number of cores above 0, such as 4 or 0.5, got {value}")
    return float(value)
