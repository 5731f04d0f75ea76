"""The golden formula, the recorded cases of the published decoder, and random decoders and queries."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liif_fast.params import DecoderParams
from support.paths import RECORDED

SWITCHES = [(e, u, c) for e in (True, False) for u in (True, False) for c in (True, False)]


def seeded(shape: tuple[int, ...] | list[int], seed: int, bound: float) -> Tensor:
    """The input formula of the golden cases (tests/recorded/README.md)."""
    values = np.random.RandomState(seed).uniform(-bound, bound, size=tuple(shape))
    return torch.from_numpy(values.astype(np.float32))


def random_params(
    channels: int,
    hidden: list[int],
    out_dim: int = 3,
    seed: int = 0,
    *,
    local_ensemble: bool = True,
    feat_unfold: bool = True,
    cell_decode: bool = True,
) -> DecoderParams:
    """An MLP by the golden formula: layer k is seeded with seed + 2k and seed + 2k + 1."""
    widths = [channels * (9 if feat_unfold else 1) + (4 if cell_decode else 2), *hidden, out_dim]
    weights, biases = [], []
    for k in range(len(widths) - 1):
        bound = widths[k] ** -0.5
        weights.append(seeded((widths[k + 1], widths[k]), seed + 2 * k, bound))
        biases.append(seeded((widths[k + 1],), seed + 2 * k + 1, bound))
    return DecoderParams(tuple(weights), tuple(biases), channels, local_ensemble, feat_unfold, cell_decode)


class GoldenCase:
    """One recorded decoder case: inputs by formula, outputs (and gradients) of the published code."""

    def __init__(self, spec: dict[str, Any], arrays: Any) -> None:
        self.name: str = spec["name"]
        self.spec = spec
        self.arrays = arrays
        self.feat = seeded(spec["feat_shape"], spec["seed"] + 100, 1)
        switches = {k: spec[k] for k in ("local_ensemble", "feat_unfold", "cell_decode")}
        self.params = random_params(
            spec["feat_shape"][1], spec["hidden_list"], spec["out_dim"], spec["seed"], **switches
        )
        self.coord = self.array("coord")
        self.cell = self.array("cell")
        self.out = self.array("out")

    def array(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[f"{self.name}/{key}"])


def golden_cases() -> list[GoldenCase]:
    """Every recorded case of the LIIF decoder (those with an MLP of its own; Meta-SR has its own test)."""
    specs = json.loads((RECORDED / "query.json").read_text())
    arrays = np.load(RECORDED / "query.npz")
    return [GoldenCase(spec, arrays) for spec in specs if "seed" in spec]


def check_golden_gradients(case: GoldenCase, rtol: float = 1e-5) -> None:
    """Gradients that stand in case's leaves against the recorded ones (large weights: their first rows)."""
    named = {"grad_feat": case.feat}
    named |= {f"grad_weight{k}": w for k, w in enumerate(case.params.weights)}
    named |= {f"grad_bias{k}": b for k, b in enumerate(case.params.biases)}
    for key, leaf in named.items():
        want = case.array(key)
        assert leaf.grad is not None
        got = leaf.grad[: want.shape[0]] if key.startswith("grad_weight") else leaf.grad
        error = (got - want).abs().max() / want.abs().max()
        assert error < rtol, f"{case.name} {key}: {error}"


def to_double(params: DecoderParams) -> DecoderParams:
    return dataclasses.replace(
        params,
        weights=tuple(w.double() for w in params.weights),
        biases=tuple(b.double() for b in params.biases),
    )


def random_queries(batch: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return seeded((batch, count, 2), seed, 1.05), seeded((batch, count, 2), seed + 1, 0.4).abs()
