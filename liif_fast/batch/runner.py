"""The runner makes the items of a plan in this process; reading, computing and writing overlap across pictures."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from liif_fast import files
from liif_fast.batch.conversion import Converter, Made, Task
from liif_fast.batch.manifest import Manifest
from liif_fast.batch.plan import Item
from liif_fast.batch.streaming import check_replaceable
from liif_fast.errors import ImageError, LiifError

Progress = Callable[[int, int], None]
Watch = Callable[[Item], AbstractContextManager[Progress | None]]


class BoxCount(NamedTuple):
    """How many boxes of a picture were made in this run, were complete already (skipped), and there are in total.

    whole: all are there, and the result has its final name.
    """

    made: int
    skipped: int
    total: int
    whole: bool


@dataclass
class Outcome:
    """The outcome of an item, in plain values, so that another process can send it.

    error: one line, None for success. defect: a traceback, where the error is a fault of this package. output: the
    file, where it is not the item's. size: (width, height) of the result. skipped: the result was complete already.
    notes: what was changed or dropped, one sentence each. backend, precision, arithmetic: what made the result.
    seconds: time in all stages. pixels: how many were made. boxes: counts for a picture that is made in boxes.
    """

    item: Item
    error: str | None = None
    defect: str = ""
    output: Path | None = None
    size: tuple[int, int] | None = None
    skipped: bool = False
    notes: tuple[str, ...] = ()
    backend: str = ""
    precision: str = ""
    arithmetic: str = ""
    seconds: float = 0.0
    pixels: int = 0
    boxes: BoxCount | None = None


@dataclass
class _Work:
    """An item on its way through the stages, which skip one that has failed or is complete already."""

    outcome: Outcome
    source: files.Digest | None = None
    stage: Task | Made | None = None


class Runner:
    """Makes items with one converter.

    manifest: the manifest of the results, None for none. overwrite: replace existing outputs that the manifest does
    not name. report: called with the outcome of each item, in order, also from another thread. watch: called with an
    item before it is computed; it returns a context, held during the computation, that gives a progress callback or
    None.

    Several threads may share a runner: they read one picture at a time, and compute one at a time.
    """

    def __init__(
        self,
        convert: Converter,
        report: Callable[[Outcome], None],
        manifest: Manifest | None = None,
        overwrite: bool = False,
        watch: Watch = lambda item: nullcontext(),
    ) -> None:
        self.convert, self.report, self.manifest = convert, report, manifest
        self.overwrite, self.watch = overwrite, watch
        self._reading, self._computing = threading.Lock(), threading.Lock()
        self._divided: tuple[Path, files.Digest | None, Task] | None = None

    def run(self, items: Sequence[Item]) -> None:
        """Make all items.

        While one picture is computed here, a thread reads the next one and another writes the one before, so that at
        most three are in memory. An interrupt waits for the picture that is being written.
        """
        if len(items) == 1:
            self._write(self._compute(self._read(items[0])))
            return
        with _thread("reader") as reader, _thread("writer") as writer:
            behind: Future[None] | None = None
            ahead = [reader.submit(self._read, item) for item in items[:1]]
            for number in range(len(items)):
                work = ahead.pop().result()
                ahead = [reader.submit(self._read, item) for item in items[number + 1 : number + 2]]
                work = self._compute(work)
                if behind is not None:
                    behind.result()
                behind = writer.submit(self._write, work)
            if behind is not None:
                behind.result()

    # -- the stages -------------------------------------------------------------------------------------------------

    def _read(self, item: Item) -> _Work:
        work = _Work(Outcome(item, backend=self.convert.backend, precision=self.convert.precision))
        with self._reading, _stage(work):
            _check_target(item.output)
            overwrite = self.overwrite
            if self.manifest is not None:
                work.source = _digest(item.source)
                if self._complete(work):
                    return work
                overwrite = overwrite or self.manifest.was_begun(item)
                if os.path.lexists(item.output) and not overwrite:
                    raise ImageError(
                        f"{item.output} exists already; pass --resume to go on with an earlier run, or --overwrite to "
                        "replace it"
                    )
            work.stage = self._task(item, work.source, overwrite)
            work.outcome.notes = work.stage.notes
            work.outcome.precision, work.outcome.arithmetic = work.stage.precision, work.stage.arithmetic
            if item.part is None:
                work.outcome.output = work.stage.output
        return work

    def _task(self, item: Item, source: files.Digest | None, overwrite: bool) -> Task:
        """Read what the item needs; a picture of which several parts follow each other is read once."""
        if item.part is None:
            self._divided = None
            return self.convert.read(item.source, item.output, overwrite)
        if self._divided is None or self._divided[:2] != (item.source, source):
            self._divided = None
            check_replaceable(item.output)
            self._divided = item.source, source, self.convert.read(item.source, item.output, overwrite)
        assert self.manifest is not None
        return self.convert.part(self._divided[2], item.part, self.manifest.store(item, source))

    def _compute(self, work: _Work) -> _Work:
        with self._computing, _stage(work):
            if isinstance(work.stage, Task) and not self._overtaken(work):
                if self.manifest is not None:
                    self.manifest.begin(work.outcome.item)
                with self._unless_overtaken(work), self.watch(work.outcome.item) as progress:
                    work.stage = self.convert.compute(work.stage, progress)
                    work.outcome.notes += work.stage.notes
        return work

    def _overtaken(self, work: _Work) -> bool:
        """Say whether another process has made this very part meanwhile, and may have published the result."""
        if work.outcome.item.part is None or not self._complete(work):
            return False
        work.stage = None
        return True

    @contextmanager
    def _unless_overtaken(self, work: _Work) -> Iterator[None]:
        try:
            yield
        except LiifError:
            if not self._overtaken(work):
                raise

    def _complete(self, work: _Work) -> bool:
        """Say whether the item is complete already, which is then its outcome."""
        if self.manifest is None:
            return False
        outcome = work.outcome
        entry = self.manifest.complete(outcome.item, work.source)
        if entry is not None:
            outcome.size, outcome.skipped = entry.size, True
            outcome.output = entry.file if outcome.item.part is None else None
        return entry is not None

    def _write(self, work: _Work) -> None:
        with _stage(work):
            if isinstance(work.stage, Made):
                with self._unless_overtaken(work):
                    size = self.convert.write(work.stage)
                    if self.manifest is not None and work.source is not None:
                        self.manifest.finish(work.outcome.item, work.source, work.stage.output, size)
                    part = work.outcome.item.part
                    work.outcome.size = size
                    work.outcome.pixels = size[0] * size[1] if part is None else part.box.pixels
        # The picture is freed before the next one comes.
        work.stage = None
        self.report(work.outcome)


@contextmanager
def _stage(work: _Work) -> Iterator[None]:
    """Time the block; an error in it becomes the outcome, because no single picture may end a batch."""
    outcome = work.outcome
    started = time.perf_counter()
    try:
        yield
    except LiifError as error:
        text = str(error)
        outcome.error = text if text.startswith(f"{outcome.item.source}:") else f"{outcome.item.source}: {text}"
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        outcome.error = f"{outcome.item.source}: {where}{error.strerror or error}"
    except Exception as error:
        outcome.defect = traceback.format_exc()
        outcome.error = f"{outcome.item.source}: unexpected {type(error).__name__}: {error}; please report it"
    finally:
        outcome.seconds += time.perf_counter() - started
    if outcome.error is not None:
        work.stage = None


def _check_target(output: Path) -> None:
    """ImageError where a result of this name cannot be written, before the work of making it."""
    length = len(os.fsencode(output.name))
    if length > files.NAME_MAX:
        raise ImageError(
            f"expected a name of at most {files.NAME_MAX} bytes for the result, got {length}; name it with -o"
        )
    folder = output.parent
    if os.path.isdir(folder) and not os.access(folder, os.W_OK | os.X_OK):
        raise ImageError(f"no permission to write into {folder}; choose another folder with -o")


def _digest(path: Path) -> files.Digest | None:
    """Return the file's digest, None where it cannot be read (reading it as a picture then says why)."""
    try:
        return files.digest(path)
    except OSError:
        return None


@contextmanager
def _thread(name: str) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of one thread; at the end it finishes the job that it has begun and drops the others."""
    pool = ThreadPoolExecutor(1, f"liif-fast-{name}")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
