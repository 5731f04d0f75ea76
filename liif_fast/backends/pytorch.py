"""Backend `torch`: the projected decoder in PyTorch operations, on any device, differentiable by autograd."""

from __future__ import annotations

from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor

from liif_fast import geometry
from liif_fast.backends.call import Coordinates, Query
from liif_fast.geometry import Grid, Window
from liif_fast.native.tracing import is_traced, without_autocast
from liif_fast.params import DecoderParams

NAME = "torch"
# Queries at a time without gradients: on a CPU the activations of a chunk then stay near the cache; a GPU wants them
# many, since each operation costs a launch.
CHUNK, GPU_CHUNK = 8_192, 2**18
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DTYPES["tf32x3"] = torch.float32  # for the projection that the triton backend reads


def unusable_reason(device: torch.device, precision: str, params: DecoderParams | None = None) -> str | None:
    """None: it runs everywhere that PyTorch does; TF32 exists on CUDA only, its threefold form in Triton only."""
    if precision == "tf32x3":
        return "precision 'tf32x3' exists in the triton backend only; use 'fp32'"
    if precision == "tf32" and device.type != "cuda":
        return f"precision 'tf32' exists on CUDA devices only, got {device}; use 'fp32'"
    return None


def detail() -> str:
    return f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"


def run(asked: Query) -> Tensor:
    """[B, Q, out_dim] in the precision's dtype, from the projected map and coordinates."""
    projected, params = asked.projected, asked.params
    assert projected is not None
    assert not isinstance(asked.where, Grid)
    coord, cell = asked.where
    dtype = torch.float64 if projected.dtype == torch.float64 else DTYPES[asked.precision]
    grad = torch.is_grad_enabled() and (
        projected.requires_grad or coord.requires_grad or any(w.requires_grad for w in params.weights)
    )
    chunk = GPU_CHUNK if projected.is_cuda else CHUNK
    if grad or torch.compiler.is_compiling() or coord.shape[1] <= chunk:
        return _chunk(projected, (coord, cell), params, asked.window, dtype)
    cells = repeat(None) if cell is None else cell.split(chunk, 1)
    parts = zip(coord.split(chunk, 1), cells, strict=False)
    return torch.cat([_chunk(projected, part, params, asked.window, dtype) for part in parts], dim=1)


def _chunk(projected: Tensor, where: Coordinates, params: DecoderParams, window: Window, dtype: torch.dtype) -> Tensor:
    coord, cell = where
    with without_autocast(coord.device):
        found = geometry.corners(coord, (window.height, window.width), params.local_ensemble)
        hidden = _first_layer(projected, found, cell, params, window, dtype)
        for weight, bias in zip(params.weights[1:-1], params.biases[1:-1], strict=True):
            hidden = F.linear(hidden, weight.to(dtype), bias.to(dtype)).relu_()
        hidden = hidden.view(len(found), *found[0].row.shape, hidden.shape[-1])
        # The blend is linear, so it commutes with the last layer, which then runs once and not four times.
        shares = torch.stack(geometry.blend_weights([corner.area for corner in found])).to(dtype)
        blended = (hidden * shares.unsqueeze(-1)).sum(dim=0)
        if len(params.weights) == 1:
            return blended
        return F.linear(blended, params.weights[-1].to(dtype), params.biases[-1].to(dtype))


def _first_layer(
    projected: Tensor,
    found: list[geometry.Corner],
    cell: Tensor | None,
    params: DecoderParams,
    window: Window,
    dtype: torch.dtype,
) -> Tensor:
    """Layer one from the projected map: [corners * B * Q, N0], after its ReLU where it has one.

    Rows stay flat because autograd copies the whole tensor for an operation in place on a view.
    """
    batch, height, width, n0 = projected.shape
    offsets = torch.arange(batch, device=projected.device).view(-1, 1) * (height * width)
    rows = torch.stack([(c.row - window.top) * width + (c.col - window.left) + offsets for c in found])
    gathered = projected.reshape(-1, n0).index_select(0, rows.flatten()).to(dtype)
    _, rest = params.split()
    extra = torch.stack([corner.rel for corner in found])
    if cell is not None:
        scaled = geometry.relative_cell(cell, (window.height, window.width))
        extra = torch.cat([extra, scaled.expand(len(found), -1, -1, -1)], dim=-1)
    update = F.linear(extra.to(dtype).flatten(0, 2), rest.to(dtype), params.biases[0].to(dtype))
    # A transform of torch.func may map over the one and not over the other.
    hidden = update + gathered if is_traced() else update.add_(gathered)
    return hidden if len(params.weights) == 1 else hidden.relu_()
