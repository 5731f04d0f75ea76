"""The report of a GPU, on a CPU: so that its first run on a GPU fails on nothing but the GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_report
from liif_fast.backends import proof, triton

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.skipif(
    triton.unusable_reason(DEVICE, "fp32") is not None, reason=str(triton.unusable_reason(DEVICE, "fp32"))
)
SMOKE = ["--smoke", "--no-compile", "--rounds", "1"]


@pytest.mark.slow
def test_every_stage_leaves_a_file(tmp_path: Path) -> None:
    assert gpu_report.main([*SMOKE, "--out", str(tmp_path)]) == 0
    reports = {stage: json.loads((tmp_path / f"gpu-report-{stage}.json").read_text()) for stage in gpu_report.STAGES}
    for stage, report in reports.items():
        assert report["stage"] == stage
        assert {"gpu", "torch", "triton", "commit", "took"} <= report.keys()
    assert [row["wrong"] for row in reports["proof"]["rows"]] == [None] * 6
    assert {row["contender"] for row in reports["kernels"]["rows"]} == {
        f"triton {p} kernel alone" for p in ("fp16", "bf16")
    }
    errors = [row["relative_error"] for row in reports["drop-in"]["rows"]]
    assert len(errors) == 16
    assert max(errors) < 5e-3
    gradients = [row["relative_error"] for row in reports["training"]["rows"]]
    assert len(gradients) == 4
    # A ReLU that flips in half precision weighs much in a gradient of five queries.
    assert max(gradients) < 0.1


def test_nothing_is_timed_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "disproof", lambda run, device, precision, form: "it was wrong")
    assert gpu_report.main([*SMOKE, "--out", str(tmp_path)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["gpu-report-proof.json"]


def test_the_tests_that_the_report_runs_exist() -> None:
    assert all((gpu_report.ROOT / test).is_file() for test in gpu_report.TESTS)
    text = "".join((gpu_report.ROOT / test).read_text() for test in gpu_report.TESTS)
    assert all(f"def {name}(" in text for name in gpu_report.SANITIZED.split(" or "))


@pytest.mark.skipif(DEVICE.type == "cuda", reason="about machines without a GPU")
def test_the_gpu_report_says_that_there_is_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_report.main(["--out", str(tmp_path)]) == 2
    assert "expected a CUDA GPU" in capsys.readouterr().err
