"""Training: the schedule, the start, checkpoints, exact resume, and that the loss falls."""

from __future__ import annotations

import copy
import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

import liif_fast
from liif_fast import cli, models
from liif_fast.bilinear_init import bilinear_init
from liif_fast.config import check, load_config
from liif_fast.errors import CheckpointError, UsageError
from liif_fast.geometry import make_cell, make_coord
from liif_fast.schedule import learning_rate_factor
from liif_fast.train import LAST, Trainer, TrainingError, make_optimizer

NORM = {"inp": {"sub": [0.5], "div": [0.5]}, "gt": {"sub": [0.5], "div": [0.5]}}
ENCODERS = [
    {"name": "edsr-baseline", "args": {"n_resblocks": 2, "n_feats": 8, "no_upsampling": True}},
    {"name": "rcan", "args": {"n_resgroups": 1, "n_resblocks": 1, "n_feats": 16, "no_upsampling": True}},
    {"name": "rdn", "args": {"G0": 8, "RDNconfig": "A", "no_upsampling": True}},
]


def liif_spec(encoder: dict[str, Any], **switches: bool) -> dict[str, Any]:
    imnet = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16, 12]}}
    return {"name": "liif", "args": {"encoder_spec": encoder, "imnet_spec": imnet, **switches}}


def smooth_picture(height: int, width: int, seed: int) -> np.ndarray:
    small = np.random.RandomState(seed).randint(0, 256, (height // 6, width // 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.LANCZOS))


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """A published configuration, small: 8 samples in batches of 3, three steps an epoch."""
    root = tmp_path / "pictures"
    root.mkdir()
    for number in range(4):
        Image.fromarray(smooth_picture(60, 72, number)).save(root / f"{number}.png")
    dataset = {"name": "image-folder", "args": {"root_path": str(root), "repeat": 2, "cache": "in_memory"}}
    args = {"inp_size": 12, "scale_max": 4, "augment": True, "sample_q": 100}
    train = {"dataset": dataset, "wrapper": {"name": "sr-implicit-downsampled", "args": args}, "batch_size": 3}
    val = copy.deepcopy(train)
    val["dataset"]["args"]["repeat"] = 1
    val["wrapper"]["args"]["augment"] = False
    return {
        "train_dataset": train,
        "val_dataset": val,
        "data_norm": NORM,
        "model": liif_spec(ENCODERS[0]),
        "optimizer": {"name": "adam", "args": {"lr": 1e-3}},
        "epoch_max": 3,
        "multi_step_lr": {"milestones": [2], "gamma": 0.5},
        "epoch_val": 1,
        "epoch_save": 2,
        "seed": 3,
    }


def weights(path: Path) -> dict[str, torch.Tensor]:
    sd: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["training"]["sd"]
    return sd


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda spec: str(spec["name"]))
@pytest.mark.parametrize("feat_unfold", [True, False])
@pytest.mark.parametrize("cell_decode", [True, False])
def test_bilinear_start_is_bilinear_interpolation(
    encoder: dict[str, Any], feat_unfold: bool, cell_decode: bool
) -> None:
    torch.manual_seed(0)
    model: Any = models.make(liif_spec(encoder, feat_unfold=feat_unfold, cell_decode=cell_decode))
    bilinear_init(model, residual_gain=0)
    inp = torch.rand(2, 3, 9, 11) * 2 - 1
    size = (31, 26)
    coord, cell = (x.expand(2, -1, -1) for x in (make_coord(size), make_cell(size)))
    with torch.no_grad():
        answer = model.eval()(inp, coord, cell)
    expected = F.interpolate(inp, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(answer.transpose(1, 2).view(2, 3, *size), expected, atol=1e-5, rtol=0)


def test_bilinear_start_keeps_other_weights_and_gradients_alive() -> None:
    torch.manual_seed(0)
    model: Any = models.make(liif_spec(ENCODERS[0]))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    bilinear_init(model)
    assert torch.equal(before["encoder.body.0.body.0.weight"], model.encoder.body[0].body[0].weight)
    assert torch.equal(before["encoder.head.0.weight"][3:], model.encoder.head[0].weight[3:])
    inp, coord = torch.rand(1, 3, 8, 8), make_coord((12, 12))[None]
    model(inp, coord, make_cell((12, 12))[None]).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.abs().sum() > 0, name


def test_bilinear_start_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UsageError, match="no_upsampling"):
        bilinear_init(models.make(liif_spec({"name": "edsr-baseline", "args": {"n_resblocks": 1}})))
    narrow = liif_spec(ENCODERS[0])
    narrow["args"]["imnet_spec"]["args"]["hidden_list"] = [5]
    with pytest.raises(UsageError, match="hidden layers"):
        bilinear_init(models.make(narrow))


def test_published_schedule_equals_torch() -> None:
    config = {"multi_step_lr": {"milestones": [2, 3, 6], "gamma": 0.3}}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.7)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, **config["multi_step_lr"])
    for epoch in range(1, 9):
        rate = 0.7 * learning_rate_factor(config, epoch, 0, 1)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_cosine_schedule() -> None:
    config = {"cosine_lr": {"warmup": 10, "final": 0.1}}
    factors = [learning_rate_factor(config, 1, step, 110) for step in range(111)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == pytest.approx(1)
    assert factors[60] == pytest.approx(0.55)
    assert factors[110] == pytest.approx(0.1)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert learning_rate_factor({}, 5, 7, 10) == 1


def test_a_run_writes_checkpoints_and_log(config: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    best = Trainer(config, folder, quiet=True).run()
    assert {path.name for path in folder.iterdir()} == {LAST, "epoch-best.pth", "epoch-2.pth", "log.csv"}
    state = torch.load(folder / LAST, weights_only=True)
    assert state["epoch"] == 3
    assert state["model"]["name"] == "liif"
    assert state["optimizer"]["name"] == "adam"
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["lr"]) for row in rows] == [1e-3, 1e-3, 5e-4]
    assert max(float(row["psnr"]) for row in rows) == pytest.approx(best, abs=1e-3)
    model: Any = liif_fast.load(folder / LAST)
    assert model.data_norm == NORM
    assert same(model.state_dict(), state["model"]["sd"])


def test_training_is_repeatable_and_resume_is_exact(config: dict[str, Any], tmp_path: Path) -> None:
    config["ema"] = 0.9
    config["init"] = "bilinear"
    del config["multi_step_lr"]
    config["cosine_lr"] = {"warmup": 2, "final": 0.1}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    Trainer(config, whole, quiet=True).run()

    interrupted = Trainer(config, parts, quiet=True)
    train_step, calls = interrupted._train_step, []

    def stop_at_the_fifth(batch: dict[str, torch.Tensor]) -> float:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return train_step(batch)

    interrupted._train_step = stop_at_the_fifth  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    before = {path.name for path in parts.iterdir()}
    torch.manual_seed(1234)
    Trainer(config, parts, parts / LAST, quiet=True).run()

    first, second = (torch.load(path / LAST, weights_only=True) for path in (whole, parts))
    assert same(first["training"]["sd"], second["training"]["sd"])
    assert same(first["model"]["sd"], second["model"]["sd"])
    assert first["training"]["best"] == second["training"]["best"]
    assert first["training"]["step"] == second["training"]["step"] == 9
    assert before <= {path.name for path in parts.iterdir()}


def test_resumes_from_a_file_of_the_published_code(config: dict[str, Any], tmp_path: Path) -> None:
    config["model"]["args"]["encoder_spec"]["args"]["n_resblocks"] = 1
    torch.manual_seed(5)
    model = models.make(config["model"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    state = {
        "model": {**config["model"], "sd": model.state_dict()},
        "optimizer": {**config["optimizer"], "sd": optimizer.state_dict()},
        "epoch": 2,
    }
    torch.save(state, tmp_path / "published.pth")
    trainer = Trainer(config, tmp_path / "run", tmp_path / "published.pth", quiet=True)
    assert (trainer.epoch, trainer.step) == (3, 6)
    assert same(trainer.model.state_dict(), model.state_dict())
    trainer.run()
    assert torch.load(tmp_path / "run" / LAST, weights_only=True)["epoch"] == 3


def test_the_average_follows_the_weights(config: dict[str, Any], tmp_path: Path) -> None:
    config.update(ema=0.5, epoch_max=1)
    trainer = Trainer(config, tmp_path, quiet=True)
    expected = {key: value.clone() for key, value in trainer.model.named_parameters()}
    train_step = trainer._train_step
    steps = 0

    def step(batch: dict[str, torch.Tensor]) -> float:
        nonlocal steps
        value = train_step(batch)
        steps += 1
        keep = min(0.5, (1 + steps) / (10 + steps))
        for key, parameter in trainer.model.named_parameters():
            expected[key] = keep * expected[key] + (1 - keep) * parameter.detach()
        return value

    trainer._train_step = step  # type: ignore[method-assign]
    trainer.run()
    assert steps == 3
    for key, parameter in trainer.average.model.named_parameters():
        torch.testing.assert_close(parameter, expected[key].detach())


def test_training_learns(config: dict[str, Any], tmp_path: Path) -> None:
    config["train_dataset"]["dataset"]["args"]["repeat"] = 15
    config.update(epoch_max=2, epoch_val=2, init="bilinear", ema=0.9, clip_grad=1.0, channels_last=True)
    start = Trainer(config, tmp_path / "start", quiet=True).validate()
    trained = Trainer(config, tmp_path / "run", quiet=True).run()
    assert trained > start + 1


def test_metasr_trains(config: dict[str, Any], tmp_path: Path) -> None:
    config["train_dataset"]["dataset"]["args"]["repeat"] = 15
    config["model"] = {"name": "metasr", "args": {"encoder_spec": ENCODERS[0]}}
    config.update(epoch_max=2, epoch_val=2)
    trainer = Trainer(config, tmp_path / "run", quiet=True)
    start = trainer.validate()
    assert trainer.run() > start + 3
    with torch.no_grad():
        model: Any = liif_fast.load(tmp_path / "run" / LAST)
        assert same(model.state_dict(), trainer.average.model.state_dict())


def test_a_loss_that_is_not_finite_stops_the_run(config: dict[str, Any], tmp_path: Path) -> None:
    config["optimizer"] = {"name": "sgd", "args": {"lr": "1e30"}}
    with pytest.raises(TrainingError, match="lower the learning rate"):
        Trainer(config, tmp_path, quiet=True).run()


def test_a_full_disk_leaves_the_old_checkpoint(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config["epoch_max"] = 1
    Trainer(config, tmp_path, quiet=True).run()
    before = weights(tmp_path / LAST)

    def full(state: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    config["epoch_max"] = 2
    with pytest.raises(TrainingError, match="No space left"):
        Trainer(config, tmp_path, tmp_path / LAST, quiet=True).run()
    assert same(weights(tmp_path / LAST), before)
    assert not list(tmp_path.glob("*part*"))


def test_unknown_optimizer_is_named() -> None:
    with pytest.raises(UsageError, match="adamw"):
        make_optimizer(torch.nn.Linear(1, 1), {"name": "adamw", "args": {}})


def test_configuration_errors_help(config: dict[str, Any], tmp_path: Path) -> None:
    check(config)
    with pytest.raises(UsageError, match="did you mean epoch_max"):
        check({**config, "epochs_max": 1})
    with pytest.raises(UsageError, match="missing: optimizer"):
        check({key: value for key, value in config.items() if key != "optimizer"})
    with pytest.raises(UsageError, match="got both"):
        check({**config, "cosine_lr": {}})
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(UsageError, match=r"broken\.yaml"):
        load_config(broken)
    broken.write_text("- 1")
    with pytest.raises(UsageError, match="got list"):
        load_config(broken)


def test_shipped_configurations_are_right() -> None:
    folder = Path(liif_fast.__file__).parent / "configs"
    paths = sorted(folder.glob("*.yaml"))
    assert paths
    for path in paths:
        spec = load_config(path)["model"]
        assert sum(parameter.numel() for parameter in models.make(spec).parameters()) > 1.5e6


def test_command_line(config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "tiny.yaml", tmp_path / "run"
    config["epoch_max"] = 1
    file.write_text(yaml.safe_dump(config))
    arguments = ["train", str(file), "-o", str(folder), "--device", "cpu", "-q"]
    assert cli.main(arguments) == 0
    assert "best validation PSNR" in capsys.readouterr().out
    assert load_config(folder / "config.yaml") == config
    trained = weights(folder / LAST)

    assert cli.main(arguments) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert same(weights(folder / LAST), trained)

    config["epoch_max"] = 2
    file.write_text(yaml.safe_dump(config))
    assert cli.main([*arguments, "--resume"]) == 0
    assert torch.load(folder / LAST, weights_only=True)["epoch"] == 2
    assert not same(weights(folder / LAST), trained)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "tiny.yaml"), ("epoch_max: 1", "missing"), ("epoch_mx: 1", "did you mean epoch_max")],
)
def test_command_line_errors(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    if content is not None:
        file.write_text(content)
    assert cli.main(["train", str(file), "-o", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_resuming_from_something_else_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"bad\.pth"):
        Trainer(config, tmp_path / "run", tmp_path / "bad.pth", quiet=True)
    torch.save({"model": {"name": "liif", "args": {}, "sd": {}}}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="optimizer and epoch"):
        Trainer(config, tmp_path / "run", tmp_path / "weights.pth", quiet=True)


def test_published_configuration_text_loads(tmp_path: Path) -> None:
    """YAML reads 1.e-4 as a number, 1e-4 as text; both must work."""
    text = "lr: [1.e-4, 1e-4]"
    values = yaml.safe_load(text)["lr"]
    rates = [
        make_optimizer(torch.nn.Linear(1, 1), {"name": "adam", "args": {"lr": value}}).param_groups[0]["lr"]
        for value in values
    ]
    assert all(math.isclose(rate, 1e-4) for rate in rates)
