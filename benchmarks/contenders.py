"""Who computes a shape: every backend that can run here, the published arithmetic and its peers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.problem import Problem
from benchmarks.shapes import Shape
from liif_fast import backends, functional
from liif_fast.backends import reference

CHUNK = 30_000  # queries at a time in the published demo
ONNX = ("onnx", "onnxruntime", "onnxscript")
Call = Callable[[], list[Tensor]]
Ask = Callable[[Tensor, Tensor], Tensor]  # (coord, cell) -> answers


def half(device: torch.device) -> str:
    """The half precision of a device."""
    return "bf16" if device.type == "cpu" else "fp16"


def names(shape: Shape, device: torch.device, published: Path | None = None) -> list[str]:
    """The contenders of a shape, the baseline first.

    A backend's name is followed by its precision; one that cannot run here is absent (`missing` says why).
    """
    precisions = ("fp32", half(device))
    found = ["reference"]
    for backend in backends.NAMES[1:]:
        found += [f"{backend} {p}" for p in precisions if backends.unusable_reason(backend, device, p) is None]
    if published is not None and (shape.peers or shape.backward):
        found.append("published")
    if shape.peers:
        found += ["reference compiled", "torch fp32 compiled"]
        if device.type == "cuda":
            found.append("reference fp16 autocast")
        if not shape.backward and device.type == "cpu" and _onnx_reason() is None:
            found.append("onnxruntime")
    return found


def missing(device: torch.device) -> dict[str, str]:
    """Who cannot run here, and why."""
    reasons = {name: backends.unusable_reason(name, device) for name in backends.NAMES}
    reasons["onnxruntime"] = _onnx_reason()
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _onnx_reason() -> str | None:
    return None if all(map(find_spec, ONNX)) else "not installed: pip install 'liif_fast[bench]'"


def build(name: str, problem: Problem, published: Path | None = None) -> Call:
    """What a contender does: the answers [B, Q, out_dim], or with `backward` the gradients of map, weights, biases.

    Without gradients the published arithmetic runs in chunks of up to 30,000 queries, as its demo does, here of equal
    size, so that compiling it once is enough; every backend takes all queries at once and projects the map itself.
    """
    feat, params = problem.feat, problem.params
    leaves, context = problem.leaves, torch.autocast(problem.device.type, enabled=False)
    queries = problem.coord.shape[1]
    chunk = -(-queries // -(-queries // CHUNK))
    ask: Ask
    if name == "onnxruntime":
        from benchmarks.onnx_peer import session

        ask = session(problem)
    elif name == "published":
        from benchmarks import published as their

        assert published is not None
        model = their.load(published, params)
        layers = model.imnet.layers[::2]
        leaves = [feat, *(layer.weight for layer in layers), *(layer.bias for layer in layers)]
        ask = their.ask(model, feat)
    elif name.startswith("reference"):
        query = torch.compile(reference.query) if name.endswith("compiled") else reference.query
        if name.endswith("autocast"):
            context = torch.autocast(problem.device.type, dtype=torch.float16)

        def ask(coord: Tensor, cell: Tensor) -> Tensor:
            return query(feat, coord, cell, params)
    else:
        backend, precision, *compiled = name.split()
        chunk = queries
        whole = partial(functional.query, feat, params=params, backend=backend, precision=precision)
        ask = torch.compile(whole) if compiled else whole

    def forward() -> list[Tensor]:
        starts = range(0, queries, chunk)
        with torch.no_grad(), context:
            parts = [ask(problem.coord[:, q : q + chunk], problem.cell[:, q : q + chunk]) for q in starts]
        return [torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]]

    def gradients() -> list[Tensor]:
        with context:
            answer = ask(problem.coord, problem.cell)
        return list(torch.autograd.grad(answer, leaves, problem.grad.to(answer.dtype)))

    return gradients if problem.shape.backward else forward


def check(name: str, got: list[Tensor], want: list[Tensor]) -> float:
    """How far a result is from the reference's; SystemExit when it is not the same.

    Answers: the largest difference. Gradients: the largest error of a norm, relative; float32 has one too where another
    order of addition takes a unit across the zero of its ReLU.
    """
    low = is_half(name)
    norms = max(float((a.float() - b).norm() / b.norm()) for a, b in zip(got, want, strict=True))
    if len(want) > 1:
        error, allowed = norms, 1e-1 if low else 5e-3
    elif low:
        error, allowed = norms, 1e-2
    else:
        error, allowed = float((got[0] - want[0]).abs().max()), float(want[0].abs().max()) * 3e-6 + 1e-6
    if not error <= allowed:
        raise SystemExit(f"{name}: expected the reference's result within {allowed:.1e}, got {error:.1e}")
    return error if len(want) > 1 else float((got[0].float() - want[0]).abs().max())


def is_half(name: str) -> bool:
    """Whether a contender or a bare product computes in 16 bits."""
    return any(part in name for part in ("bf16", "fp16", "int16"))
