"""Where the command runs: names, streams, folders and permissions as other systems have them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT
from support.workspace import make_workspace, names, photo, upscale


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_workspace(tmp_path, monkeypatch)
    photo().resize((24, 18)).save("small.png")
    return folder


def run(arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, called by the shell as another user than root may be."""
    command = f"{sys.executable} -m liif_fast upscale --model model.safetensors {arguments}"
    if os.geteuid() == 0:
        power = "-dac_override,-dac_read_search"
        command = f"setpriv --bounding-set={power} --inh-caps={power} {command}"
    return subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def test_names_that_the_output_cannot_spell(desk: Path) -> None:
    for name in ("a 中.png", "b.png", os.fsdecode(b"c\xe9.png")):
        photo().resize((8, 6)).save(desk / "in" / name) if (desk / "in").mkdir(exist_ok=True) is None else None
    done = run("in -o out/ -s 2", PYTHONIOENCODING="cp1252")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u4e2d" in done.stdout
    assert len(names(desk / "out")) == 3


@pytest.mark.parametrize("stem", ["中" * 79, "y" * 245])
def test_long_names_up_to_the_limit_of_the_file_system(stem: str, desk: Path, capsys: Any) -> None:
    os.rename("small.png", f"{stem}.png")
    assert upscale(f"{stem}.png", "-o", "out/", "-s", "2") == 0
    assert names(desk / "out") == [f"{stem}_x2.png"]
    assert upscale(f"{stem}.png", "-o", "out/", "-s", "2", "--resume") == 0
    assert "complete already" in capsys.readouterr().out


def test_names_beyond_the_limit_are_refused_in_one_line(desk: Path, capsys: Any) -> None:
    os.rename("small.png", f"{'x' * 251}.png")
    assert upscale(f"{'x' * 251}.png", "-s", "2") == 1
    assert "expected a name of at most 255 bytes for the result, got 258" in capsys.readouterr().err
    assert upscale("photo.png", "-o", f"{'y' * 300}.png") == 2
    assert "-o: expected a name of at most 255 bytes, got 304" in capsys.readouterr().err
    assert upscale(f"{'y' * 300}.png") == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("closed", ["2>&-", "2>&- >&-", "2>&- >&- <&-"])
def test_closed_streams(closed: str, desk: Path) -> None:
    assert run(f"small.png -o out.png -s 2 {closed}").returncode == 0
    assert Path("out.png").is_file()


def test_a_closed_standard_input_or_output_in_place_of_a_file(desk: Path) -> None:
    done = run("- -o x.png <&-")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = run("small.png -o - >&-")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_the_standard_output(desk: Path) -> None:
    done = run("small.png photo.png -o out/ -s 2 >/dev/full")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert names(desk / "out") == ["photo_x2.png", "small_x2.png"]


@pytest.mark.slow
def test_closed_folders_are_passed_over_with_a_word(desk: Path) -> None:
    (desk / "tree" / "closed").mkdir(parents=True)
    photo().resize((8, 6)).save(desk / "tree" / "a.png")
    os.chmod(desk / "tree" / "closed", 0)
    try:
        done = run("-r tree -o out/ -s 2")
        assert done.returncode == 0
        assert done.stderr == "tree/closed: folder passed over: Permission denied\n"
        assert names(desk / "out") == ["a_x2.png"]
        for arguments in ("tree/closed/x.png", "small.png -o tree/closed/x.png", "small.png -o tree/closed/x/"):
            done = run(arguments)
            assert done.returncode in (1, 2)
            assert done.stderr.count("\n") == 1
            assert "ermission" in done.stderr
    finally:
        os.chmod(desk / "tree" / "closed", 0o700)


def test_a_folder_that_cannot_be_written_is_found_before_the_work(desk: Path) -> None:
    (desk / "ro").mkdir()
    photo().save(desk / "ro" / "a.png")
    os.chmod(desk / "ro", 0o555)
    try:
        done = run("ro/a.png -s 4")
        assert done.returncode == 1
        assert "no permission to write into ro; choose another folder with -o" in done.stderr
    finally:
        os.chmod(desk / "ro", 0o700)


def test_empty_arguments(desk: Path, capsys: Any) -> None:
    for arguments in (["", "-o", "x.png"], ["small.png", "-o", ""]):
        assert upscale(*arguments) == 2
        assert "got an empty one" in capsys.readouterr().err


def test_a_dangling_link_is_not_replaced_unasked(desk: Path, capsys: Any) -> None:
    os.symlink("nowhere.png", "link.png")
    assert upscale("photo.png", "-s", "2", "-o", "link.png") == 1
    assert "link.png exists already; pass --overwrite to replace it" in capsys.readouterr().err
    assert os.path.islink("link.png")


def test_notes_are_in_the_json_too(desk: Path, capsys: Any) -> None:
    photo().resize((8, 6)).save("x.gif", save_all=True, append_images=[photo().resize((8, 6)).rotate(180)])
    assert upscale("x.gif", "-s", "2", "-o", "x.png", "--page", "1", "--json", "-q") == 0
    assert upscale("x.gif", "-s", "2", "-o", "x.jpg", "--json", "-q") == 0
    out, err = capsys.readouterr()
    assert err == ""
    first, second = (json.loads(line) for line in out.splitlines())
    assert not any("frames" in note for note in first["notes"])
    assert any("only the first of 2 frames is used, as JPEG holds one" in note for note in second["notes"])


def test_no_temporary_folder(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def none(**options: Any) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.mkdtemp", none)
    assert upscale("-", "-o", "x.png") == 1
    assert "set TMPDIR" in capsys.readouterr().err


def test_what_a_folder_holds_beside_pictures_is_told(desk: Path, capsys: Any) -> None:
    folder = desk / "mix"
    folder.mkdir()
    small = photo().resize((16, 16))  # the smallest that every Pillow writes as an ICO
    for name, form in (
        ("a.png", "PNG"),
        ("b.jpe", "JPEG"),
        ("c.j2k", "JPEG2000"),
        ("d.dds", "DDS"),
        ("e.ico", "ICO"),
        ("f.mpo", "JPEG"),
        ("g.dib", "BMP"),
        ("h", "PNG"),
        ("i.dat", "JPEG"),
    ):
        small.save(folder / name, format=form)
    (folder / "j.txt").write_text("words")
    (folder / "k.part").write_bytes((folder / "a.png").read_bytes())
    assert upscale("mix", "-o", "out/", "-s", "2") == 0
    assert len(names(desk / "out")) == 9
    assert capsys.readouterr().err == "mix: 2 files passed over: .part 1, .txt 1\n"
    assert upscale("mix", "-o", "out/", "-s", "2", "--resume", "-q") == 0
    assert capsys.readouterr().err == ""
