"""Pieces that several encoders share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from liif_fast.errors import UsageError
from liif_fast.native.convolution import Conv2d

# Mean colour of DIV2K, in [0, 1].
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def conv(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Conv2d:
    """A convolution with bias that keeps the picture's size (zero padding, odd kernels)."""
    return Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


class MeanShift(nn.Conv2d):
    """Frozen 1 x 1 convolution that adds ``sign * rgb_range * DIV2K_MEAN``.

    The published encoders hold two of them and call neither: normalisation lies outside of the model. They are here
    because checkpoints and optimizer states count them.
    """

    def __init__(self, rgb_range: float, sign: int) -> None:
        super().__init__(3, 3, kernel_size=1)
        with torch.no_grad():
            # On the meta device torch.eye and products would import torch's compiler: 160 MB, and seconds.
            self.weight.zero_().view(3, 3).fill_diagonal_(1)
            self.bias.copy_(sign * rgb_range * torch.tensor(DIV2K_MEAN, device="cpu"))  # type: ignore[union-attr]
        self.requires_grad_(False)


class Upsampler(nn.Sequential):
    """Enlarge by sub-pixel convolution: one step of 3, or as many steps of 2 as `scale` needs."""

    def __init__(self, scale: int, channels: int) -> None:
        layers: list[nn.Module] = []
        for factor in upsampling_steps(scale):
            layers += [conv(channels, factor**2 * channels), nn.PixelShuffle(factor)]
        super().__init__(*layers)


def upsampling_steps(scale: int) -> list[int]:
    """Factors whose product is `scale`. Raises UsageError for what the published encoders do not have."""
    if scale == 3:
        return [3]
    if scale < 1 or scale & (scale - 1):
        raise UsageError(f"expected an encoder scale of 3 or a power of two, got {scale!r}")
    return [2] * (scale.bit_length() - 1)


def tail_radius(steps: list[int], kernel_size: int = 3) -> int:
    """Input pixels that sub-pixel convolutions by `steps` and one convolution after them add to the radius."""
    radius = reach = kernel_size // 2
    for factor in reversed(steps):
        # From pixels after the shuffle to pixels before it (rounded outwards), then one convolution more.
        radius = -(-radius // factor) + reach
    return radius


def add_into(x: Tensor, skip: Tensor) -> Tensor:
    """``x + skip``, written into the fresh tensor `x`: one activation less in memory."""
    x += skip
    return x
