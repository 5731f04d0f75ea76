"""Whether a foreign decoder is LIIF: what is accelerated answers as before, and what is something else is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import foreign
from support.foreign import CELL, COORD, INP
from torch import Tensor, nn

import liif_fast
from liif_fast import accelerate, restore
from liif_fast.acceleration import report
from liif_fast.errors import UsageError

EQUAL: dict[str, Callable[[], nn.Module]] = {
    "published": foreign.Published,
    "no ensemble": lambda: foreign.Published(local_ensemble=False),
    "no unfolding": lambda: foreign.Published(feat_unfold=False),
    "no cell": lambda: foreign.Published(cell_decode=False),
    "given features": foreign.GivenFeatures,
    "bilinear skip": foreign.SkipFromGenFeat,
    "nearest skip": foreign.NearestSkip,
    "bicubic skip from forward": foreign.SkipFromForward,
    "device": foreign.WithDevice,
    "option": foreign.WithOption,
    "Meta-SR": foreign.MetaSR,
    "GELU": lambda: foreign.Published(foreign.Perceptron(49, activation=nn.GELU)),
    "dropout": lambda: foreign.Published(nn.Sequential(nn.Linear(49, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))),
    "batch norm": lambda: foreign.Published(
        nn.Sequential(nn.Linear(49, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    ),
}
DIFFERENT = [
    foreign.ExponentialShares,
    foreign.ClippedCell,
    foreign.ClampedAnswer,
    foreign.ScaledInside,
    foreign.AddsOne,
    foreign.OnlyInTraining,
]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the clones do by themselves; `accelerate` must do without."""
    monkeypatch.setattr(Tensor, "cuda", lambda self, *args, **kwargs: self)


def built(make: Callable[[], nn.Module]) -> Any:
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize("name", EQUAL)
@pytest.mark.parametrize("training", [False, True])
def test_answers_and_gradients_are_as_before(name: str, training: bool) -> None:
    model = built(EQUAL[name]).train(training)

    def learned() -> list[Tensor | None]:
        model.zero_grad()
        inp = INP.clone().requires_grad_()
        torch.manual_seed(3)
        answer = model(inp, COORD, CELL)
        answer.square().sum().backward()
        return [answer.detach(), inp.grad, *(parameter.grad for parameter in model.parameters())]

    plain = learned()
    kind, state = type(model), {key: value.clone() for key, value in model.state_dict().items()}
    assert accelerate(model) is model
    assert type(model) is not kind
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    for fast, slow in zip(learned(), plain, strict=True):
        assert fast is not None
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.manual_seed(3)
        torch.testing.assert_close(model(INP, COORD, CELL), plain[0], rtol=1e-4, atol=1e-5)
    assert type(restore(model)) is kind


@pytest.mark.parametrize("kind", DIFFERENT)
@pytest.mark.parametrize("width", [12, 256])
def test_other_arithmetic_is_refused(kind: type[nn.Module], width: int) -> None:
    """With fresh weights too, which hardly show some differences."""
    model = built(lambda: kind(foreign.Perceptron(49, width)))
    with pytest.raises(UsageError, match=r"differs by .* its decoder is not LIIF's") as raised:
        accelerate(model)
    assert "\n" not in str(raised.value)
    assert type(model) is kind


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_any_dtype_are_checked(dtype: torch.dtype) -> None:
    with pytest.raises(UsageError, match="differs"):
        accelerate(built(foreign.AddsOne).to(dtype))
    accelerate(built(foreign.Published).to(dtype))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (foreign.Needy, r"raised RuntimeError: no kernel image is available.*check=False"),
        (foreign.NeedsMore, "needs inp_ori too"),
        (foreign.Volume, "two-dimensional.*Conv3d"),
        (lambda: foreign.ExtraColumns(foreign.Perceptron(51)), "differs|raised|another form"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_line(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        accelerate(built(make))
    assert "\n" not in str(raised.value)


def test_no_gpu_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    model = accelerate(built(foreign.Published))
    with torch.no_grad():
        assert model(INP, COORD, CELL).shape == (2, 72, 3)


@torch.no_grad()
def test_a_skip_reads_the_picture_of_the_latest_call() -> None:
    model, same = built(foreign.SkipFromGenFeat), built(foreign.SkipFromGenFeat)
    accelerate(model)
    for picture in (INP, INP.flip(-1)):
        torch.testing.assert_close(model(picture, COORD, CELL), same(picture, COORD, CELL))


@torch.no_grad()
def test_one_cell_for_each_picture() -> None:
    model = built(foreign.OneCellEach)
    expected = model(INP, COORD, CELL[:, 0])
    torch.testing.assert_close(accelerate(model)(INP, COORD, CELL[:, 0]), expected)


@torch.no_grad()
def test_another_method_attribute_and_no_switches() -> None:
    model = built(foreign.OtherNames)
    expected = model(INP, COORD, CELL)
    with pytest.raises(UsageError, match=r"lacks query_rgb\(coord, cell\)"):
        accelerate(model)
    accelerate(model, method="query_ssh")
    torch.testing.assert_close(model(INP, COORD, CELL), expected)
    assert [row.way for row in report(model)] == ["fused"]


@torch.no_grad()
def test_options_that_only_the_module_knows_are_passed_on() -> None:
    model = built(foreign.WithOption)
    model(INP, COORD, CELL)
    expected = model.query_rgb(COORD, CELL, gain=2.0)
    accelerate(model)
    assert torch.equal(model.query_rgb(COORD, CELL, gain=2.0), expected)
    torch.testing.assert_close(model.query_rgb(cell=CELL, coord=COORD), expected / 2)
    device = accelerate(built(foreign.WithDevice))
    device.arithmetic = None
    device(INP, COORD, CELL)
    device.query_rgb(COORD, CELL, device=torch.device("cpu"))


@pytest.mark.parametrize("kind", [foreign.Published, foreign.SkipFromGenFeat, foreign.AddsOne, foreign.GivenFeatures])
@torch.no_grad()
def test_a_foreign_model_renders_what_it_answers(kind: type[nn.Module]) -> None:
    model = built(kind).eval()
    expected = model(INP[:1], COORD[:1], CELL[:1]) * 0.5 + 0.5
    found = liif_fast.upscale(INP[0] * 0.5 + 0.5, size=(9, 8), model=model)
    torch.testing.assert_close(found.flatten(1).T[None], expected.clamp(0, 1), rtol=1e-4, atol=1e-5)


def test_the_check_leaves_no_trace() -> None:
    model = built(foreign.Published)
    answer = model(INP, COORD, CELL)
    kept, weights = model.feat, [parameter.clone() for parameter in model.parameters()]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    accelerate(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.feat is kept
    assert all(map(torch.equal, model.parameters(), weights))
    answer.sum().backward()


def test_a_model_without_memory_is_checked_too() -> None:
    with torch.device("meta"):
        model, other = foreign.Published(), foreign.AddsOne()
    accelerate(model)
    assert all(parameter.is_meta for parameter in model.parameters())
    with pytest.raises(UsageError, match="differs"):
        accelerate(other)


def test_the_report_says_which_way_and_why() -> None:
    model = nn.ModuleDict(
        {
            "plain": built(foreign.Published),
            "gelu": built(EQUAL["GELU"]),
            "skip": built(foreign.NearestSkip),
            "meta": built(foreign.MetaSR),
        }
    )
    assert {row.way for row in report(model)} == {"own"}
    rows = {row.name: row for row in report(accelerate(model))}
    assert rows["plain"][1:] == ("fused", "LIIF with the plain MLP")
    assert rows["gelu"].way == "module"
    assert "GELU" in rows["gelu"].reason
    assert rows["skip"].reason == "LIIF plus the nearest sample of its `inp` with the plain MLP"
    assert rows["meta"].reason.startswith("Meta-SR")
