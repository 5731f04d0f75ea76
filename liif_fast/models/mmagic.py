"""Weights of mmagic's (earlier mmediting's) LIIF, as a published model: names, sizes, normalisation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from liif_fast.errors import CheckpointError
from liif_fast.models.layers import DIV2K_MEAN
from liif_fast.models.rdn import SIZES, Size

PREFIX = "generator."

# Pattern of a key below the prefix, and the published key; {blocks} is the number of residual blocks.
_IMNET = [(r"imnet\.(.+)", r"imnet.\1")]
_EDSR = [
    (r"conv_first\.(\w+)", r"encoder.head.0.\1"),
    (r"body\.(\d+)\.conv1\.(\w+)", r"encoder.body.\1.body.0.\2"),
    (r"body\.(\d+)\.conv2\.(\w+)", r"encoder.body.\1.body.2.\2"),
    (r"conv_after_body\.(\w+)", r"encoder.body.{blocks}.\1"),
]
_RDN = [
    (r"sfe([12])\.(\w+)", r"encoder.SFENet\1.\2"),
    (r"rdbs\.(\d+)\.layers\.(\d+)\.conv\.(\w+)", r"encoder.RDBs.\1.convs.\2.conv.0.\3"),
    (r"rdbs\.(\d+)\.lff\.(\w+)", r"encoder.RDBs.\1.LFF.\2"),
    (r"gff\.(\d)\.(\w+)", r"encoder.GFF.\1.\2"),
]


def is_mmagic(state_dict: Mapping[str, Any]) -> bool:
    """Whether the keys are those of mmagic's LIIF with EDSR or RDN."""
    return any(f"{PREFIX}{first}.weight" in state_dict for first in ("conv_first", "sfe1"))


def convert(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The published spec ``{"name", "args", "sd"}`` and the normalisation that mmagic trains these models with.

    The file states neither switches nor sizes: they follow from the shapes. `local_ensemble` leaves no trace and is
    taken as on, and so is a residual scale of 1, as in every model mmagic publishes. Keys outside of the generator
    (losses, counters) are dropped.

    Raises:
        CheckpointError: keys or sizes of no model that the published code can build.
    """
    own = {key[len(PREFIX) :]: value for key, value in state_dict.items() if key.startswith(PREFIX)}
    is_edsr = "conv_first.weight" in own
    encoder_spec = _edsr_spec(own) if is_edsr else _rdn_spec(own)
    blocks = 1 + _last_index(own, r"body\.(\d+)\.") if is_edsr else 0
    rules = _IMNET + (_EDSR if is_edsr else _RDN)
    channels = own["conv_first.weight" if is_edsr else "sfe1.weight"].shape[0]
    args = {"encoder_spec": encoder_spec, **_decoder_args(own, channels)}
    sd = {_rename(key, rules).format(blocks=blocks): value for key, value in own.items()}
    mean, std = (list(DIV2K_MEAN), [1.0]) if is_edsr else ([0.5], [0.5])
    # Separate lists: a user may change the one without the other.
    data_norm = {side: {"sub": list(mean), "div": list(std)} for side in ("inp", "gt")}
    return {"name": "liif", "args": args, "sd": sd}, data_norm


def _edsr_spec(own: Mapping[str, Tensor]) -> dict[str, Any]:
    n_feats, n_colors = own["conv_first.weight"].shape[:2]
    n_resblocks = 1 + _last_index(own, r"body\.(\d+)\.")
    args = {"n_resblocks": n_resblocks, "n_feats": n_feats, "no_upsampling": True, "n_colors": n_colors}
    return {"name": "edsr-baseline", "args": args}


def _rdn_spec(own: Mapping[str, Tensor]) -> dict[str, Any]:
    width, n_colors = own["sfe1.weight"].shape[:2]
    blocks = 1 + _last_index(own, r"rdbs\.(\d+)\.")
    layers = 1 + _last_index(own, r"rdbs\.0\.layers\.(\d+)\.")
    first = own.get("rdbs.0.layers.0.conv.weight")
    size = Size(blocks, layers, 0 if first is None else first.shape[0])
    config = next((name for name, known in SIZES.items() if known == size), None)
    if config is None:
        raise CheckpointError(
            f"mmagic RDN: expected (blocks, layers, growth) out of {[tuple(s) for s in SIZES.values()]}, "
            f"got {tuple(size)}: this size has no published counterpart"
        )
    args = {"G0": width, "RDNconfig": config, "no_upsampling": True, "n_colors": n_colors}
    return {"name": "rdn", "args": args}


def _decoder_args(own: Mapping[str, Tensor], channels: int) -> dict[str, Any]:
    """The MLP's spec and the two switches that its number of input columns tells."""
    weights = {}
    for key, value in own.items():
        found = re.fullmatch(r"imnet\.layers\.(\d+)\.weight", key)
        if found:
            weights[int(found[1])] = value
    widths = [weights[k].shape[0] for k in sorted(weights)]
    columns = weights[0].shape[1] if 0 in weights else None
    for feat_unfold in (True, False):
        for cell_decode in (True, False):
            if columns == channels * (9 if feat_unfold else 1) + (4 if cell_decode else 2):
                imnet = {"name": "mlp", "args": {"out_dim": widths[-1], "hidden_list": widths[:-1]}}
                return {"imnet_spec": imnet, "feat_unfold": feat_unfold, "cell_decode": cell_decode}
    raise CheckpointError(
        f"mmagic LIIF: expected generator.imnet.layers.0.weight to have {channels} or {channels * 9} feature columns "
        f"and 2 or 4 more, got {columns}: this is not a LIIF decoder for {channels} channels"
    )


def _rename(key: str, rules: list[tuple[str, str]]) -> str:
    for pattern, published in rules:
        found = re.fullmatch(pattern, key)
        if found:
            return found.expand(published)
    raise CheckpointError(f"mmagic LIIF: got the key {PREFIX}{key}, which no EDSR or RDN generator of mmagic has")


def _last_index(own: Mapping[str, Tensor], pattern: str) -> int:
    return max((int(found[1]) for key in own if (found := re.match(pattern, key))), default=-1)
