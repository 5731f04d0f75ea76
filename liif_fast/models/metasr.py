"""Meta-SR (Hu et al. 2019), in the form LIIF compares with: one predicted weight matrix for each query."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liif_fast import geometry
from liif_fast.errors import UsageError
from liif_fast.models.liif import Spec, default_data_norm, encoder_width
from liif_fast.models.mlp import MLP
from liif_fast.models.registry import make, register, spec_of

HIDDEN = 256
COLORS = 3


@register("metasr")
class MetaSR(nn.Module):
    """A picture as features times weights that an MLP predicts from the query's place in its pixel and its size.

    Args:
        encoder_spec: spec of the encoder, or a module with `out_dim`.
        chunk: queries decoded at once; each needs ``out_dim * 9 * 3`` predicted weights (7 kB at 64 channels).

    Plain PyTorch on any device; the fused backends decode LIIF only.
    """

    def __init__(self, encoder_spec: Spec, *, chunk: int = 4096) -> None:
        super().__init__()
        self.encoder = make(encoder_spec)
        self.imnet = MLP(3, encoder_width(self.encoder) * 9 * COLORS, [HIDDEN])
        self.chunk = chunk
        self.data_norm = default_data_norm()
        self.feat: Tensor | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """The published spec of this model; UsageError if its encoder was not built from one."""
        return {"name": "metasr", "args": {"encoder_spec": spec_of(self.encoder)}}

    def gen_feat(self, inp: Tensor) -> Tensor:
        """Encode ``inp [B, C_in, H, W]``; the feature map is kept as `feat`, and returned."""
        self.feat = self.encoder(inp)
        return self.feat

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        """Decode at ``coord [B, Q, 2]`` for pixels of size ``cell [B, Q, 2]`` (float32, y and x): ``[B, Q, 3]``."""
        if self.feat is None:
            raise UsageError("query_rgb expects a feature map, got none yet: call gen_feat(inp) first")
        if cell is None or cell.shape != coord.shape:
            got = None if cell is None else list(cell.shape)
            raise UsageError(f"query_rgb expects cell of coord's shape {list(coord.shape)}, got {got}")
        # [B, H, W, C * 9]: what a query picks then lies together.
        batch, _, height, width = self.feat.shape
        unfolded = F.unfold(self.feat, 3, padding=1).transpose(1, 2).reshape(batch, height * width, -1)
        parts = [
            self._decode(unfolded, (height, width), c, s)
            for c, s in zip(coord.float().split(self.chunk, 1), cell.float().split(self.chunk, 1), strict=True)
        ]
        return torch.cat(parts, dim=1)

    def _decode(self, unfolded: Tensor, size: tuple[int, int], coord: Tensor, cell: Tensor) -> Tensor:
        index, place = locate(size, coord, cell)
        batch, queries = index.shape
        picked = unfolded.gather(1, index.unsqueeze(-1).expand(-1, -1, unfolded.shape[-1]))
        zoom = cell[..., :1] * (size[0] / 2)
        weight = self.imnet(torch.cat([place, zoom], dim=-1).to(unfolded.dtype))
        weight = weight.reshape(batch * queries, -1, COLORS)
        return torch.bmm(picked.reshape(batch * queries, 1, -1), weight).reshape(batch, queries, COLORS)

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        """`gen_feat(inp)`, then `query_rgb(coord, cell)`."""
        self.gen_feat(inp)
        return self.query_rgb(coord, cell)


def locate(size: tuple[int, int], coord: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The pixel of an H x W feature map that each query falls into, and where in it.

    Meta-SR thinks in corners: a query stands for the top-left corner ``coord - cell / 2`` of the pixel asked for,
    and its place is the distance from the top-left corner of the feature's pixel, in feature pixels.

    Returns:
        (index [B, Q] int64 into the flattened map, place [B, Q, 2] float32).
    """
    corner = coord - cell / 2
    look = geometry.lookup_coord(corner.detach(), size, (0, 0), local_ensemble=True)
    indices, places = [], []
    for axis, n in enumerate(size):
        index = geometry.nearest_index(look[..., axis], n)
        edges = geometry.axis_coord(n, device=coord.device) - (2 / n) / 2
        indices.append(index)
        places.append((corner[..., axis] - edges[index]) * (n / 2))
    return indices[0] * size[1] + indices[1], torch.stack(places, dim=-1)
