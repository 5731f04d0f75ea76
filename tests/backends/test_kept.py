"""What is kept of weights on a GPU is never stale."""

from __future__ import annotations

import pytest
import torch
from support.golden import random_params

launch = pytest.importorskip("liif_fast.kernels.launch", reason="the Triton kernels")
kept = pytest.importorskip("liif_fast.kernels.kept", reason="the Triton kernels")


def test_packed_weights_are_kept_until_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never stale: a change in place, other weights at the same address, and inference tensors pack anew."""
    monkeypatch.setattr(kept, "counts_changes", lambda tensors: not any(t.is_inference() for t in tensors))
    kept.forget()
    params = random_params(4, [16, 16])
    _, rest = params.split()
    given = (None, rest, params.weights[1:], params.biases, torch.float32, 32)
    first = launch.packed(*given)
    assert launch.packed(*given) is first
    assert launch.packed(*given[:-2], torch.float16, 32) is not first
    with torch.no_grad():
        params.weights[1].mul_(2)
    assert torch.equal(launch.packed(*given).middle, first.middle * 2)
    for seed in range(2 * kept.MOST):
        other = random_params(4, [16, 16], seed=seed)
        its = (None, other.split()[1], other.weights[1:], other.biases, torch.float32, 32)
        assert torch.equal(launch.packed(*its).last, launch.pack(*its).last)
        del other, its
    assert len(kept._entries) == kept.MOST
    kept.forget()
