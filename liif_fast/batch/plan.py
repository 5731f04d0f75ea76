"""What a plan consists of: its items, and the folder in which its manifest lies."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from liif_fast.box import Region

MANIFEST_FOLDER = ".liif-fast"  # its name in the folder of the results


class Item(NamedTuple):
    """One picture, or one part of it: read from source, its result (or the run's region of it) written to output.

    part: the part of the result that is made, None for the whole (`boxes.divide` chooses which results are divided).
    number, of: which part it is, counted from 1, and of how many.

    Items do not depend on each other, and making one again gives the same files: they may be made in any order, by any
    process, and twice.
    """

    source: Path
    output: Path
    part: Region | None = None
    number: int = 1
    of: int = 1
