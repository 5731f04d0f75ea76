"""Where the results of a batch go: checked as a whole before any work starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from liif_fast.errors import ImageError, UsageError
from liif_fast.image import FORMATS, format_of


class Job(NamedTuple):
    """One picture: read from source, written to output."""

    source: Path
    output: Path


def plan(inputs: Sequence[str], out: str | None, label: str) -> list[Job]:
    """A job for each input, in order; missing output folders are made where OUT says that it is a folder.

    out: a file (for one input), a folder (existing, or ending in /, or for several inputs), or None for beside each
    input. label: what is put behind the name of the input, "x3.7".

    Raises UsageError: a suffix that cannot be written, no such folder, two results of one name, a result that would
    replace an input.
    """
    sources = [Path(name) for name in inputs]
    if out is None:
        jobs = [Job(source, source.with_name(default_name(source, label))) for source in sources]
    elif _is_folder(out, len(sources)):
        folder = _folder(Path(out))
        jobs = [Job(source, folder / default_name(source, label)) for source in sources]
    else:
        jobs = [Job(sources[0], _file(Path(out)))]
    _check_distinct(jobs)
    return jobs


def default_name(source: Path, label: str) -> str:
    """`photo_x3.7.jpg` for `photo.jpg`; .png in place of a suffix that cannot be written."""
    suffix = source.suffix if source.suffix.lower() in FORMATS else ".png"
    return f"{source.stem}_{label}{suffix}"


def _is_folder(out: str, count: int) -> bool:
    # A zarr is a folder and yet one result.
    if (Path(out).is_dir() and Path(out).suffix.lower() != ".zarr") or out.endswith(("/", os.sep)):
        return True
    if count == 1:
        return False
    if Path(out).exists() or Path(out).suffix.lower() in FORMATS:
        raise UsageError(f"-o: expected a folder for {count} inputs, got the file name {out}")
    return True


def _folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"-o: the folder {folder} cannot be made: {error.strerror}") from error
    return _writable(folder)


def _file(path: Path) -> Path:
    try:
        format_of(path)
    except ImageError as error:
        raise UsageError(f"-o: {error}; the name of a folder ends in /") from error
    if not path.parent.is_dir():
        raise UsageError(f"-o: expected an existing folder, got {path.parent}; make it first")
    _writable(path.parent)
    return path


def _writable(folder: Path) -> Path:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"-o: no permission to write into {folder}")
    return folder


def _check_distinct(jobs: Sequence[Job]) -> None:
    inputs = {os.path.realpath(job.source) for job in jobs}
    seen: dict[str, Path] = {}
    for job in jobs:
        real = os.path.realpath(job.output)
        if real in inputs:
            raise UsageError(f"-o: {job.output} is an input, which is never overwritten; choose another name")
        if real in seen:
            raise UsageError(
                f"-o: {seen[real]} and {job.source} would both be written to {job.output}; run them one by one"
            )
        seen[real] = job.source
