"""Speed up LIIF and Meta-SR models of the published code, of mmagic or of your own, in place.

The model keeps its identity, its parameters and its methods; only its query is answered by this package. To that end
the class of each decoder inside is exchanged for a subclass made on the spot: unlike a function put on the instance,
this survives deepcopy, pickle, DataParallel's replicas and torch.compile.
"""

from __future__ import annotations

import functools
import weakref
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from liif_fast import backends
from liif_fast.errors import UsageError
from liif_fast.models import LIIF, MetaSR, metasr
from liif_fast.models.equivalence import find_form
from liif_fast.models.form import Arguments, Form, arguments_of, switches_of
from liif_fast.models.projection_cache import ProjectionCache, decode
from liif_fast.params import DecoderParams, Switches, plain_layers

Model = TypeVar("Model", bound=nn.Module)

_STATE = "_liif_fast"
# The query of each foreign decoder that was rendered with, and its form.
_checked: weakref.WeakKeyDictionary[nn.Module, tuple[Any, Form | None]] = weakref.WeakKeyDictionary()
_fast_classes: dict[tuple[type[nn.Module], str], type[nn.Module]] = {}


@dataclass
class _State:
    backend: str
    precision: str
    form: Form | None = None
    projections: ProjectionCache = field(default_factory=ProjectionCache)


class ModelReport(NamedTuple):
    """How one decoder of a model is answered: `way` is "fused", "module" or "own", `reason` says why."""

    name: str
    way: str
    reason: str


def accelerate(
    model: Model,
    backend: str = "auto",
    precision: str = "auto",
    *,
    method: str = "query_rgb",
    check: bool = True,
) -> Model:
    """Answer the queries of every LIIF and Meta-SR in `model` by this package.

    Args:
        model: a decoder, or a module that holds some. A decoder has an `imnet` and a query of coordinates and cells,
            with the features kept (``query_rgb(coord, cell=None)``, as published) or given (``query_rgb(feature,
            coord, cell=None)``, as mmagic has it). What it adds to LIIF's answer by sampling a picture that it keeps
            is added here too.
        backend: "auto" or the name of a decoder backend.
        precision: "auto", "fp32", "tf32x3", "tf32", "bf16" or "fp16".
        method: the query's name.
        check: compare each decoder with this package's on a random picture, in float64, and refuse one that differs or
            raises. False takes a decoder for what its names and switches say.

    Returns:
        The same object, its state_dict untouched. `restore` undoes it; a second call changes the two choices.

    Raises:
        UsageError: an unknown backend or precision, no decoder in `model`, or one that computes something else.
    """
    if backend not in ("auto", *backends.NAMES):
        raise UsageError(f"backend: expected one of auto, {', '.join(backends.NAMES)}, got {backend!r}")
    if precision not in backends.PRECISIONS:
        raise UsageError(f"precision: expected one of {', '.join(backends.PRECISIONS)}, got {precision!r}")
    found = [module for module in model.modules() if not _lacks(module, method)]
    if not found:
        raise UsageError(
            f"accelerate: expected a LIIF or a Meta-SR, or a module with one inside, that is imnet and "
            f"{method}(coord, cell) or {method}(feature, coord, cell); "
            f"got {type(model).__name__}, which lacks {', '.join(_lacks(model, method))}"
        )
    forms = [_form(module, method, check) for module in found]
    for module, form in zip(found, forms, strict=True):
        _set(module, _State(backend, precision, form), method)
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


def report(model: nn.Module) -> list[ModelReport]:
    """Which way each decoder of a model is answered now, and why; empty where there is none.

    "fused": by a backend, from the weights of its MLP. "module": by this package, with the MLP called as a module.
    "own": by the model's own code.
    """
    rows = []
    for name, module in model.named_modules():
        if _lacks(module, "query_rgb") and _STATE not in module.__dict__:
            continue
        form = getattr(module.__dict__.get(_STATE), "form", None)
        if form is None and not isinstance(module, (LIIF, MetaSR)):
            rows.append(ModelReport(name, "own", "it is not accelerated"))
            continue
        layers = plain_layers(module.imnet)
        what = str(form or type(module).__name__)
        if isinstance(layers, str):
            rows.append(ModelReport(name, "module", f"{what}, its imnet called: {layers}"))
        else:
            rows.append(ModelReport(name, "fused", f"{what} with the plain MLP"))
    return rows


def decoder_params(model: nn.Module) -> DecoderParams | None:
    """The decoder of a model whose answers are LIIF's on a plain MLP and nothing else; None for any other model.

    That is this package's LIIF, or a foreign one that `accelerate` would take and that adds nothing.
    """
    own = isinstance(model, LIIF) and type(model).query_rgb is LIIF.query_rgb
    form = None if own else _known_form(model)
    if not own and not hasattr(model, "query_rgb"):
        # Nothing to compare with, and nothing else that the attributes of a LIIF could mean.
        switches = switches_of(model)
        form = None if switches is None else Form("liif", Arguments((), "coord", "cell", None, {}), None, switches)
    if not own and (form is None or form.kind != "liif" or form.skip is not None):
        return None
    imnet: Any = getattr(model, "imnet", None)
    layers = plain_layers(imnet) if isinstance(imnet, nn.Module) else "no MLP"
    switches = switches_of(model) or getattr(form, "switches", None)
    if isinstance(layers, str) or switches is None:
        return None
    channels, rest = divmod(layers[0][0].shape[1] - switches.extra, switches.taps)
    return None if rest or channels < 1 else DecoderParams(*layers, channels, *switches)


def _known_form(model: nn.Module) -> Form | None:
    """The form of a foreign decoder, checked once; None where `accelerate` would refuse it."""
    state: _State | None = model.__dict__.get(_STATE)
    if state is not None or _lacks(model, "query_rgb"):
        return None if state is None else state.form
    query = getattr(type(model), "query_rgb", None)
    if _checked.get(model, (None,))[0] is not query:
        try:
            _checked[model] = query, _form(model, "query_rgb", True)
        except UsageError:
            _checked[model] = query, None
    return _checked[model][1]


def _form(module: nn.Module, method: str, check: bool) -> Form | None:
    """What a decoder is; None for this package's own, which need no other query."""
    if isinstance(module, (LIIF, MetaSR)):
        return None
    state: _State | None = module.__dict__.get(_STATE)
    if state is not None:
        return state.form
    arguments = _arguments(type(module), method)
    assert arguments is not None
    if check:
        return find_form(module, method, arguments)
    switches = switches_of(module)
    if switches is None:
        raise UsageError(
            f"accelerate: expected {', '.join(Switches._fields)} for check=False, got a {type(module).__name__} "
            "without them; leave the check on, which finds them out"
        )
    return Form("liif", arguments, None if arguments.feature else "feat", switches)


def _set(module: Any, state: _State, method: str) -> None:
    if isinstance(module, LIIF):
        # This package's own class is fast by itself: only its choices change, and are kept for restore.
        module.__dict__.setdefault(_STATE, _State(module.backend, module.precision))
        module.backend, module.precision = state.backend, state.precision
    elif not isinstance(module, MetaSR):
        module.__dict__[_STATE] = state
        plain_layers(module.imnet)  # Tried now, because a traced forward cannot be.
        if not hasattr(type(module), "_liif_fast_base"):
            module.__class__ = _fast_class(type(module), method)


def _fast_class(base: type[nn.Module], method: str) -> type[nn.Module]:
    """The subclass of `base` whose `method`, of the same signature, is this package's."""
    if (base, method) in _fast_classes:
        return _fast_classes[base, method]
    members = {
        method: _fast_query(getattr(base, method)),
        "__reduce_ex__": _reduce,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "_liif_fast_base": base,
        "_liif_fast_method": method,
    }
    return _fast_classes.setdefault((base, method), type(base.__name__, (base,), members))


def _fast_query(slow: Any) -> Any:
    @functools.wraps(slow)
    def query(self: Any, *args: Any, **kwargs: Any) -> Any:
        state: _State = self._liif_fast
        form = state.form
        assert form is not None
        names = form.arguments
        given = {**dict(zip(names.names, args, strict=False)), **kwargs}
        if _asks_for_more(names, given):
            return slow(self, *args, **kwargs)
        feat = given[names.feature] if names.feature is not None else getattr(self, form.feature or "feat")
        cell = None if names.cell is None else given.get(names.cell)
        return _answer(self, state, form, feat, given[names.coord], cell)

    return query


def _asks_for_more(names: Arguments, given: dict[str, Any]) -> bool:
    """Whether a call sets an argument that only the module itself knows; a device says where its tensors are made."""
    simple = (bool, int, float, str)
    for name, default in names.others.items():
        value = default if name == "device" else given.get(name, default)
        if value is not default and not (isinstance(value, simple) and value == default):
            return True
    return False


def _answer(module: Any, state: _State, form: Form, feat: Tensor, coord: Tensor, cell: Tensor | None) -> Tensor:
    if form.kind == "metasr":
        return metasr.answer(state.projections, feat, coord, cell, module.imnet)
    switches = switches_of(module) or form.switches
    answer = decode(state.projections, feat, coord, cell, module.imnet, switches, state.backend, state.precision)
    return answer if form.skip is None else answer + form.skip.at(module, coord).to(answer.dtype)


def _reduce(self: Any, protocol: Any) -> Any:
    # Pickle looks classes up by name and would not find this one: the published class is, and is exchanged again.
    _, _, *state = super(type(self), self).__reduce_ex__(protocol)
    return _revive, (vars(type(self))["_liif_fast_base"], vars(type(self))["_liif_fast_method"]), *state


def _revive(base: type[nn.Module], method: str = "query_rgb") -> nn.Module:
    fast = _fast_class(base, method)
    module: nn.Module = fast.__new__(fast)
    return module


def _arguments(cls: type[nn.Module], method: str) -> Arguments | None:
    query = getattr(cls, method, None)
    return arguments_of(query, named=method != "query_rgb") if callable(query) else None


def _lacks(module: nn.Module, method: str) -> list[str]:
    """What a decoder has and this module has not."""
    lacking = []
    if not isinstance(getattr(module, "imnet", None), nn.Module):
        lacking.append("imnet")
    if isinstance(module, torch.jit.ScriptModule):
        lacking.append("a class that is not TorchScript")
    elif _arguments(type(module), method) is None:
        lacking.append(f"{method}(coord, cell)")
    return lacking
