"""Where the results of a batch go; the whole plan is checked before any work starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from liif_fast.batch.inputs import Found, Note, find
from liif_fast.batch.plan import Item
from liif_fast.errors import ImageError, UsageError
from liif_fast.files import NAME_MAX
from liif_fast.image import FORMATS, format_of, suffix_of


def plan(
    inputs: Sequence[str],
    out: str | None,
    label: str,
    recursive: bool = False,
    suffix: str | None = None,
    note: Note = lambda text: None,
) -> tuple[list[Item], Path | None]:
    """Return an item for each picture of the inputs, in order, and OUT where it is a folder (made if it is missing).

    inputs, recursive: as in `liif_fast.batch.inputs.find`. out: a file (for one picture), a folder (existing, or
    ending in /, or for several pictures or a folder of them), or None to write beside each input. Pictures found in a
    folder keep their place below OUT. label: what follows the name of the input, such as "x3.7". suffix: that of the
    names made here, None for that of the input. note: as in `find`.

    Raises UsageError: nothing found, a suffix that cannot be written, no such folder, two results of one name, or a
    result that would replace an input.
    """
    if out == "":
        raise UsageError("-o: expected a name, got an empty one; is a variable unset?")
    target = None if out is None else Path(out)
    found = find(inputs, recursive, leave_out=target, note=note)
    _check_apart(found, target)
    folder = None
    if target is None:
        items = [Item(one.path, one.path.with_name(default_name(one.path, label, suffix))) for one in found]
    elif _is_folder(str(out), found):
        folder = _folder(target)
        items = [
            Item(one.path, folder / one.relative.with_name(default_name(one.path, label, suffix))) for one in found
        ]
    elif suffix is not None and format_of(target) != format_of(f"x{suffix}"):
        raise UsageError(f"--format: expected the format of {out}, got {suffix}; leave one of them out")
    else:
        items = [Item(found[0].path, _file(target))]
    _check_distinct(items)
    return items, folder


def default_name(source: Path, label: str, suffix: str | None = None) -> str:
    """Return `photo_x3.7.jpg` for `photo.jpg`, or with the suffix given.

    Where that of the source is not one of a format that can be written, the file's content decides.
    """
    if suffix is None:
        own = source.suffix.lower()
        suffix = source.suffix if own in FORMATS and own != ".gif" else suffix_of(source)
    return f"{source.stem}_{label}{suffix}"


def _check_apart(found: Sequence[Found], target: Path | None) -> None:
    for one in found:
        if one.folder is not None and target is None:
            raise UsageError(f"-o: expected a folder for the results of what {one.folder} holds, got none")
        if one.folder is not None and target is not None and _is_same(target, one.folder):
            raise UsageError(
                f"-o: expected another folder than {one.folder}: the next run would take results for pictures"
            )


def _is_folder(out: str, found: Sequence[Found]) -> bool:
    # A zarr is a folder and yet one result.
    if (os.path.isdir(out) and Path(out).suffix.lower() != ".zarr") or out.endswith(("/", os.sep)):
        return True
    if len(found) == 1 and found[0].folder is None:
        return False
    if os.path.exists(out) or Path(out).suffix.lower() in FORMATS:
        raise UsageError(f"-o: expected a folder for {_count(found)}, got the file name {out}")
    return True


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _count(found: Sequence[Found]) -> str:
    return f"{len(found)} inputs" if len(found) > 1 else f"what {found[0].folder} holds"


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
    if len(os.fsencode(path.name)) > NAME_MAX:
        raise UsageError(f"-o: expected a name of at most {NAME_MAX} bytes, got {len(os.fsencode(path.name))}")
    if not os.path.isdir(path.parent):
        raise UsageError(f"-o: expected an existing folder, got {path.parent}; make it first")
    _writable(path.parent)
    return path


def _writable(folder: Path) -> Path:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"-o: no permission to write into {folder}")
    return folder


def _check_distinct(items: Sequence[Item]) -> None:
    inputs = {os.path.realpath(item.source) for item in items}
    seen: dict[str, Path] = {}
    for item in items:
        real = os.path.realpath(item.output)
        if real in inputs:
            raise UsageError(f"-o: {item.output} is an input, which is never overwritten; choose another name")
        if real in seen:
            raise UsageError(
                f"-o: {seen[real]} and {item.source} would both be written to {item.output}; give them "
                "different folders or names"
            )
        seen[real] = item.source
