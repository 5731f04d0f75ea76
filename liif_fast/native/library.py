"""The C++ part: loads its library where it was built, and says what it can run here (csrc/interface.h)."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from ctypes import POINTER, c_char_p, c_int, c_int32, c_int64, c_void_p
from pathlib import Path

INTERFACE = 1  # LIIF_INTERFACE of csrc/interface.h
NAME = {"win32": "liif_fast.dll", "darwin": "libliif_fast.dylib"}.get(sys.platform, "libliif_fast.so")


class Query(ctypes.Structure):
    """struct liif_query."""

    _fields_ = (
        *((name, c_void_p) for name in ("projected", "coord", "cell", "rest")),
        ("weights", POINTER(c_void_p)),
        ("biases", POINTER(c_void_p)),
        ("widths", POINTER(c_int64)),
        *((name, c_int64) for name in ("layers", "batch", "queries", "height", "width")),
        *((name, c_int64) for name in ("full_height", "full_width", "top", "left")),
        ("local_ensemble", c_int32),
        ("threads", c_int32),
        ("arithmetic", c_char_p),
    )


_FUNCTIONS = {
    "liif_interface": (c_int, []),
    "liif_compiler": (c_char_p, []),
    "liif_machine": (c_char_p, []),
    "liif_arithmetics": (c_char_p, [c_char_p]),
    "liif_has_bf16": (c_int, []),
    "liif_has_winograd": (c_int, []),
    "liif_answer": (c_char_p, [POINTER(Query), c_void_p, c_void_p]),
    "liif_tile_queries": (c_int64, [c_int32]),
    "liif_kept_bytes": (c_int64, [POINTER(c_int64), c_int64]),
    "liif_backward": (c_char_p, [POINTER(Query), *[c_void_p] * 4, POINTER(c_void_p), POINTER(c_void_p)]),
    "liif_layer": (c_char_p, [*[c_void_p] * 3, *[c_int64] * 3, c_char_p, c_int32, c_void_p]),
    "liif_winograd": (c_char_p, [*[c_void_p] * 4, *[c_int64] * 5, c_int32, c_int32, c_void_p]),
    "liif_winograd_weight": (c_char_p, [*[c_void_p] * 2, *[c_int64] * 5, c_int32, c_void_p, c_void_p]),
}


_PACKAGE = Path(__file__).resolve().parent.parent
# LIIF_FAST_LIBRARY names another file (`make sanitize`).
PATH = Path(os.environ.get("LIIF_FAST_LIBRARY") or _PACKAGE / NAME)


def _load(path: Path) -> ctypes.CDLL:
    """The library, or OSError that says why there is none."""
    if not path.exists():
        raise OSError(f"{path.name} was not built")
    found = ctypes.CDLL(str(path))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(found, name, None)
        if function is None:
            raise OSError(f"{path.name} has no {name}: it is of another version")
        function.restype, function.argtypes = result, arguments
    if found.liif_interface() != INTERFACE:
        raise OSError(f"{path.name} has interface {found.liif_interface()}, expected {INTERFACE}")
    return found


# Why the library is absent, or None.
import_error: str | None = None
lib: ctypes.CDLL | None = None
try:
    lib = _load(PATH)
except OSError as error:
    import_error = str(error)


def loaded() -> ctypes.CDLL:
    """The library, or RuntimeError where there is none."""
    if lib is None:
        raise RuntimeError(f"the C++ part is not there: {import_error}")
    return lib


def arithmetics(precision: str) -> list[str]:
    """What the C++ decoder can compute a precision with on this processor, best first (see csrc/layers/arithmetic.h).

    precision: "fp32", "bf16", or "any" for everything that runs.
    """
    names = "" if lib is None else lib.liif_arithmetics(precision.encode()).decode()
    return names.split(",") if names else []


def compiler() -> str:
    """The compiler that built the library, and the machine that it is for."""
    return f"{loaded().liif_compiler().decode()} for {loaded().liif_machine().decode()}"


# The arithmetics of 16-bit fixed point.
FIXED_POINT = frozenset({"vnni-int16", "avx2-int16"})
# Looked up once: torch.compile traces through the choice of a backend.
HAS_BF16 = lib is not None and bool(lib.liif_has_bf16())
HAS_WINOGRAD = lib is not None and bool(lib.liif_has_winograd())
BEST = {precision: next(iter(arithmetics(precision)), "") for precision in ("fp32", "bf16")}


def _source() -> str:
    """What pip was given to install this package, as far as that is known."""
    if (_PACKAGE.parent / "setup.py").exists():
        return f"-e {shlex.quote(str(_PACKAGE.parent))}"
    try:
        known = json.loads(importlib.metadata.distribution("liif_fast").read_text("direct_url.json") or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        known = {}
    return shlex.quote(str(known.get("url", "liif_fast")))


def unusable_reason() -> str | None:
    """Why the C++ decoder cannot run here and what would help, in one line; None when it can."""
    if import_error is not None:
        again = f"pip install --force-reinstall --no-deps {_source()}"
        if not PATH.exists():
            return f"the C++ library is not built ({import_error}); install a C++ compiler, then run: {again}"
        return f"the C++ library cannot be loaded ({import_error}); build it for this machine: {again}"
    if not BEST["fp32"]:
        return (
            f"this processor ({platform.machine()}) has no instructions that the C++ decoder is written for, which are "
            "AVX2 with FMA or AVX-512; another processor would help"
        )
    return None
