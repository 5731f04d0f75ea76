"""What each backend can do, in which precision: the support matrix of docs/backends.md, from the backends' table."""

from __future__ import annotations

import torch

from liif_fast import backends
from liif_fast.backends import pytorch

DEVICES = {
    "reference": "any",
    "torch": "any",
    "cpu": "CPU",
    "triton": "CUDA, compute capability 8.0 or newer",
    "cuda": "CUDA, compute capability 9.0",
}
NOTES = {("cpu", "fp16"): "fp16 (computed in fp32)", ("torch", "tf32"): "tf32 (CUDA)"}
OPERATIONS = {
    "query": "`query`, `LIIF`: forward",
    "gradients": "gradients of features, weights, biases",
    "places": "gradients of coordinates and cells",
    "second": "second derivatives",
    "compile": "`torch.compile`, forward and gradients",
    "grid": "`query_grid`, `upscale`: forward",
}
ORDER = (*backends.FUSED, pytorch.NAME, "reference")


def precisions(name: str) -> list[str]:
    """What a backend computes in, on the device that it is for; none for the reference, which follows the features."""
    if name in backends.FUSED:
        return list(backends.FUSED[name].PRECISIONS)
    device = torch.device("cuda")
    return [p for p in backends.PRECISIONS[1:] if backends.unusable_reason(name, device, p) is None] * (
        name == pytorch.NAME
    )


def way(operation: str, name: str) -> str:
    """How a backend does an operation: `itself`, `through torch` where that backend does it instead, or `no`."""
    if name not in backends.FUSED or operation in ("query", "grid"):
        return "itself"
    fused = backends.FUSED[name].BACKWARD
    if operation == "places" or (operation in ("gradients", "second") and not fused):
        return "through torch"
    return "no" if operation == "second" and fused else "itself"


def matrix() -> str:
    """The Markdown table."""
    words = {"itself": "yes", "through torch": "through `torch`", "no": "no"}
    lines = [f"| | {' | '.join(f'`{name}`' for name in ORDER)} |", "|---" * (len(ORDER) + 1) + "|"]
    lines.append(f"| device | {' | '.join(DEVICES[name] for name in ORDER)} |")
    kinds = [", ".join(NOTES.get((name, p), p) for p in precisions(name)) or "that of the features" for name in ORDER]
    lines.append(f"| precision, of all below | {' | '.join(kinds)} |")
    for operation, title in OPERATIONS.items():
        lines.append(f"| {title} | {' | '.join(words[way(operation, name)] for name in ORDER)} |")
    return "\n".join(lines)
