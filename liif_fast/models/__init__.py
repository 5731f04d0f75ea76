"""Models by their published names: liif, metasr, mlp, and the encoders edsr-baseline, edsr, rdn, rcan and swinir.

An encoder is any module that maps ``[B, C_in, H, W]`` to ``[B, out_dim, H * scale, W * scale]`` and has

- ``out_dim``: channels of its feature map (required);
- ``receptive_radius``: how many input pixels away an input can still change a feature, None when that is the whole
  picture (then it cannot be tiled exactly);
- ``scale``: feature pixels per input pixel, 1 without upsampling.

To add one, write a file with the class, put ``@register("name")`` above it and import it here.
"""

from __future__ import annotations

from liif_fast.models.edsr import EDSR
from liif_fast.models.liif import LIIF
from liif_fast.models.metasr import MetaSR
from liif_fast.models.mlp import MLP
from liif_fast.models.rcan import RCAN
from liif_fast.models.rdn import RDN
from liif_fast.models.registry import make, register, registry, spec_of
from liif_fast.models.swinir import SwinIR

__all__ = ["EDSR", "LIIF", "MLP", "RCAN", "RDN", "MetaSR", "SwinIR", "make", "register", "registry", "spec_of"]
