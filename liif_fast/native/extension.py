"""The compiled part: loads liif_fast._C where it was built and says what it can run here."""

from __future__ import annotations

import torch

# Why the extension is absent, or None.
import_error: str | None = None
try:
    # This form and not `from liif_fast import _C`, which hides the true reason behind a circular import.
    import liif_fast._C  # type: ignore[import-not-found]  # noqa: F401
except ImportError as error:
    import_error = str(error)


def arithmetics(precision: str) -> list[str]:
    """What the C++ decoder can compute a precision with on this processor, best first (see csrc/layers/layer.h).

    precision: "fp32", "bf16", or "any" for everything that runs.
    """
    if import_error is not None:
        return []
    found: list[str] = torch.ops.liif_fast.cpu_arithmetics(precision)
    return found


# The arithmetics of 16-bit fixed point.
FIXED_POINT = frozenset({"vnni-int16", "avx2-int16"})
# Looked up once: torch.compile traces through the choice of a backend.
HAS_BF16 = import_error is None and bool(torch.ops.liif_fast.cpu_has_bf16())
BEST = {precision: next(iter(arithmetics(precision)), "") for precision in ("fp32", "bf16")}
