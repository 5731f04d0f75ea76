"""LIIF: local implicit image function (Chen, Liu, Wang, CVPR 2021), with the published arguments and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liif_fast.errors import UsageError
from liif_fast.models.projection_cache import ProjectionCache, decode
from liif_fast.models.registry import make, register, spec_of
from liif_fast.params import DecoderParams, Switches, plain_layers

Spec = Mapping[str, Any] | nn.Module


@register("liif")
class LIIF(nn.Module):
    """A picture as a function: features at every pixel, decoded at any coordinate by one MLP.

    Args:
        encoder_spec: spec of the encoder, or a module with `out_dim` that maps ``[B, C_in, H, W]`` to
            ``[B, out_dim, H', W']``.
        imnet_spec: spec of the MLP (its `in_dim` is worked out), or any module that maps rows ``[N, in_dim]`` to
            ``[N, out_dim]``; None where the encoder already makes the picture, whose nearest pixel is then the answer.
            The fused backends decode the plain MLP, with nothing hung on it; every other module is called.
        local_ensemble: blend the answers of the four nearest features by area (equation 4).
        feat_unfold: use each feature together with its 8 neighbours (equation 3).
        cell_decode: also tell the MLP the size of the pixel asked for (equation 5).
        backend: "auto" or the name of a decoder backend. A plain attribute: it can be set later.
        precision: "auto", "fp32", "tf32x3", "tf32", "bf16" or "fp16". A plain attribute too.

    ``data_norm`` is the normalisation the weights were trained with, applied outside of the model:
    ``{"inp": {"sub": [...], "div": [...]}, "gt": {...}}``.
    """

    def __init__(
        self,
        encoder_spec: Spec,
        imnet_spec: Spec | None = None,
        local_ensemble: bool = True,
        feat_unfold: bool = True,
        cell_decode: bool = True,
        *,
        backend: str = "auto",
        precision: str = "auto",
    ) -> None:
        super().__init__()
        self.local_ensemble = local_ensemble
        self.feat_unfold = feat_unfold
        self.cell_decode = cell_decode
        self.backend = backend
        self.precision = precision
        self.data_norm: dict[str, dict[str, list[float]]] = default_data_norm()
        self.encoder = make(encoder_spec)
        self.imnet: nn.Module | None = None
        if imnet_spec is not None:
            in_dim = encoder_width(self.encoder) * (9 if feat_unfold else 1) + (4 if cell_decode else 2)
            self.imnet = make(imnet_spec, args={"in_dim": in_dim})
            plain_layers(self.imnet)  # Tried now, because a traced forward cannot be.
        self.feat: Tensor | None = None
        self._projections = ProjectionCache()

    @property
    def spec(self) -> dict[str, Any]:
        """The published spec of this model as it now is; UsageError if a part of it was not built from one."""
        imnet_spec = None
        if self.imnet is not None:
            imnet_spec = spec_of(self.imnet)
            imnet_spec["args"].pop("in_dim", None)
        args = {
            "encoder_spec": spec_of(self.encoder),
            "imnet_spec": imnet_spec,
            "local_ensemble": self.local_ensemble,
            "feat_unfold": self.feat_unfold,
            "cell_decode": self.cell_decode,
        }
        return {"name": "liif", "args": args}

    def gen_feat(self, inp: Tensor) -> Tensor:
        """Encode ``inp [B, C_in, H, W]``; the feature map is kept as `feat` for `query_rgb`, and returned."""
        self._projections.clear()
        self.feat = self.encoder(inp)
        return self.feat

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        """Decode the kept feature map.

        Args:
            coord: ``[B, Q, 2]`` float32, (y, x), the picture spanning [-1, 1].
            cell: ``[B, Q, 2]`` float32, height and width of the pixel asked for in the same unit; only without
                `cell_decode` may it be None.

        Returns:
            ``[B, Q, out_dim]``.

        Raises:
            UsageError: no feature map yet, or no cell where one is needed.
        """
        feat = self.feat
        if feat is None:
            raise UsageError("query_rgb expects a feature map, got none yet: call gen_feat(inp) first")
        if self.imnet is None:
            return nearest(feat, coord)
        switches = Switches(self.local_ensemble, self.feat_unfold, self.cell_decode)
        return decode(self._projections, feat, coord, cell, self.imnet, switches, self.backend, self.precision)

    def decoder_params(self, channels: int | None = None) -> DecoderParams:
        """The MLP and the switches as the decoder's parameters; tensors are shared. UsageError without MLP."""
        if self.imnet is None:
            raise UsageError("decoder_params expects a model with an imnet, got imnet_spec=None: it has no decoder")
        return DecoderParams.from_mlp(
            self.imnet,
            encoder_width(self.encoder) if channels is None else channels,
            local_ensemble=self.local_ensemble,
            feat_unfold=self.feat_unfold,
            cell_decode=self.cell_decode,
        )

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        """`gen_feat(inp)`, then `query_rgb(coord, cell)`."""
        self.gen_feat(inp)
        return self.query_rgb(coord, cell)


def default_data_norm() -> dict[str, dict[str, list[float]]]:
    """The published normalisation: [0, 1] to [-1, 1], for the input and for the answer."""
    return {"inp": {"sub": [0.5], "div": [0.5]}, "gt": {"sub": [0.5], "div": [0.5]}}


def encoder_width(encoder: nn.Module) -> int:
    """`encoder.out_dim`, or UsageError."""
    width = getattr(encoder, "out_dim", None)
    if not isinstance(width, int):
        raise UsageError(
            f"expected an encoder with the number of its feature channels as `out_dim`, "
            f"got {type(encoder).__name__} with out_dim={width!r}: set that attribute"
        )
    return width


def nearest(feat: Tensor, coord: Tensor) -> Tensor:
    """The feature at the pixel nearest to each coordinate, zero outside.

    ``feat [B, C, H, W]``, ``coord [B, Q, 2]`` float32 -> ``[B, Q, C]`` in the dtype of `feat`. The search runs in
    float32 at least, whatever the features are: half precision would pick wrong pixels.
    """
    dtype = torch.promote_types(feat.dtype, torch.float32)
    grid = coord.to(dtype).flip(-1).unsqueeze(1)
    picked = F.grid_sample(feat.to(dtype), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return picked.squeeze(2).transpose(1, 2).to(feat.dtype)
