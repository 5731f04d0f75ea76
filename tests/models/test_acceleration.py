"""`accelerate` on stand-ins for the two ways a LIIF is asked: on kept features (published), on given ones (mmagic)."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.golden import seeded
from torch import Tensor, nn

from liif_fast import accelerate, functional, make_cell, make_coord, models, restore
from liif_fast.backends import reference
from liif_fast.errors import UsageError
from liif_fast.params import DecoderParams


class Decoder(nn.Module):
    """What both protocols share: the MLP, the switches, and the slow answer."""

    def __init__(self, local_ensemble: bool = True, feat_unfold: bool = True, cell_decode: bool = True) -> None:
        super().__init__()
        self.local_ensemble, self.feat_unfold, self.cell_decode = local_ensemble, feat_unfold, cell_decode
        self.encoder = nn.Conv2d(3, 5, 3, padding=1)
        self.imnet = models.MLP(5 * (9 if feat_unfold else 1) + (4 if cell_decode else 2), 3, [12, 12])
        self.slow_answers = 0

    def slow(self, feat: Tensor, coord: Tensor, cell: Tensor | None) -> Tensor:
        self.slow_answers += 1
        switches = {k: getattr(self, k) for k in ("local_ensemble", "feat_unfold", "cell_decode")}
        return reference.query(feat, coord, cell, DecoderParams.from_mlp(self.imnet, feat.shape[1], **switches))


class KeepsFeatures(Decoder):
    def gen_feat(self, inp: Tensor) -> Tensor:
        self.feat = self.encoder(inp)
        return self.feat

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        return self.slow(self.feat, coord, cell)

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor | None) -> Tensor:
        self.gen_feat(inp)
        return self.query_rgb(coord, cell)


class TakesFeatures(Decoder):
    def gen_feature(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def query_rgb(self, feature: Tensor, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        return self.slow(feature, coord, cell)

    def forward(self, x: Tensor, coord: Tensor, cell: Tensor | None) -> Tensor:
        feature = self.gen_feature(x)
        parts = range(0, coord.shape[1], 20)
        return torch.cat([self.query_rgb(feature, coord[:, i : i + 20], cell[:, i : i + 20]) for i in parts], dim=1)


class Editor(nn.Module):
    """A restorer that holds the network, as mmagic's does."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator: Any = generator
        self.pixel_loss = nn.L1Loss()

    def forward(self, *args: Tensor) -> Tensor:
        return self.generator(*args)


class Needy(KeepsFeatures):
    """Like the published code without a GPU: its own query cannot run."""

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        raise AssertionError("Torch not compiled with CUDA enabled")


PROTOCOLS = [KeepsFeatures, TakesFeatures]
INP = seeded((2, 3, 6, 7), 1, 1)
COORD = make_coord((9, 8)).expand(2, -1, -1)
CELL = make_cell((9, 8)).expand(2, -1, -1)


def built(cls: type[Any], **switches: bool) -> Any:
    torch.manual_seed(0)
    return cls(**switches).eval()


@pytest.mark.parametrize("cls", PROTOCOLS)
@pytest.mark.parametrize("switches", [{}, {"local_ensemble": False}, {"feat_unfold": False}, {"cell_decode": False}])
@torch.no_grad()
def test_answers_are_the_same_and_no_longer_slow(cls: type[Any], switches: dict[str, bool]) -> None:
    model = built(cls, **switches)
    expected = model(INP, COORD, CELL)
    state = copy.deepcopy(model.state_dict())
    assert accelerate(model) is model
    assert isinstance(model, cls)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(model.state_dict()[key], state[key]) for key in state)
    model.slow_answers = 0
    torch.testing.assert_close(model(INP, COORD, CELL), expected, rtol=0, atol=1e-5)
    assert model.slow_answers == 0


@pytest.mark.parametrize("cls", PROTOCOLS)
@torch.no_grad()
def test_restore_undoes_it(cls: type[Any]) -> None:
    model = built(cls)
    attributes = set(vars(model))
    assert restore(accelerate(model)) is model
    assert type(model) is cls
    assert set(vars(model)) == attributes
    model.slow_answers = 0
    model(INP, COORD, CELL)
    assert model.slow_answers > 0
    assert restore(model) is model


@torch.no_grad()
def test_the_example_that_is_tried_leaves_no_trace() -> None:
    model = built(KeepsFeatures)
    kept = model.gen_feat(INP)
    accelerate(model)
    assert model.feat is kept


@pytest.mark.parametrize("cls", PROTOCOLS)
@torch.no_grad()
def test_models_inside_of_others_are_found(cls: type[Any]) -> None:
    editor = Editor(nn.Sequential(built(cls))[0])
    expected = editor(INP, COORD, CELL)
    keys = list(editor.state_dict())
    assert accelerate(editor) is editor
    editor.generator.slow_answers = 0
    torch.testing.assert_close(editor(INP, COORD, CELL), expected, rtol=0, atol=1e-5)
    assert editor.generator.slow_answers == 0
    assert list(editor.state_dict()) == keys
    restore(editor)
    assert type(editor.generator) is cls


@torch.no_grad()
def test_model_that_cannot_be_asked_can_be_insisted_on() -> None:
    model = accelerate(built(Needy), check=False)
    same = built(KeepsFeatures)
    torch.testing.assert_close(model(INP, COORD, CELL), same(INP, COORD, CELL), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cls", PROTOCOLS)
@torch.no_grad()
def test_projection_is_computed_once_and_never_stale(cls: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = accelerate(built(cls))
    calls: list[int] = []
    original = functional.project
    monkeypatch.setattr(functional, "project", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    feat = model.encoder(INP)

    def ask() -> Tensor:
        if cls is TakesFeatures:
            return model.query_rgb(feat, COORD, CELL)
        model.feat = feat
        return model.query_rgb(COORD, CELL)

    for _ in range(3):
        ask()
    assert len(calls) == 1
    for change in (lambda: feat.mul_(0.5), lambda: model.imnet.layers[0].weight.data.mul_(0.5)):
        before = ask()
        change()
        after = ask()
        assert not torch.allclose(before, after, atol=1e-4)
        torch.testing.assert_close(after, model.slow(feat, COORD, CELL), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cls", PROTOCOLS)
def test_gradients_are_the_same(cls: type[Any]) -> None:
    gradients = []
    for model in (built(cls), accelerate(built(cls))):
        inp = INP.clone().requires_grad_()
        model(inp, COORD, CELL).square().sum().backward()
        gradients.append([inp.grad, *(p.grad for p in model.parameters())])
    for plain, fast in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_choices_are_used_and_can_be_changed() -> None:
    model = accelerate(built(KeepsFeatures), backend="torch", precision="fp32")
    exact = model(INP, COORD, CELL)
    coarse = accelerate(model, precision="bf16")(INP, COORD, CELL)
    assert 0 < (coarse - exact).abs().max() < 0.05
    restore(model)
    assert type(model) is KeepsFeatures


@torch.no_grad()
def test_own_models_take_the_choices_and_give_them_back() -> None:
    encoder = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4, "no_upsampling": True}}
    model = models.LIIF(encoder, {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [8]}}, backend="reference")
    expected = model(INP, COORD, CELL)
    accelerate(accelerate(model, precision="bf16"), backend="torch", precision="fp32")
    assert (model.backend, model.precision) == ("torch", "fp32")
    torch.testing.assert_close(model(INP, COORD, CELL), expected, rtol=0, atol=1e-5)
    restore(model)
    assert (model.backend, model.precision) == ("reference", "auto")


def through_file(model: nn.Module) -> Any:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize("cls", PROTOCOLS)
@pytest.mark.parametrize(
    "copier",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), through_file],
    ids=["deepcopy", "pickle", "torch.save"],
)
@torch.no_grad()
def test_copies_are_fast_and_on_their_own(cls: type[Any], copier: Callable[[nn.Module], Any]) -> None:
    model = accelerate(built(cls))
    expected = model(INP, COORD, CELL)
    twin = copier(model)
    twin.slow_answers = 0
    assert torch.equal(twin(INP, COORD, CELL), expected)
    assert twin.slow_answers == 0
    twin.imnet.layers[0].weight.mul_(2)
    assert not torch.equal(twin(INP, COORD, CELL), expected)
    assert torch.equal(model(INP, COORD, CELL), expected)
    restore(twin)
    assert type(twin) is cls
    assert type(model) is not cls


@torch.no_grad()
def test_replicas_use_their_own_features() -> None:
    model = accelerate(built(KeepsFeatures))
    expected = model(INP, COORD, CELL)
    replica = model._replicate_for_data_parallel()
    for name, module in model.named_children():
        setattr(replica, name, module)
    other = replica(-INP, COORD, CELL)
    assert not torch.allclose(other, expected, atol=1e-3)
    assert torch.equal(model.query_rgb(COORD, CELL), expected)


@torch.no_grad()
def test_compiled_model_gives_the_same_answer() -> None:
    model = accelerate(built(TakesFeatures))
    expected = model(INP, COORD, CELL)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(INP, COORD, CELL), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_accelerated_model_dies_at_once() -> None:
    model = accelerate(built(KeepsFeatures))
    model(INP, COORD, CELL)
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(model)
        del model
        assert gone() is None
    finally:
        gc.enable()


# ---- what is refused ----


class OtherArithmetic(KeepsFeatures):
    """A descendant of LIIF that adds the nearest feature's colour to the answer."""

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        return self.slow(self.feat, coord, cell) + self.feat[:, :3].mean(dim=(2, 3)).unsqueeze(1) + 0.1


def test_what_is_no_liif_is_refused_with_what_was_looked_for() -> None:
    with pytest.raises(UsageError, match=r"a LIIF.*query_rgb\(feature, coord, cell\).*got Linear.*lacks imnet"):
        accelerate(nn.Linear(2, 2))


@torch.no_grad()
def test_own_metasr_is_left_as_it_is() -> None:
    encoder = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4, "no_upsampling": True}}
    model = models.MetaSR(encoder)
    expected = model(INP, COORD, CELL)
    assert type(restore(accelerate(model))) is models.MetaSR
    assert torch.equal(model(INP, COORD, CELL), expected)


def test_liif_without_mlp_is_refused() -> None:
    with pytest.raises(UsageError, match="got LIIF, which lacks imnet"):
        accelerate(models.LIIF({"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4}}))


def test_descendant_with_other_arithmetic_is_refused() -> None:
    model = built(OtherArithmetic)
    with pytest.raises(UsageError, match=r"query_rgb differs by .* its decoder is not LIIF's"):
        accelerate(model)
    assert type(model) is OtherArithmetic


def test_mlp_of_another_width_is_refused() -> None:
    model = built(KeepsFeatures)
    model.imnet = models.MLP(50, 3, [8])
    with pytest.raises(UsageError, match=r"raised UsageError: layer 0: expected a weight \[out, 49\]"):
        accelerate(model)
    assert type(model) is KeepsFeatures


def test_unknown_choices_are_named() -> None:
    with pytest.raises(UsageError, match=r"backend: expected one of auto, .*got 'abacus'"):
        accelerate(built(KeepsFeatures), backend="abacus")
    with pytest.raises(UsageError, match=r"precision: expected one of auto, .*got 'int3'"):
        accelerate(built(KeepsFeatures), precision="int3")


@torch.no_grad()
def test_missing_cell_is_named() -> None:
    model = accelerate(built(KeepsFeatures))
    model.gen_feat(INP)
    with pytest.raises(UsageError, match="cell_decode is on, got None"):
        model.query_rgb(COORD)
