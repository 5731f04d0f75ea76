"""Draw README's picture: parts of a photograph enlarged by bicubic, the default model and the published checkpoint.

    python -m examples.scales

The published checkpoint is fetched into build/ (see benchmarks/published_weights.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

import liif_fast
from benchmarks import published_weights
from liif_fast.files import replacing

HERE = Path(__file__).parent
PANEL = (288, 240)  # width and height of one enlarged part
MARGIN, HEADER = 8, 30


class Part(NamedTuple):
    """What a panel shows: the scale and the centre (x, y) in pixels of the photograph.

    The scale divides the panel's sides into whole pixels.
    """

    scale: float
    centre: tuple[int, int]


PARTS = (Part(2, (150, 72)), Part(3, (152, 62)), Part(4, (152, 56)), Part(8, (156, 48)))


def panel(photograph: Image.Image, model: Any, part: Part) -> Image.Image:
    """The part enlarged by a model, or by Pillow's bicubic filter where there is none."""
    width, height = (round(side / part.scale) for side in PANEL)
    left, top = part.centre[0] - width // 2, part.centre[1] - height // 2
    if model is None:
        return photograph.resize(PANEL, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    enlarged: Image.Image = liif_fast.upscale(photograph, roi=(left, top, width, height), size=PANEL[::-1], model=model)
    return enlarged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "scales.jpg")
    args = parser.parse_args()
    with Image.open(HERE / "osprey.jpg") as file:
        photograph = file.convert("RGB")
    rows = {
        "bicubic": None,
        "default model": liif_fast.load(),
        "published checkpoint": liif_fast.load(published_weights.fetch()),
    }
    width, height = (n * side + (n + 1) * MARGIN for n, side in zip((len(PARTS), len(rows)), PANEL, strict=True))
    sheet = Image.new("RGB", (width, height + HEADER), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for column, part in enumerate(PARTS):
        left = MARGIN + column * (PANEL[0] + MARGIN)
        pen.text((left, 6), f"x{part.scale:g}", "black", font)
        for row, (name, model) in enumerate(rows.items()):
            top = HEADER + MARGIN + row * (PANEL[1] + MARGIN)
            sheet.paste(panel(photograph, model, part), (left, top))
            box = pen.textbbox((left + 6, top + 4), name, font)
            pen.rectangle((box[0] - 4, box[1] - 3, box[2] + 4, box[3] + 3), fill="white")
            pen.text((left + 6, top + 4), name, "black", font)
    with replacing(args.out) as temporary:
        sheet.save(temporary, format="JPEG", quality=88, optimize=True)


if __name__ == "__main__":
    main()
