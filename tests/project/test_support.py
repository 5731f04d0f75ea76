"""What tests share stands in tests/support: no test imports another one, and support imports no test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT

TESTS = ROOT / "tests"


def imported_modules(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


@pytest.mark.parametrize("file", sorted(TESTS.rglob("*.py")), ids=lambda file: str(file.relative_to(TESTS)))
def test_no_test_is_imported(file: Path) -> None:
    tests = {path.stem for path in TESTS.rglob("test_*.py")}
    imported = [name for name in imported_modules(file) if set(name.split(".")) & {*tests, "tests", "conftest"}]
    assert not imported, f"{file.relative_to(ROOT)} imports {imported}: move what they share to tests/support/"


def test_every_test_module_has_a_name_of_its_own() -> None:
    """The test folders are no packages, so that two modules of one name would be taken for one."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
