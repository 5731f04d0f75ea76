"""Where the time of `liif-fast upscale` goes, beside the published demo's arithmetic, on the CPU.

    python -m benchmarks.command PHOTO [--megapixels 12 | --size W H] [--scale 2] [--to png] [--demo] [--out FOLDER]
    python -m benchmarks.command --agreement PHOTO [PHOTO ...]

The command runs as a user runs it, in a process of its own, on a picture of the size asked for: the photograph's
middle, repeated mirrored where it is smaller. Its parts are timed from inside; `start-up` is what is left of the
process's wall time outside of them, `rest` what is left of the time between reading and writing. A file that is written
while it is made has no time of its own for writing: what that costs is in `rest`.

--demo: the arithmetic of the published demo on the same picture, in this process: the encoder once on the whole, then
chunks of 30,000 queries, each of which unfolds the whole feature map again. The encoder is run whole; of the chunks a
few, spread over the picture, and their median is multiplied. `kinder` unfolds the map only once. Its reading, writing
and start-up are not counted, while those of the command are. Needs about 2.6 GB for each megapixel.

--agreement: nothing is timed; how far the command's default precision is from fp32 in 8-bit levels, on the middles of
photographs.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import liif_fast
import liif_fast.rendering.output
from benchmarks.machine import describe, tag
from liif_fast import functional, image
from liif_fast.backends import reference
from liif_fast.batch import conversion
from liif_fast.box import Box
from liif_fast.cli import main as liif_fast_command
from liif_fast.files import replacing
from liif_fast.geometry import Grid, grid_queries
from liif_fast.models import LIIF
from liif_fast.rendering import encoding
from liif_fast.rendering.request import Request

ROOT = Path(__file__).resolve().parent.parent
CHUNK = 30_000  # queries at a time in the published demo
AGREEMENT_SIDE = 256  # pixels of the photographs' middles


class Clock:
    """Seconds spent in each of the functions it was put around; only one of them runs at a time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, place: Any, name: str, part: str) -> None:
        """Time every call of `place.name` as `part`."""
        original = getattr(place, name)

        def timed(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(*args, **options)
            finally:
                self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

        setattr(place, name, timed)


def inside(argv: list[str], report: Path) -> int:
    """Run a command of `liif-fast` in this process and write the seconds of its parts."""
    clock = Clock()
    clock.around(conversion.Converter, "compute", "computing")
    clock.around(image, "read", "reading")
    clock.around(encoding.Encoding, "part", "encoder")
    clock.around(functional, "project", "projection")
    clock.around(functional, "query_grid", "decoder")
    clock.around(liif_fast.rendering.output, "quantise", "quantising")
    clock.around(image, "write", "writing")
    code = liif_fast_command(argv)
    report.write_text(json.dumps(clock.seconds), encoding="utf-8")
    return code


def profile(source: Path, scale: float, threads: int, suffix: str) -> dict[str, Any]:
    """One run of the command: wall seconds, peak memory, seconds and share of every part."""
    with tempfile.TemporaryDirectory() as folder:
        report, output = Path(folder) / "parts.json", Path(folder) / f"large.{suffix}"
        command = ["upscale", str(source), "-o", str(output), "-s", f"{scale:g}", "--device", "cpu", "--json"]
        child = [sys.executable, "-m", "benchmarks.command", "--inside", str(report), "--threads", str(threads)]
        start = time.perf_counter()
        done = subprocess.run([*child, *command], cwd=ROOT, capture_output=True, text=True, check=True)
        wall = time.perf_counter() - start
        parts: dict[str, float] = json.loads(report.read_text(encoding="utf-8"))
        written = output.stat().st_size
    files = parts["reading"] + parts.get("writing", 0.0)
    computing = parts.pop("computing")
    parts["rest"] = computing - (sum(parts.values()) - files)
    parts["start-up"] = wall - computing - files
    record = json.loads(done.stdout)
    arithmetic = sum(parts[name] for name in ("encoder", "projection", "decoder"))
    return {
        "seconds": round(wall, 2),
        "backend": record["backend"],
        "precision": record["precision"],
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        "file_mb": round(written / 1e6, 1),
        "parts": {name: {"seconds": round(s, 2), "share": round(s / wall, 4)} for name, s in parts.items()},
        "share_beside_arithmetic": round(1 - arithmetic / wall, 4),
    }


def demo(source: Path, scale: float, chunks: int) -> dict[str, Any]:
    """Seconds of the published demo's arithmetic on a picture, chunks of its queries extrapolated."""
    model = liif_fast.load("default", "cpu")
    assert isinstance(model, LIIF)
    params = model.decoder_params()
    pixels = torch.from_numpy(np.asarray(Image.open(source).convert("RGB"), dtype=np.float32))
    inp = pixels.permute(2, 0, 1)[None].contiguous() / 127.5 - 1
    size = (round(inp.shape[2] * scale), round(inp.shape[3] * scale))
    rows = CHUNK // size[1] + 1
    with torch.inference_mode():
        start = time.perf_counter()
        feat = model.gen_feat(inp)
        encoder = time.perf_counter() - start
        unfold, query = [], []
        for number in range(chunks + 1):
            box = Box(number * (size[0] - rows) // chunks, 0, rows, size[1])
            coord, cell = (t[:, :CHUNK] for t in grid_queries(Grid(size, box)))
            query.append(_seconds(lambda c=coord, d=cell: reference.query(feat, c, d, params)))  # type: ignore[misc]
            unfold.append(_seconds(lambda: F.unfold(feat, 3, padding=1)))
    # The first of each does not count: it finds no memory that it could use again.
    chunk, once, count = statistics.median(query[1:]), statistics.median(unfold[1:]), size[0] * size[1] / CHUNK
    kinder = encoder + once + count * (chunk - once)
    return {
        "seconds": round(encoder + count * chunk, 1),
        "kinder_seconds": round(kinder, 1),
        "encoder": round(encoder, 2),
        "chunks": round(count, 1),
        "chunks_measured": chunks,
        "seconds_per_chunk": round(chunk, 3),
        "of_which_unfolding": round(once, 3),
    }


def _seconds(call: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def agreement(photos: list[Path], scale: float) -> dict[str, Any]:
    """The command's default precision against fp32, in 8-bit levels over all samples of each photograph's middle."""
    settings = conversion.Settings(Request(scale), device="cpu")
    default = conversion.Converter(settings)
    plain = conversion.Converter(settings._replace(precision="fp32"))
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for photo in photos:
            source, results = Path(folder) / "in.png", []
            enlarged(photo, AGREEMENT_SIDE, AGREEMENT_SIDE).save(source)
            for name, convert in (("default", default), ("fp32", plain)):
                output = Path(folder) / f"{name}-{photo.stem}.png"
                convert(source, output)
                results.append(np.asarray(Image.open(output), dtype=np.int16))
            levels = np.abs(results[0] - results[1])
            beyond = float((levels > 1).mean())
            rows[photo.stem] = {"other": float((levels > 0).mean()), "beyond_one": beyond, "largest": int(levels.max())}
            print(photo.stem, rows[photo.stem], flush=True)
    return {
        "precision": default.precision,
        "scale": scale,
        "side": AGREEMENT_SIDE,
        "beyond_one_level": max(row["beyond_one"] for row in rows.values()),
        "largest_levels": max(row["largest"] for row in rows.values()),
        "photographs": rows,
    }


def enlarged(photo: Path, width: int, height: int) -> Image.Image:
    """The photograph's middle at a size in pixels; where it is smaller, mirrored copies beside it."""
    with Image.open(photo) as file:
        pixels = np.asarray(file.convert("RGB"))
    for axis, length in enumerate((height, width)):
        spare = pixels.shape[axis] - length
        if spare >= 0:
            pixels = np.take(pixels, range(spare // 2, spare // 2 + length), axis=axis)
        else:
            pad = [(0, -spare if k == axis else 0) for k in range(3)]
            pixels = np.pad(pixels, pad, mode="symmetric")
    return Image.fromarray(pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    parser.add_argument("--megapixels", type=float, default=12, help="of the picture, 4 : 3 (12)")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("W", "H"), help="of the picture, in place of --megapixels"
    )
    parser.add_argument("--scale", type=float, default=2)
    parser.add_argument("--to", default="png", help="suffix of the result's format (png)")
    parser.add_argument("--rounds", type=int, default=1, help="runs of the command, and of the demo, in turn (1)")
    parser.add_argument("--demo", action="store_true", help="also the published demo's arithmetic")
    parser.add_argument("--chunks", type=int, default=4, help="of the demo's queries to measure in a round (4)")
    parser.add_argument("--agreement", action="store_true", help="compare the default precision with fp32 instead")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the result")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.agreement:
        report = {"what": "liif-fast upscale, default precision against fp32", **describe()}
        report["agreement"] = agreement(args.photos, args.scale)
        name = f"command-agreement-{tag()}.json"
    else:
        report = {"what": "liif-fast upscale, whole process", **describe(), **timings(args)}
        report["load_average_after"] = describe()["load_average"]
        size = f"{args.megapixels:g}-megapixels" if args.size is None else "{}x{}".format(*args.size)
        name = f"command-{tag()}-{size}{'' if args.to == 'png' else '-' + args.to}.json"
    args.out.mkdir(parents=True, exist_ok=True)
    with replacing(args.out / name) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(args.out / name)


def timings(args: argparse.Namespace) -> dict[str, Any]:
    """The command and, where asked for, the demo in turn, and the ratios of their medians."""
    side = round((args.megapixels * 1e6 / 12) ** 0.5)
    width, height = args.size or (4 * side, 3 * side)
    report: dict[str, Any] = {"picture": [width, height], "scale": args.scale, "command": [], "demo": []}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "photo.jpg"
        enlarged(args.photos[0], width, height).save(source, quality=92)
        for _ in range(args.rounds):
            report["command"].append(profile(source, args.scale, args.threads, args.to))
            print(json.dumps(report["command"][-1], indent=1), flush=True)
            if args.demo:
                report["demo"].append(demo(source, args.scale, args.chunks))
                print(json.dumps(report["demo"][-1], indent=1), flush=True)
    if args.demo:
        ours = statistics.median(run["seconds"] for run in report["command"])
        for name, key in (("times_demo", "seconds"), ("times_kinder_demo", "kinder_seconds")):
            report[name] = round(statistics.median(run[key] for run in report["demo"]) / ours, 2)
            print(name, report[name])
    return report


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        _, _, parts_file, _, count, *words = sys.argv
        torch.set_num_threads(int(count))
        sys.exit(inside(words, Path(parts_file)))
    main()
