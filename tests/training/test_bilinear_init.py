"""The start as bilinear interpolation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.models import EDSR, liif_spec

from liif_fast import models
from liif_fast.errors import UsageError
from liif_fast.geometry import make_cell, make_coord
from liif_fast.training.bilinear_init import bilinear_init

ENCODERS = [
    EDSR,
    {"name": "rcan", "args": {"n_resgroups": 1, "n_resblocks": 1, "n_feats": 16, "no_upsampling": True}},
    {"name": "rdn", "args": {"G0": 8, "RDNconfig": "A", "no_upsampling": True}},
]


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda spec: str(spec["name"]))
@pytest.mark.parametrize("feat_unfold", [True, False])
@pytest.mark.parametrize("cell_decode", [True, False])
def test_bilinear_start_is_bilinear_interpolation(
    encoder: dict[str, Any], feat_unfold: bool, cell_decode: bool
) -> None:
    torch.manual_seed(0)
    model: Any = models.make(liif_spec(encoder, feat_unfold=feat_unfold, cell_decode=cell_decode))
    bilinear_init(model, residual_gain=0)
    inp = torch.rand(2, 3, 9, 11) * 2 - 1
    size = (31, 26)
    coord, cell = (x.expand(2, -1, -1) for x in (make_coord(size), make_cell(size)))
    with torch.no_grad():
        answer = model.eval()(inp, coord, cell)
    expected = F.interpolate(inp, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(answer.transpose(1, 2).view(2, 3, *size), expected, atol=1e-5, rtol=0)


def test_bilinear_start_keeps_other_weights_and_gradients_alive() -> None:
    torch.manual_seed(0)
    model: Any = models.make(liif_spec(ENCODERS[0]))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    bilinear_init(model)
    assert torch.equal(before["encoder.body.0.body.0.weight"], model.encoder.body[0].body[0].weight)
    assert torch.equal(before["encoder.head.0.weight"][3:], model.encoder.head[0].weight[3:])
    inp, coord = torch.rand(1, 3, 8, 8), make_coord((12, 12))[None]
    model(inp, coord, make_cell((12, 12))[None]).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.abs().sum() > 0, name


def test_bilinear_start_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UsageError, match="no_upsampling"):
        bilinear_init(models.make(liif_spec({"name": "edsr-baseline", "args": {"n_resblocks": 1}})))
    narrow = liif_spec(ENCODERS[0])
    narrow["args"]["imnet_spec"]["args"]["hidden_list"] = [5]
    with pytest.raises(UsageError, match="hidden layers"):
        bilinear_init(models.make(narrow))
