"""The items of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from liif_fast.box import Part


class Item(NamedTuple):
    """One picture, or a part of it: read from source, its result (or the run's region of it) written to output.

    part: what is made of the result, None for the whole of it (`boxes.divide` says which results are divided).

    Items do not depend on each other, and making one again gives the same files: they may be made in any order, by any
    process, and twice.
    """

    source: Path
    output: Path
    part: Part | None = None
