"""The one thread that computes what is looked at: the newest request first, nothing that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from starlette.requests import Request

from liif_fast.errors import LiifError

LAST_STEP = 30.0  # seconds that the step being computed may take at the end
GIVE_WAY = 2.0  # seconds that long work waits for short work at most, before it goes on for a step


class BusyError(LiifError):
    """More is waiting than the server takes on: status 429."""


class ClientGoneError(Exception):
    """Whoever asked has closed the connection."""


class _Task:
    def __init__(self, key: Hashable, function: Callable[[], Any]) -> None:
        self.key, self.function = key, function
        self.future: Future[Any] = Future()
        self.waiters = 0


class Worker:
    """Computes functions in a thread of its own; equal keys are computed once for all who wait.

    most: functions that may wait. `turn` is held while anything computes, here or in other threads.
    """

    def __init__(self, most: int) -> None:
        self.turn = threading.Lock()
        self._most = most
        self._waiting: OrderedDict[Hashable, _Task] = OrderedDict()
        self._running: _Task | None = None
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="liif-fast-tiles", daemon=True)
        self._thread.start()

    async def compute(self, request: Request, key: Hashable, function: Callable[[], Any]) -> Any:
        """What the function returns or raises. Raises BusyError, and ClientGoneError when the client has gone."""
        task = self._enter(key, function)
        try:
            answer = asyncio.wrap_future(task.future)
            gone = asyncio.ensure_future(_disconnected(request))
            try:
                await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
            if not answer.done():
                answer.add_done_callback(_take_exception)
                raise ClientGoneError
            return answer.result()
        except asyncio.CancelledError:
            # The server ends and waits no longer for this connection.
            raise ClientGoneError from None
        finally:
            self._leave(task)

    def give_way(self) -> None:
        """Called by who holds `turn` for long, between two steps: let what is looked at be computed first."""
        with self._changed:
            if not self._waiting:
                return
        self.turn.release()
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._waiting and self._running is None, GIVE_WAY)
        finally:
            self.turn.acquire()

    def check(self, *_: int) -> None:
        """Called between the steps of what is computed: BusyError when the server ends."""
        if self._ended:
            raise BusyError("the server is ending")

    def refuse(self) -> None:
        """Compute nothing more: what waits is refused at once, what is being computed stops after its step."""
        with self._changed:
            self._ended = True
            waiting = list(self._waiting.values())
            self._waiting.clear()
            self._changed.notify_all()
        for task in waiting:
            task.future.set_exception(BusyError("the server is ending"))

    def end(self) -> None:
        """Refuse, and wait for the thread: an interpreter that ends around a computation would crash."""
        self.refuse()
        self._thread.join(LAST_STEP)

    def _enter(self, key: Hashable, function: Callable[[], Any]) -> _Task:
        with self._changed:
            running = self._running
            task = running if running is not None and running.key == key else self._waiting.pop(key, None)
            if task is None:
                if self._ended or len(self._waiting) >= self._most:
                    raise BusyError(
                        f"expected at most {self._most} requests at a time, got more; try again in a second"
                    )
                task = _Task(key, function)
            task.waiters += 1
            if task is not running:
                # The last one is computed first: it is what is looked at now.
                self._waiting[key] = task
                self._changed.notify_all()
            return task

    def _leave(self, task: _Task) -> None:
        with self._changed:
            task.waiters -= 1
            if task.waiters == 0 and self._waiting.get(task.key) is task:
                del self._waiting[task.key]
                self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if self._ended:
                    return
            with self.turn:
                with self._changed:
                    if not self._waiting:
                        continue
                    _, task = self._waiting.popitem()
                    self._running = task
                try:
                    answer, error = task.function(), None
                # Whoever waits gets it, whatever it is.
                except BaseException as caught:
                    answer, error = None, caught
                with self._changed:
                    self._running = None
                    self._changed.notify_all()
            if error is None:
                task.future.set_result(answer)
            else:
                task.future.set_exception(error)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _take_exception(answer: asyncio.Future[Any]) -> None:
    """An error that nobody waits for any more is not to be reported when the future is thrown away."""
    with suppress(BaseException):
        answer.exception()
