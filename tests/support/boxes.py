"""A workspace whose photograph becomes a zarr of six boxes, and what tests of boxes ask of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from liif_fast import checkpoint
from liif_fast.batch import boxes
from liif_fast.batch.streaming import TILE
from support.models import tiny_liif
from support.workspace import upscale

RESULT = "photo_x4.5.zarr"
ALL = 6  # boxes of 576 x 432 pixels


@pytest.fixture
def boxed_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose photograph becomes six boxes of one chunk."""
    checkpoint.save(tiny_liif(seed=3), "model.safetensors")
    monkeypatch.setattr(boxes, "SIDE", TILE)
    return workspace


def run(capsys: Any, *arguments: str, code: int = 0, source: str = "photo.png") -> dict[str, Any]:
    """What the command says of the one picture."""
    assert upscale(source, "-o", "out/", "-s", "4.5", "--format", "zarr", "--json", *arguments) == code
    (line,) = capsys.readouterr().out.splitlines()
    record: dict[str, Any] = json.loads(line)
    return record


def count(made: int, skipped: int = 0, whole: bool = True) -> dict[str, Any]:
    return {"made": made, "skipped": skipped, "all": ALL, "whole": whole}


def content(store: Path | str) -> dict[str, bytes]:
    root = Path(store)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def undivided(source: str = "photo.png", *arguments: str) -> dict[str, bytes]:
    """The zarr of a command that names it, which is made at once."""
    assert upscale(source, "-o", "whole.zarr", "-s", "4.5", "--overwrite", "-q", *arguments) == 0
    return content("whole.zarr")
