"""Datasets: the pictures of one folder, and pairs of pictures from two folders."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch.utils.data import Dataset

from liif_fast.data.pairing import check_scales, without_partner
from liif_fast.data.pictures import SUFFIXES, Picture
from liif_fast.data.samples import whole_number
from liif_fast.data.store import Entry, Store
from liif_fast.errors import ImageError, UsageError, one_line, suggestion

NAMES_SHOWN = 5  # in a message

logger = logging.getLogger(__name__)
PathLike = str | os.PathLike[str]


class Folders:
    """One or more stores of the same length, whose pictures are read together.

    A picture that cannot be read in one store is left out of all of them. skipped: the names of those that were left
    out, with the reasons.
    """

    def __init__(self, stores: Sequence[Store], repeat: int) -> None:
        self.stores = stores
        self.repeat = whole_number("repeat", repeat)
        self.skipped: list[str] = []
        self._leave_out_failures()
        # Shared by all worker processes, so that each damaged picture is reported once.
        self._reported = torch.zeros(self.count, dtype=torch.uint8).share_memory_()

    @property
    def count(self) -> int:
        """The number of different pictures (or pairs)."""
        return len(self.entries)

    @property
    def entries(self) -> list[Entry]:
        """The picture files (the low-resolution ones of pairs)."""
        return self.stores[0].entries

    def __len__(self) -> int:
        return self.count * self.repeat

    def leave_out_unreadable(self) -> None:
        """Decodes the pictures that have not been decoded yet, and leaves out those that cannot be."""
        for store in self.stores:
            store.decode_all()
        self._leave_out_failures()

    def read(self, index: int) -> list[Picture]:
        """Reads one picture of each store; the next one stands in for a picture that turns out to be damaged."""
        for number in range(index % self.count, index % self.count + self.count):
            try:
                return [store.read(number % self.count) for store in self.stores]
            except ImageError as error:
                self._report(number % self.count, error)
        raise ImageError(f"{self.entries[0].path.parent}: none of the pictures can be read any more")

    def _report(self, number: int, error: ImageError) -> None:
        if not self._reported[number]:
            self._reported[number] = 1
            logger.warning("skipped, the next picture stands in for it: %s", error)

    def _leave_out_failures(self) -> None:
        reasons = [
            (number, f"{store.entries[number].path.name} ({reason})")
            for store in self.stores
            for number, reason in store.failures.items()
        ]
        if not reasons:
            return
        failed = {number for number, _ in reasons}
        skipped = [name for _, name in sorted(reasons)]
        total = self.count
        if len(failed) == total:
            folder = self.entries[0].path.parent
            raise UsageError(f"{folder}: expected pictures, none of the {total} can be read: {shown(skipped)}")
        kept = [number for number in range(total) if number not in failed]
        for store in self.stores:
            store.keep(kept)
        logger.warning("%d of %d pictures skipped: %s", len(failed), total, shown(skipped))
        self.skipped += skipped


class ImageFolder(Folders, Dataset[Picture]):
    """Pictures of one folder, sorted by name; item i is ``[H, W, channels]`` uint8.

    Pictures that cannot be read are left out and named in one warning.

    Args:
        root_path: the folder.
        split_file: a JSON file {key: [names]} that chooses pictures of the folder.
        split_key: the key in that file.
        first_k: only the first k names.
        repeat: how often an epoch sees each picture.
        cache: `none` decodes at each access, `in_memory` once, `bin` once into uncompressed files beside the folder
            (`_bin_<folder>/`), which all processes map.
        shrink: every picture is listed once for each of these factors, reduced that many times, which gives soft
            photographs more detail. The published code has no such key.
        channels: 3 for RGB, as published; 1 for gray, 2 and 4 with alpha, any number from `.npy` files.

    Raises:
        UsageError: no picture is left, or an argument is out of range.
    """

    paired: ClassVar[bool] = False

    def __init__(
        self,
        root_path: PathLike,
        split_file: PathLike | None = None,
        split_key: str | None = None,
        first_k: int | None = None,
        repeat: int = 1,
        cache: str = "none",
        shrink: Sequence[int] = (1,),
        channels: int = 3,
    ) -> None:
        super().__init__([open_folder(root_path, split_file, split_key, first_k, cache, shrink, channels)], repeat)

    def __getitem__(self, index: int) -> Picture:
        return self.read(index)[0]


class PairedImageFolders(Folders, Dataset[tuple[Picture, Picture]]):
    """Low-resolution pictures and their originals in two folders, paired in the order of their names.

    Item i is the two as ``[h, w, channels]`` and ``[H, W, channels]`` uint8. The arguments after the folders are those
    of `ImageFolder` and hold for both.

    Args:
        root_path_1: the folder of the low-resolution pictures.
        root_path_2: the folder of the originals.
        split_file: as for `ImageFolder`.
        split_key: as for `ImageFolder`.
        first_k: as for `ImageFolder`.
        repeat: as for `ImageFolder`.
        cache: as for `ImageFolder`.
        channels: as for `ImageFolder`.

    Raises:
        UsageError: unequal counts, or sizes that are not those of a pair; the message names the files.
    """

    paired: ClassVar[bool] = True

    def __init__(
        self,
        root_path_1: PathLike,
        root_path_2: PathLike,
        split_file: PathLike | None = None,
        split_key: str | None = None,
        first_k: int | None = None,
        repeat: int = 1,
        cache: str = "none",
        channels: int = 3,
    ) -> None:
        chosen = (split_file, split_key, first_k, cache, (1,), channels)
        low, high = (open_folder(root, *chosen) for root in (root_path_1, root_path_2))
        if len(low) != len(high):
            alone = without_partner(*([entry.path for entry in store.entries] for store in (low, high)))
            raise UsageError(
                f"paired-image-folders: expected as many pictures in both, got {len(low)} in {root_path_1} and "
                f"{len(high)} in {root_path_2}; without a partner: {shown(map(str, alone))}"
            )
        super().__init__([low, high], repeat)
        check_scales([(low.entries[n].path, low.size(n), high.entries[n].path, high.size(n)) for n in range(len(low))])

    def __getitem__(self, index: int) -> tuple[Picture, Picture]:
        low, high = self.read(index)
        return low, high


def open_folder(
    root_path: PathLike,
    split_file: PathLike | None,
    split_key: str | None,
    first_k: int | None,
    cache: str,
    shrink: Sequence[int],
    channels: int,
) -> Store:
    """Opens the pictures of a folder; the arguments are those of `ImageFolder`."""
    for name, value in (("first_k", first_k), ("channels", channels), *(("shrink", factor) for factor in shrink)):
        if value is not None:
            whole_number(name, value)
    root = Path(root_path).expanduser()
    names = (_listed(root) if split_file is None else _split(Path(split_file), split_key))[:first_k]
    if not names or not shrink:
        raise UsageError(f"{root}: expected a folder with pictures ({', '.join(sorted(SUFFIXES))}), found none")
    entries = [Entry(root / name, factor) for factor in shrink for name in names]
    return Store(entries, channels, cache, root.parent / f"_bin_{root.name}")


def shown(names: Iterable[str]) -> str:
    """The first few of the names, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:NAMES_SHOWN]) + (
        f", ... ({len(listed) - NAMES_SHOWN} more)" if len(listed) > NAMES_SHOWN else ""
    )


def _listed(root: Path) -> list[str]:
    if not root.is_dir():
        raise UsageError(f"{root}: expected a folder with pictures, it is not a folder")
    return sorted(entry.name for entry in root.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file())


def _split(path: Path, key: str | None) -> list[str]:
    try:
        content = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"split_file {path}: expected a JSON file {{key: [names]}}, {one_line(error)}") from error
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        known = list(content) if isinstance(content, dict) else []
        raise UsageError(
            f"split_key: expected one of the lists in {path} ({', '.join(known)}), got {key!r}"
            f"{suggestion(str(key), known)}"
        )
    return [str(name) for name in content[key]]
