"""EDSR (Lim et al. 2017, "Enhanced Deep Residual Networks for Single Image Super-Resolution") as an encoder."""

from __future__ import annotations

from torch import Tensor, nn

from liif_fast.models.layers import MeanShift, Upsampler, add_into, conv, tail_radius, upsampling_steps
from liif_fast.models.registry import register
from liif_fast.native.convolution import fused_residual_block


class ResBlock(nn.Module):
    """``x + res_scale * conv(relu(conv(x)))``."""

    def __init__(self, n_feats: int, res_scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(n_feats, n_feats), nn.ReLU(inplace=True), conv(n_feats, n_feats))
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        if self.res_scale == 1:
            fused = fused_residual_block(x, self.body[0], self.body[2])
            if fused is not None:
                return fused
        residual = self.body(x)
        if self.res_scale != 1:
            residual = residual * self.res_scale
        return add_into(residual, x)


class EDSR(nn.Module):
    """Residual blocks without normalisation layers.

    Args:
        n_resblocks, n_feats, res_scale: depth, width, factor on each residual.
        scale: how much larger the output is, where `no_upsampling` is off.
        no_upsampling: end with the features at the input's size (what LIIF uses) instead of a picture.
        rgb_range: only sets the constants of the unused mean shift.
        n_colors: channels of the input, and of the output where it is a picture.

    ``forward`` maps ``[B, n_colors, H, W]`` to ``[B, out_dim, H * scale, W * scale]``.
    """

    def __init__(
        self,
        n_resblocks: int,
        n_feats: int,
        res_scale: float,
        scale: int = 2,
        no_upsampling: bool = False,
        rgb_range: float = 1,
        n_colors: int = 3,
    ) -> None:
        super().__init__()
        self.sub_mean = MeanShift(rgb_range, sign=-1)
        self.add_mean = MeanShift(rgb_range, sign=1)
        self.head = nn.Sequential(conv(n_colors, n_feats))
        blocks: list[nn.Module] = [ResBlock(n_feats, res_scale) for _ in range(n_resblocks)]
        self.body = nn.Sequential(*blocks, conv(n_feats, n_feats))
        self.tail: nn.Sequential | None = None
        # One pixel for the head, two for each block, one for the convolution that ends the body.
        self.receptive_radius = 1 + 2 * n_resblocks + 1
        if no_upsampling:
            self.out_dim, self.scale = n_feats, 1
        else:
            self.out_dim, self.scale = n_colors, scale
            self.tail = nn.Sequential(Upsampler(scale, n_feats), conv(n_feats, n_colors))
            self.receptive_radius += tail_radius(upsampling_steps(scale))

    def forward(self, x: Tensor) -> Tensor:
        head = self.head(x)
        body = add_into(self.body(head), head)
        return body if self.tail is None else self.tail(body)


@register("edsr-baseline")
def edsr_baseline(
    n_resblocks: int = 16,
    n_feats: int = 64,
    res_scale: float = 1,
    scale: int = 2,
    no_upsampling: bool = False,
    rgb_range: float = 1,
    n_colors: int = 3,
) -> EDSR:
    """EDSR at the baseline's size: 16 blocks of 64 channels."""
    return EDSR(n_resblocks, n_feats, res_scale, scale, no_upsampling, rgb_range, n_colors)


@register("edsr")
def edsr(
    n_resblocks: int = 32,
    n_feats: int = 256,
    res_scale: float = 0.1,
    scale: int = 2,
    no_upsampling: bool = False,
    rgb_range: float = 1,
    n_colors: int = 3,
) -> EDSR:
    """EDSR at full size: 32 blocks of 256 channels."""
    return EDSR(n_resblocks, n_feats, res_scale, scale, no_upsampling, rgb_range, n_colors)
