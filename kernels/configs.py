"""Tile sizes by GPU generation: a small table, chosen from compile reports (`python -m benchmarks.compile_report`)."""

from __future__ import annotations

from typing import NamedTuple


class Tile(NamedTuple):
    """rows of a tile (4 a query), chunk of layer one's and of the inner width, warps, pipeline stages."""

    rows: int
    block_k: int
    block_n: int
    warps: int
    stages: int
