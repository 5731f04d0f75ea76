"""Imports between the rooms of the package go down only, in the order of the table in docs/design.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from support.paths import ROOT

OUTSIDE = ("__init__", "__main__", "__version__")


def ranks() -> dict[str, int]:
    """Each room and module of the top level, with its row in the table, from the ground up."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text.partition("## Rooms")[2].partition("\n## ")[0], re.MULTILINE)
    found = [(name, number) for number, row in enumerate(rows) for name in re.findall(r"`([^`]+)`", row)]
    return {name.removesuffix("/").removesuffix(".py"): number for name, number in found}


def imported(file: Path) -> set[str]:
    """The rooms that a file imports, in functions too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("liif_fast.")} - set(OUTSIDE)


def test_every_room_has_a_place_in_the_order() -> None:
    entries = [
        path for path in (ROOT / "liif_fast").iterdir() if (path / "__init__.py").exists() or path.suffix == ".py"
    ]
    assert {path.stem for path in entries} - set(OUTSIDE) == set(ranks())


def files() -> Iterator[tuple[str, Path]]:
    """Every file of the package with its room; those of the kernels are outside its folder."""
    for file in (ROOT / "liif_fast").rglob("*.py"):
        room = file.relative_to(ROOT / "liif_fast").parts[0].removesuffix(".py")
        if room not in OUTSIDE:
            yield room, file
    for file in (ROOT / "kernels").glob("*.py"):
        yield "kernels", file


def test_imports_go_down_only() -> None:
    rank = ranks()
    upward = [(str(file), other) for room, file in files() for other in imported(file) if rank[other] > rank[room]]
    assert upward == []
