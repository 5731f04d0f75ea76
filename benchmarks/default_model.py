"""PSNR of a model on photographs beside Pillow's bicubic and Lanczos filters.

    python benchmarks/default_model.py PICTURE [PICTURE ...] [--model PATH] [--scales 2 3 4 6 8 12] [--out FILE.json]

Each photograph is halved by Pillow's bicubic filter, so that the truth is sharp. Four square crops of it, centred on
the points at a third and two thirds of its sides, are reduced by bicubic and brought back; all pixels and channels
count, borders too, after rounding to 8 bits. The mean of the crops' PSNR is printed and written.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import liif_fast
from liif_fast.data.pictures import read_picture
from liif_fast.files import replacing
from liif_fast.training.evaluation import compare

RESULT = Path(__file__).parent / "results" / "default-model.json"


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


def commit() -> str:
    """The checkout's commit, or `unknown`."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--model", default="default", help="checkpoint (default: the model of the package)")
    parser.add_argument("--scales", type=float, nargs="+", default=[2, 3, 4, 6, 8, 12])
    parser.add_argument("--crop", type=int, default=384, help="side of the crops (384)")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()

    model = liif_fast.load(args.model)
    table: dict[str, dict[str, dict[str, float]]] = {}
    for scale in args.scales:
        rows = {}
        for picture in args.pictures:
            values = [compare(model, crop, scale) for crop in crops(picture, args.crop)]
            rows[picture.stem] = {name: round(float(np.mean([v[name] for v in values])), 3) for name in values[0]}
        first = next(iter(rows.values()))
        rows["mean"] = {name: round(float(np.mean([row[name] for row in rows.values()])), 3) for name in first}
        table[f"x{scale:g}"] = rows
        print(f"x{scale:g}", rows["mean"], flush=True)
    report = {
        "what": "PSNR in dB, RGB, mean over crops; the truth is the photograph at half size",
        "model": Path(args.model).name,
        "crop": args.crop,
        "psnr": table,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "commit": commit(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.out) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
