"""`sample` against `upscale`, against PyTorch's own bilinear sampling, and against the reference decoder."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.models import WideEncoder, bilinear_liif, tiny_liif
from support.workspace import photo
from torch import Tensor, nn

from liif_fast import functional, geometry, models, sample, upscale
from liif_fast.backends import reference
from liif_fast.errors import BackendError, ImageError, LiifError, UsageError
from liif_fast.rendering.render import settle

MODEL = tiny_liif(WideEncoder())
BILINEAR = bilinear_liif()
sides = st.integers(1, 40)


def regular(height: int, width: int) -> Tensor:
    """The grid of a regular output."""
    return geometry.make_coord((height, width), flatten=False).flip(-1)


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))


def turned(height: int, width: int, angle: float, zoom: float = 1.0) -> Tensor:
    """A rotation by affine_grid about the picture's middle, for a square picture."""
    c, s = math.cos(angle) * zoom, math.sin(angle) * zoom
    return F.affine_grid(torch.tensor([[[c, -s, 0], [s, c, 0]]]), [1, 3, height, width], align_corners=False)


def close(result: Tensor, expected: Tensor, atol: float = 2e-5) -> None:
    torch.testing.assert_close(result, expected, atol=atol, rtol=0)


# -- regular grids --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(sides, sides, st.integers(2, 60), st.integers(2, 60), st.sampled_from([None, 16]))
def test_a_regular_grid_is_upscale(height: int, width: int, rows: int, cols: int, tile: int | None) -> None:
    rows, cols = max(rows, -(-height // 4)), max(cols, -(-width // 4))
    image = picture(height, width)
    result = sample(MODEL, image, regular(rows, cols), tile=tile)
    close(result, upscale(image, size=(rows, cols), model=MODEL))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(2, 900))
def test_the_cell_of_a_regular_grid_is_make_cell(length: int, out: int) -> None:
    from liif_fast.sampling import _Points

    out = max(out, -(-length // 4))
    points = _Points(regular(out, 2).double(), (length, 1), "border", (False, False), (0, 0))
    cell = points.cell(torch.arange(2 * out))
    torch.testing.assert_close(cell, geometry.make_cell((out, 2)), rtol=1e-4, atol=1e-7)


@settings(deadline=None, max_examples=20)
@given(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([2, 4]))
def test_whole_pixels_aside_is_the_same_shifted(dy: int, dx: int, scale: int) -> None:
    """Also past the edges, where "zeros" shows nothing.

    At odd scales a point may lie on a feature's centre in the last row or column, where the published blend depends on
    how a coordinate was rounded.
    """
    image = picture(17, 23)
    size = 17 * scale, 23 * scale
    aside = regular(*size) + torch.tensor([2 * dx / 23, 2 * dy / 17])
    result = sample(MODEL, image, aside, padding="zeros")
    whole = upscale(image, size=size, model=MODEL)
    expected = torch.zeros_like(whole)
    ys, xs = (slice(max(0, -d * scale), min(n, n - d * scale)) for d, n in ((dy, size[0]), (dx, size[1])))
    from_ys, from_xs = (slice(s.start + d * scale, s.stop + d * scale) for s, d in ((ys, dy), (xs, dx)))
    expected[:, ys, xs] = whole[:, from_ys, from_xs]
    close(result, expected, atol=1e-4)


# -- any grid -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(sides, sides, st.integers(0, 99), st.sampled_from(["border", "zeros"]))
def test_bilinear_model_is_grid_sample(height: int, width: int, seed: int, padding: str) -> None:
    image = picture(height, width, seed=seed)
    grid = torch.rand(13, 19, 2, generator=torch.Generator().manual_seed(seed)) * 4 - 2
    result = sample(BILINEAR, image, grid, padding=padding, tile=16)
    expected = F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=False)[0]
    if padding == "zeros":
        # PyTorch's "zeros" fades along the border pixels; here they are shown to their outer edge.
        expected = torch.where((grid.abs() <= 1).all(-1), expected, 0.0)
    close(result, expected, atol=1e-4)


@pytest.mark.parametrize("wrap", ["x", "y", "xy"])
def test_bilinear_model_on_a_repeating_picture(wrap: str) -> None:
    image = picture(9, 14)
    grid = torch.rand(30, 30, 2, generator=torch.Generator().manual_seed(1)) * 6 - 3
    result = sample(BILINEAR, image, grid, wrap=wrap)
    tiled = image.tile(1, 7 if "y" in wrap else 1, 7 if "x" in wrap else 1)[None]
    shrunk = grid / torch.tensor([7 if "x" in wrap else 1, 7 if "y" in wrap else 1])
    expected = F.grid_sample(tiled, shrunk[None], padding_mode="border", align_corners=False)[0]
    close(result, expected, atol=1e-4)


def direct(model: Any, image: Tensor, grid: Tensor, cell: Tensor) -> Tensor:
    """The picture at the grid's points by the reference, all at once."""
    coord = grid.flip(-1).reshape(1, -1, 2).clamp(-1, 1)
    with torch.no_grad():
        feat = model.encoder((image[None] - 0.5) / 0.5)
        rgb = reference.batched_query(feat, coord, cell.reshape(1, -1, 2), model.decoder_params(feat.shape[1]))
    return (rgb[0].t().reshape(-1, *grid.shape[:2]) * 0.5 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("tile", [None, 16])
@pytest.mark.parametrize("switch", [None, "local_ensemble", "feat_unfold", "cell_decode"])
def test_a_rotation_keeps_the_cell(switch: str | None, tile: int | None) -> None:
    """Against the reference with the cell of the same picture unturned."""
    model = tiny_liif(WideEncoder(), **({switch: False} if switch else {}))
    image, grid = picture(60, 60), turned(90, 90, 0.4)[0]
    cell = geometry.make_cell((90, 90))
    close(sample(model, image, grid, tile=tile), direct(model, image, grid, cell))


def test_tiles_equal_the_whole_on_a_wild_grid() -> None:
    image = picture(70, 90)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 75), torch.linspace(-1, 1, 80), indexing="ij")
    swirl = 3 * (x * x + y * y)
    grid = torch.stack([x * swirl.cos() - y * swirl.sin(), x * swirl.sin() + y * swirl.cos()], dim=-1)
    whole = sample(MODEL, image, grid, tile=1000)
    close(sample(MODEL, image, grid, tile=16), whole)
    close(sample(MODEL, image, grid, memory="1M"), whole)
    close(sample(MODEL, image, grid.double(), tile=16), whole, atol=1e-4)
    close(sample(MODEL, image, grid.half()), sample(MODEL, image, grid.half().float()), atol=0)
    half = sample(MODEL, image, grid, tile=16, precision="bf16")
    assert 0 < (half - whole).abs().max() < 0.05


def test_blocks_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    image, grid = picture(33, 33), turned(40, 50, 1.0)
    whole = sample(MODEL, image, grid)
    monkeypatch.setattr("liif_fast.sampling.POINT_BYTES", 2**28 // 150)
    seen: list[tuple[int, int]] = []
    close(sample(MODEL, image, grid, progress=lambda *step: seen.append(step)), whole)
    assert len(seen) >= 40 / 3
    assert seen == sorted(seen)
    assert seen[-1] == (2000, 2000)


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_every_backend(backend: str) -> None:
    try:
        settle(MODEL, backend)
    except BackendError as error:
        pytest.skip(str(error))
    image, grid = picture(40, 40), turned(50, 50, 2.0)
    close(sample(MODEL, image, grid, backend=backend), sample(MODEL, image, grid))


@pytest.mark.parametrize("name", ["metasr", "nearest", "enlarging", "rcan", "foreign"])
def test_other_models_are_upscale_on_a_regular_grid(name: str) -> None:
    encoder: dict[str, Any] = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4}}
    encoder["args"] |= {"scale": 2} if name in ("nearest", "enlarging") else {"no_upsampling": True}
    torch.manual_seed(0)
    model: Any
    if name == "rcan":
        model = tiny_liif("rcan")
    elif name in ("metasr", "foreign"):
        model = models.make({"name": "metasr", "args": {"encoder_spec": encoder}}).eval()
    else:
        imnet = None if name == "nearest" else {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [8]}}
        model = models.LIIF(encoder, imnet).eval()
    if name == "foreign":
        inner = model
        model = nn.Module()
        model.encoder, model.gen_feat, model.query_rgb = inner.encoder, inner.gen_feat, inner.query_rgb
    image = picture(40, 50)
    for size in ((60, 73), (160, 101), (17, 23)):
        result = sample(model, image, regular(*size), tile=16)
        difference = (result - upscale(image, size=size, model=model)).abs()
        # Without an ensemble a point on the border between two pixels may fall to either.
        assert (difference.amax(dim=0) > 2e-5).float().mean() <= (0.001 if name in ("metasr", "foreign") else 0)


# -- what it costs --------------------------------------------------------------------------------------------------


def encoded(model: Any) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    model.encoder.register_forward_hook(lambda _, args, out: seen.append(tuple(args[0].shape[2:])))
    return seen


def test_only_what_the_grid_sees_is_encoded_and_once() -> None:
    model = tiny_liif(WideEncoder())
    seen = encoded(model)
    image = picture(400, 400)
    corner = turned(30, 30, 0.7, zoom=0.02) + torch.tensor([0.5, -0.5])
    sample(model, image, corner)
    assert len(seen) == 1
    # 8 pixels on the diagonal at most, the encoder's radius of 4, neighbours, rounding, unfolding.
    assert max(seen[0]) <= 8 * 1.5 + 2 * (4 + 3) + 1
    seen.clear()
    two = torch.cat([corner, corner.flip(1) * -1], dim=1)
    sample(model, image, two, tile=100)
    assert sum(h * w for h, w in seen) < 0.02 * 400 * 400
    seen.clear()
    sample(model, image, turned(200, 200, 0.7), tile=100)
    assert sum(h * w for h, w in seen) < 1.4 * 400 * 400
    seen.clear()
    sample(model, image, torch.full((4, 4, 2), 3.0), padding="zeros")
    assert not seen


def test_out_of_memory_halves_the_tiles_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    image, grid = picture(60, 70), turned(50, 50, 0.5)
    expected = sample(MODEL, image, grid)
    project, refused = functional.project, []

    def poor(feat: Tensor, *args: Any) -> Tensor:
        if feat.shape[-1] * feat.shape[-2] > 900:
            refused.append(feat.shape)
            raise MemoryError
        return project(feat, *args)

    monkeypatch.setattr(functional, "project", poor)
    close(sample(MODEL, image, grid), expected)
    assert refused
    monkeypatch.setattr(functional, "project", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(LiifError, match=r"out of memory .* smallest tile"):
        sample(MODEL, image, grid)


# -- seams, holes, horizons -----------------------------------------------------------------------------------------


def test_a_panorama_has_no_seam_where_its_grid_jumps() -> None:
    """The same view with the jump in another column, or without one: the cell must not notice."""
    image = picture(24, 48)
    x = torch.linspace(0.8, 1.2, 41).expand(20, -1)
    y = torch.linspace(-0.3, 0.3, 20).view(-1, 1).expand(-1, 41)
    smooth, jumping = torch.stack([x, y], dim=-1), torch.stack([torch.where(x > 1, x - 2, x), y], dim=-1)
    close(sample(MODEL, image, jumping, wrap="x"), sample(MODEL, image, smooth, wrap="x"))
    assert not torch.allclose(sample(MODEL, image, smooth), sample(MODEL, image, smooth, wrap="x"), atol=1e-3)


def test_a_point_without_a_place_shows_nothing_and_spares_its_neighbours() -> None:
    image = picture(30, 30)
    grid = turned(40, 40, 0.3)[0]
    holes = torch.zeros(40, 40, dtype=torch.bool)
    holes[5, 5] = holes[20:25, 30:] = holes[0] = True
    pierced = grid.clone()
    pierced[holes] = torch.tensor([float("nan"), 0.1])
    pierced[7, 7, 1], holes[7, 7] = float("inf"), True
    for padding in ("border", "zeros"):
        result = sample(MODEL, image, pierced, padding=padding)
        assert (result[:, holes] == 0).all()
        close(result[:, ~holes], sample(MODEL, image, grid, padding=padding)[:, ~holes])


def test_a_lonely_point_and_a_line() -> None:
    """Alone, a point stands for a pixel of the picture; a line's pixels are square."""
    image = picture(30, 30)
    spot = torch.tensor([[[0.123, -0.3]]])
    close(sample(MODEL, image, spot), direct(MODEL, image, spot, geometry.make_cell((30, 30), 1)))
    line = regular(90, 90)[44:45]
    for grid in (line, line.transpose(0, 1)):
        close(sample(MODEL, image, grid), direct(MODEL, image, grid, geometry.make_cell((90, 90), 90)))


def test_a_horizon_stays_a_picture() -> None:
    """Towards a horizon the footprint grows without end; the cell that the model is told of does not."""
    y = torch.linspace(0.001, 1, 60).view(-1, 1).expand(-1, 40)
    x = torch.linspace(-1, 1, 40).expand(60, -1)
    image = torch.full((3, 32, 32), 0.5)
    result = sample(None, image, torch.stack([x / y, 1 - 0.1 / y], dim=-1))
    assert (result - 0.5).abs().max() < 0.1


# -- kinds ----------------------------------------------------------------------------------------------------------


def test_every_kind_comes_back_as_it_went_in() -> None:
    array = np.asarray(photo())
    grid = turned(50, 70, 0.2)
    expected = sample(BILINEAR, torch.from_numpy(array / 255).permute(2, 0, 1), grid.double().numpy())
    assert expected.dtype == torch.float64
    wanted = expected.permute(1, 2, 0).numpy()
    for image, dtype, full in ((array, np.uint8, 255), (array.astype(np.uint16) * 257, np.uint16, 65535)):
        result = sample(BILINEAR, image, grid)
        assert result.dtype == dtype
        assert np.abs(result / full - wanted).max() <= 0.51 / full + 1e-4
    result = sample(BILINEAR, photo(), grid)
    assert isinstance(result, Image.Image)
    assert np.abs(np.asarray(result) / 255 - wanted).max() <= 0.51 / 255 + 1e-4
    assert sample(BILINEAR, torch.from_numpy(array.copy()).permute(2, 0, 1)[None], grid).shape == (1, 3, 50, 70)
    gray = sample(BILINEAR, photo().convert("L"), grid)
    assert (gray.mode, gray.size) == ("L", (70, 50))
    assert (
        np.abs(np.asarray(gray, dtype=float) - np.asarray(Image.fromarray(np.asarray(result)).convert("L"))).max() <= 2
    )


@pytest.mark.parametrize("alpha", ["flat", "disc"])
def test_alpha_is_clear_outside_and_has_no_dark_border(alpha: str) -> None:
    """A white picture must stay white wherever it shows, through a random model's alpha too."""
    rgba = np.full((48, 48, 4), 255, np.uint8)
    if alpha == "disc":
        y, x = np.mgrid[:48, :48]
        rgba[(y - 24) ** 2 + (x - 24) ** 2 > 15**2] = 0
    grid = turned(80, 80, 0.5, zoom=1.3)[0]
    outside = ~(grid.abs() <= 1).all(-1).numpy()
    for model in (BILINEAR, tiny_liif()):
        result = sample(model, rgba, grid, padding="zeros")
        assert (result[outside] == 0).all()
        if model is BILINEAR:
            assert (result[..., :3][result[..., 3] > 0] == 255).all()
        deep = torch.hypot(*grid.unbind(-1)).numpy()
        assert (result[..., 3][deep < 0.5] == 255).all()
        if alpha == "disc":
            assert (result[..., 3][deep > 0.8] == 0).all()
        else:
            assert (result[..., 3][~outside] == 255).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"grid": [[0.0, 0.0]]}, UsageError, "grid: expected a tensor or an array"),
        ({"grid": torch.zeros(4, 2)}, UsageError, r"grid: expected floating \[H, W, 2\]"),
        ({"grid": torch.zeros(2, 4, 4, 2)}, UsageError, r"\[1, H, W, 2\], got torch.float32 \[2, 4, 4, 2\]"),
        ({"grid": torch.zeros(4, 4, 3)}, UsageError, "grid: expected floating"),
        ({"grid": torch.zeros(0, 4, 2)}, UsageError, "grid: expected floating"),
        ({"grid": torch.zeros(4, 4, 2, dtype=torch.int64)}, UsageError, "got torch.int64"),
        ({"grid": np.zeros((4, 4, 2), int)}, UsageError, "got int64"),
        ({"padding": "reflection"}, UsageError, "padding: expected one of border, zeros"),
        ({"wrap": "z"}, UsageError, "wrap: expected True"),
        ({"image": np.zeros((5, 5), bool)}, ImageError, "got bool"),
        ({"tile": 3}, UsageError, "tile: expected"),
        ({"model": tiny_liif("rcan"), "wrap": True}, UsageError, "known receptive_radius, got RCAN"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[LiifError], message: str) -> None:
    arguments = {"model": BILINEAR, "image": picture(8, 8), "grid": regular(4, 4), **change}
    with pytest.raises(error, match=message) as caught:
        sample(**arguments)
    assert "\n" not in str(caught.value)
