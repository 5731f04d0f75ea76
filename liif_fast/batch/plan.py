"""The items of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Item(NamedTuple):
    """One picture: read from source, its output (the whole, or the run's region of it) written to output.

    Items do not depend on each other, and making one again gives the same file: they may be made in any order, by any
    process, and twice.
    """

    source: Path
    output: Path
