"""Whether `auto` may take a GPU backend: its first use on a device is compared with PyTorch, and timed once.

The kernels are compiled on the user's machine by whatever compiler is there, so that nothing tested elsewhere says that
they are right or fast on it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from liif_fast import geometry
from liif_fast.backends import pytorch, reference
from liif_fast.backends.call import Query
from liif_fast.box import Box
from liif_fast.geometry import Grid, Window
from liif_fast.params import DecoderParams

Run = Callable[[Query], Tensor]
F = TypeVar("F", bound=Callable[..., Any])

# Largest relative difference from PyTorch that the proof's case may show, in answers and in gradients.
TOLERANCE = {"fp32": 1e-5, "tf32x3": 1e-5, "tf32": 5e-3, "fp16": 5e-3, "bf16": 4e-2}
GRADIENT_TOLERANCE = {"fp32": 1e-4, "tf32x3": 1e-4, "tf32": 5e-2, "fp16": 5e-2, "bf16": 2e-1}
# TF32's threefold form is PyTorch's float32 to the last bits.
PEER_PRECISION = {"tf32x3": "fp32"}
SMALL, LARGE = (10, 21), (192, 192)  # outputs: compared, with ties and edges; timed
ROUNDS = 5


def constant(function: F) -> F:
    """Dynamo's mark for a function whose result does not change while the program runs.

    torch.compiler.assume_constant_result sets the same mark, but imports Dynamo and Triton: a second at every start.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class Form(NamedTuple):
    """What a kernel is compiled for: the decoder's sizes and switches, and the kind of query."""

    channels: int = 64
    width: int = 256
    hidden: int = 4
    out_dim: int = 3
    local_ensemble: bool = True
    feat_unfold: bool = True
    cell_decode: bool = True
    grid: bool = True
    direct: bool = False
    gradient: bool = False


def form_of(params: DecoderParams | None, *, grid: bool, direct: bool, gradient: bool) -> Form:
    """The form of a query to a decoder; without one, to the published decoder."""
    grid, direct = grid and not gradient, direct and not gradient
    if params is None or not params.hidden:
        return Form(grid=grid, direct=direct, gradient=gradient)
    return Form(
        channels=params.channels,
        width=max(params.hidden),
        hidden=len(params.hidden),
        out_dim=params.out_dim,
        local_ensemble=params.local_ensemble,
        feat_unfold=params.feat_unfold,
        cell_decode=params.cell_decode,
        grid=grid,
        direct=direct,
        gradient=gradient,
    )


class Proof:
    """What is known of one backend, by device, precision and form."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.verdicts: dict[tuple[int, str, Form], str | None] = {}

    def reason(self, device: torch.device, precision: str, form: Form, peers: dict[str, Run]) -> str | None:
        """Why `auto` leaves the backend alone, or None: it must agree with PyTorch and be faster than every peer."""
        index = torch.cuda.current_device() if device.index is None else device.index
        case = index, precision, form
        if case not in self.verdicts:
            if torch.cuda.is_current_stream_capturing():
                return "not yet compared with PyTorch on this device; run it once before the capture"
            device = torch.device("cuda", index)
            wrong = disproof(self.run, device, precision, form)
            self.verdicts[case] = wrong or slower(self.run, device, precision, form, peers)
        return self.verdicts[case]


def disproof(run: Run, device: torch.device, precision: str, form: Form) -> str | None:
    """What is wrong with a backend's answers (or gradients) on a device, in a case with edges and ties, or None."""
    differ, tolerance = (_off_gradients, GRADIENT_TOLERANCE) if form.gradient else (_off_answers, TOLERANCE)
    # A first use may come without gradients, in inference mode or under autocast.
    with torch.inference_mode(False), torch.set_grad_enabled(form.gradient), torch.autocast(device.type, enabled=False):
        try:
            worst = differ(run, device, precision, form)
        # Whatever a compiler or driver raises, the answer is to use another backend.
        except Exception as error:
            return f"it failed its first use on this device: {type(error).__name__}: {error}".splitlines()[0]
    if not worst <= tolerance[precision]:
        return f"its first use on this device differed from PyTorch by {worst:.1e} of its values"
    return None


def slower(run: Run, device: torch.device, precision: str, form: Form, peers: dict[str, Run]) -> str | None:
    """Which peer was faster on this device, or None; all have the same question, in turn, several times."""
    with torch.inference_mode(False), torch.set_grad_enabled(form.gradient), torch.autocast(device.type, enabled=False):
        contenders = {"": run, **peers}
        questions = {name: _question(device, precision, form, LARGE, name) for name in contenders}
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(ROUNDS + 1):
            for name, contender in contenders.items():
                took = _milliseconds(contender, questions[name], form.gradient)
                if turn:
                    times[name].append(took)
    medians = {name: statistics.median(values) for name, values in times.items()}
    own = medians.pop("")
    fastest = min(medians, key=lambda name: medians[name], default=None)
    if fastest is None or own <= medians[fastest]:
        return None
    return f"{fastest!r} was faster in its first use on this device: {medians[fastest]:.2f} ms against {own:.2f} ms"


def _milliseconds(run: Run, asked: Query, gradient: bool) -> float:
    """Of one call on the current stream, with its gradients where they are asked for."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    answer = run(asked)
    if gradient:
        torch.autograd.grad(answer.float().sum(), _leaves(asked))
    end.record()
    end.synchronize()
    took: float = start.elapsed_time(end)
    return took


def _decoder(device: torch.device, form: Form, generator: torch.Generator) -> DecoderParams:
    """Random weights that keep the size of the activations."""
    columns = form.channels * (9 if form.feat_unfold else 1) + (4 if form.cell_decode else 2)
    widths = [columns, *[form.width] * form.hidden, form.out_dim]
    weights = [torch.rand(n, m, generator=generator) * 2 - 1 for m, n in pairwise(widths)]
    scaled = tuple((weight * (3 / weight.shape[1]) ** 0.5).to(device) for weight in weights)
    biases = tuple((torch.rand(n, generator=generator) - 0.5).to(device) for n in widths[1:])
    return DecoderParams(
        scaled, biases, form.channels, form.local_ensemble, form.feat_unfold, form.cell_decode
    )  # fmt: skip


def _question(device: torch.device, precision: str, form: Form, size: tuple[int, int], peer: str = "") -> Query:
    """The form's question, the same each time; a peer that reads no features or grids gets it so that it can."""
    generator = torch.Generator().manual_seed(0)
    params = _decoder(device, form, generator)
    height, width = max(1, size[0] // 2), max(1, size[1] // 3)
    feat = (torch.rand(1, form.channels, height, width, generator=generator) * 2 - 1).to(device)
    grid = Grid(size, Box(0, 0, *size))
    plain = peer == pytorch.NAME
    where = grid if form.grid and not plain else geometry.grid_queries(grid, 1, device)
    source = pytorch.DTYPES[precision]
    projected = None
    if not form.direct or plain:
        projected = (torch.rand(1, height, width, form.width, generator=generator) * 2 - 1).to(device, source)
    its = PEER_PRECISION.get(precision, precision) if plain else precision
    asked = Query(feat.to(source), projected, where, params, Window(height, width), its)
    for leaf in _leaves(asked) if form.gradient else []:
        leaf.requires_grad_()
    return asked


def _leaves(asked: Query) -> list[Tensor]:
    assert asked.projected is not None
    return [asked.projected, *asked.params.weights, *asked.params.biases]


def _off_answers(run: Run, device: torch.device, precision: str, form: Form) -> float:
    """Largest difference of the answers from float64 ones, of the largest of those."""
    asked = _question(device, precision, form, SMALL)
    exact = asked._replace(params=_double(asked.params), precision="fp32")
    if isinstance(asked.where, Grid):
        exact = exact._replace(where=geometry.grid_queries(asked.where, 1, device))
    assert not isinstance(exact.where, Grid)
    if asked.projected is None:
        assert asked.feat is not None
        want = reference.query(asked.feat.double(), *exact.where, exact.params)
    else:
        want = pytorch.run(exact._replace(feat=None, projected=asked.projected.double()))
    return float((run(asked) - want).abs().max() / want.abs().max())


def _off_gradients(run: Run, device: torch.device, precision: str, form: Form) -> float:
    """Largest norm of a gradient's difference, relative to its own: a flipped ReLU moves single values far."""
    asked = _question(device, precision, form, SMALL)
    assert asked.projected is not None
    exact = asked._replace(
        feat=None,
        projected=asked.projected.detach().double().requires_grad_(),
        params=_double(asked.params),
        precision="fp32",
    )
    found = [
        torch.autograd.grad(contender(its).square().sum(), _leaves(its))
        for contender, its in ((run, asked), (pytorch.run, exact))
    ]
    return max(float((got - want).norm() / want.norm()) for got, want in zip(*found, strict=True))


def _double(params: DecoderParams) -> DecoderParams:
    weights, biases = (
        tuple(t.detach().double().requires_grad_(t.requires_grad) for t in tensors)
        for tensors in (params.weights, params.biases)
    )
    return DecoderParams(
        weights, biases, params.channels, params.local_ensemble, params.feat_unfold, params.cell_decode
    )  # fmt: skip
