"""Tiles: the table, the search, the user's cache. Times are made up; nothing is launched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from liif_fast.cli import main, tune
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
    assert len(tiles) == len(set(tiles)) > 30
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


def test_the_search_stops_where_the_device_failed() -> None:
    """After an error of CUDA every later launch fails too, and the first tile would win."""
    tiles = list(tuning.candidates(configs.HALF[80][0]))[:3]

    def seconds(tile: Tile) -> float:
        if tile == tiles[1]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return 1.0

    with pytest.raises(RuntimeError, match="expected the GPU to go on"):
        tuning.search(tiles, seconds)


def test_candidates_repeat_no_work_and_fit_the_registers() -> None:
    for base in {tile for pair in configs.HALF.values() for tile in pair}:
        for tile in list(tuning.candidates(base))[1:]:
            assert tile.rows // 16 * (tile.block_n // 8) >= tile.warps
            assert tile.rows * 256 // (32 * tile.warps) <= 192


@pytest.mark.skipif(torch.cuda.is_available(), reason="by Triton's interpreter")
@pytest.mark.parametrize("direct", [False, True])
def test_a_tile_whose_answers_are_wrong_is_not_timed(direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    testing = pytest.importorskip("triton.testing")
    monkeypatch.setattr(testing, "do_bench", lambda launch, return_mode: 0.25)
    monkeypatch.setattr(tune, "SIDE", 4)
    monkeypatch.setattr(tune, "CHECKED", 3)
    timer = tune._Timer(torch.device("cpu"), "fp16", direct)
    assert timer(configs.INTERPRETED) == 0.25
    right = timer._launch
    monkeypatch.setattr(timer, "_launch", lambda tile, side: right(tile, side) * 1.1)
    with pytest.raises(tuning.WrongAnswer, match="is off by"):
        timer(configs.INTERPRETED)


def test_a_width_has_its_own_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    winner = Tile(16, 16, 16, 16, 4, 1)
    tuning.keep("GPU A", "fp16", False, winner)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU A")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    source: Any = type("Source", (), {"is_cuda": True, "device": "cuda"})()
    assert tuning.tile_for(source, "fp16", direct=False) == winner
    assert tuning.tile_for(source, "fp16", direct=False, width=64) == configs.HALF[90][0]


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
