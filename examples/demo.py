"""Upscale a photograph at two scales and lay the results beside bicubic ones in a single labelled picture."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import liif_fast
from liif_fast.errors import LiifError
from liif_fast.files import replacing
from liif_fast.rendering.render import settle

PHOTOGRAPH = Path(__file__).with_name("osprey.jpg")
SCALE = 4
# 3.59 times as high and 2.73 times as wide as the photograph: no integer, and not the same for both axes.
SIZE = (718, 819)
DETAIL = (98, 20, 198, 80)  # left, top, right, bottom in pixels of the photograph: the bird's head
MARGIN, HEADER = 16, 44


def main() -> int:
    """Run the demo from the command line; 0 when the picture was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, default=PHOTOGRAPH, help="photograph to upscale")
    parser.add_argument("--model", help="checkpoint to use (default: the model in the package)")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="folder for the pictures")
    args = parser.parse_args()
    try:
        return demo(args)
    except (LiifError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def demo(args: argparse.Namespace) -> int:
    """Upscale twice, print the figures and write the pictures into args.out."""
    with Image.open(args.input) as file:
        photograph = file.convert("RGB")
    model = liif_fast.load(args.model)
    backend, precision = settle(model, args.backend)
    print(f"backend {backend}, {precision}, {torch.get_num_threads()} threads")
    width, height = photograph.size
    stretched = f"{SIZE[1]} x {SIZE[0]}, x{SIZE[1] / width:.2f} across and x{SIZE[0] / height:.2f} down"
    sizes = {f"x{SCALE}": (SCALE * height, SCALE * width), stretched: SIZE}
    pictures = {}
    for label, size in sizes.items():
        start = time.perf_counter()
        result = liif_fast.upscale(photograph, size=size, model=model, backend=args.backend)
        seconds = time.perf_counter() - start
        megapixels = size[0] * size[1] / 1e6
        print(
            f"{width} x {height} -> {size[1]} x {size[0]}: {seconds:.2f} s, "
            f"{megapixels / seconds:.2f} megapixels a second"
        )
        pictures[label] = (photograph.resize((size[1], size[0]), Image.Resampling.BICUBIC), result)
    args.out.mkdir(parents=True, exist_ok=True)
    results = []
    for _, result in pictures.values():
        results.append(args.out / f"{args.input.stem}_{result.width}x{result.height}.png")
        save(result, results[-1])
    comparison = args.out / "comparison.png"
    save(compare(photograph, pictures), comparison)
    print(f"bicubic beside liif_fast: {comparison}")
    print(f"the results alone: {', '.join(str(path) for path in results)}")
    return 0


def compare(photograph: Image.Image, pictures: dict[str, tuple[Image.Image, Image.Image]]) -> Image.Image:
    """One sheet: the photograph, then rows of bicubic beside liif_fast, with a detail of the first."""
    rows = []
    for index, (label, pair) in enumerate(pictures.items()):
        rows.append((label, pair))
        if index == 0:
            rows.append((f"{label}, detail shown 3 times as large", (detail(pair[0]), detail(pair[1]))))
    column = max(pair[0].width for _, pair in rows) + MARGIN
    heights = [pair[0].height + HEADER for _, pair in rows]
    top = photograph.height + HEADER + MARGIN
    sheet = Image.new("RGB", (2 * column + MARGIN, top + sum(heights) + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=24)
    pen.text((MARGIN, 8), f"the photograph, {photograph.width} x {photograph.height}", "black", font)
    sheet.paste(photograph, (MARGIN, HEADER))
    for (label, pair), height in zip(rows, heights, strict=True):
        for index, name in enumerate(("bicubic", "liif_fast")):
            left = MARGIN + index * column
            pen.text((left, top + 8), f"{name}, {label}", "black", font)
            sheet.paste(pair[index], (left, top + HEADER))
        top += height
    return sheet


def detail(picture: Image.Image) -> Image.Image:
    """The bird's head in a result of SCALE, with visible pixels."""
    left, top, right, bottom = (SCALE * edge for edge in DETAIL)
    part = picture.crop((left, top, right, bottom))
    return part.resize((3 * part.width, 3 * part.height), Image.Resampling.NEAREST)


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG that appears whole or not at all."""
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


if __name__ == "__main__":
    sys.exit(main())
