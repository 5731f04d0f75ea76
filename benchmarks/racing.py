"""Contenders against each other: in one process, one of each a round, in an order drawn anew for each round."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders import build, check, is_half
from benchmarks.problem import Problem
from benchmarks.shapes import Shape
from liif_fast.native import decoder, library

LONG = 300.0  # seconds: where one call of each takes longer, those calls are all there is
SLOW = 4.0  # seconds of a contender's first call from which on it may be its only one
TOO_LONG = 120.0  # seconds of one call of a contender, but for the baseline, that is not worth its time
ROUNDS = (3, 15)  # at least and at most
Seconds = dict[str, list[float]]


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call, a GPU's work included."""
    _wait()
    start = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleave(
    calls: dict[str, Callable[[], Any]], rounds: int, budget: float | None = None, warm: bool = False
) -> Seconds:
    """Seconds of every call, after one round that does not count unless all are warm.

    The order is drawn anew for each round: what ran before leaves its clock frequency and its pages to the next.
    budget: seconds after which no further round begins, where there were ROUNDS[0].
    """
    seconds: Seconds = {name: [] for name in calls}
    order, generator = list(calls), random.Random(0)
    if not warm:
        for name in order:
            calls[name]()
    end = time.perf_counter() + (math.inf if budget is None else budget)
    for turn in range(rounds):
        if turn >= ROUNDS[0] and time.perf_counter() > end:
            break
        generator.shuffle(order)
        for name in order:
            seconds[name].append(timed(calls[name]))
    return seconds


def products(device: torch.device) -> dict[str, tuple[float, Callable[[], Tensor]]]:
    """Bare matrix products, name -> (floating point operations, call): what the decoder's rate is compared with."""
    generator = torch.Generator().manual_seed(1)

    def matrix(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return (torch.rand(rows, columns, generator=generator) + 0.1).to(device, dtype)

    found: dict[str, tuple[float, Callable[[], Tensor]]] = {}
    large = {"torch mm": torch.float32}
    if device.type == "cuda":
        large["torch fp16 mm"] = torch.float16
    elif library.HAS_BF16:
        large["torch bf16 mm"] = torch.bfloat16
    for kind, dtype in large.items():
        for count, inner in ((2048, 2048), (16384, 256)) if device.type == "cpu" else ((8192, 8192), (65536, 256)):
            a, b = matrix(count, inner, dtype), matrix(inner, inner, dtype)
            name = f"{kind} {count} x {inner} x {inner}"
            found[name] = (2.0 * count * inner * inner, lambda a=a, b=b: a @ b)  # type: ignore[misc]
    if device.type == "cpu":
        rows, weight, bias = matrix(8192, 256), matrix(256, 256), matrix(1, 256)[0]
        for name in library.arithmetics("any"):
            found[f"{name} 8192 x 256 x 256"] = (
                2.0 * 8192 * 256 * 256,
                lambda name=name: decoder.layer(rows, weight, bias, name),  # type: ignore[misc]
            )
    return found


def best(rates: dict[str, float], half: bool) -> float:
    """The fastest bare product of a precision; for half precision of any."""
    return max(rate for name, rate in rates.items() if half or not is_half(name))


def race(
    problem: Problem, names: Iterable[str], published: Path | None = None, budget: float = 60.0
) -> tuple[dict[str, float], Seconds, dict[str, float]]:
    """Compare every contender's result with the reference's, then time all.

    The first call of each, which compiles what is to be compiled, is the comparison's and does not count; unless
    those calls together take longer than LONG: then they are the only round. A contender whose ROUNDS[0] calls would
    take longer than the budget, and each longer than SLOW, without compiling has only that one.

    Returns (differences from the reference, seconds of each round, GFLOP/s of each bare product's fastest round).
    """
    torch.compiler.reset()
    calls = {name: build(name, problem, published) for name in names}
    want: list[Tensor] = []
    errors, first = {}, {}
    for name, call in calls.items():
        result: list[Tensor] = []
        first[name] = timed(lambda call=call, result=result: result.extend(call()))  # type: ignore[misc]
        want = want or result
        errors[name] = check(name, result, want)
    bare = products(problem.device)
    bare_calls = {name: call for name, (_, call) in bare.items()}
    if sum(first.values()) > LONG and not problem.shape.peers:
        seconds = {name: [value] for name, value in first.items()}
        measured = interleave(bare_calls, ROUNDS[0])
    else:
        slow = {name for name in list(calls)[1:] if first[name] > max(budget / ROUNDS[0], SLOW) and not prepared(name)}
        racers = {name: call for name, call in calls.items() if name not in slow}
        both = interleave(racers | bare_calls, ROUNDS[1], budget, warm=True)
        seconds = {name: [first[name]] if name in slow else both[name] for name in calls}
        measured = {name: both[name] for name in bare}
    return errors, seconds, {name: flop / min(measured[name]) / 1e9 for name, (flop, _) in bare.items()}


def prepared(name: str) -> bool:
    """Whether a contender's first call compiles or exports it."""
    return "compiled" in name or name == "onnxruntime"


class Pace:
    """What contenders took on the shapes so far, to leave out those that would take too long on the next one."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, bool], float] = {}  # for each operation of the shapes' floor

    def note(self, shape: Shape, seconds: Seconds) -> None:
        for name, taken in seconds.items():
            self._seconds[name, shape.backward] = statistics.median(taken) / shape.floor

    def expected(self, shape: Shape, name: str) -> float:
        """Seconds of a call; 0 where nothing is known."""
        return self._seconds.get((name, shape.backward), 0.0) * shape.floor

    def too_slow(self, shape: Shape, names: list[str]) -> dict[str, float]:
        """Contenders, never the baseline, whose call would take more than TOO_LONG, and the seconds expected."""
        expected = {name: self.expected(shape, name) for name in names[1:]}
        return {name: seconds for name, seconds in expected.items() if seconds > TOO_LONG}


def quartiles(values: list[float]) -> list[float]:
    """The first and the third; of a single value, the value itself."""
    if len(values) == 1:
        return values * 2
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def significant(value: float, digits: int = 4) -> float:
    """A value as a result file holds it."""
    return float(f"{value:.{digits}g}")


def rows(problem: Problem, errors: dict[str, float], seconds: Seconds, rates: dict[str, float]) -> list[dict[str, Any]]:
    """The lines of a race: a ratio is the median over the rounds of the first contender's time over this one's."""
    shape, found = problem.shape, []
    base = next(iter(seconds.values()))
    for name, taken in seconds.items():
        median = statistics.median(taken)
        together = len(taken) == len(base)
        ratios = [
            theirs / own for theirs, own in zip(base if together else [statistics.median(base)], taken, strict=True)
        ]
        rate = shape.floor / median / 1e9
        found.append(
            {
                "kind": "contender",
                "shape": shape.name,
                "contender": name,
                "pass": "forward + backward" if shape.backward else "forward",
                "rounds": len(taken),
                "seconds": significant(median),
                "quartiles": [significant(value) for value in quartiles(taken)],
                "us_per_query": significant(median / shape.queries * 1e6),
                "times_reference": significant(statistics.median(ratios), 3),
                "ratio_quartiles": [significant(value, 3) for value in quartiles(ratios)],
                "floor_gflops": significant(rate),
                "share_of_best_gemm": significant(rate / best(rates, is_half(name)), 2),
                "difference": significant(errors[name], 2),
            }
        )
    return found
