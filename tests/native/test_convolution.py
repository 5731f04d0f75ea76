"""Convolutions for training under bfloat16 autocast: exact enough, of any size, and when used."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.golden import seeded
from torch import Tensor, nn

from liif_fast.models.edsr import ResBlock
from liif_fast.native import convolution, library
from liif_fast.native.convolution import (
    Conv2d,
    convolve,
    convolve_weight,
    residual_block,
    residual_block_backward,
    steady_conv2d,
)

needed = pytest.mark.skipif(
    not convolution.fits(16, 16, (3, 3)),
    reason="this processor has neither AVX-512 nor AVX2, or the C++ library is not built",
)
SIZES = [(1, 16, 16, 1, 1), (2, 16, 32, 5, 9), (1, 64, 256, 13, 8), (3, 32, 80, 21, 4)]


def operands(size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    batch, channels, outputs, height, width = size
    drawn = [
        seeded([batch, channels, height, width], 1, 1),
        seeded([outputs, channels, 3, 3], 2, channels**-0.5 / 3),
        seeded([outputs], 3, 1),
    ]
    return [t.to(dtype).requires_grad_() for t in drawn]


def results(size: tuple[int, ...], by: object, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The convolution and its three gradients."""
    leaves = operands(size, dtype)
    x, kernel, bias = leaves
    out: Tensor = convolve(x, kernel, bias) if by is convolve else F.conv2d(x, kernel, bias, padding=1)
    return [out.detach(), *torch.autograd.grad(out, leaves, seeded(list(out.shape), 4, 1).to(dtype))]


@pytest.mark.parametrize(("channels", "outputs", "kernel"), [(3, 8, 3), (8, 8, 3), (8, 16, 3), (64, 64, 3), (64, 8, 1)])
@torch.no_grad()
def test_a_window_has_the_bits_of_the_whole(channels: int, outputs: int, kernel: int) -> None:
    """Also one that is smaller than what torch gives to oneDNN."""
    x = seeded([1, channels, 90, 80], 1, 1).contiguous(memory_format=torch.channels_last)
    weight, bias = seeded([outputs, channels, kernel, kernel], 2, 0.1), seeded([outputs], 3, 1)
    whole, border = steady_conv2d(x, weight, bias), kernel - 1
    torch.testing.assert_close(whole, F.conv2d(x, weight, bias), atol=1e-5, rtol=1e-5)
    for top, left, height, width in ((0, 0, 4, 5), (31, 17, 19, 32), (50, 1, 40, 79), (7, 60, 80, 3), (86, 40, 4, 40)):
        window = x[:, :, top : top + height, left : left + width].clone(memory_format=torch.channels_last)
        want = whole[:, :, top : top + height - border, left : left + width - border]
        assert torch.equal(steady_conv2d(window, weight, bias), want)


@needed
@pytest.mark.parametrize("size", SIZES)
def test_error_is_far_below_that_of_bfloat16(size: tuple[int, ...]) -> None:
    truth = results(size, F.conv2d, torch.float64)
    half = results(size, F.conv2d, torch.bfloat16)
    for ours, theirs, want in zip(results(size, convolve), half, truth, strict=True):
        assert ours.shape == want.shape
        assert (ours - want).norm() <= 0.02 * (theirs - want).norm() + 1e-6 * want.norm()


@needed
def test_the_same_bits_again_and_a_layout_of_any_kind() -> None:
    x, kernel, bias = (t.detach() for t in operands(SIZES[1]))
    want = convolve(x, kernel, bias)
    assert want.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(convolve(x.contiguous(memory_format=torch.channels_last), kernel, bias), want)
    grad = seeded(list(want.shape), 5, 1)
    for first, second in zip(convolve_weight(x, grad), convolve_weight(x, grad), strict=True):
        assert torch.equal(first, second)


@needed
def test_opcheck() -> None:
    x, kernel, bias = operands(SIZES[1])
    assert set(torch.library.opcheck(convolve, (x, kernel, bias)).values()) == {"SUCCESS"}
    assert set(torch.library.opcheck(convolve, (x, kernel, None)).values()) == {"SUCCESS"}
    grad = convolve(x, kernel, bias).detach()
    assert set(torch.library.opcheck(convolve_weight, (x.detach(), grad)).values()) == {"SUCCESS"}


@needed
@pytest.mark.parametrize(("channels", "outputs", "kernel"), [(16, 16, 3), (3, 16, 3), (16, 16, 1)])
def test_a_layer_under_autocast_is_that_of_float32_without_instructions_for_bfloat16(
    monkeypatch: pytest.MonkeyPatch, channels: int, outputs: int, kernel: int
) -> None:
    monkeypatch.setattr(library, "HAS_BF16", False)
    torch.manual_seed(0)
    layer, plain = (make(channels, outputs, kernel, padding=kernel // 2) for make in (Conv2d, nn.Conv2d))
    layer.load_state_dict(plain.state_dict())
    x = seeded([2, channels, 7, 6], 1, 1)
    assert torch.equal(layer(x), plain(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = layer(x.bfloat16())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, plain(x.bfloat16().float()), rtol=1e-5, atol=1e-5)


@needed
def test_a_layer_under_autocast_is_torchs_with_instructions_for_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "HAS_BF16", True)
    layer, plain = Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
    layer.load_state_dict(plain.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(seeded([2, 16, 7, 6], 1, 1)), plain(seeded([2, 16, 7, 6], 1, 1)))


def block_results(block: ResBlock, x: Tensor, half: bool) -> list[Tensor]:
    """The block's result and the gradients of its input and parameters, bfloat16 by autocast."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        out = block(x)
    leaves = [x, *block.parameters()]
    return [out.detach(), *torch.autograd.grad(out, leaves, seeded(list(out.shape), 4, 1).to(out.dtype))]


@needed
@pytest.mark.parametrize("size", [(2, 16, 5, 9), (1, 64, 13, 8)])
def test_a_fused_residual_block_is_that_of_float32(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    block = ResBlock(size[1], 1.0)
    x = seeded(list(size), 1, 1).requires_grad_()
    got = block_results(block, x, True)
    assert got[0].is_contiguous(memory_format=torch.channels_last)
    want = block_results(block.double(), x.detach().double().requires_grad_(), False)
    for ours, theirs in zip(got, want, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@needed
def test_a_fused_block_differs_from_its_layers_by_rounding_alone_and_gives_way_to_hooks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "HAS_BF16", False)
    torch.manual_seed(0)
    block, calls = ResBlock(16, 1.0), []
    x = seeded([2, 16, 9, 7], 1, 1).requires_grad_()
    fused = block_results(block, x, True)
    handle = block.body[2].register_forward_hook(lambda *_: calls.append(1))
    for ours, theirs in zip(fused, block_results(block, x, True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert calls
    handle.remove()
    block_results(block, x, True)
    assert len(calls) == 1


@needed
def test_a_fused_block_keeps_nan_and_needs_no_gradient() -> None:
    block = ResBlock(16, 1.0)
    x = torch.full((1, 16, 4, 4), float("nan"))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert block(x).isnan().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        block.requires_grad_(False)
        assert not block(x).requires_grad


@needed
def test_opcheck_of_the_block() -> None:
    x, kernel, bias = operands((2, 16, 16, 5, 9))
    second, second_bias = (t.detach().flip(0).requires_grad_() for t in (kernel, bias))
    given = (x, kernel, bias, second, second_bias)
    assert set(torch.library.opcheck(residual_block, given).values()) == {"SUCCESS"}
    out, h = (t.detach() for t in residual_block(*given))
    given = (out, x.detach(), h, kernel.detach(), second.detach())
    assert set(torch.library.opcheck(residual_block_backward, given).values()) == {"SUCCESS"}
