"""Small models that make a picture in no time, and a desk for the command line to work on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from liif_fast import checkpoint, models
from liif_fast.cli import main
from liif_fast.training.bilinear_init import bilinear_init

PHOTO = Path(__file__).parent / "data" / "colosseum.png"  # 128 x 96, RGB


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
