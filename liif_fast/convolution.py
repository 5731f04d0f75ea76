"""3 x 3 convolutions for training in half precision on a CPU that has no instructions for it.

There torch's bfloat16 convolutions are slower than its float32 ones. These compute in float32 with a quarter of the
multiplications (Winograd's F(4 x 4, 3 x 3), csrc/winograd.cpp), which costs far less accuracy than bfloat16.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liif_fast import extension

# Looked up once: torch.compile traces through the choice.
WANTED = (
    extension.import_error is None
    and extension.BEST["bf16"] != "brgemm-bf16"
    and bool(torch.ops.liif_fast.cpu_winograd_works())
)


def fits(channels: int, outputs: int, kernel: tuple[int, ...]) -> bool:
    """Whether `convolve` takes a convolution of this shape (stride 1, zero padding 1) and gains by it here."""
    return tuple(kernel) == (3, 3) and channels % 16 == 0 and outputs % 16 == 0 and WANTED


@functools.cache
def _points() -> Tensor:
    """[36, 9]: what the filter becomes at each pair of the six points, G g G^T."""
    rows = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
    side = torch.tensor(rows, dtype=torch.float64) / torch.tensor([[24.0]])
    return torch.kron(side, side).float()


def _turn(kernel: Tensor) -> Tensor:
    """[N, C, 3, 3] -> [36, C, N]."""
    outputs, channels = kernel.shape[:2]
    flat = kernel.permute(2, 3, 1, 0).reshape(9, channels * outputs)
    return (_points().to(kernel.device) @ flat).view(36, channels, outputs)


@torch.library.custom_op("liif_fast::convolve", mutates_args=())
def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """conv2d with padding 1: x [B, C, H, W], kernel [N, C, 3, 3], bias [N] -> [B, N, H, W], channels last, float32."""
    found: Tensor = torch.ops.liif_fast.cpu_winograd(x, _turn(kernel), bias)
    return found


@convolve.register_fake
def _(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    size = (x.shape[0], kernel.shape[0], *x.shape[2:])
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.custom_op("liif_fast::convolve_weight", mutates_args=())
def convolve_weight(x: Tensor, grad: Tensor) -> Tensor:
    """The kernel's gradient [N, C, 3, 3] from that of the result."""
    found = torch.ops.liif_fast.cpu_winograd_weight(x, grad)
    flat = _points().t() @ found.view(36, -1)
    return flat.view(3, 3, x.shape[1], grad.shape[1]).permute(3, 2, 0, 1).contiguous()


@convolve_weight.register_fake
def _(x: Tensor, grad: Tensor) -> Tensor:
    return x.new_empty(grad.shape[1], x.shape[1], 3, 3)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    x, kernel, bias = inputs
    ctx.with_bias = bias is not None
    ctx.save_for_backward(x, kernel)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, kernel = ctx.saved_tensors
    # The gradient of the input is a convolution with the kernel turned round.
    d_x = convolve(grad, kernel.flip(2, 3).transpose(0, 1), None) if ctx.needs_input_grad[0] else None
    d_kernel = convolve_weight(x, grad) if ctx.needs_input_grad[1] else None
    d_bias = grad.sum((0, 2, 3)) if ctx.with_bias and ctx.needs_input_grad[2] else None
    return d_x, d_kernel, d_bias


convolve.register_autograd(_differentiate, setup_context=_remember)


class Conv2d(nn.Conv2d):
    """nn.Conv2d that under bfloat16 autocast on a CPU without bfloat16 instructions is not slower than without."""

    def forward(self, x: Tensor) -> Tensor:
        half = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not (half and torch.get_autocast_dtype("cpu") is torch.bfloat16 and WANTED):
            return super().forward(x)
        plain = self.stride == (1, 1) and self.padding == (1, 1) and self.dilation == (1, 1) and self.groups == 1
        with torch.autocast("cpu", enabled=False):
            x, weight = x.float(), self.weight.float()
            bias = None if self.bias is None else self.bias.float()
            if plain and self.padding_mode == "zeros" and fits(self.in_channels, self.out_channels, self.kernel_size):
                return convolve(x, weight, bias)
            return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
