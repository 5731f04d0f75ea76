"""The pictures that are served: those that were named, those of named folders, and uploads."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from liif_fast import image
from liif_fast.batch import inputs
from liif_fast.errors import ImageError
from liif_fast.serve.cache import Cache
from liif_fast.serve.drawing import Shown, shown


class UnknownError(ImageError):
    """No picture, file or page of this name: status 404."""


class TooLargeError(ImageError):
    """More bytes or pixels than the server takes: status 413."""


class Entry(NamedTuple):
    """A picture that is served.

    key: its identifier, which cannot be guessed. folder: what the file must lie in, None for one that was named.
    """

    key: str
    name: str
    path: Path
    folder: Path | None = None
    uploaded: bool = False


class Pictures:
    """The pictures by their keys. Clients name keys only, never paths.

    limit: bytes of decoded pictures that are kept. max_pixels: pixels that a picture may have.
    """

    def __init__(self, limit: int, max_pixels: int) -> None:
        self._entries: dict[str, Entry] = {}
        self._opened: Cache[Shown] = Cache(limit)
        self._sizes: Cache[tuple[int, int]] = Cache(2**16)
        self._secret = secrets.token_bytes(16)
        self._lock = threading.Lock()
        self._max_pixels = max_pixels

    def add_named(self, names: Sequence[str], recursive: bool, note: Any) -> None:
        """Serve files, the pictures of folders, and patterns, as `liif-fast upscale` finds them.

        A link that leads out of its folder is left out. Raises UsageError for names that stand for no picture.
        """
        for found in inputs.find(names, recursive, note=note) if names else ():
            entry = Entry("", found.relative.as_posix(), found.path.absolute(), found.folder and found.folder.resolve())
            if not entry.path.is_file():
                note(f"{found.path}: not served: it is no file")
            elif not _inside(entry):
                note(f"{found.path}: not served: it is a link that leads out of the folder")
            else:
                self._add(entry)

    def add_upload(self, name: str, path: Path) -> Entry:
        """Serve an uploaded file under the name that its sender gave it, without any folder in it."""
        base = re.sub(r"[\x00-\x1f\x7f]", "", name.replace("\\", "/").rpartition("/")[2])[:100].strip()
        return self._add(Entry("", base or "picture", path, uploaded=True))

    def all(self) -> list[Entry]:
        with self._lock:
            return list(self._entries.values())

    def get(self, key: str) -> Entry:
        """The picture of a key; UnknownError where there is none any more."""
        with self._lock:
            found = self._entries.get(key)
        if found is None or not found.path.is_file() or not _inside(found):
            raise UnknownError("expected the identifier of a picture that is served here, got another; open the page")
        return found

    def remove(self, key: str) -> None:
        with self._lock:
            self._entries.pop(key, None)

    def version(self, key: str) -> tuple[str, int, int]:
        """The key with what changes when the file does."""
        stat = os.stat(self.get(key).path)
        return key, stat.st_mtime_ns, stat.st_size

    def known_size(self, key: str) -> tuple[int, int] | None:
        """(width, height), where the file need not be looked into."""
        return self._sizes.get(self.version(key))

    def size(self, key: str) -> tuple[int, int]:
        """(width, height) by the file's header. Raises ImageError; TooLargeError for too many pixels."""
        version = self.version(key)
        size = self._sizes.get(version)
        if size is None:
            entry = self.get(key)
            with _named(entry):
                size = image.stated_size(entry.path)
            if size[0] * size[1] > self._max_pixels:
                raise TooLargeError(
                    f"{entry.name}: expected at most {self._max_pixels / 1e6:g} megapixels, "
                    f"got {size[0] * size[1] / 1e6:,.0f}; --max-pixels allows more"
                )
            self._sizes.put(version, size, 64)
        return size

    def open(self, key: str) -> Shown:
        """The picture as it is shown. Raises ImageError for a file that holds none."""
        version = self.version(key)
        opened = self._opened.get(version)
        if opened is None:
            size, entry = self.size(key), self.get(key)
            with _named(entry):
                opened = shown(image.read(entry.path))
            if opened.image.size != size:
                raise ImageError(f"{entry.name}: expected a picture, got a file that misstates its size")
            self._opened.put(version, opened, opened.bytes)
        return opened

    def _add(self, entry: Entry) -> Entry:
        digest = hashlib.blake2b(os.fsencode(entry.path), key=self._secret, digest_size=9).hexdigest()
        stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(entry.name).stem)[:40].strip("-").lower()
        entry = entry._replace(key=f"{stem or 'picture'}-{digest}")
        with self._lock:
            self._entries[entry.key] = entry
        return entry


class _named:
    """Errors about a file say its name only: its folder is nobody's business."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, ImageError):
            raise ImageError(str(error).replace(str(self._entry.path), self._entry.name)) from None


def _inside(entry: Entry) -> bool:
    """Whether the file lies in the folder that it was found in, wherever links lead."""
    return entry.folder is None or entry.path.resolve().is_relative_to(entry.folder)
