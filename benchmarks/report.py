"""Write README's measured parts and figures from the committed results.

    python -m benchmarks.report          # after `make bench-full`: brings README.md and the figures up to date
    python -m benchmarks.report --check  # exit code 1, naming them, when parts are not what the results say

A part stands in README.md between `<!-- measured: NAME -->` and `<!-- end -->`; every figure in it comes from a file in
benchmarks/results/, or the part from the backends' table.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import figures, support
from benchmarks.contenders import is_half
from benchmarks.figures import Rows, label
from benchmarks.lines import read
from benchmarks.racing import best
from benchmarks.shapes import X4
from liif_fast.files import replacing

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
# Where results may come from (benchmarks.machine.tag), and how README calls it.
PLACES = {
    "cpu-avx512-bf16": "CPU with AVX-512 and bfloat16",
    "cpu-avx512": "CPU with AVX-512",
    "cpu-avx2": "CPU with AVX2",
    "cuda": "GPU",
}
SHOWN = ("cpu-avx512-bf16", "cuda")  # whose figures and whole tables README has; of others it has a summary
PART = re.compile(r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
DENSE = "x4, no unit zero"


def suite(place: str) -> Rows:
    """The suite's lines of a place, none where it was not measured."""
    path = RESULTS / f"suite-{place}.jsonl"
    return read(path) if path.exists() else []


def grown(place: str) -> Rows:
    """The lines of `benchmarks.growth`."""
    path = RESULTS / f"growth-{place}.jsonl"
    return read(path) if path.exists() else []


def of(rows: Rows, shape: str) -> Rows:
    """The contenders of a shape."""
    return [row for row in rows if row["kind"] == "contender" and row["shape"] == shape]


def one(rows: Rows, contender: str) -> dict[str, Any]:
    """The line of a contender."""
    return next(row for row in rows if row["contender"] == contender)


def where(run: dict[str, Any]) -> str:
    """The machine of a run."""
    place = run.get("gpu") or f"{run['threads']} threads of {run['processor']}, {run['instructions']}"
    return f"{place}, torch {run['torch']}, commit {run['commit']}"


def headline() -> str:
    suites = [rows for place in PLACES if place != "cuda" and (rows := suite(place))]
    found = [of(rows, X4.name) for rows in suites]

    def over(contender: str, key: str) -> list[float]:
        return [one(rows, contender)[key] for rows in found]

    def speeds(precision: str) -> str:
        ratios = over(f"cpu {precision}", "times_reference")
        return f"{min(ratios):.1f} to {max(ratios):.1f}"

    cores = max(rows[0]["threads"] for rows in suites)
    return (
        "**Upscale a picture to any size, by any factor, with one model. "
        f"On {cores} CPU cores, by the kind of processor, the decoder runs {speeds('fp32')} times as fast as the "
        f"published [LIIF](https://arxiv.org/abs/2012.09161), with the same outputs, and {speeds('bf16')} "
        f"times in 16 bits, in {max(over('cpu fp32', 'peak_mib')):.0f} MiB in place of "
        f"{min(over('reference', 'peak_mib')):.0f} or more.**"
    )


def figure() -> str:
    found = []
    for place in SHOWN:
        rows = suite(place)
        if rows:
            rounds = of(rows, X4.name)[0]["rounds"]
            found.append(
                f"![Time and memory of the decoder, {PLACES[place]}](benchmarks/results/decoder-{place}.svg)\n\n"
                "A photograph's 48 x 48 features to 192 x 192 pixels by the default model, projection included: "
                f"medians of {rounds} interleaved rounds on {where(rows[0])} "
                f"([all lines](benchmarks/results/suite-{place}.jsonl))."
            )
    return "\n\n".join(found)


def table() -> str:
    """Of the shown places every contender of the first shape and every backend on all shapes, of others our own."""
    found = [whole(place) for place in SHOWN if suite(place)]
    others = [place for place in PLACES if place not in SHOWN and suite(place)]
    return "\n\n".join(found + ([summary(others)] if others else []))


def source(place: str) -> str:
    """A sentence on where a place's lines are from."""
    rows = suite(place)
    return f"{PLACES[place]}: {where(rows[0])} ([all lines](benchmarks/results/suite-{place}.jsonl))."


def shape_label(rows: Rows, shape: str) -> str:
    return f"{shape}: {'forward + backward' if 'backward' in of(rows, shape)[0]['pass'] else 'forward'}"


def whole(place: str) -> str:
    rows = suite(place)
    lines = [
        source(place),
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


def summary(places: list[str]) -> str:
    """The fused decoder on all shapes, every place beside the others."""
    columns = [(place, f"cpu {precision}") for place in places for precision in ("fp32", "bf16")]
    titles = [f"{PLACES[place]}: {label(contender)}" for place, contender in columns]
    lines = [*(source(place) for place in places), "", f"| times `reference` | {' | '.join(titles)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    ratios: dict[str, dict[tuple[str, str], str]] = {}
    for place in places:
        rows = suite(place)
        for row in (row for row in rows if row["kind"] == "contender"):
            own = ratios.setdefault(shape_label(rows, row["shape"]), {})
            own[place, row["contender"]] = f"{row['times_reference']:.2f}"
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
        "Where no unit is zero behind its ReLU, so that nothing is skipped, the work that no exact projected decoder "
        "can leave out ran at these shares of the rate of the run's best bare matrix product of the precision "
        f"({best(gemm, False):.0f} GFLOP/s in float32): {', '.join(shares)}."
    )


def growth() -> str:
    found, others = [], []
    for place, name in PLACES.items():
        rows = grown(place)
        if not rows:
            continue
        if place not in SHOWN:
            picture, record = (f"benchmarks/results/growth-{place}.{kind}" for kind in ("svg", "jsonl"))
            others.append(f"{name}: {where(rows[0])} ([figure]({picture}), [all lines]({record})).")
            continue
        points = [row for row in rows if row["kind"] == "growth"]
        lines = [
            f"![Growth of time and memory, {name}](benchmarks/results/growth-{place}.svg)",
            "",
            f"Whole pictures, encoder included, on {where(rows[0])}: seconds and MiB at peak, with input and result "
            f"([all lines](benchmarks/results/growth-{place}.jsonl)); a dash was left out for the time it would take.",
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
        found.append("\n".join(lines))
    return "\n\n".join([*found, *others]) or "Not yet measured: `make bench-full` does."


def runs() -> str:
    """The range over the last three runs of benchmarks.decoder."""
    record = json.loads((RESULTS / "decoder-cpu-avx512-runs.json").read_text(encoding="utf-8"))
    last = record["runs"][-3:]

    def ranges(case: str) -> list[str]:
        columns = zip(*(run[case] for run in last if case in run), strict=True)
        return [f"{min(column):.1f} to {max(column):.1f}" for column in columns]

    trained, initial, dense = (ranges(case) for case in ("trained", "random", "dense"))
    return (
        "Over the last three runs of `benchmarks.decoder` (64 x 64 features to 256 x 256, "
        f"{record['threads']} cores of {record['processor']}) the `cpu` backend was {trained[0]} times as fast as the "
        f"published arithmetic in fp32 and {trained[1]} times in bf16 with the default model's weights "
        "([all runs](benchmarks/results/decoder-cpu-avx512-runs.json)). The kernels skip hidden units that the ReLU "
        f"has zeroed, so it depends on the weights: with random ones {initial[0]} and {initial[1]} times, with none "
        f"ever zero {dense[0]} and {dense[1]}."
    )


def quality() -> str:
    psnr = json.loads((RESULTS / "default-model.json").read_text(encoding="utf-8"))["psnr"]
    gains = [
        f"+{psnr[scale]['mean']['model'] - psnr[scale]['mean']['bicubic']:.2f} dB at {scale}"
        for scale in ("x2", "x4", "x12")
    ]
    return (
        "PSNR over Pillow's bicubic filter on photographs that it was not trained on: "
        f"{', '.join(gains)} ([results](benchmarks/results/default-model.json))."
    )


def compiled() -> str:
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("compile-report*.json"))]
    versions = " and ".join(sorted(".".join(found["triton"].split(".")[:2]) for found in reports))
    kernels = [row for found in reports for row in found["kernels"]]
    spilled = sorted({row["precision"] for row in kernels if row["spill"]})
    clean = sorted({row["precision"] for row in kernels} - set(spilled))
    count = len(reports[0]["kernels"])
    return (
        f"- Its kernels compile for every GPU generation from Ampere on by Triton {versions}: "
        f"[{count} of them](benchmarks/results/compile-report.json), {' and '.join(clean)} without a spilled register, "
        f"{', '.join(spilled)} with some."
    )


PARTS: dict[str, Callable[[], str]] = {
    "headline": headline,
    "figure": figure,
    "support": support.matrix,
    "table": table,
    "growth": growth,
    "runs": runs,
    "quality": quality,
    "compiled": compiled,
}


def drawings() -> dict[Path, tuple[Rows, Callable[[Path], None]]]:
    """Every figure: what it is drawn from, and what draws it."""
    found: dict[Path, tuple[Rows, Callable[[Path], None]]] = {}
    for place, name in PLACES.items():
        rows = of(suite(place), X4.name)
        if rows and place in SHOWN:
            title = f"{X4.size[0]} x {X4.size[1]} features to 192 x 192 pixels, {name}"
            found[RESULTS / f"decoder-{place}.svg"] = (
                rows,
                lambda path, rows=rows, title=title: figures.decoder(rows, title, path),  # type: ignore[misc]
            )
        points = [row for row in grown(place) if row["kind"] == "growth"]
        if points:
            found[RESULTS / f"growth-{place}.svg"] = (
                points,
                lambda path, points=points: figures.growth(points, path),  # type: ignore[misc]
            )
    return found


def stale(text: str) -> list[str]:
    """Names of the parts of README.md, and of the figures, that are not what the results say."""
    found = [match[2] for match in PART.finditer(text) if match[3] != f"{PARTS[match[2]]()}\n"]
    found += sorted(PARTS.keys() - {match[2] for match in PART.finditer(text)})
    return found + [
        path.name for path, (rows, _) in drawings().items() if figures.drawn_from(path) != figures.digest(rows)
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    args = parser.parse_args(argv)
    text = README.read_text(encoding="utf-8")
    wrong = stale(text)
    if args.check:
        if wrong:
            print(f"README.md is not what the results say; run python -m benchmarks.report: {', '.join(wrong)}")
        return 1 if wrong else 0
    for path, (rows, draw) in drawings().items():
        if figures.drawn_from(path) != figures.digest(rows):
            draw(path)
    new = PART.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}\n{match[4]}", text)
    with replacing(README) as temporary:
        temporary.write_text(new, encoding="utf-8")
    print(", ".join(wrong) or "nothing had changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
