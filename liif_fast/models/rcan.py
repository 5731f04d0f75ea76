"""RCAN (Zhang et al. 2018, "Image Super-Resolution Using Very Deep Residual Channel Attention Networks")."""

from __future__ import annotations

from torch import Tensor, nn

from liif_fast.models.layers import MeanShift, Upsampler, add_into, conv
from liif_fast.models.registry import register


class ChannelAttention(nn.Module):
    """Each channel scaled by a factor in (0, 1) that depends on the means of all channels over the whole picture."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv_du = nn.Sequential(
            conv(channels, channels // reduction, 1),
            nn.ReLU(inplace=True),
            conv(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        attention: Tensor = self.conv_du(self.avg_pool(x))
        return x * attention


class Residual(nn.Module):
    """``x + body(x)``."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return add_into(self.body(x), x)


@register("rcan")
class RCAN(nn.Module):
    """Groups of residual blocks with channel attention.

    Args:
        n_resgroups, n_resblocks, n_feats: groups, blocks in each, channels.
        reduction: how much narrower the middle of the attention is.
        scale: 3 or a power of two, where `no_upsampling` is off.
        no_upsampling: end with the features at the input's size (what LIIF uses) instead of a picture.
        rgb_range: only sets the constants of the unused mean shift.
        n_colors: channels of the input, and of the output where it is a picture.

    ``forward`` maps ``[B, n_colors, H, W]`` to ``[B, out_dim, H * scale, W * scale]``. The attention pools over the
    whole picture, so `receptive_radius` is None: tiles give another result than the whole.
    """

    receptive_radius: int | None = None

    def __init__(
        self,
        n_resgroups: int = 10,
        n_resblocks: int = 20,
        n_feats: int = 64,
        reduction: int = 16,
        scale: int = 2,
        no_upsampling: bool = False,
        rgb_range: float = 1,
        n_colors: int = 3,
    ) -> None:
        super().__init__()
        self.sub_mean = MeanShift(rgb_range, sign=-1)
        self.add_mean = MeanShift(rgb_range, sign=1)
        self.head = nn.Sequential(conv(n_colors, n_feats))
        groups = (_group(n_resblocks, n_feats, reduction) for _ in range(n_resgroups))
        self.body = nn.Sequential(*groups, conv(n_feats, n_feats))
        self.tail: nn.Sequential | None = None
        if no_upsampling:
            self.out_dim, self.scale = n_feats, 1
        else:
            self.out_dim, self.scale = n_colors, scale
            self.tail = nn.Sequential(Upsampler(scale, n_feats), conv(n_feats, n_colors))

    def forward(self, x: Tensor) -> Tensor:
        head = self.head(x)
        body = add_into(self.body(head), head)
        return body if self.tail is None else self.tail(body)


def _group(n_resblocks: int, n_feats: int, reduction: int) -> Residual:
    return Residual(*(_block(n_feats, reduction) for _ in range(n_resblocks)), conv(n_feats, n_feats))


def _block(n_feats: int, reduction: int) -> Residual:
    return Residual(
        conv(n_feats, n_feats),
        nn.ReLU(inplace=True),
        conv(n_feats, n_feats),
        ChannelAttention(n_feats, reduction),
    )
