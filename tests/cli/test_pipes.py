"""`-` for a picture on the standard input and a result on the standard output: its bytes and nothing else."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.paths import ROOT
from support.workspace import make_workspace, names, photo, size, upscale


class Standard(io.TextIOWrapper):
    """A standard stream with bytes behind it."""

    def __init__(self, data: bytes = b"", terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def bytes(self) -> bytes:
        self.flush()
        return self.buffer.getvalue()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return make_workspace(tmp_path, monkeypatch)


@pytest.fixture
def piped(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(data: bytes, *arguments: str, terminal: bool = False) -> tuple[int, bytes]:
        out = Standard(terminal=terminal)
        # Only for the call: a stream of pytest that is put back after the test may be closed by then.
        with monkeypatch.context() as streams:
            streams.setattr(sys, "stdin", Standard(data))
            streams.setattr(sys, "stdout", out)
            code = upscale(*arguments)
        assert not list((workspace / "temporary").glob("liif-fast-*"))
        return code, out.bytes()

    return run


def encoded(suffix: str, **options: Any) -> bytes:
    data = io.BytesIO()
    photo().save(data, suffix, **options)
    return data.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_picture_goes_through_in_its_format(form: str, workspace: Path, piped: Any) -> None:
    code, out = piped(encoded(form), "-", "-s", "1.5")
    assert code == 0
    with Image.open(io.BytesIO(out)) as result:
        assert result.format == form
        assert result.size == (192, 144)
    # The same pixels as from file to file.
    (workspace / f"in.{form.lower()}").write_bytes(encoded(form))
    assert upscale(f"in.{form.lower()}", "-o", f"out.{form.lower()}", "-s", "1.5") == 0
    assert (np.asarray(Image.open(io.BytesIO(out))) == np.asarray(Image.open(f"out.{form.lower()}"))).all()


def test_formats_that_cannot_be_written_become_png_and_others_by_request(piped: Any) -> None:
    for data, arguments, form in (
        (encoded("GIF"), (), "PNG"),
        (encoded("PNG"), ("--format", "jpg"), "JPEG"),
        (encoded("JPEG"), ("--format", ".TIF"), "TIFF"),
    ):
        code, out = piped(data, "-", "-o", "-", "-s", "1.5", *arguments)
        assert code == 0
        assert Image.open(io.BytesIO(out)).format == form


def test_from_a_pipe_to_a_file_and_from_a_file_to_a_pipe(workspace: Path, piped: Any) -> None:
    code, out = piped(encoded("PNG"), "-", "-o", "out.jpg", "-s", "1.5")
    assert (code, size("out.jpg")) == (0, (192, 144))
    assert b"out.jpg" in out
    code, out = piped(b"", "photo.png", "-o", "-", "-s", "1.5")
    assert code == 0
    assert Image.open(io.BytesIO(out)).size == (192, 144)
    code, out = piped(encoded("PNG"), "-", "photo.png", "-o", "folder/", "-s", "1.5")
    assert code == 0
    assert names(workspace / "folder") == ["photo_x1.5.png", "stdin_x1.5.png"]


def test_nothing_else_is_printed_with_the_picture(piped: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rgba = photo()
    rgba.putalpha(photo().convert("L"))
    data = io.BytesIO()
    rgba.save(data, "PNG")
    code, out = piped(data.getvalue(), "-", "-o", "-", "-s", "1.5", "--format", "jpg", "--json")
    assert code == 0
    with Image.open(io.BytesIO(out)) as result:
        assert (result.format, result.mode) == ("PNG", "RGBA")
    err = capsys.readouterr().err
    assert err.splitlines()[0] == "-: stdin_x1.5.jpg could not keep the transparency; written to - instead"
    record = json.loads(err.splitlines()[-1])
    assert (record["input"], record["output"], record["ok"]) == ("-", "-", True)


@pytest.mark.parametrize(
    ("data", "arguments", "code", "message"),
    [
        (b"", ["-"], 1, "expected a picture, got an empty file"),
        (b"no picture", ["-"], 1, "something that Pillow does not know"),
        (b"", ["-", "-"], 2, "expected - once among the inputs, got it 2 times"),
        (b"", ["-", "photo.png"], 2, "-o: expected a folder for the result of -"),
        (b"", ["photo.png", "photo.png", "-o", "-"], 2, "-o -: expected one input, got 2"),
        (b"", ["-", "--format", "pcx"], 2, "expected a name that ends in one of"),
        (b"", ["photo.png", "-o", "x.png", "--format", "jpg"], 2, "--format: expected the format of x.png, got .jpg"),
    ],
)
def test_what_goes_wrong_with_pipes(
    data: bytes, arguments: list[str], code: int, message: str, piped: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert piped(data, *arguments) == (code, b"")
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert "temporary" not in err


def test_no_picture_is_thrown_onto_a_terminal(piped: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert piped(encoded("PNG"), "-", terminal=True) == (2, b"")
    assert "got a terminal; redirect the output" in capsys.readouterr().err


def test_a_real_pipe(workspace: Path) -> None:
    command = [sys.executable, "-m", "liif_fast", "upscale", "-", "-s", "1.5", "--model", "model.safetensors"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, input=encoded("PNG"), capture_output=True, env=environment, check=True)
    assert Image.open(io.BytesIO(done.stdout)).size == (192, 144)
    assert b"192 x 144" in done.stderr
