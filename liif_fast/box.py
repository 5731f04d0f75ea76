"""A rectangle of pixels, without any import: the command line's checks must not wait for torch."""

from __future__ import annotations

from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        return self.top + self.height

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def pixels(self) -> int:
        return self.height * self.width


class Part(NamedTuple):
    """The pixels `box` of a result of `size` (H, W)."""

    box: Box
    size: tuple[int, int]
