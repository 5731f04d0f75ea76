"""The tables of configuration keys in docs/training.md, from what the package itself says of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from liif_fast.data import DATASETS, WRAPPERS
from liif_fast.models import registry
from liif_fast.training.config import documented_keys

NOT_WRITTEN = ("self", "dataset", "in_dim")  # arguments that the package sets, not the configuration


def keys() -> str:
    """Every key: what it takes, its default and what it means."""
    lines = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{row.key}` | {row.type} | {row.default} | {row.text} |" for row in documented_keys()]
    return "\n".join(lines)


def components() -> str:
    """Every data set, wrapper and model that a `name` may stand for, with its arguments."""
    lines = ["| kind | `name` | `args` |", "|---|---|---|"]
    for kind, known in (("data set", DATASETS), ("wrapper", WRAPPERS), ("model", registry)):
        lines += [f"| {kind} | `{name}` | {_arguments(known, name)} |" for name in sorted(known)]
    return "\n".join(lines)


def _arguments(known: Mapping[str, Callable[..., Any]], name: str) -> str:
    parameters = inspect.signature(known[name]).parameters.values()
    return ", ".join(f"`{_written(parameter)}`" for parameter in parameters if parameter.name not in NOT_WRITTEN)


def _written(parameter: inspect.Parameter) -> str:
    """An argument as YAML has it, with its default where it has one."""
    if parameter.default is inspect.Parameter.empty:
        return parameter.name
    if parameter.default is None or isinstance(parameter.default, bool):
        return f"{parameter.name}: {'null' if parameter.default is None else str(parameter.default).lower()}"
    value = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
    return f"{parameter.name}: {value}"
