"""A large zarr in boxes by several processes at once, and by one that is interrupted or killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.boxes import ALL, RESULT, content, count, run, undivided
from support.paths import ROOT
from support.workspace import names, upscale

from liif_fast import batch, files
from liif_fast.batch import boxes, streaming
from liif_fast.batch.boxes import Gathering
from liif_fast.batch.conversion import Converter, Settings
from liif_fast.batch.manifest import Manifest
from liif_fast.batch.plan import MANIFEST_FOLDER, Item
from liif_fast.batch.runner import Outcome, Runner
from liif_fast.batch.streaming import TILE
from liif_fast.rendering.request import Request

pytest.importorskip("zarr")


@pytest.mark.parametrize("locks", [True, False])
def test_processes_that_make_the_same_boxes_at_once(
    locks: bool, boxed_workspace: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in another order, into a result that is there already: nobody fails, nothing but the result is left."""
    if not locks:
        monkeypatch.setattr(batch.manifest, "_lock", lambda file, wait=False: False)
    run(capsys, "--precision", "bf16")
    how = Settings(Request(4.5), "model.safetensors")
    items = boxes.divide([Item(Path("photo.png"), Path("out", RESULT))], how)
    told: list[Outcome] = []
    threads = []
    for turn in range(3):
        mine = items[2 * turn :] + items[: 2 * turn]
        manifest = Manifest(Path("out"), how.identity())
        runner = Runner(Converter(how), Gathering(mine, told.append, manifest), manifest, overwrite=True)
        threads.append(threading.Thread(target=runner.run, args=(mine,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 3
    if locks:
        assert [outcome.error for outcome in told] == [None] * 3
        assert all(outcome.boxes is not None and outcome.boxes.whole for outcome in told)
        assert names(boxed_workspace / "out") == [RESULT]
    assert content(Path("out", RESULT)) == undivided()


def test_another_process_makes_the_rest_in_the_middle_of_a_box(
    boxed_workspace: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that is written into has got the result's name: what is written then is nothing, and is removed."""
    opened = streaming.ensure_same_folder
    inner: list[Any] = []

    @contextmanager
    def overtaken(folder: Path) -> Iterator[None]:
        with opened(folder):
            if len(inner) == 0:
                inner.append(folder)
                inner.append(upscale("photo.png", "-o", "out/", "-s", "4.5", "--format", "zarr", "-q"))
            yield

    monkeypatch.setattr(streaming, "ensure_same_folder", overtaken)
    assert run(capsys)["boxes"] == count(0, ALL)
    assert inner[1:] == [0]
    assert content(Path("out", RESULT)) == undivided()
    assert names(boxed_workspace / "out") == [RESULT]


@pytest.mark.parametrize("late", ["before the old one steps aside", "after"])
def test_the_quicker_of_two_gives_the_result_its_name(late: str, tmp_path: Path, monkeypatch: Any) -> None:
    """The other's result is put in place in the middle of ours."""
    for name, text in (("made", "new"), ("x.zarr", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").write_text(text)
    honest, calls = os.replace, []

    def interleaved(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == (1 if late == "after" else 0) + 1:
            if (tmp_path / "x.zarr").exists():
                shutil.rmtree(tmp_path / "x.zarr")
            os.rename(tmp_path / "made", tmp_path / "x.zarr")
        honest(source, target)

    monkeypatch.setattr(os, "replace", interleaved)
    with pytest.raises(FileNotFoundError):
        files.replace(tmp_path / "made", tmp_path / "x.zarr")
    assert (tmp_path / "x.zarr" / "zarr.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x.zarr"]


def test_interrupted_and_resumed(boxed_workspace: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put, calls = streaming._write_zarr, []

    def interrupted(*arguments: Any) -> None:
        put(*arguments)
        calls.append(1)
        if len(calls) % 3 == 0:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(streaming, "_write_zarr", interrupted)
    command = ("photo.png", "-o", "out/", "-s", "4.5", "--format", "zarr", "-q")
    for arguments in ([], ["--precision", "bf16"]):
        assert upscale(*command, *arguments) == 130
    assert len(stores := names(boxed_workspace / "out")) == 2
    assert all(name.startswith(".photo_x4.5.") and name.endswith(".boxes.zarr") for name in stores)
    monkeypatch.undo()
    os.chdir(boxed_workspace)
    monkeypatch.setattr(boxes, "SIDE", TILE)
    assert run(capsys, "--resume")["boxes"] == count(4, 2)
    # What there is of the same result by other settings is not of use any more.
    assert names(boxed_workspace / "out") == [RESULT]
    assert content(Path("out", RESULT)) == undivided()


@pytest.mark.slow
def test_killed_and_resumed(boxed_workspace: Path, capsys: Any) -> None:
    arguments = ["upscale", "photo.png", "-o", "out/", "-s", "7.5", "--format", "zarr"]
    arguments += ["--model", "model.safetensors"]
    program = f"""
import sys
from liif_fast.batch import boxes
from liif_fast.cli import main
boxes.SIDE = {TILE}
sys.exit(main({arguments!r}))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def noted() -> int:
        return sum(path.read_text().count('"result"') for path in Path("out").glob(f"{MANIFEST_FOLDER}/*.jsonl"))

    with subprocess.Popen([sys.executable, "-c", program], env=environment) as process:
        while process.poll() is None and noted() < 4:
            time.sleep(0.01)
        process.kill()
    done = noted()
    assert 4 <= done < 12
    (unfinished,) = names(boxed_workspace / "out")
    assert unfinished.endswith(".boxes.zarr")
    assert upscale(*arguments[1:], "--resume", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["boxes"] == {"made": 12 - done, "skipped": done, "all": 12, "whole": True}
    assert names(boxed_workspace / "out") == ["photo_x7.5.zarr"]
    assert upscale("photo.png", "-o", "whole.zarr", "-s", "7.5", "-q") == 0
    assert content("out/photo_x7.5.zarr") == content("whole.zarr")
