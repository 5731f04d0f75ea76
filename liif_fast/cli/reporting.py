"""What `liif-fast upscale` prints: a line or a JSON object for each picture, progress, the failures last."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from liif_fast.batch.plan import Item
    from liif_fast.batch.runner import Outcome


class Reporter:
    """Prints outcomes as they come, and at the end those that failed."""

    def __init__(self, quiet: bool, as_json: bool) -> None:
        self.quiet, self.as_json = quiet, as_json
        self.failures: list[str] = []
        self.count = 0
        # That of now: what libraries print later may be led elsewhere.
        self.out = sys.stdout

    def watch(self, item: Item) -> Bar:
        """The progress of one picture, or of one of its boxes."""
        name = item.source.name
        if item.part is not None:
            from liif_fast.batch.boxes import boxes

            found = boxes(item.part.size)
            name += f" {found.index(item.part.box) + 1}/{len(found)}"
        return Bar(name, self.quiet)

    def __call__(self, outcome: Outcome) -> None:
        from tqdm import tqdm

        # While another picture's bar is on the terminal, it makes room for these lines.
        with tqdm.external_write_mode():
            self._print(outcome)

    def _print(self, outcome: Outcome) -> None:
        self.count += 1
        if outcome.error is not None:
            self.failures.append(outcome.error)
        if not self.quiet:
            for text in outcome.notes:
                print(f"{outcome.item.source}: {text}", file=sys.stderr)
        if outcome.defect:
            print(outcome.defect, end="", file=sys.stderr)
        if self.as_json:
            print(json.dumps(_record(outcome)), file=self.out, flush=True)
        elif outcome.size is not None and not self.quiet:
            print(_line(outcome), file=self.out, flush=True)

    def end(self) -> int:
        """List what failed; the exit code."""
        if self.failures and self.count > 1:
            print(f"liif-fast upscale: {len(self.failures)} of {self.count} failed:", file=sys.stderr)
        for message in self.failures:
            print(f"liif-fast upscale: {message}", file=sys.stderr)
        return 1 if self.failures else 0


def _line(outcome: Outcome) -> str:
    assert outcome.size is not None
    where = f"{outcome.item.source} -> {outcome.output or outcome.item.output}"
    count = outcome.boxes
    missing = "" if count is None or count.whole else "; the others are still to be made"
    if outcome.skipped:
        what = "" if count is None or count.whole else f"{count.skipped} of {count.all} boxes "
        return f"{where} ({what}complete already{missing})"
    width, height = outcome.size
    boxes = "" if count is None else f"{count.made} of {count.all} boxes, "
    rate = outcome.pixels / 1e6 / outcome.seconds
    return f"{where} ({width} x {height}, {boxes}{outcome.seconds:.1f} s, {rate:.2f} MP/s{missing})"


def _record(outcome: Outcome) -> dict[str, Any]:
    record: dict[str, Any] = {"input": str(outcome.item.source), "output": str(outcome.output or outcome.item.output)}
    if outcome.size is not None:
        record["width"], record["height"] = outcome.size
    if outcome.size is not None and not outcome.skipped:
        record |= {"backend": outcome.backend, "precision": outcome.precision, "seconds": round(outcome.seconds, 3)}
        record["megapixels_per_second"] = round(outcome.pixels / 1e6 / outcome.seconds, 4)
    if outcome.boxes is not None:
        record["boxes"] = outcome.boxes._asdict()
    return record | {"skipped": outcome.skipped, "ok": outcome.error is None, "error": outcome.error}


class Bar:
    """Progress in megapixels on the standard error, where that is a terminal."""

    def __init__(self, name: str, quiet: bool) -> None:
        self.name, self.quiet = name, quiet
        self.bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(
                total=round(total / 1e6, 2),
                desc=self.name,
                unit="MP",
                file=sys.stderr,
                disable=True if self.quiet else None,
                bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.2f}/{total:.2f} MP, {rate_noinv_fmt}, {remaining}",
                leave=False,
            )
        self.bar.update(done / 1e6 - self.bar.n)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
