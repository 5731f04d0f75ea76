"""Ctrl-C that takes effect at the end of a training step."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """An interrupt that was held back until the state of the run was whole."""


class Interrupts:
    """Inside the block, SIGINT and SIGTERM set `stopped`, which the trainer reads between steps.

    A second signal raises KeyboardInterrupt at once. A signal that was ignored before stays ignored. Outside of the
    main thread, which is the one that gets signals, nothing changes.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        self.stopped = False
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
