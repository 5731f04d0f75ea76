"""PSNR against recorded values, and the evaluation loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.paths import RECORDED
from torch import Tensor, nn

from liif_fast.geometry import make_cell, make_coord
from liif_fast.training.evaluation import Normalisation, eval_psnr, predict, upscale_array
from liif_fast.training.metrics import parse_mode, psnr

GOLDEN = np.load(RECORDED / "models.npz")
MODES = [(None, 1), ("benchmark", 2), ("benchmark", 4), ("div2k", 2), ("div2k", 3)]


@pytest.mark.parametrize(("mode", "scale"), MODES)
def test_psnr_equals_the_published_values(mode: str | None, scale: int) -> None:
    a, b = (torch.from_numpy(GOLDEN[f"psnr/{name}"]) for name in "ab")
    assert psnr(a, b, mode, scale).item() == pytest.approx(float(GOLDEN[f"psnr/{mode}-{scale}"]), abs=1e-5)


def test_psnr_by_hand() -> None:
    a = torch.zeros(1, 3, 20, 20)
    b = a.clone()
    b[..., 10, 10] = 0.5
    assert psnr(a, b).item() == pytest.approx(-10 * np.log10(0.25 / 400), abs=1e-5)
    assert psnr(a * 255, b * 255, rgb_range=255).item() == pytest.approx(psnr(a, b).item(), abs=1e-5)
    assert psnr(a, b, "div2k", 2).item() == pytest.approx(-10 * np.log10(0.25 / 16), abs=1e-5)
    b[..., 10, 10] = 0
    b[..., 0, :] = 1
    assert psnr(a, b, "benchmark", 1).item() == float("inf")


def test_psnr_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="one shape"):
        psnr(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
    with pytest.raises(ValueError, match="larger than the border"):
        psnr(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16), "div2k", 2)
    with pytest.raises(ValueError, match="psnr mode"):
        psnr(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), "ssim")


def test_eval_types() -> None:
    assert parse_mode(None) == (None, 1)
    assert parse_mode("div2k-4") == ("div2k", 4)
    assert parse_mode("benchmark-12") == ("benchmark", 12)
    with pytest.raises(ValueError, match="eval_type"):
        parse_mode("div2k")


class Ramp(nn.Module):
    """Answers a fixed function of the coordinate, so that the right result is known."""

    def gen_feat(self, inp: Tensor) -> Tensor:
        self.feat = inp
        return inp

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        return torch.cat([coord, coord[..., :1] * coord[..., 1:]], dim=-1)

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        self.gen_feat(inp)
        return self.query_rgb(coord, cell)


def ramp_batch(height: int, width: int) -> dict[str, Tensor]:
    coord = make_coord((height, width))[None]
    gt = Ramp().query_rgb(coord) * 0.5 + 0.5
    # an error of 0.1 in one row of pixels at the upper border only
    gt[:, :width] += torch.where(gt[:, :width] > 0.5, -0.1, 0.1)
    return {"inp": torch.zeros(1, 3, 8, 9), "coord": coord, "cell": make_cell((height, width))[None], "gt": gt}


def test_eval_psnr_finds_the_shape_of_non_uniform_scales() -> None:
    batch = ramp_batch(24, 30)
    norm = {"inp": {"sub": [0.5], "div": [0.5]}, "gt": {"sub": [0.5], "div": [0.5]}}
    whole = eval_psnr([batch], Ramp(), norm)
    assert whole == pytest.approx(-10 * np.log10(0.01 / 24), abs=1e-3)
    assert eval_psnr([batch], Ramp(), norm, eval_bsize=101) == pytest.approx(whole, abs=1e-6)
    # without its border the picture is right: only float32 rounding is left
    assert eval_psnr([batch], Ramp(), norm, "benchmark-3") > 120


def test_predict_in_chunks_equals_in_one_go() -> None:
    batch = ramp_batch(7, 11)
    args = (batch["inp"], batch["coord"], batch["cell"])
    assert torch.equal(predict(Ramp(), *args), predict(Ramp(), *args, bsize=10))


def test_normalisation_goes_there_and_back() -> None:
    norm = Normalisation({"inp": {"sub": [0.4, 0.5, 0.6], "div": [1]}, "gt": {"sub": [0.5], "div": [0.25]}})
    assert torch.allclose(norm.inp(torch.ones(1, 3, 1, 1)).flatten(), torch.tensor([0.6, 0.5, 0.4]))
    colours = torch.tensor([[[0.1, 0.5, 0.9]]])
    assert torch.allclose(norm.undo(norm.gt(colours)), colours, atol=1e-6)
    assert norm.undo(torch.full((1, 1, 3), 9.0)).max() == 1


def test_an_enlarged_picture_keeps_its_level() -> None:
    constant = Ramp()
    constant.query_rgb = lambda coord, cell=None: torch.full((*coord.shape[:2], 3), 2 * 100 / 255 - 1)  # type: ignore[method-assign]
    constant.data_norm = {"inp": {"sub": [0.5], "div": [0.5]}, "gt": {"sub": [0.5], "div": [0.5]}}  # type: ignore[assignment]
    enlarged = upscale_array(constant, np.full((15, 11, 3), 100, np.uint8), 41, 30)
    assert (enlarged == np.full((41, 30, 3), 100, np.uint8)).all()
