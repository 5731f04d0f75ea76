"""The decoder's weights and switches, apart from any module."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from liif_fast.errors import UsageError

Layers = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # weights and biases of an MLP, layer by layer


class Switches(NamedTuple):
    """How LIIF asks its MLP: see `DecoderParams`."""

    local_ensemble: bool = True
    feat_unfold: bool = True
    cell_decode: bool = True

    @property
    def taps(self) -> int:
        """Feature pixels that one look-up reads: 9 unfolded, else 1."""
        return 9 if self.feat_unfold else 1

    @property
    def extra(self) -> int:
        """Columns of the MLP's input that are no features: relative coordinate and cell."""
        return 4 if self.cell_decode else 2


@dataclass(frozen=True)
class DecoderParams:
    """The MLP f_theta (paper, eq. 1) and the three switches around it.

    weights: layer k is [out_k, in_k]; the first layer's columns are the features (C * 9 in the order
    c*9 + ky*3 + kx with feat_unfold, else C), dy, dx and, with cell_decode, cell_h, cell_w.
    biases: layer k is [out_k]. Between the layers stands a ReLU.

    Raises UsageError when the shapes do not fit each other.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    channels: int
    local_ensemble: bool = True
    feat_unfold: bool = True
    cell_decode: bool = True

    def __post_init__(self) -> None:
        if not self.weights or len(self.weights) != len(self.biases):
            raise UsageError(
                f"expected one bias for each of at least one weight, got {len(self.weights)} weights "
                f"and {len(self.biases)} biases; give a zero bias to a layer that has none"
            )
        width = self.channels * self.taps + self.extra
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if weight.dim() != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
                raise UsageError(
                    f"layer {k}: expected a weight [out, {width}] and a bias [out], got {list(weight.shape)} and "
                    f"{list(bias.shape)}; check channels={self.channels} and the three switches"
                )
            width = weight.shape[0]

    @property
    def taps(self) -> int:
        """Feature pixels that one look-up reads: 9 unfolded, else 1."""
        return 9 if self.feat_unfold else 1

    @property
    def extra(self) -> int:
        """Columns of the first layer that are no features: relative coordinate and cell."""
        return 4 if self.cell_decode else 2

    @property
    def out_dim(self) -> int:
        return int(self.weights[-1].shape[0])

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(int(weight.shape[0]) for weight in self.weights[:-1])

    @classmethod
    def from_mlp(
        cls,
        imnet: nn.Module,
        channels: int,
        *,
        local_ensemble: bool = True,
        feat_unfold: bool = True,
        cell_decode: bool = True,
    ) -> DecoderParams:
        """The weights of an MLP whose `layers` are Linear, ReLU, Linear, ... (shared, not copied)."""
        weights, biases = linear_layers(imnet)
        return cls(weights, biases, channels, local_ensemble, feat_unfold, cell_decode)

    def split(self) -> tuple[Tensor, Tensor]:
        """Layer one as a convolution of the feature map and the rest.

        Returns (kernel [N0, C, k, k] with k = 3 unfolded else 1, rest [N0, 2 or 4]). The layer is linear, so applied
        to the unfolded map its feature columns are a zero-padded convolution, once for each input pixel.
        """
        first = self.weights[0]
        columns = self.channels * self.taps
        side = 3 if self.feat_unfold else 1
        return first[:, :columns].reshape(-1, self.channels, side, side), first[:, columns:]


def linear_layers(imnet: nn.Module) -> Layers:
    """Weights and biases of a plain MLP; UsageError where calling `imnet` is anything else than their arithmetic."""
    layers = plain_layers(imnet)
    if isinstance(layers, str):
        raise UsageError(f"imnet: {layers}; call it as a module, or use the published MLP")
    return layers


def plain_layers(imnet: nn.Module) -> Layers | str:
    """Weights and biases of an MLP where calling it is their arithmetic and nothing else, else a phrase why it is not.

    A plain MLP holds Linear (or Conv2d of 1 x 1) and ReLU in turn, of exactly these classes, in a Sequential or as the
    `layers` of a module whose forward only runs them. Hooks, parametrizations, adapters and replaced forwards make it
    another function than its weights say. The look is quick enough for every call.
    """
    layers: Any = getattr(imnet, "layers", imnet)
    modules: list[Any] = list(layers) if isinstance(layers, (nn.Sequential, nn.ModuleList)) else []
    linears = modules[::2]
    fits = len(modules) % 2 == 1 and all(map(_is_linear, linears))
    if not fits or any(_class_of(module) is not nn.ReLU for module in modules[1::2]):
        names = [_full_name(module) for module in modules] or _full_name(imnet)
        return f"expected `layers` of Linear, ReLU, ..., Linear, got {names}"
    for module in (imnet, layers, *modules):
        if _hooked(module):
            return f"expected its layers alone, got {_full_name(module)} with a hook or a forward of its own"
    weights = tuple(module.weight for module in linears)
    if not all(map(_is_ordinary, weights)):
        return f"expected ordinary tensors as weights, got {_full_name(weights[0])}"
    if _class_of(imnet) is not nn.Sequential and not _only_runs_layers(imnet):
        return f"expected a forward that only runs its layers, got that of {_full_name(imnet)}"
    biases = tuple(
        weight.new_zeros(weight.shape[0]) if module.bias is None else module.bias
        for module, weight in zip(linears, weights, strict=True)
    )
    return tuple(weight if weight.dim() == 2 else weight.flatten(1) for weight in weights), biases


def is_pointwise(module: nn.Module) -> bool:
    """Whether a module is a convolution that is a linear layer at each pixel."""
    if not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1) or module.stride != (1, 1):
        return False
    return module.groups == 1 and module.padding in (0, (0, 0))


def _is_linear(module: nn.Module) -> bool:
    kind = _class_of(module)
    return kind is nn.Linear or (kind is nn.Conv2d and is_pointwise(module))


def _is_ordinary(weight: Tensor) -> bool:
    """Whether a tensor is of no subclass with arithmetic of its own; exports stand fake tensors for ordinary ones."""
    kind = type(weight)
    return kind is nn.Parameter or kind is Tensor or kind.__module__.startswith("torch._subclasses.")


def _class_of(module: nn.Module) -> type[nn.Module]:
    """A module's class; torch.export shows modules as members of a class that it derives from theirs."""
    kind = type(module)
    return kind.__bases__[-1] if torch.compiler.is_compiling() and hasattr(kind, "get_base") else kind


def _hooked(module: Any) -> bool:
    """Whether calling a module does more than its class's forward."""
    hooks = module._forward_pre_hooks or module._forward_hooks or module._backward_pre_hooks or module._backward_hooks
    return bool(hooks) or "forward" in module.__dict__


def _only_runs_layers(imnet: nn.Module) -> bool:
    """Whether the forward of a module with `layers` is theirs; tried once on random rows, and kept in the module.

    What the forward does may depend on the module's own attributes, and so the answer is good for their values only.
    """
    kind = _class_of(imnet)
    if getattr(kind, "plain_forward", None) is kind.forward:
        return True
    kept: tuple[Any, bool] | None = imnet.__dict__.get(_TRIED)
    if torch.compiler.is_compiling():
        return kept is not None and kept[1]
    key = _forward_key(imnet)
    if kept is None or kept[0] != key:
        kept = imnet.__dict__[_TRIED] = key, _try_forward(imnet)
    return kept[1]


_TRIED = "_liif_fast_forward"
# What every module holds, and replicas of DataParallel besides.
_COMMON = {*vars(nn.Module()), "_is_replica", "_former_parameters", _TRIED}


def _forward_key(imnet: nn.Module) -> tuple[Any, ...]:
    own = {name: value for name, value in vars(imnet).items() if name not in _COMMON}
    simple = (int, float, str, bool, type(None))
    values = ((name, value if isinstance(value, simple) else id(value)) for name, value in own.items())
    return id(type(imnet).forward), imnet.training, *values


@torch.no_grad()
def _try_forward(imnet: Any) -> bool:
    others = set(imnet._modules) - {"layers"} | set(imnet._buffers)
    if others or any(p is not None for p in imnet._parameters.values()):
        return False
    try:
        with torch.random.fork_rng(devices=[]), torch.autocast("cpu", enabled=False), torch.device("cpu"):
            layers = copy.deepcopy(imnet.layers).to(device="cpu", dtype=torch.float64)
            twin = copy.copy(imnet)
            twin._modules = {"layers": layers}
            for parameter in layers.parameters():
                parameter.copy_(torch.rand_like(parameter) - 0.5)
            convolutional = isinstance(layers[0], nn.Conv2d)
            width = layers[0].weight.shape[1]
            rows = torch.rand(5, width, 1, 1, dtype=torch.float64) if convolutional else torch.rand(5, width).double()
            expected = rows
            for layer in layers:
                expected = layer(expected)
            return bool(torch.allclose(twin(rows), expected, rtol=1e-9, atol=1e-9))
    # A forward that cannot be tried is called as it is.
    except Exception:
        return False


def _full_name(thing: object) -> str:
    """A class's name, with its module where that is not torch.nn."""
    kind = type(thing)
    home = "" if kind.__module__.startswith("torch.nn.modules.") else f"{kind.__module__}."
    return f"{home}{kind.__qualname__}"
