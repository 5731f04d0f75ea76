"""How time and memory grow: whole pictures, encoder included, against output pixels and against the scale.

    python -m benchmarks.growth [--set full|tiny] [--threads N] [--out FOLDER] [--limit SECONDS]

`pixels`: by 4, to 10^4, 10^5, ... 10^8 pixels. `scale`: 64 x 64 pixels by 1 to 30. What runs is `render` with the
package's model on a photograph (mirrored where it is too small), each point in a process of its own: the time is the
median of up to five calls, the memory what the process takes above what it had with the model loaded and used once.
A point that would take longer than the limit, told by the one before it, is left out and said to be: the reference
unfolds the whole map for each 30,000 pixels, as published.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import liif_fast
from benchmarks.contenders import half
from benchmarks.lines import Lines
from benchmarks.machine import device, tag
from benchmarks.memory import peak
from benchmarks.problem import photograph
from benchmarks.racing import significant, timed
from liif_fast import backends
from liif_fast.rendering.render import render

ROOT = Path(__file__).resolve().parent.parent
# Axis -> sides of input and output, growing.
POINTS = {
    "full": {
        "pixels": [(25, 100), (79, 316), (250, 1000), (790, 3160), (2500, 10_000)],
        "scale": [(64, 64 * scale) for scale in (1, 2, 4, 8, 16, 30)],
    },
    "tiny": {"pixels": [(4, 16), (5, 20)], "scale": [(4, 8)]},
}
REPEATS, ENOUGH = 5, 10.0  # calls of a point at most; seconds after which no further one is made


def ways(where: torch.device) -> list[tuple[str, str]]:
    """(backend, precision) of everything that can run here, the fastest last."""
    found = [("reference", "fp32")]
    for backend in ("torch", "cpu", "triton"):
        for precision in ("fp32", half(where)) if backend != "torch" else ("fp32",):
            if backends.unusable_reason(backend, where, precision) is None:
                found.append((backend, precision))
    return found


def point(backend: str, precision: str, sides: tuple[int, int]) -> dict[str, Any]:
    """Time and memory of one picture; the first call of the size is the one whose memory counts."""
    where = device()
    model = liif_fast.load("default", where)

    def picture(small: int, large: int) -> None:
        inp = photograph((small, small)).to(where)
        render(model, inp, (large, large), backend=backend, precision=precision)

    picture(8, 16)
    seconds: list[float] = []
    mebibytes = peak(lambda: seconds.append(timed(lambda: picture(*sides))), where)
    while len(seconds) < REPEATS and sum(seconds) < ENOUGH:
        seconds.append(timed(lambda: picture(*sides)))
    return {
        "seconds": significant(statistics.median(seconds)),
        "range": [significant(min(seconds)), significant(max(seconds))],
        "calls": len(seconds),
        "peak_mib": round(mebibytes, 1),
    }


def in_a_process(way: tuple[str, str], sides: tuple[int, int]) -> dict[str, Any]:
    """`point` in a fresh process; {"left_out": why} where it failed."""
    command = [sys.executable, "-m", "benchmarks.growth", "--threads", str(torch.get_num_threads())]
    command += ["--point", *way, *map(str, sides)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"left_out": (done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(axis: str, sides: list[tuple[int, int]], lines: Lines, limit: float) -> None:
    """All points of one axis; at each size one contender after another."""
    last: dict[tuple[str, str], float] = {}
    contenders = ways(device())
    for small, large in sides:
        for way in contenders:
            pixels = large * large
            expected = last.get(way, 0.0) * pixels
            # The fastest is given longer, so that one reaches the end.
            allowed = limit * (3 if way == contenders[-1] else 1)
            if expected > allowed:
                result: dict[str, Any] = {"left_out": f"about {expected:.0f} seconds expected"}
            else:
                result = in_a_process(way, (small, large))
            if "seconds" in result:
                last[way] = result["seconds"] / pixels
            row = {"kind": "growth", "axis": axis, "contender": " ".join(way), "input": small, "output": large}
            row |= {"pixels": pixels, "scale": large / small, **result}
            lines.add([row])
            print(json.dumps(row), flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=sorted(POINTS), default="full")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of a point (300; the fastest: 3 times)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the result")
    parser.add_argument("--point", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.point:
        backend, precision, small, large = args.point
        print(json.dumps(point(backend, precision, (int(small), int(large)))))
        return
    part = "" if args.set == "full" else f"-{args.set}"
    what = "whole pictures by the package's model, encoder included; each point in a process of its own"
    lines = Lines(args.out / f"growth{part}-{tag()}.jsonl", what, set=args.set)
    for axis, sides in POINTS[args.set].items():
        measure(axis, sides, lines, args.limit)


if __name__ == "__main__":
    main()
