"""Training on several processes, as torchrun starts them: the same weights as one process with the joint batch."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import read, rows, small_config

from liif_fast.training import distributed
from liif_fast.training.interrupts import Stopped
from liif_fast.training.loading import Order
from liif_fast.training.trainer import BEST, LAST, Trainer

yaml: Any = pytest.importorskip("yaml", reason="configurations are YAML: the train extra")

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "liif_fast")
# A process that hangs is a failure.
PATIENCE = 120


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """Batches of 3 of 8 samples: two processes never have equal shares. Plain SGD keeps rounding errors small."""
    return small_config(tmp_path / "pictures") | {"optimizer": {"name": "sgd", "args": {"lr": 0.05, "momentum": 0.9}}}


def start(config: dict[str, Any], folder: Path, *arguments: str) -> subprocess.Popen[str]:
    file = folder.parent / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [*TORCHRUN, "train", str(file), "-o", str(folder), "--device", "cpu", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_by_hand(config: dict[str, Any], folder: Path) -> list[subprocess.Popen[str]]:
    """The two processes alone, with nobody who would end one because the other failed."""
    file = folder.parent / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "liif_fast", "train", str(file), "-o", str(folder), "--device", "cpu"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen(command, env=os.environ | group | {"RANK": rank}, **pipes) for rank in "01"]


@pytest.mark.slow
def test_two_processes_equal_one_with_the_joint_batch(config: dict[str, Any], tmp_path: Path) -> None:
    """Joined after an interruption of the single process, so that resuming is shared too."""
    config |= {"ema": 0.5, "clip_grad": 1.0}
    one, two = tmp_path / "one", tmp_path / "two"
    Trainer(config, one).run()
    Trainer(config | {"epoch_max": 1, "multi_step_lr": None}, two).run()
    process = start(config, two, "--resume")
    said, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert said.count("best validation PSNR") == 1
    assert errors.count("epoch 3/3: loss") == 1

    for name in (LAST, BEST, "epoch-2.pth"):
        first, second = read(one / name), read(two / name)
        assert first["training"]["step"] == second["training"]["step"]
        for key, value in first["model"]["sd"].items():
            torch.testing.assert_close(second["model"]["sd"][key], value, rtol=1e-5, atol=1e-6, msg=f"{name} {key}")
    for mine, theirs in zip(rows(one), rows(two), strict=True):
        assert float(theirs["loss"]) == pytest.approx(float(mine["loss"]), abs=2e-6)
        assert float(theirs["psnr"]) == pytest.approx(float(mine["psnr"]), abs=2e-4)


def test_shares_make_up_the_joint_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order(length=11, size=4, seed=5)
    whole = list(order.walk(1, 0, 2))
    assert [len(batch) for batch in whole] == [4, 4, 3] * 2
    assert sorted(whole[0] + whole[1] + whole[2]) == [(1, index) for index in range(11)]
    for processes in (2, 3, 5):
        parts, shares = [], []
        for rank in range(processes):
            monkeypatch.setattr("liif_fast.training.distributed.world", lambda place=(rank, processes): place)
            parts.append(list(order.walk(1, 0, 2)))
            shares.append([order.share(batch) for batch in range(order.batches)])
        for number, batch in enumerate(whole):
            share = [shares[rank][number % order.batches] for rank in range(processes)]
            # DistributedDataParallel takes the mean over the processes.
            assert sum(share) / processes == pytest.approx(1)
            counted = [part[number] for part, weight in zip(parts, share, strict=True) if weight]
            assert sorted(itertools.chain(*counted)) == sorted(batch)
            assert all(parts[rank][number] for rank in range(processes))
            for part, weight in zip(parts, share, strict=True):
                assert weight in (0, pytest.approx(len(part[number]) * processes / len(batch)))


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert distributed.own(torch.device("cuda:1")) == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert distributed.own(torch.device("cuda")) == torch.device("cuda:3")
    assert distributed.own(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(config: dict[str, Any], tmp_path: Path) -> None:
    """Only the first process writes; that it cannot must not leave the other waiting."""
    folder = tmp_path / "run"
    folder.write_text("in the way")
    processes = start_by_hand(config, folder)
    errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    assert all(process.returncode for process in processes)
    assert "expected a folder to write into" in errors[0]
    assert errors[1] == "liif-fast train: the connection to another process is lost; its own messages say why\n"


@pytest.mark.slow
@pytest.mark.parametrize("repeat", [1, 100], ids=["training", "validating"])
def test_ctrl_c_stops_all_at_one_step(config: dict[str, Any], tmp_path: Path, repeat: int) -> None:
    """Wherever it meets them: with so much to validate, or so little, nearly all their time goes into one of both."""
    folder = tmp_path / "run"
    config["train_dataset"]["num_workers"] = 1
    config["val_dataset"]["dataset"]["args"]["repeat"] = repeat
    processes = start_by_hand(config | {"epoch_max": 100000}, folder)
    deadline = time.monotonic() + PATIENCE
    while not (folder / LAST).exists():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)
    # The other one hears of it from this one alone.
    processes[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    assert [process.returncode for process in processes] == [130, 130], errors
    state = read(folder / LAST)
    assert state["training"]["step"] == 3 * state["epoch"] + state["training"]["batch"]


@pytest.mark.parametrize("told", ["this one", "another one"])
def test_a_process_stops_validating_together_with_the_others(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """It takes part in the sum over all processes even though it was told to stop, or it stops for what comes of it."""
    trainer = Trainer(config, tmp_path / "run")
    sums = []

    def total(values: torch.Tensor) -> torch.Tensor:
        sums.append(values)
        return values + torch.tensor([60.0, 2.0, told == "another one"])

    monkeypatch.setattr("liif_fast.training.distributed.total", total)
    trainer.interrupts.stopped = told == "this one"
    with pytest.raises(Stopped):
        trainer.validate()
    assert [values[2].item() for values in sums] == [told == "this one"]
