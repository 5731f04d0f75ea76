"""What gpu_report times: shapes, and every contender as a function without arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.contenders import CHUNK
from benchmarks.decoder import FLOP_PER_PIXEL
from liif_fast import functional
from liif_fast.backends import cuda, reference
from liif_fast.backends.call import Query
from liif_fast.box import Box
from liif_fast.geometry import Grid, Window, grid_queries
from liif_fast.kernels import launch, tuning
from liif_fast.params import DecoderParams

CHANNELS = 64
WIDTHS = (580, 256, 256, 256, 256, 3)


class Shape(NamedTuple):
    """A map and what is asked of it: a grid where `queries` is None, else random coordinates."""

    name: str
    batch: int
    side: int
    out: int
    queries: int | None = None


SHAPES = (
    Shape("x2 512 to 1024", 1, 512, 1024),
    Shape("x4 512 to 2048", 1, 512, 2048),
    Shape("x8 256 to 2048", 1, 256, 2048),
    Shape("training 16 x 48 x 48, 2304 random", 16, 48, 0, 2304),
)
TRAINING = (Shape("gradients 16 x 48 x 48, 2304 random", 16, 48, 0, 2304),)
SMOKE = (Shape("smoke", 1, 4, 8), Shape("smoke random", 2, 4, 0, 5))
SMOKE_TRAINING = (Shape("smoke gradients", 2, 4, 0, 5),)


class Problem:
    """One shape's tensors, and every contender as a function without arguments."""

    flop = FLOP_PER_PIXEL

    def __init__(self, shape: Shape, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        pairs = list(zip(WIDTHS[1:], WIDTHS[:-1], strict=True))
        weights = [(torch.rand(n, m, generator=generator) * 2 - 1) * m**-0.5 for n, m in pairs]
        biases = [(torch.rand(n, generator=generator) * 2 - 1) * m**-0.5 for n, m in pairs]
        moved = [tuple(t.to(device) for t in tensors) for tensors in (weights, biases)]
        self.params = DecoderParams(moved[0], moved[1], CHANNELS)
        feat = torch.rand(shape.batch, CHANNELS, shape.side, shape.side, generator=generator) * 2 - 1
        self.feat = feat.to(device).contiguous(memory_format=torch.channels_last)
        self.name, self.size = shape.name, (shape.out, shape.out)
        if shape.queries is None:
            self.coord, cell = grid_queries(Grid(self.size, Box(0, 0, *self.size)), shape.batch, device)
        else:
            random = torch.rand(shape.batch, shape.queries, 2, generator=generator) * 2 - 1
            self.coord, cell = random.to(device), torch.full((shape.batch, shape.queries, 2), 0.01, device=device)
        self.cell = cell.contiguous()
        self.grid = shape.queries is None
        self.count = shape.batch * self.coord.shape[1]

    def contenders(self, compiled: bool) -> dict[str, Callable[[], Tensor]]:
        found: dict[str, Callable[[], Tensor]] = {
            "published fp32": self._published("highest"),
            "published tf32": self._published("high"),
            "published autocast fp16": self._published("highest", autocast=True),
            "torch fp16": self._backend("torch"),
            "triton fp16 projected": self._backend("triton", "projected"),
            "triton fp16 direct": self._backend("triton", "direct"),
            "triton fp32 projected": self._backend("triton", "projected", precision="fp32"),
            "triton tf32x3 projected": self._backend("triton", "projected", precision="tf32x3"),
        }
        if cuda.unusable_reason(self.feat.device, "fp16") is None:
            found["cuda fp16"] = self._backend("cuda", "projected")
        if compiled:
            found["published fp32 compiled"] = self._published("highest", compiled=True)
            found["torch fp16 compiled"] = self._backend("torch", compiled=True)
        return found

    def _published(self, matmul: str, autocast: bool = False, compiled: bool = False) -> Callable[[], Tensor]:
        ask = torch.compile(reference.query) if compiled else reference.query

        def run() -> Tensor:
            torch.set_float32_matmul_precision(matmul)
            with torch.no_grad(), torch.autocast(self.feat.device.type, dtype=torch.float16, enabled=autocast):
                parts = [
                    ask(self.feat, self.coord[:, q : q + CHUNK], self.cell[:, q : q + CHUNK], self.params)
                    for q in range(0, self.coord.shape[1], CHUNK)
                ]
            torch.set_float32_matmul_precision("highest")
            return torch.cat(parts, dim=1)

        return run

    def _backend(
        self, backend: str, prologue: str = "auto", compiled: bool = False, precision: str = "fp16"
    ) -> Callable[[], Tensor]:
        def ask() -> Tensor:
            options: dict[str, Any] = {"backend": backend, "precision": precision, "prologue": prologue}
            if self.grid and not compiled:
                return functional.query_grid(self.feat, self.size, self.params, **options)
            return functional.query(self.feat, self.coord, self.cell, self.params, **options)

        return torch.no_grad()(torch.compile(ask) if compiled else ask)

    def kernel_only(self) -> dict[str, Callable[[], Tensor]]:
        """The kernels without projection, packing and checks, which are timed but give no new answer."""
        found = {}
        for precision in ("fp16", "bf16"):
            projected = functional.project(self.feat, self.params, precision).to(launch.DTYPES[precision])
            found[f"triton {precision} kernel alone"] = self._kernel(projected, precision)
            if cuda.unusable_reason(projected.device, precision) is None:
                where = Grid(self.size, Box(0, 0, *self.size)) if self.grid else (self.coord, self.cell)
                asked = Query(None, projected, where, self.params, Window(*self.feat.shape[2:]), precision)
                found[f"cuda {precision} kernel alone"] = partial(cuda.run, asked)
        return found

    def _kernel(self, projected: Tensor, precision: str) -> Callable[[], Tensor]:
        _, rest = self.params.split()
        tile = tuning.tile_for(projected, precision, direct=False, width=256)
        packed = launch.pack(
            None, rest, self.params.weights[1:], self.params.biases, launch.DTYPES[precision], tile.block_c
        )
        where = Grid(self.size, Box(0, 0, *self.size)) if self.grid else (self.coord, self.cell)
        options: dict[str, Any] = {"local_ensemble": True, "cell_decode": True, "precision": precision, "tile": tile}
        window = Window(*self.feat.shape[2:])
        return lambda: launch.forward(projected, where, packed, WIDTHS[1], WIDTHS[-1], window, **options)


class Training(Problem):
    """The same with gradients: each contender answers with that of the features, after those of every weight."""

    flop = 3 * FLOP_PER_PIXEL

    def __init__(self, shape: Shape, device: torch.device) -> None:
        super().__init__(shape, device)
        self.leaves = [self.feat, *self.params.weights, *self.params.biases]
        for leaf in self.leaves:
            leaf.requires_grad_()
        self.grad = torch.rand(shape.batch, self.coord.shape[1], WIDTHS[-1], device=device) * 2 - 1

    def contenders(self, compiled: bool) -> dict[str, Callable[[], Tensor]]:
        found = {
            "published fp32": self._step(reference.query),
            "published autocast fp16": self._step(reference.query, autocast=True),
            "torch autocast fp16": self._step(functional.query, autocast=True, backend="torch"),
            "triton autocast fp16": self._step(functional.query, autocast=True, backend="triton"),
        }
        if compiled:
            query = torch.compile(functional.query)
            found["torch autocast fp16 compiled"] = self._step(query, autocast=True, backend="torch")
        return found

    def kernel_only(self) -> dict[str, Callable[[], Tensor]]:
        return {}

    def _step(self, query: Callable[..., Tensor], autocast: bool = False, **options: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.autocast(self.feat.device.type, dtype=torch.float16, enabled=autocast):
                answer = query(self.feat, self.coord, self.cell, self.params, **options)
            return torch.autograd.grad(answer, self.leaves, self.grad.to(answer.dtype))[0]

        return run
