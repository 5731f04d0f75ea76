"""Whether a foreign decoder computes what this package does: found out by asking it, in float64.

Many models descend from LIIF and keep its names while their arithmetic differs, so names prove nothing. A copy of the
module, its decoder's weights at random and of a trained size, answers random queries of a random picture. In float64 an
equal decoder agrees to rounding errors, and a different one does not.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from liif_fast.backends import module as module_backend
from liif_fast.backends import reference
from liif_fast.errors import UsageError, one_line
from liif_fast.models.form import MODES, PADDINGS, Arguments, Form, Skip, switches_of
from liif_fast.params import Switches

TOLERANCE = 1e-5  # of the largest answer; constants that a model makes in float32 leave 1e-7
QUERIES = 160
SIZES = ((8, 6), (64, 48))  # of the random picture; some encoders take no small one


def find_form(module: nn.Module, method: str, arguments: Arguments) -> Form:
    """The form of a module's decoder; UsageError where it is none that the package knows, or cannot be asked."""
    kind = type(module).__name__
    if any(isinstance(part, nn.Conv3d) for part in module.modules()):
        raise UsageError(f"accelerate: expected a decoder of two-dimensional pictures, got {kind} with Conv3d layers")
    if arguments.needed:
        raise UsageError(
            f"accelerate: expected a {method} that needs coordinates and cells only, got that of {kind}, which needs "
            f"{', '.join(arguments.needed)} too: its decoder is not LIIF's"
        )
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.autocast("cpu", enabled=False), Float64():
        torch.manual_seed(0)
        try:
            trial = _Trial(_twin(module), method, arguments)
        # Whatever a foreign module raises, it cannot be checked then.
        except Exception as error:
            raise UsageError(
                f"accelerate: {kind}.{method} could not be compared with LIIF on a random picture, because it raised "
                f"{type(error).__name__}: {one_line(error)}; check=False accelerates it all the same"
            ) from error
        form, difference = trial.best()
    if form is None and difference == math.inf:
        raise UsageError(
            f"accelerate: expected an imnet that takes LIIF's or Meta-SR's rows and answers [B, Q, out_dim], got a "
            f"{kind} whose imnet or answer has another form: its decoder is not LIIF's"
        )
    if form is None:
        raise UsageError(
            f"accelerate: expected LIIF's arithmetic, got a {kind} whose {method} differs by {difference:.1e} of its "
            "largest answer on a random picture: its decoder is not LIIF's"
        )
    return form


class Float64(TorchFunctionMode):
    """In this context, code that asks for float32, half precision or a GPU gets float64 on the CPU."""

    CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)
    FLOATS = (torch.float32, torch.float16, torch.bfloat16)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.CASTS:
            return args[0].double()
        if func is Tensor.cuda:
            return args[0]
        args = [self._here(value, func in (Tensor.to, Tensor.type)) for value in args]
        result = func(*args, **{name: self._here(value, name == "device") for name, value in (kwargs or {}).items()})
        return result.double() if isinstance(result, Tensor) and result.dtype in self.FLOATS else result

    def _here(self, value: Any, may_name_place: bool) -> Any:
        if isinstance(value, torch.dtype):
            return torch.float64 if value in self.FLOATS else value
        if isinstance(value, torch.device):
            return torch.device("cpu") if value.type == "cuda" else value
        if may_name_place and isinstance(value, str):
            if value.startswith("cuda") or value.isdigit():
                return "cpu"
            return "torch.DoubleTensor" if value.endswith(("FloatTensor", "HalfTensor")) else value
        return value


def _twin(module: nn.Module) -> nn.Module:
    """A copy on the CPU in float64, its parameters outside of the encoder at random, of a trained network's size."""
    twin = copy.deepcopy(module, {id(value): value.detach() for value in _kept_results(module)})
    empty = any(tensor.is_meta for tensor in itertools.chain(twin.parameters(), twin.buffers()))
    if empty:
        twin = twin.to_empty(device="cpu")
        for buffer in twin.buffers():
            buffer.zero_()
    twin = twin.cpu().double()
    for name, parameter in twin.named_parameters():
        if empty or not name.startswith("encoder."):
            parameter.copy_(_trained_size(parameter))
    return twin


def _trained_size(parameter: Tensor) -> Tensor:
    """Random values that keep the spread of what goes through a layer (He et al. 2015), and biases that matter."""
    if parameter.dim() < 2:
        return torch.rand_like(parameter) - 0.5
    return torch.randn_like(parameter) * math.sqrt(2 / max(1, parameter[0].numel()))


def _kept_results(module: nn.Module) -> Iterator[Tensor]:
    """Tensors of an autograd graph that a module keeps; deepcopy would refuse them."""
    for part in module.modules():
        for value in vars(part).values():
            several = value.values() if isinstance(value, dict) else value
            items = several if isinstance(several, (list, tuple)) or isinstance(value, dict) else [value]
            yield from (item for item in items if isinstance(item, Tensor) and not item.is_leaf)


class _Trial:
    """What a module answers to random queries, and how far known decoders are from that."""

    def __init__(self, twin: Any, method: str, arguments: Arguments) -> None:
        self.twin, self.method, self.arguments = twin, method, arguments
        self.feature: Tensor | None = None
        self.buffers = [(buffer, buffer.clone()) for buffer in twin.buffers()]
        self._encode()
        self.theirs = [self._ask(training) for training in (False, True)]

    def best(self) -> tuple[Form | None, float]:
        """The form that agrees, or None; and how far the nearest of all is, as a share of the largest answer."""
        nearest = math.inf
        for form in self._forms():
            try:
                distance = self._distance(form)
            # The MLP does not take the rows of this form.
            except Exception:
                continue
            if distance > TOLERANCE:
                form, distance = self._with_skip(form, distance)
            if distance <= TOLERANCE:
                return form, distance
            nearest = min(nearest, distance)
        return None, nearest

    def _encode(self) -> None:
        """Have the module make its features of a random picture; raises what the module raises on the smallest."""
        first: Exception | None = None
        for size in SIZES:
            try:
                self._try_to_encode(size)
                return
            except Exception as error:
                first = first or error
        assert first is not None
        raise first

    def _try_to_encode(self, size: tuple[int, int]) -> None:
        twin, names = self.twin.eval(), self.arguments
        encoder = getattr(twin, "encoder", twin)
        channels = next((layer.in_channels for layer in encoder.modules() if isinstance(layer, nn.Conv2d)), 3)
        picture = torch.rand(2, channels, *size) * 2 - 1
        self.coord = torch.rand(2, QUERIES, 2) * 2.4 - 1.2
        # From a thirtieth of a pixel to two.
        self.cell = 30 ** (torch.rand(2, QUERIES, 2) * 1.2 - 1) * torch.tensor([2 / size[0], 2 / size[1]])
        if names.feature is not None:
            self.feature = getattr(twin, "gen_feature", getattr(twin, "gen_feat", encoder))(picture)
            return
        try:
            twin.gen_feat(picture)
            self._ask(False)
        except AttributeError:
            # Some keep in their forward what their query reads.
            twin(picture, self.coord, *([] if names.cell is None else [self.cell]))
            self._ask(False)

    def _ask(self, training: bool) -> Tensor:
        """The module's own answers."""
        names = self.arguments
        given: dict[str, Any] = {names.coord: self.coord}
        if names.feature is not None:
            given[names.feature] = self.feature
        if "device" in names.others:
            given["device"] = torch.device("cpu")
        self._begin(training)
        query = getattr(self.twin, self.method)
        answer: Tensor
        if names.cell is None:
            answer = query(**given)
            return answer
        try:
            answer = query(**given, **{names.cell: self.cell})
        except Exception as error:
            # Some take one cell for each picture.
            try:
                answer = query(**given, **{names.cell: self.cell[:, 0]})
            except Exception:
                raise error from None
            self.cell = self.cell[:, :1].expand(-1, QUERIES, -1)
        return answer

    def _begin(self, training: bool) -> None:
        """Let both sides start from the same random numbers and running means."""
        self.twin.train(training)
        torch.manual_seed(1)
        for buffer, value in self.buffers:
            buffer.copy_(value)

    def _forms(self) -> Iterator[Form]:
        switches = switches_of(self.twin)
        claimed = list(itertools.product((True, False), repeat=3)) if switches is None else [switches]
        for feature in [None] if self.arguments.feature else self._maps():
            for each in claimed:
                yield Form("liif", self.arguments, feature, Switches(*each))
            if switches is None:
                yield Form("metasr", self.arguments, feature, Switches())

    def _maps(self) -> list[str]:
        """Attributes that hold a picture or a feature map of the batch, the usual one first."""
        found = [name for name, value in vars(self.twin).items() if isinstance(value, Tensor) and value.dim() == 4]
        return sorted(found, key=lambda name: name != "feat")

    def _ours(self, form: Form, training: bool) -> Tensor:
        feat = self.feature if form.feature is None else getattr(self.twin, form.feature)
        assert feat is not None
        self._begin(training)
        if form.kind == "metasr":
            answer = reference.metasr_query(feat, self.coord, self.cell, self.twin.imnet)
        else:
            answer = module_backend.query(feat, (self.coord, self.cell), self.twin.imnet, form.switches)
        return answer if form.skip is None else answer + form.skip.at(self.twin, self.coord)

    def _distance(self, form: Form) -> float:
        return max(self._apart(self._ours(form, training), training) for training in (False, True))

    def _apart(self, ours: Tensor, training: bool) -> float:
        theirs = self.theirs[training]
        if ours.shape != theirs.shape:
            return math.inf
        apart = float((theirs - ours).abs().max() / theirs.abs().max())
        return apart if math.isfinite(apart) else math.inf

    def _with_skip(self, form: Form, distance: float) -> tuple[Form, float]:
        """The form with the picture that has to be added to it, where there is one."""
        plain = self._ours(form, False)
        for attribute in self._maps() if form.kind == "liif" else []:
            if getattr(self.twin, attribute).shape[1] != plain.shape[-1]:
                continue
            for skip in itertools.starmap(Skip, itertools.product([attribute], MODES, PADDINGS, (False, True))):
                if self._apart(plain + skip.at(self.twin, self.coord), False) <= TOLERANCE:
                    full = form._replace(skip=skip)
                    return full, self._distance(full)
        return form, distance
