"""What is known of the results in a folder: which are whole, made of what and how."""

from __future__ import annotations

import errno
import glob
import json
import os
import secrets
import shutil
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from liif_fast.batch.plan import Item
from liif_fast.errors import LiifError
from liif_fast.files import Digest, digest

FOLDER = ".liif-fast"


class Entry(NamedTuple):
    """A result that was whole: its file, the settings' identity, source and result as they were, (width, height)."""

    file: Path
    settings: str
    source: Digest
    result: Digest
    size: tuple[int, int]


class Manifest:
    """The record of the results below `folder`, in folder/FOLDER: JSON lines, a file for each process that writes.

    A line is written before a result is made (`begin`) and one after it is whole (`finish`). Nobody writes into
    another's file, so no lock or server is needed, on a shared disk neither; what others write is read as it grows.
    A line that was cut off is not read. Whether a result is complete is asked of the files themselves: an entry counts
    while source and result have the size and hash that it states.

    settings: identity of what the results are made with. run: names the files of processes that belong together.
    everything: what earlier and other runs have recorded counts too; otherwise this run's own alone.
    """

    def __init__(self, folder: Path, settings: str, run: str | None = None, everything: bool = True) -> None:
        self.folder = folder
        self.settings = settings
        self.run = secrets.token_hex(8) if run is None else run
        self._pattern = "*.jsonl" if everything else f"{self.run}-*.jsonl"
        self._own: Any = None
        self._reading = threading.Lock()
        self._read: dict[Path, int] = {}
        self._begun: set[str] = set()
        self._attempts: Counter[str] = Counter()
        self._entries: dict[str, list[Entry]] = {}

    # -- what is done -----------------------------------------------------------------------------------------------

    def complete(self, item: Item) -> Entry | None:
        """The entry that says how the item's output was made, if that is what would be made again."""
        self._catch_up()
        for entry in self._entries.get(self._name(item.output), ()):
            file = self.folder / entry.file
            try:
                if entry.settings == self.settings and (entry.result, entry.source) == (
                    digest(file),
                    digest(item.source),
                ):
                    return entry._replace(file=file)
            except OSError:
                continue
        return None

    def known(self, item: Item) -> bool:
        """Whether the item's output was begun by a run that counts, so that it is no file of someone else's."""
        return self._name(item.output) in self._begun

    def attempts(self, item: Item) -> int:
        """How often this run has begun the item without an end."""
        self._catch_up()
        return self._attempts[self._name(item.output)]

    # -- what is being done -----------------------------------------------------------------------------------------

    def begin(self, item: Item) -> None:
        """To be called before anything is written for the item; makes its output's folder."""
        try:
            item.output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LiifError(f"{item.output.parent}: the folder cannot be made: {error.strerror}") from error
        self._begun.add(self._name(item.output))
        self._write({"output": self._name(item.output), "begun": True})

    def finish(self, item: Item, source: Digest, file: Path, size: tuple[int, int]) -> None:
        """To be called when the output, in `file`, is whole. source: the item's source, before it was read."""
        self._write(
            {
                "output": self._name(item.output),
                "input": str(item.source),
                "file": self._name(file),
                "settings": self.settings,
                "source": source,
                "result": digest(file),
                "size": size,
            }
        )

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _write(self, record: dict[str, Any]) -> None:
        place = self.folder / FOLDER
        try:
            if self._own is None:
                place.mkdir(exist_ok=True)
                self._own = (place / f"{self.run}-{secrets.token_hex(8)}.jsonl").open("ab", buffering=0)
                _lock(self._own, wait=True)
            line = json.dumps(record).encode() + b"\n"
            if self._own.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            # Nothing is written behind a line that was cut off.
            self.close()
            raise LiifError(f"{place}: the record of what is done cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Let go of this process's file, as its end does; what it has begun is then taken for given up."""
        if self._own is not None:
            self._own.close()
            self._own = None

    # -- what others did --------------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        try:
            with self._reading:
                self._read_on()
        except OSError as error:
            raise LiifError(f"{error.filename}: the record of what is done cannot be read: {error.strerror}") from error

    def _read_on(self) -> None:
        for path in (self.folder / FOLDER).glob(self._pattern):
            start = self._read.get(path, 0)
            if path.stat().st_size > start:
                with open(path, "rb") as file:
                    file.seek(start)
                    text = file.read()
                whole = text[: text.rfind(b"\n") + 1]
                self._read[path] = start + len(whole)
                for line in whole.splitlines():
                    self._take(line, path.name.startswith(f"{self.run}-"))

    def _take(self, line: bytes, ours: bool) -> None:
        name, entry = _parsed(line)
        if name is None:
            return
        self._begun.add(name)
        self._attempts[name] += ours * (1 if entry is None else -1)
        if entry is not None:
            self._entries.setdefault(name, []).append(entry)

    def sweep(self) -> None:
        """Remove the temporary files of results that were half-written when their process was killed.

        A process holds a lock on its file as long as it lives; what a living one has begun is left alone.
        """
        begun: dict[bool, set[str]] = {True: set(), False: set()}
        for path in (self.folder / FOLDER).glob("*.jsonl"):
            with suppress(OSError), open(path, "rb") as file:
                begun[_lock(file)] |= _unfinished(file)
        for name in begun[True] - begun[False]:
            target = self.folder / name
            # As `files.replacing` names them.
            for leftover in target.parent.glob(f".{glob.escape(target.stem)}.{'[0-9a-f]' * 16}.part.*"):
                if leftover.is_dir():  # a zarr
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)


def _parsed(line: bytes) -> tuple[str | None, Entry | None]:
    """(the output's name, its entry if it is whole); None for what a line does not say, or not as this package does."""
    try:
        record = json.loads(line)
        name = record["output"]
    except (ValueError, KeyError, TypeError):
        return None, None
    if not isinstance(name, str):
        return None, None
    try:
        width, height = record["size"]
        source, result = Digest(*record["source"]), Digest(*record["result"])
        return name, Entry(Path(record["file"]), record["settings"], source, result, (width, height))
    except (ValueError, KeyError, TypeError):
        return name, None


def _unfinished(file: IO[bytes]) -> set[str]:
    begun: set[str] = set()
    for line in file:
        name, entry = _parsed(line)
        if name is not None:
            (begun.discard if entry else begun.add)(name)
    return begun


def _lock(file: IO[bytes], wait: bool = False) -> bool:
    """Whether the file is now this process's alone, until it is closed; False where locks are not to be had."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True
