"""`upscale`: kinds and depths of pictures, gray, alpha, regions, and what is refused."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image
from support.files import SRGB
from support.models import bilinear_liif, tiny_liif
from support.workspace import PHOTO, photo
from torch import Tensor, nn

from liif_fast import checkpoint, geometry, models, sample, upscale
from liif_fast.errors import ImageError, LiifError, UsageError


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

    def check(result: Any, kind: Any, dtype: Any, shape: tuple[int, ...], full: float) -> None:
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


def test_colour_and_alpha_in_tiles_of_a_model_that_keeps_its_map() -> None:
    """Such a model answers of the picture that it encoded last: for each tile, colour and alpha in turn."""
    encoder = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4, "no_upsampling": True}}
    torch.manual_seed(0)
    inner: Any = models.make({"name": "metasr", "args": {"encoder_spec": encoder}}).eval()
    model: Any = nn.Module()
    model.encoder, model.gen_feat, model.query_rgb = inner.encoder, inner.gen_feat, inner.query_rgb
    rgba = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    whole, tiled = (upscale(rgba, 2.3, model=model, tile=tile) for tile in (1000, 16))
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    grid = geometry.make_coord((90, 110), flatten=False).flip(-1)
    whole, tiled = (sample(model, rgba, grid, tile=tile) for tile in (1000, 16))
    assert np.abs(whole.astype(int) - tiled).max() <= 1


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


def test_a_path_gives_the_picture_of_the_file(tmp_path: Path) -> None:
    """Upright, with its profile; with a warning where it was converted; sample takes one too."""
    model, turned = bilinear_liif(), photo().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned.save(tmp_path / "turned.png", exif=exif, icc_profile=SRGB, dpi=(300, 300))
    for path in (tmp_path / "turned.png", str(tmp_path / "turned.png")):
        result = upscale(path, 1.5, model=model)
        assert (np.asarray(result) == np.asarray(upscale(photo(), 1.5, model=model))).all()
        assert result.info == {"icc_profile": SRGB, "dpi": pytest.approx((300, 300), abs=0.1)}
    grid = geometry.make_coord((30, 40), flatten=False).flip(-1)
    assert (np.asarray(sample(model, path, grid)) == np.asarray(sample(model, photo(), grid))).all()
    photo().convert("CMYK").save(tmp_path / "cmyk.jpg")
    with pytest.warns(UserWarning, match=r"cmyk\.jpg: CMYK converted to sRGB"):
        assert upscale(tmp_path / "cmyk.jpg", 1.5, model=model).mode == "RGB"
    with pytest.raises(ImageError, match=r"missing\.png: no such file"):
        upscale(tmp_path / "missing.png", 1.5, model=model)


@pytest.mark.parametrize("highest", [1.0, 900.0])
def test_a_path_of_floating_values_gives_an_array_in_their_range(highest: float, tmp_path: Path) -> None:
    values = np.asarray(photo(), np.float32)[:20, :24] / 255 * highest
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb")
    with nullcontext() if highest == 1 else pytest.warns(UserWarning, match="computed as 0 to 1"):
        result = upscale(tmp_path / "x.tif", 2, model=bilinear_liif())
    assert result.dtype == np.float32
    expected = upscale(values / highest, 2, model=bilinear_liif()) * highest
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * highest)


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
        (b"picture.png", {"scale": 2}, UsageError, "expected a path, a Pillow picture, a NumPy array or a tensor, got"),
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
