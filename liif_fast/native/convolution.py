"""Convolutions on a CPU: windows that have the bits of the whole, and training under bfloat16 autocast.

There `convolve` computes in float32 with a quarter of the multiplications (Winograd's F(4 x 4, 3 x 3),
csrc/winograd.cpp), which costs far less accuracy than bfloat16. On a processor without instructions for bfloat16
torch's convolutions of it are slower than those of float32; with them a single one is faster than `convolve`, but a
fused residual block is not.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liif_fast.errors import BackendError
from liif_fast.native import library
from liif_fast.native.tracing import needs_plain_operations

# Looked up once: torch.compile traces through the choice.
WANTED = library.HAS_WINOGRAD
FINISHES = ("", "relu", "add", "select")  # by their numbers in csrc/interface.h


def fits(channels: int, outputs: int, kernel: tuple[int, ...]) -> bool:
    """Whether `convolve` takes a convolution of this shape (stride 1, zero padding 1) and gains by it here."""
    return tuple(kernel) == (3, 3) and channels % 16 == 0 and outputs % 16 == 0 and WANTED


@functools.cache
def _points() -> Tensor:
    """[36, 9]: what the filter becomes at each pair of the six points, G g G^T."""
    rows = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
    side = torch.tensor(rows, dtype=torch.float64) / torch.tensor([[24.0]])
    return torch.kron(side, side).float()


def _transform(kernel: Tensor) -> Tensor:
    """[N, C, 3, 3] -> [36, C, N]."""
    outputs, channels = kernel.shape[:2]
    flat = kernel.permute(2, 3, 1, 0).reshape(9, channels * outputs)
    return (_points().to(kernel.device) @ flat).view(36, channels, outputs)


def _rotated(kernel: Tensor) -> Tensor:
    """The gradient of the input is a convolution of the result's with this kernel."""
    return kernel.flip(2, 3).transpose(0, 1)


def _winograd(
    x: Tensor, kernel: Tensor, bias: Tensor | None = None, finish: str = "", other: Tensor | None = None
) -> Tensor:
    """finish: "", "relu", "add" (`other`), or "select" (where `other` is above zero)."""
    result = _like_result(x, kernel.shape[0])
    x, (batch, channels, height, width) = _channels_last(x, "x"), x.shape
    points = _transform(kernel)
    bias = None if bias is None else bias.contiguous()
    if other is not None:
        if other.shape != result.shape:
            raise BackendError(f"other: expected {list(result.shape)}, got {list(other.shape)}")
        other = _channels_last(other, "other")
    pointers = (None if tensor is None else tensor.data_ptr() for tensor in (x, points, bias, other))
    sizes = batch, height, width, channels, kernel.shape[0], FINISHES.index(finish), torch.get_num_threads()
    _done(library.loaded().liif_winograd(*pointers, *sizes, result.data_ptr()))
    return result


def _winograd_weight(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the kernel [N, C, 3, 3] and the bias [N]."""
    x, grad = _channels_last(x, "x"), _channels_last(grad, "grad")
    (batch, channels, height, width), outputs = x.shape, grad.shape[1]
    if grad.shape != (batch, outputs, height, width):
        raise BackendError(f"grad: expected the size of x, {list(x.shape)}, got {list(grad.shape)}")
    points, bias = torch.zeros(36, channels * outputs), torch.zeros(outputs)
    sizes = batch, height, width, channels, outputs, torch.get_num_threads()
    targets = points.data_ptr(), bias.data_ptr()
    _done(library.loaded().liif_winograd_weight(x.data_ptr(), grad.data_ptr(), *sizes, *targets))
    flat = _points().t() @ points
    return flat.view(3, 3, channels, outputs).permute(3, 2, 0, 1).contiguous(), bias


def _channels_last(map_: Tensor, name: str) -> Tensor:
    if map_.dtype != torch.float32 or not map_.is_cpu or map_.dim() != 4 or map_.shape[1] % 16:
        raise BackendError(
            f"{name}: expected float32 [B, C, H, W] on the CPU with C a multiple of 16, got {map_.dtype} "
            f"{list(map_.shape)} on {map_.device}"
        )
    return map_.contiguous(memory_format=torch.channels_last)


def _done(problem: bytes | None) -> None:
    if problem is not None:
        raise BackendError(problem.decode())


def _like_result(x: Tensor, channels: int) -> Tensor:
    size = (x.shape[0], channels, *x.shape[2:])
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.custom_op("liif_fast::convolve", mutates_args=())
def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """conv2d with padding 1: x [B, C, H, W], kernel [N, C, 3, 3], bias [N] -> [B, N, H, W], channels last, float32."""
    return _winograd(x, kernel, bias)


@convolve.register_fake
def _(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    return _like_result(x, kernel.shape[0])


@torch.library.custom_op("liif_fast::convolve_weight", mutates_args=())
def convolve_weight(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the kernel [N, C, 3, 3] and of the bias [N], from that of the result."""
    return _winograd_weight(x, grad)


@convolve_weight.register_fake
def _(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(grad.shape[1], x.shape[1], 3, 3), x.new_empty(grad.shape[1])


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    x, kernel, bias = inputs
    ctx.with_bias = bias is not None
    ctx.save_for_backward(x, kernel)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, kernel = ctx.saved_tensors
    d_x = convolve(grad, _rotated(kernel), None) if ctx.needs_input_grad[0] else None
    d_kernel, d_bias = None, None
    if ctx.needs_input_grad[1]:
        d_kernel, d_bias = convolve_weight(x, grad)
    elif ctx.with_bias and ctx.needs_input_grad[2]:
        d_bias = grad.sum((0, 2, 3))
    return d_x, d_kernel, d_bias if ctx.with_bias else None


convolve.register_autograd(_differentiate, setup_context=_remember)


@torch.library.custom_op("liif_fast::residual_block", mutates_args=())
def residual_block(
    x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """x [B, C, H, W] -> (x + conv(h), h) with h = relu(conv(x)): in one pass for each convolution, as the backward.

    first, second [C, C, 3, 3], biases [C]; everything float32, the results channels last.
    """
    h = _winograd(x, first, first_bias, "relu")
    return _winograd(h, second, second_bias, "add", x), h


@residual_block.register_fake
def _(x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor) -> tuple[Tensor, Tensor]:
    return _like_result(x, x.shape[1]), _like_result(x, x.shape[1])


@torch.library.custom_op("liif_fast::residual_block_backward", mutates_args=())
def residual_block_backward(
    grad: Tensor, x: Tensor, h: Tensor, first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of residual_block's arguments from that of its first result."""
    d_second, d_second_bias = _winograd_weight(h, grad)
    d_h = _winograd(grad, _rotated(second), None, "select", h)
    d_first, d_first_bias = _winograd_weight(x, d_h)
    return _winograd(d_h, _rotated(first), None, "add", grad), d_first, d_first_bias, d_second, d_second_bias


@residual_block_backward.register_fake
def _(
    grad: Tensor, x: Tensor, h: Tensor, first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    bias = x.new_empty(x.shape[1])
    return _like_result(x, x.shape[1]), torch.empty_like(first), bias, torch.empty_like(second), torch.empty_like(bias)


def _remember_block(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    x, first, _, second, _ = inputs
    _, h = output
    ctx.mark_non_differentiable(h)
    # Else autograd would make zeros of the size of h.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, h, first, second)


def _differentiate_block(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    return residual_block_backward(grad, *ctx.saved_tensors)


residual_block.register_autograd(_differentiate_block, setup_context=_remember_block)


def _bfloat16_wanted(x: Tensor) -> bool:
    """Whether a layer is asked for bfloat16 where `convolve` runs."""
    half = x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not needs_plain_operations(x)
    return half and torch.get_autocast_dtype("cpu") is torch.bfloat16 and WANTED


def _simple(layer: nn.Conv2d) -> bool:
    """Whether `convolve` computes this layer."""
    plain = layer.stride == (1, 1) and layer.padding == (1, 1) and layer.dilation == (1, 1) and layer.groups == 1
    return plain and layer.padding_mode == "zeros" and fits(layer.in_channels, layer.out_channels, layer.kernel_size)


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def fused_residual_block(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor | None:
    """``x + second(relu(first(x)))`` where `Conv2d` takes `convolve` for both and no hook is on them, else None."""
    if not (isinstance(first, Conv2d) and isinstance(second, Conv2d) and _bfloat16_wanted(x)):
        return None
    if not (_simple(first) and _simple(second)) or _hooked(first) or _hooked(second):
        return None
    if first.bias is None or second.bias is None:
        return None
    operands = (x, first.weight, first.bias, second.weight, second.bias)
    with torch.autocast("cpu", enabled=False):
        return residual_block(*(tensor.float() for tensor in operands))[0]


def _steady(x: Tensor, weight: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != torch.float32 or x.numel() == 0:
        return False
    if torch.compiler.is_compiling() or needs_plain_operations(x, weight) or torch.is_autocast_enabled("cpu"):
        return False
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return False
    return bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)


def steady_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    padding: Sequence[int] = (0, 0),
    stride: Sequence[int] = (1, 1),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """F.conv2d that gives a window of a map, channels last, the bits that it has in the whole.

    That is for float32 on a CPU without gradients: torch takes oneDNN for large inputs only, and what it has for small
    ones adds up in another order on some processors (AMD's).
    """
    if _steady(x, weight):
        result: Tensor = torch.mkldnn_convolution(x, weight, bias, padding, stride, dilation, groups)
        return result
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


class Conv2d(nn.Conv2d):
    """nn.Conv2d by `steady_conv2d`; under bfloat16 autocast no slower than without on a CPU that lacks bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        if library.HAS_BF16 or not _bfloat16_wanted(x):
            if self.padding_mode == "zeros" and not isinstance(self.padding, str):
                sides = self.padding, self.stride, self.dilation
                return steady_conv2d(x, self.weight, self.bias, *sides, self.groups)
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            x, weight = x.float(), self.weight.float()
            bias = None if self.bias is None else self.bias.float()
            if _simple(self):
                return convolve(x, weight, bias)
            return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
