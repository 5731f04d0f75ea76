"""One picture file to another: read, upscale, write. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from liif_fast import backends, checkpoint, image, render, streaming, tiling, windows
from liif_fast.errors import ImageError, UsageError
from liif_fast.upscaling import upscale, upscaling


class Settings(NamedTuple):
    """How the pictures of a run are made; plain values, so that another process can be handed them.

    sizes: keywords of `tiling.target`. model: a checkpoint's path, None for the default model. device: None for a GPU
    where there is one. force: inputs and results of any number of pixels. overwrite: existing results are replaced.
    compress: TIFF results in deflated tiles. backend, precision, tile, memory, wrap: as in `upscale`.
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
    compress: bool = False


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
        # A picture that stays in its file, or one that is read whole; one that repeats is.
        found = (None if settings.wrap else windows.opened(source)) or image.read(source, trusted=settings.force)
        given: Any = found
        if isinstance(found, image.Picture):
            given = found.image
            for text in found.notes:
                note(text)
        width, height = given.size
        limits: dict[str, Any] = {**settings.sizes, "max_pixels": None if settings.force else tiling.MAX_PIXELS}
        options: dict[str, Any] = {"tile": settings.tile, "memory": settings.memory, "precision": self.precision}
        options |= {"backend": self.backend if self.backend != render.MODEL else "auto", "progress": progress}
        box = tiling.target((height, width), **limits).box
        how: dict[str, Any] = {**limits, "wrap": settings.wrap, "model": self.model}
        if streaming.wanted(output, given, box, compress=settings.compress):
            labels = streaming.labels(found)
            if isinstance(found, image.Picture) and found.exif and {0x8769, 0x8825} & set(found.exif):
                note("EXIF and GPS directories are not kept in a result that is written while it is made")
            work = upscaling(given, **how)
            # Pillow's pixels are not held beside those of the work.
            del found, given
            streaming.write(work, output, labels, compress=settings.compress, **options)
            return box.width, box.height
        if isinstance(found, image.Picture):
            image.check_fits(output, found.image.mode, (box.width, box.height))
        result = upscale(given, **how, **options)
        if isinstance(found, image.Picture):
            image.write(result, output, found)
        else:
            image.write(Image.fromarray(result), output)
        return box.width, box.height
