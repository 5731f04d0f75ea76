"""A whole picture: tiles equal the whole, every pixel is made once, memory and precision are recovered from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.models import WideEncoder, bilinear_liif, tiny_liif
from torch import Tensor, nn

from liif_fast import functional, geometry, models
from liif_fast.backends import reference
from liif_fast.box import Box, Region
from liif_fast.errors import BackendError, LiifError, UsageError
from liif_fast.rendering.options import Options
from liif_fast.rendering.render import pieces, render, settle

SIZES = [(23, 31), (47, 61), (127, 165), (376, 488), (94, 200), (1, 1), (3, 400)]


def in_tiles(model: Any, inp: Tensor, size: tuple[int, int], memory: str) -> list[tuple[Box, Tensor]]:
    """All tiles of the whole picture."""
    return list(pieces(model, [inp], Region(size, Box(0, 0, *size)), Options(memory=memory)))


def direct(model: Any, inp: Tensor, size: tuple[int, int]) -> Tensor:
    """The picture by the model's own protocol and the reference, all at once."""
    with torch.no_grad():
        feat = model.encoder((inp - 0.5) / 0.5)
        coord, cell = geometry.make_coord(size)[None], geometry.make_cell(size)[None]
        rgb = reference.batched_query(feat, coord, cell, model.decoder_params(feat.shape[1]))
    return (rgb[0].t().reshape(1, -1, *size) * 0.5 + 0.5).clamp(0, 1)


@pytest.fixture
def inp() -> Tensor:
    return torch.rand(1, 3, 47, 61, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("encoder", ["edsr-baseline", "wide"])
def test_tiles_equal_the_whole_and_the_reference(encoder: str, size: tuple[int, int], inp: Tensor) -> None:
    model = tiny_liif(WideEncoder() if encoder == "wide" else encoder)
    expected = direct(model, inp, size)
    whole = render(model, inp, size, tile=1000)
    assert whole.shape == expected.shape
    assert expected.std() > 0.005 or size == (1, 1)
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(render(model, inp, size, tile=16), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("switch", ["local_ensemble", "feat_unfold", "cell_decode"])
def test_tiles_equal_the_whole_without_a_switch(switch: str, inp: Tensor) -> None:
    model = tiny_liif(WideEncoder(), **{switch: False})
    expected = direct(model, inp, (127, 165))
    torch.testing.assert_close(render(model, inp, (127, 165), tile=16), expected, atol=1e-5, rtol=0)


def test_a_halo_one_pixel_smaller_would_be_seen(inp: Tensor) -> None:
    encoder = WideEncoder()
    model = tiny_liif(encoder)
    encoder.receptive_radius -= 1
    # The margin for rounding covers one pixel, so two must be missing.
    encoder.receptive_radius -= 1
    difference = render(model, inp, (127, 165), tile=16) - direct(model, inp, (127, 165))
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("size", [(94, 122), (127, 165), (23, 31)])
def test_encoder_that_enlarges(size: tuple[int, int], inp: Tensor) -> None:
    encoder = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8, "scale": 2}}
    imnet = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16]}}
    torch.manual_seed(0)
    liif = models.LIIF(encoder, imnet).eval()
    expected = direct(liif, inp, size)
    for tile in (16, 1000):
        torch.testing.assert_close(render(liif, inp, size, tile=tile), expected, atol=1e-5, rtol=0)
    plain = models.LIIF(encoder).eval()
    with torch.no_grad():
        plain.gen_feat((inp - 0.5) / 0.5)
        nearest = plain.query_rgb(geometry.make_coord(size)[None])[0].t().reshape(1, 3, *size)
    for tile in (16, 1000):
        torch.testing.assert_close(
            render(plain, inp, size, tile=tile), (nearest * 0.5 + 0.5).clamp(0, 1), atol=1e-5, rtol=0
        )


def test_encoder_that_sees_everything_is_run_once(inp: Tensor) -> None:
    model: Any = tiny_liif("rcan")
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    parts = in_tiles(model, inp, (127, 165), "1M")
    assert len(parts) > 1
    result = render(model, inp, (127, 165), memory="1M")
    assert len(calls) == 2
    torch.testing.assert_close(result, direct(model, inp, (127, 165)), atol=1e-5, rtol=0)


def test_model_with_its_own_decoder(inp: Tensor) -> None:
    torch.manual_seed(0)
    encoder = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4, "no_upsampling": True}}
    inner: Any = models.make({"name": "metasr", "args": {"encoder_spec": encoder}}).eval()

    class Foreign(nn.Module):
        """Nothing is known of this model but the protocol."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.gen_feat, self.query_rgb = inner.encoder, inner.gen_feat, inner.query_rgb

    model, size = Foreign(), (40, 77)
    with torch.no_grad():
        rgb = inner((inp - 0.5) / 0.5, geometry.make_coord(size)[None], geometry.make_cell(size)[None])
    expected = (rgb[0].t().reshape(1, 3, *size) * 0.5 + 0.5).clamp(0, 1)
    assert settle(model) == ("model", "fp32")
    torch.testing.assert_close(render(model, inp, size), expected, atol=1e-5, rtol=0)


def test_a_foreign_liif_is_decoded_by_its_weights(inp: Tensor) -> None:
    """A class of another package with the published attributes, and an encoder that says nothing of itself."""
    ours: Any = tiny_liif()

    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(ours.encoder)
            self.imnet = ours.imnet
            self.local_ensemble = self.feat_unfold = self.cell_decode = True

    assert settle(Foreign(), "torch") == ("torch", "fp32")
    result = render(Foreign(), inp, (127, 165), memory="1M")
    torch.testing.assert_close(result, direct(ours, inp, (127, 165)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_every_backend_makes_the_same_picture(backend: str, inp: Tensor) -> None:
    model: Any = tiny_liif()
    try:
        settle(model, backend)
    except BackendError as error:
        pytest.skip(str(error))
    result = render(model, inp, (127, 165), backend=backend, tile=None if backend == "reference" else 16)
    torch.testing.assert_close(result, direct(model, inp, (127, 165)), atol=1e-5, rtol=0)


def test_a_box_is_that_part_of_the_whole(inp: Tensor) -> None:
    model = tiny_liif(WideEncoder())
    whole = render(model, inp, (127, 165))
    box = Box(31, 50, 40, 17)
    part = render(model, inp, (127, 165), box, tile=16)
    torch.testing.assert_close(part, whole[..., 31:71, 50:67], atol=1e-5, rtol=0)


def test_a_box_encodes_only_what_it_sees(inp: Tensor) -> None:
    model: Any = tiny_liif(WideEncoder())
    seen: list[torch.Size] = []
    model.encoder.register_forward_hook(lambda _, args, out: seen.append(args[0].shape))
    render(model, inp, (470, 610), Box(200, 200, 10, 10))
    # One input pixel, its neighbours, the unfolding, rounding, and the encoder's radius of 4.
    assert len(seen) == 1
    assert max(seen[0][2:]) <= 1 + 2 * (1 + 1 + 1 + 1 + 4)


def test_integers_stand_for_fractions(inp: Tensor) -> None:
    model = tiny_liif()
    for dtype, full in ((torch.uint8, 255), (torch.uint16, 65535)):
        whole = (inp * full).round()
        torch.testing.assert_close(
            render(model, whole.to(dtype), (60, 70)), render(model, whole / full, (60, 70)), atol=1e-6, rtol=0
        )


def test_normalisation_of_the_model_is_used(inp: Tensor) -> None:
    model: Any = bilinear_liif()
    model.data_norm = {
        "inp": {"sub": [0.4, 0.5, 0.6], "div": [1, 2, 3]},
        "gt": {"sub": [0.4, 0.5, 0.6], "div": [1, 2, 3]},
    }
    expected = F.interpolate(inp, (94, 140), mode="bilinear")
    torch.testing.assert_close(render(model, inp, (94, 140)), expected, atol=1e-5, rtol=0)


def test_memory_bounds_the_tiles(inp: Tensor) -> None:
    model = tiny_liif(WideEncoder())
    counts = [len(in_tiles(model, inp, (376, 488), memory)) for memory in ("1M", "2M", "1G")]
    assert counts[0] > counts[1] > counts[2] == 1


def test_progress_reaches_every_pixel_once(inp: Tensor) -> None:
    seen: list[tuple[int, int]] = []
    render(tiny_liif(), inp, (127, 165), tile=16, progress=lambda *step: seen.append(step))
    assert seen == sorted(seen)
    assert seen[-1] == (127 * 165, 127 * 165)
    assert len(seen) == len(set(seen)) == 12


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 bytes"), MemoryError()])
def test_out_of_memory_halves_the_tile_and_goes_on(
    error: Exception, inp: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_liif(WideEncoder())
    expected = render(model, inp, (127, 165))
    project, refused = functional.project, []

    def poor(feat: Tensor, *args: Any) -> Tensor:
        if feat.shape[-1] * feat.shape[-2] > 700:
            refused.append(feat.shape)
            raise error
        return project(feat, *args)

    monkeypatch.setattr(functional, "project", poor)
    torch.testing.assert_close(render(model, inp, (127, 165)), expected, atol=1e-5, rtol=0)
    assert 1 <= len(refused) <= 8
    monkeypatch.setattr(functional, "project", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(LiifError, match=r"out of memory .* smallest tile"):
        render(model, inp, (127, 165))


def test_out_of_memory_in_an_encoder_that_sees_everything(inp: Tensor) -> None:
    model: Any = tiny_liif("rcan")
    model.encoder.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(LiifError, match="encodes the whole picture at once"):
        render(model, inp, (127, 165))


def test_other_errors_are_not_taken_for_lack_of_memory(inp: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "project", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        render(tiny_liif(), inp, (50, 50))


@pytest.mark.parametrize("encoder", ["edsr-baseline", "rcan"])
def test_overflow_in_half_precision_is_redone_in_float32(encoder: str, inp: Tensor) -> None:
    model: Any = tiny_liif(encoder)
    with torch.no_grad():
        model.imnet.layers[0].weight.mul_(1e6)
        model.imnet.layers[0].bias.mul_(1e6)
        model.imnet.layers[-1].weight.mul_(1e-6)
    # The `cpu` backend computes fp16 in float32, where nothing overflows.
    half = functional.query(
        model.encoder(inp),
        torch.zeros(1, 1, 2),
        torch.ones(1, 1, 2),
        model.decoder_params(),
        backend="torch",
        precision="fp16",
    )
    assert not half.isfinite().all()
    expected = render(model, inp, (80, 90), backend="torch", precision="fp32", tile=16)
    assert torch.equal(render(model, inp, (80, 90), backend="torch", precision="fp16", tile=16), expected)


def test_a_model_of_nan_is_an_error(inp: Tensor) -> None:
    model: Any = tiny_liif()
    with torch.no_grad():
        model.imnet.layers[0].bias.fill_(float("nan"))
    with pytest.raises(LiifError, match="NaN or infinity even in float32"):
        render(model, inp, (50, 50))


def test_training_mode_is_put_back(inp: Tensor) -> None:
    model = tiny_liif().train()
    render(model, inp, (50, 50))
    assert model.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inp": torch.zeros(2, 3, 8, 8)}, r"expected one picture \[1, 3, H, W\]"),
        ({"inp": torch.zeros(1, 4, 8, 8)}, r"expected one picture \[1, 3, H, W\]"),
        ({"inp": torch.zeros(1, 3, 8, 8, dtype=torch.int64)}, "floating or uint8 or uint16, got torch.int64"),
        ({"inp": torch.zeros(1, 3, 0, 8)}, "expected one picture"),
        ({"tile": 3}, "tile: expected a whole number of at least 16"),
        ({"memory": "lots"}, "memory: expected bytes"),
        ({"memory": "-1G"}, "memory: expected bytes"),
        ({"backend": "quantum"}, "backend: expected one of auto"),
        ({"precision": "fp7"}, "precision: expected one of auto"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str, inp: Tensor) -> None:
    arguments = {"inp": inp, "size": (50, 50), **change}
    with pytest.raises(UsageError, match=message):
        render(tiny_liif(), **arguments)
