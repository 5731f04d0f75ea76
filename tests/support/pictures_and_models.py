"""Small models that make a picture in no time, and a desk for the command line to work on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from liif_fast import checkpoint, models
from liif_fast.cli import main
from liif_fast.training.bilinear_init import bilinear_init
from support.paths import RECORDED

PHOTO = RECORDED / "colosseum.png"  # 128 x 96, RGB


class Wide(nn.Module):
    """One convolution whose far taps weigh as much as its near ones: a halo too small by one pixel shows at once."""

    def __init__(self, radius: int = 4) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.out_dim, self.receptive_radius, self.scale = 6, radius, 1
        self.conv = nn.Conv2d(3, 6, 2 * radius + 1, padding=radius)

    def forward(self, x: Tensor) -> Tensor:
        return 4 * self.conv(x)


def tiny_liif(encoder: str | nn.Module = "edsr-baseline", seed: int = 0, **switches: Any) -> nn.Module:
    """A LIIF with random weights in eval mode."""
    torch.manual_seed(seed)
    spec: Any = encoder
    if isinstance(encoder, str):
        sizes = {"n_resgroups": 1} if encoder == "rcan" else {}
        args = {"n_resblocks": 2, "n_feats": 8, "no_upsampling": True, **sizes}
        if encoder == "rcan":
            args["reduction"] = 2
        spec = {"name": encoder, "args": args}
    imnet = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16, 16]}}
    return models.LIIF(spec, imnet, **switches).eval()


def bilinear_liif() -> nn.Module:
    """A LIIF that is bilinear interpolation, exactly."""
    model = tiny_liif()
    bilinear_init(model, residual_gain=0)
    return model


def photo() -> Image.Image:
    with Image.open(PHOTO) as image:
        return image.convert("RGB")


def lay_desk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a photograph and a model that is bilinear interpolation."""
    monkeypatch.chdir(folder)
    photo().save("photo.png")
    checkpoint.save(bilinear_liif(), "model.safetensors")
    return folder


def upscale(*arguments: str) -> int:
    """`liif-fast upscale` with the model of the desk: the exit code."""
    return main(["upscale", "--model", "model.safetensors", *arguments])


def names(folder: Path) -> list[str]:
    """What is in a folder, beside the record of what is done."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".liif-fast")


def size(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size
