"""The command line: results, names, messages, exit codes; a file appears whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_image import BAD, bad_files
from tiny import PHOTO, bilinear_liif, photo, tiny_liif

from liif_fast import __version__, checkpoint, upscaling
from liif_fast.cli import main


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a photograph and a model that is bilinear interpolation."""
    monkeypatch.chdir(tmp_path)
    photo().save("photo.png")
    checkpoint.save(bilinear_liif(), "model.safetensors")
    return tmp_path


def upscale(*arguments: str) -> int:
    return main(["upscale", "--model", "model.safetensors", *arguments])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def size(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


# -- results --------------------------------------------------------------------------------------------------------


def test_a_photograph_end_to_end(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert upscale("photo.png", "-o", "large.png", "--size", "331x120", "--tile", "16") == 0
    planes = torch.from_numpy(np.asarray(photo(), dtype=np.float32)).permute(2, 0, 1)[None]
    expected = F.interpolate(planes, (120, 331), mode="bilinear")[0].permute(1, 2, 0).numpy()
    with Image.open("large.png") as image:
        assert np.abs(np.asarray(image, dtype=np.float32) - expected).max() <= 0.51
    out, err = capsys.readouterr()
    assert out.startswith("photo.png -> large.png (331 x 120, ")
    assert "MP/s" in out
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-s", "3.14"], (402, 301)),
        (["-s", "0.5"], (64, 48)),
        (["--size", "200X100"], (200, 100)),
        (["--resolution", "100,200"], (200, 100)),
        (["--width", "64"], (64, 48)),
        (["--height", "144"], (192, 144)),
        (["--width", "50", "--height", "60"], (50, 60)),
        ([], (512, 384)),
        (["-s", "2", "--roi", "10,20,30,15"], (60, 30)),
        (["--size", "90x45", "--roi", "10,20,30,15"], (90, 45)),
        (["-s", "1.5", "--memory", "1M", "--backend", "torch", "--precision", "fp32", "--device", "cpu"], (192, 144)),
    ],
)
def test_size(arguments: list[str], expected: tuple[int, int], desk: Path) -> None:
    assert upscale("photo.png", "-o", "out.png", *arguments) == 0
    assert size("out.png") == expected


def test_a_region_is_that_part_of_the_whole(desk: Path) -> None:
    assert upscale("photo.png", "-s", "2", "-o", "whole.png") == 0
    assert upscale("photo.png", "-s", "2", "-o", "part.png", "--roi", "10,20,30,15") == 0
    with Image.open("whole.png") as whole, Image.open("part.png") as part:
        crop = np.asarray(whole.crop((20, 40, 80, 70)), dtype=int)
        assert np.abs(np.asarray(part, dtype=int) - crop).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-s", "1.5"], ["photo_x1.5.png"]),
        (["--size", "20x10"], ["photo_20x10.png"]),
        (["--width", "20"], ["photo_20x.png"]),
        (["-s", "2", "--roi", "1,2,30,40"], ["photo_x2_roi1-2-30-40.png"]),
    ],
)
def test_default_name_beside_the_input(arguments: list[str], expected: list[str], desk: Path) -> None:
    before = names(desk)
    assert upscale("photo.png", *arguments) == 0
    assert sorted(set(names(desk)) - set(before)) == expected


def test_several_inputs_into_a_folder(desk: Path) -> None:
    photo().save("other.jpg", quality=95)
    photo().quantize(32).save("third.gif")
    assert upscale("photo.png", "-i", "other.jpg", "third.gif", "-o", "new/deep", "-s", "1.5") == 0
    assert names(desk / "new" / "deep") == ["other_x1.5.jpg", "photo_x1.5.png", "third_x1.5.png"]
    assert upscale("-i", "photo.png", "-o", "slash/", "-s", "1.5") == 0
    assert upscale("photo.png", "-o", "slash", "-s", "2.5") == 0
    assert names(desk / "slash") == ["photo_x1.5.png", "photo_x2.5.png"]


def test_json_says_what_was_done(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert upscale("photo.png", "none.png", "-o", "out/", "-s", "2", "--json") == 1
    out, err = capsys.readouterr()
    good, bad = (json.loads(line) for line in out.splitlines())
    assert good.pop("seconds") > 0
    assert good.pop("megapixels_per_second") > 0
    assert good.pop("backend") in ("torch", "cpu")
    assert good == {
        "input": "photo.png",
        "output": "out/photo_x2.png",
        "width": 256,
        "height": 192,
        "precision": "fp32",
        "ok": True,
        "error": None,
    }
    assert bad["ok"] is False
    assert bad["error"] == "none.png: no such file"
    assert err.splitlines()[-1].endswith("none.png: no such file")


def test_quiet_says_nothing(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo().quantize(32).save("palette.png")
    assert upscale("palette.png", "-s", "2", "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert upscale("palette.png", "-s", "2", "--overwrite") == 0
    assert capsys.readouterr().err == "palette.png: palette converted to RGB\n"


def test_progress_on_a_terminal(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert upscale("photo.png", "-s", "4", "--tile", "16") == 0
    err = capsys.readouterr().err
    assert "photo.png:   0%|" in err
    assert "/0.20 MP, " in err
    assert "MP/s" in err


def test_metadata_depth_and_alpha_survive(desk: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = 6, "Somebody"
    photo().save("turned.jpg", exif=exif, dpi=(300, 300), icc_profile=b"profile of some kind", quality=95)
    assert upscale("turned.jpg", "-s", "1.5") == 0
    with Image.open("turned_x1.5.jpg") as image:
        assert image.size == (144, 192)
        assert image.getexif()[0x013B] == "Somebody"
        assert 0x0112 not in image.getexif()
        assert image.info["icc_profile"] == b"profile of some kind"
        assert image.info["dpi"] == (300, 300)
    for mode, name in (("I;16", "deep"), ("LA", "gray"), ("RGBA", "colour")):
        gray = np.asarray(photo().convert("L"))
        source = Image.fromarray(gray.astype(np.uint16) * 257) if mode == "I;16" else photo().convert(mode)
        source.save(f"{name}.png")
        assert upscale(f"{name}.png", "-s", "1.5") == 0
        with Image.open(f"{name}_x1.5.png") as image:
            assert image.mode == mode


def test_published_model_file(desk: Path) -> None:
    checkpoint.save(tiny_liif(), "epoch-last.pth")
    assert (
        main(["upscale", "--model", "epoch-last.pth", "-i", "photo.png", "--resolution", "60,70", "-o", "o.png"]) == 0
    )
    assert size("o.png") == (70, 60)


# -- bad input ------------------------------------------------------------------------------------------------------


def test_bad_files_do_not_stop_the_others(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "bad").mkdir()
    messages = bad_files(desk / "bad")
    assert sorted(messages) == sorted(BAD)
    arguments = [f"bad/{name}" for name in BAD]
    assert upscale(*arguments[:5], "photo.png", *arguments[5:], "-o", "out/", "-s", "1.5") == 1
    out, err = capsys.readouterr()
    assert names(desk / "out") == ["photo_x1.5.png"]
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
    (["--backend", "quantum"], "--backend: expected one of auto, reference, torch, cpu"),
    (["--precision", "fp7"], "--precision: expected one of auto, fp32, tf32, fp16, bf16, got 'fp7'"),
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


@pytest.mark.parametrize(("arguments", "message"), USAGE, ids=[" ".join(arguments) for arguments, _ in USAGE])
def test_wrong_usage(arguments: list[str], message: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "link.png").symlink_to("photo.png")
    before = names(desk), (desk / "photo.png").read_bytes()
    assert upscale("photo.png", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("liif-fast")
    assert err.count("\n") == 1
    assert (names(desk), (desk / "photo.png").read_bytes()) == before


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
    arguments: list[str], message: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_folder_that_may_not_be_written(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
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
        ("alpha.png", ["-s", "2", "-o", "x.jpg"], "x.jpg: JPEG cannot keep the picture's transparency"),
    ],
)
def test_a_picture_that_does_not_fit(name: str, arguments: list[str], message: str, desk: Path, capsys: Any) -> None:
    photo().convert("RGBA").save("alpha.png")
    before = names(desk)
    assert upscale(name, *arguments) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert names(desk) == before


def test_force_lifts_both_limits(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liif_fast.tiling.MAX_PIXELS", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert upscale("photo.png", "-s", "1.5") == 1
    assert upscale("photo.png", "-s", "1.5", "--force") == 0


def test_existing_results_are_replaced_only_when_told_to(desk: Path, capsys: Any) -> None:
    Path("photo_x1.5.png").write_text("precious")
    assert upscale("photo.png", "-s", "1.5") == 1
    assert "photo_x1.5.png exists already; pass --overwrite" in capsys.readouterr().err
    assert Path("photo_x1.5.png").read_text() == "precious"
    assert upscale("photo.png", "-s", "1.5", "--overwrite") == 0
    assert size("photo_x1.5.png") == (192, 144)


def test_a_defect_of_ours_is_shown_in_full_but_does_not_end_the_batch(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    photo().convert("L").save("gray.png")
    honest = upscaling.upscale

    def broken(image: Image.Image, *args: Any, **options: Any) -> Any:
        if image.mode == "L":
            raise ZeroDivisionError("oops")
        return honest(image, *args, **options)

    monkeypatch.setattr(upscaling, "upscale", broken)
    assert upscale("gray.png", "photo.png", "-o", "out/", "-s", "1.5") == 1
    assert names(desk / "out") == ["photo_x1.5.png"]
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "gray.png: unexpected ZeroDivisionError: oops" in err.splitlines()[-1]


# -- interruption ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_remains(
    error: BaseException, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def save(self: Image.Image, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(Image.Image, "save", save)
    before = names(desk)
    assert upscale("photo.png", "-s", "1.5") == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert names(desk) == before
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "interrupted" in err or "photo_x1.5.png: cannot be written: [Errno 28] No space left on device" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_rendering_ends_the_program_cleanly(number: int, desk: Path) -> None:
    command = [sys.executable, "-m", "liif_fast", "upscale", "photo.png", "-s", "40", "--tile", "16", "-o", "out/"]
    command += ["--model", "model.safetensors"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    before = names(desk)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        # The folder is made just before the model is loaded and the work starts.
        deadline = time.monotonic() + 60
        while not (desk / "out").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.5)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted"
    assert names(desk) == sorted([*before, "out"])
    assert names(desk / "out") == []


def test_a_closed_pipe_is_no_traceback(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, _: str) -> None:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    assert main(["info"]) == 1


# -- the rest -------------------------------------------------------------------------------------------------------


def test_info_names_versions_devices_backends_and_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["liif_fast"] == __version__
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["devices"]["threads"] == torch.get_num_threads()
    rows = {row["name"]: row for row in facts["backends"]}
    assert {"reference", "torch", "cpu"} <= set(rows)
    assert rows["torch"]["usable"] is True
    assert all(row["usable"] or row["reason"] for row in rows.values())
    assert facts["default model"]["path"].endswith("edsr-baseline-liif.safetensors")
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for word in ("versions:", "devices:", "backends:", "default model:", torch.__version__, "reference", "threads"):
        assert word in out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from liif_fast.cli import main; code = main(sys.argv[1:]); "
        "print(sorted({'torch', 'numpy', 'PIL', 'yaml', 'tqdm'} & set(sys.modules))); sys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    for arguments in (["--help"], ["upscale", "--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"
        assert "upscale" in done.stdout or __version__ in done.stdout


def test_the_default_model_makes_pictures(desk: Path) -> None:
    if not checkpoint.DEFAULT_MODEL.is_file():
        pytest.fail("the default model is missing from liif_fast/weights")
    assert main(["upscale", "photo.png", "-s", "2", "-o", "out.png"]) == 0
    with Image.open("out.png") as image:
        result = np.asarray(image, dtype=float)
    smooth = np.asarray(photo().resize((256, 192), Image.Resampling.BICUBIC), dtype=float)
    assert np.abs(result - smooth).mean() < 6


def test_the_test_photograph_is_small() -> None:
    assert PHOTO.stat().st_size < 40_000
