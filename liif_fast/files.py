"""Writing files, where a reader sees the old file or the whole new one, never a part; and telling files apart."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
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
        if temporary.is_dir() and target.is_dir():
            # A folder takes the place of an empty one only, so the old one steps aside first.
            old = _beside(target)
            os.replace(target, old)
            try:
                os.replace(temporary, target)
            except BaseException:
                os.replace(old, target)
                raise
            shutil.rmtree(old)
        else:
            os.replace(temporary, target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.stem}.{secrets.token_hex(8)}.part{target.suffix}")


class Digest(NamedTuple):
    """What a file holds: its size in bytes, and the SHA-256 of that."""

    size: int
    sha256: str


def digest(path: str | os.PathLike[str]) -> Digest:
    """The digest of a file; of a folder, that of the names and digests of all files in it. Raises OSError."""
    path = Path(path)
    hashed, size = hashlib.sha256(), 0
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            part = digest(file)
            hashed.update(f"{file.relative_to(path).as_posix()}\0{part.sha256}\n".encode())
            size += part.size
    else:
        with open(path, "rb") as stream:
            while block := stream.read(2**20):
                hashed.update(block)
                size += len(block)
    return Digest(size, hashed.hexdigest())
