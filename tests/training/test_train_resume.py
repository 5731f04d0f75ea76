"""Resuming: exact after any interruption, from the published code's files too, refused where it cannot be right."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import liif_spec
from support.runs import interrupt_at_step, read, rows, same, small_config, weights

from liif_fast import models
from liif_fast.errors import CheckpointError
from liif_fast.training.interrupts import Interrupts
from liif_fast.training.trainer import LAST, Trainer

pytest.importorskip("yaml", reason="a run writes its configuration as YAML: the train extra")


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return small_config(tmp_path / "pictures")


@pytest.fixture(autouse=True)
def interrupts_are_heard() -> Any:
    """SIGINT interrupts, also where the tests run in a shell's background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "no schedule": {"multi_step_lr": None},
    "everything": {
        "multi_step_lr": None,
        "cosine_lr": {"warmup": 2, "final": 0.1},
        "ema": 0.9,
        "init": "bilinear",
        "clip_grad": 1.0,
        "amp": "fp16",
        "channels_last": True,
    },
    "sgd": {"optimizer": {"name": "sgd", "args": {"lr": 0.1, "momentum": 0.9}}, "amp": "bf16"},
}


@pytest.mark.parametrize(
    ("variant", "step"), [("published", 2), ("published", 3), ("no schedule", 5), ("everything", 5), ("sgd", 4)]
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    config: dict[str, Any], tmp_path: Path, variant: str, step: int
) -> None:
    config |= VARIANTS[variant]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    Trainer(config, whole).run()

    interrupted = Trainer(config, parts)
    interrupt_at_step(interrupted, step, signal.SIGTERM if step == 5 else signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    assert read(parts / LAST)["training"]["step"] == step
    before = {path.name for path in parts.iterdir()}
    torch.manual_seed(1234)
    Trainer(config, parts, parts / LAST).run()

    assert before <= {path.name for path in parts.iterdir()}
    for name in (LAST, "epoch-best.pth", "epoch-2.pth"):
        assert same(read(whole / name), read(parts / name)), name
    keys = ("epoch", "step", "lr", "loss", "psnr")
    assert [[row[key] for key in keys] for row in rows(whole)] == [[row[key] for key in keys] for row in rows(parts)]


def test_an_interrupted_validation_is_made_up_for(config: dict[str, Any], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    Trainer(config, whole).run()
    interrupted = Trainer(config, parts)
    validate = interrupted.validate

    def validate_interrupted() -> float:
        if interrupted.epoch == 2:
            signal.raise_signal(signal.SIGINT)
        return validate()

    interrupted.validate = validate_interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    assert len(rows(parts)) == 1
    Trainer(config, parts, parts / LAST).run()
    assert same(read(whole / LAST), read(parts / LAST))
    assert [row["psnr"] for row in rows(whole)] == [row["psnr"] for row in rows(parts)]


def test_the_second_signal_does_not_wait() -> None:
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.stopped
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ignored_signals_stay_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
    assert not interrupts.stopped


def test_trains_outside_of_the_main_thread(config: dict[str, Any], tmp_path: Path) -> None:
    config["epoch_max"] = 1
    thread = threading.Thread(target=Trainer(config, tmp_path).run)
    thread.start()
    thread.join()
    assert read(tmp_path / LAST)["epoch"] == 1


def test_workers_leave_ctrl_c_to_the_trainer(config: dict[str, Any], tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches the workers too: the step is finished and saved nevertheless."""
    from torch.multiprocessing import active_children

    config["train_dataset"]["num_workers"] = 1
    trainer = Trainer(config, tmp_path)
    train_step = trainer._train_step

    def step(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if trainer.step == 1:
            for child in active_children():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return train_step(batch)

    trainer._train_step = step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert read(tmp_path / LAST)["training"]["step"] == 2


@pytest.mark.slow
def test_a_longer_run_goes_on_with_its_schedule(config: dict[str, Any], tmp_path: Path) -> None:
    """Resumed with a larger epoch_max, the cosine goes on from the step it had come to."""
    config |= {"multi_step_lr": None, "cosine_lr": {"warmup": 0, "final": 0}, "epoch_max": 2}
    Trainer(config, tmp_path).run()
    Trainer(config | {"epoch_max": 4}, tmp_path, tmp_path / LAST).run()
    # Last steps of the epochs of 3 steps: 5 of 6 (index), then 8 and 11 of 12.
    expected = [
        1e-3 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * at)).item()) for at in (2 / 6, 5 / 6, 8 / 12, 11 / 12)
    ]
    assert [float(row["lr"]) for row in rows(tmp_path)] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("schedule", [{"milestones": [1], "gamma": 0.5}, None])
def test_resumes_from_a_file_of_the_published_code(
    config: dict[str, Any], tmp_path: Path, schedule: dict[str, Any] | None
) -> None:
    config["multi_step_lr"] = schedule
    torch.manual_seed(5)
    model = models.make(config["model"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    optimizer.step()
    # Its scheduler had already halved the rate: that must not happen twice.
    optimizer.param_groups[0]["lr"] = 5e-4
    state = {
        "model": {**config["model"], "sd": model.state_dict()},
        "optimizer": {**config["optimizer"], "sd": optimizer.state_dict()},
        "epoch": 2,
    }
    torch.save(state, tmp_path / "published.pth")
    trainer = Trainer(config, tmp_path / "run", tmp_path / "published.pth")
    assert (trainer.epoch, trainer.step) == (3, 6)
    assert same(dict(trainer.model.state_dict()), dict(model.state_dict()))
    assert same(trainer.optimizer.state_dict()["state"], optimizer.state_dict()["state"])
    trainer.run()
    (row,) = rows(tmp_path / "run")
    assert float(row["lr"]) == pytest.approx(5e-4 if schedule else 1e-3)
    assert read(tmp_path / "run" / LAST)["epoch"] == 3


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "width": (
        liif_spec({"name": "edsr-baseline", "args": {"n_resblocks": 2, "n_feats": 12, "no_upsampling": True}}),
        "n_feats: expected 12, got 8",
    ),
    "defaults": (
        liif_spec({"name": "edsr-baseline", "args": {"no_upsampling": True}}),
        "weights that do not fit",
    ),
    "encoder": (liif_spec({"name": "rdn", "args": {"no_upsampling": True}}), "name: expected rdn, got edsr-baseline"),
    "switch": (liif_spec(local_ensemble=False), "local_ensemble: expected False, got True"),
    "model": ({"name": "metasr", "args": {"encoder_spec": liif_spec()["args"]["encoder_spec"]}}, "expected metasr"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_architecture_is_refused(config: dict[str, Any], tmp_path: Path, other: str) -> None:
    config["epoch_max"] = 1
    Trainer(config, tmp_path).run()
    before = weights(tmp_path / LAST)
    spec, message = OTHERS[other]
    with pytest.raises(CheckpointError, match=message) as caught:
        Trainer(config | {"model": spec, "epoch_max": 2}, tmp_path, tmp_path / LAST)
    assert "\n" not in str(caught.value)
    assert same(weights(tmp_path / LAST), before)


def test_resuming_from_something_else_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"bad\.pth"):
        Trainer(config, tmp_path / "run", tmp_path / "bad.pth")
    torch.save({"model": {"name": "liif", "args": {}, "sd": {}}}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="optimizer and epoch"):
        Trainer(config, tmp_path / "run", tmp_path / "weights.pth")
    config["epoch_max"] = 1
    Trainer(config, tmp_path / "run").run()
    config["optimizer"] = {"name": "sgd", "args": {"lr": 0.1}}
    with pytest.raises(CheckpointError, match="expected the state of the optimizer sgd, got that of adam"):
        Trainer(config, tmp_path / "run", tmp_path / "run" / LAST)
