"""Many pictures: which are found, where they go, how they are shared out and overlapped."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.workspace import names, photo, upscale

from liif_fast.batch import inputs, shards
from liif_fast.batch.plan import Item
from liif_fast.batch.runner import Outcome, Runner
from liif_fast.batch.shards import Shard
from liif_fast.errors import UsageError

TREE = ["a.png", "b.jpg", "sub/a.png", "sub/deep/c.webp", "z.bmp"]


@pytest.fixture
def workspace(workspace: Path) -> Path:
    """A tree of small pictures of different sizes, with things in it that are no pictures or not meant."""
    for number, name in enumerate(TREE):
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        photo().crop((0, 0, 24 + 8 * number, 20)).save(path)
    Path("photos/notes.txt").write_text("not a picture")
    for hidden in ("photos/.hidden.png", "photos/.cache/a.png"):
        Path(hidden).parent.mkdir(exist_ok=True)
        photo().save(hidden)
    return workspace


def made(folder: str = "out") -> dict[str, bytes]:
    """The files below a folder, beside the record."""
    root = Path(folder)
    files = (path for path in root.rglob("*") if path.is_file() and ".liif-fast" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


# -- which pictures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "recursive", "expected"),
    [
        (["photos"], False, ["a.png", "b.jpg", "z.bmp"]),
        (["photos"], True, ["a.png", "b.jpg", "z.bmp", "sub/a.png", "sub/deep/c.webp"]),
        (["photos/*.png"], False, ["a.png"]),
        (["photos/**/*.png"], False, ["a.png", "sub/a.png"]),
        (["photos/**/*"], False, ["a.png", "b.jpg", "sub/a.png", "sub/deep/c.webp", "z.bmp"]),
        (["photos/sub/../[ab].*"], False, ["a.png", "b.jpg"]),
        (["photos/b.jpg", "photos", "photos/?.png"], False, ["b.jpg", "a.png", "z.bmp"]),
        (["photos/notes.txt", "none.png"], False, ["notes.txt", "none.png"]),
    ],
)
def test_names_stand_for_pictures(arguments: list[str], recursive: bool, expected: list[str], workspace: Path) -> None:
    found = inputs.find(arguments, recursive)
    assert [str(one.relative) for one in found] == expected
    assert all(one.path.is_file() for one in found if one.path.name != "none.png")


def test_a_file_of_a_patterns_name_is_that_file(workspace: Path) -> None:
    photo().save("photos/[ab].png")
    (found,) = inputs.find(["photos/[ab].png"])
    assert found.path == Path("photos/[ab].png")
    assert found.folder is None


def test_results_are_no_pictures_of_the_next_run(workspace: Path) -> None:
    assert upscale("-r", "photos", "-o", "photos/large", "-s", "0.5") == 0
    assert upscale("-r", "photos", "-o", "photos/other", "-s", "0.5") == 0
    assert set(made("photos/large")) == set(made("photos/other"))
    assert [str(one.relative) for one in inputs.find(["photos/**/*.webp"])] == ["sub/deep/c.webp"]
    assert len(inputs.find(["photos/large"])) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty"], "empty: expected pictures, got a folder without any; -r looks into its whole tree"),
        (["empty", "-r"], "got a folder without any\n"),
        (["photos/*.gif"], "photos/*.gif: expected a picture's name or a pattern, got one that no picture matches"),
        (["photos", "-o", "photos"], "-o: expected another folder than photos"),
        (["photos", "-o", "photos/../photos/"], "-o: expected another folder than photos"),
        (["photos/*.png", "-o", "photos"], "-o: expected another folder than photos"),
        (["photos", "-o", "one.png"], "-o: expected a folder for 3 inputs, got the file name one.png"),
        (["photos/sub", "-o", "one.png"], "-o: expected a folder for what photos/sub holds, got the file name"),
        (
            ["photos", "photos/sub", "-o", "out"],
            "photos/a.png and photos/sub/a.png would both be written to out/a_x4.png",
        ),
        (["photos", "--no-output"], "-o: expected a folder for the results of what photos holds, got none"),
        (["photo.png", "--resume", "--no-output"], "-o: expected a folder, which keeps a manifest"),
        (["photo.png", "-o", "one.png", "--shard", "1/2"], "-o: expected a folder, which keeps a manifest"),
        (["photo.png", "-o", "one.png", "--ray"], "-o: expected a folder, which keeps a manifest"),
        (["photos", "--shard", "3/2"], "--shard: expected I/N with I from 1 to N, such as 2/3, or auto, got '3/2'"),
        (["photos", "--shard", "0/2"], "expected I/N with I from 1 to N"),
        (["photos", "--shard", "auto"], "auto: expected RANK and WORLD_SIZE, or Slurm's variables"),
        (["--ray", "photos/a.png"], "expected auto, local or HOST:PORT, got 'photos/a.png'; name the pictures before"),
        (["photos", "--ray-cores", "0"], "expected a number of cores above 0"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, workspace: Path, capsys: Any) -> None:
    Path("empty").mkdir()
    before = made(".")
    if "--no-output" in arguments:
        arguments.remove("--no-output")
    elif "-o" not in arguments:
        arguments = [*arguments, "-o", "out/"]
    assert upscale(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert made(".") == before


def test_an_empty_folder_among_pictures_is_a_failure(workspace: Path, capsys: Any) -> None:
    Path("empty").mkdir()
    assert upscale("photos", "empty", "-o", "out", "-s", "0.5") == 1
    assert set(made()) == {"a_x0.5.png", "b_x0.5.jpg", "z_x0.5.bmp"}
    assert "empty: expected a picture file, got a folder" in capsys.readouterr().err


# -- where they go --------------------------------------------------------------------------------------------------


def test_the_output_tree_mirrors_the_input(workspace: Path, capsys: Any) -> None:
    assert upscale("-r", "photos", "-o", "new/out", "-s", "0.5") == 0
    tree = {"a_x0.5.png", "b_x0.5.jpg", "sub/a_x0.5.png", "sub/deep/c_x0.5.webp", "z_x0.5.bmp"}
    assert set(made("new/out")) == tree
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" -> ")[0] for line in lines] == [
        f"photos/{name}" for name in ("a.png", "b.jpg", "z.bmp", "sub/a.png", "sub/deep/c.webp")
    ]
    assert upscale("photos/sub/**/*.webp", "-o", "by-pattern/", "-s", "0.5") == 0
    assert set(made("by-pattern")) == {"deep/c_x0.5.webp"}


def test_failures_keep_their_order_and_come_last(workspace: Path, capsys: Any) -> None:
    for name in ("c.png", "sub/0.png", "y.png"):
        Path("photos", name).write_text("text")
    assert upscale("-r", "photos", "-o", "out", "-s", "0.5", "--json") == 1
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [Path(record["input"]).name for record in records if record["ok"]] == [
        *("a.png", "b.jpg", "z.bmp", "a.png", "c.webp")
    ]
    failures = ["photos/c.png", "photos/y.png", "photos/sub/0.png"]
    assert [record["input"] for record in records if not record["ok"]] == failures
    note, first, *lines = err.splitlines()
    assert note == "photos: 1 file passed over: .txt 1"
    assert first == "liif-fast upscale: 3 of 8 failed:"
    assert [line.split(": ")[1] for line in lines] == failures


# -- shards ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 5000), max_size=40), of=st.integers(1, 9))
def test_shards_have_each_item_once_and_are_even(sizes: list[int], of: int) -> None:
    items = [Item(Path(f"{number}.png"), Path(f"out/{number}.png")) for number in range(len(sizes))]
    weights = {item.source: 1 + size for item, size in zip(items, sizes, strict=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_weight", lambda item: weights[item.source])
        parts = [Shard(number + 1, of).share(items) for number in range(of)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert all(part == [item for item in items if item in part] for part in parts)
    loads = [sum(weights[item.source] for item in part) for part in parts]
    assert max(loads) - min(loads) <= max(weights.values(), default=0)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "2", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Shard(3, 8, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, Shard(1, 4, 0)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "3"}, Shard(3, 3)),
        (
            {
                **{"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_STEP": "2"},
                **{"SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
            },
            Shard(6, 6),
        ),
    ],
)
def test_a_shard_from_the_environment(environment: dict[str, str], expected: Shard) -> None:
    assert shards.parse("auto", environment) == expected


@pytest.mark.parametrize("environment", [{}, {"RANK": "8", "WORLD_SIZE": "8"}, {"RANK": "x", "WORLD_SIZE": "8"}])
def test_no_shard_from_the_environment(environment: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="auto: expected"):
        shards.parse("auto", environment)


def test_each_local_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [Shard(1, 8, local).device() for local in (0, 1, 2, None)] == ["cuda:0", "cuda:1", "cuda:0", None]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert Shard(1, 8, 0).device() is None


def test_three_shards_make_the_same_bytes_as_one(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert upscale("-r", "photos", "-o", "one", "-s", "1.5") == 0
    for number in (1, 2):
        assert upscale("-r", "photos", "-o", "three", "-s", "1.5", "--shard", f"{number}/3") == 0
    monkeypatch.setattr(os, "environ", {**os.environ, "RANK": "2", "WORLD_SIZE": "3"})
    assert upscale("-r", "photos", "-o", "three", "-s", "1.5", "--shard", "auto") == 0
    assert made("three") == made("one")
    assert len(made("three")) == len(TREE)
    assert "shard 3/3: 2 of 5 pictures\n" in capsys.readouterr().err
    assert upscale("-r", "photos", "-o", "three", "-s", "1.5", "--resume") == 0
    assert capsys.readouterr().out.count("complete already") == len(TREE)


# -- overlap --------------------------------------------------------------------------------------------------------


class Stages:
    """Notes when the stages of a converter begin and end, and how many pictures it holds."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.held = 0
        self.most = 0
        self.lock = threading.Lock()

    def stage(self, name: str, item: str, seconds: float, held: int) -> None:
        with self.lock:
            self.held += max(held, 0)
            self.most = max(self.most, self.held)
            self.log.append((f"{name} begins", item))
        time.sleep(seconds)
        with self.lock:
            self.held += min(held, 0)
            self.log.append((f"{name} ends", item))


def staged(monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float, float]) -> tuple[Stages, Any]:
    """Stages and a converter of them that take so long for reading, computing, writing."""
    from liif_fast.batch import conversion

    stages = Stages()

    class Converter:
        backend, precision = "cpu", "fp32"

        def read(self, source: Path, output: Path, overwrite: bool = False) -> Any:
            stages.stage("read", source.name, seconds[0], 1)
            picture: Any = type("Picture", (), {"notes": (), "name": source.name})
            return conversion.Task(output, picture)

        def compute(self, task: Any, progress: Any = None) -> Any:
            stages.stage("compute", task.picture.name, seconds[1], 0)
            return conversion.Made(task.output, (1, 1), task.picture)

        def write(self, made: Any) -> tuple[int, int]:
            stages.stage("write", made.picture.name, seconds[2], -1)
            return (1, 1)

    return stages, Converter()


@pytest.mark.parametrize("seconds", [(0.1, 0.1, 0.1), (0.0, 0.1, 0.2), (0.2, 0.1, 0.0), (0.0, 0.15, 0.0)])
def test_reading_computing_and_writing_overlap(
    seconds: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages, converter = staged(monkeypatch, seconds)
    outcomes: list[Outcome] = []
    items = [Item(Path(f"{number}.png"), Path(f"out-{number}.png")) for number in range(6)]
    Runner(converter, outcomes.append).run(items)
    assert [outcome.item for outcome in outcomes] == items
    assert all(outcome.error is None and outcome.size == (1, 1) for outcome in outcomes)
    assert stages.most <= 3
    for number in range(1, 5):
        # The next one is read, and the one before written, not only when this one's computation has ended.
        ended = stages.log.index(("compute ends", f"{number}.png"))
        assert stages.log.index(("read begins", f"{number + 1}.png")) < ended
        assert stages.log.index(("write begins", f"{number - 1}.png")) < ended
        assert stages.log.index(("write ends", f"{number - 1}.png")) < stages.log.index(
            ("write begins", f"{number}.png")
        )


def test_an_interrupt_finishes_what_is_being_written(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from liif_fast.batch import conversion

    honest = conversion.image.write
    computed: list[str] = []

    def slow(*arguments: Any) -> None:
        time.sleep(0.3)
        honest(*arguments)

    def stopped(self: Any, task: Any, progress: Any = None) -> Any:
        computed.append(task.output.name)
        if len(computed) == 2:
            raise KeyboardInterrupt
        return conversion.Made(task.output, (1, 1), task.picture)

    monkeypatch.setattr(conversion.image, "write", slow)
    monkeypatch.setattr(conversion.Converter, "compute", stopped)
    assert upscale("photos", "-o", "out", "-s", "1") == 130
    assert names(Path("out")) == ["a_x1.png"]
    monkeypatch.undo()
    os.chdir(workspace)
    assert upscale("photos", "-o", "out", "-s", "1", "--resume") == 0
    assert names(Path("out")) == ["a_x1.png", "b_x1.jpg", "z_x1.bmp"]
