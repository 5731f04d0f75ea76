"""From tensors to a launch of the forward kernel: packing of the weights, constants, grid."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from liif_fast.backends.call import Coordinates
from liif_fast.geometry import SHIFT_EPS, Grid, Window
from liif_fast.kernels import kept
from liif_fast.kernels.configs import FULL, Tile
from liif_fast.kernels.forward import liif_forward

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, **dict.fromkeys(FULL, torch.float32)}
DOT = {"fp16": tl.float16, "bf16": tl.bfloat16, **dict.fromkeys(FULL, tl.float32)}
INPUT_PRECISION = {"tf32": "tf32", "tf32x3": "tf32x3"}  # of float32 operands, "ieee" for any other
OUT = 16  # columns of the last layer: the narrowest matrix instruction
MOST_PICTURES = 65_535  # what CUDA allows in a grid's second dimension


class Packed(NamedTuple):
    """The weights as the kernel reads them: [in, out], widths padded with zeros to a power of two."""

    kernel: Tensor | None  # [taps, channels rounded up, width], direct only
    rest: Tensor  # [2 or 4, width] float32
    middle: Tensor  # [hidden - 1, width, width]
    last: Tensor  # [width, OUT]
    biases: Tensor  # [hidden, width] float32
    last_bias: Tensor  # [OUT] float32


def padded_width(width: int) -> int:
    """The power of two, at least 16, that a layer of this width is computed in."""
    return max(16, 1 << (width - 1).bit_length())


def pack(
    kernel: Tensor | None,
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    dtype: torch.dtype,
    chans: int,
) -> Packed:
    """kernel [N, C, k, k] or None, rest [N, 2 or 4], weights of the layers after the first, biases of all.

    dtype is that of the operands; chans is what the channels of kernel are rounded up to a multiple of.
    """
    n = rest.shape[0]
    gap = padded_width(n) - n
    inner = [F.pad(weight.t(), (0, gap, 0, gap)) for weight in weights[:-1]] or [rest.new_zeros(1, 1)]
    last = F.pad(weights[-1].t(), (0, OUT - weights[-1].shape[0], 0, gap))
    taps = None
    if kernel is not None:
        ordered = kernel.permute(2, 3, 1, 0).flatten(0, 1)
        taps = F.pad(ordered, (0, gap, 0, -kernel.shape[1] % chans)).to(dtype).contiguous()
    return Packed(
        taps,
        F.pad(rest.t(), (0, gap)).float().contiguous(),
        torch.stack(inner).to(dtype),
        last.to(dtype).contiguous(),
        F.pad(torch.stack(list(biases[:-1])), (0, gap)).float(),
        F.pad(biases[-1], (0, OUT - biases[-1].shape[0])).float(),
    )


def packed(
    kernel: Tensor | None,
    rest: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    dtype: torch.dtype,
    chans: int,
) -> Packed:
    """`pack`, kept on a GPU while the weights do not change: packing takes as long as many queries."""
    given = [tensor for tensor in (kernel, rest, *weights, *biases) if tensor is not None]
    kind = "triton", kernel is None, dtype, chans
    return kept.kept(given, kind, lambda: pack(kernel, rest, weights, biases, dtype, chans))


def forward(
    source: Tensor,
    where: Coordinates | Grid,
    weights: Packed,
    channels: int,
    out_dim: int,
    window: Window,
    *,
    local_ensemble: bool,
    cell_decode: bool,
    precision: str,
    tile: Tile,
) -> Tensor:
    """One launch on the source's device and current stream: [B, Q, out_dim] float32.

    source: projected map [B, h, w, N], or features [B, C, h, w] where weights.kernel is given; any strides (a stride of
    1 along the channels is the fast one). where: (coord, cell or None) [B, Q, 2], or a Grid.
    """
    if source.shape[0] > MOST_PICTURES:
        starts = range(0, source.shape[0], MOST_PICTURES)
        options: dict[str, Any] = {
            "local_ensemble": local_ensemble, "cell_decode": cell_decode, "precision": precision, "tile": tile
        }  # fmt: skip
        parts = [_pictures(source, where, first) for first in starts]
        return torch.cat([forward(*part, weights, channels, out_dim, window, **options) for part in parts])
    direct = weights.kernel is not None
    if direct:
        # A stride along the channels would fetch a sector of memory for each value.
        source = source.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    batch, rows, cols, _ = source.shape
    stride_b, stride_y, stride_x, stride_c = source.stride()
    # Offsets within one picture's map; a batch's own are added in 64 bits.
    far = (rows - 1) * abs(stride_y) + (cols - 1) * abs(stride_x) + channels * abs(stride_c) >= 2**31
    grid = where if isinstance(where, Grid) else None
    coord, cell = (None, None) if isinstance(where, Grid) else where
    queries = where.box.pixels if isinstance(where, Grid) else where[0].shape[1]
    per_tile = tile.rows // (4 if local_ensemble else 1)
    width, hidden = weights.last.shape[0], weights.biases.shape[0]
    out = torch.empty(batch, queries, out_dim, dtype=torch.float32, device=source.device)
    # Triton launches on the current device.
    with torch.cuda.device(source.device) if source.is_cuda else nullcontext():
        liif_forward[triton.cdiv(queries, per_tile), batch](
            source, stride_b, stride_c, stride_y, stride_x,
            *strided(coord, source), *strided(cell, source),
            weights.rest if weights.kernel is None else weights.kernel, weights.rest, weights.biases,
            weights.middle, weights.biases[1:] if hidden > 1 else weights.biases, weights.last, weights.last_bias,
            out, queries, *_grid_constants(grid),
            window.height, window.width, window.top, window.left, rows, cols,
            *axis_constants(window, local_ensemble),
            DIRECT=direct, GRID=grid is not None, CELL=cell_decode,
            TAPS=1 if weights.kernel is None else weights.kernel.shape[0], CORNERS=tile.rows // per_tile,
            CHANNELS=channels, WIDTH=width, HIDDEN=hidden, OUT_DIM=out_dim, OUT=OUT,
            ROWS=tile.rows, BLOCK_K=min(tile.block_k, width), BLOCK_N=min(tile.block_n, width), BLOCK_C=tile.block_c,
            STAGES=tile.stages, INDEX=tl.int64 if far else tl.int32,
            QUERY=tl.int64 if queries + tile.rows >= 2**31 else tl.int32, DOT=DOT[precision],
            PRECISION=INPUT_PRECISION.get(precision, "ieee"),
            num_warps=tile.warps, num_stages=tile.stages,
            # Pixels are chosen by rounding, see lookup.py.
            enable_fp_fusion=False,
        )  # fmt: skip
    return out


def _pictures(source: Tensor, where: Coordinates | Grid, first: int) -> tuple[Tensor, Coordinates | Grid]:
    """A part of the batch, as many as one launch takes."""
    part = slice(first, first + MOST_PICTURES)
    if isinstance(where, Grid):
        return source[part], where
    coord, cell = where
    return source[part], (coord[part], None if cell is None else cell[part])


def strided(tensor: Tensor | None, stand_in: Tensor) -> tuple[Any, ...]:
    """A tensor [B, Q, 2] and its strides; where there is none, any pointer, which is not read."""
    return (stand_in, 0, 0, 1) if tensor is None else (tensor, *tensor.stride())


def _grid_constants(grid: Grid | None) -> tuple[Any, ...]:
    """top, left, width, first and step of both axes' coordinates, the cell; as geometry.axis_coord computes them."""
    if grid is None:
        return (0, 0, 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    height, width = grid.size
    coordinates = -1 + 1 / height, 2 / height, -1 + 1 / width, 2 / width
    return (grid.box.top, grid.box.left, grid.box.width, *coordinates, 2 / height, 2 / width)


def axis_constants(window: Window, local_ensemble: bool) -> tuple[float, ...]:
    """Both shifts of both axes, then first and step of the pixel centres: float64, rounded once by the launch."""
    shift, eps = (1, SHIFT_EPS) if local_ensemble else (0, 0.0)
    shifts = [sign * shift * (2 / n / 2) + eps for n in window[:2] for sign in (-1, 1)]
    return (*shifts, *(value for n in window[:2] for value in (-1 + 1 / n, 2 / n)))
