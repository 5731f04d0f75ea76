"""The C++ library apart from its numbers: its threads, its memory, and what is said where it cannot be loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from support.golden import random_params, seeded
from support.paths import ROOT
from torch import Tensor

from liif_fast.errors import BackendError
from liif_fast.functional import project
from liif_fast.native import decoder, library

pytestmark = pytest.mark.skipif(library.import_error is not None, reason=f"no C++ library: {library.import_error}")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def arguments(queries: int = 500) -> tuple[Any, ...]:
    params = random_params(4, [32, 32])
    projected = project(seeded((2, 4, 9, 8), 1, 1), params)
    coord, cell = seeded((2, queries, 2), 2, 1), seeded((2, queries, 2), 3, 0.1).abs()
    _, rest = params.split()
    weights, biases = list(params.weights[1:]), list(params.biases)
    return projected, coord, cell, rest, weights, biases, True, [9, 8, 0, 0], library.BEST["fp32"]


@pytest.mark.usefixtures("threads")
def test_any_number_of_threads_gives_the_same_answers() -> None:
    given = arguments()
    answers = []
    for count in (1, 2, 3, 8):
        torch.set_num_threads(count)
        answers.append(decoder.query(*given))
    assert all(torch.equal(answer, answers[0]) for answer in answers)


@pytest.mark.usefixtures("threads")
def test_calls_from_several_threads_share_the_team() -> None:
    given = arguments()
    want = decoder.query(*given)
    torch.set_num_threads(2)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(answer, want) for answer in pool.map(lambda _: decoder.query(*given), range(40)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_makes_threads_of_its_own() -> None:
    code = """
import os, sys, torch
from support.golden import random_params, seeded
from liif_fast.functional import project, query
torch.set_num_threads(2)
params = random_params(4, [32, 32])
projected = project(seeded((1, 4, 9, 8), 1, 1), params)
coord, cell = seeded((1, 500, 2), 2, 1), seeded((1, 500, 2), 3, 1)
ask = lambda: query(None, coord, cell, params, projected=projected, backend="cpu")
want = ask()
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(ask(), want) else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_what_is_kept_is_not_used_twice_and_then_used_again() -> None:
    given = arguments()
    first, second = (decoder.query_keeping(*given)[1] for _ in range(2))
    assert first.data_ptr() != second.data_ptr()
    place = second.data_ptr()
    del second
    third = decoder.query_keeping(*given)[1]
    assert third.data_ptr() == place
    view: Tensor = third[0]
    del third
    fourth = decoder.query_keeping(*given)[1]
    assert fourth.data_ptr() != view.data_ptr()


def test_no_query_at_all() -> None:
    answer, kept = decoder.query_keeping(*arguments(0))
    assert answer.shape == (2, 0, 3)
    gradients = decoder.query_backward(torch.zeros(2, 0, 3), kept, *arguments(0))
    assert not any(bool(tensor.any()) for tensor in torch.utils._pytree.tree_leaves(gradients))


def test_a_layer_alone() -> None:
    rows, weight, bias = seeded((300, 32), 1, 1), seeded((48, 32), 2, 1), seeded((48,), 3, 1)
    want = torch.relu(rows.double() @ weight.double().T + bias)
    for arithmetic in library.arithmetics("any"):
        tolerance = 2e-3 if arithmetic in library.FIXED_POINT else 1e-5
        torch.testing.assert_close(
            decoder.layer(rows, weight, bias, arithmetic).double(), want, rtol=tolerance, atol=tolerance
        )
    with pytest.raises(BackendError, match=r"weight: expected \[48, 31\] of multiples of 16"):
        decoder.layer(rows[:, :31], weight[:, :31], bias, library.BEST["fp32"])


def said_of(file: Path | str) -> str:
    """Why a file is not the library, in a fresh process."""
    code = "from liif_fast.native import library; print(library.import_error)"
    environment = os.environ | {"LIIF_FAST_LIBRARY": str(file)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_what_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    assert said_of(tmp_path / "absent.so") == "absent.so was not built"
    (tmp_path / "text.so").write_text("no library")
    assert "text.so" in said_of(tmp_path / "text.so")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_library_of_another_version_is_refused(tmp_path: Path) -> None:
    source, other = tmp_path / "other.c", tmp_path / "other.so"
    source.write_text("\n".join(f"int {name}(void) {{ return 999; }}" for name in library._FUNCTIONS))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(other), str(source)], check=True)
    assert said_of(other) == f"other.so has interface 999, expected {library.INTERFACE}"
    source.write_text("int liif_interface(void) { return 1; }")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(other), str(source)], check=True)
    assert "it is of another version" in said_of(other)


PICTURE = "from PIL import Image; Image.new('RGB', (8, 6), 'red').save('a.png')"


@pytest.mark.parametrize(
    "code",
    [
        "import PIL.Image, liif_fast; [liif_fast.upscale(PIL.Image.new('RGB', (8, 6)), scale=2) for _ in range(2)]",
        f"{PICTURE}; from liif_fast.cli import main; main(['upscale', 'a.png', '-s', '2', '-o', 'b.png'])",
    ],
)
def test_a_run_without_the_library_says_so_once(code: str, tmp_path: Path) -> None:
    environment = os.environ | {"LIIF_FAST_LIBRARY": str(tmp_path / "absent.so"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr.count("many times slower: the C++ library is not built (absent.so was not built)") == 1
    assert "install a C++ compiler, then run: pip install --force-reinstall --no-deps -e" in done.stderr
    assert "Traceback" not in done.stderr
