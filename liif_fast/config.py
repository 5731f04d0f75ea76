"""Training configurations: YAML files with the published keys and a few more.

Published: train_dataset, val_dataset, test_dataset {dataset, wrapper, batch_size}, data_norm, eval_type, eval_bsize,
model, optimizer, epoch_max, multi_step_lr, resume, epoch_val, epoch_save.

Further keys of this package:
  seed          of the weights, the crops and their order (0)
  init          `bilinear` starts the model as bilinear interpolation (see bilinear_init); default: random
  cosine_lr     {warmup: steps, final: factor} in place of multi_step_lr
  ema           decay of an average of the weights, which is what is validated and saved (0: the weights themselves)
  clip_grad     largest norm of the gradient (none)
  channels_last true keeps the encoder's maps channels last
  num_workers   inside train_dataset: processes that make samples (0: the training process)
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from liif_fast.errors import UsageError

REQUIRED = ("train_dataset", "model", "optimizer", "epoch_max")
KEYS = frozenset(
    {
        *REQUIRED,
        *("val_dataset", "test_dataset", "data_norm", "eval_type", "eval_bsize", "multi_step_lr", "resume"),
        *("epoch_val", "epoch_save", "seed", "init", "cosine_lr", "ema", "clip_grad", "channels_last"),
    }
)


def load_config(path: Path) -> dict[str, Any]:
    """Reads and checks a training configuration.

    Raises UsageError, with the nearest right key for an unknown one, and when PyYAML is missing.
    """
    try:
        import yaml
    except ImportError as error:
        raise UsageError("training needs PyYAML: pip install 'liif_fast[train]'") from error
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: expected a YAML configuration, {reason}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path}: expected a YAML mapping of keys, got {type(config).__name__}")
    check(config)
    return config


def check(config: dict[str, Any]) -> None:
    """Raises UsageError for unknown, missing or conflicting keys."""
    for key in config:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(KEYS))}"
            raise UsageError(f"configuration: unknown key {key!r}, {hint}")
    missing = [key for key in REQUIRED if key not in config]
    if missing:
        raise UsageError(f"configuration: expected the keys {', '.join(REQUIRED)}; missing: {', '.join(missing)}")
    if config.get("multi_step_lr") is not None and config.get("cosine_lr") is not None:
        raise UsageError("configuration: expected multi_step_lr or cosine_lr, got both")
    if config.get("init") not in (None, "bilinear"):
        raise UsageError(f"init: expected bilinear or nothing, got {config['init']!r}")
