"""Training: the schedule, what a run writes, and that the loss falls."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.models import EDSR
from support.runs import NORM, read, rows, same, small_config, weights

import liif_fast
from liif_fast.errors import UsageError
from liif_fast.training.config import read_config
from liif_fast.training.optimizer import Averager, make_optimizer
from liif_fast.training.schedule import learning_rate_factor
from liif_fast.training.state import TrainingError
from liif_fast.training.trainer import BEST, LAST, Trainer

pytest.importorskip("yaml", reason="a run writes its configuration as YAML: the train extra")


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return small_config(tmp_path / "pictures")


def test_published_schedule_equals_torch() -> None:
    schedule: dict[str, Any] = {"milestones": [2, 3, 6], "gamma": 0.3}
    config = read_config({"multi_step_lr": schedule})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.7)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, **schedule)
    for epoch in range(1, 9):
        rate = 0.7 * learning_rate_factor(config.schedule, epoch, 0, 1)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_cosine_schedule() -> None:
    config = read_config({"cosine_lr": {"warmup": 10, "final": 0.1}})
    factors = [learning_rate_factor(config.schedule, 1, step, 110) for step in range(111)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == pytest.approx(1)
    assert factors[60] == pytest.approx(0.55)
    assert factors[110] == pytest.approx(0.1)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert learning_rate_factor(read_config({}).schedule, 5, 7, 10) == 1


def test_a_run_equals_the_published_loop(config: dict[str, Any], tmp_path: Path) -> None:
    """The weights after an epoch are those of the plain loop: normalise, L1, zero_grad, backward, step."""
    config |= {"epoch_max": 1, "val_dataset": None}
    trainer = Trainer(config, tmp_path / "run")
    model: Any = liif_fast.models.make(config["model"])
    model.load_state_dict(trainer.model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    seen: list[dict[str, torch.Tensor]] = []
    train_step = trainer._train_step

    def step(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.append(batch)
        return train_step(batch)

    trainer._train_step = step  # type: ignore[method-assign]
    trainer.run()
    losses = []
    for batch in seen:
        answer = model((batch["inp"] - 0.5) / 0.5, batch["coord"], batch["cell"])
        loss = torch.nn.L1Loss()(answer, (batch["gt"] - 0.5) / 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert [len(batch["inp"]) for batch in seen] == [3, 3, 2]
    assert same(dict(trainer.model.state_dict()), dict(model.state_dict()))
    assert float(rows(tmp_path / "run")[0]["loss"]) == pytest.approx(sum(losses) / 3, abs=1e-6)


def test_a_run_writes_checkpoints_log_and_curve(config: dict[str, Any], tmp_path: Path) -> None:
    for library in ("matplotlib", "tensorboard"):
        pytest.importorskip(library)
    folder, lines = tmp_path / "run", list[str]()
    best = Trainer(config, folder, say=lines.append).run()
    written = {path.name for path in folder.iterdir()}
    assert written == {LAST, BEST, "epoch-2.pth", "log.csv", "config.yaml", "curve.png", "tensorboard"}
    state = read(folder / LAST)
    assert state["epoch"] == 3
    assert state["model"]["name"] == "liif"
    assert state["optimizer"]["name"] == "adam"
    table = rows(folder)
    assert [row["epoch"] for row in table] == ["1", "2", "3"]
    assert [float(row["lr"]) for row in table] == [1e-3, 1e-3, 5e-4]
    assert max(float(row["psnr"]) for row in table) == pytest.approx(best, abs=1e-3)
    assert lines[0].startswith(f"epoch 1/3: loss {float(table[0]['loss']):.4f}, PSNR {float(table[0]['psnr']):.2f} dB")
    assert len(lines) == 3
    model: Any = liif_fast.load(folder / LAST)
    assert model.data_norm == NORM
    assert same(dict(model.state_dict()), dict(state["model"]["sd"]))
    with Image.open(folder / "curve.png") as picture:
        assert len(picture.convert("RGB").getcolors(10**6) or ()) > 50
    assert any((folder / "tensorboard").iterdir())


def test_tensorboard_holds_the_log(config: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Trainer(config, tmp_path).run()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name, column in {"lr": "lr", "loss/train": "loss", "psnr/val": "psnr"}.items():
        values = [(event.step, event.value) for event in events.Scalars(name)]
        assert values == [(int(row["epoch"]), pytest.approx(float(row[column]), abs=1e-3)) for row in rows(tmp_path)]


def test_without_the_extra_libraries_training_goes_on(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    lines: list[str] = []
    Trainer(config, tmp_path, say=lines.append).run()
    assert len(rows(tmp_path)) == 3
    assert not (tmp_path / "tensorboard").exists()
    for library in ("tensorboard", "matplotlib"):
        assert sum(f"{library} is not installed" in line for line in lines) == 1


def test_the_average_follows_the_weights() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    average = Averager(model, 0.5)
    expected = model.weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model.weight += torch.rand(2, 3)
        average.update(model, step)
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * model.weight.detach()
    torch.testing.assert_close(average.model.weight, expected)
    assert Averager(model, 0).model is model


def test_training_learns(config: dict[str, Any], tmp_path: Path) -> None:
    config["train_dataset"]["dataset"]["args"]["repeat"] = 15
    config.update(epoch_max=2, epoch_val=2, init="bilinear", ema=0.9, clip_grad=1.0, channels_last=True)
    start = Trainer(config, tmp_path / "start").validate()
    trained = Trainer(config, tmp_path / "run").run()
    assert trained > start + 1


def test_metasr_trains(config: dict[str, Any], tmp_path: Path) -> None:
    config["train_dataset"]["dataset"]["args"]["repeat"] = 15
    config["model"] = {"name": "metasr", "args": {"encoder_spec": EDSR}}
    config.update(epoch_max=2, epoch_val=2)
    trainer = Trainer(config, tmp_path / "run")
    start = trainer.validate()
    assert trainer.run() > start + 3
    with torch.no_grad():
        model: Any = liif_fast.load(tmp_path / "run" / LAST)
        assert same(dict(model.state_dict()), dict(trainer.average.model.state_dict()))


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_mixed_precision_learns_as_float32(config: dict[str, Any], tmp_path: Path, kind: str) -> None:
    config.update(init="bilinear", epoch_max=2)
    whole = Trainer(config, tmp_path / "fp32").run()
    trainer = Trainer(config | {"amp": kind}, tmp_path / kind)
    assert trainer.run() == pytest.approx(whole, abs=0.3)
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert not same(weights(tmp_path / "fp32" / LAST), weights(tmp_path / kind / LAST))
    scaler = read(tmp_path / kind / LAST)["training"]["scaler"]
    assert (scaler["scale"] > 1) if kind == "fp16" else scaler == {}


def test_an_encoder_that_upsamples_trains(config: dict[str, Any], tmp_path: Path) -> None:
    encoder = {"name": EDSR["name"], "args": {**EDSR["args"], "no_upsampling": False, "scale": 2}}
    config["model"] = {"name": "liif", "args": {"encoder_spec": encoder}}
    Trainer(config, tmp_path).run()
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    assert losses[-1] < losses[0]


def test_workers_make_the_same_samples(config: dict[str, Any], tmp_path: Path) -> None:
    for workers in (0, 2):
        config["train_dataset"]["num_workers"] = config["val_dataset"]["num_workers"] = workers
        Trainer(config, tmp_path / str(workers)).run()
    assert same(weights(tmp_path / "0" / LAST), weights(tmp_path / "2" / LAST))
    assert [row["psnr"] for row in rows(tmp_path / "0")] == [row["psnr"] for row in rows(tmp_path / "2")]


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_of_several_sizes_are_refused_in_one_line(config: dict[str, Any], tmp_path: Path, workers: int) -> None:
    config["train_dataset"]["wrapper"]["args"]["sample_q"] = None
    config["train_dataset"]["num_workers"] = workers
    with pytest.raises(UsageError, match=r"expected samples of one size") as caught:
        Trainer(config, tmp_path).run()
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_stops_the_run(config: dict[str, Any], tmp_path: Path) -> None:
    config["optimizer"] = {"name": "sgd", "args": {"lr": 1e30}}
    with pytest.raises(TrainingError, match="lower the learning rate"):
        Trainer(config, tmp_path).run()
    assert not (tmp_path / LAST).exists()


def test_a_full_disk_leaves_the_old_checkpoint(config: dict[str, Any], tmp_path: Path) -> None:
    config["epoch_max"] = 1
    Trainer(config, tmp_path).run()
    before = read(tmp_path / LAST)
    config["epoch_max"] = 2
    trainer = Trainer(config, tmp_path, tmp_path / LAST)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file that may not grow stops a writer in the middle, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / LAST).stat().st_size // 2, limit[1]))
    try:
        with pytest.raises(TrainingError, match="cannot be written, the old one is intact"):
            trainer.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert same(read(tmp_path / LAST), before)
    assert not list(tmp_path.glob(".*part*"))


def test_unknown_optimizer_is_named() -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.raises(UsageError, match="did you mean 'adam'"):
        make_optimizer(model, {"name": "adamw", "args": {}})
    with pytest.raises(UsageError, match="learning rate"):
        make_optimizer(model, {"name": "adam", "args": {"lr": -1}})
