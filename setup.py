"""Packages and the optional C++ extension; everything else stands in pyproject.toml."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).resolve().parent
COMPILE_ARGS = [
    "-std=c++20",
    "-O3",
    "-fopenmp",
    # Geometry must round after every operation, as PyTorch does; kernels ask for fused multiply-adds by name.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-g0",
    # GCC warns about its own AVX-512 headers.
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
]


def extension() -> dict[str, Any]:
    """setup() arguments that build liif_fast._C, or nothing when there is no torch to build against."""
    if sys.platform != "linux":
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        warnings.warn(
            f"liif_fast: installing without the C++ extension, torch is not there to build with: {error}", stacklevel=1
        )
        return {}

    class OptionalBuildExtension(BuildExtension):
        """Without a compiler or ninja the package installs as pure Python; `liif-fast info` says so."""

        def run(self) -> None:
            try:
                super().run()
            except Exception as error:
                if os.environ.get("LIIF_FAST_REQUIRE_CPU") == "1":
                    raise
                self.extensions = []
                warnings.warn(f"liif_fast: installing without the C++ extension: {error}", stacklevel=1)

    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.cpp"))
    headers = sorted(str(path) for path in (ROOT / "csrc").rglob("*.h"))
    module = CppExtension(
        "liif_fast._C",
        sources,
        include_dirs=[str(ROOT / "csrc")],
        depends=headers,
        extra_compile_args=COMPILE_ARGS,
        extra_link_args=["-fopenmp"],
    )
    module.optional = os.environ.get("LIIF_FAST_REQUIRE_CPU") != "1"
    return {"ext_modules": [module], "cmdclass": {"build_ext": OptionalBuildExtension}}


setup(
    # Folders of data are packages to setuptools, so "namespace"; no __pycache__ is.
    packages=sorted({*find_namespace_packages(include=["liif_fast*"], exclude=["*__pycache__*"]), "liif_fast.kernels"}),
    # The sources stand in kernels/; the link liif_fast/kernels serves a bare checkout and editors, this the installs.
    package_dir={"liif_fast.kernels": "kernels"},
    **extension(),
)
