"""An MLP is what calling it does: whatever hangs on it or stands in it, the answers and the training are its own."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import foreign
from support.foreign import CELL, COORD, INP
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from liif_fast import LIIF, accelerate
from liif_fast.acceleration import report
from liif_fast.errors import BackendError
from liif_fast.params import plain_layers


class LowRank(nn.Linear):
    """A layer with an adapter beside its weight."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(inside, outside)
        self.down, self.up = nn.Parameter(torch.randn(2, inside)), nn.Parameter(torch.randn(outside, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.down.T @ self.up.T


class Residual(nn.Module):
    """An MLP with `layers` and a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(49, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, rows: Tensor) -> Tensor:
        first = self.layers[:2](rows)
        return self.layers[4](first + self.layers[2:4](first)).tanh()


class Bent(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=-0.1)


def with_layer(change: Callable[[nn.Module], Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        imnet = foreign.Perceptron(49)
        change(imnet.layers[2])
        return imnet

    return make


def replaced_forward() -> nn.Module:
    imnet = foreign.Perceptron(49)
    imnet.forward = types.MethodType(lambda self, rows: self.layers(rows).sin(), imnet)  # type: ignore[method-assign]
    return imnet


def adapted() -> nn.Module:
    imnet = foreign.Perceptron(49)
    imnet.layers[2] = LowRank(12, 12)
    return imnet


def pointwise(activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(49, 12, 1), activation(), nn.Conv2d(12, 3, 1))


CALLED: dict[str, Callable[[], nn.Module]] = {
    "weight norm": with_layer(weight_norm),
    "spectral norm": with_layer(spectral_norm),
    "pruned": with_layer(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    "parametrized": with_layer(parametrizations.weight_norm),
    "hook": with_layer(lambda layer: layer.register_forward_hook(lambda module, rows, out: out + 1)),
    "hook before": with_layer(lambda layer: layer.register_forward_pre_hook(lambda module, rows: (rows[0] * 2,))),
    "replaced forward": replaced_forward,
    "adapter": adapted,
    "residual": Residual,
    "other ReLU": lambda: foreign.Perceptron(49, activation=Bent),
    "GELU": lambda: foreign.Perceptron(49, activation=nn.GELU),
    "dropout": lambda: nn.Sequential(nn.Linear(49, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3)),
}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "cuda", lambda self, *args, **kwargs: self)


def built(imnet: Callable[[], nn.Module]) -> tuple[Any, Any, Any]:
    """The published code's model, its accelerated copy, and this package's with the same modules."""
    models = []
    for _ in range(3):
        torch.manual_seed(0)
        models.append(foreign.Published(imnet()))
    model, fast, twin = models
    twin.encoder.out_dim = foreign.CHANNELS  # type: ignore[assignment]
    return model, accelerate(fast), LIIF(twin.encoder, twin.imnet)


def trained(model: nn.Module) -> list[float]:
    """The losses of some steps."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    torch.manual_seed(4)
    for _ in range(4):
        optimizer.zero_grad()
        loss = (model(INP, COORD, CELL) - INP.mean()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", CALLED)
def test_training_and_answers_are_those_of_the_module(name: str) -> None:
    model, *others = built(CALLED[name])
    for other in others:
        assert [row.way for row in report(other)] == ["module"]
    losses = trained(model)
    assert losses[-1] < losses[0]
    model.eval()
    for other in others:
        assert trained(other) == pytest.approx(losses, rel=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(other.eval()(INP, COORD, CELL), model(INP, COORD, CELL), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", ["weight norm", "pruned", "hook", "replaced forward", "adapter"])
@torch.no_grad()
def test_what_is_hung_on_later_counts_at_once(name: str) -> None:
    """The plain MLP first, so that a projection of its map is kept."""
    model, *others = built(lambda: foreign.Perceptron(49))
    changed = CALLED[name]()
    for each in (model, *others):
        each.eval()(INP, COORD, CELL)
    for other in others:
        assert [row.way for row in report(other)] == ["fused"]
    for each in (model, *others):
        each.imnet = copy.deepcopy(changed)
    expected = model.query_rgb(COORD, CELL)
    for other in others:
        torch.testing.assert_close(other.query_rgb(COORD, CELL), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@torch.no_grad()
def test_quantised_layers_are_called() -> None:
    model, fast, own = built(lambda: foreign.Perceptron(49, 64))
    for each in (model, fast, own):
        each.eval().imnet = torch.ao.quantization.quantize_dynamic(each.imnet, {nn.Linear})
    expected = model(INP, COORD, CELL)
    for other in (fast, own):
        torch.testing.assert_close(other(INP, COORD, CELL), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("activation", "way"), [(nn.ReLU, "fused"), (nn.GELU, "module")])
def test_convolutions_of_one_pixel(activation: type[nn.Module], way: str) -> None:
    torch.manual_seed(0)
    layers = pointwise(activation)
    flat = nn.Sequential(nn.Linear(49, 12), activation(), nn.Linear(12, 3))
    for layer, like in zip((flat[0], flat[2]), (layers[0], layers[2]), strict=True):
        layer.weight.data, layer.bias.data = like.weight.data.flatten(1), like.bias.data
    encoder = nn.Conv2d(3, foreign.CHANNELS, 3, padding=1)
    encoder.out_dim = foreign.CHANNELS  # type: ignore[assignment]
    answers = []
    for imnet in (layers, flat):
        model = LIIF(encoder, imnet)
        assert [row.way for row in report(model)] == [way]
        answers.append(model(INP, COORD, CELL))
    torch.testing.assert_close(*answers)
    answers[0].sum().backward()
    assert layers[0].weight.grad is not None


def test_a_named_backend_does_not_pretend() -> None:
    _, _, own = built(Residual)
    own.backend = "cpu"
    with pytest.raises(BackendError, match="backend 'cpu' cannot run: imnet: expected a forward that only runs"):
        own(INP, COORD, CELL)


def test_a_forward_that_depends_on_an_attribute_is_tried_again() -> None:
    class Switched(foreign.Perceptron):
        bend = False

        def forward(self, rows: Tensor) -> Tensor:
            return super().forward(rows).sin() if self.bend else super().forward(rows)

    imnet = Switched(49)
    assert not isinstance(plain_layers(imnet), str)
    imnet.bend = True
    assert isinstance(plain_layers(imnet), str)
    imnet.bend = False
    assert not isinstance(plain_layers(copy.deepcopy(imnet)), str)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual", "plain"])
@torch.no_grad()
def test_compiled_models_take_the_same_way(name: str) -> None:
    make = Residual if name == "residual" else lambda: foreign.Perceptron(49)
    model, *others = built(make)
    expected = model(INP, COORD, CELL)
    for other in others:
        other(INP, COORD, CELL)
        compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(INP, COORD, CELL), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_half_precision_and_autocast_reach_the_module() -> None:
    model, *others = built(CALLED["GELU"])
    expected = model(INP, COORD, CELL)
    for other in others:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under = other(INP, COORD, CELL)
        assert under.dtype == torch.float32
        asked = accelerate(other, precision="bf16")(INP, COORD, CELL)
        for answer in (under, asked):
            assert 0 < (answer - expected).abs().max() < 0.05
