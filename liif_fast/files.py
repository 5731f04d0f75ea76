"""Writing files, where a reader sees the old file or the whole new one, never a part; and telling files apart."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path`; what is written there takes the place of `path` if the block ends well.

    What is written may be a file or a folder. On any error, and on an interrupt, it is removed and `path` left as it
    was. The suffix of `path` is kept, for writers that choose the format by it. Several writers, threads or machines,
    do not meet: the last one to end stays.
    """
    target = Path(path)
    temporary = _beside(target)
    try:
        yield temporary
        put(temporary, target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def put(made: Path, target: Path) -> None:
    """Give a whole file or folder, beside `target`, that name in place of what has it.

    Raises OSError; FileNotFoundError also where another process has given `made` its name meanwhile.
    """
    if not (made.is_dir() and target.is_dir()):
        os.replace(made, target)
        return
    # A folder takes the place of an empty one only, so the old one steps aside first.
    old = _beside(target)
    os.replace(target, old)
    try:
        os.replace(made, target)
    except BaseException:
        if target.exists():  # another process has been quicker
            shutil.rmtree(old)
        else:
            os.replace(old, target)
        raise
    shutil.rmtree(old)


def take(source: Path, target: Path) -> None:
    """Have a file under a second name too, where another process may be doing the same; a copy if need be."""
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


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.stem}.{secrets.token_hex(8)}.part{target.suffix}")


class Digest(NamedTuple):
    """What a file holds: its size in bytes, and the SHA-256 of that."""

    size: int
    sha256: str


def digest(path: str | os.PathLike[str], names: Sequence[str] | None = None) -> Digest:
    """The digest of a file; of a folder, that of the names and digests of all files in it. Raises OSError.

    names: only these files of a folder.
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
