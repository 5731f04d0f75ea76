"""The fuzz script: some seconds of it, and that it sees what it looks for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fuzz_images.py")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits its child's memory as Linux does")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=SCRIPT.parent, capture_output=True, text=True, check=False)


def test_some_seconds_of_damaged_pictures(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs", reason="a 16-bit picture cannot be written without the formats extra")
    done = run(str(SCRIPT), "--seconds", "6", "--seed", "0", "--out", str(tmp_path / "found"))
    kept = {path.name: path.read_text() for path in tmp_path.glob("found/*.txt")}
    assert (done.returncode, kept) == (0, {}), done.stderr
    counts = json.loads(done.stdout)
    assert counts["read"] > 5
    assert counts["refused"] > 5


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("os.abort()", "the process died with exit code -6"),
        ("time.sleep(60)", "no answer within 2 seconds"),
        ("[0][1]", "IndexError: list index out of range"),
        ("bytearray(2**33)", "MemoryError"),
        ("fuzz_images._refused(f'{path}: one\\ntwo', path)", "more than one line"),
    ],
)
def test_what_is_found_is_kept(check: str, said: str, tmp_path: Path) -> None:
    program = f"""
import os, sys, time
from pathlib import Path
import fuzz_images

def check(path):
    if path.stat().st_size % 2:
        {check}
    return "read"

out = Path(sys.argv[1])
outcomes = fuzz_images.fuzz(5, iter(range(4)), 30, out, check, patience=2)
pictures = fuzz_images.seeds()
for number in range(4):
    name, data = fuzz_images.case(pictures, 5, number)
    kept = out / f"5-{{number}}-{{name}}"
    assert kept.exists() == bool(len(data) % 2)
    assert not len(data) % 2 or kept.read_bytes() == data
print(outcomes["finding"], outcomes["read"])
"""
    done = run("-c", program, str(tmp_path))
    assert done.returncode == 0, done.stderr
    findings, others = map(int, done.stdout.split())
    assert findings + others == 4
    assert findings > 0
    texts = [path.read_text() for path in tmp_path.glob("*.txt")]
    assert len(texts) == findings
    assert all(said in text for text in texts)
