"""Configurations: published ones load unchanged, mistakes are named with what helps; the command that takes them."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.runs import interrupt_at_step, read, same, small_config, weights

import liif_fast
from liif_fast import cli, models
from liif_fast.errors import UsageError
from liif_fast.training.config import Config, documented_keys, read_training_config
from liif_fast.training.config_file import load_config, save_config
from liif_fast.training.optimizer import make_optimizer
from liif_fast.training.trainer import LAST, Trainer

yaml: Any = pytest.importorskip("yaml", reason="configurations are YAML: the train extra")

# The forms in which the published files write things, in other words and with every key of theirs.
PUBLISHED = """
train_dataset:
  dataset:
    name: paired-image-folders
    args: {root_path_1: ./low, root_path_2: ./high, split_file: ./split.json, split_key: train, cache: bin}
  wrapper:
    name: sr-implicit-uniform-varied
    args: {size_min: 32, size_max: 256, gt_resize: 256, sample_q: 1024, augment: true}
  batch_size: 16
val_dataset:
  dataset:
    name: image-folder
    args: {root_path: ./pictures, first_k: 10, repeat: 160, cache: in_memory}
  wrapper:
    name: sr-implicit-downsampled
    args: {inp_size: 48, scale_max: 4, sample_q: 2304}
  batch_size: 16
test_dataset:
  dataset: {name: image-folder, args: {root_path: ./pictures}}
  wrapper: {name: sr-implicit-paired, args: {}}
  batch_size: 1
eval_type: %(eval_type)s
eval_bsize: 30000
data_norm:
  inp: {sub: [0.5], div: [0.5]}
  gt: {sub: [0.5], div: [0.5]}
model:
  %(model)s
optimizer:
  name: %(optimizer)s
  args:
    lr: %(lr)s
epoch_max: 1000
multi_step_lr:
  milestones: [200, 400, 600, 800]
  gamma: 0.5
resume: ./run/epoch-last.pth
epoch_val: 1
epoch_save: 100
"""
MLP = "imnet_spec: {name: mlp, args: {out_dim: 3, hidden_list: [256, 256, 256, 256]}}"
ENCODER = "encoder_spec: {name: %s, args: {%s}}"
MODELS = [
    f"{{name: liif, args: {{{ENCODER % ('edsr-baseline', 'no_upsampling: true')}, {MLP}}}}}",
    f"{{name: liif, args: {{{ENCODER % ('edsr-baseline', 'no_upsampling: true')}, {MLP}, cell_decode: false}}}}",
    f"{{name: liif, args: {{{ENCODER % ('edsr-baseline', 'scale: 8')}}}}}",
    f"{{name: metasr, args: {{{ENCODER % ('rdn', 'no_upsampling: true')}}}}}",
    f"{{name: liif, args: {{{ENCODER % ('rcan', 'n_resgroups: 1, no_upsampling: true')}, {MLP}}}}}",
]


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return small_config(tmp_path / "pictures")


def published(folder: Path, **values: str) -> Path:
    defaults = {"eval_type": "benchmark-2", "model": MODELS[0], "optimizer": "adam", "lr": "1.e-4"}
    path = folder / "published.yaml"
    text = PUBLISHED % (defaults | values)
    path.write_text(text.replace("\n  {name", " {name"))
    return path


@pytest.mark.parametrize("model", MODELS)
def test_published_configurations_load_and_build(tmp_path: Path, model: str) -> None:
    config = load_config(published(tmp_path, model=model))
    read_training_config(config)
    spec: Any = models.make(config["model"])
    (group,) = make_optimizer(spec, config["optimizer"]).param_groups
    assert group["lr"] == 1e-4


@pytest.mark.parametrize("written", ["1.e-4", "1e-4", "1.0e-4", "0.0001", "1E-4", "+1e-04"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_numbers_are_read_as_meant(tmp_path: Path, written: str, optimizer: str) -> None:
    config = load_config(published(tmp_path, lr=written, optimizer=optimizer))
    assert config["optimizer"]["args"]["lr"] == pytest.approx(1e-4)
    assert load_config(published(tmp_path), [f"optimizer.args.lr={written}"])["optimizer"] == {
        "name": "adam",
        "args": {"lr": pytest.approx(1e-4)},
    }


@pytest.mark.parametrize("eval_type", ["div2k-4", "benchmark-3", "null", ""])
def test_published_evaluation_modes(tmp_path: Path, eval_type: str) -> None:
    load_config(published(tmp_path, eval_type=eval_type))


def test_a_test_configuration_needs_no_training_keys(tmp_path: Path) -> None:
    path = tmp_path / "test.yaml"
    kept = ("test_dataset", "eval_type", "eval_bsize", "data_norm")
    whole = load_config(published(tmp_path))
    path.write_text(yaml.safe_dump({key: whole[key] for key in kept}))
    assert set(load_config(path)) == set(kept)
    with pytest.raises(UsageError, match="missing: train_dataset, model, optimizer, epoch_max"):
        read_training_config(load_config(path))


def test_a_configuration_that_cannot_be_read_is_named_in_words(tmp_path: Path) -> None:
    absent = tmp_path / "absent.yaml"
    for path, reason in ((absent, "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError) as error:
            load_config(path)
        assert str(error.value) == f"{path}: expected a YAML configuration, {reason}"


def test_shipped_configurations_are_right() -> None:
    paths = sorted((Path(liif_fast.__file__).parent / "training" / "configs").glob("*.yaml"))
    assert paths
    for path in paths:
        config = load_config(path)
        read_training_config(config)
        make_optimizer(models.make(config["model"]), config["optimizer"])


MISTAKES = {
    "epochs_max=1": "configuration: unknown key 'epochs_max'; did you mean 'epoch_max'?",
    "zzz=1": "configuration: unknown key 'zzz'; known keys: amp, channels_last",
    "train_dataset.batchsize=1": "train_dataset: unknown key 'batchsize'; did you mean 'batch_size'?",
    "val_dataset.dataset.arg.root_path=x": "val_dataset.dataset: unknown key 'arg'; did you mean 'args'?",
    "train_dataset.wrapper.nme=x": "did you mean 'name'?",
    "data_norm.input.sub=[0]": "data_norm: unknown key 'input'; did you mean 'inp'?",
    "data_norm.gt.dif=[1]": "data_norm.gt: unknown key 'dif'; did you mean 'div'?",
    "data_norm={inp: {sub: [0], div: [1]}}": "data_norm: expected the keys inp, gt; missing: gt",
    "model.arg.x=1": "model: unknown key 'arg'; did you mean 'args'?",
    "model.name=lif": "model: expected one of edsr, .*; did you mean 'liif'?",
    "model.args.featunfold=true": "model.args: unknown key 'featunfold'; did you mean 'feat_unfold'?",
    "model.args.encoder_spec.name=rnd": "model.args.encoder_spec: .*; did you mean 'rdn'?",
    "model.args.encoder_spec.args.n_feat=9": "model.args.encoder_spec.args: .*; did you mean 'n_feats'?",
    "model.args.imnet_spec.args.hidden=[9]": "model.args.imnet_spec.args: .*; did you mean 'hidden_list'?",
    "optimizer.args.learning_rate=1": "optimizer.args: unknown key 'learning_rate'",
    "optimizer.args.beta=[0,0]": "did you mean 'betas'?",
    "optimizer.name=adamw": "optimizer: expected one of adam, sgd, got 'adamw'; did you mean 'adam'?",
    "multi_step_lr.gama=1": "multi_step_lr: unknown key 'gama'; did you mean 'gamma'?",
    "multi_step_lr={gamma: 0.5}": "multi_step_lr.milestones: expected a list of epochs, got None",
    "cosine_lr.warm_up=1": "did you mean 'warmup'?",
    "cosine_lr.warmup=1": "expected multi_step_lr or cosine_lr, got both",
    "epoch_max=1.5": "epoch_max: expected a whole number of 1 or more, got 1.5",
    "train_dataset.batch_size=0": "train_dataset.batch_size: expected a whole number of 1 or more, got 0",
    "train_dataset.batch_size=yes": "batch_size: expected a whole number of 1 or more, got True",
    "val_dataset=3": "val_dataset: expected a mapping",
    "train_dataset.batch_size.x=3": "expected a key that holds others, batch_size holds 3",
    "eval_type=div2k": "eval_type: expected",
    "ema=1": "ema: expected a number from 0 to below 1",
    "amp=fp8": "amp: expected bf16, fp16 or nothing, got 'fp8'",
    "clip_grad=0": "clip_grad: expected a number above 0",
    "channels_last=1": "channels_last: expected true or false",
    "init=zero": "init: expected bilinear or nothing",
    "epoch_max": "expected KEY=VALUE",
    "epoch_max=[": "--set epoch_max: expected a YAML",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(config: dict[str, Any], tmp_path: Path, mistake: str) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UsageError) as caught:
        load_config(path, [mistake])
    assert re.search(MISTAKES[mistake].replace("[", r"\["), str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def test_files_that_hold_no_configuration(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(UsageError, match=r"broken\.yaml"):
        load_config(broken)
    broken.write_text("- 1")
    with pytest.raises(UsageError, match="got list"):
        load_config(broken)


def test_settings_lie_over_the_file(config: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    settings = ("train_dataset.batch_size=8", "multi_step_lr=null", "cosine_lr.warmup=3", "amp=bf16", "ema=0.5")
    loaded = load_config(path, settings)
    expected = {"multi_step_lr": None, "cosine_lr": {"warmup": 3}, "amp": "bf16", "ema": 0.5}
    assert loaded == config | expected | {"train_dataset": config["train_dataset"] | {"batch_size": 8}}


def test_the_saved_configuration_is_never_written_over(config: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for epochs in (1, 1, 2, 2, 3):
        save_config(config | {"epoch_max": epochs}, folder)
    saved = {path.name: load_config(path)["epoch_max"] for path in folder.iterdir()}
    assert saved == {"config.yaml": 1, "config-2.yaml": 2, "config-3.yaml": 3}


def test_command_line(config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "tiny.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(config))
    arguments = ["train", str(file), "-o", str(folder), "--device", "cpu", "--set", "epoch_max=1"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr()
    assert "best validation PSNR" in said.out
    assert "epoch 1/1: loss" in said.err
    assert load_config(folder / "config.yaml") == config | {"epoch_max": 1}
    trained = weights(folder / LAST)

    assert cli.main(arguments) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert cli.main([*arguments, "--set", f"resume={file}"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert same(weights(folder / LAST), trained)

    more = ["--set", "epoch_max=2", "train_dataset.batch_size=4", "--set", "val_dataset=null", "-q", "--resume"]
    assert cli.main([*arguments, *more]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "epoch 2" in said.out
    assert read(folder / LAST)["epoch"] == 2
    assert read(folder / LAST)["training"]["step"] == 3 + 2


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, [], "tiny.yaml"),
        ("epoch_max: 1", [], "missing"),
        ("epoch_mx: 1", [], "did you mean 'epoch_max'"),
        ("{}", ["--set", "epoch_max"], "expected KEY=VALUE"),
        ("{}", ["--device", "cuda:77"], "--device"),
        ("{}", ["--device", "toaster"], "--device"),
        ("{}", ["--resume"], "no such file"),
    ],
)
def test_command_line_errors(
    content: str | None,
    arguments: list[str],
    message: str,
    config: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "tiny.yaml"
    if content is not None:
        file.write_text(yaml.safe_dump(config) if content == "{}" else content)
    assert cli.main(["train", str(file), "-o", str(tmp_path / "run"), *arguments]) == 2 - (message == "no such file")
    error = capsys.readouterr().err
    assert message.lower() in error.lower()
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_output_that_is_no_folder(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(config))
    assert cli.main(["train", str(file), "-o", str(file), "-q"]) == 2
    assert "expected a folder to write into" in capsys.readouterr().err


def test_interrupted_command(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    file, run = tmp_path / "tiny.yaml", Trainer.run
    file.write_text(yaml.safe_dump(config))

    def interrupted(self: Trainer) -> float:
        interrupt_at_step(self, 2, signal.SIGTERM)
        return run(self)

    monkeypatch.setattr(Trainer, "run", interrupted)
    assert cli.main(["train", str(file), "-o", str(tmp_path / "run"), "-q"]) == 130
    assert "go on with --resume" in capsys.readouterr().err
    assert read(tmp_path / "run" / LAST)["training"]["step"] == 2


def test_a_configuration_of_the_package_goes_by_its_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "liif_fast", "train", "default-model", "--set", "optimizer.args.lr=-1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "./load/photos" in done.stderr or "load/photos" in done.stderr


def test_every_key_is_documented() -> None:
    documented = {row.key: row for row in documented_keys()}
    assert len(documented) == len(documented_keys())
    assert all(row.type and row.default and row.text.endswith(".") for row in documented.values())
    assert {field.name for field in dataclasses.fields(Config)} <= documented.keys()
    assert documented["train_dataset.batch_size"][1:3] == ("a whole number of 1 or more", "required")
    assert documented["val_dataset"].type == "a mapping with the keys of train_dataset"
    assert documented["multi_step_lr.gamma"].default == "0.1"
    assert documented["channels_last"][1:3] == ("true or false", "false")


def test_a_configuration_cannot_be_changed(config: dict[str, Any]) -> None:
    typed = read_training_config(config)
    assert (typed.epoch_max, typed.train_dataset.batch_size, typed.seed, typed.ema) == (3, 3, 3, 0.0)
    assert typed.norm == config["data_norm"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        typed.epoch_max = 4  # type: ignore[misc]
