"""Large zarr results are split into boxes, each an item: machines can share one result, and a run can resume in it.

The boxes of a result are made in a folder beside it (`Manifest.store`), which is renamed to the result when all boxes
are there. A box counts as made when the manifest has an entry of it and its files have the digest of that entry.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from liif_fast import files, image
from liif_fast.batch.conversion import Settings
from liif_fast.batch.manifest import Manifest
from liif_fast.batch.plan import Item
from liif_fast.batch.runner import BoxCount, Outcome
from liif_fast.batch.streaming import TILE, ensure_same_folder, part_files
from liif_fast.box import Box, Region
from liif_fast.errors import LiifError
from liif_fast.image import windows
from liif_fast.rendering import tiling

SIDE = 8192  # output pixels: two cores make such a square of x2 in ten minutes


def boxes(size: tuple[int, int]) -> list[Box]:
    """Split a result of size (H, W) into boxes of whole chunks, at most SIDE x SIDE pixels each."""
    if size[0] * size[1] <= SIDE**2:
        return [Box(0, 0, *size)]
    height, width = size
    chunks = Box(0, 0, -(-height // TILE), -(-width // TILE))
    found = []
    for box in tiling.tiles(chunks, SIDE // TILE, SIDE // TILE):
        top, left = box.top * TILE, box.left * TILE
        found.append(Box(top, left, min(box.bottom * TILE, height) - top, min(box.right * TILE, width) - left))
    return found


def divide(items: Sequence[Item], settings: Settings) -> list[Item]:
    """Return the plan with an item for each box of a large zarr; all other items stay as they are.

    The boxes depend on the settings and on the sizes that the files state only, so all processes make the same plan.
    """
    return [part for item in items for part in _split(item, settings)]


def _split(item: Item, settings: Settings) -> list[Item]:
    if item.output.suffix.lower() != ".zarr":
        return [item]
    try:
        opened = windows.open_lazily(item.source)
        stated = image.stated_size(item.source, trusted=settings.force) if opened is None else opened.size
        box = settings.region(stated).box
    except LiifError:
        # The error is reported when the item is made.
        return [item]
    size = box.height, box.width
    whole = item._replace(part=Region(size, Box(0, 0, *size)))
    parts = all_boxes(whole)
    return [item] if len(parts) == 1 else parts


def all_boxes(item: Item) -> list[Item]:
    """Return the items of all boxes of the result that the item is a part of."""
    assert item.part is not None
    size = item.part.size
    found = boxes(size)
    return [item._replace(part=Region(size, box), number=number, of=len(found)) for number, box in enumerate(found, 1)]


class Gathering:
    """Joins the outcomes of a picture's boxes into one, when the last of them has come, and publishes the result.

    items: the plan. report: called with one outcome for each picture.
    """

    def __init__(self, items: Sequence[Item], report: Callable[[Outcome], None], manifest: Manifest) -> None:
        self.report, self.manifest = report, manifest
        self.expected = Counter(item.output for item in items if item.part is not None)
        self.found: dict[Path, list[Outcome]] = {}

    def __call__(self, outcome: Outcome) -> None:
        """Take the outcome of one item."""
        if outcome.item.part is None:
            self.report(outcome)
            return
        output = outcome.item.output
        found = self.found.setdefault(output, [])
        found.append(outcome)
        if len(found) == self.expected[output]:
            self.report(self._joined(self.found.pop(output)))

    def _joined(self, outcomes: Sequence[Outcome]) -> Outcome:
        first = next((outcome for outcome in outcomes if outcome.error is not None), outcomes[0])
        everything = all_boxes(first.item)
        skipped = sum(outcome.skipped for outcome in outcomes)
        joined = Outcome(
            first.item._replace(part=None, number=1, of=1),
            first.error,
            first.defect,
            size=first.size,
            skipped=skipped == len(outcomes),
            notes=tuple(dict.fromkeys(note for outcome in outcomes for note in outcome.notes)),
            backend=first.backend,
            precision=first.precision,
            arithmetic=first.arithmetic,
            seconds=sum(outcome.seconds for outcome in outcomes),
            pixels=sum(outcome.pixels for outcome in outcomes),
        )
        if joined.error is None:
            source = joined.item.source
            try:
                whole = publish(everything, self.manifest)
                joined.boxes = BoxCount(len(outcomes) - skipped, skipped, len(everything), whole)
                if not whole and len(outcomes) == len(everything):
                    joined.error = f"{source}: the file, or its result, has changed meanwhile; pass --resume to go on"
            except LiifError as error:
                joined.error = f"{source}: {error}"
            except OSError as error:
                joined.error = f"{source}: {joined.item.output} cannot be renamed to its final name: {error.strerror}"
        return joined


def publish(items: Sequence[Item], manifest: Manifest) -> bool:
    """Rename the store of a result in boxes to the result if all boxes are there; say whether the result is complete.

    items: those of all its boxes. Several processes may call this at once. Raises OSError.
    """
    if not all(manifest.has_entry(one) for one in items):
        return False
    item, output = items[0], items[0].output
    with manifest.exclusive():
        source = files.digest(item.source)
        store = manifest.store(item, source)
        try:
            with ensure_same_folder(store):
                missing = [one for one in items if manifest.complete(one, source, store) is None]
                if not all(manifest.complete(one, source, output) for one in missing):
                    return False
                if len(missing) < len(items):
                    # The sound boxes of a result that was damaged are still in the result itself.
                    _complete_store(missing, output, store)
            if len(missing) < len(items):
                manifest.begin(item._replace(part=None))
                files.replace(store, output)
        except FileNotFoundError:
            # There was nothing to make, or another process was quicker on a file system without locks.
            return output.exists()
        for stale in manifest.stores(output):
            shutil.rmtree(stale, ignore_errors=True)
    return True


def _complete_store(items: Sequence[Item], output: Path, store: Path) -> None:
    """Complete a store by the items' boxes from `output`; remove what killed writers left in it."""
    for name in (name for item in items if item.part for name in part_files(item.part.box)):
        if (output / name).is_file():
            files.link_or_copy(output / name, store / name)
    for rest in store.rglob("*.partial"):
        rest.unlink(missing_ok=True)
