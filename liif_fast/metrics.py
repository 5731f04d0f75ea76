"""Picture quality: PSNR as super-resolution papers count it."""

from __future__ import annotations

import torch
from torch import Tensor

# ITU-R BT.601 luma of [0, 1] RGB over the range [16, 235] / 256
LUMA = (65.738 / 256, 129.057 / 256, 25.064 / 256)


def psnr(sr: Tensor, hr: Tensor, mode: str | None = None, scale: int = 1, rgb_range: float = 1) -> Tensor:
    """Peak signal-to-noise ratio in dB over a batch, as a scalar tensor; infinite for equal pictures.

    sr, hr: [B, C, H, W] of values in [0, rgb_range].
    mode: None counts every value; `benchmark` the luma (of three channels) without a border of `scale`
        pixels; `div2k` every channel without a border of `scale + 6` pixels.
    Raises ValueError for unlike shapes, an unknown mode, or pictures that the border uses up.
    """
    if sr.shape != hr.shape:
        raise ValueError(f"psnr: expected two pictures of one shape, got {tuple(sr.shape)} and {tuple(hr.shape)}")
    difference = (sr - hr) / rgb_range
    if mode == "benchmark":
        border = scale
        if difference.shape[1] == 3:
            luma = difference.new_tensor(LUMA).view(1, 3, 1, 1)
            difference = (difference * luma).sum(dim=1, keepdim=True)
    elif mode == "div2k":
        border = scale + 6
    elif mode is None:
        border = 0
    else:
        raise ValueError(f"psnr mode: expected None, 'benchmark' or 'div2k', got {mode!r}")
    height, width = difference.shape[-2:]
    inner = difference[..., border : height - border, border : width - border]
    if inner.numel() == 0:
        raise ValueError(f"psnr: expected pictures larger than the border of {border}, got {height} x {width}")
    return -10 * torch.log10(inner.square().mean())


def parse_mode(eval_type: str | None) -> tuple[str | None, int]:
    """(mode, scale) of a config's `eval_type`: none, `div2k-N` or `benchmark-N`."""
    if eval_type is None or eval_type == "none":
        return None, 1
    mode, _, scale = eval_type.partition("-")
    if mode not in ("div2k", "benchmark") or not scale.isdigit():
        raise ValueError(f"eval_type: expected none, div2k-N or benchmark-N, got {eval_type!r}")
    return mode, int(scale)
