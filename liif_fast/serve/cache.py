"""Values kept in bounded memory: the one that has not been used for longest goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """Values by key, of at most `limit` bytes together; safe to be used by several threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keep the value of `size` bytes, unless it alone is larger than the limit."""
        with self._lock:
            self._forget(key)
            if size > self.limit:
                return
            while self.used + size > self.limit:
                self._forget(next(iter(self._values)))
            self._values[key] = value, size
            self.used += size

    def _forget(self, key: Hashable) -> None:
        found = self._values.pop(key, None)
        if found is not None:
            self.used -= found[1]
