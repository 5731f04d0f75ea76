"""LIIF with its MLP called as a module, whatever it does: the way of every decoder that is not the plain MLP.

Geometry, gather and blend are the package's; the rows that the module is given, the calls and their order are those of
the published code, so that dropout draws the same numbers. On any device; differentiable by autograd.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liif_fast import geometry
from liif_fast.backends.call import Coordinates
from liif_fast.native.tracing import without_autocast
from liif_fast.params import Switches, is_pointwise

CHUNK = 30_000  # queries at a time without gradients, as in the published demo
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def query(feat: Tensor, where: Coordinates, imnet: nn.Module, switches: Switches, precision: str = "auto") -> Tensor:
    """The signal at each coordinate: [B, Q, out_dim].

    feat: [B, C, H, W]. where: coord and cell, [B, Q, 2]. precision: "fp16" and "bf16" call the module under autocast,
    "auto" under the caller's, any other under none.
    """
    coord, cell = where
    with _autocast(feat.device, precision):
        features = _Neighbourhoods(feat, switches.feat_unfold)
        whole = torch.is_grad_enabled() or imnet.training or torch.compiler.is_compiling()
        if whole or coord.shape[1] <= CHUNK:
            return _chunk(feat, features, where, imnet, switches)
        cells = repeat(None) if cell is None else cell.split(CHUNK, 1)
        parts = zip(coord.split(CHUNK, 1), cells, strict=False)
        return torch.cat([_chunk(feat, features, part, imnet, switches) for part in parts], dim=1)


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    if precision == "auto":
        return nullcontext()
    return torch.autocast(device.type, dtype=HALF[precision]) if precision in HALF else without_autocast(device)


class _Neighbourhoods:
    """The features [B, C, H, W] that a look-up reads: C * taps columns in the order c*9 + ky*3 + kx."""

    def __init__(self, feat: Tensor, unfold: bool) -> None:
        border = 1 if unfold else 0
        padded = F.pad(feat, (border,) * 4).permute(0, 2, 3, 1)
        batch, height, self.width, channels = padded.shape
        side = torch.arange(2 * border + 1, device=feat.device)
        self.taps = (side.view(-1, 1) * self.width + side).flatten()
        self.first = torch.arange(batch, device=feat.device).view(-1, 1) * (height * self.width)
        self.rows = padded.reshape(-1, channels)

    def at(self, row: Tensor, col: Tensor) -> Tensor:
        """row, col: [B, Q], pixels -> [B, Q, columns]."""
        pixels = (self.first + row * self.width + col).unsqueeze(-1) + self.taps
        found = self.rows.index_select(0, pixels.flatten()).view(*pixels.shape, self.rows.shape[1])
        return found.transpose(2, 3).flatten(2)


def _chunk(feat: Tensor, features: _Neighbourhoods, where: Coordinates, imnet: nn.Module, switches: Switches) -> Tensor:
    coord, cell = where
    size = (feat.shape[2], feat.shape[3])
    corners = geometry.corners(coord, size, switches.local_ensemble)
    cells = [geometry.relative_cell(cell, size).to(feat.dtype)] if switches.cell_decode and cell is not None else []
    answers = []
    for corner in corners:
        rows = torch.cat([features.at(corner.row, corner.col), corner.rel.to(feat.dtype), *cells], dim=-1)
        answers.append(_ask(imnet, rows))
    shares = geometry.blend_weights([corner.area for corner in corners])
    result = torch.zeros_like(answers[0])
    for answer, share in zip(answers, shares, strict=True):
        result = result + answer * share.unsqueeze(-1).to(feat.dtype)
    return result


def _ask(imnet: nn.Module, rows: Tensor) -> Tensor:
    """imnet on rows [B, Q, columns]: flat, as published, or as a picture of one column where it is convolutions."""
    batch, queries, columns = rows.shape
    if reads_pictures(imnet):
        picture: Tensor = imnet(rows.transpose(1, 2).unsqueeze(-1))
        return picture.squeeze(-1).transpose(1, 2)
    answer: Tensor = imnet(rows.reshape(batch * queries, columns))
    return answer.reshape(batch, queries, answer.shape[-1])


def reads_pictures(imnet: nn.Module) -> bool:
    """Whether an MLP is made of convolutions of 1 x 1 and so reads [B, columns, h, w]."""
    for module in imnet.modules():
        if isinstance(module, nn.Linear):
            return False
        if is_pointwise(module):
            return True
    return False
