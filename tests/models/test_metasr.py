"""Meta-SR in the collapsed form against the published one: outputs, gradients, the kept map, whole pictures."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.golden import seeded
from support.models import EDSR, grid_queries
from support.paths import RECORDED
from torch import Tensor, nn

from liif_fast import geometry, models
from liif_fast.backends import reference
from liif_fast.errors import UsageError
from liif_fast.models import metasr
from liif_fast.models.metasr import MatrixDecoder
from liif_fast.rendering import render

GOLDEN = [case for case in json.loads((RECORDED / "query.json").read_text()) if case["name"].startswith("metasr")]


class Stem(nn.Conv2d):
    """A small encoder: 3 x 3, from 3 channels."""

    def __init__(self, out_dim: int) -> None:
        super().__init__(3, out_dim, 3, padding=1)
        self.out_dim = out_dim
        self.receptive_radius = 1


def built(channels: int, out_dim: int = 3, seed: int = 95) -> models.MetaSR:
    """A Meta-SR with weights by the golden formula."""
    torch.manual_seed(0)
    model = models.MetaSR(Stem(channels), out_dim=out_dim).eval()
    with torch.no_grad():
        layers: Any = model.imnet.layers
        for k, layer in enumerate(layers[::2]):
            bound = layer.in_features**-0.5
            layer.weight.copy_(seeded(list(layer.weight.shape), seed + 2 * k, bound))
            layer.bias.copy_(seeded([layer.out_features], seed + 2 * k + 1, bound))
    return model


def ask(model: models.MetaSR, feat: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
    model.feat = feat
    return model.query_rgb(coord, cell)


def truth(model: models.MetaSR, feat: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
    """The published form in float64, with the pixels that float32 coordinates choose."""
    with torch.no_grad():
        return reference.metasr_query(feat.double(), coord, cell, copy.deepcopy(model.imnet).double())


def check(got: Tensor, model: models.MetaSR, feat: Tensor, coord: Tensor, cell: Tensor) -> None:
    exact = truth(model, feat, coord, cell)
    with torch.no_grad():
        own = (reference.metasr_query(feat, coord, cell, model.imnet) - exact).abs().max()
    assert got.shape == exact.shape
    assert (got - exact).abs().max() <= 2 * own + 1e-6


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
@pytest.mark.parametrize("form", ["kept", "chunks", "few", "graph"])
def test_golden_output(case: dict[str, Any], form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = np.load(RECORDED / "query.npz")
    coord, cell, out = (torch.from_numpy(arrays[f"{case['name']}/{key}"]) for key in ("coord", "cell", "out"))
    model = built(case["feat_shape"][1], seed=case["imnet_seed"])
    feat = seeded(case["feat_shape"], case["feat_seed"], 1)
    monkeypatch.setattr(metasr, "CHUNK", 37 if form == "chunks" else 1024)
    if form == "few":
        parts = zip(coord.split(23, 1), cell.split(23, 1), strict=True)
        got = torch.cat([ask(model, feat, *part) for part in parts], dim=1)
    else:
        with torch.set_grad_enabled(form == "graph"):
            got = ask(model, feat, coord, cell)
    check(got, model, feat, coord, cell)
    exact = truth(model, feat, coord, cell)
    # The published float32 output is itself only so near to float64.
    assert (got - exact).abs().max() <= 2 * (out - exact).abs().max() + 1e-6
    torch.testing.assert_close(exact.float(), out, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("batch", "channels", "out_dim"), [(1, 1, 1), (2, 5, 3), (3, 2, 4)])
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (9, 4)])
@pytest.mark.parametrize("count", [1, 30, 129])
def test_every_form_is_within_twice_pytorchs_own_error(
    batch: int, channels: int, out_dim: int, size: tuple[int, int], count: int
) -> None:
    model = built(channels, out_dim)
    feat = seeded((batch, channels, *size), 1, 1)
    coord, cell = seeded((batch, count, 2), 2, 1.05), seeded((batch, count, 2), 3, 0.4).abs()
    with torch.no_grad():
        check(ask(model, feat, coord, cell), model, feat, coord, cell)
    check(ask(model, feat, coord, cell).detach(), model, feat, coord, cell)


@pytest.mark.parametrize("count", [5, 14], ids=["few", "map"])
def test_gradients_are_those_of_the_published_form(count: int) -> None:
    model = built(3, 2).double()
    feat = seeded((2, 3, 3, 4), 1, 1).double().requires_grad_()
    coord, cell = (seeded((2, count, 2), k, b).double().requires_grad_() for k, b in ((2, 0.9), (3, 0.4)))
    leaves = [feat, coord, cell, *model.imnet.parameters()]
    weight = seeded((2, count, 2), 4, 1).double()
    want = torch.autograd.grad((reference.metasr_query(feat, coord, cell, model.imnet) * weight).sum(), leaves)
    got = torch.autograd.grad((ask(model, feat, coord, cell) * weight).sum(), leaves)
    for ours, theirs in zip(got, want, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("count", [3, 5], ids=["few", "map"])
def test_gradcheck_in_float64(count: int) -> None:
    model = built(1, 1).double()
    feat = seeded((1, 1, 2, 2), 1, 1).double()
    coord, cell = (seeded((1, count, 2), k, b).double() for k, b in ((2, 0.9), (3, 0.4)))
    last: Any = model.imnet.layers[-1]
    leaves = [t.requires_grad_() for t in (feat, coord, cell, last.bias)]

    def run(feat: Tensor, coord: Tensor, cell: Tensor, *_: Tensor) -> Tensor:
        return ask(model, feat, coord, cell)

    assert torch.autograd.gradcheck(run, leaves)
    # Thousands of weights: along random directions only.
    assert torch.autograd.gradcheck(run, [*leaves, *model.imnet.parameters()], fast_mode=True)


# ---- the map, kept from query to query ----


@pytest.fixture
def projections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every map computed."""
    calls: list[int] = []
    original = MatrixDecoder.project

    def counted(self: MatrixDecoder, feat: Tensor) -> Tensor:
        calls.append(1)
        return original(self, feat)

    monkeypatch.setattr(MatrixDecoder, "project", counted)
    return calls


def test_map_is_computed_once_for_a_feature_map(projections: list[int]) -> None:
    model = built(4)
    coord, cell = grid_queries(20, 20)
    with torch.no_grad():
        model.gen_feat(seeded((1, 3, 6, 7), 1, 1))
        for part in range(0, 400, 100):
            model.query_rgb(coord[:, part : part + 100], cell[:, part : part + 100])
        assert len(projections) == 1
        model.gen_feat(seeded((1, 3, 6, 7), 1, 1))
        model.query_rgb(coord, cell)
    assert len(projections) == 2


def change_features(model: models.MetaSR) -> None:
    assert model.feat is not None
    model.feat[:, :, 1, 1] += 50.0


def change_features_uncounted(model: models.MetaSR) -> None:
    assert model.feat is not None
    model.feat.data.mul_(0.5)


def change_bias_uncounted(model: models.MetaSR) -> None:
    model.imnet.layers[-1].bias.data[0] += 1.0


def change_weight_uncounted(model: models.MetaSR) -> None:
    model.imnet.layers[-1].weight.data[0] += 1.0


def change_first_layer(model: models.MetaSR) -> None:
    model.imnet.layers[0].weight.data.mul_(2)


def optimizer_step_in_training(model: models.MetaSR) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.imnet.parameters(), lr=0.1)
    with torch.enable_grad():
        model.query_rgb(*grid_queries(20, 20)).square().sum().backward()
    optimizer.step()
    model.eval()


@pytest.mark.parametrize(
    "change",
    [
        change_features,
        change_features_uncounted,
        change_bias_uncounted,
        change_weight_uncounted,
        change_first_layer,
        optimizer_step_in_training,
    ],
)
def test_map_is_not_stale_after(change: Callable[[models.MetaSR], None]) -> None:
    model = built(4)
    coord, cell = grid_queries(20, 20)
    with torch.no_grad():
        feat = model.gen_feat(seeded((1, 3, 16, 17), 1, 1))
        before = model.query_rgb(coord, cell)
        change(model)
        after = model.query_rgb(coord, cell)
    assert not torch.allclose(before, after, atol=1e-4)
    check(after, model, feat, coord, cell)


def test_several_feature_maps_in_turn() -> None:
    model = built(4)
    coord, cell = grid_queries()
    with torch.no_grad():
        maps = [model.gen_feat(seeded((1, 3, 6, 7), seed, 1)) for seed in (1, 2, 3)]
        for feat in maps + maps:
            check(ask(model, feat, coord, cell), model, feat, coord, cell)


def test_bf16_autocast_keeps_the_pixels_and_answers_in_float32() -> None:
    model = built(8)
    feat = seeded((1, 8, 2, 1024), 1, 1)
    coord, cell = geometry.make_coord((4, 2048))[None], geometry.make_cell((4, 2048))[None]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        got = ask(model, feat, coord, cell)
    assert got.dtype == torch.float32
    exact = truth(model, feat, coord, cell)
    assert (got - exact).square().mean().sqrt() < 0.01 * exact.std()


def test_traced_model_gives_the_same_answer() -> None:
    model = built(4)
    (coord, cell), feats = grid_queries(20, 20), [seeded((1, 3, 6, 7), seed, 1) for seed in (1, 2)]
    traced: Callable[..., Tensor] = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for inp in feats:
            torch.testing.assert_close(traced(inp, coord, cell), model(inp, coord, cell), rtol=0, atol=1e-6)


# ---- whole pictures, specs ----


@pytest.mark.parametrize("size", [(127, 165), (40, 77), (9, 11)], ids=str)
def test_tiles_equal_the_whole(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model: Any = models.make({"name": "metasr", "args": {"encoder_spec": EDSR}}).eval()
    inp = seeded((1, 3, 47, 61), 1, 1).abs()
    with torch.no_grad():
        rgb = model((inp - 0.5) / 0.5, geometry.make_coord(size)[None], geometry.make_cell(size)[None])
    expected = (rgb[0].t().reshape(1, 3, *size) * 0.5 + 0.5).clamp(0, 1)
    for options in ({"tile": 16}, {"tile": 1000}, {"memory": "1M"}):
        torch.testing.assert_close(render.render(model, inp, size, **options), expected, rtol=0, atol=1e-5)


def test_out_dim_is_part_of_the_spec() -> None:
    encoder = {"name": "edsr-baseline", "args": EDSR["args"] | {"n_colors": 5}}
    model = models.make({"name": "metasr", "args": {"encoder_spec": encoder, "out_dim": 2}})
    assert models.spec_of(model)["args"]["out_dim"] == 2
    assert "out_dim" not in models.spec_of(models.MetaSR(encoder))["args"]
    with torch.no_grad():
        assert model(seeded((1, 5, 4, 4), 1, 1), *grid_queries()).shape == (1, 72, 2)


def test_it_says_what_it_needs() -> None:
    model = models.MetaSR(EDSR)
    coord, _ = grid_queries()
    with pytest.raises(UsageError, match="call gen_feat"):
        model.query_rgb(coord, coord)
    model.gen_feat(seeded((1, 3, 4, 4), 1, 1))
    with pytest.raises(UsageError, match=r"cell of coord's shape \[1, 72, 2\], got None"):
        model.query_rgb(coord)
