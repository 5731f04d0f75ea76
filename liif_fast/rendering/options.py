"""How a picture is made, without any say in what it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

Progress = Callable[[int, int], None]


class Held(NamedTuple):
    """What the receiver of tiles keeps of the output, to be counted as working memory.

    row_bytes: the bytes of one row of the output; rows: how many it keeps beside those of the tiles being made.
    """

    row_bytes: int
    rows: int


NOTHING = Held(0, 0)


class Fidelity(NamedTuple):
    """In what a result keeps to its picture where the published code does not.

    consistent: its means over the footprints of the input pixels are these (`consistency`). keep_gray: a picture whose
    red, green and blue are equal is computed as gray. keep_hidden_colour: colour under an alpha of 0 is computed as any
    other, and not replaced by the visible colour around it.
    """

    consistent: bool = False
    keep_gray: bool = False
    keep_hidden_colour: bool = False


PUBLISHED = Fidelity()


@dataclass(frozen=True)
class Options:
    """What the public functions are told of the work, in one object that the whole pipeline is handed.

    backend, precision: as in `liif_fast.query`.
    tile: side of a tile in input pixels, without its halo; None lets it follow from the memory.
    memory: bytes (or "1.5G") of working memory, None for the device's default.
    held: what the receiver of the tiles keeps; only a regular output counts it.
    progress: called with (output pixels done, all output pixels) after each band.
    """

    backend: str = "auto"
    precision: str = "auto"
    tile: int | None = None
    memory: int | str | None = None
    held: Held = NOTHING
    progress: Progress | None = None
