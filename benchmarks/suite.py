"""The benchmark suite, on pytest-benchmark: one test for each contender of each named shape.

    python -m pytest benchmarks/suite.py [--set short|full|tiny|tiny-peers] [--published CHECKOUT] [--out FOLDER]

pytest-benchmark times one test after another; here the contenders of a shape are timed interleaved first, after their
results were compared, and each test then plays its own rounds back to pytest-benchmark. So its tables, its
`--benchmark-json` and its comparisons hold measurements of one and the same minutes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import memory, published_weights
from benchmarks.contenders import names
from benchmarks.lines import RESULTS
from benchmarks.machine import device
from benchmarks.problem import Problem
from benchmarks.racing import Pace, Seconds, race, rows, significant
from benchmarks.shapes import SETS, Shape

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


class Playback:
    """A timer for which what comes between two calls takes as long as it was measured to take."""

    def __init__(self) -> None:
        self.now, self.rounds, self.running = 0.0, iter([0.0]), False

    def load(self, seconds: list[float]) -> None:
        self.rounds, self.running = iter(seconds), False

    def __call__(self) -> float:
        self.now += next(self.rounds) if self.running else 0.0
        self.running = not self.running
        return self.now


timer = Playback()
pace = Pace()
Race = tuple[Seconds, dict[str, dict[str, Any]]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    options = metafunc.config.option
    cases = [
        pytest.param(shape, name, id=f"{shape.name}-{name}", marks=_unreachable(shape))
        for shape in SETS[options.set]
        for name in names(shape, device(), options.published)
    ]
    metafunc.parametrize(("shape", "contender"), cases)


def _unreachable(shape: Shape) -> list[pytest.MarkDecorator]:
    """The mark that skips a shape whose published weights cannot be fetched."""
    reason = published_weights.unreachable_reason() if shape.weights == "published" else None
    return [] if reason is None else [pytest.mark.skip(reason=reason)]


# A shape's contenders are tested one after another, so that one race has to be remembered.
@lru_cache(maxsize=1)
def measured(shape: Shape, config: pytest.Config) -> Race:
    """The race of one shape, written to the result file: (seconds of each round, lines by contender)."""
    options = config.option
    budget = options.seconds or (40.0 if options.set == "full" else 12.0)
    problem = Problem(shape, device())
    contenders = names(shape, device(), options.published)
    too_slow = pace.too_slow(shape, contenders)
    racers = [name for name in contenders if name not in too_slow]
    errors, seconds, rates = race(problem, racers, options.published, budget)
    pace.note(shape, seconds)
    found = rows(problem, errors, seconds, rates)
    if shape.memory:
        # Compiling again for the memory alone would take most of the short set's time.
        for row in (row for row in found if options.set != "short" or "compiled" not in row["contender"]):
            row["peak_mib"] = memory.in_a_process(shape.name, row["contender"], options.published)
    gemm = {"kind": "gemm", "shape": shape.name, "gflops": {name: significant(rate) for name, rate in rates.items()}}
    left_out = [
        {"kind": "left out", "shape": shape.name, "contender": name, "expected_seconds": significant(value, 2)}
        for name, value in too_slow.items()
    ]
    config.stash[RESULTS].add([gemm, *found, *left_out])
    return seconds, {row["contender"]: row for row in found}


@pytest.mark.benchmark(timer=timer)
def test_decoder(shape: Shape, contender: str, benchmark: BenchmarkFixture, pytestconfig: pytest.Config) -> None:
    seconds, lines = measured(shape, pytestconfig)
    if contender not in lines:
        pytest.skip(f"would take {pace.expected(shape, contender):.0f} seconds a call")
    benchmark.group = shape.name
    benchmark.extra_info.update(lines[contender])
    timer.load(seconds[contender])
    benchmark.pedantic(lambda: None, rounds=len(seconds[contender]))
