"""`liif-fast tune` without a GPU: which tiles it times, what it keeps, what it prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from liif_fast.backends import triton as backend
from liif_fast.cli import main, tune

configs = pytest.importorskip("liif_fast.kernels.configs", reason="the Triton kernels")


@pytest.fixture
def as_if_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    monkeypatch.setattr(backend, "unusable_reason", lambda device, precision: None)


@pytest.mark.usefixtures("as_if_on_a_gpu")
def test_the_fastest_tile_of_each_prologue_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from liif_fast.kernels import tuning

    timed: list[Any] = []

    class Timer:
        """The fifth tile is twice as fast as all others."""

        def __init__(self, device: torch.device, precision: str, direct: bool) -> None:
            assert (device.type, precision) == ("cuda", "fp16")
            base = configs.choose((9, 0), precision, direct)
            self.fastest = list(tuning.candidates(base))[4]

        def __call__(self, tile: Any) -> float:
            timed.append(tile)
            return 1.0 if tile == self.fastest else 2.0

    tuning._tuned.cache_clear()
    monkeypatch.setattr(tune, "_Timer", Timer)
    assert main(["tune"]) == 0
    out, err = capsys.readouterr()
    file = tmp_path / "liif_fast" / "tiles.json"
    assert len(out.splitlines()) == 2
    for line, name in zip(out.splitlines(), ("projected", "direct"), strict=True):
        assert line.startswith(f"{name}: Tile(")
        assert line.endswith(f"2.00 times the table's speed -> {file}")
        assert f"{name}: " in err
    assert len(json.loads(file.read_text())) == 2
    assert len(set(timed)) > 30
    tuning._tuned.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="by Triton's interpreter")
@pytest.mark.parametrize("direct", [False, True])
def test_a_launch_is_timed(direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    testing = pytest.importorskip("triton.testing")

    def once(launch: Callable[[], Any], return_mode: str) -> float:
        assert return_mode == "median"
        assert launch().shape == (1, 9, 3)
        return 0.25

    monkeypatch.setattr(testing, "do_bench", once)
    monkeypatch.setattr(tune, "SIDE", 4)
    monkeypatch.setattr(tune, "CHECKED", 2)
    monkeypatch.setattr(tune, "OUT", 3)
    assert tune._Timer(torch.device("cpu"), "fp16", direct)(configs.INTERPRETED) == 0.25
