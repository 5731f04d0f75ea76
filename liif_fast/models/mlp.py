"""The decoding function f_theta of LIIF (Chen et al. 2021, equation 1): linear layers with ReLU in between."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from liif_fast.models.registry import register


@register("mlp")
class MLP(nn.Module):
    """Linear layers of the widths in `hidden_list`, each followed by ReLU, then one to `out_dim`.

    Keys: ``layers.0``, ``layers.2``, ... (ReLU takes the odd places).
    """

    def __init__(self, in_dim: int, out_dim: int, hidden_list: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = in_dim
        for hidden in hidden_list:
            layers += [nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in_dim]`` to ``[..., out_dim]``."""
        out: Tensor = self.layers(x)
        return out

    # What `params.plain_layers` need not try.
    plain_forward = forward
