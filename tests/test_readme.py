"""Every command and every line of Python in README.md and CONTRIBUTING.md works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

import liif_fast

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
# Commands that install: what they do is checked elsewhere, as the values say.
ELSEWHERE = {
    "pip install .": "tests/test_install.py builds and installs the package",
    "pip install --no-build-isolation .": "tests/test_install.py builds and installs the package",
    ".venv/bin/pre-commit install": "test_hooks_are_valid",
}


class Block(NamedTuple):
    """One fenced block of a document."""

    document: str
    language: str
    text: str


def blocks(language: str) -> list[Block]:
    """Every block of a language, in reading order."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    found = [Block(name, *match.groups()) for name in DOCUMENTS for match in fence.finditer((ROOT / name).read_text())]
    return [block for block in found if block.language == language]


def commands() -> list[tuple[str, str]]:
    """(document, command) of every line in a shell block, without comments."""
    lines = [(block.document, line) for block in blocks("sh") for line in block.text.splitlines()]
    stripped = [(document, " ".join(shlex.split(line, comments=True))) for document, line in lines]
    return [(document, command) for document, command in stripped if command]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the files that the documents speak of, small."""
    with Image.open(ROOT / "examples" / "osprey.jpg") as file:
        picture = file.convert("RGB").resize((48, 32))
    picture.save(tmp_path / "photo.jpg")
    picture.save(tmp_path / "other.png")
    liif_fast.save(liif_fast.load(), tmp_path / "edsr-baseline-liif.pth")
    return tmp_path


def run(command: list[str], cwd: Path) -> str:
    """Run with the environment's own programs first; its failure fails the test."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def ids(pairs: list[tuple[str, str]]) -> list[str]:
    return [f"{document}: {command}" for document, command in pairs]


@pytest.mark.parametrize(("document", "command"), commands(), ids=ids(commands()))
def test_command(document: str, command: str, desk: Path) -> None:
    words = shlex.split(command)
    if command in ELSEWHERE:
        return
    if words[0] == "make":
        # These run this very suite or take minutes, so only what they would do is checked.
        run(["make", "-n", *words[1:]], ROOT)
        return
    before = set(desk.rglob("*"))
    run(words, desk)
    if "-o" in words:
        assert set(desk.rglob("*")) - before, f"{command} wrote nothing"


def test_upscale_commands_give_the_sizes_they_ask_for(desk: Path) -> None:
    for _, command in commands():
        if command.startswith("liif-fast upscale"):
            run(shlex.split(command), desk)
    sizes = {str(p.relative_to(desk)): Image.open(p).size for p in desk.rglob("*.png") if p.name != "other.png"}
    assert sizes["large.png"] == (178, 118)
    assert sizes["banner.png"] == (331, 120)
    assert sorted(size for name, size in sizes.items() if name.startswith("larger")) == [(96, 64)]


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.text.strip().splitlines()[0])
def test_python(block: Block, desk: Path) -> None:
    run([sys.executable, "-W", "error", "-c", block.text], desk)


def test_hooks_are_valid() -> None:
    config = ROOT / ".pre-commit-config.yaml"
    run(["pre-commit", "validate-config", str(config)], ROOT)
    programs = set(re.findall(r"entry: \.venv/bin/(\S+)", config.read_text()))
    assert programs == {"ruff", "clang-format", "mypy"}
    for program in programs:
        run([program, "--version"], ROOT)
