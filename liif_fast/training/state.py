"""Training checkpoints: they are written whole or not at all, and read only for the model that they were made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from liif_fast import models
from liif_fast.checkpoint import read_pickled
from liif_fast.errors import CheckpointError, LiifError, one_line
from liif_fast.files import replacing


class TrainingError(LiifError, RuntimeError):
    """Training cannot go on."""


def read_state(path: Path) -> dict[str, Any]:
    """Reads a checkpoint to go on from: {model {name, args, sd}, optimizer {name, args, sd}, epoch, ...}.

    Raises CheckpointError when there is none, or when it holds weights only.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a checkpoint to resume from, got no such file; check the path")
    try:
        state = read_pickled(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(state, dict) or not {"model", "optimizer", "epoch"} <= state.keys():
        raise CheckpointError(f"{path}: expected a training checkpoint with the keys model, optimizer and epoch")
    return state


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Replaces the checkpoint. Raises TrainingError, the old file intact, when it cannot be written."""
    try:
        with replacing(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:
        raise TrainingError(f"{path}: cannot be written, the old one is intact: {one_line(error)}") from error


def check_model(model: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError unless the checkpoint's model is the one that is trained."""
    refusal = f"{path}: expected a checkpoint of the configuration's model"
    advice = "resume with the configuration that it was trained with"
    try:
        with torch.device("meta"):
            stored = models.make(state["model"])
        conflict = _conflict(models.spec_of(model), models.spec_of(stored), "")
    except LiifError as error:
        raise CheckpointError(f"{refusal}, got another one ({error}); {advice}") from error
    if conflict:
        raise CheckpointError(f"{refusal}, got another one ({conflict}); {advice}")
    expected, got = (_shapes(sd) for sd in (model.state_dict(), state["model"]["sd"]))
    wrong = sorted(key for key in expected.keys() | got.keys() if expected.get(key) != got.get(key))
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f"{refusal}, got {len(wrong)} weights that do not fit ({key}: expected {expected.get(key)}, "
            f"got {got.get(key)}); {advice}"
        )


def load_optimizer(optimizer: torch.optim.Optimizer, name: str, state: Mapping[str, Any], path: Path) -> None:
    """Loads the checkpoint's optimizer state. Raises CheckpointError when it is another optimizer's."""
    stored = state["optimizer"]
    if stored.get("name") != name:
        raise CheckpointError(f"{path}: expected the state of the optimizer {name}, got that of {stored.get('name')}")
    try:
        optimizer.load_state_dict(stored["sd"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: its optimizer state does not fit the model: {one_line(error)}") from error


def _conflict(expected: Any, got: Any, where: str) -> str:
    """Describes the first value that both specs give and give differently; empty when they agree."""
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        conflicts = (_conflict(expected[key], got[key], str(key)) for key in expected if key in got)
        return next(filter(None, conflicts), "")
    return "" if expected == got else f"{where}: expected {expected}, got {got}"


def _shapes(sd: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in sd.items()}
