"""A whole picture: tiles equal the whole, every pixel is made once, memory and precision are recovered from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import PHOTO, bilinear_liif, photo, tiny_liif
from torch import Tensor, nn

from liif_fast import checkpoint, functional, geometry, models, reference, tiling, upscale
from liif_fast.errors import BackendError, ImageError, LiifError, UsageError
from liif_fast.render import pieces, render, settle
from liif_fast.tiling import Box, Span

SIZES = [(23, 31), (47, 61), (127, 165), (376, 488), (94, 200), (1, 1), (3, 400)]


class Wide(nn.Module):
    """One convolution whose far taps weigh as much as its near ones: a halo too small by one pixel shows at once."""

    def __init__(self, radius: int = 4) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.out_dim, self.receptive_radius, self.scale = 6, radius, 1
        self.conv = nn.Conv2d(3, 6, 2 * radius + 1, padding=radius)

    def forward(self, x: Tensor) -> Tensor:
        return 4 * self.conv(x)


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
    model = tiny_liif(Wide() if encoder == "wide" else encoder)
    expected = direct(model, inp, size)
    whole = render(model, inp, size, tile=1000)
    assert whole.shape == expected.shape
    assert expected.std() > 0.005 or size == (1, 1)
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(render(model, inp, size, tile=16), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("switch", ["local_ensemble", "feat_unfold", "cell_decode"])
def test_tiles_equal_the_whole_without_a_switch(switch: str, inp: Tensor) -> None:
    model = tiny_liif(Wide(), **{switch: False})
    expected = direct(model, inp, (127, 165))
    torch.testing.assert_close(render(model, inp, (127, 165), tile=16), expected, atol=1e-5, rtol=0)


def test_a_halo_one_pixel_smaller_would_be_seen(inp: Tensor) -> None:
    encoder = Wide()
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
    result = render(model, inp, (127, 165), memory="1M")
    assert len(calls) == 1
    torch.testing.assert_close(result, direct(model, inp, (127, 165)), atol=1e-5, rtol=0)


def test_model_with_its_own_decoder(inp: Tensor) -> None:
    torch.manual_seed(0)
    encoder = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4, "no_upsampling": True}}
    model: Any = models.make({"name": "metasr", "args": {"encoder_spec": encoder}}).eval()
    size = (40, 77)
    with torch.no_grad():
        rgb = model((inp - 0.5) / 0.5, geometry.make_coord(size)[None], geometry.make_cell(size)[None])
    expected = (rgb[0].t().reshape(1, 3, *size) * 0.5 + 0.5).clamp(0, 1)
    assert settle(model) == ("model", "fp32")
    torch.testing.assert_close(render(model, inp, size), expected, atol=1e-5, rtol=0)


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
    model = tiny_liif(Wide())
    whole = render(model, inp, (127, 165))
    box = Box(31, 50, 40, 17)
    part = render(model, inp, (127, 165), box, tile=16)
    torch.testing.assert_close(part, whole[..., 31:71, 50:67], atol=1e-5, rtol=0)


def test_a_box_encodes_only_what_it_sees(inp: Tensor) -> None:
    model: Any = tiny_liif(Wide())
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
    model = tiny_liif(Wide())
    counts = [len(list(pieces(model, inp, (376, 488), memory=memory))) for memory in ("1M", "2M", "1G")]
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
    model = tiny_liif(Wide())
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
    with pytest.raises(LiifError, match="whole picture at once"):
        render(tiny_liif("rcan"), inp, (127, 165))


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
    half = functional.query(
        model.encoder(inp), torch.zeros(1, 1, 2), torch.ones(1, 1, 2), model.decoder_params(), precision="fp16"
    )
    assert not half.isfinite().all()
    expected = render(model, inp, (80, 90), precision="fp32", tile=16)
    assert torch.equal(render(model, inp, (80, 90), precision="fp16", tile=16), expected)


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


# -- geometry of tiles ----------------------------------------------------------------------------------------------

sides = st.integers(1, 150)


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), sides, sides, sides, sides)
def test_tiles_hold_each_pixel_once(top: int, left: int, height: int, width: int, rows: int, cols: int) -> None:
    box = Box(top, left, height, width)
    count = np.zeros((top + height, left + width), dtype=int)
    parts = tiling.tiles(box, rows, cols)
    for part in parts:
        assert part.height <= rows
        assert part.width <= cols
        count[part.top : part.bottom, part.left : part.right] += 1
    assert (count[top:, left:] == 1).all()
    assert count.sum() == box.pixels
    assert len(parts) == -(-height // rows) * -(-width // cols)


@settings(deadline=None)
@given(sides, sides)
def test_halves_hold_each_pixel_once(height: int, width: int) -> None:
    parts = tiling.halves(Box(3, 4, height, width))
    assert len(parts) == (1 if height == width == 1 else 2)
    assert sum(part.pixels for part in parts) == height * width
    assert max(part.pixels for part in parts) <= -(-max(height, width) // 2) * min(height, width)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.data())
@example(10_000, 2_500, None)
@example(999_999, 7, None)
@example(7, 999_999, None)
def test_spans_cover_every_neighbour_and_little_more(out: int, feat: int, data: Any) -> None:
    start = 0 if data is None else data.draw(st.integers(0, out - 1))
    stop = min(out, start + 50) if data is None else data.draw(st.integers(start + 1, out))
    span = tiling.feature_span(start, stop, out, feat)
    ys = geometry.axis_coord(out)[start:stop]
    coord = torch.stack([ys, torch.zeros_like(ys)], dim=-1)[None]
    rows = torch.cat([c.row for e in (True, False) for c in geometry.corners(coord, (feat, 5), e)])
    low, high = int(rows.min()), int(rows.max())
    assert span.start <= low
    assert high < span.stop
    assert low - span.start <= 3
    assert span.stop - high <= 4


@settings(deadline=None)
@given(sides, sides, st.integers(0, 40), st.integers(1, 200_000))
def test_core_sides_fit_the_pixels_where_they_can(height: int, width: int, halo: int, pixels: int) -> None:
    rows, cols = tiling.core_sides(height, width, halo, pixels)
    assert rows >= min(16, height)
    assert cols >= min(16, width)
    if rows > 16 and cols > 16 and (rows < height or cols < width):
        assert min(height, rows + 2 * halo) * min(width, cols + 2 * halo) <= pixels


@pytest.mark.parametrize(("margin", "expected"), [(0, Span(3, 5)), (2, Span(1, 7)), (9, Span(0, 8))])
def test_widen_stops_at_the_ends(margin: int, expected: Span) -> None:
    assert tiling.widen(Span(3, 5), margin, 8) == expected


@settings(deadline=None)
@given(sides, sides, st.floats(0.01, 40))
def test_scale_gives_the_rounded_size(height: int, width: int, scale: float) -> None:
    goal = tiling.target((height, width), scale, max_pixels=None)
    assert goal.size == (max(1, round(height * scale)), max(1, round(width * scale)))
    assert goal.box == Box(0, 0, *goal.size)


@settings(deadline=None)
@given(sides, sides, st.floats(0.05, 20), st.data())
def test_regions_of_a_partition_are_a_partition(height: int, width: int, scale: float, data: Any) -> None:
    x, y = data.draw(st.integers(0, width)), data.draw(st.integers(0, height))
    whole = tiling.target((height, width), scale, max_pixels=None)
    if not (0 < x < width and 0 < y < height) or min(whole.size) < 2 * max(height, width):
        return
    boxes = [
        tiling.target((height, width), scale, roi=(a, b, c - a, d - b), max_pixels=None)
        for a, c in ((0, x), (x, width))
        for b, d in ((0, y), (y, height))
    ]
    assert all(goal.size == whole.size for goal in boxes)
    assert sum(goal.box.pixels for goal in boxes) == whole.box.pixels


@settings(deadline=None)
@given(sides, sides, sides, sides, st.data())
def test_a_sized_region_has_that_size_and_lies_inside(h: int, w: int, rows: int, cols: int, data: Any) -> None:
    x, y = data.draw(st.integers(0, w - 1)), data.draw(st.integers(0, h - 1))
    roi = (x, y, data.draw(st.integers(1, w - x)), data.draw(st.integers(1, h - y)))
    goal = tiling.target((h, w), size=(rows, cols), roi=roi)
    assert goal.box[2:] == (rows, cols)
    assert goal.box.top >= 0
    assert goal.box.left >= 0
    assert goal.box.bottom <= goal.size[0]
    assert goal.box.right <= goal.size[1]


def test_one_side_gives_the_other_in_proportion() -> None:
    assert tiling.target((300, 200), width=50).size == (75, 50)
    assert tiling.target((300, 200), height=50).size == (50, 33)
    assert tiling.target((300, 200), height=50, width=60).size == (50, 60)
    assert tiling.target((300, 200), width=50, roi=(0, 0, 100, 20)).box == Box(0, 0, 10, 50)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.5G", 1_610_612_736), ("800M", 838_860_800), (2**30, 2**30), ("64MiB", 2**26), ("1gb", 2**30)],
)
def test_memory_in_words(text: str | int, expected: int) -> None:
    assert tiling.parse_memory(text) == expected


# -- upscale --------------------------------------------------------------------------------------------------------


def bilinear(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation of [H, W, C] by PyTorch, edges repeated."""
    planes = torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1)[None]
    return F.interpolate(planes, size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()


# At x1 and x3 a query may lie on a feature's centre, and on the last row and column all areas are then 0: the published
# blend is not bilinear there.
@pytest.mark.parametrize("size", [(355, 474), (60, 80), (120, 331), (768, 1024)])
def test_photograph_through_a_model_that_interpolates(size: tuple[int, int]) -> None:
    """Colours, orientation, positions and rounding of the whole way, against PyTorch's own interpolation."""
    result = upscale(photo(), size=size, model=bilinear_liif(), tile=16)
    assert isinstance(result, Image.Image)
    assert result.mode == "RGB"
    expected = bilinear(np.asarray(photo()), size)
    assert np.abs(np.asarray(result, dtype=np.float32) - expected).max() <= 0.51


def test_every_kind_comes_back_as_it_went_in() -> None:
    model = bilinear_liif()
    array = np.asarray(photo())
    expected = bilinear(array, (144, 160))

    def check(result: Any, kind: type, dtype: Any, shape: tuple[int, ...], full: float) -> None:
        assert isinstance(result, kind)
        assert result.dtype == dtype
        assert tuple(result.shape) == shape
        values = np.asarray(result, dtype=np.float64).reshape(shape[-3:])
        values = values.transpose(1, 2, 0) if kind is Tensor else values
        assert np.abs(values / full * 255 - expected).max() <= 0.52

    def run(image: Any) -> Any:
        return upscale(image, (1.5, 1.25), model=model)

    check(run(array), np.ndarray, np.uint8, (144, 160, 3), 255)
    check(run(array.astype(np.uint16) * 257), np.ndarray, np.uint16, (144, 160, 3), 65535)
    check(run(array.astype(np.float64) / 255), np.ndarray, np.float64, (144, 160, 3), 1)
    check(run(array[:, ::-1][:, ::-1]), np.ndarray, np.uint8, (144, 160, 3), 255)
    tensor = torch.from_numpy(array / 255).permute(2, 0, 1).float()
    check(run(tensor), Tensor, torch.float32, (3, 144, 160), 1)
    check(run(tensor[None]), Tensor, torch.float32, (1, 3, 144, 160), 1)
    check(run((tensor * 255).round().to(torch.uint8)), Tensor, torch.uint8, (3, 144, 160), 255)
    assert not run(tensor.requires_grad_()).requires_grad


def test_gray_stays_gray() -> None:
    model = bilinear_liif()
    gray = photo().convert("L")
    expected = bilinear(np.asarray(gray)[..., None], (240, 200))[..., 0]
    result = upscale(gray, size=(240, 200), model=model)
    assert result.mode == "L"
    assert np.abs(np.asarray(result, dtype=float) - expected).max() <= 0.51
    assert upscale(np.asarray(gray), size=(240, 200), model=model).shape == (240, 200)
    assert upscale(np.asarray(gray)[..., None], size=(240, 200), model=model).shape == (240, 200, 1)
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    result = upscale(deep, size=(240, 200), model=model)
    assert result.mode == "I;16"
    assert np.abs(np.asarray(result, dtype=float) / 257 - expected).max() <= 0.01


def test_alpha_has_no_dark_border_and_stays_clear_or_opaque() -> None:
    """A white disc on transparent black must stay white up to its edge, with a random model for alpha too."""
    y, x = np.mgrid[:64, :48]
    inside = (y - 30) ** 2 + (x - 22) ** 2 < 15**2
    rgba = np.zeros((64, 48, 4), np.uint8)
    rgba[inside] = 255
    result = upscale(Image.fromarray(rgba), 3, model=bilinear_liif(), tile=16)
    assert result.mode == "RGBA"
    out = np.asarray(result)
    assert (out[..., :3][out[..., 3] > 0] == 255).all()
    wavy = np.asarray(upscale(Image.fromarray(rgba), 3, model=tiny_liif(), tile=16))[..., 3]
    owner = inside.repeat(3, 0).repeat(3, 1)
    near = torch.from_numpy(owner.astype(np.float32))[None]
    deep = -F.max_pool2d(-near, 9, 1, 4)[0].numpy() > 0
    far = F.max_pool2d(near, 9, 1, 4)[0].numpy() == 0
    assert (wavy[deep] == 255).all()
    assert (wavy[far] == 0).all()


def test_constant_alpha_and_gray_alpha() -> None:
    model = bilinear_liif()
    image = photo()
    image.putalpha(77)
    result = upscale(image, 2, model=model)
    assert (np.asarray(result)[..., 3] == 77).all()
    assert (np.asarray(result)[..., :3] == np.asarray(upscale(photo(), 2, model=model))).all()
    both = image.convert("LA")
    assert upscale(both, 2, model=model).mode == "LA"


def test_alpha_of_a_region_is_that_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (40, 50, 4), dtype=np.uint8)
    rgba[:20, :, 3] = 0
    model = tiny_liif()
    seen: list[tuple[int, int]] = []
    whole = upscale(rgba, 2.7, model=model, progress=lambda *step: seen.append(step))
    part = upscale(rgba, 2.7, model=model, roi=(11, 14, 20, 11), tile=16)
    top, left = round(14 * 108 / 40), round(11 * 135 / 50)
    crop = whole[top : top + part.shape[0], left : left + part.shape[1]]
    assert np.abs(part.astype(int) - crop).max() <= 1
    assert seen[-1] == (2 * 108 * 135, 2 * 108 * 135)


def test_a_region_is_the_crop_of_the_whole() -> None:
    model = tiny_liif()
    whole = np.asarray(upscale(photo(), 2.7, model=model, tile=16))
    part = np.asarray(upscale(photo(), 2.7, model=model, roi=(33, 20, 40, 31)))
    top, left = round(20 * 259 / 96), round(33 * 346 / 128)
    bottom, right = round(51 * 259 / 96), round(73 * 346 / 128)
    assert part.shape == (bottom - top, right - left, 3)
    assert np.abs(part.astype(int) - whole[top:bottom, left:right]).max() <= 1


def test_palette_and_cmyk_come_back_as_rgb() -> None:
    model = bilinear_liif()
    for mode in ("P", "CMYK", "YCbCr"):
        assert upscale(photo().convert(mode), 1.5, model=model).mode == "RGB"
    assert upscale(photo().convert("1"), 1.5, model=model).mode == "L"


def test_profile_and_resolution_go_with_a_pillow_picture() -> None:
    image = photo()
    image.info.update(icc_profile=b"profile", dpi=(300, 300))
    assert upscale(image, 1.5, model=bilinear_liif()).info == {"icc_profile": b"profile", "dpi": (300, 300)}


def test_a_model_may_be_a_path(tmp_path: Any) -> None:
    checkpoint.save(tiny_liif(), tmp_path / "tiny.safetensors")
    by_path = upscale(np.asarray(photo()), 1.3, model=tmp_path / "tiny.safetensors")
    assert (by_path == upscale(np.asarray(photo()), 1.3, model=tiny_liif())).all()


def test_a_model_of_other_channels() -> None:
    args = {"n_resblocks": 1, "n_feats": 8, "no_upsampling": True, "n_colors": 5}
    imnet = {"name": "mlp", "args": {"out_dim": 2, "hidden_list": [8]}}
    model: Any = models.LIIF({"name": "edsr-baseline", "args": args}, imnet).eval()
    assert upscale(np.random.rand(8, 9, 5), 2, model=model).shape == (16, 18, 2)
    with pytest.raises(ImageError, match="with C 5"):
        upscale(np.random.rand(8, 9, 3), 2, model=model)


@pytest.mark.parametrize(
    ("image", "arguments", "error", "message"),
    [
        ("picture.png", {"scale": 2}, UsageError, "expected a Pillow picture, a NumPy array or a tensor, got str"),
        (np.zeros((3, 40, 50)), {"scale": 2}, ImageError, r"expected \[H, W\] or \[H, W, C\] with C 1 to 4"),
        (np.zeros((4, 5), np.int32), {"scale": 2}, ImageError, "got int32"),
        (np.zeros((4, 5), bool), {"scale": 2}, ImageError, "got bool"),
        (np.zeros((0, 5)), {"scale": 2}, ImageError, "expected"),
        (np.full((4, 5), np.nan), {"scale": 2}, ImageError, r"floating values in \[0, 1\], got nan"),
        (np.full((4, 5), 255.0), {"scale": 2}, ImageError, "divide by"),
        (torch.zeros(2, 3, 4, 5), {"scale": 2}, ImageError, "once for each picture"),
        (torch.zeros(4, 5), {"scale": 2}, ImageError, r"expected \[C, H, W\]"),
        (Image.new("F", (4, 5)), {"scale": 2}, ImageError, "floating-point"),
        (np.zeros((4, 5)), {}, UsageError, "got neither"),
        (np.zeros((4, 5)), {"scale": 2, "size": (5, 5)}, UsageError, "got scale and size"),
        (np.zeros((4, 5)), {"size": (5, 5), "width": 5}, UsageError, "got size and width/height"),
        (np.zeros((4, 5)), {"scale": 0}, UsageError, "above 0"),
        (np.zeros((4, 5)), {"scale": -1.5}, UsageError, "above 0"),
        (np.zeros((4, 5)), {"scale": float("nan")}, UsageError, "finite"),
        (np.zeros((4, 5)), {"scale": float("inf")}, UsageError, "finite"),
        (np.zeros((4, 5)), {"scale": 1e9}, UsageError, "at most 1000"),
        (np.zeros((4, 5)), {"scale": "big"}, UsageError, "expected a number"),
        (np.zeros((4, 5)), {"scale": (1, 2, 3)}, UsageError, "expected a pair"),
        (np.zeros((4, 5)), {"size": (5, 0)}, UsageError, "whole number of pixels from 1"),
        (np.zeros((4, 5)), {"size": (5.5, 2)}, UsageError, "whole number of pixels from 1"),
        (np.zeros((4, 5)), {"size": 5}, UsageError, "expected a pair"),
        (np.zeros((4, 5)), {"size": (30_000, 30_000)}, ImageError, "at most 400 megapixels, got 900"),
        (np.zeros((4, 5)), {"scale": 2, "roi": (0, 0, 9, 1)}, ImageError, "inside of the 5 x 4 picture"),
        (np.zeros((4, 5)), {"scale": 2, "roi": (0, 0)}, UsageError, "roi: expected"),
    ],
)
def test_bad_pictures_and_sizes(image: Any, arguments: dict[str, Any], error: type[LiifError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        upscale(image, model=tiny_liif(), **arguments)
    assert "\n" not in str(caught.value)


def test_the_pixel_limit_can_be_lifted() -> None:
    image = np.zeros((20, 30), np.uint8)
    with pytest.raises(ImageError, match="max_pixels=None"):
        upscale(image, 2, model=tiny_liif(), max_pixels=1000)
    assert upscale(image, 2, model=tiny_liif(), max_pixels=None).shape == (40, 60)


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (70, 1), (2, 2)])
def test_the_smallest_pictures(shape: tuple[int, int]) -> None:
    image = np.full(shape, 200, np.uint8)
    assert (upscale(image, 3.3, model=bilinear_liif(), tile=16) == 200).all()


def test_the_photograph_is_there() -> None:
    assert photo().size == (128, 96)
    assert PHOTO.stat().st_size < 40_000
