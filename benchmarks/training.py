"""Speed and memory of training on the CPU, beside the published arithmetic under autograd.

    python -m benchmarks.training [--quick] [--threads N] [--rounds N] [--published PATH] [--curve STEPS] [--out FOLDER]

`decoder`: batch 4 of 48 x 48 feature maps, 64 channels, 2,304 random queries each, the published width
(580-256-256-256-256-3), forward and backward with the projection and its gradient. `step`: a whole training step
(EDSR-baseline, batch 16, L1, Adam). Contenders run in one process, in a random order in each round; a ratio is the
median over the rounds of the first contender's time over this one's. Gradients are compared before anything is timed.
Memory is the peak above what the process had before, each contender in a process of its own.

--published: a checkout of the published repository, whose own LIIF then runs too, and is the step's baseline.
--curve: the losses of that many steps of a small model, fused and reference side by side; nothing else is measured.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.machine import describe, tag
from benchmarks.problem import initial
from benchmarks.published import load, on_cpu
from liif_fast.backends import reference
from liif_fast.files import replacing
from liif_fast.functional import query
from liif_fast.models import LIIF

ROOT = Path(__file__).resolve().parent.parent
MAP, QUERIES = 48, 2304
WAYS = {
    "torch fp32": ("torch", "fp32"),
    "torch bf16": ("torch", "bf16"),
    "cpu fp32": ("cpu", "fp32"),
    "cpu bf16": ("cpu", "bf16"),
}
Contender = Callable[[], list[Tensor]]


def places(batch: int) -> tuple[Tensor, Tensor]:
    """coord and cell of random queries, one scale between 1 and 4 for each picture."""
    generator = torch.Generator().manual_seed(2)
    coord = torch.rand(batch, QUERIES, 2, generator=generator) * 2 - 1
    cell = 2 / MAP / (1 + 3 * torch.rand(batch, 1, 1, generator=generator))
    return coord, cell.expand(batch, QUERIES, 2).contiguous()


def decoders(batch: int, their_path: Path | None) -> dict[str, Contender]:
    """Name -> forward and backward of the decoder: the gradients of the features, the weights and the biases."""
    _, params = initial(MAP, dense=False)
    generator = torch.Generator().manual_seed(3)
    feat = torch.randn(batch, 64, MAP, MAP, generator=generator)
    grad = torch.randn(batch, QUERIES, 3, generator=generator)
    coord, cell = places(batch)
    leaves = [t.requires_grad_() for t in (feat, *params.weights, *params.biases)]

    def ours(way: tuple[str, str]) -> Contender:
        backend, precision = way
        return lambda: list(
            torch.autograd.grad(query(feat, coord, cell, params, backend=backend, precision=precision), leaves, grad)
        )

    found: dict[str, Contender] = {
        "reference": lambda: list(torch.autograd.grad(reference.query(feat, coord, cell, params), leaves, grad))
    }
    if their_path is not None:
        model = load(their_path, params)
        layers = model.imnet.layers[::2]
        own = [feat, *(layer.weight for layer in layers), *(layer.bias for layer in layers)]

        def published() -> list[Tensor]:
            model.feat = feat
            with on_cpu():
                return list(torch.autograd.grad(model.query_rgb(coord, cell), own, grad))

        found["published"] = published
    return found | {name: ours(way) for name, way in WAYS.items()}


def compare(calls: dict[str, Contender]) -> dict[str, float]:
    """Largest relative error (of norms) of any gradient, against the first contender; SystemExit if it is wrong.

    float32 has one too where another order of addition takes a unit across the zero of its ReLU.
    """
    first, *others = calls
    want = calls[first]()
    worst = {}
    for name in others:
        worst[name] = max(float((a - b).norm() / b.norm()) for a, b in zip(calls[name](), want, strict=True))
        if not worst[name] <= (1e-1 if "bf16" in name else 5e-3):
            raise SystemExit(f"{name}: expected the gradients of {first}, got a relative error of {worst[name]:.1e}")
    return worst


def interleave(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Medians, quartiles and ratios to the first contender, paired by round; the first round does not count."""
    order, shuffler = list(calls), random.Random(0)
    first = order[0]
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        shuffler.shuffle(order)
        for name in order:
            start = time.perf_counter()
            calls[name]()
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
    rows = {}
    for name, taken in seconds.items():
        ratios = [base / own for base, own in zip(seconds[first], taken, strict=True)]
        rows[name] = {
            "milliseconds": round(statistics.median(taken) * 1e3, 1),
            "range": [round(min(taken) * 1e3, 1), round(max(taken) * 1e3, 1)],
            f"times_{first}": round(statistics.median(ratios), 2),
            "ratios": [round(ratio, 2) for ratio in sorted(ratios)],
        }
    return rows


def steps(batch: int, their_path: Path | None) -> dict[str, Callable[[], Any]]:
    """Name -> one whole training step of the default width, all from the same weights."""
    _, params = initial(MAP, dense=False)
    generator = torch.Generator().manual_seed(4)
    inp = torch.rand(batch, 3, MAP, MAP, generator=generator) * 2 - 1
    target = torch.rand(batch, QUERIES, 3, generator=generator) * 2 - 1
    coord, cell = places(batch)

    def step(model: Any, autocast: bool) -> Callable[[], float]:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

        def run() -> float:
            with on_cpu(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                loss = F.l1_loss(model(inp, coord, cell), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

        return run

    def ours(backend: str, precision: str = "auto") -> LIIF:
        torch.manual_seed(0)
        encoder = {"name": "edsr-baseline", "args": {"no_upsampling": True}}
        imnet = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": list(params.hidden)}}
        return LIIF(encoder, imnet, backend=backend, precision=precision)

    found = {"published" if their_path else "reference": step(ours("reference"), False)}
    if their_path is not None:
        model = load(their_path, params)
        model.load_state_dict(ours("cpu").state_dict())
        found["published"] = step(model, False)
    return found | {
        "cpu fp32": step(ours("cpu", "fp32"), False),
        "cpu bf16, encoder fp32": step(ours("cpu", "bf16"), False),
        "cpu bf16 autocast": step(ours("cpu"), True),
    }


def peak(name: str, batch: int, their_path: Path | None) -> float:
    """Megabytes that one contender of `decoders` takes above what is there before it."""

    def read(key: str) -> float:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))

    decoders(1, their_path)[name]()  # libraries load their code at the first use
    call = decoders(batch, their_path)[name]
    before = read("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the high-water mark
    call()
    return read("VmHWM:") - before


def peaks(names: list[str], arguments: list[str]) -> dict[str, float]:
    """`peak` of each, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", *arguments]
    found = {}
    for name in names:
        result = subprocess.run([*command, "--peak", name], capture_output=True, text=True, check=True, cwd=ROOT)
        found[name] = round(float(result.stdout.splitlines()[-1]), 1)
    return found


def curve(count: int) -> dict[str, Any]:
    """How far apart the losses of each step are, between the reference and others, on smooth random pictures.

    `torch` shows what another order of addition does by itself.
    """
    losses: dict[str, list[float]] = {}
    for name in ("reference", "torch", "cpu"):
        torch.manual_seed(0)
        encoder = {"name": "edsr-baseline", "args": {"n_resblocks": 2, "n_feats": 16, "no_upsampling": True}}
        imnet = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [64, 64, 64]}}
        model = LIIF(encoder, imnet, backend=name)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        losses[name] = []
        for turn in range(count):
            generator = torch.Generator().manual_seed(turn)
            small = torch.rand(4, 3, 6, 6, generator=generator) * 2 - 1
            picture = F.interpolate(small, (48, 48), mode="bicubic")
            coord = torch.rand(4, 256, 2, generator=generator) * 2 - 1
            target = F.grid_sample(picture, coord.flip(-1).unsqueeze(1), align_corners=False)[:, :, 0].transpose(1, 2)
            out = model(F.interpolate(picture, (24, 24), mode="area"), coord, torch.full_like(coord, 2 / 48))
            loss = F.l1_loss(out, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())
    want = losses.pop("reference")
    apart = {name: max(abs(a / b - 1) for a, b in zip(got, want, strict=True)) for name, got in losses.items()}
    return {"steps": count, "first": want[0], "last": want[-1], "largest_relative_difference": apart}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the batches, 2 rounds: to see that it runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--published", type=Path, help="checkout of the published repository")
    parser.add_argument("--only", choices=("decoder", "step", "memory"), help="measure only this")
    parser.add_argument("--curve", type=int, metavar="STEPS", help="compare the losses of a training, measure nothing")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the result")
    return parser.parse_args()


def write(report: dict[str, Any], args: argparse.Namespace, part: str) -> None:
    """Print the result and put it into its file."""
    print(json.dumps(report, indent=1))
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"training-{tag()}-{args.threads}-threads{part}{'-quick' if args.quick else ''}.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(path)


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    batch, rounds = (1, 2) if args.quick else (4, args.rounds)
    if args.curve:
        write({"what": "losses of a training, fused and reference", **describe(), **curve(args.curve)}, args, "-curve")
        return
    if args.peak:
        print(peak(args.peak, batch, args.published))
        return
    report: dict[str, Any] = {"what": "training, medians of interleaved runs", **describe(), "rounds": rounds}
    if args.only in (None, "decoder"):
        calls = decoders(batch, args.published)
        report["decoder"] = {"batch": batch, "relative_error": compare(calls), "runs": interleave(calls, rounds)}
    if args.only in (None, "memory"):
        shared = ["--threads", str(args.threads), *(["--quick"] if args.quick else [])]
        their = ["--published", str(args.published)] if args.published else []
        report["peak_megabytes"] = peaks(list(decoders(batch, args.published)), [*shared, *their])
    if args.only in (None, "step"):
        report["step"] = {"batch": 4 * batch, "runs": interleave(steps(4 * batch, args.published), max(2, rounds // 2))}
    report["load_average_after"] = describe()["load_average"]
    write(report, args, f"-{args.only}" if args.only else "")


if __name__ == "__main__":
    main()
