"""The log of a training run: log.csv, and, where their libraries are installed, TensorBoard and a picture of curves."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from liif_fast.files import replacing
from liif_fast.training.state import TrainingError

CSV = "log.csv"
CURVE = "curve.png"
ADVICE = "pip install 'liif_fast[train]'"


class Row(NamedTuple):
    """One epoch: its mean L1 loss, the PSNR in dB of its validation if there was one, and its seconds of training."""

    epoch: int
    step: int
    lr: float
    loss: float
    psnr: float | None
    seconds: float
    images_per_second: float


class Log:
    """The log of a run in `folder`; a resumed run goes on with the same files.

    say: a function that takes a line for the user.
    """

    def __init__(self, folder: Path, first_epoch: int, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.say = say
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            say(f"no TensorBoard log, tensorboard is not installed: {ADVICE}")
        else:
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_epoch)

    def write(self, row: Row) -> None:
        """Appends one epoch. Raises TrainingError when the file cannot be written."""
        path = self.folder / CSV
        psnr = "" if row.psnr is None else f"{row.psnr:.4f}"
        values = (f"{row.lr:.3e}", f"{row.loss:.6f}", psnr, f"{row.seconds:.1f}", f"{row.images_per_second:.2f}")
        try:
            fresh = not path.exists()
            with open(path, "a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                if fresh:
                    writer.writerow(Row._fields)
                writer.writerow([row.epoch, row.step, *values])
        except OSError as error:
            raise TrainingError(f"{path}: cannot be written: {error.strerror}") from error
        if self._board is not None:
            scalars = {"lr": row.lr, "loss/train": row.loss, "psnr/val": row.psnr}
            for name, value in scalars.items():
                if value is not None:
                    self._board.add_scalar(name, value, row.epoch)
            self._board.flush()

    def close(self) -> None:
        """Draws the curves of the whole log, including the earlier parts of a resumed run."""
        if self._board is not None:
            self._board.close()
        if not (self.folder / CSV).exists():
            return
        try:
            from matplotlib.figure import Figure
        except ImportError:
            self.say(f"no {CURVE}, matplotlib is not installed: {ADVICE}")
            return
        loss, psnr = read_curves(self.folder / CSV)
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot(xlabel="epoch", ylabel="loss (L1)")
        axes.plot(list(loss), list(loss.values()), color="tab:blue", label="training loss")
        axes.set_yscale("log")
        lines = axes.lines[:]
        if psnr:
            right = axes.twinx()
            right.set_ylabel("PSNR (dB)")
            right.plot(list(psnr), list(psnr.values()), color="tab:orange", marker=".", label="validation PSNR")
            lines += right.lines
        axes.legend(handles=lines, loc="center right")
        with replacing(self.folder / CURVE) as temporary:
            figure.savefig(temporary, dpi=120)


def read_curves(path: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Reads ({epoch: loss}, {epoch: PSNR}) from a log; the last row of an epoch that was trained again counts."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = {int(row["epoch"]): row for row in csv.DictReader(file)}
    epochs = sorted(rows)
    loss = {epoch: float(rows[epoch]["loss"]) for epoch in epochs}
    return loss, {epoch: float(rows[epoch]["psnr"]) for epoch in epochs if rows[epoch]["psnr"]}
