"""The encoder SwinIR against recorded keys and outputs of the published code, and pictures that fill no windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.golden import seeded
from support.paths import RECORDED

from liif_fast import LIIF, load, models, save, upscale
from liif_fast.errors import UsageError

WANTED = json.loads((RECORDED / "swinir.json").read_text())
SMALL = {"embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 4, "img_size": 16}
IMNET = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16]}}


def built(**args: Any) -> models.SwinIR:
    torch.manual_seed(0)
    encoder = models.make({"name": "swinir", "args": {**SMALL, **args}}).eval()
    assert isinstance(encoder, models.SwinIR)
    return encoder


def test_keys_are_the_published_ones() -> None:
    small = models.SwinIR(**WANTED["args"])
    assert {key: list(value.shape) for key, value in small.state_dict().items()} == WANTED["keys"]
    assert list(small.state_dict()) == list(WANTED["keys"])
    with torch.device("meta"):
        full = models.make({"name": "swinir", "args": {"no_upsampling": True}})
    assert len(full.state_dict()) == WANTED["count"]
    assert sum(parameter.numel() for parameter in full.parameters()) == WANTED["parameters"]


@torch.no_grad()
def test_features_are_the_published_ones() -> None:
    encoder = models.SwinIR(**WANTED["args"]).eval()
    for k, parameter in enumerate(encoder.parameters()):
        parameter.copy_((torch.arange(parameter.numel()).view(parameter.shape) * 0.37 + k).sin() * 0.4)
    out = encoder((torch.arange(3 * 16 * 24).view(1, 3, 16, 24) * 0.11).sin())
    torch.testing.assert_close(out.flatten()[::307], torch.tensor(WANTED["out"]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(7, 13), (16, 16), (30, 9)])
@torch.no_grad()
def test_pictures_are_continued_by_reflection(size: tuple[int, int]) -> None:
    encoder, x = built(), seeded((2, 3, *size), 1, 1)
    more = [-n % 4 for n in size]
    padded = torch.nn.functional.pad(x, (0, more[1], 0, more[0]), "reflect")
    torch.testing.assert_close(encoder(x), encoder(padded)[:, :, : size[0], : size[1]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 6)])
@torch.no_grad()
def test_pictures_smaller_than_their_margin(size: tuple[int, int]) -> None:
    features = built()(seeded((2, 3, *size), 1, 1))
    assert features.shape == (2, 64, *size)
    assert features.isfinite().all()


@torch.no_grad()
def test_windows_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, x = built(), seeded((2, 3, 20, 12), 1, 1)
    whole = encoder(x)
    monkeypatch.setattr(models.swinir, "CHUNK", 7)
    torch.testing.assert_close(encoder(x), whole)


def test_training_leaves_blocks_out_and_reaches_every_parameter() -> None:
    encoder, x = built(drop_path_rate=0.9), seeded((8, 3, 8, 8), 1, 1)
    encoder.train()
    assert not torch.equal(encoder(x), encoder(x))
    whole = built(drop_path_rate=0.0).train()
    whole(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in whole.parameters())


def test_it_is_saved_loaded_and_rendered_whole(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = LIIF({"name": "swinir", "args": {"no_upsampling": True, **SMALL}}, IMNET).eval()
    save(model, tmp_path / "model.pth")
    again = load(tmp_path / "model.pth")
    picture = torch.rand(3, 21, 14)
    whole = upscale(picture, scale=2, model=again)
    tiled = upscale(picture, scale=2, model=again, tile=16)
    assert whole.shape == (3, 42, 28)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)
    # Files of other sizes in training hold other masks, which follow from the sizes.
    spec = torch.load(tmp_path / "model.pth", weights_only=True)
    spec["model"]["args"]["encoder_spec"]["args"]["img_size"] = 32
    torch.save(spec, tmp_path / "other.pth")
    torch.testing.assert_close(upscale(picture, scale=2, model=load(tmp_path / "other.pth")), whole)


def test_sizes_that_do_not_fit_are_named() -> None:
    with pytest.raises(UsageError, match="heads that divide embed_dim=12"):
        built(num_heads=[5])
    with pytest.raises(UsageError, match="expected no_upsampling=True"):
        built(no_upsampling=False)
