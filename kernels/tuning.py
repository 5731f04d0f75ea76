"""Which tile a launch uses: the one that `liif-fast tune` found on this kind of device, else the table's.

Tuned tiles stand in one JSON file in the user's cache directory, keyed by device name, Triton's version, the
arithmetic, the prologue and the width; a file that cannot be read counts as empty.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from liif_fast.files import replacing
from liif_fast.kernels import configs
from liif_fast.kernels.configs import Tile


def cache_file() -> Path:
    """Where tuned tiles are kept: $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "liif_fast" / "tiles.json"


PUBLISHED_WIDTH = 256  # what is tuned


def tile_for(source: Tensor, precision: str, *, direct: bool, width: int = PUBLISHED_WIDTH) -> Tile:
    """The tile for a launch on the source's device."""
    if not source.is_cuda:
        return configs.INTERPRETED
    tuned = _tuned().get(_key(torch.cuda.get_device_name(source.device), precision, direct, width))
    if tuned is not None:
        return tuned
    return configs.choose(torch.cuda.get_device_capability(source.device), precision, direct)


def candidates(base: Tile) -> Iterator[Tile]:
    """The table's tile and its neighbours: half and twice its rows and chunks, other numbers of warps and stages.

    Those are left out that cannot be fast: where warps repeat one another's part of a product, and where one's sums
    alone take all registers of a thread.
    """
    yield base
    for rows in (base.rows // 2, base.rows, base.rows * 2):
        for block_k in (base.block_k // 2, base.block_k, base.block_k * 2):
            for block_n in (base.block_n // 2, base.block_n, base.block_n * 2):
                for warps in (4, 8):
                    for stages in (1, 2, 3, 4):
                        tile = Tile(rows, block_k, block_n, base.block_c, warps, stages)
                        sane = min(rows, block_k, block_n) >= 16 and max(block_k, block_n) <= 128
                        if sane and tile != base and _may_be_fast(tile):
                            yield tile


def _may_be_fast(tile: Tile) -> bool:
    pieces = (tile.rows // 16) * (tile.block_n // 8)  # of the narrowest product, by matrix instructions
    sums = tile.rows * PUBLISHED_WIDTH // (32 * tile.warps)  # registers of a thread
    return pieces >= tile.warps and sums <= 192


class WrongAnswer(Exception):
    """A tile was compiled to a kernel whose answers are wrong; the fastest is often one that leaves work out."""


def search(tiles: list[Tile], seconds: Callable[[Tile], float]) -> tuple[Tile, float]:
    """The fastest of the tiles, and its time; those that do not compile, do not fit or are wrong are passed over.

    Raises RuntimeError when none runs, or when the device failed: after that nothing on it can be believed.
    """
    best: tuple[Tile, float] | None = None
    for tile in tiles:
        try:
            took = seconds(tile)
        # Too much shared memory or too many registers: what the compiler raises for it differs between versions.
        except Exception as error:
            if "CUDA error" in str(error):
                raise RuntimeError(f"expected the GPU to go on after {tile}, got {error}; start anew") from error
            continue
        if best is None or took < best[1]:
            best = tile, took
    if best is None:
        raise RuntimeError(f"expected one of {len(tiles)} tiles to run, none did")
    return best


def keep(device_name: str, precision: str, direct: bool, tile: Tile, width: int = PUBLISHED_WIDTH) -> Path:
    """Write a winner into the cache file, beside what is there; returns the file."""
    path = cache_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _read(path) | {_key(device_name, precision, direct, width): list(tile)}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    _tuned.cache_clear()
    return path


def _key(device_name: str, precision: str, direct: bool, width: int) -> str:
    arithmetic = precision if precision in configs.FULL else "half"
    prologue = "direct" if direct else "projected"
    return f"{device_name}, triton {triton.__version__}, {arithmetic}, {prologue}, width {width}"


@lru_cache(maxsize=1)
def _tuned() -> dict[str, Tile]:
    fields = len(Tile._fields)
    entries = _read(cache_file()).items()
    return {
        key: Tile(*value)
        for key, value in entries
        if isinstance(value, list) and len(value) == fields and all(isinstance(n, int) and n > 0 for n in value)
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
