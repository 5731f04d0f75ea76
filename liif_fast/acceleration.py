"""Speed up a LIIF model of the published code, or of mmagic, in place.

The model keeps its identity, its parameters and its methods; only `query_rgb` is answered by this package. To that
end the class of each LIIF inside is exchanged for a subclass made on the spot: unlike a function put on the instance,
this survives deepcopy, pickle, DataParallel's replicas and torch.compile.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from liif_fast import backends
from liif_fast.backends import reference
from liif_fast.errors import UsageError
from liif_fast.models import LIIF
from liif_fast.models.projection_cache import ProjectionCache, query
from liif_fast.params import DecoderParams, linear_layers

Model = TypeVar("Model", bound=nn.Module)

SWITCHES = ("local_ensemble", "feat_unfold", "cell_decode")
_STATE = "_liif_fast"
_fast_classes: dict[type[nn.Module], type[nn.Module]] = {}


@dataclass
class _State:
    backend: str
    precision: str
    projections: ProjectionCache = field(default_factory=ProjectionCache)


def accelerate(model: Model, backend: str = "auto", precision: str = "auto") -> Model:
    """Answer the queries of every LIIF in `model` by this package.

    Args:
        model: a LIIF, or a module that holds some: with the published ``query_rgb(coord, cell=None)`` on the kept
            `feat`, or with mmagic's ``query_rgb(feature, coord, cell=None)``.
        backend: "auto" or the name of a decoder backend.
        precision: "auto", "fp32", "tf32x3", "tf32", "bf16" or "fp16".

    Returns:
        The same object, its state_dict untouched. `restore` undoes it; a second call changes the two choices.

    Raises:
        UsageError: an unknown backend or precision, no LIIF in `model`, or one that computes something else.
    """
    if backend not in ("auto", *backends.NAMES):
        raise UsageError(f"backend: expected one of auto, {', '.join(backends.NAMES)}, got {backend!r}")
    if precision not in backends.PRECISIONS:
        raise UsageError(f"precision: expected one of {', '.join(backends.PRECISIONS)}, got {precision!r}")
    found = [module for module in model.modules() if not _lacks(module)]
    if not found:
        raise UsageError(
            "accelerate: expected a LIIF, or a module with one inside, that is imnet, query_rgb(coord, cell) or "
            f"query_rgb(feature, coord, cell), {', '.join(SWITCHES)}; "
            f"got {type(model).__name__}, which lacks {', '.join(_lacks(model))}"
        )
    for module in found:
        if _STATE not in module.__dict__ and not isinstance(module, LIIF):
            _check_same_decoder(module)
    for module in found:
        _set(module, backend, precision)
    return model


def restore(model: Model) -> Model:
    """Undo `accelerate` everywhere in `model`, and return it; nothing happens where nothing was accelerated."""
    for module in model.modules():
        state = module.__dict__.pop(_STATE, None)
        if state is None:
            continue
        if isinstance(module, LIIF):
            module.backend, module.precision = state.backend, state.precision
        else:
            module.__class__ = vars(type(module))["_liif_fast_base"]
    return model


def _set(module: Any, backend: str, precision: str) -> None:
    if isinstance(module, LIIF):
        # This package's own class is fast by itself: only its choices change, and are kept for restore.
        module.__dict__.setdefault(_STATE, _State(module.backend, module.precision))
        module.backend, module.precision = backend, precision
        return
    module.__dict__[_STATE] = _State(backend, precision)
    if not hasattr(type(module), "_liif_fast_base"):
        module.__class__ = _fast_class(type(module))


def _fast_class(base: type[nn.Module]) -> type[nn.Module]:
    """The subclass of `base` whose `query_rgb`, of the same signature, is this package's."""
    if base in _fast_classes:
        return _fast_classes[base]
    members = {
        "query_rgb": _query_feature if _takes_feature(base) else _query_kept,
        "__reduce_ex__": _reduce,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "_liif_fast_base": base,
    }
    return _fast_classes.setdefault(base, type(base.__name__, (base,), members))


def _query_kept(self: Any, coord: Tensor, cell: Tensor | None = None) -> Tensor:
    return _query(self, self.feat, coord, cell)


def _query_feature(self: Any, feature: Tensor, coord: Tensor, cell: Tensor | None = None) -> Tensor:
    return _query(self, feature, coord, cell)


def _query(module: Any, feat: Tensor, coord: Tensor, cell: Tensor | None) -> Tensor:
    state: _State = module._liif_fast
    params = _params(module, feat.shape[1])
    return query(state.projections, feat, coord, cell, params, state.backend, state.precision)


def _reduce(self: Any, protocol: Any) -> Any:
    # Pickle looks classes up by name and would not find this one: the published class is, and is exchanged again.
    _, _, *state = super(type(self), self).__reduce_ex__(protocol)
    return _revive, (vars(type(self))["_liif_fast_base"],), *state


def _revive(base: type[nn.Module]) -> nn.Module:
    module: nn.Module = _fast_class(base).__new__(_fast_class(base))
    return module


def _params(module: Any, channels: int) -> DecoderParams:
    switches = {name: bool(getattr(module, name)) for name in SWITCHES}
    return DecoderParams.from_mlp(module.imnet, channels, **switches)


def _lacks(module: nn.Module) -> list[str]:
    """What a LIIF has and this module has not."""
    lacking = [name for name in SWITCHES if not isinstance(getattr(module, name, None), bool)]
    if not isinstance(getattr(module, "imnet", None), nn.Module):
        lacking.insert(0, "imnet")
    if isinstance(module, torch.jit.ScriptModule):
        lacking.append("a class that is not TorchScript")
    elif _place_of_coord(type(module)) is None:
        lacking.append("query_rgb(coord, cell)")
    return lacking


def _place_of_coord(cls: type[nn.Module]) -> int | None:
    """Where `coord` stands among the arguments of `query_rgb`: 0 published, 1 mmagic, None neither."""
    method = getattr(cls, "query_rgb", None)
    names = list(inspect.signature(method).parameters)[1:] if callable(method) else []
    place = names.index("coord") if "coord" in names else None
    return place if place in (0, 1) and names[place + 1 : place + 2] == ["cell"] else None


def _takes_feature(cls: type[nn.Module]) -> bool:
    return _place_of_coord(cls) == 1


@torch.no_grad()
def _check_same_decoder(module: Any) -> None:
    """UsageError if the module's decoder has another form than LIIF's, or gives other numbers on a small example.

    Many models descend from LIIF and keep its names while their arithmetic differs.
    """
    columns = linear_layers(module.imnet)[0][0].shape[1]
    taps, extra = (9 if module.feat_unfold else 1), (4 if module.cell_decode else 2)
    channels, rest = divmod(columns - extra, taps)
    if rest or channels < 1:
        raise UsageError(
            f"accelerate: expected an imnet of {taps} * channels + {extra} inputs for the switches of "
            f"{type(module).__name__}, got {columns}: its decoder is not LIIF's"
        )
    params = _params(module, channels)
    weight = params.weights[0]
    if weight.dtype != torch.float32:
        return
    feat = torch.linspace(-1, 1, channels * 12, device=weight.device).reshape(1, channels, 3, 4).sin()
    coord = torch.tensor([[[-0.9, 0.8], [-0.2, 0.1], [0.35, -0.55], [0.6, 0.95]]], device=weight.device)
    cell = torch.full_like(coord, 0.25)
    theirs = _own_answer(module, feat, coord, cell)
    ours = reference.query(feat, coord, cell, params)
    if theirs is not None and not torch.allclose(theirs, ours, rtol=1e-2, atol=1e-3):
        raise UsageError(
            f"accelerate: expected LIIF's arithmetic, got a {type(module).__name__} whose query_rgb differs by "
            f"{(theirs - ours).abs().max().item():.2g} on a small example: its decoder is not LIIF's"
        )


def _own_answer(module: Any, feat: Tensor, coord: Tensor, cell: Tensor) -> Tensor | None:
    """What the module's own `query_rgb` answers, None where it cannot run here."""
    missing = object()
    kept = module.__dict__.get("feat", missing)
    try:
        if _takes_feature(type(module)):
            answer: Tensor | None = module.query_rgb(feat, coord, cell)
            return answer
        module.feat = feat
        answer = module.query_rgb(coord, cell)
        return answer
    except Exception:
        # The published code asks for a CUDA device whatever the model's: then there is nothing to compare with.
        return None
    finally:
        if kept is missing:
            module.__dict__.pop("feat", None)
        else:
            module.feat = kept
