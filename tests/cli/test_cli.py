"""The command line: results, names, what is printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.models import tiny_liif
from support.paths import ROOT
from support.versions import TORCH
from support.workspace import PHOTO, names, photo, size, upscale

from liif_fast import __version__, checkpoint
from liif_fast.backends import cpu
from liif_fast.batch.plan import Item
from liif_fast.batch.runner import Outcome
from liif_fast.cli import main, reporting

# -- results --------------------------------------------------------------------------------------------------------


def test_a_photograph_end_to_end(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_size(arguments: list[str], expected: tuple[int, int], workspace: Path) -> None:
    assert upscale("photo.png", "-o", "out.png", *arguments) == 0
    assert size("out.png") == expected


def test_a_region_is_that_part_of_the_whole(workspace: Path) -> None:
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
def test_default_name_beside_the_input(arguments: list[str], expected: list[str], workspace: Path) -> None:
    before = names(workspace)
    assert upscale("photo.png", *arguments) == 0
    assert sorted(set(names(workspace)) - set(before)) == expected


def test_several_inputs_into_a_folder(workspace: Path) -> None:
    photo().save("other.jpg", quality=95)
    photo().quantize(32).save("third.gif")
    assert upscale("photo.png", "-i", "other.jpg", "third.gif", "-o", "new/deep", "-s", "1.5") == 0
    assert names(workspace / "new" / "deep") == ["other_x1.5.jpg", "photo_x1.5.png", "third_x1.5.png"]
    assert upscale("-i", "photo.png", "-o", "slash/", "-s", "1.5") == 0
    assert upscale("photo.png", "-o", "slash", "-s", "2.5") == 0
    assert names(workspace / "slash") == ["photo_x1.5.png", "photo_x2.5.png"]


def test_json_says_what_was_done(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert upscale("photo.png", "none.png", "-o", "out/", "-s", "2", "--json") == 1
    out, err = capsys.readouterr()
    good, bad = (json.loads(line) for line in out.splitlines())
    assert good.pop("seconds") > 0
    assert good.pop("megapixels_per_second") > 0
    backend = good.pop("backend")
    assert backend in ("torch", "cpu")
    assert good.pop("arithmetic", None) == (cpu.arithmetic(good["precision"]) if backend == "cpu" else None)
    assert good == {
        "input": "photo.png",
        "output": "out/photo_x2.png",
        "width": 256,
        "height": 192,
        "precision": cpu.EIGHT_BIT_PRECISION if backend == "cpu" else "fp32",
        "skipped": False,
        "notes": [],
        "ok": True,
        "error": None,
    }
    assert bad["ok"] is False
    assert bad["error"] == "none.png: no such file"
    assert err.splitlines()[-1].endswith("none.png: no such file")


def test_the_precision_that_is_told_is_that_of_the_picture(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Deep pictures are not computed in the fixed point that is good enough for 8 bits."""
    Image.fromarray(np.asarray(photo().convert("L")).astype(np.uint16) * 257).save("deep.png")
    assert upscale("photo.png", "deep.png", "-o", "out/", "-s", "2", "--json") == 0
    shallow, deep = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert shallow["precision"] == (cpu.EIGHT_BIT_PRECISION if shallow["backend"] == "cpu" else "fp32")
    assert deep["precision"] == "fp32"
    if shallow["precision"] == "bf16":
        assert (shallow["arithmetic"], deep["arithmetic"]) == (cpu.arithmetic("bf16"), cpu.arithmetic("fp32"))
        assert shallow["arithmetic"].endswith("-int16")


@pytest.mark.parametrize(
    ("pixels", "seconds", "told"),
    [(12e6, 0.5, "24.00 MP/s"), (100_000, 1, "0.10 MP/s"), (7700, 16.4, "0.00047 MP/s"), (1, 2, "0.00000050 MP/s")],
)
def test_rates_of_small_pictures_are_not_zero(pixels: int, seconds: float, told: str) -> None:
    item = Item(Path("a.png"), Path("b.png"))
    outcome = Outcome(item, size=(100, 77), pixels=int(pixels), seconds=seconds)
    assert reporting._line(outcome, "a.png", "b.png").endswith(f" s, {told})")
    assert reporting._fields(outcome, "a.png", "b.png", [], None)["megapixels_per_second"] > 0


def test_quiet_says_nothing(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo().quantize(32).save("palette.png")
    assert upscale("palette.png", "-s", "2", "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert upscale("palette.png", "-s", "2", "--overwrite") == 0
    assert capsys.readouterr().err == "palette.png: palette converted to RGB\n"


def test_progress_on_a_terminal(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert upscale("photo.png", "-s", "4", "--tile", "16") == 0
    err = capsys.readouterr().err
    assert "photo.png:   0%|" in err
    assert "/0.20 MP, " in err
    assert "MP/s" in err


def test_metadata_depth_and_alpha_survive(workspace: Path) -> None:
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


def test_published_model_file(workspace: Path) -> None:
    checkpoint.save(tiny_liif(), "epoch-last.pth")
    assert (
        main(["upscale", "--model", "epoch-last.pth", "-i", "photo.png", "--resolution", "60,70", "-o", "o.png"]) == 0
    )
    assert size("o.png") == (70, 60)


def test_info_says_which_way_a_model_takes(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(tiny_liif(), "model.pth")
    assert main(["info", "--model", "model.pth", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == {"model.pth": "fused: LIIF with the plain MLP"}


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


def loads(modules: set[str], *arguments: str) -> tuple[str, str]:
    """Runs the command, which has to succeed, in a process of its own: (what it printed, which of these it loaded)."""
    code = (
        "import sys; from liif_fast.cli import main; code = main(sys.argv[1:]); "
        f"print(sorted({modules!r} & set(sys.modules))); sys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stdout.splitlines()[-1]


def test_help_loads_nothing_heavy() -> None:
    for arguments in (["--help"], ["upscale", "--help"], ["--version"]):
        printed, loaded = loads({"torch", "numpy", "PIL", "yaml", "tqdm"}, *arguments)
        assert loaded == "[]"
        assert "upscale" in printed or __version__ in printed


def test_a_picture_takes_no_compiler(workspace: Path) -> None:
    """Loading that of torch takes almost as long again as torch itself."""
    arguments = ["upscale", "photo.png", "-o", "large.png", "--model", "model.safetensors"]
    # PyTorch before 2.13 loads sympy itself.
    own = {"sympy"} if TORCH < (2, 13) else set()
    _, loaded = loads({"torch._dynamo", "torch._inductor", "triton", "sympy"} - own, *arguments)
    assert loaded == "[]"


def test_the_default_model_makes_pictures(workspace: Path) -> None:
    if not checkpoint.DEFAULT_MODEL.is_file():
        pytest.fail("the default model is missing from liif_fast/weights")
    assert main(["upscale", "photo.png", "-s", "2", "-o", "out.png"]) == 0
    with Image.open("out.png") as image:
        result = np.asarray(image, dtype=float)
    smooth = np.asarray(photo().resize((256, 192), Image.Resampling.BICUBIC), dtype=float)
    assert np.abs(result - smooth).mean() < 6


def test_the_test_photograph_is_small() -> None:
    assert PHOTO.stat().st_size < 40_000
