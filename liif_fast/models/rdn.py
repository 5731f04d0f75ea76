"""RDN (Zhang et al. 2018, "Residual Dense Network for Image Super-Resolution") as an encoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from liif_fast.errors import UsageError
from liif_fast.models.layers import add_into, conv, tail_radius
from liif_fast.models.registry import register


class Size(NamedTuple):
    """Numbers of blocks and of dense layers in each, and the channels each layer adds (D, C, G of the paper)."""

    blocks: int
    layers: int
    growth: int


SIZES = {"A": Size(20, 6, 32), "B": Size(16, 8, 64)}
STEPS = {2: [2], 3: [3], 4: [2, 2]}


class DenseLayer(nn.Module):
    """Convolution and ReLU, put behind the channels that came in."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(in_channels, growth), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(x)), dim=1)


class DenseBlock(nn.Module):
    """Dense layers, a 1 x 1 convolution back to the block's width, and the block's input added."""

    def __init__(self, width: int, size: Size) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(DenseLayer(width + k * size.growth, size.growth) for k in range(size.layers)))
        self.LFF = conv(width + size.layers * size.growth, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return add_into(self.LFF(self.convs(x)), x)


@register("rdn")
class RDN(nn.Module):
    """Residual dense network.

    Args:
        G0: channels of the feature map.
        RDNkSize: kernel size (odd) of the convolutions outside of the dense blocks; inside it is 3.
        RDNconfig: "A" (20 blocks of 6 layers, growth 32) or "B" (16 of 8, growth 64).
        scale: 2, 3 or 4, where `no_upsampling` is off.
        no_upsampling: end with the features at the input's size (what LIIF uses) instead of a picture.
        n_colors: channels of the input, and of the output where it is a picture.

    ``forward`` maps ``[B, n_colors, H, W]`` to ``[B, out_dim, H * scale, W * scale]``.
    """

    def __init__(
        self,
        G0: int = 64,
        RDNkSize: int = 3,
        RDNconfig: str = "B",
        scale: int = 2,
        no_upsampling: bool = False,
        n_colors: int = 3,
    ) -> None:
        super().__init__()
        if RDNconfig not in SIZES:
            raise UsageError(f"expected RDNconfig out of {', '.join(SIZES)}, got {RDNconfig!r}")
        size = SIZES[RDNconfig]
        self.SFENet1 = conv(n_colors, G0, RDNkSize)
        self.SFENet2 = conv(G0, G0, RDNkSize)
        self.RDBs = nn.ModuleList(DenseBlock(G0, size) for _ in range(size.blocks))
        self.GFF = nn.Sequential(conv(size.blocks * G0, G0, 1), conv(G0, G0, RDNkSize))
        self.UPNet: nn.Sequential | None = None
        # Three convolutions outside of the blocks, one 3 x 3 for each layer of each block.
        self.receptive_radius = 3 * (RDNkSize // 2) + size.blocks * size.layers
        if no_upsampling:
            self.out_dim, self.scale = G0, 1
            return
        if scale not in STEPS:
            raise UsageError(f"expected an RDN scale out of 2, 3, 4, got {scale!r}")
        self.out_dim, self.scale = n_colors, scale
        self.UPNet = _upsampling_net(G0, size.growth, n_colors, RDNkSize, STEPS[scale])
        self.receptive_radius += tail_radius(STEPS[scale], RDNkSize)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.SFENet1(x)
        x = self.SFENet2(shallow)
        outputs = []
        for block in self.RDBs:
            x = block(x)
            outputs.append(x)
        x = add_into(self.GFF(torch.cat(outputs, dim=1)), shallow)
        return x if self.UPNet is None else self.UPNet(x)


def _upsampling_net(width: int, growth: int, n_colors: int, kernel_size: int, steps: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for factor in steps:
        layers += [conv(width, growth * factor**2, kernel_size), nn.PixelShuffle(factor)]
        width = growth
    return nn.Sequential(*layers, conv(width, n_colors, kernel_size))
