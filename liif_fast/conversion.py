"""One picture file to another: read, upscale, write. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from liif_fast import backends, checkpoint, image, render, tiling
from liif_fast.errors import ImageError, UsageError
from liif_fast.upscaling import upscale


class Settings(NamedTuple):
    """How the pictures of a run are made; plain values, so that another process can be handed them.

    sizes: keywords of `tiling.target`. model: a checkpoint's path, None for the default model. device: None for a GPU
    where there is one. force: inputs and results of any number of pixels. overwrite: existing results are replaced.
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
    overwrite: bool = False


class Converter:
    """A loaded model with its settings, to be called for one picture after another.

    backend, precision: what was chosen ("model" where only the model itself knows its decoder).

    Raises UsageError, BackendError or CheckpointError when the model or the backend cannot be had.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        if settings.backend not in ("auto", *backends.NAMES):
            raise UsageError(f"--backend: expected one of auto, {', '.join(backends.NAMES)}, got {settings.backend!r}")
        if settings.precision not in backends.PRECISIONS:
            raise UsageError(
                f"--precision: expected one of {', '.join(backends.PRECISIONS)}, got {settings.precision!r}"
            )
        wanted = "cuda" if torch.cuda.is_available() and settings.backend != "cpu" else "cpu"
        self.model = checkpoint.load(settings.model, settings.device or wanted)
        self.backend, self.precision = render.settle(self.model, settings.backend, settings.precision)

    def __call__(
        self,
        source: Path,
        output: Path,
        note: Callable[[str], None] = lambda text: None,
        progress: render.Progress | None = None,
    ) -> tuple[int, int]:
        """Upscale the picture in `source` into the file `output`; the result's (width, height).

        note: told, a sentence each, what was changed in reading. Raises ImageError or another LiifError; then nothing
        has been written.
        """
        settings = self.settings
        if output.exists() and not settings.overwrite:
            raise ImageError(f"{output} exists already; pass --overwrite to replace it")
        picture = image.read(source, trusted=settings.force)
        for text in picture.notes:
            note(text)
        limits: dict[str, Any] = {"max_pixels": None if settings.force else tiling.MAX_PIXELS}
        width, height = picture.image.size
        box = tiling.target((height, width), **settings.sizes, **limits).box
        image.check_fits(output, picture.image.mode, (box.width, box.height))
        result = upscale(
            picture.image,
            **settings.sizes,
            **limits,
            wrap=settings.wrap,
            model=self.model,
            backend=self.backend if self.backend != render.MODEL else "auto",
            precision=self.precision,
            tile=settings.tile,
            memory=settings.memory,
            progress=progress,
        )
        image.write(result, output, picture)
        return box.width, box.height
