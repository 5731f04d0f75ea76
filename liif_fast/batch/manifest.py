"""The manifest of a folder of results: which of them are complete, and from which source and settings they came."""

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

from liif_fast import files
from liif_fast.batch.plan import MANIFEST_FOLDER, Item
from liif_fast.errors import LiifError
from liif_fast.files import Digest, digest

HEX = "[0-9a-f]" * 16
Key = tuple[str, tuple[int, ...]]  # of an item: the name of its output, and the box of its part or ()


class Entry(NamedTuple):
    """A result that was complete once.

    file: where it was written; for a part of a result, the folder in which the parts were made. settings: identity of
    the settings. source, result: digests as they were then; for a part, that of its own files. size: (width, height)
    of the whole result.
    """

    file: Path
    settings: str
    source: Digest
    result: Digest
    size: tuple[int, int]


class Manifest:
    """The manifest of the results below `folder`: JSON lines in folder/MANIFEST_FOLDER, one file for each process.

    A line is written before a result is made (`begin`) and another when it is complete (`finish`). A process writes
    into its own file only, so that no lock or server is needed, also on a shared disk; it reads what others write as
    their files grow, and ignores a line that was cut off. The files themselves decide whether a result is complete:
    an entry counts while source and result have the size and the hash that it states.

    settings: identity of the settings that the results are made with. run: a name that the files of processes of one
    run share. everything: entries of earlier and other runs count too; otherwise those of this run only. Entries of
    parts always count, whichever run made them, because the parts make up one result.
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

    # -- what is complete ---------------------------------------------------------------------------------------------

    def complete(self, item: Item, source: Digest | None, place: Path | None = None) -> Entry | None:
        """Return the entry of the item's output if making it again would give the same; None otherwise.

        source: digest of the item's source now. place: for a part, the store to look in; None for both possible ones.
        """
        for entry in self._entries_of(item):
            if entry.source == source:
                for file in self._places(item, entry) if place is None else (place,):
                    with suppress(OSError):
                        if entry.result == _digest(item, file):
                            return entry._replace(file=file)
        return None

    def has_entry(self, item: Item) -> bool:
        """Say whether there is an entry of the item with these settings: a cheap question before `complete`."""
        return bool(self._entries_of(item))

    def _entries_of(self, item: Item) -> list[Entry]:
        self._read_new_lines()
        return [entry for entry in self._entries.get(self._key(item), ()) if entry.settings == self.settings]

    def _places(self, item: Item, entry: Entry) -> tuple[Path, ...]:
        return (self.folder / entry.file,) if item.part is None else (self.store(item, entry.source), item.output)

    def was_begun(self, item: Item) -> bool:
        """Say whether a run that counts began the item's output, so that the file there does not belong to others."""
        return self._name(item.output) in self._begun

    def store(self, item: Item, source: Digest | None) -> Path:
        """Return the folder in which all processes make the parts of this result, from this source and settings."""
        key = hashlib.sha256(json.dumps([self.settings, source]).encode()).hexdigest()[:16]
        return files.beside(item.output, f"{key}.boxes")

    def stores(self, output: Path) -> list[Path]:
        """Return all existing `store` folders of an output, also those of other settings and of an earlier source."""
        return list(
            output.parent.glob(f".{glob.escape(files.short_stem(output))}.{HEX}.boxes{glob.escape(output.suffix)}")
        )

    def attempts(self, item: Item) -> int:
        """Return how often this run began the item without finishing it."""
        self._read_new_lines()
        return self._attempts[self._key(item)]

    # -- what is being made -------------------------------------------------------------------------------------------

    def begin(self, item: Item) -> None:
        """Note that the item is begun, before anything is written for it, and make the folder of its output."""
        try:
            item.output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LiifError(f"{item.output.parent}: the folder cannot be made: {error.strerror}") from error
        self._begun.add(self._name(item.output))
        self._write({**self._named(item), "begun": True})

    def finish(self, item: Item, source: Digest, file: Path, size: tuple[int, int]) -> None:
        """Note that the output, or the part in `file`, is complete. source: its digest before it was read."""
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

    def _write(self, entry: dict[str, Any]) -> None:
        place = self.folder / MANIFEST_FOLDER
        try:
            if self._own is None:
                place.mkdir(exist_ok=True)
                self._own = (place / f"{self.run}-{secrets.token_hex(8)}.jsonl").open("ab", buffering=0)
                _lock(self._own, wait=True)
            line = json.dumps(entry).encode() + b"\n"
            if self._own.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if "box" in entry:
                # Whoever makes the last part of a result must see the others', over the network too.
                os.fsync(self._own)
        except OSError as error:
            # Nothing is written behind a line that was cut off.
            self.close()
            raise LiifError(f"{place}: the manifest cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close and unlock this process's file; results that it has begun then count as abandoned."""
        if self._own is not None:
            self._own.close()
            self._own = None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep all other processes out of this block, where the file system has locks."""
        with open(self.folder / MANIFEST_FOLDER / "lock", "ab") as file:
            _lock(file, wait=True)
            yield

    # -- what others have done ----------------------------------------------------------------------------------------

    def _read_new_lines(self) -> None:
        try:
            with self._reading:
                self._read_files()
        except OSError as error:
            raise LiifError(f"{error.filename}: the manifest cannot be read: {error.strerror}") from error

    def _read_files(self) -> None:
        for path in (self.folder / MANIFEST_FOLDER).glob("*.jsonl"):
            start = self._read.get(path, 0)
            with open(path, "rb") as file:
                file.seek(start)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[path] = start + len(whole)
            for line in whole.splitlines():
                self._note_line(line, path.name.startswith(f"{self.run}-"))

    def _note_line(self, line: bytes, ours: bool) -> None:
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

        A process holds a lock on its file while it lives; results that a living process has begun are left alone.
        """
        begun: dict[bool, set[str]] = {True: set(), False: set()}
        for path in (self.folder / MANIFEST_FOLDER).glob("*.jsonl"):
            with suppress(OSError), open(path, "rb") as file:
                begun[_lock(file)] |= _unfinished(file)
        for name in begun[True] - begun[False]:
            target = self.folder / name
            # As `files.replacing` names them.
            for leftover in target.parent.glob(f".{glob.escape(files.short_stem(target))}.{HEX}.part.*"):
                if leftover.is_dir():  # a zarr
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)


def _parsed(line: bytes) -> tuple[Key | None, Entry | None]:
    """Return (key of the item, its entry if the line says that it is complete); None for what the line does not say."""
    try:
        fields = json.loads(line)
        key = fields["output"], tuple(fields.get("box", ()))
        hash(key)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, None
    if not isinstance(key[0], str):
        return None, None
    try:
        width, height = fields["size"]
        source, result = Digest(*fields["source"]), Digest(*fields["result"])
        return key, Entry(Path(fields["file"]), fields["settings"], source, result, (width, height))
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
    """Return the digest of the item's result in `file`, or of the part's own files in that store. Raises OSError."""
    if item.part is None:
        return digest(file)
    from liif_fast.batch.streaming import DESCRIPTION, part_files

    # zarr writes no file for a chunk of zeros.
    there = [name for name in part_files(item.part.box) if (file / name).is_file()]
    return digest(file, [*there, DESCRIPTION])


def _lock(file: IO[bytes], wait: bool = False) -> bool:
    """Lock the file for this process until it is closed; False where another has it or there are no locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True
