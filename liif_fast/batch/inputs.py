"""Finding the pictures that a command names by files, folders and patterns."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from liif_fast.batch.plan import MANIFEST_FOLDER
from liif_fast.errors import UsageError
from liif_fast.image import FORMATS, kinds

# Files of a folder with one of these suffixes are taken for pictures; others are if they begin like one.
SUFFIXES = {suffix for suffix, form in FORMATS.items() if not form.module} | {
    *(".apng", ".bw", ".dcx", ".dds", ".dib", ".gif", ".icns", ".ico", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe"),
    *(".jpf", ".jpx", ".mpo", ".pbm", ".pcx", ".pfm", ".pgm", ".pnm", ".psd", ".qoi", ".sgi", ".tga", ".xbm", ".xpm"),
}
# What begins like a picture and is none yet, or no more.
_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".tmp", ".bak", ".old", ".orig")
_MAGIC = re.compile(r"[*?[]")

Note = Callable[[str], None]


class Found(NamedTuple):
    """A picture file.

    relative: its path below the folder, or below the fixed part of the pattern, by which it was found. folder: that
    folder, None for a file that was named.
    """

    path: Path
    relative: Path
    folder: Path | None = None


def find(
    names: Sequence[str], recursive: bool = False, leave_out: Path | None = None, note: Note = lambda text: None
) -> list[Found]:
    """Return the files that the names stand for, in order, each once.

    A folder stands for the pictures in it, with recursive also for those in its whole tree; a name with `*`, `?` or
    `[` for the files that match (`**` for any folders), unless there is a file of that very name. In a tree, hidden
    files and folders are left out, links to folders are not followed, and folders of results (leave_out, and those
    with a manifest) are skipped. A picture is known by its suffix or by its first bytes.

    note: called with a sentence on the files of a folder that are no pictures, and on folders that cannot be read.

    Raises UsageError for an empty name, a pattern that nothing matches, a named folder that cannot be read, and when
    all names are folders without a picture (among other names such a folder stands for itself, to be reported with the
    failures).
    """
    found: dict[str, Found] = {}
    nothing: list[str] = []
    for name in names:
        if not name:
            raise UsageError("expected the name of a picture, got an empty one; is a variable unset?")
        path = Path(name)
        if os.path.isdir(path) and not _is_zarr(name):
            own = list(_tree(path, recursive, leave_out, note))
            if not own:
                nothing.append(name)
                own = [Found(path, Path(path.name))]
        elif _MAGIC.search(name) and not os.path.lexists(path):
            own = list(_matches(name, leave_out))
        else:
            own = [Found(path, Path(path.name))]
        for one in own:
            found.setdefault(os.path.abspath(one.path), one)
    if nothing and len(nothing) == len(found):
        advice = "" if recursive else "; -r looks into its whole tree"
        raise UsageError(f"{nothing[0]}: expected pictures, got a folder without any{advice}")
    return list(found.values())


def _tree(root: Path, recursive: bool, leave_out: Path | None, note: Note) -> Iterator[Found]:
    def refuse(error: OSError) -> None:
        if Path(error.filename) == root:
            raise UsageError(f"{root}: the folder cannot be read: {error.strerror}") from error
        note(f"{error.filename}: folder passed over: {error.strerror}")

    passed_over: list[Path] = []
    for folder, folders, files in os.walk(root, onerror=refuse):
        arrays = [name for name in folders if _is_zarr(name)]
        folders[:] = sorted(name for name in folders if _shown(name) and not _is_zarr(name)) if recursive else []
        folders[:] = [name for name in folders if not _has_results(Path(folder, name), leave_out)]
        for name in sorted(files + arrays):
            path = Path(folder, name)
            if _shown(name) and _is_picture(path):
                yield Found(path, path.relative_to(root), root)
            elif _shown(name):
                passed_over.append(path)
    if passed_over:
        note(f"{root}: {_listed(passed_over)}")


def _listed(passed_over: Sequence[Path]) -> str:
    """Say how many files of which suffix were passed over, and how those that an extra reads can be had."""
    counts = Counter(path.suffix.lower() or "no suffix" for path in passed_over)
    text = ", ".join(f"{suffix} {count}" for suffix, count in sorted(counts.items()))
    what = "1 file" if len(passed_over) == 1 else f"{len(passed_over)} files"
    reasons = {kind.reason for path in passed_over if (kind := kinds.kind_of_file(path)) and kind.extra}
    return "; ".join([f"{what} passed over: {text}", *sorted(reasons)])


def _matches(pattern: str, leave_out: Path | None) -> Iterator[Found]:
    parts = Path(pattern).parts
    fixed = Path(*takewhile(lambda part: not _MAGIC.search(part), parts))
    # `*.jpg` names a kind of file; `*` does not, and means the pictures.
    named_kind = re.search(r"\.\w+$", pattern) is not None
    paths = sorted(Path(match) for match in glob.glob(pattern, recursive=True))
    chosen = [path for path in paths if (os.path.isfile(path) or _is_zarr(path.name)) and _shown(path.name)]
    chosen = [path for path in chosen if named_kind or _is_picture(path)]
    chosen = [path for path in chosen if not any(_has_results(above, leave_out) for above in _below(fixed, path))]
    if not chosen:
        raise UsageError(f"{pattern}: expected a picture's name or a pattern, got one that no picture matches")
    yield from (Found(path, path.relative_to(fixed), fixed) for path in chosen)


def _below(root: Path, path: Path) -> list[Path]:
    """Return the folders between root and the file path in its tree, without root."""
    return [root / above for above in path.relative_to(root).parents[:-1]]


def _shown(name: str) -> bool:
    return not name.startswith(".")


def _is_zarr(name: str) -> bool:
    """Say whether a folder of this name is one picture."""
    return Path(name).suffix.lower() == ".zarr"


def _is_picture(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    return suffix not in _UNFINISHED and not path.name.endswith("~") and os.path.isfile(path) and kinds.is_picture(path)


def _has_results(folder: Path, leave_out: Path | None) -> bool:
    try:
        same = leave_out is not None and os.path.samefile(folder, leave_out)
    except OSError:
        same = False
    return same or os.path.exists(folder / MANIFEST_FOLDER)
