"""`-` in place of a file: a picture from the standard input, a result to the standard output.

Both pass through files in a temporary folder, because decoders read pictures in any order and the standard output must
get a complete picture or nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from liif_fast.cli.reporting import COMMAND, Reporter

PIPE = "-"
Run = Callable[[argparse.Namespace, Sequence[str], Reporter], int]


def run(names: Sequence[str], args: argparse.Namespace, run_files: Run) -> int:
    """Call `run_files`, the command for files, with files in place of the pipes; return its exit code."""
    out = PIPE if args.output is None and list(names) == [PIPE] else args.output
    problem = _problem(names, out, args.format)
    if problem:
        print(f"{COMMAND}: {problem}", file=sys.stderr)
        return 2
    try:
        folder = Path(tempfile.mkdtemp(prefix="liif-fast-"))
    except OSError:
        print(
            f"{COMMAND}: {PIPE}: expected a temporary folder that can be written to, got none; set TMPDIR to one",
            file=sys.stderr,
        )
        return 1
    try:
        return _run(folder, names, out, args, run_files)
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"{COMMAND}: {PIPE}: {error.strerror or error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, names: Sequence[str], out: str | None, args: argparse.Namespace, run_files: Run) -> int:
    source = _spooled(folder) if PIPE in names else None
    result = folder / "out"
    result.mkdir()
    files = [str(source) if name == PIPE else name for name in names]
    replaced = argparse.Namespace(**{**vars(args), "output": f"{result}/" if out == PIPE else out})
    report = Reporter(
        args.quiet,
        args.json,
        sys.stderr if out == PIPE else sys.stdout,
        lambda path: PIPE if folder in path.parents else str(path),
    )
    # Whatever libraries print, the standard output gets nothing but the picture.
    with contextlib.redirect_stdout(sys.stderr) if out == PIPE else contextlib.nullcontext():
        code = run_files(replaced, files, report)
    for path in result.glob("[!.]*") if code == 0 else ():
        _deliver(path)
    return code


def _problem(names: Sequence[str], out: str | None, suffix: str | None) -> str:
    """Return what is wrong with this use of pipes, or an empty text."""
    if names.count(PIPE) > 1:
        return f"expected {PIPE} once among the inputs, got it {names.count(PIPE)} times"
    if PIPE in names and sys.stdin is None:
        return f"{PIPE}: expected a picture on the standard input, which is closed"
    if out == PIPE and len(names) != 1:
        return f"-o {PIPE}: expected one input, got {len(names)}"
    if out == PIPE and suffix == ".zarr":
        return f"-o {PIPE}: expected a format of one file, got a zarr, which is a folder"
    if out == PIPE and sys.stdout is None:
        return f"-o {PIPE}: expected a pipe or a file as standard output, which is closed"
    if out == PIPE and sys.stdout.isatty():
        return f"-o {PIPE}: expected a pipe or a file, got a terminal; redirect the output"
    if out is None and PIPE in names:
        return f"-o: expected a folder for the result of {PIPE} among {len(names)} inputs, got none"
    return ""


def _spooled(folder: Path) -> Path:
    """Copy the standard input into a file with the suffix of its format."""
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
