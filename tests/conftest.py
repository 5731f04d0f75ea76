"""What many tests share: the golden formula and the recorded cases."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

# Processes that test side by side share the cores, and so do the programs that they start.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))

# Without a GPU the Triton kernels run in Triton's interpreter, which must be asked for before they are imported.
# On one, cuBLAS is deterministic only with a workspace of this size.
if torch.cuda.is_available():
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
else:
    os.environ.setdefault("TRITON_INTERPRET", "1")

from liif_fast.params import DecoderParams

DATA = Path(__file__).parent / "data"


def seeded(shape: tuple[int, ...] | list[int], seed: int, bound: float) -> Tensor:
    """The input formula of the golden cases (tests/data/README.md)."""
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
    specs = json.loads((DATA / "query.json").read_text())
    arrays = np.load(DATA / "query.npz")
    return [GoldenCase(spec, arrays) for spec in specs if "seed" in spec]


@pytest.fixture(params=golden_cases(), ids=lambda case: case.name)
def golden(request: pytest.FixtureRequest) -> GoldenCase:
    case: GoldenCase = request.param
    return case
