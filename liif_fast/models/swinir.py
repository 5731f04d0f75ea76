"""SwinIR (Liang et al. 2021, "SwinIR: Image Restoration Using Swin Transformer") as an encoder.

Blocks of attention inside of windows of 8 x 8 pixels, every second one with the windows moved by half their size. The
keys are those of the encoders that LIIF's descendants publish.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liif_fast.errors import UsageError
from liif_fast.models.registry import register

WIDTH = 64  # channels of the feature map
CHUNK = 1024  # windows at a time without gradients
MASKED = -100.0  # added to the attention between pixels that are no neighbours, as published


class Mlp(nn.Module):
    """Two linear layers with GELU in between, on the last axis."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.fc2(self.act(self.fc1(x)))
        return answer


class WindowAttention(nn.Module):
    """Multi-head attention among the pixels of a window, with a learnt bias for each relative position."""

    relative_position_index: Tensor

    def __init__(self, width: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        apart = place.unsqueeze(2) - place.unsqueeze(1) + window - 1
        self.register_buffer("relative_position_index", apart[0] * (2 * window - 1) + apart[1])
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: [windows, pixels, width]; mask: [windows, pixels, pixels], added to the logits -> as x."""
        windows, pixels, width = x.shape
        query, key, value = self.qkv(x).view(windows, pixels, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).unsqueeze(0)
        if mask is not None:
            bias = bias + mask.to(bias.dtype).unsqueeze(1)
        attended = F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype))
        answer: Tensor = self.proj(attended.transpose(1, 2).reshape(windows, pixels, width))
        return answer


class SwinBlock(nn.Module):
    """Attention in windows, then the MLP, each added to its input. `drop` is the chance to leave a sample out."""

    attn_mask: Tensor | None

    def __init__(self, width: int, heads: int, window: int, shift: int, hidden: int, drop: float, side: int) -> None:
        super().__init__()
        self.window, self.shift, self.drop = window, shift, drop
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, window, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden)
        # Of pictures of the training's size; published files hold it.
        self.register_buffer("attn_mask", self._mask(side, side, None) if shift else None)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, width], H and W multiples of the window."""
        x = x + self._kept(self._attend(self.norm1(x)))
        return x + self._kept(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        moved = x.roll((-self.shift, -self.shift), (1, 2)) if self.shift else x
        windows = _windows(moved, self.window)
        mask = self._mask(height, width, x.device).repeat(batch, 1, 1) if self.shift else None
        size = len(windows) if torch.is_grad_enabled() or torch.compiler.is_compiling() else CHUNK
        parts = [
            self.attn(windows[k : k + size], None if mask is None else mask[k : k + size])
            for k in range(0, len(windows), size)
        ]
        whole = _unwindowed(parts[0] if len(parts) == 1 else torch.cat(parts), self.window, (batch, height, width))
        return whole.roll((self.shift, self.shift), (1, 2)) if self.shift else whole

    def _mask(self, height: int, width: int, device: torch.device | None) -> Tensor:
        """[windows, pixels, pixels]: MASKED between pixels that the move brought together from opposite edges."""
        kept = self.attn_mask if "attn_mask" in self._buffers else None
        count = (height // self.window) * (width // self.window)
        if kept is not None and height == width and kept.shape[0] == count and kept.device == device:
            return kept
        parts = []
        for n in (height, width):
            index = torch.arange(n, device=device)
            parts.append((index >= n - self.window).long() + (index >= n - self.shift).long())
        region = (3 * parts[0].view(-1, 1) + parts[1]).view(1, height, width, 1)
        flat = _windows(region, self.window).squeeze(-1)
        return torch.where(flat.unsqueeze(1) == flat.unsqueeze(2), 0.0, MASKED)

    def _kept(self, residual: Tensor) -> Tensor:
        """Stochastic depth: in training, a sample's residual is left out by chance, the others grow accordingly."""
        if not self.training or self.drop == 0:
            return residual
        keep = torch.rand(residual.shape[0], 1, 1, 1, dtype=residual.dtype, device=residual.device) >= self.drop
        return residual * keep / (1 - self.drop)


class Blocks(nn.Module):
    """Swin blocks, one after another."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class ResidualGroup(nn.Module):
    """A residual Swin transformer block: Swin blocks and a 3 x 3 convolution, added to their input."""

    def __init__(self, width: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.residual_group = Blocks(blocks)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, width]."""
        return _last(self.conv(_first(self.residual_group(x)))) + x


class PatchNorm(nn.Module):
    """The norm before the first block, under its published name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.norm(x)
        return answer


@register("swinir")
class SwinIR(nn.Module):
    """Shifted-window attention.

    Args:
        no_upsampling: must be on: the published encoders of this name end with the features.
        img_size: side of the pictures in training; it sets the size of a constant in the file, nothing else.
        embed_dim: width inside.
        depths: Swin blocks in each group.
        num_heads: heads of attention in each group.
        window_size: side of a window. The picture is continued by reflection to a multiple of it.
        mlp_ratio: how much wider the hidden layer of a block is.
        drop_path_rate: chance to leave out the last block in training, the others' are smaller.
        n_colors: channels of the input.

    ``forward`` maps ``[B, n_colors, H, W]`` to ``[B, 64, H, W]``. Every feature can depend on the whole picture, and
    the windows start at its top left corner, so that it is not cut into tiles.
    """

    receptive_radius = None
    scale = 1

    def __init__(
        self,
        no_upsampling: bool = True,
        img_size: int = 48,
        embed_dim: int = 180,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6, 6, 6),
        window_size: int = 8,
        mlp_ratio: float = 2,
        drop_path_rate: float = 0.1,
        n_colors: int = 3,
    ) -> None:
        super().__init__()
        if not no_upsampling:
            raise UsageError("swinir: expected no_upsampling=True, got False: as an encoder it ends with the features")
        if len(depths) != len(num_heads) or any(embed_dim % heads for heads in num_heads):
            raise UsageError(
                f"swinir: expected heads that divide embed_dim={embed_dim} for each depth, got {num_heads}"
            )
        self.window_size, self.out_dim = window_size, WIDTH
        self.conv_first = nn.Conv2d(n_colors, embed_dim, 3, padding=1)
        self.patch_embed = PatchNorm(embed_dim)
        drops = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        shifts, hidden = (0, window_size // 2), int(embed_dim * mlp_ratio)
        self.layers = nn.ModuleList(
            ResidualGroup(
                embed_dim,
                [
                    SwinBlock(embed_dim, heads, window_size, shifts[k % 2], hidden, next(drops), img_size)
                    for k in range(depth)
                ],
            )
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(embed_dim, WIDTH, 3, padding=1), nn.LeakyReLU())
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        shallow = self.conv_first(_continued(x, self.window_size))
        body = self.patch_embed(_last(shallow))
        for layer in self.layers:
            body = layer(body)
        features: Tensor = self.conv_before_upsample(self.conv_after_body(_first(self.norm(body))) + shallow)
        return features[:, :, :height, :width]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)


def _continued(x: Tensor, multiple: int) -> Tensor:
    """x [B, C, H, W], reflected at the lower and the right edge up to multiples of a number."""
    for axis in (2, 3):
        n = x.shape[axis]
        wanted = -(-n // multiple) * multiple
        if wanted != n:
            # The index goes back and forth between the edges, as often as a picture smaller than its margin needs.
            index = torch.arange(wanted, device=x.device) % max(1, 2 * n - 2)
            x = x.index_select(axis, torch.minimum(index, 2 * n - 2 - index) if n > 1 else index * 0)
    return x


def _windows(x: Tensor, side: int) -> Tensor:
    """[B, H, W, C] -> [windows, side * side, C]."""
    batch, height, width, channels = x.shape
    cut = x.view(batch, height // side, side, width // side, side, channels)
    return cut.transpose(2, 3).reshape(-1, side * side, channels)


def _unwindowed(windows: Tensor, side: int, size: tuple[int, int, int]) -> Tensor:
    """The inverse of `_windows`; size: [B, H, W]."""
    batch, height, width = size
    cut = windows.view(batch, height // side, width // side, side, side, -1)
    return cut.transpose(2, 3).reshape(batch, height, width, -1)


def _last(x: Tensor) -> Tensor:
    """The channels behind the pixels: [B, C, H, W] -> [B, H, W, C]."""
    return x.permute(0, 2, 3, 1)


def _first(x: Tensor) -> Tensor:
    """The channels before the pixels: [B, H, W, C] -> [B, C, H, W]."""
    return x.permute(0, 3, 1, 2)
