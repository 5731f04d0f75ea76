"""One picture file to another: read, upscale, write. Nothing is printed here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from liif_fast import backends, checkpoint, files, image
from liif_fast.backends import cpu
from liif_fast.batch import streaming
from liif_fast.box import Part
from liif_fast.errors import ImageError, UsageError
from liif_fast.image import windows
from liif_fast.rendering import periodic, render, tiling
from liif_fast.upscaling import upscale, upscaling

EIGHT_BIT_MODES = ("L", "LA", "RGB", "RGBA")


class Settings(NamedTuple):
    """How the pictures of a run are made; plain values, so that another process can be handed them.

    sizes: keywords of `tiling.target`. model: a checkpoint's path, None for the default model. device: None for a GPU
    where there is one. force: inputs and results of any number of pixels. strip_metadata: without colour profile, EXIF
    data and resolution. compress: TIFF results in deflated tiles.
    backend, precision, tile, memory, wrap: as in `upscale`; but where 16-bit fixed point is the faster one on a CPU,
    "auto" takes it for pictures of 8 bits.
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
    compress: bool = False

    def check(self) -> None:
        """UsageError for a backend or a precision that there is not; whether they run here is another question."""
        if self.backend not in ("auto", *backends.NAMES):
            raise UsageError(f"--backend: expected one of auto, {', '.join(backends.NAMES)}, got {self.backend!r}")
        if self.precision not in backends.PRECISIONS:
            raise UsageError(f"--precision: expected one of {', '.join(backends.PRECISIONS)}, got {self.precision!r}")

    def load(self, device: str) -> nn.Module:
        """The model; UsageError for one that cannot do what is asked for, CheckpointError for none."""
        model = checkpoint.load(self.model, device)
        periodic.margins(model, self.wrap, (1.0, 1.0))
        return model

    def target(self) -> dict[str, Any]:
        """The keywords of `tiling.target` beside the picture's size."""
        return {**self.sizes, "max_pixels": None if self.force else tiling.MAX_PIXELS}

    def identity(self) -> str:
        """A digest of all that a result depends on beside its source: the model by its content, not by its name."""
        values = {name: value for name, value in self._asdict().items() if name not in _HOW_NOT_WHAT}
        values["model"] = files.digest(self.model or checkpoint.DEFAULT_MODEL).sha256
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


# Settings that change how a picture is made, where, or whether, and not what it is.
_HOW_NOT_WHAT = ("device", "tile", "memory", "force")


class Task(NamedTuple):
    """A picture that has been read, or one that stays in its file.

    output: the file to be written. notes: what was changed in reading, and what the output cannot keep. streamed: the
    output is written while it is made. part: what is made of the result, None for the whole of it.
    """

    output: Path
    picture: image.Picture | windows.Windows
    notes: tuple[str, ...] = ()
    streamed: bool = False
    part: Part | None = None


class Made(NamedTuple):
    """A result and its (width, height). picture: its pixels and what is kept of its source, None if it is written."""

    output: Path
    size: tuple[int, int]
    picture: image.Picture | None = None


class Converter:
    """A loaded model with its settings, to be called for one picture after another.

    backend, precision: what was chosen ("model" where only the model itself knows its decoder), for 8-bit pictures.

    Raises UsageError, BackendError or CheckpointError when the model or the backend cannot be had.
    """

    def __init__(self, settings: Settings) -> None:
        settings.check()
        self.settings = settings
        wanted = "cuda" if torch.cuda.is_available() and settings.backend != "cpu" else "cpu"
        self.model = settings.load(settings.device or wanted)
        self.backend, self._deep_precision = render.settle(self.model, settings.backend, settings.precision)
        self.precision = self._deep_precision
        asked = settings.precision if settings.precision != "auto" else getattr(self.model, "precision", "auto")
        if asked == "auto" and (self.backend, self.precision) == (cpu.NAME, "fp32"):
            self.precision = cpu.EIGHT_BIT_PRECISION

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
        # A picture that stays in its file, or one that is read whole; one that repeats is.
        found = None if self.settings.wrap else windows.opened(source)
        picture = image.read(source, trusted=self.settings.force) if found is None else found
        if self.settings.strip_metadata:
            picture = picture.stripped()
        fitting, notes = image.fitting(output, picture.mode), picture.notes
        if fitting != output:
            notes += (f"{output.name} could not keep the transparency; written to {fitting} instead",)
        notes += image.lost(picture.icc, picture.exif, picture.dpi, image.format_of(fitting))
        width, height = picture.size
        box = tiling.target((height, width), **self.settings.target()).box
        image.check_fits(fitting, picture.mode, (box.width, box.height))
        streamed = streaming.wanted(fitting, picture, box, compress=self.settings.compress)
        return Task(fitting, picture, notes, streamed)

    def part(self, task: Task, part: Part, store: Path) -> Task:
        """A part of what has been read for a zarr, to go to its place in the zarr `store`.

        Raises ImageError where the whole is not of the size that the part is of.
        """
        width, height = task.picture.size
        box = tiling.target((height, width), **self.settings.target()).box
        if (box.height, box.width) != part.size:
            raise ImageError(
                f"expected a result of {part.size[1]} x {part.size[0]} by what the file said of its size, got "
                f"{box.width} x {box.height}; run again if the file has changed, or make it alone, with -o NAME.zarr"
            )
        return task._replace(output=store, part=part)

    def compute(self, task: Task, progress: render.Progress | None = None) -> Made:
        """The second stage: the larger picture, in memory; or in its file, where that is written meanwhile."""
        settings, picture = self.settings, task.picture
        options: dict[str, Any] = {
            "backend": self.backend if self.backend != render.MODEL else "auto",
            "precision": self._precision_for(picture),
            "tile": settings.tile,
            "memory": settings.memory,
            "progress": progress,
        }
        how: dict[str, Any] = {**settings.target(), "wrap": settings.wrap, "model": self.model}
        source: Any = picture.image if isinstance(picture, image.Picture) else picture
        if task.streamed:
            part = task.part
            work = upscaling(source, **how, part=part and part.box)
            labels = streaming.labels(picture)
            streaming.write(work, task.output, labels, compress=settings.compress, part=part, **options)
            height, width = work.size if part is None else part.size
            return Made(task.output, (width, height))
        # What is kept of the old file is little; its pixels are not held while the new one is written.
        made = upscale(source, **how, **options)
        result = image.Picture(made, picture.icc, picture.exif, picture.dpi, span=picture.span)
        return Made(task.output, result.size, result)

    def write(self, made: Made) -> tuple[int, int]:
        """The last stage: the output file, whole; its (width, height)."""
        if made.picture is not None:
            image.write(made.picture.image, made.output, made.picture)
        return made.size

    def _precision_for(self, picture: image.Picture | windows.Windows) -> str:
        return self.precision if picture.mode in EIGHT_BIT_MODES else self._deep_precision
