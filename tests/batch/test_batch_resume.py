"""--resume: what is complete is skipped, what is not is made again, and nobody's file is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.models import tiny_liif
from support.paths import ROOT
from support.workspace import names, photo, upscale

from liif_fast import checkpoint
from liif_fast.batch import conversion
from liif_fast.batch.conversion import Settings
from liif_fast.batch.manifest import Manifest
from liif_fast.batch.plan import MANIFEST_FOLDER, Item
from liif_fast.files import digest
from liif_fast.rendering.request import Request

NAMES = ["a.png", "b.png", "c.png"]
RESULTS = ["a_x0.5.png", "b_x0.5.png", "c_x0.5.png"]


@pytest.fixture
def workspace(workspace: Path) -> Path:
    Path("photos").mkdir()
    for number, name in enumerate(NAMES):
        photo().crop((0, 0, 40 + number, 30)).save(Path("photos", name))
    return workspace


def run(capsys: Any, *arguments: str, code: int = 0) -> dict[str, str]:
    """What became of each picture: "made", "skipped", or an error."""
    assert upscale("photos", "-o", "out", "-s", "0.5", "--json", *arguments) == code
    out, _ = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    return {
        Path(record["input"]).stem: record["error"] or ("skipped" if record["skipped"] else "made")
        for record in records
    }


def contents() -> dict[str, bytes]:
    return {name: Path("out", name).read_bytes() for name in names(Path("out"))}


def manifest_files() -> list[Path]:
    return sorted(Path("out", MANIFEST_FOLDER).iterdir())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def alter(path: Path) -> None:
    """One byte, and neither the size nor the time."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def swap_model() -> None:
    checkpoint.save(tiny_liif(seed=5), "model.safetensors")


def tear() -> None:
    """The record as a power cut may leave it: its last line, which says that c is whole, has lost its end."""
    (path,) = manifest_files()
    truncate(path)


def forget_ends() -> None:
    """As if the run had been killed after each result took its place and before that was noted."""
    (path,) = manifest_files()
    path.write_text("".join(line for line in path.open() if '"begun"' in line))


CHANGES: dict[str, tuple[Callable[[], Any], list[str], str]] = {
    "nothing": (lambda: None, [], ""),
    "output cut off": (lambda: truncate(Path("out/b_x0.5.png")), [], "b"),
    "output altered": (lambda: alter(Path("out/b_x0.5.png")), [], "b"),
    "output emptied": (lambda: Path("out/a_x0.5.png").write_bytes(b""), [], "a"),
    "output missing": (lambda: Path("out/c_x0.5.png").unlink(), [], "c"),
    "outputs swapped": (lambda: os.replace("out/a_x0.5.png", "out/b_x0.5.png"), [], "ab"),
    "input touched": (lambda: os.utime("photos/a.png", (1, 1)), [], ""),
    "input altered": (lambda: photo().crop((9, 9, 49, 39)).save("photos/a.png"), [], "a"),
    "model of other weights": (swap_model, [], "abc"),
    "model elsewhere": (lambda: shutil.copy("model.safetensors", "m.safetensors"), ["--model", "m.safetensors"], ""),
    "precision": (lambda: None, ["--precision", "bf16"], "abc"),
    "backend": (lambda: None, ["--backend", "reference"], "abc"),
    "tile, memory": (lambda: None, ["--tile", "16", "--memory", "100M", "--device", "cpu", "--force"], ""),
    "other pictures": (lambda: photo().resize((30, 20)).save("photos/d.png"), [], "d"),
    "line cut off": (tear, [], "c"),
    "ends not noted": (forget_ends, [], "abc"),
    "no line": (lambda: manifest_files()[0].write_bytes(b""), ["--overwrite"], "abc"),
    "no record": (lambda: shutil.rmtree(Path("out", MANIFEST_FOLDER)), ["--overwrite"], "abc"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_made_again(change: str, workspace: Path, capsys: Any) -> None:
    alteration, arguments, again = CHANGES[change]
    assert run(capsys) == {"a": "made", "b": "made", "c": "made"}
    alteration()
    expected = {path.stem: "made" if path.stem in again else "skipped" for path in Path("photos").iterdir()}
    assert run(capsys, "--resume", *arguments) == expected
    # Now all is as a run from scratch would make it, and is known to be.
    assert set(run(capsys, "--resume", *arguments).values()) == {"skipped"}
    resumed = contents()
    shutil.rmtree("out")
    run(capsys, *arguments)
    assert contents() == resumed


def test_another_size_is_another_result(workspace: Path, capsys: Any) -> None:
    run(capsys)
    assert run(capsys, "--resume", "--roi", "0,0,20,20") == {"a": "made", "b": "made", "c": "made"}
    assert names(Path("out")) == sorted([*RESULTS, *(f"{Path(name).stem}_roi0-0-20-20.png" for name in RESULTS)])


def test_a_file_that_no_run_has_made_is_kept(workspace: Path, capsys: Any) -> None:
    Path("out").mkdir()
    Path("out/b_x0.5.png").write_text("precious")
    for arguments in ([], ["--resume"]):
        outcomes = run(capsys, *arguments, code=1)
        assert "out/b_x0.5.png exists already; pass --resume to go on" in outcomes["b"]
        assert Path("out/b_x0.5.png").read_text() == "precious"
        shutil.rmtree(Path("out", MANIFEST_FOLDER), ignore_errors=True)
        for name in ("a_x0.5.png", "c_x0.5.png"):
            Path("out", name).unlink()
    assert run(capsys, "--resume", "--overwrite") == {"a": "made", "b": "made", "c": "made"}


def test_without_resume_nothing_is_skipped_or_replaced(workspace: Path, capsys: Any) -> None:
    run(capsys)
    before = contents()
    assert all("exists already" in error for error in run(capsys, code=1).values())
    assert contents() == before
    assert set(run(capsys, "--overwrite").values()) == {"made"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, 2000), junk=st.sampled_from([b"", b"\n", b"{}\n", b"[1]\n", b'{"output": 3}\n', b"\xff\xfe\n"])
)
def test_a_record_cut_anywhere_is_never_taken_for_more_than_it_says(cut: int, junk: bytes, tmp_path: Path) -> None:
    folder = tmp_path / f"{cut}-{len(junk)}-{time.monotonic_ns()}"
    folder.mkdir()
    items = [Item(folder / f"{number}.in", folder / f"{number}.out") for number in range(3)]
    whole = Manifest(folder, "settings")
    for item in items:
        item.source.write_text(f"from {item.source.name}")
        whole.begin(item)
        item.output.write_text(f"made of {item.source.name}")
        whole.finish(item, digest(item.source), item.output, (1, 2))
    (path,) = (folder / MANIFEST_FOLDER).iterdir()
    lines = path.read_bytes()
    path.write_bytes(junk + lines[:cut])
    ends = [lines.index(b"\n", lines.index(f'"{n}.out", "input"'.encode())) for n in range(3)]
    torn = Manifest(folder, "settings")
    assert [torn.complete(item, digest(item.source)) is not None for item in items] == [cut > end for end in ends]
    assert all(Manifest(folder, "others").complete(item, digest(item.source)) is None for item in items)


def test_two_runs_at_once(workspace: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run comes while the first is at work: it makes the rest, and neither harms the other."""
    honest = conversion.Converter.compute
    inner: list[int] = []

    def interleaved(self: Any, task: Any, progress: Any = None) -> Any:
        made = honest(self, task, progress)
        if task.output.name.startswith("b_") and not inner:
            inner.append(1)
            inner.append(upscale("photos", "-o", "out", "-s", "0.5", "--resume", "-q"))
        return made

    monkeypatch.setattr(conversion.Converter, "compute", interleaved)
    outcomes = run(capsys, "--resume")
    assert inner == [1, 0]
    assert outcomes["a"] == "made"
    assert outcomes["b"] == "made"
    assert contents().keys() == set(RESULTS)
    assert len(manifest_files()) == 2
    assert set(run(capsys, "--resume").values()) == {"skipped"}


def test_one_after_another_continues_as_others_go_on(workspace: Path) -> None:
    """What another process has recorded since is seen, without reading what was read before."""
    mine, other = Manifest(workspace, "s"), Manifest(workspace, "s")
    items = [Item(Path("photos", name), workspace / f"{name}.out") for name in NAMES]
    for item in items:
        assert mine.complete(item, digest(item.source)) is None
        other.begin(item)
        item.output.write_text(item.source.name)
        assert mine.complete(item, digest(item.source)) is None
        assert mine.was_begun(item)
        other.finish(item, digest(item.source), item.output, (3, 4))
        entry = mine.complete(item, digest(item.source))
        assert entry is not None
        assert entry.size == (3, 4)
    assert Manifest(workspace, "s", everything=False).complete(items[0], digest(items[0].source)) is None


@pytest.mark.parametrize("alive", [False, True])
def test_leftovers_of_the_killed_are_removed_and_of_the_living_are_not(alive: bool, workspace: Path) -> None:
    items = [Item(Path("photos", name), workspace / "out" / name) for name in NAMES]
    (workspace / "out").mkdir()
    manifest = Manifest(workspace / "out", "s")
    for item in items[:2]:
        manifest.begin(item)
    items[0].output.write_text("whole")
    manifest.finish(items[0], digest(items[0].source), items[0].output, (1, 1))
    if not alive:
        manifest.close()
    for name in NAMES:
        (workspace / "out" / f".{Path(name).stem}.0123456789abcdef.part.png").write_text("half")
    Manifest(workspace / "out", "s").sweep()
    left = [name for name in names(workspace / "out") if ".part" in name]
    assert [name[1] for name in left] == (["a", "b", "c"] if alive else ["a", "c"])


def test_a_full_disk_is_said_in_one_line(workspace: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out").mkdir()
    Path("out", MANIFEST_FOLDER).write_text("in the way")
    assert upscale("photos/a.png", "-o", "out", "-s", "0.5") == 1
    err = capsys.readouterr().err
    assert "the manifest cannot be written: " in err
    assert err.count("\n") == 1
    assert names(Path("out")) == []


def test_identity_holds_what_results_depend_on() -> None:
    base = Settings(Request(4.0))
    assert base.identity() == Settings(Request(4.0), tile=32, memory=2**30, device="cpu", force=True).identity()
    others = [Settings(Request(4.5)), base._replace(precision="bf16"), base._replace(backend="torch")]
    assert len({settings.identity() for settings in [base, *others]}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ended_in_the_middle_and_resumed(number: int, workspace: Path, capsys: Any) -> None:
    for index in range(12):
        photo().save(f"photos/{index}.png")
    command = [sys.executable, "-m", "liif_fast", "upscale", "photos", "-o", "out", "-s", "3", "--tile", "16"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        started = subprocess.Popen(
            [*command, "--model", "model.safetensors"], stdout=subprocess.PIPE, text=True, env=environment
        )
    finally:
        signal.signal(signal.SIGINT, inherited)
    with started as process:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    done = [name for name in names(Path("out")) if ".part" not in name]
    assert 3 <= len(done) < 15
    if number == signal.SIGINT:
        assert names(Path("out")) == done
    for name in done:
        with Image.open(Path("out", name)) as image:
            image.load()
    assert upscale("photos", "-o", "out", "-s", "3", "--resume", "--json") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    skipped = {Path(record["output"]).name for record in records if record["skipped"]}
    # One result may have taken its place without a word of it: that one is made again.
    assert skipped <= set(done)
    assert len(skipped) >= len(done) - 1
    assert len(names(Path("out"))) == 15
    assert not [name for name in names(Path("out")) if ".part" in name]
