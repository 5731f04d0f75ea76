"""A large zarr in boxes, each an item of its own: it can be shared by machines, and resumed in its middle.

The boxes of a result are made in a folder beside it (`Manifest.store`), which gets the result's name when all of them
are there. A box counts as made when the record says so and its files are as the record says.
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
from liif_fast.batch.runner import Count, Outcome
from liif_fast.batch.streaming import TILE, part_files, staying
from liif_fast.box import Box, Part
from liif_fast.errors import LiifError
from liif_fast.image import windows
from liif_fast.rendering import tiling

SIDE = 8192  # output pixels: two cores make such a square of x2 in ten minutes


def boxes(size: tuple[int, int]) -> list[Box]:
    """A result of size (H, W) in boxes of whole chunks, SIDE x SIDE pixels at most; one where that is all it has."""
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
    """The plan with an item for each box of a large zarr; all else stays as it is.

    It follows from the settings and from what the files say of their size, so that all processes make the same plan.
    """
    return [part for item in items for part in _divided(item, settings)]


def _divided(item: Item, settings: Settings) -> list[Item]:
    if item.output.suffix.lower() != ".zarr":
        return [item]
    try:
        opened = windows.opened(item.source)
        width, height = image.stated_size(item.source, trusted=settings.force) if opened is None else opened.size
        box = tiling.target((height, width), **settings.target()).box
    except LiifError:
        # What is wrong is told when the item is made.
        return [item]
    size = box.height, box.width
    found = boxes(size)
    return [item] if len(found) == 1 else [item._replace(part=Part(box, size)) for box in found]


def together(item: Item) -> list[Item]:
    """The items of all boxes of an item's result."""
    assert item.part is not None
    return [item._replace(part=Part(box, item.part.size)) for box in boxes(item.part.size)]


class Gathering:
    """Reports a picture in boxes as one, when the last of them in a plan is through, and puts it in its place.

    items: the plan. report: called with one outcome for each picture.
    """

    def __init__(self, items: Sequence[Item], report: Callable[[Outcome], None], manifest: Manifest) -> None:
        self.report, self.manifest = report, manifest
        self.expected = Counter(item.output for item in items if item.part is not None)
        self.found: dict[Path, list[Outcome]] = {}

    def __call__(self, outcome: Outcome) -> None:
        """An item's outcome."""
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
        everything = together(first.item)
        skipped = sum(outcome.skipped for outcome in outcomes)
        joined = Outcome(
            first.item._replace(part=None),
            first.error,
            first.defect,
            size=first.size,
            skipped=skipped == len(outcomes),
            notes=tuple(dict.fromkeys(note for outcome in outcomes for note in outcome.notes)),
            backend=first.backend,
            precision=first.precision,
            seconds=sum(outcome.seconds for outcome in outcomes),
            pixels=sum(outcome.pixels for outcome in outcomes),
        )
        if joined.error is None:
            source = joined.item.source
            try:
                whole = publish(everything, self.manifest)
                joined.boxes = Count(len(outcomes) - skipped, skipped, len(everything), whole)
                if not whole and len(outcomes) == len(everything):
                    joined.error = f"{source}: has changed, or its result has, in the meantime; pass --resume to go on"
            except LiifError as error:
                joined.error = f"{source}: {error}"
            except OSError as error:
                joined.error = f"{source}: {joined.item.output} cannot be put in its place: {error.strerror}"
        return joined


def publish(items: Sequence[Item], manifest: Manifest) -> bool:
    """Give the store of a result in boxes its name if all of them are there; whether they are there under its name.

    items: those of all its boxes. Several processes may do it at once. Raises OSError.
    """
    if not all(manifest.recorded(one) for one in items):
        return False
    item, output = items[0], items[0].output
    with manifest.alone():
        source = files.digest(item.source)
        store = manifest.store(item, source)
        try:
            with staying(store):
                missing = [one for one in items if manifest.complete(one, source, store) is None]
                if not all(manifest.complete(one, source, output) for one in missing):
                    return False
                if len(missing) < len(items):
                    # Of a result that was damaged the sound boxes are still under its name.
                    _take(missing, output, store)
            if len(missing) < len(items):
                manifest.begin(item._replace(part=None))
                files.put(store, output)
        except FileNotFoundError:
            # Nothing was to be made; or another process has been quicker, where locks are not to be had.
            return output.exists()
        for stale in manifest.stores(output):
            shutil.rmtree(stale, ignore_errors=True)
    return True


def _take(items: Sequence[Item], output: Path, store: Path) -> None:
    """Complete a store by boxes of another; what writers that were killed have left in it is removed."""
    for name in (name for item in items if item.part for name in part_files(item.part.box)):
        if (output / name).is_file():
            files.take(output / name, store / name)
    for rest in store.rglob("*.partial"):
        rest.unlink(missing_ok=True)
