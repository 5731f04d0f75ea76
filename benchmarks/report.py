"""Write the generated parts of README.md and docs/, and the figures, from the committed results.

    python -m benchmarks.report          # after `make bench-full`: brings the documents and the figures up to date
    python -m benchmarks.report --check  # exit code 1, naming them, when parts are not what the results say

A part stands in a document between `<!-- generated: NAME -->` and `<!-- end -->`. Every figure in it comes from a file
in benchmarks/results/; the tables of backends and of configuration keys come from the package.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import figures
from benchmarks.figures import Rows
from benchmarks.parts import MACHINES, PARTS, RESULTS, SHOWN, growth_rows, of, suite
from benchmarks.shapes import X4
from liif_fast.files import replacing

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PART = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
LINK = re.compile(r"\]\((?![a-z]+:|#)")


def part(name: str, document: Path) -> str:
    """A part as it has to stand in a document."""
    up = "../" * (len(document.relative_to(ROOT).parts) - 1)
    return f"{LINK.sub(f']({up}', PARTS[name]())}\n"


def drawings() -> dict[Path, tuple[Rows, Callable[[Path], None]]]:
    """Every figure: what it is drawn from, and what draws it."""
    found: dict[Path, tuple[Rows, Callable[[Path], None]]] = {}
    for machine, name in MACHINES.items():
        rows = of(suite(machine), X4.name)
        if rows and machine in SHOWN:
            title = f"{X4.size[0]} x {X4.size[1]} features to 192 x 192 pixels, {name}"
            found[RESULTS / f"decoder-{machine}.svg"] = (
                rows,
                lambda path, rows=rows, title=title: figures.decoder(rows, title, path),  # type: ignore[misc]
            )
        points = [row for row in growth_rows(machine) if row["kind"] == "growth"]
        if points:
            found[RESULTS / f"growth-{machine}.svg"] = (
                points,
                lambda path, points=points: figures.growth(points, path),  # type: ignore[misc]
            )
    return found


def stale(texts: dict[Path, str]) -> list[str]:
    """The names of parts of the documents, and of figures, that are not what the results say or that are missing."""
    matches = [(path, match) for path, text in texts.items() for match in PART.finditer(text)]
    found = [match[2] for path, match in matches if match[3] != part(match[2], path)]
    found += sorted(PARTS.keys() - {match[2] for _, match in matches})
    return found + [
        path.name for path, (rows, _) in drawings().items() if figures.drawn_from(path) != figures.digest(rows)
    ]


def read_documents() -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in DOCUMENTS}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    args = parser.parse_args(argv)
    texts = read_documents()
    wrong = stale(texts)
    if args.check:
        if wrong:
            print(f"the documents are not what the results say; run python -m benchmarks.report: {', '.join(wrong)}")
        return 1 if wrong else 0
    for path, (rows, draw) in drawings().items():
        if figures.drawn_from(path) != figures.digest(rows):
            draw(path)
    for path, text in texts.items():
        new = PART.sub(lambda match, path=path: f"{match[1]}{part(match[2], path)}{match[4]}", text)  # type: ignore[misc]
        if new != text:
            with replacing(path) as temporary:
                temporary.write_text(new, encoding="utf-8")
    print(", ".join(wrong) or "nothing had changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
