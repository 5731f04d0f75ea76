"""What a streamed result costs over the arithmetic of its encoder and decoder: one process, interleaved, medians."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import describe
from benchmarks.racing import timed
from liif_fast import functional, load
from liif_fast.batch import streaming
from liif_fast.box import Box
from liif_fast.rendering.options import Options
from liif_fast.rendering.request import Request
from liif_fast.rendering.source import open_picture
from liif_fast.upscaling import prepare_output


def arithmetic(model: Any, source: torch.Tensor, size: tuple[int, int]) -> None:
    """The encoder once on the whole picture, its projection, and every query; nothing is kept."""
    params = model.decoder_params()
    with torch.no_grad():
        inp = (source.float() / 255 - 0.5) / 0.5
        feat = model.encoder(inp.contiguous(memory_format=torch.channels_last))
        projected = functional.project(feat, params, "fp32")
        rows = 2**17 // size[1]
        for top in range(0, size[0], rows):
            box = Box(top, 0, min(rows, size[0] - top), size[1])
            functional.query_grid(
                None, size=size, box=box, params=params, backend="cpu", precision="fp32", projected=projected
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", help="a photograph")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 160), metavar=("W", "H"), help="it is shrunk to")
    parser.add_argument("--scale", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with Image.open(args.picture) as opened:
        picture = np.asarray(opened.convert("RGB").resize(args.size))
    model: Any = load()
    region = Request(args.scale).region((picture.shape[0], picture.shape[1]), None)
    output = prepare_output(model, open_picture(picture, model), region, Options("cpu"))
    source = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    times: dict[str, list[float]] = {"arithmetic": [], "tiff": [], "tiff deflated": [], "zarr": []}
    with tempfile.TemporaryDirectory() as folder:
        # One round more, which warms up and is not kept.
        for kept in range(args.rounds + 1):
            for name, found in times.items():
                path = Path(folder) / ("x.zarr" if name == "zarr" else "x.tif")

                def streamed(path: Path = path, compress: bool = "deflated" in name) -> None:
                    streaming.write(output, path, compress=compress)

                call = streamed if name != "arithmetic" else lambda: arithmetic(model, source, output.size)
                took = timed(call)
                found += [took] if kept else []
    base = statistics.median(times["arithmetic"])
    overhead = {name: round(statistics.median(found) / base - 1, 4) for name, found in times.items()}
    print(json.dumps({"seconds": times, "overhead": overhead, "size": output.size, **describe()}))


if __name__ == "__main__":
    main()
