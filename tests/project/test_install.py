"""The package as it is installed: what the archives hold, what an import loads, life without a compiler."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

import liif_fast
from liif_fast.native import library

# Set by CI: a missing library is then a failure, elsewhere it is a reason to skip.
REQUIRED = os.environ.get("LIIF_FAST_REQUIRE_CPU") == "1"
NOT_SOURCES = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "save", "*.egg-info", "*.so", "__pycache__", ".*_cache", ".hypothesis"
)


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command outside of the checkout and return what it printed; its own failure fails the test."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def build(kind: str, source: Path, out: Path, **environment: str) -> Path:
    """Build an sdist or a wheel of `source` with the installed tools, as pip without build isolation does."""
    hook = f"import sys, setuptools.build_meta as b; print(b.build_{kind}(sys.argv[1]))"
    done = run(sys.executable, "-c", hook, out, cwd=source, **environment)
    warned = [line for line in done.stderr.splitlines() if "Warning" in line and "without the C++" not in line]
    assert not warned, f"setuptools warns: {warned}"
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist of a copy of the checkout, so that the checkout stays as it is."""
    base = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, base / "source", symlinks=True, ignore=NOT_SOURCES)
    return build("sdist", base / "source", base)


def unpacked(sdist: Path, folder: Path) -> Path:
    """The sdist's content, fresh: wheels are built from it, so a file that it lacks is noticed."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    return source


def installed(wheel: Path, folder: Path) -> Path:
    """Install one wheel, non-editable, into a folder of its own."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps")
    run(*pip, "--no-index", "--target", folder, wheel, cwd=wheel.parent)
    return folder


def backend_row(name: str, site: Path) -> dict[str, Any]:
    """What the command line of the package installed in `site` says of a backend."""
    code = "import liif_fast, sys; print(liif_fast.__file__, file=sys.stderr)\nfrom liif_fast.cli import main; main()"
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    # Without `site` no editable install of this package is seen: it would lend its library to this copy.
    libraries = os.pathsep.join((str(site), str(Path(torch.origin).parents[1])))
    done = run(sys.executable, "-S", "-c", code, "info", "--json", cwd=site.parent, PYTHONPATH=libraries)
    assert done.stderr.startswith(str(site)), "another copy of the package answered"
    (row,) = (row for row in json.loads(done.stdout)["backends"] if row["name"] == name)
    return dict(row)


def shipped(*patterns: str) -> set[str]:
    """Files of the checkout that match one of the patterns, relative to it."""
    found = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return {str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts}


def package_files() -> set[str]:
    """What every install of the package has, by its names there."""
    data = (
        "liif_fast/py.typed",
        "liif_fast/weights/*",
        "liif_fast/training/configs/**/*.yaml",
        "liif_fast/serve/static/*",
    )
    return shipped("liif_fast/**/*.py", *data) | {f"liif_fast/{name}" for name in shipped("kernels/*.py")}


def test_sdist_holds_all_that_a_build_needs(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = shipped(
        "*.cff",
        "*.md",
        "*.py",
        "*.toml",
        "*.txt",
        "*.yml",
        "LICENSE",
        "Makefile",
        "csrc/**/*",
        "kernels/*.py",
        "docs/**/*",
        "examples/*",
        "tests/**/*",
        "web/*",
    )
    needed |= {name for name in package_files() if not name.startswith("liif_fast/kernels/")}
    assert needed <= names, f"missing from the sdist: {sorted(needed - names)}"
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    assert sdist.stat().st_size < 8e6


@pytest.mark.slow
def test_wheel_with_the_library_runs_it(sdist: Path, tmp_path: Path) -> None:
    wheel = build("wheel", unpacked(sdist, tmp_path), tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    needed = package_files()
    assert needed <= names, f"missing from the wheel: {sorted(needed - names)}"
    assert wheel.stat().st_size < 5e6
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"liif_fast"}

    folder = installed(wheel, tmp_path / "site")
    if f"liif_fast/{library.NAME}" not in names:
        assert not REQUIRED, "the wheel lacks the C++ library"
        pytest.skip("no C++ compiler here: the wheel is pure Python")
    # One wheel for every version of Python and PyTorch.
    assert re.fullmatch(r"liif_fast-.*-py3-none-(?!any).*\.whl", wheel.name)
    assert backend_row("cpu", folder)["usable"]


@pytest.mark.slow
def test_without_a_compiler_it_installs_as_pure_python_and_says_so(sdist: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "no-compiler")
    environment = {"CC": nowhere, "CXX": nowhere, "LIIF_FAST_REQUIRE_CPU": "0"}
    wheel = build("wheel", unpacked(sdist, tmp_path), tmp_path, **environment)
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
    folder = installed(wheel, tmp_path / "site")
    assert backend_row("torch", folder)["usable"]
    cpu = backend_row("cpu", folder)
    assert not cpu["usable"]
    assert "compiler" in cpu["reason"]


def test_library_is_built_where_it_is_required() -> None:
    if not REQUIRED:
        pytest.skip("LIIF_FAST_REQUIRE_CPU is not set: the library is optional here")
    assert library.import_error is None


def test_import_is_light_and_silent(tmp_path: Path) -> None:
    heavy = {"torch", "numpy", "PIL", "safetensors", "tqdm", "triton", "yaml", "liif_fast.native.library"}
    code = f"import sys, liif_fast; print(sorted({heavy!r} & set(sys.modules)))"
    done = run(sys.executable, "-W", "error", "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stdout == "[]\n"
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["LIIF", "query", "accelerate", "make_coord", "available_backends"])
def test_public_names_bring_no_picture_libraries(name: str, tmp_path: Path) -> None:
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        f"import liif_fast; liif_fast.{name}\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "print(sorted(new & {'PIL', 'safetensors', 'tqdm', 'triton', 'yaml', 'matplotlib'}))"
    )
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    for name in liif_fast.__all__:
        assert getattr(liif_fast, name) is not None
    assert set(liif_fast.__all__) <= set(dir(liif_fast))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = liif_fast.nonsense


def test_version_is_said_once() -> None:
    assert importlib.metadata.version("liif_fast") == liif_fast.__version__


def test_what_is_tested_is_pinned() -> None:
    """Every requirement of the package has one exact pin, inside its range."""
    from packaging.requirements import Requirement

    lines = (line.partition("#")[0] for line in (ROOT / "constraints.txt").read_text().splitlines())
    pins = [Requirement(line) for line in lines if line.strip()]
    assert all(len(pin.specifier) == 1 and str(pin.specifier).startswith("==") for pin in pins)
    here = {pin.name.lower().replace("_", "-"): pin for pin in pins if not pin.marker or pin.marker.evaluate()}
    for requirement in map(Requirement, importlib.metadata.requires("liif_fast") or []):
        extras = {"", *(importlib.metadata.metadata("liif_fast").get_all("Provides-Extra") or ())}
        if requirement.name == "liif_fast":
            continue
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        pin = here.get(requirement.name.lower().replace("_", "-"))
        assert pin is not None, f"{requirement.name} has no pin in constraints.txt"
        version = str(pin.specifier).removeprefix("==")
        assert version in requirement.specifier, f"{pin} is outside of {requirement}"
