"""Files that are made of a picture: the bytes that `liif-fast upscale` writes, with progress, cancelled at any time."""

from __future__ import annotations

import copy
import queue
import secrets
import threading
from pathlib import Path
from typing import Any, NamedTuple

from liif_fast.batch.conversion import Converter
from liif_fast.errors import LiifError, one_line
from liif_fast.rendering.request import Request
from liif_fast.serve.pictures import Entry, UnknownError
from liif_fast.serve.worker import LAST_STEP, BusyError, Worker

STEP_MEMORY = 2**26  # bytes of working memory: small tiles, so that what is looked at waits for a short step only
KEPT = 8  # finished files
WAITING = 4  # orders that may wait


class _Cancelled(Exception):
    pass


class Order(NamedTuple):
    """What is to be made: a picture, a model, a size, and a suffix such as `.png`."""

    entry: Entry
    converter: Converter
    request: Request
    suffix: str


class Made:
    """One order and how far it is. state: waiting, running, done, failed or cancelled."""

    def __init__(self, order: Order, folder: Path, label: str) -> None:
        self.id = secrets.token_hex(8)
        self.order = order
        self.name = f"{Path(order.entry.name).stem}_{label}{order.suffix}"
        self.path = folder / f"{self.id}{order.suffix}"
        self.state = "waiting"
        self.done, self.total = 0, 0
        self.size: tuple[int, int] | None = None
        self.error: str | None = None
        self.notes: list[str] = []
        self.cancelled = threading.Event()

    def facts(self) -> dict[str, Any]:
        """What the page is told."""
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "done": self.done,
            "total": self.total,
            "size": self.size,
            "error": self.error,
            "notes": self.notes,
        }


class Maker:
    """Makes files one after another in a thread of its own, and gives way to the worker between two steps."""

    def __init__(self, folder: Path, worker: Worker) -> None:
        self._folder, self._worker = folder, worker
        self._orders: dict[str, Made] = {}
        self._queue: queue.Queue[Made | None] = queue.Queue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="liif-fast-files", daemon=True)
        self._thread.start()

    def order(self, order: Order, label: str) -> Made:
        """Put an order at the end of the queue. Raises BusyError where too many wait."""
        with self._lock:
            if sum(made.state in ("waiting", "running") for made in self._orders.values()) > WAITING:
                raise BusyError(f"expected at most {WAITING} files in the queue, got more; wait for one of them")
            made = Made(order, self._folder, label)
            self._orders[made.id] = made
            ended = [old for old in self._orders.values() if old.state not in ("waiting", "running")]
            for old in ended[: max(0, len(ended) - KEPT + 1)]:
                self._forget(old)
        self._queue.put(made)
        return made

    def get(self, number: str) -> Made:
        with self._lock:
            found = self._orders.get(number)
        if found is None:
            raise UnknownError("expected a file that is being made or was made, got another; it may have been removed")
        return found

    def cancel(self, number: str) -> Made:
        """Stop an order, or remove its file."""
        made = self.get(number)
        made.cancelled.set()
        with self._lock:
            if made.state in ("waiting", "done"):
                made.state = "cancelled"
                made.path.unlink(missing_ok=True)
        return made

    def refuse(self) -> None:
        """Cancel everything; what is being made stops after its step."""
        with self._lock:
            for made in self._orders.values():
                made.cancelled.set()

    def end(self) -> None:
        """Cancel everything, and wait for the thread."""
        self.refuse()
        self._queue.put(None)
        self._thread.join(LAST_STEP)

    def _forget(self, made: Made) -> None:
        made.path.unlink(missing_ok=True)
        del self._orders[made.id]

    def _work(self) -> None:
        while (made := self._queue.get()) is not None:
            with self._lock:
                if made.cancelled.is_set():
                    made.state = "cancelled"
                    continue
                made.state = "running"
            state = self._make(made)
            with self._lock:
                made.state = "cancelled" if made.cancelled.is_set() else state
                if made.state != "done":
                    made.path.unlink(missing_ok=True)

    def _make(self, made: Made) -> str:
        def progress(done: int, total: int) -> None:
            made.done, made.total = done, total
            if made.cancelled.is_set():
                raise _Cancelled
            self._worker.give_way()

        order = made.order
        converter = copy.copy(order.converter)
        converter.settings = converter.settings._replace(request=order.request, memory=STEP_MEMORY)
        try:
            with self._worker.turn:
                made.size = converter(order.entry.path, made.path, made.notes.append, progress)
            return "done"
        # A file can be wrong in ways that no library foresees; whoever asked is told, and the thread goes on.
        except Exception as error:
            text = str(error) if isinstance(error, LiifError) else one_line(error)
            made.error = text.replace(str(order.entry.path), order.entry.name).replace(str(made.path), made.name)
            return "failed"
