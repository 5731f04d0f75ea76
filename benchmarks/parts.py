"""The measured parts of README.md and docs/: each function writes one of them, as Markdown, from the committed results.

Links start at the root of the checkout; `benchmarks.report` makes them relative to the document.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import config_keys, support
from benchmarks.contenders import is_half
from benchmarks.figures import Rows, label
from benchmarks.lines import read
from benchmarks.quality import TRAINED_ON
from benchmarks.racing import best
from benchmarks.shapes import X4

RESULTS = Path(__file__).resolve().parent / "results"
# The kinds of machine that results come from (benchmarks.machine.tag), and what the documents call them.
MACHINES = {
    "cpu-avx512-bf16": "CPU with AVX-512 and bfloat16",
    "cpu-avx512": "CPU with AVX-512",
    "cpu-avx2": "CPU with AVX2",
    "cuda": "GPU",
}
SHOWN = ("cpu-avx512-bf16", "cuda")  # documents have the figures and whole tables of these, of others a summary
HEADLINE = SHOWN[0]
# The shape whose figures README quotes: the first of these that the headline's machine has measured.
HEADLINE_SHAPES = {
    "x4, published weights": "the published checkpoint's weights",
    X4.name: "the default model's weights",
}
DENSE = "x4, no unit zero"
COUNTS = {1: "one", 2: "two", 4: "four", 8: "eight"}


def suite(machine: str) -> Rows:
    """The suite's lines of a machine, none where it was not measured."""
    path = RESULTS / f"suite-{machine}.jsonl"
    return read(path) if path.exists() else []


def growth_rows(machine: str) -> Rows:
    """The lines of `benchmarks.growth`, none where it was not measured."""
    path = RESULTS / f"growth-{machine}.jsonl"
    return read(path) if path.exists() else []


def of(rows: Rows, shape: str) -> Rows:
    """The contenders of a shape."""
    return [row for row in rows if row["kind"] == "contender" and row["shape"] == shape]


def one(rows: Rows, contender: str) -> dict[str, Any]:
    """The line of a contender."""
    return next(row for row in rows if row["contender"] == contender)


def machine_of(run: dict[str, Any]) -> str:
    """The machine and the versions of a run."""
    processor = run.get("gpu") or f"{run['threads']} threads of {run['processor']}, {run['instructions']}"
    return f"{processor}, torch {run['torch']}, commit {run['commit']}"


def quoted() -> tuple[dict[str, Any], Rows, str]:
    """What README quotes: the line of the run, the contenders of one shape, and whose weights they had."""
    rows = suite(HEADLINE)
    shape, weights = next((shape, words) for shape, words in HEADLINE_SHAPES.items() if of(rows, shape))
    return rows[0], of(rows, shape), weights


def headline() -> str:
    run, rows, _ = quoted()
    ours = one(rows, "cpu fp32")
    return (
        "**`liif_fast` upscales pictures to any size with one model. It is for people with pictures to enlarge and for "
        "researchers with a LIIF model, and it needs no GPU.** "
        f"On {COUNTS.get(run['threads'], run['threads'])} cores of an {short_processor(run)} its decoder is "
        f"{int(ours['times_reference'])} times as fast as the published one, with the same output and "
        f"{ours['peak_mib']:.0f} MiB of memory instead of {one(rows, 'reference')['peak_mib']:.0f}."
    )


def short_processor(run: dict[str, Any]) -> str:
    return f"{run['processor']} ({run['instructions'].replace('AVX512', 'AVX-512')})"


def short() -> str:
    """README's table: four ways to compute one decoder."""
    run, rows, weights = quoted()
    names = {
        "reference": "published arithmetic, fp32",
        "torch fp32": "`torch`, fp32",
        "cpu fp32": "`cpu` (C++), fp32",
        "cpu bf16": "`cpu` (C++), bf16, computed in 16-bit fixed point",
    }
    lines = ["| backend, precision | times as fast | MiB at peak |", "|---|---|---|"]
    for contender, name in names.items():
        row = one(rows, contender)
        lines.append(f"| {name} | {row['times_reference']:.1f} | {row['peak_mib']:.0f} |")
    (height, width), side = X4.size, X4.out
    assert side is not None
    lines += [
        "",
        f"The decoder alone, {height} x {width} features to {side[0]} x {side[1]} pixels, {weights}, "
        f"{run['threads']} threads of {short_processor(run)}. {seconds()}",
    ]
    return "\n".join(lines)


def seconds() -> str:
    """How long whole photographs take on the headline's machine."""
    taken = {}
    for path in RESULTS.glob(f"command-{HEADLINE}-*-megapixels.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        taken[float(path.stem.split("-")[-2])] = result["command"][0]["seconds"]
    words = [f"{taken[size]:.2g} s for {size:g}" for size in sorted(taken)]
    return (
        "There the whole command `liif-fast upscale -s 2`, start-up and files included, takes "
        f"{', '.join(words[:-1])} and {words[-1]} megapixels."
    )


def ranges() -> str:
    """How much faster the decoder is on every CPU that was measured."""
    suites = [of(rows, X4.name) for machine in MACHINES if machine != "cuda" and (rows := suite(machine))]

    def speed(precision: str) -> str:
        ratios = [one(rows, f"cpu {precision}")["times_reference"] for rows in suites]
        return f"{min(ratios):.1f} to {max(ratios):.1f}"

    memory = [one(rows, "reference")["peak_mib"] for rows in suites]
    return (
        f"On {len(suites)} processors the `cpu` backend was {speed('fp32')} times as fast as the published arithmetic "
        f"in fp32 and {speed('bf16')} times in bf16 (x4, the default model's weights), and took at most "
        f"{max(one(rows, 'cpu fp32')['peak_mib'] for rows in suites):.0f} MiB instead of "
        f"{min(memory):.0f} to {max(memory):.0f}."
    )


def figure() -> str:
    found = []
    for machine in SHOWN:
        rows = suite(machine)
        if rows:
            rounds = of(rows, X4.name)[0]["rounds"]
            found.append(
                f"![Time and memory of the decoder, {MACHINES[machine]}]"
                f"(benchmarks/results/decoder-{machine}.svg)\n\n"
                "The features of a photograph, 48 x 48, to 192 x 192 pixels by the default model, layer one included: "
                f"medians of {rounds} interleaved rounds on {machine_of(rows[0])} "
                f"([all lines](benchmarks/results/suite-{machine}.jsonl))."
            )
    return "\n\n".join(found)


def table() -> str:
    """Every contender and shape of the shown machines, the `cpu` backend alone of the others."""
    found = [whole_table(machine) for machine in SHOWN if suite(machine)]
    others = [machine for machine in MACHINES if machine not in SHOWN and suite(machine)]
    return "\n\n".join(found + ([summary(others)] if others else []))


def source(machine: str) -> str:
    """A sentence on where a machine's lines are from."""
    rows = suite(machine)
    return f"{MACHINES[machine]}: {machine_of(rows[0])} ([all lines](benchmarks/results/suite-{machine}.jsonl))."


def shape_label(rows: Rows, shape: str) -> str:
    return f"{shape}: {'forward + backward' if 'backward' in of(rows, shape)[0]['pass'] else 'forward'}"


def whole_table(machine: str) -> str:
    rows = suite(machine)
    lines = [
        source(machine),
        "",
        "| x4, 48 x 48 to 192 x 192 | µs a pixel | times `reference` (quartiles) | peak |",
        "|---|---|---|---|",
    ]
    for row in sorted(of(rows, X4.name), key=lambda row: float(row["us_per_query"])):
        low, high = row["ratio_quartiles"]
        memory = f"{row['peak_mib']:.0f} MiB" if "peak_mib" in row else ""
        ratio = f"{row['times_reference']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"| {label(row['contender'])} | {row['us_per_query']:.2f} | {ratio} | {memory} |")
    backends = [row["contender"] for row in of(rows, DENSE) if row["contender"] != "reference"]
    lines += ["", f"| times `reference` | {' | '.join(label(name) for name in backends)} | published repository |"]
    lines.append("|---" * (len(backends) + 2) + "|")
    for shape in dict.fromkeys(row["shape"] for row in rows if row["kind"] == "contender"):
        ratios = {row["contender"]: f"{row['times_reference']:.2f}" for row in of(rows, shape)}
        cells = [ratios.get(name, "") for name in (*backends, "published")]
        lines.append(f"| {shape_label(rows, shape)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", utilisation(rows)])


def summary(machines: list[str]) -> str:
    """The fused decoder on all shapes, every machine beside the others."""
    columns = [(machine, f"cpu {precision}") for machine in machines for precision in ("fp32", "bf16")]
    titles = [f"{MACHINES[machine]}: {label(contender)}" for machine, contender in columns]
    lines = ["\n\n".join(source(machine) for machine in machines)]
    lines += ["", f"| times `reference` | {' | '.join(titles)} |", "|---" * (len(columns) + 1) + "|"]
    ratios: dict[str, dict[tuple[str, str], str]] = {}
    for machine in machines:
        rows = suite(machine)
        for row in (row for row in rows if row["kind"] == "contender"):
            own = ratios.setdefault(shape_label(rows, row["shape"]), {})
            own[machine, row["contender"]] = f"{row['times_reference']:.2f}"
    lines += [f"| {shape} | {' | '.join(own.get(column, '') for column in columns)} |" for shape, own in ratios.items()]
    return "\n".join(lines)


def utilisation(rows: Rows) -> str:
    """How near the backends come to the best bare matrix product of the run."""
    gemm: dict[str, float] = {}
    for row in rows:
        for name, rate in row.get("gflops", {}).items():
            gemm[name] = max(rate, gemm.get(name, 0.0))
    shares = [
        f"{row['contender']} {100 * row['floor_gflops'] / best(gemm, is_half(row['contender'])):.0f} %"
        for row in of(rows, DENSE)
        if row["contender"] != "reference"
    ]
    return (
        "With dense activations (no zeros to skip), throughput relative to the run's fastest plain matrix product of "
        f"the same precision ({best(gemm, False):.0f} GFLOP/s in float32): {', '.join(shares)}. It counts the work "
        "that every exact decoder has to do once layer one is applied to each input pixel."
    )


def growth() -> str:
    """Time and memory of whole pictures: tables of the shown machines, links for the others."""
    found, others = [], []
    for machine, name in MACHINES.items():
        rows = growth_rows(machine)
        if rows and machine in SHOWN:
            found.append(growth_tables(machine, rows))
        elif rows:
            picture, lines = (f"benchmarks/results/growth-{machine}.{kind}" for kind in ("svg", "jsonl"))
            others.append(f"{name}: {machine_of(rows[0])} ([figure]({picture}), [all lines]({lines})).")
    return "\n\n".join([*found, *others]) or "Not yet measured: `make bench-full` does."


def growth_tables(machine: str, rows: Rows) -> str:
    points = [row for row in rows if row["kind"] == "growth"]
    lines = [
        f"![Growth of time and memory, {MACHINES[machine]}](benchmarks/results/growth-{machine}.svg)",
        "",
        f"Whole pictures, encoder included, on {machine_of(rows[0])}: seconds and MiB at peak, with input and result "
        f"([all lines](benchmarks/results/growth-{machine}.jsonl)). A dash: left out, because it would take too long.",
    ]
    contenders = list(dict.fromkeys(row["contender"] for row in points))
    for axis, title in (("pixels", "output pixels, by 4"), ("scale", "scale, of 64 x 64")):
        lines += ["", f"| {title} | {' | '.join(label(name) for name in contenders)} |"]
        lines.append("|---" * (len(contenders) + 1) + "|")
        own = [row for row in points if row["axis"] == axis]
        for value in dict.fromkeys(row[axis] for row in own):
            cells = [
                f"{row['seconds']:.3g} s, {row['peak_mib']:.0f} MiB" if "seconds" in row else "-"
                for row in own
                if row[axis] == value
            ]
            lines.append(f"| {value:,.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def runs() -> str:
    """The range over the last three runs of benchmarks.decoder."""
    history = json.loads((RESULTS / "decoder-cpu-avx512-runs.json").read_text(encoding="utf-8"))
    last = history["runs"][-3:]

    def ratios(case: str) -> list[str]:
        columns = zip(*(run[case] for run in last if case in run), strict=True)
        return [f"{min(column):.1f} to {max(column):.1f}" for column in columns]

    trained, initial, dense = (ratios(case) for case in ("trained", "random", "dense"))
    return (
        "The kernels skip hidden units that the ReLU has set to zero, so the speed depends on the weights. Over three "
        f"runs of `benchmarks.decoder` (64 x 64 features to 256 x 256, {history['threads']} cores of "
        f"{history['processor']}, [all runs](benchmarks/results/decoder-cpu-avx512-runs.json)), times as fast as the "
        f"published arithmetic:\n\n"
        "| weights | fp32 | bf16 |\n|---|---|---|\n"
        f"| the default model's | {trained[0]} | {trained[1]} |\n"
        f"| random | {initial[0]} | {initial[1]} |\n"
        f"| without a zero to skip | {dense[0]} | {dense[1]} |"
    )


def quality() -> str:
    """The PSNR of both models and of bicubic, on photographs that none of them was trained on."""
    result = json.loads((RESULTS / "quality.json").read_text(encoding="utf-8"))
    models = {"bicubic": "Pillow's bicubic filter", "default": "default model", "published": "published checkpoint"}
    pictures = [name for name in result["pictures"] if name not in TRAINED_ON]
    lines = [f"| scale | {' | '.join(models.values())} |", f"|---|{'---|' * len(models)}"]
    for scale in result["models"]["default"]["psnr"]:
        rows = [result["models"][model]["psnr"][scale] for model in models]
        means = [f"{statistics.mean(row[name] for name in pictures):.2f}" for row in rows]
        lines.append(f"| {scale} | {' | '.join(means)} |")
    return "\n".join(lines) + (
        f"\n\nPSNR in dB, RGB, on the middle {result['crop']} x {result['crop']} pixels of {len(pictures)} photographs "
        "that neither model was trained on. They were reduced by bicubic, and a border of scale + 6 pixels does not "
        "count ([all figures](benchmarks/results/quality.json))."
    )


def compiled() -> str:
    """What the compilers made of the GPU kernels."""
    found = json.loads((RESULTS / "compile-report.json").read_text(encoding="utf-8"))
    kernels = found["kernels"]
    spilled = sorted({row["precision"] for row in kernels if row["spill"]})
    clean = sorted({row["precision"] for row in kernels} - set(spilled))
    return (
        f"Triton {'.'.join(found['triton'].split('.')[:2])}, and NVRTC for `cuda`, compile all "
        f"[{len(kernels)} kernels](benchmarks/results/compile-report.json) for every GPU generation from Ampere on: "
        f"{' and '.join(clean)} without a spilled register, {', '.join(spilled)} with some."
    )


PARTS: dict[str, Callable[[], str]] = {
    "headline": headline,
    "short": short,
    "ranges": ranges,
    "figure": figure,
    "support": support.matrix,
    "table": table,
    "growth": growth,
    "runs": runs,
    "quality": quality,
    "compiled": compiled,
    "keys": config_keys.keys,
    "components": config_keys.components,
}
