"""Writing files: a reader sees the old file or the whole new one, never a part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
