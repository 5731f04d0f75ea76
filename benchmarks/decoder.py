"""Speed of the decoder on the CPU: every backend, interleaved in one process, beside the published arithmetic.

    python -m benchmarks.decoder [--quick] [--threads N] [--rounds N] [--published PATH] [--out FOLDER]

The published width (580-256-256-256-256-3), a 64 x 64 feature map queried at 256 x 256. Four cases, because the C++
kernels skip inputs that a ReLU has zeroed: `published` (the published checkpoint on a photograph), `trained` (the
package's default model on it), `random` (PyTorch's initial weights, normal features: about half of the inputs are zero)
and `dense` (positive weights: nothing is zero, so only here is the share of the best GEMM rate a utilisation). Every
contender projects the feature map itself, the reference unfolds it for each chunk of 30,000 queries, and every result
is compared with the reference's.

GFLOP/s count the projected decoder's hidden layers (3 x 256 x 256 x 4 multiply-adds a pixel), skipped or not.
--published: a checkout of the published repository, whose LIIF then runs with the same weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders import CHUNK, check
from benchmarks.machine import describe, tag
from benchmarks.problem import initial, trained
from benchmarks.published import ask as ask_published
from benchmarks.published import load
from benchmarks.racing import best, interleave, products
from liif_fast.backends import reference
from liif_fast.files import replacing
from liif_fast.functional import project, query
from liif_fast.geometry import make_cell, make_coord
from liif_fast.native import decoder, library
from liif_fast.params import DecoderParams

ROOT = Path(__file__).resolve().parent.parent
FLOP_PER_PIXEL = 2 * 3 * 256 * 256 * 4

Contender = Callable[[], Tensor]


def contenders(feat: Tensor, params: DecoderParams, side: int) -> dict[str, Contender]:
    """Name -> whole forward of side x side queries, projection included."""
    coord, cell = make_coord((side, side))[None], make_cell((side, side))[None]
    _, rest = params.split()
    height, width = feat.shape[-2:]

    def compiled(arithmetic: str) -> Contender:
        weights, biases = list(params.weights[1:]), list(params.biases)
        place = (params.local_ensemble, [height, width, 0, 0], arithmetic)
        decode = decoder.query
        return lambda: decode(project(feat, params), coord, cell, rest, weights, biases, *place)

    found: dict[str, Contender] = {
        "reference": lambda: reference.batched_query(feat, coord, cell, params, CHUNK),
        "torch fp32": lambda: query(feat, coord, cell, params, backend="torch", precision="fp32"),
    }
    if library.import_error is None:
        for precision in ("fp32", "bf16"):
            found[f"cpu {precision}"] = lambda p=precision: query(  # type: ignore[misc]
                feat, coord, cell, params, backend="cpu", precision=p
            )
        others = set(library.arithmetics("any")) - set(library.BEST.values())
        found |= {f"cpu by {name}": compiled(name) for name in sorted(others)}
    return found


def published(path: Path, feat: Tensor, params: DecoderParams, side: int) -> Contender:
    """The published LIIF.query_rgb on the same features and weights, in chunks."""
    ask = ask_published(load(path, params), feat)
    coord, cell = make_coord((side, side))[None], make_cell((side, side))[None]
    starts = range(0, side * side, CHUNK)
    return lambda: torch.cat([ask(coord[:, q : q + CHUNK], cell[:, q : q + CHUNK]) for q in starts], dim=1)


def measure(feat: Tensor, params: DecoderParams, side: int, rounds: int, their_path: Path | None) -> dict[str, Any]:
    """One case: contenders and bare products interleaved; rates and ratios from the medians."""
    calls = contenders(feat, params, side)
    if their_path is not None:
        calls["published"] = published(their_path, feat, params, side)
    want = calls["reference"]()
    errors = {name: check(name, [call()], [want]) for name, call in calls.items()}
    bare = products(feat.device)
    seconds = interleave(calls | {name: call for name, (_, call) in bare.items()}, rounds)
    rates = {name: flop / statistics.median(seconds[name]) / 1e9 for name, (flop, _) in bare.items()}
    fastest = best(rates, half=False)
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
            "share_of_best_fp32_gemm": round(gflops / fastest, 2),
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
        for case in ("published", "trained", "random", "dense"):
            known = case in ("published", "trained")
            feat, params = trained((size, size), case) if known else initial(size, dense=case == "dense")
            report["cases"][case] = measure(feat, params, 4 * size, rounds, args.published)
            print(case, json.dumps(report["cases"][case], indent=1), flush=True)
    report["load_average_after"] = describe()["load_average"]
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"decoder-{tag()}-{args.threads}-threads{'-quick' if args.quick else ''}.json"
    with replacing(args.out / name) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(args.out / name)


if __name__ == "__main__":
    main()
