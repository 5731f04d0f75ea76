"""The decoder's weights and switches, apart from any module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from liif_fast.errors import UsageError


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


def linear_layers(imnet: nn.Module) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Weights and biases of an MLP made of Linear and ReLU in turn; UsageError when it is anything else."""
    layers: Any = getattr(imnet, "layers", imnet)
    modules = list(layers) if isinstance(layers, (nn.Sequential, nn.ModuleList)) else []
    fits = len(modules) % 2 == 1 and all(
        isinstance(module, nn.Linear if k % 2 == 0 else nn.ReLU) for k, module in enumerate(modules)
    )
    if not fits:
        names = [type(module).__name__ for module in modules] or type(imnet).__name__
        raise UsageError(f"imnet: expected `layers` of Linear, ReLU, ..., Linear, got {names}; use the published MLP")
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    biases = tuple(m.weight.new_zeros(m.out_features) if m.bias is None else m.bias for m in linears)
    return tuple(m.weight for m in linears), biases
