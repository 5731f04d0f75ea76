"""A training run that takes a second, and what to look at after it."""

from __future__ import annotations

import copy
import csv
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from liif_fast.training.trainer import Trainer
from support.models import liif_spec

NORM = {"inp": {"sub": [0.5], "div": [0.5]}, "gt": {"sub": [0.5], "div": [0.5]}}


def smooth_picture(height: int, width: int, seed: int) -> Image.Image:
    small = np.random.RandomState(seed).randint(0, 256, (height // 6, width // 6, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.LANCZOS)


def small_config(root: Path) -> dict[str, Any]:
    """A published configuration, small: 8 samples in batches of 3, three steps an epoch."""
    root.mkdir()
    for number in range(4):
        smooth_picture(60, 72, number).save(root / f"{number}.png")
    dataset = {"name": "image-folder", "args": {"root_path": str(root), "repeat": 2, "cache": "in_memory"}}
    args = {"inp_size": 12, "scale_max": 4, "augment": True, "sample_q": 100}
    train: dict[str, Any] = {
        "dataset": dataset,
        "wrapper": {"name": "sr-implicit-downsampled", "args": args},
        "batch_size": 3,
    }
    val = copy.deepcopy(train)
    val["dataset"]["args"]["repeat"] = 1
    val["wrapper"]["args"]["augment"] = False
    return {
        "train_dataset": train,
        "val_dataset": val,
        "data_norm": NORM,
        "model": liif_spec(),
        "optimizer": {"name": "adam", "args": {"lr": 1e-3}},
        "epoch_max": 3,
        "multi_step_lr": {"milestones": [2], "gamma": 0.5},
        "epoch_val": 1,
        "epoch_save": 2,
        "seed": 3,
    }


def read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def weights(path: Path) -> dict[str, Tensor]:
    sd: dict[str, Tensor] = read(path)["training"]["sd"]
    return sd


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, at any depth."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def interrupt_at_step(trainer: Trainer, number: int, which: signal.Signals = signal.SIGINT) -> None:
    """Sends this process a signal in the middle of the given step, counted from 1."""
    train_step = trainer._train_step
    count = 0

    def step(batch: dict[str, Tensor]) -> Tensor:
        nonlocal count
        count += 1
        if count == number:
            signal.raise_signal(which)
        return train_step(batch)

    trainer._train_step = step  # type: ignore[method-assign]
