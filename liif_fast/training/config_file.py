"""Configuration files: YAML with the keys of `config.Config`, and settings of the command line laid over them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from liif_fast.errors import UsageError, one_line
from liif_fast.training.config import read_config

SHIPPED = Path(__file__).parent / "configs"


def load_config(path: Path, settings: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a configuration file, lays `settings` ("dotted.key=value") over it and checks all keys.

    The mapping is returned as it was written, for `save_config`; `config.read_config` makes typed values of it.
    Raises UsageError, with the nearest right key for an unknown one, and when PyYAML is missing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: expected a YAML configuration, {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected a YAML configuration, {one_line(error)}") from error
    written = _parse(text, str(path))
    if not isinstance(written, dict):
        raise UsageError(f"{path}: expected a YAML mapping of keys, got {type(written).__name__}")
    for setting in settings:
        _lay_over(written, setting)
    read_config(written)
    return written


def save_config(written: Mapping[str, Any], folder: Path) -> None:
    """Writes the configuration into the folder of its run; an older one that differs is kept, and this one numbered."""
    import yaml

    number = 1
    while (path := folder / ("config.yaml" if number == 1 else f"config-{number}.yaml")).exists():
        if _parse(path.read_text(encoding="utf-8"), str(path)) == written:
            return
        number += 1
    path.write_text(yaml.safe_dump(dict(written), sort_keys=False, allow_unicode=True), encoding="utf-8")


def _parse(text: str, where: str) -> Any:
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


def _lay_over(written: dict[str, Any], setting: str) -> None:
    """Sets the value of one "dotted.key=value"; sections on the way that are missing are made."""
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise UsageError(f"--set: expected KEY=VALUE, as in optimizer.args.lr=5e-4, got {setting!r}")
    *outer, key = path.split(".")
    section = written
    for name in outer:
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            raise UsageError(f"--set {path}: expected a key that holds others, {name} holds {section!r}")
    section[key] = _parse(text, f"--set {path}")
