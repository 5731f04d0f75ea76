"""Rectangles of pixels, without any import: the command line's checks must not wait for torch."""

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


class Region(NamedTuple):
    """The pixels `box` of a whole picture of `size` (H, W)."""

    size: tuple[int, int]
    box: Box

    def part(self, box: Box) -> Region:
        """The pixels of this region that lie in a box, which is counted from the region's top left corner."""
        return self._replace(box=box._replace(top=self.box.top + box.top, left=self.box.left + box.left))
