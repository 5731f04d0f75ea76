"""Which tile a launch uses: the user's tuned one, else the table's."""

from __future__ import annotations

import torch
from torch import Tensor

from liif_fast.kernels import configs
from liif_fast.kernels.configs import Tile


def tile_for(source: Tensor, precision: str, *, direct: bool) -> Tile:
    """The tile for a launch on the source's device."""
    if not source.is_cuda:
        return configs.INTERPRETED
    itemsize = 2 if precision in ("fp16", "bf16") else 4
    return configs.choose(torch.cuda.get_device_capability(source.device), itemsize, direct)
