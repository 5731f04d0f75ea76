"""`liif-fast evaluate`: the published figures, every protocol, and what it says when something is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.models import bilinear_liif
from support.workspace import PHOTO, photo
from torch.nn.functional import interpolate

import liif_fast
from liif_fast import checkpoint, models
from liif_fast.cli import main
from liif_fast.errors import UsageError
from liif_fast.geometry import make_coord
from liif_fast.training.evaluation import evaluate, grid_shape

yaml: Any = pytest.importorskip("yaml", reason="configurations are YAML: the train extra")

NORM = {"inp": {"sub": [0.5], "div": [0.5]}, "gt": {"sub": [0.5], "div": [0.5]}}


def entry(kind: str, dataset: dict[str, Any], wrapper: dict[str, Any]) -> dict[str, Any]:
    names = {
        "down": ("image-folder", "sr-implicit-downsampled"),
        "pair": ("paired-image-folders", "sr-implicit-paired"),
    }
    dataset_name, wrapper_name = names[kind]
    return {
        "dataset": {"name": dataset_name, "args": dataset},
        "wrapper": {"name": wrapper_name, "args": wrapper},
        "batch_size": 1,
    }


DOWN = entry("down", {"root_path": "hr"}, {"scale_min": 4})
PAIR = entry("pair", {"root_path_1": "lr", "root_path_2": "hr"}, {})


@pytest.fixture
def workspace(workspace: Path) -> Path:
    """A model that is bilinear interpolation; hr/: the photograph of 96 rows, 128 columns; lr/: a third of it."""
    for name in ("hr", "lr"):
        (workspace / name).mkdir()
    shutil.copy(PHOTO, "hr/photo.png")
    photo().crop((0, 0, 126, 96)).resize((42, 32), Image.Resampling.BICUBIC).save("lr/photo.png")
    return workspace


def run(config: dict[str, Any], *arguments: str) -> int:
    Path("test.yaml").write_text(yaml.safe_dump({"data_norm": NORM, "eval_bsize": 1000, **config}))
    return main(["evaluate", "test.yaml", "--model", "model.safetensors", "--device", "cpu", *arguments])


# What the published test.py prints for the same files, the model saved as .pth.
PUBLISHED = [
    (DOWN, "div2k-4", 24.682217),
    (DOWN, "benchmark-4", 25.933956),
    (DOWN, None, 24.454592),
    (PAIR, "div2k-3", 26.128487),
    (PAIR, "benchmark-3", 27.396946),
]


@pytest.mark.parametrize(("data", "eval_type", "published"), PUBLISHED)
def test_figures_are_the_published_ones(
    workspace: Path, capsys: pytest.CaptureFixture[str], data: dict[str, Any], eval_type: str | None, published: float
) -> None:
    assert run({"test_dataset": data, "eval_type": eval_type}, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["psnr"] == pytest.approx(published, abs=1e-4)
    assert (record["samples"], record["skipped"], record["eval_type"]) == (1, [], eval_type or "none")


@pytest.mark.parametrize("eval_type", ["none", "div2k-2", "benchmark-2"])
@pytest.mark.parametrize("low", [(48, 32), (41, 57)])
def test_uneven_scales_are_measured_right(workspace: Path, eval_type: str, low: tuple[int, int]) -> None:
    small = photo().resize(low[::-1], Image.Resampling.BICUBIC)
    small.save("lr/photo.png")
    result = evaluate({"test_dataset": PAIR, "data_norm": NORM, "eval_type": eval_type}, bilinear_liif(), quiet=True)
    inp = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].double() / 255
    error = interpolate(inp, (96, 128), mode="bilinear")[0].permute(1, 2, 0).numpy() - np.array(photo()) / 255
    if eval_type == "benchmark-2":
        error = error @ np.array([65.738, 129.057, 25.064]) / 256
    border = {"none": 0, "div2k-2": 8, "benchmark-2": 2}[eval_type]
    error = error[border : 96 - border, border : 128 - border]
    assert result.psnr == pytest.approx(-10 * np.log10(np.mean(error**2)), abs=1e-3)


def test_it_prints_a_line_and_takes_val_dataset_where_there_is_no_test(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"val_dataset": DOWN, "eval_type": "div2k-4", "model": {"name": "liif"}, "epoch_max": 3}
    assert run(config, "-q") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("PSNR 24.6822 dB (div2k-4, samples: 1, ")
    assert captured.err == ""


def test_gray_pictures(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gray = entry("down", {"root_path": "hr", "channels": 1}, {"scale_min": 2})
    assert run({"test_dataset": gray}) == 2
    assert "expected pictures with the channels of the model, got 1; set channels" in capsys.readouterr().err
    model = models.LIIF(
        {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8, "n_colors": 1, "no_upsampling": True}},
        {"name": "mlp", "args": {"out_dim": 1, "hidden_list": [8]}},
    )
    checkpoint.save(model, "model.safetensors")
    assert run({"test_dataset": gray, "eval_type": "benchmark-2"}, "--json") == 0
    assert np.isfinite(json.loads(capsys.readouterr().out)["psnr"])


def test_what_is_skipped_is_named_and_counts_as_a_failure(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = PHOTO.read_bytes()
    Path("hr/broken.png").write_bytes(data[: len(data) // 2])
    photo().crop((0, 0, 20, 60)).save("hr/tiny.png")
    assert run({"test_dataset": DOWN, "eval_type": "div2k-4"}, "--json") == 1
    record = json.loads(capsys.readouterr().out)
    assert record["psnr"] == pytest.approx(24.682217, abs=1e-4)
    assert record["samples"] == 1
    broken, tiny = record["skipped"]
    assert broken.startswith("broken.png (image file is truncated")
    assert tiny == "picture 2 (60 x 20, div2k-4 leaves out 10 at every side)"
    Path("hr/photo.png").unlink()
    assert run({"test_dataset": DOWN, "eval_type": "div2k-4"}) == 2
    assert "none that is large enough" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "expected test_dataset (or val_dataset), got neither"),
        ({"test_datset": DOWN}, "unknown key 'test_datset'; did you mean 'test_dataset'?"),
        ({"test_dataset": DOWN, "eval_type": "div2k"}, "eval_type: expected none, div2k-N or benchmark-N, got 'div2k'"),
        ({"test_dataset": DOWN, "eval_bsize": 0}, "eval_bsize: expected a whole number of 1 or more, got 0"),
        ({"test_dataset": DOWN, "data_norm": {"inp": 1}}, "data_norm: expected the keys inp, gt; missing: gt"),
        ({"test_dataset": DOWN | {"batch_size": 0}}, "batch_size: expected a whole number of 1 or more, got 0"),
        ({"test_dataset": "x"}, "test_dataset: expected a mapping with the keys dataset, wrapper, batch_size"),
        (
            {"test_dataset": entry("down", {"root_path": "hr"}, {"sample_q": 9}), "eval_type": "div2k-2"},
            "every pixel of the pictures, row by row, got 9 other queries; leave out sample_q",
        ),
        ({"test_dataset": entry("down", {"root_path": "none"}, {})}, "it is not a folder"),
    ],
)
def test_mistakes_are_told_in_one_line(
    workspace: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any], message: str
) -> None:
    assert run(config, "-q") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("liif-fast evaluate: ")
    assert message in line


def test_what_cannot_be_read(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "no.yaml"]) == 2
    Path("model.safetensors").write_bytes(b"x")
    assert run({"test_dataset": DOWN}) == 1
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == ["liif-fast evaluate"] * 2


def test_batches_of_many_sizes_are_told_of(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo().crop((0, 0, 60, 60)).save("hr/other.png")
    assert run({"test_dataset": DOWN | {"batch_size": 2, "num_workers": 1}}, "-q") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("liif-fast evaluate: expected samples of one size in a batch, got inp of [3, 15, 15]")


def test_interrupts_end_with_130(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("liif_fast.training.evaluation.measure", interrupt)
    assert run({"test_dataset": DOWN}) == 130


def test_a_normalisation_unlike_the_models_is_told_of(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run({"test_dataset": DOWN, "data_norm": None}, "-q") == 0
    (message,) = caplog.messages
    assert message.startswith("data_norm: the configuration's is used")
    with pytest.raises(UsageError, match="got neither"):
        evaluate({}, bilinear_liif())


def test_the_shape_of_pictures_is_read_off_their_queries() -> None:
    for shape in [(1, 1), (1, 7), (7, 1), (12, 5), (97, 101)]:
        assert grid_shape(make_coord(shape).expand(2, -1, -1)) == shape
    coord = make_coord((6, 4))[None]
    for wrong in (coord[:, :-1], coord.flip(1)[:, 1:], coord[:, [1, 0, *range(2, 24)]], coord[:, [0, 1, 2, 3, 8, 5]]):
        with pytest.raises(UsageError, match="row by row"):
            grid_shape(wrong)


EVALUATION_CONFIGS = Path(liif_fast.__file__).parent / "training" / "configs" / "evaluate"


@pytest.mark.parametrize("file", sorted(EVALUATION_CONFIGS.glob("*.yaml")))
def test_shipped_configurations_are_right(workspace: Path, file: Path) -> None:
    config = yaml.safe_load(file.read_text())
    args = config["test_dataset"]["dataset"]["args"]
    args |= {"root_path": "hr"} if "root_path" in args else {"root_path_1": "lr", "root_path_2": "hr"}
    assert run(config, "-q") == 0
