"""A large zarr in boxes: the same bytes by one process, several or a resumed one; whole under its name or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.boxes import ALL, RESULT, content, count, run, undivided
from support.models import tiny_liif
from support.workspace import names, photo, upscale

from liif_fast import checkpoint, files
from liif_fast.batch import boxes, streaming
from liif_fast.batch.conversion import Converter, Settings
from liif_fast.batch.manifest import Manifest
from liif_fast.batch.plan import MANIFEST_FOLDER, Item
from liif_fast.batch.streaming import TILE
from liif_fast.errors import LiifError
from liif_fast.rendering.request import Request

pytest.importorskip("zarr")


def chunk(number: int) -> Path:
    """The file of the box with this number."""
    return Path("out", RESULT, "c", str(number // 3), str(number % 3), "0")


# -- which boxes ----------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(height=st.integers(1, 60_000), width=st.integers(1, 60_000), side=st.sampled_from([256, 1000, 8192]))
def test_boxes_cover_a_result_once_in_whole_chunks(height: int, width: int, side: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes, "SIDE", max(side, TILE * 4))
        found = boxes.boxes((height, width))
        most = boxes.SIDE
    if height * width <= most**2:
        assert found == [(0, 0, height, width)]
        return
    assert len(set(found)) == len(found)
    assert sum(box.pixels for box in found) == height * width
    for box in found:
        assert box.top % TILE == box.left % TILE == 0
        assert box.bottom == height or box.bottom % TILE == 0
        assert box.right == width or box.right % TILE == 0
        assert 0 < box.height <= most
        assert 0 < box.width <= most
    parts = [set(streaming.part_files(box)) for box in found[:20]]
    assert len(set().union(*parts)) == sum(map(len, parts))


def test_only_a_large_zarr_is_divided(boxed_workspace: Path) -> None:
    Path("text.png").write_text("text")
    with Image.open("photo.png") as picture:
        picture.transpose(Image.Transpose.ROTATE_90).save(
            "turned.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
        )
    how = Settings(Request(4.5))

    def parts(source: str, output: str, how: Settings = how) -> int:
        return len(boxes.divide([Item(Path(source), Path(output))], how))

    assert parts("photo.png", "out.zarr") == ALL
    assert parts("photo.png", "out.tif") == parts("photo.png", "out.zarr", Settings(Request(2.0))) == 1
    assert parts("text.png", "out.zarr") == parts("missing.png", "out.zarr") == 1
    assert parts("photo.png", "out.zarr", Settings(Request(900.0))) == 1
    items = boxes.divide([Item(Path("turned.jpg"), Path("out.zarr"))], how)
    assert {item.part.size for item in items if item.part} == {(432, 576)}


# -- the same bytes -------------------------------------------------------------------------------------------------


def source_of(kind: str) -> str:
    """A picture of a kind, in a file; its name."""
    if kind in ("L", "RGBA"):
        picture = photo().convert(kind)
        if kind == "RGBA":
            picture.putalpha(photo().convert("L"))
        picture.save("x.png")
        return "x.png"
    tifffile: Any = pytest.importorskip("tifffile")
    values = np.asarray(photo()).astype(np.float32)
    if kind == "uint16":
        tifffile.imwrite("x.tif", (values * 257).astype(np.uint16), photometric="rgb")
    else:
        tifffile.imwrite("x.tif", values * 7 - 100, photometric="rgb")
    return "x.tif"


@pytest.mark.parametrize("kind", ["L", "RGBA", "uint16", "float32"])
def test_a_box_at_a_time_gives_the_bytes_of_the_whole(kind: str, boxed_workspace: Path, capsys: Any) -> None:
    source = source_of(kind)
    whole = undivided(source)
    capsys.readouterr()
    assert run(capsys, source=source)["boxes"] == count(ALL)
    assert content("out/x_x4.5.zarr") == whole
    assert len(whole) == 1 + ALL
    assert names(boxed_workspace / "out") == ["x_x4.5.zarr"]


def test_other_settings_too(boxed_workspace: Path, capsys: Any) -> None:
    """The included model in its default precision; a region; a picture that repeats."""
    roi = ["--roi", "10,4,58,58"]
    for arguments in (["--model", str(checkpoint.DEFAULT_MODEL), *roi], ["--wrap", *roi]):
        whole = undivided("photo.png", *arguments)
        capsys.readouterr()
        record = run(capsys, *arguments)
        assert record["boxes"]["made"] == record["boxes"]["all"] >= 4
        assert content(record["output"]) == whole
        shutil.rmtree("out")


def test_three_shards_make_the_same_bytes_and_the_last_one_the_result(boxed_workspace: Path, capsys: Any) -> None:
    whole = undivided()
    photo().crop((0, 0, 50, 40)).save("small.png")
    capsys.readouterr()
    made = []
    for shard in ("2/3", "3/3", "1/3"):
        command = ("photo.png", "small.png", "-o", "out", "-s", "4.5", "--format", "zarr", "--shard", shard)
        assert upscale(*command, "--json") == 0
        out, err = capsys.readouterr()
        assert " of 7 pictures and boxes\n" in err
        records = {Path(record["input"]).name: record for record in map(json.loads, out.splitlines())}
        if "photo.png" in records:
            made.append(records["photo.png"]["boxes"])
            assert (boxed_workspace / "out" / RESULT).exists() == made[-1]["whole"]
    assert sum(one["made"] for one in made) == ALL
    assert [one["whole"] for one in made] == [False, False, True]
    assert content(Path("out", RESULT)) == whole
    assert names(boxed_workspace / "out") == [RESULT, "small_x4.5.zarr"]


def test_what_is_said_of_boxes(boxed_workspace: Path, capsys: Any) -> None:
    command = ("photo.png", "-o", "out/", "-s", "4.5", "--format", "zarr")
    assert upscale(*command, "--shard", "1/2") == 0
    assert "(576 x 432, 3 of 6 boxes, " in (line := capsys.readouterr().out)
    assert line.endswith("MP/s; the others are still to be made)\n")
    assert upscale(*command, "--shard", "1/2") == 0
    assert "(3 of 6 boxes complete already; the others are still to be made)\n" in capsys.readouterr().out
    assert upscale(*command, "--resume") == 0
    assert "(576 x 432, 3 of 6 boxes, " in (line := capsys.readouterr().out)
    assert line.endswith("MP/s)\n")
    assert upscale(*command, "--resume") == 0
    assert capsys.readouterr().out.endswith(f"{RESULT} (complete already)\n")


# -- going on -------------------------------------------------------------------------------------------------------


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def forget_box() -> None:
    """As if the process had been killed when a box was there and not yet noted, and the rest made by others."""
    (path,) = Path("out", MANIFEST_FOLDER).glob("*.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"result"' not in line or '"box": [256, 0' not in line))


def unpublish() -> None:
    """As if the process had been killed before the result took its place."""
    manifest = Manifest(
        Path("out"),
        Settings(Request(4.5), "model.safetensors").identity(),
    )
    item = Item(Path("photo.png"), Path("out", RESULT))
    os.rename(item.output, manifest.store(item, files.digest(item.source)))


CHANGES: dict[str, tuple[Callable[[], Any], int]] = {
    "a chunk altered": (lambda: alter(chunk(4)), 1),
    "its description altered": (lambda: alter(Path("out", RESULT, "zarr.json")), ALL),
    "the result gone": (lambda: shutil.rmtree(Path("out", RESULT)), ALL),
    "a box not noted": (forget_box, 1),
    "not yet in its place": (unpublish, 0),
    "not yet in its place, a box altered": (lambda: (alter(chunk(2)), unpublish()), 1),
    "another picture": (lambda: photo().transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("photo.png"), ALL),
    "another model": (lambda: checkpoint.save(tiny_liif(seed=9), "model.safetensors"), ALL),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_made_again(change: str, boxed_workspace: Path, capsys: Any) -> None:
    alteration, again = CHANGES[change]
    assert run(capsys)["boxes"] == count(ALL)
    alteration()
    record = run(capsys, "--resume")
    assert record["boxes"] == count(again, ALL - again)
    assert record["skipped"] == (again == 0)
    assert run(capsys, "--resume")["boxes"] == count(0, ALL)
    assert names(boxed_workspace / "out") == [RESULT]
    resumed = content(Path("out", RESULT))
    assert resumed == undivided()


def test_without_resume(boxed_workspace: Path, capsys: Any) -> None:
    """What is whole already is not made again, another result is kept unless it may be replaced."""
    run(capsys)
    assert run(capsys)["skipped"]
    before = content(Path("out", RESULT))
    record = run(capsys, "--precision", "bf16", code=1)
    assert f"out/{RESULT} exists already; pass --resume to go on" in record["error"]
    assert content(Path("out", RESULT)) == before
    assert run(capsys, "--precision", "bf16", "--overwrite")["boxes"] == count(ALL)
    assert content(Path("out", RESULT)) == undivided("photo.png", "--precision", "bf16")
    shutil.rmtree(Path("out", RESULT))
    Path("out", RESULT).mkdir()
    Path("out", RESULT, "diary.txt").write_text("precious")
    record = run(capsys, "--overwrite", code=1)
    assert "expected a zarr folder to replace, got another folder" in record["error"]
    assert content(Path("out", RESULT)) == {"diary.txt": b"precious"}


def test_a_box_that_fails_is_one_line_and_the_others_are_kept(
    boxed_workspace: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Converter.compute

    def failing(self: Any, task: Any, progress: Any = None) -> Any:
        if task.part.box.top and task.part.box.left:
            raise LiifError("out of memory")
        return honest(self, task, progress)

    monkeypatch.setattr(Converter, "compute", failing)
    assert upscale("photo.png", "-o", "out/", "-s", "4.5", "--format", "zarr") == 1
    assert capsys.readouterr().err == "liif-fast upscale: photo.png: out of memory\n"
    assert not Path("out", RESULT).exists()
    monkeypatch.setattr(Converter, "compute", honest)
    assert run(capsys, "--resume")["boxes"] == count(2, 4)
    assert content(Path("out", RESULT)) == undivided()


def test_a_picture_is_read_once(boxed_workspace: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, read = Converter.read, []

    def counted(self: Any, source: Path, *arguments: Any) -> Any:
        read.append(source.name)
        return honest(self, source, *arguments)

    monkeypatch.setattr(Converter, "read", counted)
    photo().save("another.png")
    assert upscale("photo.png", "another.png", "-o", "out", "-s", "4.5", "--format", "zarr") == 0
    assert read == ["photo.png", "another.png"]


def test_a_file_whose_size_is_not_what_it_says(
    boxed_workspace: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes.image, "stated_size", lambda *_, **__: (150, 96))
    record = run(capsys, code=1)
    assert "expected a result of 675 x 432 by what the file said of its size, got 576 x 432" in record["error"]
    assert names(boxed_workspace / "out") == []


def test_a_file_in_the_place_of_the_result(boxed_workspace: Path, capsys: Any) -> None:
    Path("out").mkdir()
    Path("out", RESULT).write_text("precious")
    record = run(capsys, "--overwrite", code=1)
    assert "expected a zarr folder to replace, got a file" in record["error"]
    assert Path("out", RESULT).read_text() == "precious"
