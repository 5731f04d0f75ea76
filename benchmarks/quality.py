"""PSNR, colour shift and zero units of models on a folder of photographs, beside Pillow's bicubic filter.

    python -m benchmarks.quality FOLDER [--model NAME=FILE ...] [--scales 2 3 4 6 8] [--crop 480] [--out FILE.json]

Without --model, the package's default model and the published checkpoint are measured. Every figure of PSNR comes from
the code of `liif-fast evaluate` by the protocol div2k-N: the photograph is reduced N times by Pillow's bicubic filter,
and RGB counts without a border of N + 6 pixels. --crop takes the middle of each photograph; 0 takes all of it.

The colour shift compares the mean of a result over the footprint of each input pixel with that pixel, in 8-bit levels:
`mean` is the mean difference and `absolute` the mean of its magnitude, over all pixels, channels and photographs. Its
inputs are the middle 24 x 24 pixels of the photographs after an eightfold bicubic reduction.

The zero units are the share of hidden units that the ReLU sets to zero, layer by layer, for the middle 192 x 192 pixels
of the photographs reduced four times and brought back: the C++ kernels skip them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import liif_fast
from benchmarks import published_weights
from benchmarks.machine import describe
from liif_fast.data.pictures import Picture, read_picture, resize
from liif_fast.data.samples import to_tensor
from liif_fast.files import replacing
from liif_fast.geometry import make_cell, make_coord
from liif_fast.models import LIIF
from liif_fast.training.evaluation import Normalisation, evaluate, grid_shape, upscale_array
from liif_fast.training.sparsity import hidden_activations

RESULT = Path(__file__).parent / "results" / "quality.json"
# Photographs that the default model was trained on: documents leave them out of their means.
TRAINED_ON = ("circuit-board",)
NORM = {"inp": {"sub": [0.5], "div": [0.5]}, "gt": {"sub": [0.5], "div": [0.5]}}
SHIFT_SCALES = (8, 12, 20, 30)
SHIFT_REDUCTION, SHIFT_SIDE = 8, 24
ZERO_SCALE, ZERO_SIDE = 4, 192


class Bicubic(nn.Module):
    """Pillow's bicubic filter in the form of a model: it rounds its answers to 8 bits."""

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """Takes inp [1, C, h, w] in [-1, 1] and a whole grid of queries; returns the colours [1, Q, C] in [-1, 1]."""
        levels = ((inp[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        enlarged = torch.from_numpy(resize(np.ascontiguousarray(levels), *grid_shape(coord)).copy())
        return enlarged.reshape(1, -1, enlarged.shape[-1]).float() / 127.5 - 1


def middle(picture: Picture, side: int) -> Picture:
    """The middle side x side pixels, or what there is of them."""
    top, left = (max(0, (length - side) // 2) for length in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + side, left : left + side])


def div2k_psnr(model: nn.Module, folder: Path, scale: int) -> float:
    """The PSNR in dB of `liif-fast evaluate` by the protocol div2k-N on a folder of photographs."""
    config = {
        "test_dataset": {
            "dataset": {"name": "image-folder", "args": {"root_path": str(folder)}},
            "wrapper": {"name": "sr-implicit-downsampled", "args": {"scale_min": scale}},
            "batch_size": 1,
        },
        "data_norm": NORM,
        "eval_type": f"div2k-{scale}",
        "eval_bsize": None if isinstance(model, Bicubic) else 30_000,
    }
    return evaluate(config, model, quiet=True).psnr


def colour_shift(model: nn.Module, pictures: list[Picture], scale: int) -> dict[str, float]:
    """The mean difference and its mean magnitude, in 8-bit levels, over the footprints of all input pixels."""
    differences = []
    for picture in pictures:
        low = middle(resize(picture, *(side // SHIFT_REDUCTION for side in picture.shape[:2])), SHIFT_SIDE)
        height, width = low.shape[:2]
        shape = (height * scale, width * scale)
        large = resize(low, *shape) if isinstance(model, Bicubic) else upscale_array(model, low, *shape)
        footprints = large.reshape(height, scale, width, scale, -1).mean(axis=(1, 3), dtype=np.float64)
        differences.append((footprints - low).ravel())
    joined = np.concatenate(differences)
    return {"mean": round(float(joined.mean()), 3), "absolute": round(float(np.abs(joined).mean()), 3)}


@torch.no_grad()
def zero_units(model: LIIF, pictures: list[Picture]) -> list[float]:
    """The share of units that are zero behind the ReLU of each hidden layer, over all photographs."""
    coord, cell = make_coord((ZERO_SIDE, ZERO_SIDE))[None], make_cell((ZERO_SIDE, ZERO_SIDE))[None]
    rows = []
    for picture in pictures:
        low = resize(middle(picture, ZERO_SIDE), ZERO_SIDE // ZERO_SCALE, ZERO_SIDE // ZERO_SCALE)
        feat = model.gen_feat(Normalisation(NORM).inp(to_tensor(low)[None]))
        layers = hidden_activations(feat, coord, cell, model.decoder_params())
        rows.append([float((layer == 0).float().mean()) for layer in layers])
    return [round(float(share), 3) for share in np.mean(rows, axis=0)]


def measure(model: nn.Module, names: list[str], folder: Path, scales: list[int]) -> dict[str, Any]:
    """All figures of one model: PSNR by scale and photograph, with the mean, and the colour shift by scale."""
    psnr = {}
    for scale in scales:
        rows = {name: round(div2k_psnr(model, folder / name, scale), 3) for name in names}
        psnr[f"x{scale}"] = {"mean": round(float(np.mean(list(rows.values()))), 3), **rows}
    pictures = [read_picture(folder / name / "photograph.png") for name in names]
    shift = {f"x{scale}": colour_shift(model, pictures, scale) for scale in SHIFT_SCALES}
    zeros = {"zero_units": zero_units(model, pictures)} if isinstance(model, LIIF) else {}
    return {"psnr": psnr, "colour_shift": shift, **zeros}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", metavar="NAME=FILE", help="a checkpoint (default, published)")
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 3, 4, 6, 8])
    parser.add_argument("--crop", type=int, default=480, help="side of the middle that counts, 0 for all (480)")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()

    models: dict[str, nn.Module] = {"bicubic": Bicubic()}
    for name, _, path in (entry.partition("=") for entry in args.model or ["default=", "published="]):
        models[name] = liif_fast.load(path or (published_weights.fetch() if name == "published" else "default"))
    paths = sorted(path for path in args.folder.iterdir() if path.suffix in (".jpg", ".png"))
    report = {
        "what": "PSNR in dB (div2k-N) and colour shift in 8-bit levels; the benchmark's docstring says how",
        "pictures": [path.stem for path in paths],
        "crop": args.crop or "whole photographs",
        **describe(),
        "models": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            picture = read_picture(path)
            (Path(folder) / path.stem).mkdir()
            crop = middle(picture, args.crop) if args.crop else picture
            Image.fromarray(crop).save(Path(folder) / path.stem / "photograph.png")
        for name, model in models.items():
            found = measure(model, [path.stem for path in paths], Path(folder), args.scales)
            report["models"][name] = found
            print(
                name, {scale: rows["mean"] for scale, rows in found["psnr"].items()}, found["colour_shift"], flush=True
            )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.out) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
