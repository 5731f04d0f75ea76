"""Finding the pictures that a command names by files, folders and patterns."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from liif_fast.batch.plan import MANIFEST_FOLDER
from liif_fast.errors import UsageError
from liif_fast.image import FORMATS

# By their suffix the pictures of a folder are told from the rest; a file that is named is taken whatever it is called.
SUFFIXES = frozenset(FORMATS) | {".gif", ".jfif", ".jp2", ".pgm", ".pnm", ".tga"}
_MAGIC = re.compile(r"[*?[]")


class Found(NamedTuple):
    """A picture file.

    relative: its path below the folder, or below the fixed part of the pattern, by which it was found. folder: that
    folder, None for a file that was named.
    """

    path: Path
    relative: Path
    folder: Path | None = None


def find(names: Sequence[str], recursive: bool = False, leave_out: Path | None = None) -> list[Found]:
    """Return the files that the names stand for, in order, each once.

    A folder stands for the pictures in it, with recursive also for those in its whole tree; a name with `*`, `?` or
    `[` for the files that match (`**` for any folders), unless there is a file of that very name. In a tree, hidden
    files and folders are left out, links to folders are not followed, and folders of results (leave_out, and those
    with a manifest) are skipped.

    Raises UsageError for a pattern that nothing matches, a folder that cannot be read, and when all names are folders
    without a picture (among other names such a folder stands for itself, to be reported with the failures).
    """
    found: dict[str, Found] = {}
    nothing: list[str] = []
    for name in names:
        path = Path(name)
        if path.is_dir() and not _is_zarr(name):
            own = list(_tree(path, recursive, leave_out))
            if not own:
                nothing.append(name)
                own = [Found(path, Path(path.name))]
        elif _MAGIC.search(name) and not path.exists():
            own = list(_matches(name, leave_out))
        else:
            own = [Found(path, Path(path.name))]
        for one in own:
            found.setdefault(os.path.abspath(one.path), one)
    if nothing and len(nothing) == len(found):
        advice = "" if recursive else "; -r looks into its whole tree"
        raise UsageError(f"{nothing[0]}: expected pictures, got a folder without any{advice}")
    return list(found.values())


def _tree(root: Path, recursive: bool, leave_out: Path | None) -> Iterator[Found]:
    def refuse(error: OSError) -> None:
        raise UsageError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        arrays = [name for name in folders if _is_zarr(name)]
        folders[:] = sorted(name for name in folders if _shown(name) and not _is_zarr(name)) if recursive else []
        folders[:] = [name for name in folders if not _has_results(Path(folder, name), leave_out)]
        for name in sorted(files + arrays):
            if _shown(name) and _is_picture(name):
                path = Path(folder, name)
                yield Found(path, path.relative_to(root), root)


def _matches(pattern: str, leave_out: Path | None) -> Iterator[Found]:
    parts = Path(pattern).parts
    fixed = Path(*takewhile(lambda part: not _MAGIC.search(part), parts))
    # `*.jpg` names a kind of file; `*` does not, and means the pictures.
    accepts = _shown if re.search(r"\.\w+$", pattern) else _is_picture
    paths = sorted(Path(match) for match in glob.glob(pattern, recursive=True))
    chosen = [path for path in paths if (path.is_file() or _is_zarr(path.name)) and accepts(path.name)]
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
    """Whether a folder of this name is one picture."""
    return Path(name).suffix.lower() == ".zarr"


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _has_results(folder: Path, leave_out: Path | None) -> bool:
    same = leave_out is not None and leave_out.exists() and folder.samefile(leave_out)
    return same or (folder / MANIFEST_FOLDER).exists()
