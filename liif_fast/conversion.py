"""One picture file to another: read, upscale, write. Nothing is printed here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from liif_fast import backends, checkpoint, files, image, render, tiling
from liif_fast.errors import ImageError, UsageError
from liif_fast.upscaling import upscale


class Settings(NamedTuple):
    """How the pictures of a run are made; plain values, so that another process can be handed them.

    sizes: keywords of `tiling.target`. model: a checkpoint's path, None for the default model. device: None for a GPU
    where there is one. force: inputs and results of any number of pixels. strip_metadata: without colour profile, EXIF
    data and resolution.
    backend, precision, tile, memory, wrap: as in `upscale`.
    """

    sizes: dict[str, Any]
    model: str | None = None
    backend: str = "auto"
    precision: str = "auto"
    device: str | None = None
    tile: int | None = None
    memory: int | None = None
    wrap: str | None = None
    force: bool = False
    strip_metadata: bool = False

    def check(self) -> None:
        """UsageError for a backend or a precision that there is not; whether they run here is another question."""
        if self.backend not in ("auto", *backends.NAMES):
            raise UsageError(f"--backend: expected one of auto, {', '.join(backends.NAMES)}, got {self.backend!r}")
        if self.precision not in backends.PRECISIONS:
            raise UsageError(f"--precision: expected one of {', '.join(backends.PRECISIONS)}, got {self.precision!r}")

    def identity(self) -> str:
        """A digest of all that a result depends on beside its source: the model by its content, not by its name."""
        values = {name: value for name, value in self._asdict().items() if name not in _HOW_NOT_WHAT}
        values["model"] = files.digest(self.model or checkpoint.DEFAULT_MODEL).sha256
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


# Settings that change how a picture is made, where, or whether, and not what it is.
_HOW_NOT_WHAT = ("device", "tile", "memory", "force")


class Task(NamedTuple):
    """A picture that has been read. output: the file to be written. notes: what was changed in reading."""

    output: Path
    picture: image.Picture
    notes: tuple[str, ...] = ()


class Made(NamedTuple):
    """A result that is yet to be written, with the metadata that is kept."""

    output: Path
    picture: image.Picture


class Converter:
    """A loaded model with its settings, to be called for one picture after another.

    backend, precision: what was chosen ("model" where only the model itself knows its decoder).

    Raises UsageError, BackendError or CheckpointError when the model or the backend cannot be had.
    """

    def __init__(self, settings: Settings) -> None:
        settings.check()
        self.settings = settings
        wanted = "cuda" if torch.cuda.is_available() and settings.backend != "cpu" else "cpu"
        self.model = checkpoint.load(settings.model, settings.device or wanted)
        self.backend, self.precision = render.settle(self.model, settings.backend, settings.precision)

    def __call__(
        self,
        source: Path,
        output: Path,
        note: Callable[[str], None] = lambda text: None,
        progress: render.Progress | None = None,
        overwrite: bool = False,
    ) -> tuple[int, int]:
        """Upscale the picture in `source` into the file `output`; the result's (width, height).

        note: told, a sentence each, what was changed in reading, and where the result went if not into `output`, whose
        format cannot hold transparency. Raises ImageError or another LiifError; then nothing has been written.
        """
        task = self.read(source, output, overwrite)
        for text in task.notes:
            note(text)
        return self.write(self.compute(task, progress))

    def read(self, source: Path, output: Path, overwrite: bool = False) -> Task:
        """The first stage: the picture in memory, and known to fit into the output.

        The three stages may run in threads of their own, each on another picture.
        """
        if output.exists() and not overwrite:
            raise ImageError(f"{output} exists already; pass --overwrite to replace it")
        picture = image.read(source, trusted=self.settings.force)
        fitting, notes = image.fitting(output, picture.mode), picture.notes
        if fitting != output:
            notes += (f"{output.name} could not keep the transparency; written to {fitting} instead",)
        width, height = picture.size
        box = tiling.target((height, width), **self.settings.sizes, **self._limits()).box
        image.check_fits(fitting, picture.mode, (box.width, box.height))
        return Task(fitting, picture, notes)

    def compute(self, task: Task, progress: render.Progress | None = None) -> Made:
        """The second stage: the larger picture, in memory."""
        result = upscale(
            task.picture.image,
            **self.settings.sizes,
            **self._limits(),
            wrap=self.settings.wrap,
            model=self.model,
            backend=self.backend if self.backend != render.MODEL else "auto",
            precision=self.precision,
            tile=self.settings.tile,
            memory=self.settings.memory,
            progress=progress,
        )
        # What is kept of the old file is little; its pixels are not held while the new one is written.
        picture = task.picture._replace(image=result)
        return Made(task.output, picture.stripped() if self.settings.strip_metadata else picture)

    def write(self, made: Made) -> tuple[int, int]:
        """The last stage: the output file, whole; its (width, height)."""
        image.write(made.picture.image, made.output, made.picture)
        return made.picture.size

    def _limits(self) -> dict[str, Any]:
        return {"max_pixels": None if self.settings.force else tiling.MAX_PIXELS}
