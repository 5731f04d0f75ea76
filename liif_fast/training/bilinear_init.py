"""An initialisation that makes an untrained LIIF return the bilinear interpolation of its input.

The local ensemble of LIIF (equation 4) interpolates bilinearly between the predictions of the four neighbours. If
each predicts the colour of its own pixel, the model starts as a plain resize, and training only has to learn the
difference. All other weights start at random, scaled down so that they add little to the output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from liif_fast.errors import UsageError


def _skip_convolutions(encoder: Any) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The encoder's first convolution, and the last one of the branch to which the long skip adds its output."""
    if hasattr(encoder, "head") and hasattr(encoder, "body"):
        first, last = encoder.head[0], encoder.body[-1]  # EDSR, RCAN
    elif hasattr(encoder, "SFENet1") and hasattr(encoder, "GFF"):
        first, last = encoder.SFENet1, encoder.GFF[-1]  # RDN
    else:
        raise UsageError("init: bilinear needs an encoder with a long skip (edsr, rdn, rcan)")
    if getattr(encoder, "tail", None) is not None or getattr(encoder, "UPNet", None) is not None:
        raise UsageError("init: bilinear needs an encoder with no_upsampling: true")
    return first, last


@torch.no_grad()
def bilinear_init(model: Any, residual_gain: float = 0.1) -> None:
    """Changes a freshly built LIIF in place so that it starts as bilinear interpolation.

    The first channels of the feature map become the input's colours. In every layer of the MLP, the first pairs of
    hidden units carry the positive and negative parts of a colour, and the output adds them up again. `residual_gain`
    scales what the encoder's body and all other hidden units contribute; with 0 the model is exactly bilinear.
    Raises UsageError for an encoder without a long skip, or an MLP that is too narrow for the pairs.
    """
    first, last = _skip_convolutions(model.encoder)
    colours = first.in_channels
    linears = [layer for layer in model.imnet.layers if isinstance(layer, nn.Linear)]
    if len(linears) < 2 or min(layer.out_features for layer in linears[:-1]) < 2 * colours:
        raise UsageError(f"init: bilinear needs hidden layers of {2 * colours} units or more")
    if linears[-1].out_features != colours or first.out_channels < colours:
        raise UsageError(f"init: bilinear needs as many outputs as inputs, {colours}")

    centre = first.kernel_size[0] // 2
    first.weight[:colours] = 0
    first.weight[range(colours), range(colours), centre, centre] = 1
    assert first.bias is not None
    first.bias[:colours] = 0
    last.weight *= residual_gain
    if last.bias is not None:
        last.bias *= residual_gain

    unfolded = bool(getattr(model, "feat_unfold", False))
    for number, layer in enumerate(linears[:-1]):
        layer.weight[: 2 * colours] = 0
        layer.bias[: 2 * colours] = 0
        for colour in range(colours):
            for sign in (0, 1):
                unit = 2 * colour + sign
                if number == 0:
                    column = colour * 9 + 4 if unfolded else colour
                    layer.weight[unit, column] = 1 - 2 * sign
                else:
                    layer.weight[unit, unit] = 1
    output = linears[-1]
    output.weight *= residual_gain
    output.weight[:, : 2 * colours] = 0
    output.bias.zero_()
    for colour in range(colours):
        output.weight[colour, 2 * colour] = 1
        output.weight[colour, 2 * colour + 1] = -1
