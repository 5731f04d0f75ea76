"""Result files: JSON lines, the first of them about the run as a whole."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import describe
from liif_fast.files import replacing


class Lines:
    """A result file that grows; whole after each addition, so that a run that is ended keeps what it has.

    what: one sentence about the run. more: whatever else the first line is to say.
    """

    def __init__(self, path: Path, what: str, **more: Any) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.add([{"kind": "run", "what": what, "date": time.strftime("%Y-%m-%d"), **describe(), **more}])

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Append rows, one line each."""
        self.rows += rows
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            temporary.write_text("".join(f"{json.dumps(row)}\n" for row in self.rows), encoding="utf-8")


# Where a run of the suite keeps its file.
RESULTS: pytest.StashKey[Lines] = pytest.StashKey()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a result file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
