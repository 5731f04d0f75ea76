"""`-` in place of a file: a picture from the standard input, a result to the standard output.

Both go through files in a folder that is removed again: pictures are not read in order, and what reaches the standard
output is whole or nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

PIPE = "-"
Run = Callable[[argparse.Namespace], int]


def run(names: Sequence[str], args: argparse.Namespace, inner: Run) -> int:
    """`inner`, the command for files, with files in place of the pipes; its exit code."""
    out = PIPE if args.output is None and list(names) == [PIPE] else args.output
    problem = _problem(names, out, args.format)
    if problem:
        print(f"liif-fast upscale: {problem}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="liif-fast-") as folder:
        try:
            source = _spooled(Path(folder)) if PIPE in names else None
            inputs = [str(source) if name == PIPE else name for name in names]
            result = Path(folder) / "out"
            result.mkdir()
            replaced = {"inputs": inputs, "input": [], "output": f"{result}/" if out == PIPE else out}
            # Nothing but the picture may come out.
            told = _Named(sys.stderr if out == PIPE else sys.stdout, folder)
            with contextlib.redirect_stdout(told), contextlib.redirect_stderr(_Named(sys.stderr, folder)):
                code = inner(argparse.Namespace(**{**vars(args), **replaced}))
            for path in result.glob("[!.]*") if code == 0 else ():
                _deliver(path)
            return code
        except BrokenPipeError:
            raise
        except OSError as error:
            print(f"liif-fast upscale: {PIPE}: {error.strerror or error}", file=sys.stderr)
            return 1


class _Named(io.TextIOBase):
    """A stream on which the files in a folder are called what they stand for."""

    def __init__(self, stream: TextIO, folder: str) -> None:
        self.stream, self.files = stream, re.compile(rf"{re.escape(folder)}/[^\s:\"]*")

    def write(self, text: str) -> int:
        self.stream.write(self.files.sub(PIPE, text))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()


def _problem(names: Sequence[str], out: str | None, suffix: str | None) -> str:
    """What is wrong with the use of pipes, or an empty text."""
    if names.count(PIPE) > 1:
        return f"expected {PIPE} once among the inputs, got it {names.count(PIPE)} times"
    if out == PIPE and len(names) != 1:
        return f"-o {PIPE}: expected one input, got {len(names)}"
    if out == PIPE and suffix == ".zarr":
        return f"-o {PIPE}: expected a format of one file, got a zarr, which is a folder"
    if out == PIPE and sys.stdout.isatty():
        return f"-o {PIPE}: expected a pipe or a file, got a terminal; redirect the output"
    if out is None and PIPE in names:
        return f"-o: expected a folder for the result of {PIPE} among {len(names)} inputs, got none"
    return ""


def _spooled(folder: Path) -> Path:
    """The standard input as a file, with the suffix of its format."""
    from liif_fast.image import suffix_of

    path = folder / "stdin"
    with open(path, "wb") as stream:
        shutil.copyfileobj(sys.stdin.buffer, stream)
    return path.rename(path.with_suffix(suffix_of(path)))


def _deliver(path: Path) -> None:
    try:
        with open(path, "rb") as stream:
            shutil.copyfileobj(stream, sys.stdout.buffer)
        sys.stdout.flush()
    except OSError:
        # Python would try again at exit.
        sys.stdout = None
        raise
