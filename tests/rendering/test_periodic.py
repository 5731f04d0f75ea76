"""Pictures that repeat: no seam, whatever the size, and the same pixels wherever the picture is cut."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.models import WideEncoder, bilinear_liif, tiny_liif
from support.workspace import make_workspace, photo
from support.workspace import upscale as command
from torch import Tensor

from liif_fast import models, upscale
from liif_fast.errors import UsageError

MODEL = tiny_liif(WideEncoder())
sides = st.integers(1, 30)


def picture(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(5))


def close(result: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=25)
@given(sides, sides, st.sampled_from([2, 3, (2, 4)]), st.integers(-40, 40), st.integers(-40, 40))
def test_a_rolled_picture_gives_the_rolled_result(height: int, width: int, scale: Any, dy: int, dx: int) -> None:
    image = picture(height, width)
    down, across = scale if isinstance(scale, tuple) else (scale, scale)
    result = upscale(image, scale, model=MODEL, wrap=True)
    rolled = upscale(image.roll((dy, dx), (1, 2)), scale, model=MODEL, wrap="xy", tile=16)
    close(rolled, result.roll((dy * down, dx * across), (1, 2)))


@settings(deadline=None, max_examples=20)
@given(sides, sides, st.integers(1, 50), st.integers(1, 50))
def test_copies_side_by_side_are_one_picture(height: int, width: int, rows: int, cols: int) -> None:
    """At any size, whatever factor it shares with the picture's."""
    image = picture(height, width)
    result = upscale(image, size=(rows, cols), model=MODEL, wrap=True)
    four = upscale(image.tile(1, 2, 2), size=(2 * rows, 2 * cols), model=MODEL, wrap=True)
    close(four, result.tile(1, 2, 2))


@pytest.mark.parametrize("size", [(80, 90), (31, 47), (45, 130)])
def test_inside_nothing_changes_and_one_axis_is_one_axis(size: tuple[int, int]) -> None:
    image = picture(40, 50)
    plain, both = (upscale(image, size=size, model=MODEL, wrap=wrap) for wrap in (None, True))
    across, down = (upscale(image, size=size, model=MODEL, wrap=wrap) for wrap in ("x", "y"))
    # The encoder's radius of 4, the unfolding, the neighbours.
    top, left = -(-7 * size[0] // 40), -(-7 * size[1] // 50)
    close(both[:, top:-top, left:-left], plain[:, top:-top, left:-left])
    close(across[:, top:-top], both[:, top:-top])
    close(across[:, :, left:-left], plain[:, :, left:-left])
    close(down[:, :, left:-left], both[:, :, left:-left])
    close(down[:, top:-top], plain[:, top:-top])
    assert (both - plain).abs().max() > 1e-3


def test_against_pytorch_with_a_model_that_interpolates() -> None:
    image = picture(16, 20)
    padded = F.pad(image[None], (2, 2, 2, 2), mode="circular")
    expected = F.interpolate(padded, scale_factor=2, mode="bilinear")[0, :, 4:-4, 4:-4]
    result = upscale(image, 2, model=bilinear_liif(), wrap=True)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


def test_a_region_is_the_crop_of_the_whole() -> None:
    image = picture(30, 40)
    whole = upscale(image, 3, model=MODEL, wrap=True)
    for x, y, w, h in ((0, 0, 5, 7), (33, 25, 7, 5), (10, 0, 20, 30)):
        part = upscale(image, 3, model=MODEL, wrap=True, roi=(x, y, w, h))
        close(part, whole[:, 3 * y : 3 * (y + h), 3 * x : 3 * (x + w)])


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_gray_and_alpha_repeat_too(channels: int) -> None:
    image = picture(24, 20, channels)
    if channels in (2, 4):
        image[-1] = (image[-1] - 0.3).clamp(0, 1)
    result = upscale(image, 3, model=tiny_liif(), wrap=True)
    rolled = upscale(image.roll((10, 7), (1, 2)), 3, model=tiny_liif(), wrap=True, tile=16)
    expected = result.roll((30, 21), (1, 2))
    if channels == 1:
        close(rolled, expected)
        return
    close(rolled[-1], expected[-1])
    # Where nothing shows, colour is filled from around in squares that start at the corner.
    solid = F.max_pool2d((image.roll((10, 7), (1, 2))[-1:] == 0).float().tile(1, 3, 3), 9, 1, 4)[:, 24:48, 20:40] == 0
    solid = solid[0].repeat_interleave(3, 0).repeat_interleave(3, 1)
    close(rolled[:, solid], expected[:, solid])


@pytest.mark.parametrize("name", ["reference", "metasr", "enlarging"])
@pytest.mark.parametrize("scale", [2, 0.5])
def test_other_ways_to_decode(name: str, scale: float) -> None:
    encoder: dict[str, Any] = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4}}
    encoder["args"] |= {"scale": 2} if name == "enlarging" else {"no_upsampling": True}
    torch.manual_seed(0)
    spec: dict[str, Any] = {"name": "liif", "args": {"encoder_spec": encoder}}
    if name == "metasr":
        spec["name"] = "metasr"
    else:
        spec["args"]["imnet_spec"] = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [8]}}
    model: Any = models.make(spec).eval()
    backend = "reference" if name == "reference" else "auto"
    image = picture(20, 24)
    result = upscale(image, scale, model=model, wrap=True, backend=backend)
    rolled = upscale(image.roll((4, 6), (1, 2)), scale, model=model, wrap=True, backend=backend)
    close(rolled, result.roll((int(4 * scale), int(6 * scale)), (1, 2)))


def test_an_encoder_that_sees_everything_is_refused() -> None:
    with pytest.raises(UsageError, match="known receptive_radius, got RCAN, which may see the whole picture"):
        upscale(photo(), 2, model=tiny_liif("rcan"), wrap="x")
    with pytest.raises(UsageError, match=re.escape('wrap: expected True, "x", "y", "xy" or None, got 3')):
        upscale(photo(), 2, model=MODEL, wrap=3)  # type: ignore[arg-type]


def test_only_a_margin_is_encoded_beside_the_picture() -> None:
    model: Any = tiny_liif(WideEncoder())
    seen: list[torch.Size] = []
    model.encoder.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[2:]))
    upscale(picture(101, 103), size=(211, 223), model=model, wrap=True)
    assert sum(shape.numel() for shape in seen) <= (101 + 18) * (103 + 18)


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_workspace(tmp_path, monkeypatch)
    array = np.asarray(photo())
    for arguments, wrap in ((["--wrap"], True), (["--wrap", "x"], "x")):
        assert (
            command("photo.png", "--precision", "fp32", "-o", "out.png", "-s", "1.5", "--overwrite", "-q", *arguments)
            == 0
        )
        with Image.open("out.png") as image:
            result = np.asarray(image)
        assert (result == upscale(array, 1.5, model=bilinear_liif(), wrap=wrap)).all()
        assert (result != upscale(array, 1.5, model=bilinear_liif())).any()
    assert command("--wrap", "photo.png", "-s", "2") == 2
    assert "expected x, y, xy or nothing, got 'photo.png'; name the pictures before --wrap" in capsys.readouterr().err
