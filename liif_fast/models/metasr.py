"""Meta-SR (Hu et al. 2019), in the form LIIF compares with: one predicted weight matrix for each query.

The prediction's last layer is linear and so is its use, so they change places: contracted with the unfolded feature
first, that layer is a ``[out_dim, 257]`` matrix for each input pixel (one 3 x 3 convolution of the map), and a query is
the matrix of its pixel times the 256 hidden values and a one. `reference.metasr_query` is the published order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liif_fast import geometry
from liif_fast.backends import reference
from liif_fast.errors import UsageError
from liif_fast.geometry import Window
from liif_fast.models.liif import Spec, default_data_norm, encoder_width
from liif_fast.models.mlp import MLP
from liif_fast.models.projection_cache import ProjectionCache, may_keep
from liif_fast.models.registry import make, register, spec_of
from liif_fast.native.convolution import steady_conv2d
from liif_fast.native.tracing import autocast_dtype
from liif_fast.params import Layers, linear_layers, plain_layers

HIDDEN = 256
COLORS = 3
CHUNK = 1024  # queries at a time without gradients: their matrices, 3 kB each for RGB, then stay in the cache


@register("metasr")
class MetaSR(nn.Module):
    """A picture as features times weights that an MLP predicts from the query's place in its pixel and its size.

    Args:
        encoder_spec: spec of the encoder, or a module with `out_dim`.
        out_dim: channels of the answer.

    Plain PyTorch on any device; the fused backends decode LIIF only.
    """

    def __init__(self, encoder_spec: Spec, *, out_dim: int = COLORS) -> None:
        super().__init__()
        self.encoder = make(encoder_spec)
        self.out_dim = out_dim
        self.imnet = MLP(3, encoder_width(self.encoder) * 9 * out_dim, [HIDDEN])
        self.data_norm = default_data_norm()
        self.feat: Tensor | None = None
        self._projections = ProjectionCache()

    @property
    def spec(self) -> dict[str, Any]:
        """The published spec of this model; UsageError if its encoder was not built from one."""
        width = {} if self.out_dim == COLORS else {"out_dim": self.out_dim}
        return {"name": "metasr", "args": {"encoder_spec": spec_of(self.encoder)} | width}

    @property
    def matrix_size(self) -> int:
        """Numbers in the matrix of one pixel."""
        return self.decoder().matrix_size

    def is_plain(self) -> bool:
        """Whether `decoder` is what calling the MLP is."""
        layers = plain_layers(self.imnet)
        return not isinstance(layers, str) and len(layers[0]) == 2

    def decoder(self) -> MatrixDecoder:
        """The decoder on the MLP's own weights, which are shared; UsageError where the MLP is not plain."""
        return MatrixDecoder(linear_layers(self.imnet), self.out_dim)

    def gen_feat(self, inp: Tensor) -> Tensor:
        """Encode ``inp [B, C_in, H, W]``; the feature map is kept as `feat`, and returned."""
        self._projections.clear()
        self.feat = self.encoder(inp)
        return self.feat

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        """Decode the kept feature map.

        Args:
            coord: ``[B, Q, 2]`` float32, (y, x), the picture spanning [-1, 1].
            cell: ``[B, Q, 2]`` float32, height and width of the pixel asked for in the same unit.

        Returns:
            ``[B, Q, out_dim]`` in the features' dtype (float32 under autocast).

        Raises:
            UsageError: no feature map yet, or no cell of coord's shape.
        """
        feat = self.feat
        if feat is None:
            raise UsageError("query_rgb expects a feature map, got none yet: call gen_feat(inp) first")
        return answer(self._projections, feat, coord, cell, self.imnet)

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        """`gen_feat(inp)`, then `query_rgb(coord, cell)`."""
        self.gen_feat(inp)
        return self.query_rgb(coord, cell)

    def project(self, feat: Tensor) -> Tensor:
        """`MatrixDecoder.project` of this model."""
        return self.decoder().project(feat)

    def decode(self, projected: Tensor, coord: Tensor, cell: Tensor, window: Window) -> Tensor:
        """`MatrixDecoder.decode` of this model."""
        return self.decoder().decode(projected, coord, cell, window)


def answer(cache: ProjectionCache, feat: Tensor, coord: Tensor, cell: Tensor | None, imnet: nn.Module) -> Tensor:
    """Meta-SR's answers ``[B, Q, out_dim]`` in the features' dtype (float32 under autocast).

    ``feat [B, C, H, W]``; ``coord`` and ``cell [B, Q, 2]``. `imnet` is called as a module, in the published order,
    where it is not the plain MLP of one hidden layer.
    """
    if cell is not None and cell.dim() == 2:
        cell = cell.unsqueeze(1).expand_as(coord)
    if cell is None or cell.shape != coord.shape:
        got = None if cell is None else list(cell.shape)
        raise UsageError(f"query_rgb expects cell of coord's shape {list(coord.shape)}, got {got}")
    layers = plain_layers(imnet)
    if isinstance(layers, str) or len(layers[0]) != 2:
        return reference.metasr_query(feat, coord, cell, imnet)
    decoder = MatrixDecoder(layers, layers[1][1].shape[0] // (9 * feat.shape[1]))
    window = Window(*feat.shape[2:])
    if may_keep(feat, (feat, coord, cell, *imnet.parameters())):
        matrices = cache.keep(feat, decoder.second, lambda: decoder.project(feat))
        return decoder.decode(matrices, coord, cell, window)
    if _few(feat, coord):
        return decoder.decode_few(feat, coord, cell)
    return decoder.gather(decoder.project(feat), coord, cell, window)


class MatrixDecoder:
    """Meta-SR's decoder, its last layer applied to the features first.

    layers: weights and biases of the MLP 3 -> hidden -> 9 * C * out_dim, whose last rows run over c, ky, kx, colour.
    """

    def __init__(self, layers: Layers, out_dim: int) -> None:
        weights, biases = layers
        if len(weights) != 2:
            raise UsageError(f"imnet: expected one hidden layer, got {len(weights) - 1}")
        self.first, self.second = (weights[0], biases[0]), (weights[1], biases[1])
        self.out_dim, self.columns = out_dim, weights[1].shape[1] + 1

    @property
    def matrix_size(self) -> int:
        """Numbers in the matrix of one pixel."""
        return self.out_dim * self.columns

    def project(self, feat: Tensor) -> Tensor:
        """The matrix of each pixel of ``feat [B, C, H, W]``: ``[B, H, W, out_dim * (hidden + 1)]``, contiguous."""
        feat = feat.contiguous(memory_format=torch.channels_last)
        return steady_conv2d(feat, self._kernel(), padding=(1, 1)).permute(0, 2, 3, 1).contiguous()

    def decode(self, projected: Tensor, coord: Tensor, cell: Tensor, window: Window) -> Tensor:
        """The answers without gradients, from `project`'s matrices of the part `window` of the feature map.

        Every query must fall into that part.
        """
        with torch.no_grad():
            parts = zip(coord.split(CHUNK, 1), cell.split(CHUNK, 1), strict=True)
            return torch.cat([self.gather(projected, *part, window) for part in parts], dim=1)

    def decode_few(self, feat: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """The answers from the matrices of the queries' own pixels alone; differentiable."""
        index, inputs = locate(coord, cell, Window(*feat.shape[2:]))
        picked = F.linear(_neighbourhoods(feat, index), self._kernel().permute(0, 2, 3, 1).flatten(1))
        return self._answer(picked, inputs)

    def gather(self, projected: Tensor, coord: Tensor, cell: Tensor, window: Window) -> Tensor:
        """`decode`, differentiable and with all queries at a time."""
        batch, height, width, _ = projected.shape
        index, inputs = locate(coord, cell, window)
        row, col = index[..., 0] - window.top, index[..., 1] - window.left
        flat = row * width + col + _offsets(batch, height * width, coord.device)
        return self._answer(projected.flatten(0, 2).index_select(0, flat.flatten()), inputs)

    def _kernel(self) -> Tensor:
        """The second layer, its bias as the last column, as a convolution ``[out_dim * (hidden + 1), C, 3, 3]``."""
        weight, bias = self.second
        joined = torch.cat([weight, bias.unsqueeze(1)], dim=1).view(-1, 3, 3, self.out_dim, self.columns)
        return joined.permute(3, 4, 0, 1, 2).flatten(0, 1)

    def _answer(self, picked: Tensor, inputs: Tensor) -> Tensor:
        """Matrices ``[B * Q, out_dim * (hidden + 1)]`` times the hidden values of ``inputs [B, Q, 3]``."""
        # One hidden unit more, which is always one, stands for the second layer's bias.
        weight, bias = F.pad(self.first[0], (0, 0, 0, 1)), F.pad(self.first[1], (0, 1), value=1.0)
        hidden = F.linear(inputs.flatten(0, 1).to(picked.dtype), weight, bias).relu().unsqueeze(1)
        answers = torch.bmm(hidden, picked.view(-1, self.out_dim, self.columns).transpose(1, 2))
        dtype = picked.dtype if autocast_dtype(picked.device) is None else torch.float32
        return answers.view(*inputs.shape[:2], self.out_dim).to(dtype)


def locate(coord: Tensor, cell: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """The pixel of a feature map that each query falls into, and what the MLP is told of the query.

    Meta-SR thinks in corners: a query stands for the top-left corner ``coord - cell / 2`` of the pixel asked for,
    and its place is the distance from the top-left corner of the feature's pixel, in feature pixels.

    Returns:
        (row and column ``[B, Q, 2]`` int64 in the whole map, ``[B, Q, 3]``: place (y, x) and the height of the pixel
        asked for in feature pixels), float32 unless `coord` is float64.
    """
    if coord.dtype != torch.float64:
        coord, cell = coord.float(), cell.float()
    corner = coord - cell / 2
    size = (window.height, window.width)
    look = geometry.lookup_coord(corner.detach(), size, (0, 0), local_ensemble=True)
    indices, places = [], []
    for axis, n in enumerate(size):
        index = geometry.nearest_index(look[..., axis], n)
        edges = (geometry.axis_coord(n, device=coord.device) - (2 / n) / 2).to(coord.dtype)
        indices.append(index)
        places.append((corner[..., axis] - edges[index]) * (n / 2))
    zoom = cell[..., 0] * (window.height / 2)
    return torch.stack(indices, dim=-1), torch.stack([*places, zoom], dim=-1)


def _few(feat: Tensor, coord: Tensor) -> bool:
    """Whether matrices of the queries' own pixels only cost less than those of the map.

    Each takes ``9 * C * out_dim * 257`` multiply-adds, once for a query or once for a pixel. A traced graph must serve
    any number of queries.
    """
    return not torch.compiler.is_compiling() and coord.shape[1] < feat.shape[2] * feat.shape[3]


def _neighbourhoods(feat: Tensor, index: Tensor) -> Tensor:
    """The 3 x 3 features around pixels ``index [B, Q, 2]`` of ``feat [B, C, H, W]``: ``[B * Q, 9 * C]``, taps first."""
    padded = F.pad(feat, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    batch, height, width, _ = padded.shape
    steps = torch.arange(3, device=feat.device)
    taps = (steps.view(3, 1) * width + steps).flatten()
    first = index[..., 0] * width + index[..., 1] + _offsets(batch, height * width, feat.device)
    flat = (first.unsqueeze(-1) + taps).flatten()
    return padded.flatten(0, 2).index_select(0, flat).view(index.shape[0] * index.shape[1], -1)


def _offsets(batch: int, pixels: int, device: torch.device) -> Tensor:
    """Where each map of a batch starts when they are flattened together: ``[B, 1]``."""
    return torch.arange(batch, device=device).view(-1, 1) * pixels
