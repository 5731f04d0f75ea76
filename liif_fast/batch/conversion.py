"""One picture file to another: read, upscale, write. Nothing is printed here."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from liif_fast import backends, checkpoint, files, image
from liif_fast.backends import triton
from liif_fast.batch import streaming
from liif_fast.box import Region
from liif_fast.errors import ImageError, UsageError
from liif_fast.image import windows
from liif_fast.image.geotiff import Resampling
from liif_fast.image.stacks import Stack
from liif_fast.image.values import RANGE_NOTE
from liif_fast.rendering import periodic, request
from liif_fast.rendering.options import Fidelity, Options, Progress
from liif_fast.rendering.output import Output
from liif_fast.rendering.render import settle
from liif_fast.rendering.request import Request
from liif_fast.rendering.source import open_picture
from liif_fast.upscaling import prepare_output

EIGHT_BIT_MODES = ("L", "LA", "RGB", "RGBA")


class Settings(NamedTuple):
    """How the pictures of a run are made; plain values, so that another process can be handed them.

    request: the size and the part of each result. model: a checkpoint's path, None for the default model. device: None
    for a GPU where there is one. force: inputs and results may have any number of pixels. strip_metadata: results get
    no colour profile, EXIF data and resolution. compress: TIFF results get deflated tiles.
    consistent: as in `upscale`; None for pictures of 16 bits or floating values only. keep_hidden_colour: colour under
    an alpha of 0 is computed as any other. nodata, bands: as in `image.Reading`. page: counted from 1, None for all.
    backend, precision, tile, memory, wrap: as in `upscale`; but where 16-bit fixed point is the faster one on a CPU,
    "auto" takes it for pictures of 8 bits.
    """

    request: Request
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
    consistent: bool | None = None
    keep_hidden_colour: bool = False
    nodata: float | None = None
    bands: tuple[int, ...] | None = None
    page: int | None = None

    def check(self) -> None:
        """UsageError for an unknown backend or precision; whether a known one runs here is another question."""
        if self.backend not in ("auto", *backends.NAMES):
            raise UsageError(f"--backend: expected one of auto, {', '.join(backends.NAMES)}, got {self.backend!r}")
        if self.precision not in backends.PRECISIONS:
            raise UsageError(f"--precision: expected one of {', '.join(backends.PRECISIONS)}, got {self.precision!r}")

    def load(self, device: str) -> nn.Module:
        """The model; UsageError for one that cannot do what is asked for, CheckpointError for none."""
        model = checkpoint.load(self.model, device)
        periodic.margins(model, self.wrap, (1.0, 1.0))
        return model

    def reading(self, stack: Stack | None) -> image.Reading:
        """How a source is read, of these pages: one of them, or the first and no word on the others."""
        count = 1 if stack is None else stack.pages
        if self.page is not None and self.page > count:
            raise ImageError(f"--page: expected a page from 1 to {count}, got {self.page}")
        frame = None if stack is None else stack.frames[(self.page or 1) - 1]
        return image.Reading(self.force, frame, self.bands, self.nodata, self.consistent is not False)

    def region(self, size: tuple[int, int]) -> Region:
        """The part of the whole output that is asked for of a picture of (width, height)."""
        return self.request.region(size[::-1], None if self.force else request.MAX_PIXELS)

    def identity(self) -> str:
        """A digest of all that a result depends on beside its source: the model by its content, not by its name."""
        values = {name: value for name, value in self._asdict().items() if name not in _HOW_NOT_WHAT}
        values["sizes"] = values.pop("request")._asdict()
        values["model"] = files.digest(self.model or checkpoint.DEFAULT_MODEL).sha256
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


# Settings that change how a picture is made, where, or whether, and not what it is.
_HOW_NOT_WHAT = ("device", "tile", "memory", "force")


class Task(NamedTuple):
    """A picture that has been read, or one that stays in its file.

    output: the file to be written. notes: what was changed in reading, and what the output cannot keep. streamed: the
    output is written while it is made. part: the part of the result that is made, None for the whole of it. precision:
    what it is computed in; arithmetic: see `backends.arithmetic`. source, stack: the file and its pages, where several
    are made.
    """

    output: Path
    picture: image.Picture
    notes: tuple[str, ...] = ()
    streamed: bool = False
    part: Region | None = None
    precision: str = ""
    arithmetic: str = ""
    source: Path | None = None
    stack: Stack | None = None


def _is_shallow(picture: image.Picture) -> bool:
    """Say whether a picture, and its bands, have 8 bits."""
    return picture.mode.partition("+")[0] in EIGHT_BIT_MODES


def _fitting_pages(stack: Stack, form: image.Format) -> tuple[Stack | None, tuple[str, ...]]:
    """Return the pages that a format can hold, None for the first only, with notes on what it cannot hold."""
    if form.name == "TIFF":
        notes = ("durations left out, which TIFF cannot hold",) if stack.moving else ()
        return stack, (*stack.notes, *notes)
    if stack.moving and form.moving:
        return stack, ()
    if stack.pages == 1:
        return None, ()
    return None, (
        f"only the first of {stack.pages} frames is used, as {form.name} holds one; --page N chooses another",
    )


def _shared(progress: Progress | None, count: int) -> Progress | None:
    """Return a callback that joins the progress of several pictures, made one after another, into one."""
    if progress is None or count == 1:
        return progress
    done = [0, 0]  # pixels of the pictures before, and of this one

    def report(pixels: int, total: int) -> None:
        if pixels < done[1]:
            done[0], done[1] = done[0] + total, 0
        done[1] = pixels
        progress(min(done[0] + pixels, total * count), total * count)

    return report


class Made(NamedTuple):
    """A result and its (width, height). picture: its pixels and what is kept of its source, None if it is written.

    notes: what was changed in reading further pages.
    """

    output: Path
    size: tuple[int, int]
    picture: image.Picture | None = None
    notes: tuple[str, ...] = ()


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
        self.backend, self._deep_precision = settle(self.model, settings.backend, settings.precision)
        self.precision = self._deep_precision
        asked = settings.precision if settings.precision != "auto" else getattr(self.model, "precision", "auto")
        if asked == "auto" and self.precision == "fp32" and self.backend in backends.NAMES:
            self._choose_for_eight_bits()

    def _choose_for_eight_bits(self) -> None:
        """Backend and precision of 8-bit pictures; on a GPU the backend may be another one than for fp32."""
        on_gpu = next(self.model.parameters()).is_cuda
        self.precision = backends.eight_bit_precision(triton.NAME if on_gpu else self.backend)
        if on_gpu and self.settings.backend == "auto":
            self.backend, _ = settle(self.model, "auto", self.precision)

    def __call__(
        self,
        source: Path,
        output: Path,
        note: Callable[[str], None] = lambda text: None,
        progress: Progress | None = None,
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
        if os.path.lexists(output) and not overwrite:
            raise ImageError(f"{output} exists already; pass --overwrite to replace it")
        settings = self.settings
        stack = image.stack_of(source, trusted=settings.force)
        # A picture that repeats is read whole, and so are most others.
        whole = stack or settings.wrap or settings.bands or settings.nodata is not None
        found = None if whole else windows.open_lazily(source, consistent=settings.consistent is not False)
        picture = image.read(source, how=settings.reading(stack)) if found is None else found
        if settings.strip_metadata:
            picture = picture.stripped()
        fitting, notes = image.path_that_fits(output, picture.mode), picture.notes
        if not settings.keep_hidden_colour and image.hides_colour(picture.image):
            notes += ("colour under an alpha of 0 replaced by the colour around it; --keep-hidden-colour keeps it",)
        if stack is not None and settings.page is None:
            stack, more = _fitting_pages(stack, image.format_of(fitting))
            notes += more
        if fitting != output:
            notes += (f"{output.name} could not keep the transparency; written to {fitting} instead",)
        notes += image.notes_on_dropped(
            picture.icc, picture.exif, picture.dpi, image.format_of(fitting), picture.extras
        )
        box = settings.region(picture.size).box
        image.check_fits(fitting, picture.mode, (box.width, box.height))
        precision = self._precision_of(picture)
        arithmetic = backends.arithmetic(self.backend, precision)
        task = Task(fitting, picture, notes, precision=precision, arithmetic=arithmetic)
        if stack is not None and settings.page is None:
            return task._replace(source=source, stack=stack)
        return task._replace(streamed=streaming.should_stream(fitting, picture, box, compress=settings.compress))

    def part(self, task: Task, part: Region, store: Path) -> Task:
        """A part of what has been read for a zarr, to go to its place in the zarr `store`.

        Raises ImageError where the whole is not of the size that the part is of.
        """
        box = self.settings.region(task.picture.size).box
        if (box.height, box.width) != part.size:
            raise ImageError(
                f"expected a result of {part.size[1]} x {part.size[0]} by what the file said of its size, got "
                f"{box.width} x {box.height}; run again if the file has changed, or make it alone, with -o NAME.zarr"
            )
        return task._replace(output=store, part=part)

    def compute(self, task: Task, progress: Progress | None = None) -> Made:
        """The second stage: the larger picture, in memory; or in its file, where that is written meanwhile."""
        if task.stack is not None:
            return self._make_pages(task, task.stack, progress)
        settings, picture = self.settings, task.picture
        region = settings.region(picture.size)
        region = region if task.part is None else region.part(task.part.box)
        progress = _shared(progress, 1 + len(picture.bands))
        if task.streamed:
            output, like = self._output(picture, region, progress), picture.resampled(region)
            streaming.write(output, task.output, like, compress=settings.compress, part=task.part)
            height, width = output.size if task.part is None else task.part.size
            return Made(task.output, (width, height))
        # What is kept of the old file is little; its pixels are not held while the new one is written.
        result = self._made(picture, region, progress)
        return Made(task.output, result.size, result)

    def _make_pages(self, task: Task, stack: Stack, progress: Progress | None) -> Made:
        """Read, make and write the pages of a stack one after another."""
        settings = self.settings
        progress = _shared(progress, stack.pages * (1 + len(task.picture.bands)))
        region = settings.region(task.picture.size)
        notes: dict[str, None] = {}

        def made() -> Iterator[tuple[image.Picture, float]]:
            assert task.source is not None
            for picture, duration in image.read_stack(task.source, stack, settings.reading(stack)):
                # The first page's range is told; those of the others would fill the screen.
                notes.update(dict.fromkeys(note for note in picture.notes if not note.startswith(RANGE_NOTE)))
                picture = picture.stripped() if settings.strip_metadata else picture
                yield self._made(picture, settings.region(picture.size), progress), duration

        image.write_stack(made(), task.output, stack, Resampling(task.picture.size[::-1], region.size))
        size = region.box.width, region.box.height
        return Made(task.output, size, notes=tuple(note for note in notes if note not in task.notes))

    def _made(self, picture: image.Picture, region: Region, progress: Progress | None) -> image.Picture:
        """The larger picture, with its bands."""
        like = picture.resampled(region)
        bands = tuple(
            band._replace(image=self._output(band, region, progress).whole(band.image)) for band in like.bands
        )
        return like._replace(image=self._output(picture, region, progress).whole(picture.image), notes=(), bands=bands)

    def _output(self, picture: image.Picture, region: Region, progress: Progress | None) -> Output:
        """What is made of a picture, or of one of its bands."""
        settings, consistent = self.settings, self._is_consistent(picture)
        pixels = open_picture(picture.image, self.model, any_level=consistent)
        fidelity = Fidelity(consistent, keep_gray=True, keep_hidden_colour=settings.keep_hidden_colour)
        return prepare_output(self.model, pixels, region, self._options(picture, progress), settings.wrap, fidelity)

    def _is_consistent(self, picture: image.Picture) -> bool:
        """Whether the result is made consistent with the picture: where its values mean something, if not asked."""
        if self.settings.consistent is not None:
            return self.settings.consistent
        return not _is_shallow(picture)

    def _precision_of(self, picture: image.Picture) -> str:
        return self.precision if _is_shallow(picture) else self._deep_precision

    def _options(self, picture: image.Picture, progress: Progress | None) -> Options:
        settings = self.settings
        # Only a name of a backend can be asked for, and the model may decode by itself.
        backend = self.backend if self.backend in backends.NAMES else "auto"
        return Options(backend, self._precision_of(picture), settings.tile, settings.memory, progress=progress)

    def write(self, made: Made) -> tuple[int, int]:
        """The last stage: the output file, whole; its (width, height)."""
        if made.picture is not None:
            image.write(made.picture.image, made.output, made.picture)
        return made.size
