"""Reading YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from liif_fast.errors import UsageError


def read_mapping(path: Path) -> dict[str, Any]:
    """The keys of a YAML file; UsageError unless it is a mapping, and when PyYAML is missing."""
    try:
        import yaml
    except ImportError as error:
        raise UsageError("YAML files need PyYAML: pip install 'liif_fast[train]'") from error
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: expected a YAML configuration, {reason}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a YAML mapping of keys, got {type(content).__name__}")
    return content
