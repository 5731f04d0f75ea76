"""What a foreign decoder is: the parameters of its method, its switches, and what it adds to LIIF's answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from liif_fast.params import Switches

MODES = ("bilinear", "nearest", "bicubic")
PADDINGS = ("border", "zeros", "reflection")


class Arguments(NamedTuple):
    """Which parameter of a decoder's method is what; `feature` is None where the module keeps the features itself.

    others: the remaining parameters and their defaults (`inspect.Parameter.empty` where they have none).
    """

    names: tuple[str, ...]
    coord: str
    cell: str | None
    feature: str | None
    others: dict[str, Any]

    @property
    def needed(self) -> list[str]:
        """Parameters without a default that are neither features, coordinates nor cells."""
        return [name for name, default in self.others.items() if default is inspect.Parameter.empty]


class Skip(NamedTuple):
    """What a decoder adds to LIIF's answer: a picture that its module keeps, sampled at the coordinates."""

    attribute: str
    mode: str
    padding_mode: str
    align_corners: bool

    def at(self, module: Any, coord: Tensor) -> Tensor:
        """coord [B, Q, 2] in (y, x) order -> [B, Q, C], in the picture's dtype."""
        picture: Tensor = getattr(module, self.attribute)
        grid = coord.to(picture.dtype).flip(-1).unsqueeze(1).expand(picture.shape[0], -1, -1, -1)
        sampled = F.grid_sample(
            picture, grid, mode=self.mode, padding_mode=self.padding_mode, align_corners=self.align_corners
        )
        return sampled[:, :, 0].transpose(1, 2)


class Form(NamedTuple):
    """What a decoder was found to be.

    kind: "liif" or "metasr". feature: the attribute that holds the features, None where they are an argument.
    switches: those that hold where the module has no such attributes itself.
    """

    kind: str
    arguments: Arguments
    feature: str | None
    switches: Switches
    skip: Skip | None = None

    def __str__(self) -> str:
        name = {"liif": "LIIF", "metasr": "Meta-SR"}[self.kind]
        return name if self.skip is None else f"{name} plus the {self.skip.mode} sample of its `{self.skip.attribute}`"


def arguments_of(method: Callable[..., Any], named: bool = False) -> Arguments | None:
    """What a method's parameters are, by their names; None where it is no query.

    named: the caller named the method, so that its first parameter is the coordinates whatever it is called.
    """
    varying = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = [p for p in list(inspect.signature(method).parameters.values())[1:] if p.kind not in varying]
    names = tuple(p.name for p in found)
    coord = next((name for name in names if "coord" in name.lower()), names[0] if named and names else None)
    if coord is None or names.index(coord) > 1:
        return None
    cell = next((name for name in names if "cell" in name.lower()), None)
    feature = names[0] if names.index(coord) == 1 else None
    others = {p.name: p.default for p in found if p.name not in (coord, cell, feature)}
    return Arguments(names, coord, cell, feature, others)


def switches_of(module: Any) -> Switches | None:
    """The module's switches as they are now, None where it has not all three."""
    values: list[Any] = [getattr(module, name, None) for name in Switches._fields]
    return Switches(*values) if all(isinstance(value, bool) for value in values) else None
