"""Packages and the C++ library; everything else stands in pyproject.toml.

The library (csrc/interface.h) knows neither Python nor PyTorch, so that one wheel serves every version of both. To
build it takes a C++ compiler only; without one, or with LIIF_FAST_PURE=1, the package is pure Python. Environment
variables:

CXX, CXXFLAGS            the compiler, and more flags
LIIF_FAST_DEV=1          warnings are errors
LIIF_FAST_REQUIRE_CPU=1  so is a library that cannot be built
LIIF_FAST_TARGET         a key of TARGETS: cross-compiles by `python -m ziglang c++` (PyPI ziglang)
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
COMPILE_ARGS = [
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fopenmp-simd",
    # Geometry must round after every operation, as PyTorch does; kernels ask for fused multiply-adds by name.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    # GCC warns about its own AVX-512 headers.
    "-Wno-uninitialized",
]
GCC_ARGS = ["-Wno-maybe-uninitialized"]
# Clang does not vectorise the maximum of fixed_point.h, which is no loss.
CLANG_ARGS = ["-Wno-pass-failed"]


# The kernels' sources stand in kernels/, where the link liif_fast/kernels serves a bare checkout and editors, and in
# csrc/cuda/, whose text is compiled at run time; this serves the installs.
ELSEWHERE = {"liif_fast.kernels": "kernels", "liif_fast.kernels.cuda": "csrc/cuda"}


class Target(NamedTuple):
    """What zig calls a machine, what a wheel does, and what the library's file is called there."""

    zig: str
    tag: str
    file: str = "libliif_fast.so"


TARGETS = {
    "linux-x86_64": Target("x86_64-linux-gnu.2.28", "manylinux_2_28_x86_64"),
    "linux-aarch64": Target("aarch64-linux-gnu.2.28", "manylinux_2_28_aarch64"),
    "macos-arm64": Target("aarch64-macos.11.0", "macosx_11_0_arm64", "libliif_fast.dylib"),
    "windows-x86_64": Target("x86_64-windows-gnu", "win_amd64", "liif_fast.dll"),
}


def target() -> Target | None:
    name = os.environ.get("LIIF_FAST_TARGET")
    if name and name not in TARGETS:
        raise SystemExit(f"LIIF_FAST_TARGET: expected one of {', '.join(TARGETS)}, got {name!r}")
    return TARGETS[name] if name else None


def compiler() -> list[str]:
    """The command that compiles, and what every call of it is given."""
    given = shlex.split(os.environ.get("CXXFLAGS", ""))
    wanted = target()
    if wanted is not None:
        return [sys.executable, "-m", "ziglang", "c++", "-target", wanted.zig, *CLANG_ARGS, *given]
    command = shlex.split(os.environ.get("CXX") or "c++")
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    return [*command, *(GCC_ARGS if "Free Software Foundation" in version else CLANG_ARGS), *given]


def file_name() -> str:
    wanted = target()
    if wanted is not None:
        return wanted.file
    return {"win32": "liif_fast.dll", "darwin": "libliif_fast.dylib"}.get(sys.platform, "libliif_fast.so")


class BuildLibrary(build_ext):
    """Compiles csrc/ into one shared library inside of the package."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path("liif_fast") / file_name())

    def get_ext_fullpath(self, ext_name: str) -> str:
        base = ROOT if self.inplace else Path(self.build_lib)
        return str(base / self.get_ext_filename(ext_name))

    def build_extension(self, ext: Extension) -> None:
        try:
            self._build(ext.sources, Path(self.get_ext_fullpath(ext.name)))
        except (OSError, subprocess.CalledProcessError) as error:
            if os.environ.get("LIIF_FAST_REQUIRE_CPU") == "1":
                raise
            problem = getattr(error, "stderr", None) or error
            warnings.warn(f"liif_fast: installing without the C++ library: {problem}", stacklevel=1)

    def _build(self, sources: list[str], library: Path) -> None:
        command = compiler()
        flags = [*COMPILE_ARGS, f"-I{ROOT / 'csrc'}", *(["-Werror"] if os.environ.get("LIIF_FAST_DEV") == "1" else [])]
        folder = Path(self.build_temp) / (os.environ.get("LIIF_FAST_TARGET") or "here")

        def compile_one(source: str) -> Path:
            made = folder / Path(source).with_suffix(".o")
            made.parent.mkdir(parents=True, exist_ok=True)
            call = [*command, *flags, "-c", str(ROOT / source), "-o", str(made)]
            done = subprocess.run(call, capture_output=True, text=True, check=True)
            sys.stderr.write(done.stderr)
            return made

        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
            objects = [str(made) for made in pool.map(compile_one, sources)]
        library.parent.mkdir(parents=True, exist_ok=True)
        # A process may have the old library loaded: it keeps that file, and this is a new one.
        fresh = library.with_name(f".{library.name}.new")
        link = [*command, "-shared", *self._link_args(command), *objects, "-o", str(fresh)]
        subprocess.run(link, capture_output=True, text=True, check=True)
        fresh.replace(library)

    def _link_args(self, command: list[str]) -> list[str]:
        if any(part.startswith("-fsanitize") for part in command):
            return ["-pthread"]
        if file_name().endswith(".so"):
            own = [] if target() else ["-static-libstdc++", "-static-libgcc"]
            return [*own, "-pthread", "-Wl,-z,noexecstack", "-s"]
        return ["-s"]


class Wheel(bdist_wheel):
    """py3-none-PLATFORM: the library is loaded by ctypes, whatever the Python."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = not self.distribution.has_ext_modules()

    def get_tag(self) -> tuple[str, str, str]:
        wanted = target()
        platform = wanted.tag if wanted else sysconfig.get_platform().replace("-", "_").replace(".", "_")
        built = (Path(self.bdist_dir) / "liif_fast" / file_name()).exists()
        return ("py3", "none", platform if built else "any")


def library() -> dict[str, Any]:
    """setup() arguments that build the library."""
    if os.environ.get("LIIF_FAST_PURE") == "1":
        return {}
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.cpp"))
    headers = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.h"))
    return {"ext_modules": [Extension("liif_fast.library", sources, depends=headers)]}


setup(
    # Folders of data are packages to setuptools, so "namespace"; no __pycache__ is.
    packages=sorted({*find_namespace_packages(include=["liif_fast*"], exclude=["*__pycache__*"]), *ELSEWHERE}),
    package_dir=ELSEWHERE,
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": Wheel},
    **library(),
)
