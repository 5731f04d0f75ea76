"""Draw README's picture: parts of a photograph enlarged at several scales, bicubic above, liif_fast below."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

import liif_fast
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


PARTS = (Part(2.4, (150, 66)), Part(4.8, (152, 56)), Part(8, (156, 48)), Part(12, (156, 46)))


def panels(photograph: Image.Image, model: Any, part: Part) -> list[Image.Image]:
    """The part by bicubic and by the model."""
    width, height = (round(side / part.scale) for side in PANEL)
    left, top = part.centre[0] - width // 2, part.centre[1] - height // 2
    bicubic = photograph.resize(PANEL, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    return [bicubic, liif_fast.upscale(photograph, roi=(left, top, width, height), size=PANEL[::-1], model=model)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "scales.jpg")
    args = parser.parse_args()
    with Image.open(HERE / "osprey.jpg") as file:
        photograph = file.convert("RGB")
    model = liif_fast.load()
    width, height = (n * side + (n + 1) * MARGIN for n, side in zip((len(PARTS), 2), PANEL, strict=True))
    sheet = Image.new("RGB", (width, height + HEADER), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for column, part in enumerate(PARTS):
        left = MARGIN + column * (PANEL[0] + MARGIN)
        pen.text((left, 6), f"x{part.scale:g}", "black", font)
        for row, (name, panel) in enumerate(
            zip(("bicubic", "liif_fast"), panels(photograph, model, part), strict=True)
        ):
            top = HEADER + MARGIN + row * (PANEL[1] + MARGIN)
            sheet.paste(panel, (left, top))
            box = pen.textbbox((left + 6, top + 4), name, font)
            pen.rectangle((box[0] - 4, box[1] - 3, box[2] + 4, box[3] + 3), fill="white")
            pen.text((left + 6, top + 4), name, "black", font)
    with replacing(args.out) as temporary:
        sheet.save(temporary, format="JPEG", quality=88, optimize=True)


if __name__ == "__main__":
    main()
