"""Writing files, where a reader sees the old file or the whole new one, never a part; and telling files apart."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path`; what is written there takes the place of `path` if the block ends well.

    On any error, and on an interrupt, the temporary file is removed and `path` left as it was. The suffix of `path`
    is kept, for writers that choose the format by it. Several writers, threads or machines, do not meet: the last one
    to end stays.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(8)}.part{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


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
