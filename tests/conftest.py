"""How the tests run on this machine, and the fixtures that many of them take."""

from __future__ import annotations

import os

import pytest
import torch
from support.boxes import boxed_workspace
from support.golden import GoldenCase, golden_cases
from support.workspace import workspace

__all__ = ["boxed_workspace", "golden", "workspace"]

# Processes that test side by side share the cores, and so do the programs that they start.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="no slow tests, and of a test with many cases the first one")
    parser.addoption("--compiled", action="store_true", help="every compiled GPU kernel too, for half an hour")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Not by -m in addopts, which another -m on the command line would replace.
    if not config.getoption("--compiled"):
        left_out = [item for item in items if item.get_closest_marker("compiled")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    if not config.getoption("--quick"):
        return
    first: dict[str, pytest.Item] = {}
    # Cases of Triton's interpreter take longest: they are chosen where there are no others.
    for item in sorted(items, key=lambda item: "triton" in item.nodeid.partition("[")[2]):
        if item.get_closest_marker("slow") is None:
            first.setdefault(item.nodeid.partition("[")[0], item)
    chosen = set(first.values())
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


@pytest.fixture(params=golden_cases(), ids=lambda case: case.name)
def golden(request: pytest.FixtureRequest) -> GoldenCase:
    case: GoldenCase = request.param
    return case
