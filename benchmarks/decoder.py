"""Speed of the decoder on the CPU: every backend, interleaved in one process, beside the published arithmetic.

    python -m benchmarks.decoder [--quick] [--threads N] [--rounds N] [--published PATH] [--out FOLDER]

The published width (580-256-256-256-256-3), a 64 x 64 feature map queried at 256 x 256. Three cases, because the C++
kernels skip inputs that a ReLU has zeroed: `trained` (the package's model on a photograph: what a user gets), `random`
(PyTorch's initial weights, normal features: about half of the inputs are zero) and `dense` (positive weights: nothing
is zero, so only here is the share of the best GEMM rate a utilisation). Every contender projects the feature map
itself, the reference unfolds it for each chunk of 30,000 queries, and every result is compared with the reference's.

GFLOP/s count the projected decoder's hidden layers (3 x 256 x 256 x 4 multiply-adds a pixel), skipped or not.
--published: a checkout of the published repository, whose LIIF then runs with the same weights.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import liif_fast
from benchmarks.machine import describe
from benchmarks.published import load, on_cpu
from liif_fast import extension, reference
from liif_fast.files import replacing
from liif_fast.functional import project, query
from liif_fast.geometry import make_cell, make_coord
from liif_fast.models import LIIF
from liif_fast.params import DecoderParams

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = (580, 256, 256, 256, 256, 3)
FLOP_PER_PIXEL = 2 * 3 * 256 * 256 * 4
CHUNK = 30_000  # queries at a time in the published demo

Contender = Callable[[], Tensor]


def trained(size: int) -> tuple[Tensor, DecoderParams]:
    """The package's model and its features of a photograph's middle."""
    model = liif_fast.load("default")
    assert isinstance(model, LIIF)
    picture = Image.open(ROOT / "examples" / "osprey.jpg").convert("RGB")
    left, top = picture.width // 2 - size // 2, picture.height // 2 - size // 2
    pixels = np.asarray(picture.crop((left, top, left + size, top + size)), dtype=np.float32)
    feat = model.gen_feat(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1)
    return feat, model.decoder_params()


def initial(size: int, dense: bool) -> tuple[Tensor, DecoderParams]:
    """PyTorch's initial weights and normal features; dense: their absolute values, so that every unit is active."""
    generator = torch.Generator().manual_seed(0)

    def uniform(shape: tuple[int, ...], bound: float) -> Tensor:
        values = torch.rand(shape, generator=generator) * 2 * bound - bound
        return values.abs() if dense else values

    weights = tuple(uniform((b, a), a**-0.5) for a, b in pairwise(WIDTHS))
    biases = tuple(uniform((b,), a**-0.5) for a, b in pairwise(WIDTHS))
    feat = torch.randn(1, 64, size, size, generator=generator)
    return feat.abs() if dense else feat, DecoderParams(weights, biases, 64)


def contenders(feat: Tensor, params: DecoderParams, side: int) -> dict[str, Contender]:
    """Name -> whole forward of side x side queries, projection included."""
    coord, cell = make_coord((side, side))[None], make_cell((side, side))[None]
    _, rest = params.split()
    height, width = feat.shape[-2:]

    def compiled(arithmetic: str) -> Contender:
        weights, biases = list(params.weights[1:]), list(params.biases)
        place = (params.local_ensemble, [height, width, 0, 0], arithmetic)
        decode = torch.ops.liif_fast.cpu_query
        return lambda: decode(project(feat, params), coord, cell, rest, weights, biases, *place)

    found: dict[str, Contender] = {
        "reference": lambda: reference.batched_query(feat, coord, cell, params, CHUNK),
        "torch fp32": lambda: query(feat, coord, cell, params, backend="torch", precision="fp32"),
    }
    if extension.import_error is None:
        for precision in ("fp32", "bf16"):
            found[f"cpu {precision}"] = lambda p=precision: query(  # type: ignore[misc]
                feat, coord, cell, params, backend="cpu", precision=p
            )
        others = set(extension.arithmetics("any")) - set(extension.BEST.values())
        found |= {f"cpu by {name}": compiled(name) for name in sorted(others)}
    return found


def published(path: Path, feat: Tensor, params: DecoderParams, side: int) -> Contender:
    """The published LIIF.query_rgb on the same features and weights, in chunks."""
    model = load(path, params)
    coord, cell = make_coord((side, side))[None], make_cell((side, side))[None]

    def run() -> Tensor:
        model.feat = feat
        starts = range(0, side * side, CHUNK)
        with on_cpu():
            return torch.cat([model.query_rgb(coord[:, q : q + CHUNK], cell[:, q : q + CHUNK]) for q in starts], dim=1)

    return run


def products() -> dict[str, tuple[float, Contender]]:
    """Bare matrix products, name -> (floating point operations, call): what the decoder's rate is compared with."""
    generator = torch.Generator().manual_seed(1)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.rand(rows, columns, generator=generator) + 0.1

    found: dict[str, tuple[float, Contender]] = {}
    for count, inner in ((2048, 2048), (16384, 256)):
        a, b = matrix(count, inner), matrix(inner, inner)
        name = f"torch mm {count} x {inner} x {inner}"
        found[name] = (2.0 * count * inner * inner, lambda a=a, b=b: a @ b)  # type: ignore[misc]
    rows, weight, bias = matrix(8192, 256), matrix(256, 256), matrix(1, 256)[0]
    for name in extension.arithmetics("any"):
        found[f"{name} 8192 x 256 x 256"] = (
            2.0 * 8192 * 256 * 256,
            lambda name=name: torch.ops.liif_fast.cpu_layer(rows, weight, bias, name),  # type: ignore[misc]
        )
    return found


def interleave(calls: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call, one of each a round, after one round that does not count.

    The order is drawn anew for each round: what ran before leaves its clock frequency and its pages to the next.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order, generator = list(calls), random.Random(0)
    for turn in range(rounds + 1):
        generator.shuffle(order)
        for name in order:
            start = time.perf_counter()
            calls[name]()
            elapsed = time.perf_counter() - start
            if turn > 0:
                seconds[name].append(elapsed)
    return seconds


def check(name: str, got: Tensor, want: Tensor) -> float:
    """Largest difference from the reference; SystemExit when the results are not the same."""
    error = float((got - want).abs().max())
    allowed = float(want.abs().max()) * (3e-6 if "bf16" not in name and "int16" not in name else 1e-2) + 1e-6
    if not error <= allowed:
        raise SystemExit(f"{name}: expected the reference's result within {allowed:.1e}, got {error:.1e}")
    return error


def measure(feat: Tensor, params: DecoderParams, side: int, rounds: int, their_path: Path | None) -> dict[str, Any]:
    """One case: contenders and bare products interleaved; rates and ratios from the medians."""
    calls = contenders(feat, params, side)
    if their_path is not None:
        calls["published"] = published(their_path, feat, params, side)
    want = calls["reference"]()
    errors = {name: check(name, call(), want) for name, call in calls.items()}
    bare = products()
    seconds = interleave(calls | {name: call for name, (_, call) in bare.items()}, rounds)
    rates = {name: flop / statistics.median(seconds[name]) / 1e9 for name, (flop, _) in bare.items()}
    best = max(rate for name, rate in rates.items() if "int16" not in name and "bf16" not in name)
    base = statistics.median(seconds["reference"])
    rows = {}
    for name in calls:
        median = statistics.median(seconds[name])
        quarter, _, three_quarters = statistics.quantiles(seconds[name], n=4)
        gflops = FLOP_PER_PIXEL * side * side / median / 1e9
        rows[name] = {
            "us_per_pixel": round(median / side**2 * 1e6, 2),
            "quartiles": [round(q / side**2 * 1e6, 2) for q in (quarter, three_quarters)],
            "fastest": round(min(seconds[name]) / side**2 * 1e6, 2),
            "times_reference": round(base / median, 2),
            "gflops": round(gflops, 1),
            "share_of_best_fp32_gemm": round(gflops / best, 2),
            "largest_difference": errors[name],
        }
    return {"decoder": rows, "gemm_gflops": {name: round(rate, 1) for name, rate in rates.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="32 x 32 features, 3 rounds: to see that it runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--published", type=Path, help="checkout of the published repository")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the result")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size, rounds = (32, 3) if args.quick else (64, args.rounds)
    report: dict[str, Any] = {"what": "decoder forward, medians of interleaved runs", **describe()}
    report |= {"features": [size, size], "queries": [4 * size, 4 * size], "rounds": rounds, "cases": {}}
    with torch.inference_mode():
        for case in ("trained", "random", "dense"):
            feat, params = trained(size) if case == "trained" else initial(size, dense=case == "dense")
            report["cases"][case] = measure(feat, params, 4 * size, rounds, args.published)
            print(case, json.dumps(report["cases"][case], indent=1), flush=True)
    report["load_average_after"] = describe()["load_average"]
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"decoder-cpu-{args.threads}-threads{'-quick' if args.quick else ''}.json"
    with replacing(args.out / name) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(args.out / name)


if __name__ == "__main__":
    main()
