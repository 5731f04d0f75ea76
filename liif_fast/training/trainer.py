"""Training from a published configuration: the loop, on one process or on several."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from liif_fast import models
from liif_fast.data import make_samples
from liif_fast.errors import UsageError
from liif_fast.training import distributed
from liif_fast.training.bilinear_init import bilinear_init
from liif_fast.training.config import read_training_config
from liif_fast.training.config_file import save_config
from liif_fast.training.evaluation import IDENTITY_NORM, Normalisation, eval_psnr
from liif_fast.training.interrupts import Interrupts, Stopped
from liif_fast.training.loading import Batch, Order, one_line_errors, training_batches, validation_loader
from liif_fast.training.log import Log, Row
from liif_fast.training.optimizer import Averager, make_optimizer
from liif_fast.training.schedule import learning_rate_factor
from liif_fast.training.sparsity import check_sparsity, sparsity_penalty
from liif_fast.training.state import TrainingError, check_model, load_optimizer, read_state, write_state

LAST = "epoch-last.pth"
BEST = "epoch-best.pth"
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# The steps between two readings of the loss on a GPU, because each reading waits for the GPU.
GPU_CHECK_INTERVAL = 16


class Trainer:
    """One training run, in the folder that holds its checkpoints and its log.

    config: a mapping with the keys of `liif_fast.training.config.TrainingConfig`.
    folder: it is made if it is missing. Nothing in it is ever removed; only `epoch-last.pth`, `epoch-best.pth`,
        `epoch-N.pth` and `curve.png` are replaced, each whole or not at all.
    resume: a checkpoint to go on from. The run continues exactly if this class wrote it, else from the checkpoint's
        model, optimizer and epoch.
    device: the model's device.
    say: a function that takes a line for the user at the end of each epoch. With it, a terminal also shows a progress
        bar.

    Within `distributed.joined` every process makes a Trainer of its own. They share each batch, and the first one
    writes the files. Raises UsageError for a wrong configuration and CheckpointError for an unfit checkpoint.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        folder: Path,
        resume: Path | None = None,
        device: torch.device | str = "cpu",
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.config = read_training_config(config)
        self.config_as_written = config
        self.folder = folder
        self.device = torch.device(device)
        self.rank, self.processes = distributed.world()
        self.say = say if self.rank == 0 else None
        torch.manual_seed(self.config.seed)
        self.data_norm = self.config.norm or IDENTITY_NORM
        self.norm = Normalisation(self.data_norm, self.device)
        self.interrupts = Interrupts()
        self._make_data()
        self._make_model(resume)

    def _make_data(self) -> None:
        training, validation = self.config.train_dataset, self.config.val_dataset
        self.train_samples = make_samples(asdict(training))
        self.train_samples.seed = self.config.seed
        self.order = Order(len(self.train_samples), training.batch_size, self.config.seed)
        self.val_batches: Iterable[Batch] | None = None
        if validation is not None:
            self.val_batches, self.val_count = validation_loader(
                make_samples(asdict(validation)), validation.batch_size, self.device, validation.num_workers
            )

    def _make_model(self, resume: Path | None) -> None:
        config = self.config
        self.epoch, self.batch, self.step = 1, 0, 0
        self.best, self.loss = float("-inf"), 0.0
        state = None if resume is None else read_state(resume)
        self.model = cast(Any, models.make(asdict(config.model)))
        if state is not None and resume is not None:
            check_model(self.model, state, resume)
        elif config.init == "bilinear":
            bilinear_init(self.model)
        if config.sparsity is not None:
            check_sparsity(config.sparsity, self.model)
        self.model.data_norm = copy.deepcopy(self.data_norm)
        self.model.to(self.device)
        if config.channels_last:
            self.model.encoder.to(memory_format=torch.channels_last)
        self.average = Averager(self.model, config.ema)
        self.optimizer = make_optimizer(self.model, asdict(config.optimizer))
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.autocast_dtype = None if config.amp is None else AUTOCAST_DTYPES[config.amp]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        if state is not None and resume is not None:
            load_optimizer(self.optimizer, config.optimizer.name, state, resume)
            self._restore(state)
        self.trained = self.model
        if self.processes > 1:
            self.trained = DistributedDataParallel(
                self.model, device_ids=[self.device] if self.device.type == "cuda" else None
            )

    def _restore(self, state: dict[str, Any]) -> None:
        """Takes over a checkpoint; `training` is what this class adds to the published form, see `_save`."""
        own = state.get("training") or {}
        self.average.model.load_state_dict(state["model"]["sd"])
        self.model.load_state_dict(own.get("sd") or state["model"]["sd"])
        self.epoch = state["epoch"] + 1
        self.step = own.get("step", state["epoch"] * self.order.batches)
        self.batch = min(own.get("batch", 0), self.order.batches)
        self.best, self.loss = own.get("best", self.best), own.get("loss", 0.0)
        if own.get("scaler"):
            self.scaler.load_state_dict(own["scaler"])
        if "random" in own:
            torch.set_rng_state(own["random"])
        if "cuda_random" in own and self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda_random"], self.device)

    def run(self) -> float:
        """Trains to `epoch_max` and returns the best validation PSNR in dB, which is -inf without validation.

        On SIGINT or SIGTERM it finishes the step, saves the state into epoch-last.pth, exact to the batch, and raises
        KeyboardInterrupt. A second signal interrupts at once, without saving.
        Raises TrainingError when the loss is not finite or a file cannot be written.
        """
        log = self._open_log()
        started, first = time.monotonic(), self.epoch + self.batch / self.order.batches
        epoch_max, workers = self.config.epoch_max, self.config.train_dataset.num_workers
        start = (self.epoch, self.batch, epoch_max)
        batches = training_batches(self.train_samples, self.order, start, self.device, workers)
        with self.interrupts, self._progress() as self.bar:
            while self.epoch <= epoch_max:
                try:
                    row = self._run_epoch(batches)
                except Stopped:
                    self._save(LAST, self.epoch - 1)
                    raise
                is_best = row.psnr is not None and row.psnr > self.best
                if is_best and row.psnr is not None:
                    self.best = row.psnr
                self.epoch, self.batch, self.loss = self.epoch + 1, 0, 0.0
                self._save_epoch(row.epoch, is_best)
                if log is not None:
                    log.write(row)
                if self.say is not None:
                    left = (time.monotonic() - started) / (self.epoch - first) * (epoch_max - row.epoch)
                    self.say(self._describe(row, left))
        if log is not None:
            log.close()
        return self.best

    def _open_log(self) -> Log | None:
        if self.rank != 0:
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_config(self.config_as_written, self.folder)
        except OSError as error:
            raise UsageError(f"{self.folder}: expected a folder to write into, {error.strerror}") from error
        return Log(self.folder, self.epoch, self.say or (lambda line: None))

    def _progress(self) -> Any:
        """The progress bar of the whole run, in images; nothing is shown where standard error is not a terminal."""
        return tqdm(
            total=self.order.length * self.config.epoch_max,
            initial=self.order.length * (self.epoch - 1) + min(self.batch * self.order.size, self.order.length),
            unit="img",
            unit_scale=True,
            disable=True if self.say is None else None,
        )

    def _run_epoch(self, batches: Iterator[Batch]) -> Row:
        """Trains the rest of this epoch and validates if that is due; the state is whole when Stopped is raised."""
        started = time.monotonic()
        images = self._train_epoch(batches)
        seconds = time.monotonic() - started
        every = self.config.epoch_val
        value = self.validate() if self.val_batches is not None and every and self.epoch % every == 0 else None
        rate = images / seconds if images else 0.0
        return Row(self.epoch, self.step, self.optimizer.param_groups[0]["lr"], self._mean_loss(), value, seconds, rate)

    def _train_epoch(self, batches: Iterator[Batch]) -> int:
        """Trains from batch `self.batch` to the end of the epoch; returns the number of images."""
        self.model.train()
        self.bar.set_description(f"epoch {self.epoch}/{self.config.epoch_max}")
        epochs_left = self.config.epoch_max - self.epoch + 1
        total_steps = self.step - self.batch + self.order.batches * epochs_left
        check_every = GPU_CHECK_INTERVAL if self.device.type == "cuda" else 1
        images = 0
        # The sum stays on the device, because reading it waits for everything that a GPU was asked before.
        losses = torch.tensor(self.loss, dtype=torch.float64, device=self.device)
        while self.batch < self.order.batches:
            factor = learning_rate_factor(self.config.schedule, self.epoch, self.step, total_steps)
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor
            losses += self._train_step(next(batches))
            joint = self.order.joint(self.batch)
            images += joint
            self.step += 1
            self.batch += 1
            self.average.update(self.model, self.step)
            self.bar.update(joint)
            due = self.batch % check_every == 0 or self.batch == self.order.batches
            if due or (self.processes == 1 and self.interrupts.stopped):
                self._check(losses)
        return images

    def _train_step(self, batch: Batch) -> Tensor:
        """Takes one step of the optimizer; returns this process's part of the joint batch's mean L1 loss."""
        inp, coord, cell, gt = (batch[key].to(self.device, non_blocking=True) for key in ("inp", "coord", "cell", "gt"))
        inp = self.norm.inp(inp)
        if self.config.channels_last:
            inp = inp.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            prediction = self.trained(inp, coord, cell)
        loss = nn.functional.l1_loss(prediction.float(), self.norm.gt(gt)) * self.order.share(self.batch)
        objective = loss
        if self.config.sparsity is not None:
            penalty = sparsity_penalty(self.config.sparsity, self.model, coord, cell)
            objective = loss + penalty * self.order.share(self.batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(objective).backward()
        if self.config.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def _check(self, losses: Tensor) -> None:
        """Raises TrainingError for a loss that is not finite, and Stopped in all processes if one was told to stop."""
        stopped = losses.new_tensor(float(self.interrupts.stopped))
        self.loss, stops = (distributed.total(torch.stack([losses, stopped])) / self.processes).tolist()
        if not math.isfinite(self.loss):
            raise TrainingError(
                f"epoch {self.epoch}, step {self.step}: the loss is {self.loss}; lower the learning rate"
            )
        shown = {"loss": f"{self._mean_loss():.4f}"}
        if self.best > float("-inf"):
            shown["best"] = f"{self.best:.2f} dB"
        self.bar.set_postfix(shown, refresh=False)
        if stops:
            raise Stopped

    def _mean_loss(self) -> float:
        """The mean L1 loss of this epoch's batches up to the last `_check`."""
        return self.loss / self.batch

    def validate(self) -> float:
        """The PSNR in dB of the averaged weights on the validation samples, which are the same every time.

        A process that is told to stop still waits for the others here, because all of them must stop at one place.
        """
        value, stopped = 0.0, False
        try:
            value = self._own_psnr() if self.val_count else 0.0
        except Stopped:
            stopped = True
        sums = [value * self.val_count, self.val_count, stopped]
        total, count, stops = distributed.total(torch.tensor(sums, dtype=torch.float64, device=self.device)).tolist()
        if stops:
            raise Stopped
        return float(total / count)

    def _own_psnr(self) -> float:
        """The PSNR in dB of this process's share of the validation samples."""
        assert self.val_batches is not None
        return eval_psnr(
            self._uninterrupted(self.val_batches),
            self.average.model,
            self.data_norm,
            self.config.eval_type,
            self.config.eval_bsize,
            self.device,
        )

    def _uninterrupted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yields the batches until a stop is asked for; a resumed run then validates this epoch from the start."""
        bar = tqdm(batches, desc="validation", leave=False, disable=True if self.say is None else None)
        for batch in one_line_errors(iter(bar)):
            if self.interrupts.stopped:
                raise Stopped
            yield batch

    def _describe(self, row: Row, left: float) -> str:
        """The line about an epoch that the user gets; `left` are the seconds to the end of the run."""
        psnr = "" if row.psnr is None else f", PSNR {row.psnr:.2f} dB"
        rate = f"{row.images_per_second:.1f} images/s, {tqdm.format_interval(left)} left"
        return f"epoch {row.epoch}/{self.config.epoch_max}: loss {row.loss:.4f}{psnr}, {rate}"

    def _save_epoch(self, finished: int, is_best: bool) -> None:
        self._save(LAST, finished)
        if is_best:
            self._save(BEST, finished)
        every = self.config.epoch_save
        if every and finished % every == 0:
            self._save(f"epoch-{finished}.pth", finished)

    def _save(self, name: str, epoch: int) -> None:
        """Writes a checkpoint of the published form {model, optimizer, epoch}; `model.sd` are the averaged weights."""
        if self.rank != 0:
            return
        training = {
            "sd": self.model.state_dict(),
            "batch": self.batch,
            "step": self.step,
            "best": self.best,
            "loss": self.loss,
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            training["cuda_random"] = torch.cuda.get_rng_state(self.device)
        state = {
            "model": {**asdict(self.config.model), "sd": self.average.model.state_dict()},
            "optimizer": {**asdict(self.config.optimizer), "sd": self.optimizer.state_dict()},
            "epoch": epoch,
            "data_norm": self.data_norm,
            "training": training,
        }
        write_state(state, self.folder / name)
