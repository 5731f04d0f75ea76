"""An encoder that is given a picture strip by strip makes the features of the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import tiny_liif
from torch import Tensor, nn

from liif_fast import models
from liif_fast.box import Box, Region
from liif_fast.models.rolling import Rolling, rollable
from liif_fast.rendering import encoding
from liif_fast.rendering.encoding import Encoding
from liif_fast.rendering.options import Options
from liif_fast.rendering.render import pieces, render
from liif_fast.rendering.tiling import Span, strip_rows


def edsr(n_resblocks: int = 5, **args: Any) -> Any:
    torch.manual_seed(0)
    spec = {"name": "edsr-baseline", "args": {"n_resblocks": n_resblocks, "n_feats": 6, "no_upsampling": True, **args}}
    return models.make(spec).eval()


@settings(max_examples=40, deadline=None)
@given(
    heights=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    width=st.integers(1, 9),
    blocks=st.integers(0, 5),
    res_scale=st.sampled_from([1, 0.3]),
)
def test_strips_of_any_height_equal_the_whole(heights: list[int], width: int, blocks: int, res_scale: float) -> None:
    encoder = edsr(blocks, res_scale=res_scale)
    inp = torch.randn(1, 3, sum(heights), width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = encoder(inp)
    rolling, found, seen = Rolling(encoder), [], 0
    for height in heights:
        seen += height
        found.append(rolling(inp[:, :, seen - height : seen], last=seen == inp.shape[2]).clone())
        known = sum(part.shape[2] for part in found)
        assert known == (inp.shape[2] if seen == inp.shape[2] else max(0, seen - encoder.receptive_radius))
    torch.testing.assert_close(torch.cat(found, dim=2), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("strip", [1, 2**23])
def test_parts_in_any_order_equal_the_whole(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "STRIP", strip)
    model: Any = tiny_liif(edsr())
    inp = torch.rand(1, 3, 97, 41, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = model.encoder((inp - 0.5) / 0.5)
    source = Encoding(model, inp)
    assert source.rolling
    for rows in ((0, 5), (3, 20), (20, 21), (19, 80), (70, 97), (10, 30), (28, 97), (0, 97)):
        for cols in ((0, 41), (12, 33)):
            part = source.part(Span(*rows), Span(*cols), "fp32")
            expected = whole[:, :, slice(*rows), slice(*cols)]
            torch.testing.assert_close(part, expected, atol=2e-6, rtol=1e-5)


def test_a_strip_that_failed_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = tiny_liif(edsr())
    inp = torch.rand(1, 3, 90, 20, generator=torch.Generator().manual_seed(3))
    source = Encoding(model, inp)
    source.part(Span(0, 30), Span(0, 20), "fp32")
    with monkeypatch.context() as patch:
        patch.setattr("liif_fast.models.rolling._Block.__call__", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            source.part(Span(28, 60), Span(0, 20), "fp32")
    with torch.no_grad():
        expected = model.encoder((inp - 0.5) / 0.5)[:, :, 28:60]
    torch.testing.assert_close(source.part(Span(28, 60), Span(0, 20), "fp32"), expected, atol=2e-6, rtol=1e-5)


def test_no_row_is_encoded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = tiny_liif(edsr())
    inp = torch.rand(1, 3, 300, 40, generator=torch.Generator().manual_seed(4))
    expected = render(model, inp, (310, 39), tile=1000)
    rows: list[int] = []
    call = Rolling.__call__

    def counted(self: Rolling, strip: Tensor, last: bool) -> Tensor:
        rows.append(strip.shape[2])
        return call(self, strip, last)

    monkeypatch.setattr(Rolling, "__call__", counted)
    torch.testing.assert_close(render(model, inp, (310, 39), memory="1M"), expected, atol=1e-5, rtol=0)
    parts = [part for part, _ in pieces(model, [inp], Region((310, 39), Box(0, 0, 310, 39)), Options(memory="1M"))]
    assert len(parts) > 2
    assert {part.width for part in parts} == {39}
    assert sum(rows) == 2 * 300


def test_a_picture_too_wide_for_strips_is_made_in_tiles() -> None:
    model: Any = tiny_liif(edsr())
    inp = torch.rand(1, 3, 60, 400, generator=torch.Generator().manual_seed(5))
    parts = [part for part, _ in pieces(model, [inp], Region((60, 400), Box(0, 0, 60, 400)), Options(memory="1M"))]
    assert len({part.left for part in parts}) > 1
    torch.testing.assert_close(
        render(model, inp, (60, 400), memory="1M"), render(model, inp, (60, 400)), atol=1e-5, rtol=0
    )


def test_what_does_more_than_a_plain_edsr_is_encoded_as_a_module() -> None:
    assert rollable(edsr())
    assert not rollable(models.make({"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4}}))
    hooked, other = edsr(), edsr()
    hooked.body[0].register_forward_hook(lambda *_: None)
    other.body[0].body[0] = nn.Sequential(other.body[0].body[0])
    subclass = type("Subclass", (type(other),), {})(1, 4, 1, no_upsampling=True)
    assert not any(map(rollable, (hooked, other, subclass, nn.Conv2d(3, 4, 3))))


def test_autocast_is_left_to_the_module() -> None:
    model, inp = tiny_liif(edsr()), torch.zeros(1, 3, 8, 8)
    assert Encoding(model, inp).rolling
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not Encoding(model, inp).rolling


def test_strip_rows() -> None:
    assert strip_rows(4000, 10**9, 50_000, 1536) == 130
    assert strip_rows(60, 10**9, 50_000, 1536) == 10818
    assert strip_rows(4000, 10**6, 50_000, 1536) == 0
