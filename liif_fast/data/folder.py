"""Pictures of a folder as 8-bit RGB arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from liif_fast.errors import ImageError, UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
CACHES = ("none", "bin", "in_memory")


def read_rgb(path: Path, shrink: int = 1) -> NDArray[np.uint8]:
    """The picture as [H, W, 3] uint8, reduced `shrink` times by Pillow's bicubic filter (antialiased)."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except OSError as error:
        raise ImageError(f"{path}: expected a readable picture, {error}") from error
    if shrink != 1:
        size = (max(1, picture.width // shrink), max(1, picture.height // shrink))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return np.array(picture)


class ImageFolder(Dataset[NDArray[np.uint8]]):
    """Pictures of one folder, sorted by name; item i is [H, W, 3] uint8.

    root_path: the folder. split_file, split_key: a JSON file {key: [names]} to choose from it.
    first_k: only the first k names. repeat: how often an epoch sees each picture.
    cache: `none` decodes at each access, `in_memory` once, `bin` once into uncompressed files beside the
        folder (`_bin_<folder>/`), which are then memory-mapped.
    shrink: every picture is listed once per factor, reduced that many times (soft photographs gain detail
        by it); not in the published code.
    Raises UsageError when the folder has no picture or an argument is out of range.
    """

    def __init__(
        self,
        root_path: str | os.PathLike[str],
        split_file: str | None = None,
        split_key: str | None = None,
        first_k: int | None = None,
        repeat: int = 1,
        cache: str = "none",
        shrink: Sequence[int] = (1,),
    ) -> None:
        self.root = Path(root_path).expanduser()
        if cache not in CACHES:
            raise UsageError(f"image-folder cache: expected one of {', '.join(CACHES)}, got {cache!r}")
        if repeat < 1 or not shrink or min(shrink) < 1:
            raise UsageError(f"image-folder: expected repeat and shrink of 1 or more, got {repeat} and {shrink}")
        self.repeat = repeat
        self.cache = cache
        names = self._names(split_file, split_key)[:first_k]
        if not names:
            raise UsageError(f"{self.root}: expected a folder with pictures, found none")
        self.entries = [(self.root / name, factor) for factor in shrink for name in names]
        self._pictures = [read_rgb(*entry) for entry in self.entries] if cache == "in_memory" else []

    def _names(self, split_file: str | None, split_key: str | None) -> list[str]:
        if split_file is not None:
            with open(split_file, encoding="utf-8") as file:
                return list(json.load(file)[split_key])
        if not self.root.is_dir():
            raise UsageError(f"{self.root}: expected a folder with pictures, it is not a folder")
        return sorted(entry.name for entry in self.root.iterdir() if entry.suffix.lower() in SUFFIXES)

    def __len__(self) -> int:
        return len(self.entries) * self.repeat

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        which = index % len(self.entries)
        if self._pictures:
            return self._pictures[which]
        if self.cache == "bin":
            return self._mapped(*self.entries[which])
        return read_rgb(*self.entries[which])

    def _mapped(self, path: Path, shrink: int) -> NDArray[np.uint8]:
        folder = self.root.parent / f"_bin_{self.root.name}"
        target = folder / f"{path.name}.{shrink}.npy"
        if not target.exists():
            folder.mkdir(exist_ok=True)
            part = target.with_suffix(f".{os.getpid()}.part")
            with open(part, "wb") as file:
                np.save(file, read_rgb(path, shrink))
            os.replace(part, target)
        mapped: NDArray[np.uint8] = np.load(target, mmap_mode="r")
        return mapped
