"""Tiles: the table, the search, the user's cache. Times are made up; nothing is launched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from liif_fast.cli import main
from liif_fast.kernels import configs, tuning
from liif_fast.kernels.configs import Tile


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuning._tuned.cache_clear()
    return tmp_path / "liif_fast" / "tiles.json"


@pytest.mark.parametrize(
    ("capability", "generation"),
    [((7, 5), None), ((8, 0), 80), ((8, 7), 86), ((9, 0), 90), ((10, 3), 100), ((12, 1), 120)],
)
def test_a_device_uses_the_newest_generation_it_can_run(capability: tuple[int, int], generation: int | None) -> None:
    assert configs.generation(capability) == generation


def test_the_table_knows_precision_and_prologue() -> None:
    assert configs.choose((9, 0), "bf16", False) == configs.HALF[90][0]
    assert configs.choose((9, 0), "fp16", True) == configs.HALF[90][1]
    assert configs.choose((9, 0), "tf32x3", True) == configs.FULL["tf32x3"][1]
    with pytest.raises(ValueError, match=r"8\.0 or newer"):
        configs.choose((7, 5), "fp16", False)


def test_candidates_start_with_the_table_and_are_distinct_and_sane() -> None:
    base = configs.HALF[90][0]
    tiles = list(tuning.candidates(base))
    assert tiles[0] == base
    assert len(tiles) == len(set(tiles)) > 50
    assert all(tile.rows % 4 == 0 and min(tile[:3]) >= 16 for tile in tiles)


def test_the_search_passes_over_what_does_not_run() -> None:
    tiles = list(tuning.candidates(configs.HALF[80][0]))[:5]

    def seconds(tile: Tile) -> float:
        if tile == tiles[1]:
            raise RuntimeError("out of resource: shared memory")
        return {tiles[3]: 1.0}.get(tile, 2.0)

    assert tuning.search(tiles, seconds) == (tiles[3], 1.0)
    with pytest.raises(RuntimeError, match="none did"):
        tuning.search(tiles[1:2], seconds)


def test_winners_are_kept_and_a_damaged_file_counts_as_empty(cache: Path) -> None:
    first, second = Tile(16, 16, 16, 16, 4, 1), Tile(32, 16, 16, 16, 4, 1)
    assert tuning.keep("GPU A", "fp16", False, first) == cache
    tuning.keep("GPU B", "fp32", True, second)
    assert sorted(tuning._tuned().values()) == [first, second]
    cache.write_text('{"GPU A": [1, 2], "x": "y"')
    tuning._tuned.cache_clear()
    assert tuning._tuned() == {}
    cache.write_text('{"a": [1, 2], "b": "y", "c": [64, 64, 64, 64, 0, 1]}')
    tuning._tuned.cache_clear()
    assert tuning._tuned() == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_the_command_says_why_it_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune"]) == 1
    assert capsys.readouterr().err == "liif-fast tune: backend 'triton' cannot run: PyTorch sees no CUDA GPU\n"
