"""Picture quality: PSNR as super-resolution papers count it."""

from __future__ import annotations

import torch
from torch import Tensor

from liif_fast.errors import UsageError

# The weights of ITU-R BT.601 luma: of RGB in [0, 1], over the range [16, 235] / 256.
LUMA = (65.738 / 256, 129.057 / 256, 25.064 / 256)


def border(mode: str | None, scale: int) -> int:
    """The number of pixels that a mode leaves out at every side: 0, `scale` (benchmark) or `scale + 6` (div2k)."""
    widths = {None: 0, "benchmark": scale, "div2k": scale + 6}
    if mode not in widths:
        raise UsageError(f"psnr mode: expected None, 'benchmark' or 'div2k', got {mode!r}")
    return widths[mode]


def psnr(sr: Tensor, hr: Tensor, mode: str | None = None, scale: int = 1, rgb_range: float = 1) -> Tensor:
    """The peak signal-to-noise ratio in dB over a batch, as a scalar tensor; infinite for equal pictures.

    sr, hr: [B, C, H, W] of values in [0, rgb_range].
    mode: None counts every value; `benchmark` counts the luma (of three channels) without the `border`; `div2k` counts
        every channel without the border.
    Raises UsageError for different shapes, an unknown mode, or pictures that are all border.
    """
    if sr.shape != hr.shape:
        raise UsageError(f"psnr: expected two pictures of one shape, got {tuple(sr.shape)} and {tuple(hr.shape)}")
    difference = (sr - hr) / rgb_range
    margin = border(mode, scale)
    if mode == "benchmark" and difference.shape[1] == 3:
        luma = difference.new_tensor(LUMA).view(1, 3, 1, 1)
        difference = (difference * luma).sum(dim=1, keepdim=True)
    height, width = difference.shape[-2:]
    inner = difference[..., margin : height - margin, margin : width - margin]
    if inner.numel() == 0:
        raise UsageError(f"psnr: expected pictures larger than the border of {margin}, got {height} x {width}")
    return -10 * torch.log10(inner.square().mean())


def parse_mode(eval_type: str | None) -> tuple[str | None, int]:
    """Splits a config's `eval_type` (none, `div2k-N` or `benchmark-N`) into (mode, scale); UsageError for another."""
    if eval_type is None or eval_type == "none":
        return None, 1
    mode, _, scale = str(eval_type).partition("-")
    if mode not in ("div2k", "benchmark") or not scale.isdigit():
        raise UsageError(f"eval_type: expected none, div2k-N or benchmark-N, got {eval_type!r}")
    return mode, int(scale)
