"""What `liif-fast upscale` prints: a line or a JSON object for each picture, progress, and the failures at the end."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from liif_fast.batch.plan import Item
    from liif_fast.batch.runner import Outcome

COMMAND = "liif-fast upscale"


class Reporter:
    """Prints outcomes as they come, and lists at the end those that failed.

    out: the stream of the results' lines. label: the name under which a file is shown.
    """

    def __init__(
        self, quiet: bool, as_json: bool, out: TextIO | None = None, label: Callable[[Path], str] = str
    ) -> None:
        self.quiet, self.as_json, self.label = quiet, as_json, label
        self.failures: list[str] = []
        self.count = 0
        # The stream of this moment: what libraries print later may be redirected.
        self.out: TextIO | None = out or sys.stdout

    def watch(self, item: Item) -> Bar:
        """Return the progress bar of one picture, or of one of its boxes."""
        name = Path(self.label(item.source)).name
        return Bar(name if item.part is None else f"{name} {item.number}/{item.of}", self.quiet)

    def __call__(self, outcome: Outcome) -> None:
        from tqdm import tqdm

        # While another picture's bar is on the terminal, it makes room for these lines.
        with tqdm.external_write_mode():
            self._print(outcome)

    def note(self, text: str) -> None:
        """Print a line on the standard error, unless the command is to be quiet."""
        if not self.quiet:
            print(text, file=sys.stderr)

    def refuse(self, error: Exception) -> None:
        """Print why nothing is done."""
        print(f"{COMMAND}: {error}", file=sys.stderr)

    def end(self) -> int:
        """List what failed; return the exit code."""
        if self.failures and self.count > 1:
            print(f"{COMMAND}: {len(self.failures)} of {self.count} failed:", file=sys.stderr)
        for message in self.failures:
            print(f"{COMMAND}: {message}", file=sys.stderr)
        return 1 if self.failures else 0

    def _print(self, outcome: Outcome) -> None:
        self.count += 1
        source, output = outcome.item.source, outcome.output or outcome.item.output
        names = {str(path): self.label(path) for path in (source, outcome.item.output, output)}

        def shown(text: str) -> str:
            for path, name in names.items():
                text = text.replace(path, name)
            return text

        notes = [shown(text) for text in outcome.notes]
        error = None if outcome.error is None else shown(outcome.error)
        if error is not None:
            self.failures.append(error)
        for text in notes:
            self.note(f"{names[str(source)]}: {text}")
        if outcome.defect:
            print(outcome.defect, end="", file=sys.stderr)
        where = names[str(source)], names[str(output)]
        if self.as_json:
            self._say(json.dumps(_fields(outcome, *where, notes, error)))
        elif outcome.size is not None and not self.quiet:
            self._say(_line(outcome, *where))

    def _say(self, text: str) -> None:
        """Print a line; where the disk behind the standard output is full, that is a failure and the work goes on."""
        if self.out is None:
            return
        try:
            print(text, file=self.out, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            self.failures.append(f"the standard output cannot be written: {error.strerror or error}")
            if self.out is sys.stdout:
                # Python would try again at exit.
                sys.stdout = None
            self.out = None


def _line(outcome: Outcome, source: str, output: str) -> str:
    assert outcome.size is not None
    where = f"{source} -> {output}"
    count = outcome.boxes
    missing = "" if count is None or count.whole else "; the others are still to be made"
    if outcome.skipped:
        what = "" if count is None or count.whole else f"{count.skipped} of {count.total} boxes "
        return f"{where} ({what}complete already{missing})"
    width, height = outcome.size
    boxes = "" if count is None else f"{count.made} of {count.total} boxes, "
    rate = _megapixels(outcome.pixels / 1e6 / outcome.seconds)
    return f"{where} ({width} x {height}, {boxes}{outcome.seconds:.1f} s, {rate}/s{missing})"


def _megapixels(count: float) -> str:
    """Return a number of megapixels with two digits behind the point, or of a small one the first two that count."""
    digits = 2 if count >= 0.1 else 1 - math.floor(math.log10(count))
    return f"{count:.{digits}f} MP"


def _fields(outcome: Outcome, source: str, output: str, notes: list[str], error: str | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"input": source, "output": output}
    if outcome.size is not None:
        fields["width"], fields["height"] = outcome.size
    if outcome.size is not None and not outcome.skipped:
        fields |= {"backend": outcome.backend, "precision": outcome.precision}
        fields |= {"arithmetic": outcome.arithmetic} if outcome.arithmetic else {}
        fields["seconds"] = round(outcome.seconds, 3)
        fields["megapixels_per_second"] = float(f"{outcome.pixels / 1e6 / outcome.seconds:.4g}")
    if outcome.boxes is not None:
        made, skipped, total, whole = outcome.boxes
        fields["boxes"] = {"made": made, "skipped": skipped, "all": total, "whole": whole}
    return fields | {"skipped": outcome.skipped, "notes": notes, "ok": error is None, "error": error}


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
