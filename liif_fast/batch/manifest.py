"""What is known of the results in a folder: which are whole, made of what and how."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from liif_fast.batch.plan import Item
from liif_fast.errors import LiifError
from liif_fast.files import Digest, digest

FOLDER = ".liif-fast"
HEX = "[0-9a-f]" * 16
Key = tuple[str, tuple[int, ...]]  # an item's: its output's name, the box of its part or nothing


class Entry(NamedTuple):
    """A result that was whole: its file, the settings' identity, source and result as they were, (width, height).

    Of a part of a result: where it was made, its own files, and the size of the whole.
    """

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
    everything: what earlier and other runs have recorded counts too; otherwise this run's own alone. Parts of results
    count always, whoever has made them: together they are one result.
    """

    def __init__(self, folder: Path, settings: str, run: str | None = None, everything: bool = True) -> None:
        self.folder = folder
        self.settings = settings
        self.run = secrets.token_hex(8) if run is None else run
        self._everything = everything
        self._own: Any = None
        self._reading = threading.Lock()
        self._read: dict[Path, int] = {}
        self._begun: set[str] = set()
        self._attempts: Counter[Key] = Counter()
        self._entries: dict[Key, list[Entry]] = {}

    # -- what is done -----------------------------------------------------------------------------------------------

    def complete(self, item: Item, source: Digest | None, place: Path | None = None) -> Entry | None:
        """The entry that says how the item's output was made, if that is what would be made again.

        source: the item's, as it is. place: of a part, the store to look in; None for both where it may be.
        """
        for entry in self._recorded(item):
            if entry.source == source:
                for file in self._places(item, entry) if place is None else (place,):
                    with suppress(OSError):
                        if entry.result == _digest(item, file):
                            return entry._replace(file=file)
        return None

    def recorded(self, item: Item) -> bool:
        """Whether there is an entry of the item made with these settings: a cheap question before `complete`."""
        return bool(self._recorded(item))

    def _recorded(self, item: Item) -> list[Entry]:
        self._catch_up()
        return [entry for entry in self._entries.get(self._key(item), ()) if entry.settings == self.settings]

    def _places(self, item: Item, entry: Entry) -> tuple[Path, ...]:
        return (self.folder / entry.file,) if item.part is None else (self.store(item, entry.source), item.output)

    def known(self, item: Item) -> bool:
        """Whether the item's output was begun by a run that counts, so that it is no file of someone else's."""
        return self._name(item.output) in self._begun

    def store(self, item: Item, source: Digest | None) -> Path:
        """The folder in which the parts of a result are made, of this source with these settings; for all processes."""
        key = hashlib.sha256(json.dumps([self.settings, source]).encode()).hexdigest()[:16]
        return item.output.with_name(f".{item.output.stem}.{key}.boxes{item.output.suffix}")

    def stores(self, output: Path) -> list[Path]:
        """All such folders that there are of an output, also of other settings and of its source as it was."""
        return list(output.parent.glob(f".{glob.escape(output.stem)}.{HEX}.boxes{glob.escape(output.suffix)}"))

    def attempts(self, item: Item) -> int:
        """How often this run has begun the item without an end."""
        self._catch_up()
        return self._attempts[self._key(item)]

    # -- what is being done -----------------------------------------------------------------------------------------

    def begin(self, item: Item) -> None:
        """To be called before anything is written for the item; makes its output's folder."""
        try:
            item.output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LiifError(f"{item.output.parent}: the folder cannot be made: {error.strerror}") from error
        self._begun.add(self._name(item.output))
        self._write({**self._named(item), "begun": True})

    def finish(self, item: Item, source: Digest, file: Path, size: tuple[int, int]) -> None:
        """To be called when the output, or the part in `file`, is whole. source: as it was before it was read."""
        try:
            result = _digest(item, file)
        except OSError as error:
            raise LiifError(f"{file}: has gone after it was written: {error.strerror}") from error
        self._write(
            {
                **self._named(item),
                "input": str(item.source),
                "file": self._name(file),
                "settings": self.settings,
                "source": source,
                "result": result,
                "size": size,
            }
        )

    def _key(self, item: Item) -> Key:
        return self._name(item.output), () if item.part is None else tuple(item.part.box)

    def _named(self, item: Item) -> dict[str, Any]:
        name, box = self._key(item)
        return {"output": name, "box": box} if box else {"output": name}

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
            if "box" in record:
                # Whoever makes the last part of a result must see the others', over the network too.
                os.fsync(self._own)
        except OSError as error:
            # Nothing is written behind a line that was cut off.
            self.close()
            raise LiifError(f"{place}: the record of what is done cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Let go of this process's file, as its end does; what it has begun is then taken for given up."""
        if self._own is not None:
            self._own.close()
            self._own = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process is in here at the same time, where locks are to be had."""
        with open(self.folder / FOLDER / "lock", "ab") as file:
            _lock(file, wait=True)
            yield

    # -- what others did --------------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        try:
            with self._reading:
                self._read_on()
        except OSError as error:
            raise LiifError(f"{error.filename}: the record of what is done cannot be read: {error.strerror}") from error

    def _read_on(self) -> None:
        for path in (self.folder / FOLDER).glob("*.jsonl"):
            start = self._read.get(path, 0)
            with open(path, "rb") as file:
                file.seek(start)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[path] = start + len(whole)
            for line in whole.splitlines():
                self._take(line, path.name.startswith(f"{self.run}-"))

    def _take(self, line: bytes, ours: bool) -> None:
        key, entry = _parsed(line)
        if key is None:
            return
        if ours or self._everything:
            self._begun.add(key[0])
        self._attempts[key] += ours * (1 if entry is None else -1)
        if entry is not None and (key[1] or ours or self._everything):
            self._entries.setdefault(key, []).append(entry)

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
            for leftover in target.parent.glob(f".{glob.escape(target.stem)}.{HEX}.part.*"):
                if leftover.is_dir():  # a zarr
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)


def _parsed(line: bytes) -> tuple[Key | None, Entry | None]:
    """(an item's key, its entry if it is whole); None for what a line does not say, or not as this package does."""
    try:
        record = json.loads(line)
        key = record["output"], tuple(record.get("box", ()))
        hash(key)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, None
    if not isinstance(key[0], str):
        return None, None
    try:
        width, height = record["size"]
        source, result = Digest(*record["source"]), Digest(*record["result"])
        return key, Entry(Path(record["file"]), record["settings"], source, result, (width, height))
    except (ValueError, KeyError, TypeError):
        return key, None


def _unfinished(file: IO[bytes]) -> set[str]:
    begun: set[Key] = set()
    for line in file:
        key, entry = _parsed(line)
        if key is not None:
            (begun.discard if entry else begun.add)(key)
    return {name for name, _ in begun}


def _digest(item: Item, file: Path) -> Digest:
    """Of the item's result in `file`; of a part, of its own files in that store. OSError where there is none."""
    if item.part is None:
        return digest(file)
    from liif_fast.batch.streaming import DESCRIPTION, part_files

    # A chunk that holds nothing but zeros is no file.
    there = [name for name in part_files(item.part.box) if (file / name).is_file()]
    return digest(file, [*there, DESCRIPTION])


def _lock(file: IO[bytes], wait: bool = False) -> bool:
    """Whether the file is now this process's alone, until it is closed; False where locks are not to be had."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True
