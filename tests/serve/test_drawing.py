"""Tiles: equal to the same part of the whole, from features in bounded memory."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.files import noise
from support.models import tiny_liif
from support.workspace import photo, upscale
from torch import Tensor

from liif_fast import checkpoint, image
from liif_fast.batch.conversion import Converter, Settings
from liif_fast.box import Box, Region
from liif_fast.rendering.encoding import Encoding
from liif_fast.rendering.request import Request
from liif_fast.rendering.source import open_picture
from liif_fast.rendering.tiling import Span
from liif_fast.serve import drawing, features, iiif
from liif_fast.serve.cache import Cache
from liif_fast.serve.drawing import ByBicubic, ByModel, Shown
from liif_fast.serve.features import KeptEncoding

LIMITS = iiif.Limits(10_000, 10_000, 10**8)


@pytest.fixture(scope="module")
def converter(tmp_path_factory: pytest.TempPathFactory) -> Converter:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    checkpoint.save(tiny_liif(), path)
    return Converter(Settings(Request(scale=1), str(path), device="cpu"))


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA"])
def test_tiles_are_what_the_command_writes(mode: str, workspace: Path) -> None:
    checkpoint.save(tiny_liif(), "model.safetensors")
    array = noise(len(mode), "uint8", 40, 56)
    source = Image.fromarray(array[:, :, 0] if mode == "L" else array)
    source.save("source.png")
    assert upscale("source.png", "-o", "whole.png", "-s", "4") == 0
    made = Converter(Settings(Request(scale=1), "model.safetensors", device=None))
    by_model = ByModel(source, made, Cache(2**22), "key")
    stitched = Image.new(mode, (224, 160))
    for top in range(0, 160, 64):
        for left in range(0, 224, 64):
            box = Box(top, left, min(64, 160 - top), min(64, 224 - left))
            stitched.paste(by_model.enlarge(Region((160, 224), box)), (left, top))
    with Image.open("whole.png") as whole:
        assert whole.mode == mode
        assert np.array_equal(np.asarray(whole), np.asarray(stitched))


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_features_of_blocks_equal_those_of_the_whole(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "BLOCK", 16)
        model, pixels = tiny_liif(), open_picture(photo().crop((0, 0, 70, 45)), tiny_liif())
        whole = Encoding(model, pixels).part(Span(0, 45), Span(0, 70), "fp32")
        # Room for a few blocks only, so that some are encoded again.
        kept = KeptEncoding(model, pixels, Cache(4 * 16 * 16 * 8 * 4), "key")
        with torch.no_grad():
            for _ in range(4):
                rows = Span(*sorted(data.draw(st.sets(st.integers(0, 45), min_size=2, max_size=2))))
                cols = Span(*sorted(data.draw(st.sets(st.integers(0, 70), min_size=2, max_size=2))))
                part = kept.part(rows, cols, "fp32")
                assert torch.equal(part, whole[:, :, rows.start : rows.stop, cols.start : cols.stop])


def test_features_that_are_kept_are_not_encoded_again(converter: Converter, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    part = Encoding.part
    monkeypatch.setattr(Encoding, "part", lambda *given: encoded.append(given) or part(*given))
    by_model = ByModel(photo(), converter, Cache(2**24), "key")
    for left in (0, 100, 300):
        by_model.enlarge(Region((768, 1024), Box(0, left, 100, 200)))
    assert len(encoded) == 1


def test_the_cache_is_bounded_and_forgets_the_oldest() -> None:
    cache: Cache[str] = Cache(10)
    cache.put("a", "A", 4)
    cache.put("b", "B", 4)
    assert cache.get("a") == "A"
    cache.put("c", "C", 4)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), cache.used) == ("A", None, "C", 8)
    cache.put("a", "AA", 9)
    assert (cache.get("a"), cache.get("c"), cache.used) == ("AA", None, 9)
    cache.put("d", "D", 11)
    assert (cache.get("d"), cache.used) == (None, 9)


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_the_features_of_a_cache_stay_within_its_limit(data: st.DataObject) -> None:
    cache: Cache[int] = Cache(100)
    for key in data.draw(st.lists(st.integers(0, 9), max_size=40)):
        cache.put(key, key, data.draw(st.integers(1, 60)))
        assert cache.used <= 100


# -- requests to pixels -----------------------------------------------------------------------------------------------


def drawn(source: Image.Image, text: str) -> np.ndarray:
    asked = iiif.resolve(iiif.parse(*text.split("/")), source.width, source.height, LIMITS)
    body = drawing.draw(Shown(source), ByBicubic(source), asked)
    with Image.open(io.BytesIO(body)) as found:
        return np.asarray(found)


def test_reduced_and_bicubic_tiles_join_without_a_seam() -> None:
    source = photo()
    for size, across, step in (("64,48", (32, 24), (64, 48)), ("^512,384", (256, 192), (64, 48))):
        whole = drawn(source, f"full/{size}/0/default.png")
        mark = "^" if size.startswith("^") else ""
        for x in (0, 1):
            for y in (0, 1):
                region = f"{x * step[0]},{y * step[1]},{step[0]},{step[1]}"
                tile = drawn(source, f"{region}/{mark}{across[0]},{across[1]}/0/default.png")
                part = whole[y * across[1] : (y + 1) * across[1], x * across[0] : (x + 1) * across[0]]
                assert np.array_equal(tile, part)


def test_turns_mirrors_and_gray() -> None:
    source = photo()
    pixels = np.asarray(source)
    assert np.array_equal(drawn(source, "full/max/0/default.png"), pixels)
    assert np.array_equal(drawn(source, "full/max/90/default.png"), np.rot90(pixels, -1))
    assert np.array_equal(drawn(source, "full/max/270/color.png"), np.rot90(pixels))
    assert np.array_equal(drawn(source, "full/max/180/default.png"), np.rot90(pixels, 2))
    assert np.array_equal(drawn(source, "full/max/!90/default.png"), np.rot90(pixels[:, ::-1], -1))
    assert np.array_equal(drawn(source, "full/max/0/gray.png"), np.asarray(source.convert("L")))


def test_one_side_longer_the_other_shorter() -> None:
    assert drawn(photo(), "0,0,60,40/^90,20/0/default.png").shape == (20, 90, 3)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_deep_pictures_are_shown_in_8_bits(channels: int, mode: str, dtype: str) -> None:
    array = noise(channels, dtype)
    found = drawing.shown(image.Picture(array))
    assert found.image.mode == mode
    levels = array.astype(np.float64) * (255 / (65_535 if dtype == "uint16" else 1))
    assert np.abs(np.asarray(found.image).reshape(array.shape) - levels).max() <= 0.501


def test_transparent_pictures_are_drawn_on_white_as_jpeg() -> None:
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert (drawn(clear, "full/max/0/default.jpg") >= 254).all()


def test_features_are_tensors_of_the_model(converter: Converter) -> None:
    cache: Cache[Tensor] = Cache(2**24)
    ByModel(photo(), converter, cache, "key").enlarge(Region((192, 256), Box(0, 0, 64, 64)))
    assert 0 < cache.used <= cache.limit
