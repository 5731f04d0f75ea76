"""Options and summary of the suite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import contenders
from benchmarks.lines import RESULTS, Lines
from benchmarks.machine import device, tag
from benchmarks.shapes import SETS


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("liif_fast")
    group.addoption("--set", choices=sorted(SETS), default="short", help="which shapes (short)")
    group.addoption("--out", type=Path, default=Path("build/bench"), metavar="FOLDER", help="folder of the result")
    group.addoption("--published", type=Path, metavar="CHECKOUT", help="the published repository, to run too")
    group.addoption("--threads", type=int, help="threads of every contender (torch's choice)")
    group.addoption("--seconds", type=float, help="for the rounds of one shape (12; full: 40)")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.help:
        return
    if config.option.threads is not None:
        torch.set_num_threads(config.option.threads)
    name = config.option.set
    path = config.option.out / f"{'suite' if name == 'full' else f'suite-{name}'}-{tag()}.jsonl"
    what = f"decoder, {name} set; medians of interleaved rounds, ratios to the reference within the round"
    config.stash[RESULTS] = Lines(path, what, set=name, missing=contenders.missing(device()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    results = config.stash[RESULTS]
    shape = ""
    for row in (row for row in results.rows if row["kind"] == "contender"):
        if row["shape"] != shape:
            shape = row["shape"]
            terminalreporter.write_line(f"\n{shape} ({row['pass']}, {row['rounds']} rounds)")
        low, high = row["ratio_quartiles"]
        memory = f"{row['peak_mib']:>9.0f} MiB" if "peak_mib" in row else ""
        terminalreporter.write_line(
            f"  {row['contender']:<26}{row['us_per_query']:>9.2f} us a query{row['times_reference']:>8.2f}x "
            f"({low:.2f} to {high:.2f}){100 * row['share_of_best_gemm']:>7.0f} % of the best GEMM{memory}"
        )
    terminalreporter.write_line(f"\n{results.path}")
