"""The LIIF decoder (Local Implicit Image Function, CVPR 2021) in fused kernels, a drop-in for the published one.

Importing builds nothing, prints nothing and needs no GPU; names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from liif_fast.native.registration import register_with_torch

__version__ = "0.2.0"

_HOMES = {
    "LIIF": "liif_fast.models",
    "accelerate": "liif_fast.acceleration",
    "report": "liif_fast.acceleration",
    "restore": "liif_fast.acceleration",
    "load": "liif_fast.checkpoint",
    "save": "liif_fast.checkpoint",
    "upscale": "liif_fast.upscaling",
    "sample": "liif_fast.sampling",
    "query": "liif_fast.functional",
    "make_coord": "liif_fast.geometry",
    "make_cell": "liif_fast.geometry",
    "available_backends": "liif_fast.backends",
}

__all__ = [
    "LIIF",
    "__version__",
    "accelerate",
    "available_backends",
    "load",
    "make_cell",
    "make_coord",
    "models",
    "query",
    "report",
    "restore",
    "sample",
    "save",
    "upscale",
]

if TYPE_CHECKING:
    from liif_fast import models
    from liif_fast.acceleration import accelerate, report, restore
    from liif_fast.backends import available_backends
    from liif_fast.checkpoint import load, save
    from liif_fast.functional import query
    from liif_fast.geometry import make_cell, make_coord
    from liif_fast.models import LIIF
    from liif_fast.sampling import sample
    from liif_fast.upscaling import upscale


register_with_torch()


def __getattr__(name: str) -> Any:
    if name == "models":
        return import_module("liif_fast.models")
    if name in _HOMES:
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        register_with_torch()
        return value
    raise AttributeError(f"module 'liif_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
