"""The command line on bad input and when it is interrupted: one line, an exit code, nothing half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest
from PIL import Image
from support.files import BAD, bad_files
from support.models import tiny_liif
from support.paths import ROOT
from support.workspace import names, photo, size, upscale

from liif_fast import checkpoint
from liif_fast.batch import conversion
from liif_fast.cli import main


def test_bad_files_do_not_stop_the_others(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "bad").mkdir()
    messages = bad_files(workspace / "bad")
    assert sorted(messages) == sorted(BAD)
    arguments = [f"bad/{name}" for name in BAD]
    assert upscale(*arguments[:5], "photo.png", *arguments[5:], "-o", "out/", "-s", "1.5") == 1
    out, err = capsys.readouterr()
    assert names(workspace / "out") == ["photo_x1.5.png"]
    assert out.count("\n") == 1
    lines = err.splitlines()
    assert lines[0] == f"liif-fast upscale: {len(BAD)} of {len(BAD) + 1} failed:"
    assert len(lines) == len(BAD) + 1
    for name, line in zip(BAD, lines[1:], strict=True):
        assert line.startswith(f"liif-fast upscale: bad/{name}: ")
        assert messages[name] in line


USAGE = [
    (["-s", "0"], "-s/--scale: scale: expected a number above 0"),
    (["-s", "-2"], "above 0"),
    (["-s", "nan"], "finite"),
    (["-s", "inf"], "finite"),
    (["-s", "1e12"], "at most 1000, got"),
    (["-s", "four"], "expected a number, got 'four'"),
    (["--size", "100"], "expected WxH in whole pixels, such as 1920x1080, got '100'"),
    (["--size", "0x5"], "from 1 to 1000000, got 0"),
    (["--size", "99999999x5"], "from 1 to 1000000"),
    (["--size", "-5x5"], "expected"),
    (["--resolution", "5x5"], "expected H,W"),
    (["--width", "0"], "from 1"),
    (["--width", "2.5"], "whole number"),
    (["--height", "-7"], "from 1"),
    (["--roi", "1,2,3"], "expected x,y,w,h"),
    (["--roi", "1,2,0,3"], "expected x,y,w,h"),
    (["--tile", "3"], "at least 16 input pixels, got 3"),
    (["--memory", "much"], "memory: expected bytes"),
    (["--memory", "5"], "memory: expected bytes"),
    (["-s", "2", "--size", "5x5"], "one way to say the size, got -s and --size"),
    (["--size", "5x5", "--width", "5"], "one way to say the size"),
    (["--backend", "quantum"], "--backend: expected one of auto, reference, torch, cuda, triton, cpu"),
    (["--precision", "fp7"], "--precision: expected one of auto, fp32, tf32x3, tf32, fp16, bf16, got 'fp7'"),
    (["--precision", "bf16", "--backend", "reference"], "'reference' cannot run"),
    (["--device", "toaster"], "expected a device"),
    (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    (["-o", "out.xyz"], "expected a name that ends in one of .png, .jpg"),
    (["-o", "newfolder"], "the name of a folder ends in /"),
    (["-o", "missing/out.png"], "expected an existing folder, got missing"),
    (["-o", "photo.png"], "photo.png is an input, which is never overwritten"),
    (["-o", "link.png"], "is an input, which is never overwritten"),
    (["-o", "model.safetensors/"], "cannot be made"),
]


@pytest.mark.parametrize("where", [[], ["--ray"]])
def test_a_model_that_cannot_wrap(where: list[str], workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(tiny_liif("rcan"), "rcan.safetensors")
    assert upscale("photo.png", "-o", "out/", "--model", "rcan.safetensors", "--wrap", *where) == 2
    assert capsys.readouterr().err == (
        "liif-fast upscale: wrap: expected an encoder with a known receptive_radius, got RCAN, which may see the whole "
        "picture; use an EDSR or RDN model\n"
    )
    assert list((workspace / "out").iterdir()) == []


@pytest.mark.parametrize(("arguments", "message"), USAGE, ids=[" ".join(arguments) for arguments, _ in USAGE])
def test_wrong_usage(arguments: list[str], message: str, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "link.png").symlink_to("photo.png")
    before = names(workspace), (workspace / "photo.png").read_bytes()
    assert upscale("photo.png", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("liif-fast")
    assert err.count("\n") == 1
    assert (names(workspace), (workspace / "photo.png").read_bytes()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["sharpen"], "invalid choice: 'sharpen' (choose from"),
        (["upscale"], "expected at least one picture file, got none"),
        (["upscale", "photo.png", "--model", "none.pth"], "none.pth: expected a checkpoint, got no such file"),
        (["upscale", "photo.png", "--model", "photo.png"], "photo.png: expected a LIIF checkpoint"),
        (["upscale", "photo.png", "other.png", "-o", "one.png"], "expected a folder for 2 inputs"),
        (["upscale", "photo.png", "other.png", "-o", "photo.png"], "expected a folder for 2 inputs"),
        (["upscale", "a/photo.png", "b/photo.png", "-o", "out/"], "would both be written to out/photo_x4.png"),
    ],
)
def test_wrong_usage_as_a_whole(
    arguments: list[str], message: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_folder_that_may_not_be_written(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    # Simulated, since root may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert upscale("photo.png", "-o", "out.png") == 2
    assert "no permission to write into ." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "photo.png",
            ["-s", "500"],
            "at most 400 megapixels, got 3,072 (64000 x 48000): ask for less, or pass --force",
        ),
        ("photo.png", ["-s", "2", "--roi", "100,90,50,50"], "inside of the 128 x 96 picture"),
        ("photo.png", ["-s", "300", "--roi", "0,0,60,10", "-o", "x.webp"], "at most 16383 pixels on a side for WEBP"),
        (
            "alpha.png",
            ["-s", "2", "-o", "photo.jpg", "--overwrite"],
            "photo.jpg: JPEG cannot keep the picture's transparency, and photo.png exists already; name another output",
        ),
    ],
)
def test_a_picture_that_does_not_fit(
    name: str, arguments: list[str], message: str, workspace: Path, capsys: Any
) -> None:
    photo().convert("RGBA").save("alpha.png")
    before = names(workspace)
    assert upscale(name, *arguments) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert names(workspace) == before


def test_force_lifts_both_limits(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liif_fast.rendering.request.MAX_PIXELS", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert upscale("photo.png", "-s", "1.5") == 1
    assert upscale("photo.png", "-s", "1.5", "--force") == 0


def test_existing_results_are_replaced_only_when_told_to(workspace: Path, capsys: Any) -> None:
    Path("photo_x1.5.png").write_text("precious")
    assert upscale("photo.png", "-s", "1.5") == 1
    assert "photo_x1.5.png exists already; pass --overwrite" in capsys.readouterr().err
    assert Path("photo_x1.5.png").read_text() == "precious"
    assert upscale("photo.png", "-s", "1.5", "--overwrite") == 0
    assert size("photo_x1.5.png") == (192, 144)


def test_a_defect_of_ours_is_shown_in_full_but_does_not_end_the_batch(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    photo().convert("L").save("gray.png")
    honest = conversion.open_picture

    def broken(image: Image.Image, *args: Any, **options: Any) -> Any:
        if image.mode == "L":
            raise ZeroDivisionError("oops")
        return honest(image, *args, **options)

    monkeypatch.setattr(conversion, "open_picture", broken)
    assert upscale("gray.png", "photo.png", "-o", "out/", "-s", "1.5") == 1
    assert names(workspace / "out") == ["photo_x1.5.png"]
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "gray.png: unexpected ZeroDivisionError: oops" in err.splitlines()[-1]


# -- interruption ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_remains(
    error: BaseException, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def save(self: Image.Image, stream: IO[bytes], **_: Any) -> None:
        stream.write(b"half")
        raise error

    monkeypatch.setattr(Image.Image, "save", save)
    before = names(workspace)
    assert upscale("photo.png", "-s", "1.5") == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert names(workspace) == before
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "interrupted" in err or "photo_x1.5.png: cannot be written: [Errno 28] No space left on device" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_rendering_ends_the_program_cleanly(number: int, workspace: Path) -> None:
    command = [sys.executable, "-m", "liif_fast", "upscale", "photo.png", "-s", "40", "--tile", "16", "-o", "out/"]
    command += ["--model", "model.safetensors"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = names(workspace)
    # A shell's background jobs ignore SIGINT and hand that on; the program under test must not inherit it.
    inherited = signal.signal(number, signal.default_int_handler)
    try:
        started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    finally:
        signal.signal(number, inherited)
    with started as process:
        # The folder is made just before the model is loaded and the work starts.
        deadline = time.monotonic() + 60
        while not (workspace / "out").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.5)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted"
    assert names(workspace) == sorted([*before, "out"])
    assert names(workspace / "out") == []


def test_an_interrupt_while_a_string_is_executed_keeps_the_exit_code(workspace: Path) -> None:
    program = """
import sys
from liif_fast import cli
from liif_fast.cli import upscale

upscale.run = lambda args: exec("raise KeyboardInterrupt")
sys.exit(cli.main(["upscale", "photo.png"]))
"""
    Path("program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-m", "program"], stderr=subprocess.PIPE, text=True, env=environment)
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")


def test_a_closed_pipe_is_no_traceback(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, _: str) -> None:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    assert main(["info"]) == 1
