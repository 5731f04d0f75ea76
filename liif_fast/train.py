"""Training from a published configuration: the loop, its schedule, its checkpoints and its log."""

from __future__ import annotations

import copy
import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from liif_fast import models
from liif_fast.bilinear_init import bilinear_init
from liif_fast.checkpoint import read_pickled
from liif_fast.data import make_samples
from liif_fast.errors import CheckpointError, LiifError, UsageError
from liif_fast.evaluate import IDENTITY_NORM, Normalisation, eval_psnr
from liif_fast.files import replacing
from liif_fast.schedule import learning_rate_factor

LAST = "epoch-last.pth"
OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
LOG_COLUMNS = ("epoch", "step", "lr", "loss", "psnr", "seconds", "images_per_second")


class TrainingError(LiifError, RuntimeError):
    """Training cannot go on."""


class Averager:
    """Exponential moving average of a model's parameters, kept as a model of its own."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average; early steps count for more, so that the start is soon forgotten."""
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - keep)


def make_optimizer(model: nn.Module, spec: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer of a published `{name: adam | sgd, args[, sd]}` spec; its state is loaded if there is one."""
    if spec.get("name") not in OPTIMIZERS:
        raise UsageError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {spec.get('name')!r}")
    # YAML 1.1 reads 1e-4, without a dot, as text
    args = {key: float(value) if isinstance(value, str) else value for key, value in spec["args"].items()}
    optimizer = OPTIMIZERS[spec["name"]](model.parameters(), **args)
    if "sd" in spec:
        optimizer.load_state_dict(spec["sd"])
    return optimizer


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint to train on from: {model {name, args, sd}, optimizer {..., sd}, epoch, ...}.

    Raises CheckpointError when there is none, or when it holds weights only.
    """
    try:
        state = read_pickled(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(state, dict) or not {"model", "optimizer", "epoch"} <= state.keys():
        raise CheckpointError(f"{path}: expected a training checkpoint with the keys model, optimizer and epoch")
    return state


class Trainer:
    """One training run, in the folder that holds its checkpoints and its log.

    config: the published keys (see the module `liif_fast.config` for all of them).
    folder: made if missing; nothing in it is ever removed, only `epoch-last.pth`, `epoch-best.pth` and
        `epoch-N.pth` are replaced, each whole or not at all.
    resume: a checkpoint to go on from; exact if this class wrote it, else from its model, optimizer and epoch.
    device: where the model is. quiet: no progress bar.
    """

    def __init__(
        self,
        config: dict[str, Any],
        folder: Path,
        resume: Path | None = None,
        device: torch.device | str = "cpu",
        quiet: bool = False,
    ) -> None:
        self.config = config
        self.folder = folder
        self.device = torch.device(device)
        self.quiet = quiet
        self.seed = int(config.get("seed", 0))
        torch.manual_seed(self.seed)
        self.data_norm = config.get("data_norm") or IDENTITY_NORM
        self.norm = Normalisation(self.data_norm, self.device)
        self.train_samples = make_samples(config["train_dataset"])
        self.train_samples.seed = self.seed
        self.val_samples = make_samples(config["val_dataset"]) if config.get("val_dataset") else None

        self.epoch, self.batch, self.step = 1, 0, 0
        self.best = float("-inf")
        state = read_state(resume) if resume is not None else None
        self.model_spec = {key: value for key, value in (state or config)["model"].items() if key != "sd"}
        self.model = cast(Any, models.make(self.model_spec).to(self.device))
        self.model.data_norm = copy.deepcopy(self.data_norm)
        if state is None and config.get("init") == "bilinear":
            bilinear_init(self.model)
        self.average = Averager(self.model, float(config.get("ema", 0)))
        optimizer_spec = config["optimizer"]
        if state is not None:
            optimizer_spec = {**optimizer_spec, "sd": state["optimizer"]["sd"]}
            self._restore(state)
        self.optimizer = make_optimizer(self.model, optimizer_spec)
        self.base_rates = [float(optimizer_spec["args"]["lr"])] * len(self.optimizer.param_groups)
        if config.get("channels_last"):
            self.model.encoder.to(memory_format=torch.channels_last)

    def _restore(self, state: dict[str, Any]) -> None:
        self.average.model.load_state_dict(state["model"]["sd"])
        own = state.get("training")
        self.model.load_state_dict(own["sd"] if own else state["model"]["sd"])
        self.epoch = state["epoch"] + 1
        steps = -(-len(self.train_samples) // self.config["train_dataset"]["batch_size"])
        self.step = state["epoch"] * steps
        if own:
            self.batch, self.step, self.best = own["batch"], own["step"], own["best"]

    def run(self) -> float:
        """Trains to `epoch_max`; returns the best validation PSNR in dB (-inf without validation).

        On KeyboardInterrupt the state is saved into epoch-last.pth, exact to the batch, and the interrupt passed on.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        every = self.config.get("epoch_val")
        keep = self.config.get("epoch_save")
        while self.epoch <= self.config["epoch_max"]:
            started, first = time.monotonic(), self.batch
            try:
                loss = self._train_epoch()
            except KeyboardInterrupt:
                self._save(LAST, self.epoch - 1)
                raise
            seconds = time.monotonic() - started
            value = None
            if self.val_samples is not None and every and self.epoch % every == 0:
                value = self.validate()
            finished, self.batch, self.epoch = self.epoch, 0, self.epoch + 1
            is_best = value is not None and value > self.best
            if is_best and value is not None:
                self.best = value
            self._save(LAST, finished)
            if is_best:
                self._save("epoch-best.pth", finished)
            if keep and finished % keep == 0:
                self._save(f"epoch-{finished}.pth", finished)
            batch_size = self.config["train_dataset"]["batch_size"]
            images = len(self.train_samples) - first * batch_size
            self._log(finished, loss, value, seconds, images / seconds)
        return self.best

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        """The batches of this epoch that are still to come, the order drawn from (seed, epoch)."""
        spec = self.config["train_dataset"]
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.train_samples)).tolist()
        size = spec["batch_size"]
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        self.train_samples.set_epoch(self.epoch)
        loader: DataLoader[dict[str, Tensor]] = DataLoader(
            self.train_samples,
            batch_sampler=batches[self.batch :],
            num_workers=spec.get("num_workers", 0),
            pin_memory=self.device.type == "cuda",
        )
        bar = tqdm(loader, total=len(batches), initial=self.batch, leave=False, disable=self.quiet)
        bar.set_description(f"epoch {self.epoch}/{self.config['epoch_max']}")
        return iter(bar)

    def _train_epoch(self) -> float:
        """One epoch from batch `self.batch` on; returns the mean L1 loss."""
        self.model.train()
        total, count = 0.0, 0
        total_steps = self.step - self.batch + self._steps_left()
        for batch in self._batches():
            factor = learning_rate_factor(self.config, self.epoch, self.step, total_steps)
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor
            total += self._train_step(batch)
            count += 1
            self.step += 1
            self.batch += 1
            self.average.update(self.model, self.step)
        return total / max(count, 1)

    def _steps_left(self) -> int:
        """Steps from the start of this epoch to the end of the run."""
        steps = -(-len(self.train_samples) // self.config["train_dataset"]["batch_size"])
        return steps * (self.config["epoch_max"] - self.epoch + 1)

    def _train_step(self, batch: dict[str, Tensor]) -> float:
        inp, coord, cell, gt = (batch[key].to(self.device, non_blocking=True) for key in ("inp", "coord", "cell", "gt"))
        inp = self.norm.inp(inp)
        if self.config.get("channels_last"):
            inp = inp.contiguous(memory_format=torch.channels_last)
        loss = nn.functional.l1_loss(self.model(inp, coord, cell), self.norm.gt(gt))
        value = loss.item()
        if not np.isfinite(value):
            raise TrainingError(f"epoch {self.epoch}, step {self.step}: the loss is {value}; lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.get("clip_grad"):
            nn.utils.clip_grad_norm_(self.model.parameters(), float(self.config["clip_grad"]))
        self.optimizer.step()
        return value

    def validate(self) -> float:
        """PSNR in dB of the averaged weights on the validation samples, the same ones every time."""
        assert self.val_samples is not None
        loader = DataLoader(self.val_samples, batch_size=self.config["val_dataset"]["batch_size"])
        return eval_psnr(
            tqdm(loader, desc="validation", leave=False, disable=self.quiet),
            self.average.model,
            self.data_norm,
            self.config.get("eval_type"),
            self.config.get("eval_bsize"),
            self.device,
        )

    def _save(self, name: str, epoch: int) -> None:
        """Writes the published form {model, optimizer, epoch}; `model.sd` holds the averaged weights."""
        optimizer_spec = {key: value for key, value in self.config["optimizer"].items() if key != "sd"}
        training = {
            "sd": self.model.state_dict(),
            "batch": self.batch,
            "step": self.step,
            "best": self.best,
        }
        state = {
            "model": {**self.model_spec, "sd": self.average.model.state_dict()},
            "optimizer": {**optimizer_spec, "sd": self.optimizer.state_dict()},
            "epoch": epoch,
            "data_norm": self.data_norm,
            "training": training,
        }
        try:
            with replacing(self.folder / name) as temporary:
                torch.save(state, temporary)
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise TrainingError(f"{self.folder / name}: cannot be written, the old one is intact: {reason}") from error

    def _log(self, epoch: int, loss: float, value: float | None, seconds: float, rate: float) -> None:
        """Appends a line to log.csv."""
        path = self.folder / "log.csv"
        fresh = not path.exists()
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(LOG_COLUMNS)
            lr = self.optimizer.param_groups[0]["lr"]
            psnr = "" if value is None else f"{value:.4f}"
            writer.writerow([epoch, self.step, f"{lr:.3e}", f"{loss:.6f}", psnr, f"{seconds:.1f}", f"{rate:.2f}"])
