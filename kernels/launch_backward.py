"""From tensors to the gradients of a query: chunks of rows, launches of the backward kernel, products over the rows."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from liif_fast.backends.call import Call
from liif_fast.geometry import Window
from liif_fast.kernels import configs, launch
from liif_fast.kernels.backward import liif_backward
from liif_fast.kernels.configs import BackwardTile

# Values of one layer in a chunk: 16,384 rows at the published width, whose workspace is 64 MiB in half precision.
CHUNK = 2**22
SEGMENT = 1024  # rows of one product; a GPU needs more of them at once than there are layers
# On a GPU: few chunks, because each takes some fifteen launches, and as few partial sums as keep it busy.
GPU_CHUNK, GPU_SEGMENT = 2**24, 4096


@torch.no_grad()
def backward(grad: Tensor, call: Call) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Gradients of source, rest, weights and biases, all float32, from grad [B, Q, out_dim] float32.

    The call is that of a projected map at given coordinates. The forward is recomputed. Deterministic under
    torch.use_deterministic_algorithms(True); otherwise the order of the sums into a pixel is not fixed.
    """
    with (
        torch.cuda.device(call.source.device) if call.source.is_cuda else nullcontext(),
        torch.autocast(call.source.device.type, enabled=False),
    ):
        return _Backward(call).run(grad)


class _Backward:
    """The packed weights, the workspace of a chunk and the sums over the chunks."""

    def __init__(self, call: Call) -> None:
        assert call.coord is not None
        self.source, self.coord, self.cell = call.source.contiguous(), call.coord, call.cell
        self.window, self.precision = Window(*call.window), call.precision
        self.local_ensemble, self.corners = call.local_ensemble, 4 if call.local_ensemble else 1
        self.tile = tile_for(self.source, self.precision)
        self.dtype = launch.DTYPES[self.precision]
        self.packed = launch.pack(None, call.rest, call.weights, call.biases, self.dtype, 1)
        self.middle_t = self.packed.middle.transpose(1, 2).contiguous()
        self.last_t = self.packed.last.t().contiguous()
        self.hidden, self.width = self.packed.biases.shape
        self.n0, self.extra = call.rest.shape
        self.out_dim = call.biases[-1].shape[0]

    def run(self, grad: Tensor) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        device, shape = self.source.device, self.source.shape
        grad = grad.float().contiguous()
        sums: dict[str, Any] = {"dtype": torch.float32, "device": device}
        # One row more than there are pixels takes what lies outside of the window.
        pixels = shape[0] * shape[1] * shape[2]
        d_source = torch.zeros(pixels + 1, self.n0, **sums)
        d_rest = torch.zeros(self.width, self.extra, **sums)
        d_middle = torch.zeros(self.hidden - 1, self.width, self.width, **sums)
        d_last = torch.zeros(launch.OUT, self.width, **sums)
        d_biases = torch.zeros(self.hidden, self.width, **sums)

        total = self.coord.shape[0] * self.coord.shape[1] * self.corners
        chunk, segment = (GPU_CHUNK, GPU_SEGMENT) if self.source.is_cuda else (CHUNK, SEGMENT)
        unit = segment if total > segment else self.tile.rows
        rows = min(max(chunk // self.width, unit), triton.cdiv(total, unit) * unit)
        hidden, delta = (torch.empty(self.hidden, rows, self.width, dtype=self.dtype, device=device) for _ in range(2))
        delta_last = torch.empty(1, rows, launch.OUT, dtype=self.dtype, device=device)
        extra = torch.empty(1, rows, self.extra, dtype=self.dtype, device=device)
        pixel = torch.empty(rows, dtype=torch.int64, device=device)
        atomic = not torch.are_deterministic_algorithms_enabled()
        segments = max(1, rows // segment)
        for first in range(0, total, rows):
            workspace = (hidden, delta, delta_last, extra, pixel, d_source)
            self._launch(grad, workspace, first // self.corners, atomic)
            if not atomic:
                d_source.index_add_(0, pixel, delta[0, :, : self.n0].float())
            d_rest += _over_rows(delta[:1], extra, segments)[0]
            d_middle += _over_rows(delta[1:], hidden[:-1], segments)
            d_last += _over_rows(delta_last, hidden[-1:], segments)[0]
            d_biases += delta.sum(1, dtype=torch.float32)
        n = self.n0
        # Copies, because the results of an operator may not share their memory.
        return (
            d_source[:-1].view(shape),
            d_rest[:n],
            [*(d[:n, :n].clone() for d in d_middle), d_last[: self.out_dim, :n].contiguous()],
            [*(d[:n].clone() for d in d_biases), grad.sum((0, 1))],
        )

    def _launch(self, grad: Tensor, workspace: tuple[Tensor, ...], first_query: int, atomic: bool) -> None:
        coord, cell = self.coord, self.cell
        batch, height, width, _ = self.source.shape
        packed, tile = self.packed, self.tile
        liif_backward[(workspace[0].shape[1] // tile.rows,)](
            grad, self.source, *launch.strided(coord, coord), *launch.strided(cell, coord),
            packed.rest, packed.biases, packed.middle, packed.biases[1:] if self.hidden > 1 else packed.biases,
            self.middle_t, self.last_t, *workspace,
            first_query, batch * coord.shape[1], coord.shape[1], batch * height * width,
            self.window.height, self.window.width, self.window.top, self.window.left, height, width,
            *launch.axis_constants(self.window, self.local_ensemble),
            CELL=cell is not None, CORNERS=self.corners, CHANNELS=self.n0, WIDTH=self.width, HIDDEN=self.hidden,
            OUT_DIM=self.out_dim, OUT=launch.OUT, ROWS=tile.rows,
            BLOCK_K=min(tile.block_k, self.width), BLOCK_N=min(tile.block_n, self.width),
            STAGES=tile.stages, DOT=launch.DOT[self.precision],
            PRECISION=launch.INPUT_PRECISION.get(self.precision, "ieee"), ATOMIC=atomic,
            num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=False,
        )  # fmt: skip


def tile_for(source: Tensor, precision: str) -> BackwardTile:
    """The tile of the backward kernel on the source's device."""
    if not source.is_cuda:
        return configs.INTERPRETED_BACKWARD
    return configs.choose_backward(torch.cuda.get_device_capability(source.device), precision)


def _over_rows(left: Tensor, right: Tensor, segments: int) -> Tensor:
    """left [L, rows, m], right [L, rows, n] -> [L, m, n] float32, sums over the rows of their outer products."""
    pairs = [t.unflatten(1, (segments, -1)).flatten(0, 1) for t in (left, right)]
    products = _float32_product(pairs[0].mT, pairs[1])
    summed: Tensor = products.unflatten(0, (left.shape[0], segments)).sum(1)
    return summed


def _float32_product(left: Tensor, right: Tensor) -> Tensor:
    """Batched left @ right, summed and returned in float32."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())
