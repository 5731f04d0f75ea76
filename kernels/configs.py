"""Tile sizes by GPU generation: a small table, chosen from compile reports (`python -m benchmarks.compile_report`).

None of them has been timed on a GPU yet. Those of half precision have the least static cycles among the tiles that
Triton 3.5 to 3.9 compile without tensor work done twice, without wgmma that ptxas serializes and without a spill (but
for one register of sm_90's projected tile in 3.9, written and read once, outside of the loops).
`liif-fast tune` searches on the user's own device and keeps the winner in the cache directory.
"""

from __future__ import annotations

from typing import NamedTuple


class Tile(NamedTuple):
    """Rows of a tile (4 a query); chunks of layer one's, the inner width and the channels; warps; stages."""

    rows: int
    block_k: int
    block_n: int
    block_c: int
    warps: int
    stages: int


# Compute capability -> tile for 2-byte operands, projected and direct, at WIDTH 256.
HALF: dict[int, tuple[Tile, Tile]] = {
    80: (Tile(64, 64, 64, 64, 8, 2), Tile(64, 32, 64, 64, 8, 2)),
    86: (Tile(64, 32, 32, 64, 4, 2), Tile(32, 32, 64, 64, 4, 2)),
    89: (Tile(64, 32, 32, 64, 4, 2), Tile(32, 32, 64, 64, 4, 2)),
    90: (Tile(128, 64, 32, 64, 8, 3), Tile(128, 32, 32, 64, 8, 2)),
    100: (Tile(128, 64, 64, 64, 8, 2), Tile(128, 64, 64, 64, 8, 2)),
    120: (Tile(64, 32, 32, 64, 4, 2), Tile(32, 32, 64, 64, 4, 2)),
}
# 4-byte operands take twice the shared memory: one small tile fits every generation. "tf32x3" holds each operand in two
# parts, so that some of its registers spill in any tile; these spill least.
FULL: dict[str, tuple[Tile, Tile]] = {
    "fp32": (Tile(32, 16, 16, 32, 4, 2), Tile(32, 16, 16, 32, 8, 1)),
    "tf32": (Tile(32, 16, 16, 32, 4, 2), Tile(32, 16, 16, 32, 4, 2)),
    "tf32x3": (Tile(16, 16, 16, 32, 4, 2), Tile(16, 16, 16, 32, 4, 2)),
}
INTERPRETED = Tile(256, 64, 64, 64, 4, 1)  # in Python, the fewer steps the better


class BackwardTile(NamedTuple):
    """Rows of a tile of the backward kernel (4 a query); chunks of a layer's inputs and outputs; warps; stages."""

    rows: int
    block_k: int
    block_n: int
    warps: int
    stages: int


BACKWARD_HALF: dict[int, BackwardTile] = {
    80: BackwardTile(64, 32, 128, 8, 3),
    86: BackwardTile(64, 32, 128, 8, 3),
    89: BackwardTile(64, 32, 128, 8, 3),
    90: BackwardTile(128, 64, 32, 8, 3),
    100: BackwardTile(128, 64, 64, 8, 2),
    120: BackwardTile(64, 64, 128, 8, 2),
}
BACKWARD_FULL: dict[str, BackwardTile] = {
    "fp32": BackwardTile(32, 16, 64, 8, 2),
    "tf32": BackwardTile(32, 32, 64, 8, 2),
    "tf32x3": BackwardTile(32, 16, 64, 8, 2),
}
INTERPRETED_BACKWARD = BackwardTile(256, 64, 256, 4, 1)


def generation(capability: tuple[int, int]) -> int | None:
    """The newest tabulated generation that a device of this compute capability can run, None below sm_80."""
    number = capability[0] * 10 + capability[1]
    known = [key for key in HALF if key <= number]
    return max(known) if known else None


def choose(capability: tuple[int, int], precision: str, direct: bool) -> Tile:
    """The tile for a device, a precision and a prologue."""
    return FULL.get(precision, HALF[_known(capability)])[direct]


def choose_backward(capability: tuple[int, int], precision: str) -> BackwardTile:
    """The tile of the backward kernel for a device and a precision."""
    return BACKWARD_FULL.get(precision, BACKWARD_HALF[_known(capability)])


def _known(capability: tuple[int, int]) -> int:
    key = generation(capability)
    if key is None:
        raise ValueError(f"expected compute capability 8.0 or newer, got {capability}")
    return key
