"""Enters the package's operators into PyTorch as soon as both are imported, in whichever order.

A program that was exported with the operators can then be loaded after `import liif_fast`, which itself loads no
library.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def register_with_torch() -> None:
    """Import the operators now where PyTorch is there, else right after it."""
    if "torch" in sys.modules:
        import_module("liif_fast.backends.operators")
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


class _Waiting(MetaPathFinder):
    """Finds torch as Python does, once, and has the operators imported behind it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torch":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Following(spec.loader)
        return spec


class _Following(Loader):
    """A loader, and the operators after it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        # Where a module of this package is what imports torch, it comes first; `liif_fast` then calls again.
        own = [part for name, part in sys.modules.items() if name.startswith("liif_fast.")]
        if not any(getattr(part.__spec__, "_initializing", False) for part in own):
            register_with_torch()
