"""Configurations: YAML files with the published keys and a few more.

Published: train_dataset, val_dataset, test_dataset {dataset, wrapper, batch_size}, data_norm, eval_type, eval_bsize,
model, optimizer, epoch_max, multi_step_lr, resume, epoch_val, epoch_save.

Further keys of this package:
  seed          of the weights, the crops and their order (0)
  init          `bilinear` starts the model as bilinear interpolation (see bilinear_init); default: random
  cosine_lr     {warmup: steps, final: factor} in place of multi_step_lr
  ema           decay of an average of the weights, which is what is validated and saved (0: the weights themselves)
  clip_grad     largest norm of the gradient (none)
  amp           bf16 or fp16: automatic mixed precision (none: float32)
  channels_last true keeps the encoder's maps channels last
  num_workers   inside a dataset entry: processes that make samples (default: up to 8 for a GPU, else 0, which is the
                training process)
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from liif_fast.data import ENTRY, OPTIONAL
from liif_fast.errors import UsageError, one_line, suggestion
from liif_fast.models import registry
from liif_fast.training.metrics import parse_mode
from liif_fast.training.optimizer import OPTIMIZERS

SHIPPED = Path(__file__).parent / "configs"
ENTRIES = ("train_dataset", "val_dataset", "test_dataset")
KEYS = (
    *ENTRIES,
    *("data_norm", "eval_type", "eval_bsize", "model", "optimizer", "epoch_max", "multi_step_lr", "resume"),
    *("epoch_val", "epoch_save", "seed", "init", "cosine_lr", "ema", "clip_grad", "amp", "channels_last"),
)
TRAINING = ("train_dataset", "model", "optimizer", "epoch_max")
ENTRY_KEYS = (*ENTRY, *OPTIONAL)
# key: (words, test)
VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        ("epoch_max", "epoch_val", "epoch_save", "eval_bsize", "batch_size"),
        ("a whole number of 1 or more", lambda value: _whole(value) and value >= 1),
    ),
    **dict.fromkeys(
        ("seed", "num_workers"), ("a whole number of 0 or more", lambda value: _whole(value) and value >= 0)
    ),
    "ema": ("a number from 0 to below 1", lambda value: _number(value) and 0 <= value < 1),
    "clip_grad": ("a number above 0", lambda value: _number(value) and value > 0),
    "channels_last": ("true or false", lambda value: isinstance(value, bool)),
    "init": ("bilinear or nothing", lambda value: value == "bilinear"),
    "amp": ("bf16, fp16 or nothing", lambda value: value in ("bf16", "fp16")),
}


def load_config(path: Path, settings: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a configuration, lays `settings` ("dotted.key=value") over it and checks all keys.

    Raises UsageError, with the nearest right key for an unknown one, and when PyYAML is missing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: expected a YAML configuration, {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected a YAML configuration, {one_line(error)}") from error
    config = _read(text, str(path))
    if not isinstance(config, dict):
        raise UsageError(f"{path}: expected a YAML mapping of keys, got {type(config).__name__}")
    for setting in settings:
        _set(config, setting)
    check(config)
    return config


def save_config(config: dict[str, Any], folder: Path) -> None:
    """Writes the configuration into the folder of its run; an older one that differs is kept, and this one numbered."""
    import yaml

    number = 1
    while (path := folder / ("config.yaml" if number == 1 else f"config-{number}.yaml")).exists():
        if _read(path.read_text(encoding="utf-8"), str(path)) == config:
            return
        number += 1
    path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


def check(config: dict[str, Any], required: Iterable[str] = ()) -> None:
    """Raises UsageError for unknown, missing or conflicting keys and for values out of range.

    The args of datasets and wrappers are checked by `data.make_samples`, which builds them.
    """
    _known(config, KEYS, "configuration")
    missing = [key for key in required if config.get(key) is None]
    if missing:
        raise UsageError(f"configuration: expected the keys {', '.join(required)}; missing: {', '.join(missing)}")
    _values(config, "")
    for entry in (entry for entry in ENTRIES if config.get(entry) is not None):
        _known(config[entry], ENTRY_KEYS, entry)
        _values(config[entry], f"{entry}.")
        for part in ("dataset", "wrapper"):
            _known(config[entry].get(part, {}), ("name", "args"), f"{entry}.{part}")
    _spec(config.get("model"), registry, "model")
    _spec(config.get("optimizer"), OPTIMIZERS, "optimizer", given=("self", "params"))
    if (norm := config.get("data_norm")) is not None:
        _complete(norm, ("inp", "gt"), "data_norm")
        for side in ("inp", "gt"):
            _complete(norm[side], ("sub", "div"), f"data_norm.{side}")
    if (steps := config.get("multi_step_lr")) is not None:
        _known(steps, ("milestones", "gamma"), "multi_step_lr")
        if not isinstance(steps.get("milestones"), list) or not all(map(_whole, steps["milestones"])):
            raise UsageError(f"multi_step_lr.milestones: expected a list of epochs, got {steps.get('milestones')!r}")
    if (cosine := config.get("cosine_lr")) is not None:
        _known(cosine, ("warmup", "final"), "cosine_lr")
        if steps is not None:
            raise UsageError("configuration: expected multi_step_lr or cosine_lr, got both")
    try:
        parse_mode(config.get("eval_type"))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _read(text: str, where: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise UsageError("a YAML configuration needs PyYAML: pip install 'liif_fast[train]'") from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """YAML 1.1, but 1e-4 is a number, as everybody means it."""

    exponent = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise UsageError(f"{where}: expected a YAML configuration, {one_line(error)}") from error


def _set(config: dict[str, Any], setting: str) -> None:
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise UsageError(f"--set: expected KEY=VALUE, as in optimizer.args.lr=5e-4, got {setting!r}")
    *outer, key = path.split(".")
    place = config
    for name in outer:
        if place.get(name) is None:
            place[name] = {}
        place = place[name]
        if not isinstance(place, dict):
            raise UsageError(f"--set {path}: expected a key that holds others, {name} holds {place!r}")
    place[key] = _read(text, f"--set {path}")


def _known(mapping: Any, keys: Iterable[str], where: str) -> None:
    if not isinstance(mapping, Mapping):
        raise UsageError(f"{where}: expected a mapping with the keys {', '.join(keys)}, got {mapping!r}")
    for key in mapping:
        if key not in keys:
            hint = suggestion(key, keys) or f"; known keys: {', '.join(sorted(keys))}"
            raise UsageError(f"{where}: unknown key {key!r}{hint}")


def _complete(mapping: Any, keys: tuple[str, ...], where: str) -> None:
    _known(mapping, keys, where)
    if missing := [key for key in keys if key not in mapping]:
        raise UsageError(f"{where}: expected the keys {', '.join(keys)}; missing: {', '.join(missing)}")


def _values(mapping: Mapping[str, Any], where: str) -> None:
    for key, (words, fits) in VALUES.items():
        value = mapping.get(key)
        if value is not None and not fits(value):
            raise UsageError(f"{where}{key}: expected {words}, got {value!r}")


def _spec(
    spec: Any, builders: Mapping[str, Callable[..., Any]], where: str, given: tuple[str, ...] = ("self", "in_dim")
) -> None:
    """A `{name, args}` spec, and the specs among its args; parameters in `given` are not the user's to set."""
    if spec is None:
        return
    _known(spec, ("name", "args"), where)
    name, args = spec.get("name"), spec.get("args") or {}
    if name not in builders:
        hint = suggestion(name, builders)
        raise UsageError(f"{where}: expected one of {', '.join(sorted(builders))}, got {name!r}{hint}")
    parameters = inspect.signature(builders[name]).parameters
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
        _known(args, [key for key in parameters if key not in given], f"{where}.args")
    for key, value in args.items():
        if key.endswith("_spec"):
            _spec(value, registry, f"{where}.args.{key}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
