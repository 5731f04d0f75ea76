"""Look at a photograph in perspective, and at a panorama of 360 degrees through a camera: `liif_fast.sample`."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import liif_fast
from liif_fast.errors import LiifError
from liif_fast.files import replacing

PHOTOGRAPH = Path(__file__).with_name("osprey.jpg")
# Where the result's corners (upper left, upper right, lower right, lower left) lie on the photograph, in [-1, 1].
CORNERS = ((-0.45, -0.75), (0.2, -0.95), (0.55, 0.3), (-0.6, 0.15))


def perspective(corners: tuple[tuple[float, float], ...], height: int, width: int) -> torch.Tensor:
    """The grid [height, width, 2] of the quadrangle with these corners (x, y), by the homography through them."""
    square = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    rows, values = [], []
    for (u, v), (x, y) in zip(square, corners, strict=True):
        rows += [[u, v, 1, 0, 0, 0, -u * x, -v * x], [0, 0, 0, u, v, 1, -u * y, -v * y]]
        values += [x, y]
    homography = np.append(np.linalg.solve(np.array(rows), np.array(values)), 1).reshape(3, 3)
    coord = liif_fast.make_coord((height, width), flatten=False).flip(-1).double()
    points = torch.nn.functional.pad(coord, (0, 1), value=1.0) @ torch.from_numpy(homography).T
    return points[..., :2] / points[..., 2:]


def camera(yaw: float, pitch: float, view: float, height: int, width: int) -> torch.Tensor:
    """The grid [height, width, 2] of a camera inside of an equirectangular panorama; angles in degrees.

    view: the angle from the left edge of the result to its right one.
    """
    coord = liif_fast.make_coord((height, width), flatten=False).double()
    across = coord[..., 1] * math.tan(math.radians(view) / 2)
    down = coord[..., 0] * math.tan(math.radians(view) / 2) * height / width
    tilt = math.radians(pitch)
    ahead, below = math.cos(tilt) + down * math.sin(tilt), down * math.cos(tilt) - math.sin(tilt)
    longitude = torch.atan2(across, ahead) + math.radians(yaw)
    latitude = torch.atan2(below, torch.hypot(across, ahead))
    return torch.stack([longitude / math.pi, latitude / (math.pi / 2)], dim=-1)


def main() -> int:
    """Run from the command line; 0 when the pictures were written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, default=PHOTOGRAPH, help="photograph, or panorama twice as wide as high")
    parser.add_argument("--model", help="checkpoint to use (default: the model in the package)")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    parser.add_argument("--yaw", type=float, default=180, help="degrees to the right of the panorama's middle")
    parser.add_argument("--pitch", type=float, default=0, help="degrees upwards")
    parser.add_argument("--out", type=Path, default=Path("build/sample"), help="folder for the pictures")
    args = parser.parse_args()
    try:
        with Image.open(args.input) as file:
            photograph = file.convert("RGB")
        model = liif_fast.load(args.model)
        results = {
            "perspective.png": liif_fast.sample(model, photograph, perspective(CORNERS, *args.size)),
            "camera.png": liif_fast.sample(model, photograph, camera(args.yaw, args.pitch, 90, *args.size), wrap="x"),
        }
        args.out.mkdir(parents=True, exist_ok=True)
        for name, result in results.items():
            with replacing(args.out / name) as temporary:
                result.save(temporary, format="PNG")
            print(args.out / name)
    except (LiifError, OSError) as error:
        print(f"sample: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
