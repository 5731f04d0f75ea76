"""What `consistent=True` changes in the PSNR of 8-bit photographs, by how these were made small.

    python -m benchmarks.consistency PICTURE [PICTURE ...] [--scales 2 4] [--out FILE.json]

The truth is a photograph at half size. Four square crops of it, centred on the points at a third and two thirds of its
sides, are reduced by Pillow's bicubic filter, as the pictures of benchmarks are, or by means over squares (box), as a
camera's pixels are, and brought back with and without the correction. All pixels and channels count, after rounding to
8 bits.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import liif_fast
from benchmarks.machine import commit
from liif_fast.data.pictures import read_picture
from liif_fast.files import replacing

RESULT = Path(__file__).parent / "results" / "consistency.json"
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "box": Image.Resampling.BOX}


def crops(picture: Path, side: int) -> list[NDArray[np.uint8]]:
    """Four crops [side, side, 3] of the halved picture."""
    half = read_picture(picture, shrink=2)
    if min(half.shape[:2]) < side:
        raise SystemExit(
            f"{picture}: expected {2 * side} pixels or more on each side, got {half.shape[:2]} after halving"
        )
    found = []
    for row in (1, 2):
        for column in (1, 2):
            top, left = (
                min(max(0, length * third // 3 - side // 2), length - side)
                for length, third in zip(half.shape[:2], (row, column), strict=True)
            )
            found.append(half[top : top + side, left : left + side])
    return found


def gain(model: torch.nn.Module, crop: NDArray[np.uint8], scale: int, reduce: Image.Resampling) -> tuple[float, float]:
    """PSNR in dB without the correction, and what it adds."""
    side = crop.shape[0]
    small = np.asarray(Image.fromarray(crop).resize((side // scale, side // scale), reduce))
    plain, consistent = (
        psnr(liif_fast.upscale(small, scale, model=model, consistent=kept), crop) for kept in (False, True)
    )
    return plain, consistent - plain


def psnr(found: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    error = float(np.mean((found.astype(np.float64) - truth) ** 2))
    return float(10 * np.log10(255**2 / error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--model", default="default", help="checkpoint (default: the model of the package)")
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--crop", type=int, default=384, help="side of the crops (384)")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()

    model = liif_fast.load(args.model)
    table = {}
    for scale in args.scales:
        for name, reduce in FILTERS.items():
            rows = [gain(model, crop, scale, reduce) for picture in args.pictures for crop in crops(picture, args.crop)]
            plain, more = (round(float(np.mean(column)), 3) for column in zip(*rows, strict=True))
            table[f"x{scale} {name}"] = {"psnr": plain, "gain": more}
            print(f"x{scale} {name}", table[f"x{scale} {name}"], flush=True)
    report = {
        "what": "PSNR in dB of 8-bit crops without the correction of consistent=True, and what it adds",
        "model": Path(args.model).name,
        "pictures": [picture.stem for picture in args.pictures],
        "crop": args.crop,
        "mean": table,
        "torch": torch.__version__,
        "commit": commit(),
    }
    with replacing(args.out) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
