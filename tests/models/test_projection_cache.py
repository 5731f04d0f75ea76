"""The projection of a feature map: computed once, and never stale whatever changed in between."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.golden import seeded
from support.models import grid_queries, reference_answer, tiny_liif
from torch import Tensor

from liif_fast import functional, models


@pytest.fixture
def projections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every projection computed."""
    calls: list[int] = []
    original = functional.project

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(functional, "project", counted)
    return calls


def test_projection_is_computed_once_for_a_feature_map(projections: list[int]) -> None:
    model = tiny_liif()
    coord, cell = grid_queries(20, 20)
    with torch.no_grad():
        model.gen_feat(seeded((1, 3, 6, 7), 1, 1))
        for part in range(0, 400, 100):
            model.query_rgb(coord[:, part : part + 100], cell[:, part : part + 100])
    assert len(projections) == 1


def scale_in_place(model: models.LIIF) -> None:
    assert model.feat is not None
    model.feat.mul_(0.5)


def change_one_pixel(model: models.LIIF) -> None:
    assert model.feat is not None
    # Off the sparse grid on which contents are compared: only torch's own count of changes sees it.
    model.feat[:, :, 1, 1] += 50.0


def scale_uncounted(model: models.LIIF) -> None:
    assert model.feat is not None
    model.feat.data.mul_(0.5)


def exchange_storage(model: models.LIIF) -> None:
    assert model.feat is not None
    model.feat.data = model.feat.data.flip(1)


def optimizer_step(model: models.LIIF) -> None:
    optimizer = torch.optim.SGD(model.imnet.parameters(), lr=0.1)
    with torch.enable_grad():
        model.query_rgb(*grid_queries()).square().sum().backward()
    optimizer.step()


def load_other_weights(model: models.LIIF) -> None:
    model.load_state_dict({key: value * 0.5 for key, value in model.state_dict().items()})


def edit_weight_data(model: models.LIIF) -> None:
    model.imnet.layers[0].weight.data[0, 0] += 1.0


def exchange_imnet(model: models.LIIF) -> None:
    model.imnet = models.MLP(8 * 9 + 4, 3, [16])


def flip_training_mode(model: models.LIIF) -> None:
    model.train()
    optimizer_step(model)
    model.eval()


CHANGES = [
    scale_in_place,
    change_one_pixel,
    scale_uncounted,
    exchange_storage,
    optimizer_step,
    load_other_weights,
    edit_weight_data,
    exchange_imnet,
    flip_training_mode,
]


@pytest.mark.parametrize("change", CHANGES)
def test_projection_is_not_stale_after(change: Callable[[models.LIIF], None]) -> None:
    model = tiny_liif()
    coord, cell = grid_queries()
    with torch.no_grad():
        model.gen_feat(seeded((1, 3, 16, 17), 1, 1))
        before = model.query_rgb(coord, cell)
        change(model)
        after = model.query_rgb(coord, cell)
    assert not torch.allclose(before, after, atol=1e-4)
    torch.testing.assert_close(after, reference_answer(model, coord, cell), rtol=0, atol=1e-5)


def test_projection_is_not_stale_with_inference_tensors(projections: list[int]) -> None:
    model = tiny_liif()
    coord, cell = grid_queries()
    with torch.inference_mode():
        feat = model.gen_feat(seeded((1, 3, 40, 41), 1, 1))
        before = model.query_rgb(coord, cell)
        model.query_rgb(coord, cell)
        assert len(projections) == 1
        # Away from the sparse grid: only a comparison of everything sees this.
        feat[:, :, 21, 21] += 50.0
        after = model.query_rgb(coord, cell)
        assert not torch.allclose(before, after, atol=1e-4)
        torch.testing.assert_close(after, reference_answer(model, coord, cell), rtol=0, atol=1e-5)
    # The inference tensor is still good outside, under no_grad and with trainable weights.
    with torch.no_grad():
        torch.testing.assert_close(model.query_rgb(coord, cell), after)


def test_projection_made_under_inference_mode_serves_a_backward_pass() -> None:
    model = tiny_liif()
    coord, cell = grid_queries()
    feat = model.gen_feat(seeded((1, 3, 6, 7), 1, 1)).detach()
    model.feat = feat
    with torch.inference_mode():
        model.query_rgb(coord, cell)
    model.requires_grad_(False)
    asked = coord.clone().requires_grad_()
    model.query_rgb(asked, cell).sum().backward()
    assert asked.grad is not None
    assert asked.grad.abs().max() > 0


def test_several_feature_maps_in_turn() -> None:
    model = tiny_liif()
    coord, cell = grid_queries()
    with torch.no_grad():
        maps = [model.gen_feat(seeded((1, 3, 6, 7), seed, 1)) for seed in (1, 2, 3)]
        for feat in maps + maps:
            model.feat = feat
            torch.testing.assert_close(
                model.query_rgb(coord, cell), reference_answer(model, coord, cell), rtol=0, atol=1e-5
            )


def test_two_backward_passes_of_one_feature_map_agree() -> None:
    model = tiny_liif().train()
    coord, cell = grid_queries()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        with torch.no_grad():
            model(seeded((1, 3, 6, 7), 1, 1), coord, cell)
        model(seeded((1, 3, 6, 7), 1, 1), coord, cell).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    for first, second in zip(*gradients, strict=True):
        assert first.abs().max() > 0
        torch.testing.assert_close(first, second)


def test_precision_and_autocast_do_not_share_a_projection(projections: list[int]) -> None:
    model = tiny_liif()
    coord, cell = grid_queries()
    with torch.no_grad():
        model.gen_feat(seeded((1, 3, 6, 7), 1, 1))
        exact = model.query_rgb(coord, cell)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model.query_rgb(coord, cell)
        assert len(projections) == 2
        assert torch.equal(model.query_rgb(coord, cell), exact)
        model.precision = "bf16"
        model.query_rgb(coord, cell)
        model.precision = "fp32"
        assert torch.equal(model.query_rgb(coord, cell), exact)


def test_nothing_outlives_the_features_and_the_model() -> None:
    model = tiny_liif()
    gc.collect()
    gc.disable()
    try:
        with torch.no_grad():
            model(seeded((1, 3, 6, 7), 1, 1), *grid_queries())
        entry = model._projections._entry
        assert entry is not None
        kept = [weakref.ref(entry.projected), weakref.ref(entry.content)]
        del entry
        model.feat = None
        assert model._projections._entry is None
        assert [ref() for ref in kept] == [None, None]
        with torch.no_grad():
            model(seeded((1, 3, 6, 7), 1, 1), *grid_queries())
        cache = weakref.ref(model._projections)
        del model
        assert cache() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_answer_alike_and_share_no_projection(copier: Callable[[models.LIIF], models.LIIF]) -> None:
    model = tiny_liif()
    coord, cell = grid_queries()
    with torch.no_grad():
        before = model(seeded((1, 3, 6, 7), 1, 1), coord, cell)
        twin = copier(model)
        assert twin._projections is not model._projections
        assert twin._projections._entry is None
        assert torch.equal(twin.query_rgb(coord, cell), before)
        twin.imnet.layers[0].weight.mul_(2)
        assert torch.equal(model.query_rgb(coord, cell), before)
        torch.testing.assert_close(twin.query_rgb(coord, cell), reference_answer(twin, coord, cell), rtol=0, atol=1e-5)
