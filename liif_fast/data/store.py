"""The pictures of a list of files, whose pixels are kept in memory, on disk, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from liif_fast.data.pictures import Picture, content, decode, picture_size, read_picture
from liif_fast.errors import ImageError, UsageError, suggestion
from liif_fast.files import replacing

T = TypeVar("T")

CACHES = ("none", "bin", "in_memory")


class Entry(NamedTuple):
    """A picture of a dataset: a file, reduced `shrink` times."""

    path: Path
    shrink: int = 1


class Opened(NamedTuple):
    """A picture's (height, width) and its pixels: an array, a file of the cache, or None for the picture file."""

    size: tuple[int, int]
    source: Picture | Path | None


class Store:
    """The pictures of a list of entries, which are opened when the store is made.

    channels: the channels of the arrays [H, W, channels] uint8.
    cache: `none` decodes a picture at each access, and reads only headers when the store is made; `in_memory` decodes
        each picture once, and forked workers share the arrays; `bin` decodes each picture once into a folder of
        uncompressed files, which all processes share by mapping them.
    folder: the folder of the `bin` cache. A file's name is the hash of the picture file's content, so that a changed
        picture is decoded again. The file appears whole or not at all, even if another process writes it, too.
    failures: the number of an entry, as given, -> why it cannot be read.
    """

    def __init__(self, entries: Sequence[Entry], channels: int, cache: str, folder: Path) -> None:
        if cache not in CACHES:
            raise UsageError(
                f"cache: expected one of {', '.join(CACHES)}, got {cache!r}{suggestion(str(cache), CACHES)}"
            )
        self.entries = list(entries)
        self.channels = channels
        self.decoded = cache != "none"
        self._folder = folder
        open_one = {"none": self._header, "in_memory": self._in_memory, "bin": self._mapped}[cache]
        self._opened, self.failures = _each(open_one, self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def keep(self, numbers: Sequence[int]) -> None:
        """Leaves out every other picture."""
        self.entries = [self.entries[number] for number in numbers]
        self._opened = {new: self._opened[old] for new, old in enumerate(numbers)}
        self.failures = {}

    def size(self, number: int) -> tuple[int, int]:
        """(height, width)."""
        return self._opened[number].size

    def read(self, number: int) -> Picture:
        """Reads [H, W, channels] uint8, perhaps not writable; raises ImageError only with the cache `none`."""
        source = self._opened[number].source
        if source is None:
            return read_picture(*self.entries[number], self.channels)
        if isinstance(source, Path):
            mapped: Picture = np.load(source, mmap_mode="r")
            return mapped
        return source

    def decode_all(self) -> None:
        """Decodes every picture that has not been decoded yet, and puts those that cannot be into `failures`."""
        if not self.decoded:
            _, self.failures = _each(self._in_memory, self.entries, keep=False)

    def _header(self, entry: Entry) -> Opened:
        return Opened(picture_size(*entry), None)

    def _in_memory(self, entry: Entry) -> Opened:
        picture = decode(content(entry.path), *entry, self.channels)
        return Opened(picture.shape[:2], picture)

    def _mapped(self, entry: Entry) -> Opened:
        data = content(entry.path)
        key = hashlib.blake2b(data, digest_size=16).hexdigest()
        target = self._folder / f"{key}.{self.channels}.{entry.shrink}.npy"
        size = _mapped_size(target)
        if size is None:
            picture = decode(data, *entry, self.channels)
            self._write(picture, target)
            size = picture.shape[:2]
        return Opened(size, target)

    def _write(self, picture: Picture, target: Path) -> None:
        try:
            self._folder.mkdir(exist_ok=True)
            with replacing(target) as part, open(part, "wb") as file:
                np.save(file, picture)
                file.flush()
                # The pixels must be on the disk before the name is, in case the machine crashes.
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(
                f"cache: bin: {self._folder} cannot be written ({error.strerror}); use cache: in_memory or none"
            ) from error


def _each(
    work: Callable[[Entry], T], entries: Sequence[Entry], keep: bool = True
) -> tuple[dict[int, T], dict[int, str]]:
    """Runs `work` for each entry; returns its results (none without `keep`) and the reasons of those that fail."""

    def attempt(entry: Entry) -> T | ImageError | None:
        try:
            result = work(entry)
        except ImageError as error:
            return error
        return result if keep else None

    done: dict[int, T] = {}
    failures: dict[int, str] = {}
    # Decoders and hashes release the interpreter's lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for number, result in enumerate(pool.map(attempt, entries)):
            if isinstance(result, ImageError):
                failures[number] = str(result)
            elif result is not None:
                done[number] = result
    return done, failures


def _mapped_size(path: Path) -> tuple[int, int] | None:
    """The (height, width) of a file of the cache; None if it is missing or damaged."""
    try:
        shape = np.load(path, mmap_mode="r").shape
    except (OSError, ValueError, EOFError):
        return None
    return shape[:2] if len(shape) == 3 else None
