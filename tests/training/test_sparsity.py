"""The sparsity penalty: the activations that it counts, its value and gradient, and what a training makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.golden import SWITCHES, random_params, random_queries, seeded
from support.runs import NORM, read, same, small_config, weights

from liif_fast import models
from liif_fast.backends import reference
from liif_fast.errors import UsageError
from liif_fast.geometry import blend_weights, corners
from liif_fast.training.config import read_training_config
from liif_fast.training.sparsity import hidden_activations, sparsity_penalty
from liif_fast.training.trainer import LAST, Trainer


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return small_config(tmp_path / "pictures")


@pytest.mark.parametrize("switches", SWITCHES)
def test_the_activations_are_those_of_the_reference(switches: tuple[bool, bool, bool]) -> None:
    """Each query is repeated, so that all its neighbours come up, and blended as in equation 4."""
    local_ensemble, feat_unfold, cell_decode = switches
    names = {"local_ensemble": local_ensemble, "feat_unfold": feat_unfold, "cell_decode": cell_decode}
    params = random_params(5, [24, 40], seed=7, **names)
    feat = seeded((2, 5, 3, 7), 1, 1)
    coord, cell = random_queries(2, 31)
    found = corners(coord, (3, 7), local_ensemble)
    repeated = [t.repeat_interleave(len(found), dim=1) for t in (coord, cell)]
    layers = hidden_activations(feat, repeated[0], repeated[1], params)
    assert [layer.shape for layer in layers] == [(2, 31 * len(found), width) for width in (24, 40)]
    assert all(bool((layer >= 0).all()) for layer in layers)
    answers = F.linear(layers[-1], params.weights[-1], params.biases[-1]).unflatten(1, (31, len(found)))
    shares = torch.stack(blend_weights([corner.area for corner in found]), dim=-1).unsqueeze(-1)
    want = reference.query(feat, coord, cell, params)
    torch.testing.assert_close((answers * shares).sum(dim=2), want, rtol=0, atol=1e-6)


def test_the_penalty_is_the_weighted_sum_of_mean_activations(config: dict[str, Any]) -> None:
    sparsity = {"weights": [0.5, 2], "queries": 0.25}
    settings = read_training_config(config | {"sparsity": sparsity}).sparsity
    assert settings is not None
    model = models.make(config["model"])
    assert isinstance(model, models.LIIF)
    coord, cell = random_queries(2, 40)
    feat = model.gen_feat(seeded((2, 3, 6, 5), 3, 1))
    penalty = sparsity_penalty(settings, model, coord, cell)
    first, second = hidden_activations(feat, coord[:, :10], cell[:, :10], model.decoder_params())
    assert penalty.item() == pytest.approx(0.5 * first.mean().item() + 2 * second.mean().item(), rel=1e-5)
    penalty.backward()
    assert model.imnet is not None
    *hidden, output = [module for module in model.imnet.modules() if isinstance(module, torch.nn.Linear)]
    assert all(bool(layer.weight.grad.abs().sum() > 0) for layer in hidden if layer.weight.grad is not None)
    assert output.weight.grad is None


def test_more_units_are_zero_and_a_resumed_run_is_the_same(config: dict[str, Any], tmp_path: Path) -> None:
    config |= {"val_dataset": None, "optimizer": {"name": "adam", "args": {"lr": 3e-3}}}
    penalised = config | {"sparsity": {"weights": [1.0, 1.0], "queries": 0.5}}
    feat_of, shares = seeded((1, 3, 20, 20), 5, 1), []
    coord, cell = random_queries(1, 500)
    for name, settings in (("plain", config), ("sparse", penalised)):
        Trainer(settings, tmp_path / name).run()
        model = models.make(read(tmp_path / name / LAST)["model"])
        assert isinstance(model, models.LIIF)
        model.load_state_dict(weights(tmp_path / name / LAST))
        layers = hidden_activations(model.gen_feat(feat_of), coord, cell, model.decoder_params())
        shares.append([(layer == 0).float().mean().item() for layer in layers])
    assert all(sparse > plain for plain, sparse in zip(*shares, strict=True)), shares

    parts = tmp_path / "parts"
    Trainer(penalised | {"epoch_max": 1, "multi_step_lr": None}, parts).run()
    Trainer(penalised, parts, parts / LAST).run()
    assert same(weights(parts / LAST), weights(tmp_path / "sparse" / LAST))


def test_without_a_penalty_nothing_changes(config: dict[str, Any], tmp_path: Path) -> None:
    Trainer(config | {"epoch_max": 1}, tmp_path / "plain").run()
    Trainer(config | {"epoch_max": 1, "sparsity": {"weights": [0, 0]}}, tmp_path / "zero").run()
    assert same(weights(tmp_path / "plain" / LAST), weights(tmp_path / "zero" / LAST))


@pytest.mark.parametrize(
    ("sparsity", "message"),
    [
        ({}, "sparsity.weights: expected a list of numbers of 0 or more, got None"),
        ({"weights": [1, -1]}, "sparsity.weights: expected a list of numbers of 0 or more, got [1, -1]"),
        ({"weights": [1, 1], "queries": 0}, "sparsity.queries: expected a number above 0 and up to 1, got 0"),
        ({"weights": [1], "queries": 1}, "one number for each hidden layer of imnet, 2 here, got 1"),
        ({"weight": [1]}, "sparsity: unknown key 'weight'; did you mean 'weights'?"),
    ],
)
def test_mistakes_are_named(config: dict[str, Any], tmp_path: Path, sparsity: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Trainer(config | {"sparsity": sparsity}, tmp_path / "run")
    assert message in str(caught.value)


def test_models_without_an_mlp_of_their_own_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    encoder = config["model"]["args"]["encoder_spec"]
    model = {"name": "metasr", "args": {"encoder_spec": encoder}}
    with pytest.raises(UsageError, match="one number for each hidden layer of imnet, 0 here"):
        Trainer(config | {"model": model, "sparsity": {"weights": [1]}, "data_norm": NORM}, tmp_path / "run")
