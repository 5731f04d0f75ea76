"""A plan on Ray: the same bytes; nothing lost, or made twice, when processes are killed. One cluster for all tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import ROOT
from support.workspace import photo, upscale

from liif_fast.batch import boxes, cluster, streaming
from liif_fast.batch.manifest import _lock
from liif_fast.batch.plan import MANIFEST_FOLDER
from liif_fast.errors import UsageError
from liif_fast.rendering.request import Request

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'liif_fast[ray]'")

pytestmark = pytest.mark.slow
COUNT = 16


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of one core, on which two actors of half a core live; a command in this process finds it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.QUIET.items():
            patch.setenv(name, value)
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        ray.init("local", num_cpus=1, object_store_memory=cluster.OBJECTS, **quiet)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture
def workspace(workspace: Path) -> Path:
    Path("photos/sub").mkdir(parents=True)
    for number in range(COUNT):
        photo().crop((0, 0, 100 + number, 90)).save(f"photos/{'sub/' * (number % 2)}{number:02}.png")
    return workspace


def results() -> dict[str, bytes]:
    """The PNG files, and those of a zarr."""
    files = [*Path("out").rglob("[!.]*.png"), *Path("out").glob("[!.]*.zarr/**/*")]
    return {str(path): path.read_bytes() for path in sorted(files) if path.is_file()}


def lines(key: str) -> Counter[str]:
    """How often the record has a line with this key for each output, or box of it."""
    found: Counter[str] = Counter()
    for path in Path("out", MANIFEST_FOLDER).glob("*.jsonl"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            found[record["output"] + str(record.get("box", ""))] += key in record
    return +found


def wait(condition: Any, what: str) -> Any:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    pytest.fail(f"waited in vain for {what}")


def actors() -> list[int]:
    """The processes of the cluster's actors that make pictures: children of its raylet, a child of this process."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"MapWorker(Map(Actor" in (entry / "cmdline").read_bytes():
                raylet = _parent(int(entry.name))
                if _parent(raylet) == os.getpid():
                    found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return found


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def abandoned() -> bool:
    """Whether nobody holds the record any more: a process that ends has its locks longer than its command line."""
    for path in Path("out", MANIFEST_FOLDER).glob("*.jsonl"):
        with open(path, "rb") as file:
            if not _lock(file):
                return False
    return True


def test_the_same_bytes_and_reports_as_without(address: str, workspace: Path, capfd: Any) -> None:
    for name in ("bad.png", "sub/0.png"):
        Path("photos", name).write_text("text")
    command = ("-r", "photos", "-o", "out", "-s", "1.5")
    assert upscale(*command, "--json") == 1
    plain, (out, err) = results(), capfd.readouterr()
    assert len(plain) == COUNT
    shutil.rmtree("out")
    # What another process has made before is not made again.
    upscale(*command, "--shard", "1/3")
    before = lines("result")
    capfd.readouterr()
    assert upscale(*command, "--json", "--resume", "--ray", "--ray-cores", "0.5") == 1
    assert results() == plain
    ray_out, ray_err = capfd.readouterr()
    expected, records = by_output(out), by_output(ray_out)
    assert records.keys() == expected.keys()
    assert {name for name, record in records.items() if record["skipped"]} == set(before)
    for name, record in records.items():
        same = ("input", "output", "width", "height", "ok", "error")
        assert {key: record.get(key) for key in same} == {key: expected[name].get(key) for key in same}
    # The failures, in their order, and not a word of Ray's own.
    assert ray_err == err
    assert lines("result") == Counter(dict.fromkeys(lines("begun"), 1))


def by_output(text: str) -> dict[str, dict[str, Any]]:
    records = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {str(Path(record["output"]).relative_to("out")): record for record in records}


def test_killed_and_resumed(address: str, workspace: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The actors are killed: the run goes on. Then the whole run is: --resume makes what is missing, and only that.

    The first picture is made in four boxes.
    """
    zarr = pytest.importorskip("zarr")
    zarr.create_array("photos/0.zarr", data=np.asarray(photo()))
    monkeypatch.setattr(boxes, "SIDE", streaming.TILE)
    command = ("-r", "photos", "-o", "out", "-s", "3", "--tile", "16", "--model", "model.safetensors")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["upscale", *command, "--ray", address, "--ray-cores", "0.5"]
    start = "from liif_fast.batch import boxes; from liif_fast.cli import main"
    program = f"{start}; boxes.SIDE = {streaming.TILE}; main({arguments!r})"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, env=environment) as process:
        wait(lambda: lines("result"), "a first result")
        for pid in actors():
            os.kill(pid, signal.SIGKILL)
        before = len(lines("result"))
        assert before < COUNT
        wait(lambda: len(lines("result")) > before, "results after the kill")
        process.send_signal(signal.SIGKILL)
    wait(lambda: not actors() and abandoned(), "the end of the actors")
    finished = lines("result")
    assert before < len(finished) < COUNT + 4, "the run was through before it could be killed"
    assert set(finished.values()) == {1}

    assert upscale(*command, "--resume", "--json") == 0
    records = by_output(capsys.readouterr().out)
    assert len(records) == COUNT + 1
    parts = {name for name in finished if "[" in name}
    assert parts
    divided = records.pop("0_x3.zarr")
    assert divided["boxes"] == {"made": 4 - len(parts), "skipped": len(parts), "all": 4, "whole": True}
    assert {name for name, record in records.items() if record["skipped"]} == set(finished) - parts
    begun = lines("begun")
    # It is noted too when a result in boxes gets its name.
    del begun["0_x3.zarr"]
    assert lines("result") == Counter(dict.fromkeys(begun, 1))
    resumed = results()
    assert not [path for path in Path("out").rglob("*") if ".part" in path.name]
    shutil.rmtree("out")
    assert upscale(*command, "-q") == 0
    assert results() == resumed


@pytest.mark.parametrize(
    ("machines", "cores", "gpus", "expected"),
    [
        ([{"CPU": 8}], None, True, ({"num_cpus": 4, "num_gpus": 0}, 2)),
        ([{"CPU": 2}], None, True, ({"num_cpus": 2, "num_gpus": 0}, 1)),
        ([{"CPU": 2}], 0.5, True, ({"num_cpus": 0.5, "num_gpus": 0}, 4)),
        ([{"CPU": 6}, {"CPU": 7}, {"memory": 1}], None, True, ({"num_cpus": 4, "num_gpus": 0}, 2)),
        ([{"CPU": 32, "GPU": 4}, {"CPU": 8}], None, True, ({"num_cpus": 1, "num_gpus": 1}, 4)),
        ([{"CPU": 32, "GPU": 4}, {"CPU": 8}], 8, True, ({"num_cpus": 8, "num_gpus": 1}, 4)),
        ([{"CPU": 32, "GPU": 4}, {"CPU": 8}], None, False, ({"num_cpus": 4, "num_gpus": 0}, 10)),
    ],
)
def test_actors_for_a_cluster(machines: Any, cores: float | None, gpus: bool, expected: Any) -> None:
    assert cluster.share_out(machines, cores, gpus) == expected


def test_more_cores_than_any_machine_has() -> None:
    with pytest.raises(UsageError, match="--ray-cores: expected at most the 8 cores of the largest machine, got 9"):
        cluster.share_out([{"CPU": 8}, {"CPU": 4}], 9)


def test_a_picture_that_ends_its_process_is_given_up(workspace: Path) -> None:
    from liif_fast.batch.conversion import Settings
    from liif_fast.batch.manifest import Manifest
    from liif_fast.batch.plan import Item

    settings = Settings(Request(1.0), "model.safetensors")
    orders = cluster.Orders(settings, Path("out"), "run", resume=False, overwrite=False, cwd=str(workspace))
    item = Item(Path("photos/00.png"), Path("out/00.png"))
    Path("out").mkdir()
    for _ in range(cluster.ATTEMPTS):
        Manifest(Path("out"), "any", "run").begin(item)
    other = Item(Path("photos/02.png"), Path("out/02.png"))
    Manifest(Path("out"), "any", "other-run").begin(other)
    outcome = cluster.Actor(orders).outcome(item)
    assert outcome.error == "photos/00.png: its process was killed 3 times; out of memory?"
    assert cluster.Actor(orders).outcome(other).error is None
    absent = cluster.Actor(orders._replace(cwd="/not/here"))
    assert "/not/here: expected on every machine" in str(absent.outcome(item).error)


def test_without_ray_the_extra_is_named(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert upscale("photos", "-o", "out", "--ray") == 2
    err = capsys.readouterr().err
    assert "--ray needs Ray: pip install 'liif_fast[ray]'" in err
    assert err.count("\n") == 1
