"""Names of the models, and how a published spec ``{"name", "args"[, "sd"]}`` becomes a module."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from liif_fast.errors import UsageError

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

registry: dict[str, Callable[..., nn.Module]] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Enter a class or function that builds a module into the registry under `name`."""

    def enter(builder: Builder) -> Builder:
        registry[name] = builder
        return builder

    return enter


def make(
    spec: Mapping[str, Any] | nn.Module, args: Mapping[str, Any] | None = None, load_sd: bool = False
) -> nn.Module:
    """Build the model that a published spec describes.

    Args:
        spec: ``{"name": ..., "args": {...}}``, with ``"sd"`` (a state_dict) when `load_sd` is set. A module is
            returned as it is, so that a custom encoder or MLP can stand wherever a spec can.
        args: arguments laid over those of the spec; the spec itself is not changed.
        load_sd: also load ``spec["sd"]``, strictly.

    Raises:
        UsageError: the spec has no name, the name is unknown, or the arguments do not fit that model.
    """
    if isinstance(spec, nn.Module):
        return spec
    if not isinstance(spec, Mapping) or "name" not in spec:
        got = sorted(spec) if isinstance(spec, Mapping) else type(spec).__name__
        raise UsageError(f"expected a model spec {{'name': ..., 'args': {{...}}}} or an nn.Module, got {got}")
    name = spec["name"]
    if name not in registry:
        raise UsageError(
            f"expected a model name out of {', '.join(sorted(registry))}, got {name!r}; "
            "enter your own class by liif_fast.models.register"
        )
    builder = registry[name]
    arguments = {**(spec.get("args") or {}), **(args or {})}
    try:
        inspect.signature(builder).bind(**arguments)
    except TypeError as error:
        raise UsageError(f"model {name!r}: {error}; got {sorted(arguments)}, expected {_parameters(builder)}") from None
    model = builder(**arguments)
    # LIIF and Meta-SR work their spec out themselves; every other module carries the one it was built from.
    if not hasattr(model, "spec"):
        model.spec = {"name": name, "args": copy.deepcopy(arguments)}  # type: ignore[assignment]
    if load_sd:
        if "sd" not in spec:
            raise UsageError(f"load_sd=True needs a state_dict under 'sd' in the spec, got only {sorted(spec)}")
        model.load_state_dict(spec["sd"])
    return model


def spec_of(module: nn.Module) -> dict[str, Any]:
    """The spec ``{"name", "args"}`` that builds a module like this one, without its weights.

    Raises:
        UsageError: the module, or a part of it, was not built from a spec.
    """
    spec = getattr(module, "spec", None)
    if not isinstance(spec, dict):
        raise UsageError(
            f"expected a module built by models.make(spec), got a {type(module).__name__} without a spec: "
            "register its class and build it by name"
        )
    return copy.deepcopy(spec)


def _parameters(builder: Callable[..., nn.Module]) -> str:
    return ", ".join(str(parameter) for parameter in inspect.signature(builder).parameters.values())
