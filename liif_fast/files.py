"""Atomic writing (a reader sees the old file or the whole new one, never a part), and digests of files."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

NAME_MAX = 255  # bytes of a file's name on the usual file systems


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what is written there replaces `path` if the block ends without an error.

    The block may write a file or a folder. On any error, and on an interrupt, it is removed and `path` stays as it
    was. The temporary name keeps the suffix of `path`, for writers that choose the format by it. Several writers
    (threads, processes, machines) do not disturb each other: the last one to end wins.
    """
    target = Path(path)
    temporary = _beside(target)
    try:
        yield temporary
        replace(temporary, target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def replace(new: Path, target: Path) -> None:
    """Rename a complete file or folder that lies beside `target` to `target`, in place of what has that name.

    Raises OSError; FileNotFoundError also where another process has renamed `new` meanwhile.
    """
    if not (new.is_dir() and target.is_dir()):
        os.replace(new, target)
        return
    # A folder can replace an empty folder only, so the old one is renamed first.
    old = _beside(target)
    os.replace(target, old)
    try:
        os.replace(new, target)
    except BaseException:
        if target.exists():  # another process has been quicker
            shutil.rmtree(old)
        else:
            os.replace(old, target)
        raise
    shutil.rmtree(old)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, by a hard link or else a copy; another process may be doing the same."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(8)}.partial")
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def beside(target: Path, middle: str) -> Path:
    """Return a hidden name beside `target`, which `middle` tells apart; it keeps the suffix and fits the file system.

    middle: at most 22 characters, such as 16 hexadecimal digits and a word. A long stem is cut to make room for it.
    """
    return target.with_name(f".{short_stem(target)}.{middle}{target.suffix}")


def short_stem(target: Path) -> str:
    """Return the stem of `target`, cut where `beside` must cut it, and then with a digest of the whole stem."""
    room = NAME_MAX - 24 - len(os.fsencode(target.suffix))
    stem = os.fsencode(target.stem)
    if len(stem) <= room:
        return target.stem
    mark = hashlib.sha256(stem).hexdigest()[:8]
    cut = stem[: room - 9].decode("utf-8", "ignore")
    return f"{cut}~{mark}"


def _beside(target: Path) -> Path:
    return beside(target, f"{secrets.token_hex(8)}.part")


class Digest(NamedTuple):
    """The size of a file in bytes, and the SHA-256 of its content."""

    size: int
    sha256: str


def digest(path: str | os.PathLike[str], names: Sequence[str] | None = None) -> Digest:
    """Return the digest of a file; that of a folder covers the names and digests of all files in it. Raises OSError.

    names: the files of a folder that count; None for all of them.
    """
    path = Path(path)
    hashed, size = hashlib.sha256(), 0
    if names is not None or path.is_dir():
        found = (file for file in path.rglob("*") if file.is_file())
        for file in sorted(found if names is None else (path / name for name in names)):
            part = digest(file)
            hashed.update(f"{file.relative_to(path).as_posix()}\0{part.sha256}\n".encode())
            size += part.size
    else:
        with open(path, "rb") as stream:
            while block := stream.read(2**20):
                hashed.update(block)
                size += len(block)
    return Digest(size, hashed.hexdigest())
