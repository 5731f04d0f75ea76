"""The documents' figures, as SVG: how long each contender takes and how much memory, and how both grow."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]

# One colour for each backend; what is compiled or exported has its origin's.
COLOURS = {"reference": "#777777", "published": "#444444", "onnxruntime": "#999999", "torch": "#4477aa"}
COLOURS |= {"cpu": "#cc6633", "triton": "#228833"}


def label(contender: str) -> str:
    """A contender as readers know it."""
    name, *rest = contender.split()
    named = {"reference": "published arithmetic", "published": "published repository", "onnxruntime": "ONNX Runtime"}
    return ", ".join([named.get(name, name), *("torch.compile" if word == "compiled" else word for word in rest)])


def digest(rows: Rows) -> str:
    """What a figure was drawn from, to find out whether it still is what the results say."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def _save(figure: Any, path: Path, rows: Rows) -> None:
    from liif_fast.files import replacing

    with replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Identifier": digest(rows)})


def drawn_from(path: Path) -> str:
    """The digest that a figure holds, or an empty string."""
    if not path.exists():
        return ""
    text = path.read_text(encoding="utf-8")
    return text.partition("<dc:identifier>")[2].partition("<")[0]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "liif_fast", "font.size": 10}
    pyplot.rcParams |= {"axes.spines.top": False, "axes.spines.right": False}
    return pyplot


def decoder(rows: Rows, title: str, path: Path) -> None:
    """Bars: time of one output pixel and peak memory of every contender, the slowest above."""
    pyplot = _pyplot()
    order = sorted(rows, key=lambda row: float(row["us_per_query"]))
    names = [label(row["contender"]) for row in order]
    colours = [COLOURS[row["contender"].split()[0]] for row in order]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 0.7 + 0.34 * len(order)), sharey=True)
    for axes, key, unit in ((left, "us_per_query", "µs a pixel"), (right, "peak_mib", "MiB at peak")):
        values = [row.get(key, 0.0) for row in order]
        bars = axes.barh(names, values, color=colours)
        texts = [f"{row[key]:.3g}" if key in row else "not measured" for row in order]
        axes.bar_label(bars, texts, padding=3)
        axes.set_xlabel(unit)
        axes.margins(x=0.16)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    _save(figure, path, rows)
    pyplot.close(figure)


def growth(rows: Rows, path: Path) -> None:
    """Time and memory against output pixels, and against the scale of one input."""
    pyplot = _pyplot()
    figure, grid = pyplot.subplots(2, 2, figsize=(9, 6.4))
    titles = {"pixels": "by 4: output pixels", "scale": "one input, 64 x 64: scale"}
    for column, axis in enumerate(titles):
        measured = [row for row in rows if row["axis"] == axis and "seconds" in row]
        for name in dict.fromkeys(row["contender"] for row in measured):
            own = [row for row in measured if row["contender"] == name]
            style = "--" if any(part in name for part in ("bf16", "fp16")) else "-"
            for line, key in enumerate(("seconds", "peak_mib")):
                x, y = [row[axis] for row in own], [row[key] for row in own]
                grid[line][column].loglog(
                    x, y, style, marker="o", ms=4, color=COLOURS[name.split()[0]], label=label(name)
                )
        for line, unit in enumerate(("seconds", "MiB at peak")):
            grid[line][column].set_xlabel(titles[axis])
            grid[line][column].set_ylabel(unit)
            grid[line][column].grid(alpha=0.3)
    grid[0][0].legend(fontsize=9)
    figure.tight_layout()
    _save(figure, path, rows)
    pyplot.close(figure)
