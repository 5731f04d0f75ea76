"""From tensors to a launch of the Hopper kernel (csrc/cuda/decoder.cu): packing, sizes, arguments."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from liif_fast.backends.call import Call
from liif_fast.box import Box
from liif_fast.geometry import SHIFT_EPS, Grid, Window
from liif_fast.kernels import driver, kept, nvrtc

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
WIDTHS = (64, 128, 256)
OUTPUTS = 8
CLUSTER = 2  # blocks that share each stage of weights
STEP = 64  # input channels of a stage
THREADS = 384
SHARED = 227 * 1024  # of a block
FAR = 2**31  # queries of a picture that are counted in 64 bits
MOST_STAGES = {64: 12, 128: 12, 256: 6}


class Build(NamedTuple):
    """What a kernel is compiled for."""

    width: int
    hidden: int
    outputs: int
    corners: int
    cell: bool
    grid: bool
    far: bool
    bf16: bool

    @property
    def updates(self) -> int:
        """Vectors of layer one: bias, dy, dx and, but on a grid, both of the cell."""
        return 5 if self.cell and not self.grid else 3

    @property
    def fixed(self) -> int:
        """Bytes of shared memory beside the ring: alignment, last layer, vectors, last bias, barriers."""
        vectors = (self.updates + self.hidden - 1) * self.width * 2
        return 1024 + 16 * self.width + vectors + 32 + 16 * MOST_STAGES[self.width]

    @property
    def stages(self) -> int:
        """Stages of the ring."""
        return min(MOST_STAGES[self.width], (SHARED - self.fixed) // (self.width * STEP * 2))

    @property
    def shared(self) -> int:
        return self.fixed + self.stages * self.width * STEP * 2

    def macros(self) -> dict[str, int]:
        values = {name.upper(): int(value) for name, value in self._asdict().items()}
        return {**values, "CLUSTER": CLUSTER, "STAGES": self.stages}


class Packed(NamedTuple):
    """Weights as the kernel reads them."""

    stages: Tensor  # [layers * steps, width, 64], swizzled
    last: Tensor  # [width / 64, 8, 64], swizzled
    updates: Tensor  # [3 or 5, width] float32
    biases: Tensor  # [hidden - 1, width] of the layers between, halves
    last_bias: Tensor  # [8] float32


def padded_width(width: int) -> int:
    """The width that hidden layers of this width are computed in. ValueError above 256."""
    for known in WIDTHS:
        if width <= known:
            return known
    raise ValueError(f"expected a width up to {WIDTHS[-1]}, got {width}")


def most_hidden(width: int) -> int:
    """Hidden layers whose biases leave room for a ring of two stages."""
    fixed = Build(width, 1, 1, 4, True, False, False, False).fixed
    return 1 + (SHARED - fixed - 2 * width * STEP * 2) // (2 * width)


def forward(call: Call) -> Tensor:
    """One launch: [B, Q, out_dim] float32. The call is that of a projected map in fp16 or bf16."""
    dtype, window = DTYPES[call.precision], Window(*call.window)
    width = padded_width(call.rest.shape[0])
    source = call.source.to(dtype)
    gap = width - source.shape[3]
    source = F.pad(source, (0, gap)) if gap else source
    # Gathers take 16 bytes: channels side by side, pixels on multiples of eight halves.
    if source.stride(3) != 1 or any(stride % 8 for stride in source.stride()[:3]) or source.data_ptr() % 16:
        source = source.contiguous()
    batch, queries = source.shape[0], _queries(call)
    build = Build(
        width, len(call.biases) - 1, call.biases[-1].shape[0], 4 if call.local_ensemble else 1,
        call.rest.shape[1] == 4, call.grid is not None, queries >= FAR, dtype == torch.bfloat16,
    )  # fmt: skip
    weights = kept.kept([call.rest, *call.weights, *call.biases], ("hopper", dtype), lambda: pack(call, width, dtype))
    vectors = _vectors(weights, call, window, build, dtype)
    out = torch.empty(batch, queries, build.outputs, dtype=torch.float32, device=source.device)
    per_cluster = 2 * CLUSTER * 64 // build.corners
    picture_tiles = -(-queries // per_cluster)
    arguments = _arguments(call, source, weights, vectors, out, window, (batch * picture_tiles, picture_tiles))
    given = [t for t in (source, call.coord, call.cell, *weights, vectors, out) if t is not None]
    blocks = CLUSTER * max(1, min(batch * picture_tiles, _processors(source.device) // CLUSTER))
    driver.launch(driver.Launch("liif_decoder", code(build), blocks, THREADS, build.shared, arguments, given))
    return out


def _queries(call: Call) -> int:
    if call.grid is None:
        assert call.coord is not None
        return call.coord.shape[1]
    return call.grid[4] * call.grid[5]


def _processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@lru_cache(maxsize=64)
def code(build: Build, arch: str = "sm_90a") -> bytes:
    """The kernel's machine code, or PTX for "compute_90a"."""
    kind = "bf16" if build.bf16 else "f16"
    header = {"wgmma.h": _product("wgmma_hidden", build.width, kind) + _product("wgmma_last", OUTPUTS, kind)}
    return nvrtc.compiled(_source(), header, build.macros(), arch)


def _source() -> str:
    """The kernel's text: beside this file in an installed package, in csrc/ in a checkout."""
    here = Path(__file__).resolve().parent
    places = (here / "cuda" / "decoder.cu", here.parent / "csrc" / "cuda" / "decoder.cu")
    return next(place for place in places if place.exists()).read_text(encoding="utf-8")


def _product(name: str, columns: int, kind: str) -> str:
    """CUDA text of one wgmma instruction, which names every register of its sums."""
    count = columns // 2
    sums = ", ".join(f"%{k}" for k in range(count))
    outputs = ", ".join(f'"+f"(sums[{k}])' for k in range(count))
    return (
        f"__device__ __forceinline__ void {name}(float* sums, const unsigned* a, unsigned long long b, bool adds) {{\n"
        f'  asm volatile("{{\\n.reg .pred adds;\\nsetp.ne.b32 adds, %{count + 5}, 0;\\n"\n'
        f'    "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{kind}.{kind} "\n'
        f'    "{{{sums}}}, {{%{count}, %{count + 1}, %{count + 2}, %{count + 3}}}, %{count + 4}, adds, 1, 1, 0;\\n}}"\n'
        f'    : {outputs}\n    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)adds));\n}}\n'
    )


@torch.no_grad()
def pack(call: Call, width: int, dtype: torch.dtype) -> Packed:
    """The decoder's weights, padded with zeros, in the kernel's order."""
    gap = width - call.rest.shape[0]
    inner = [F.pad(weight, (0, gap, 0, gap)) for weight in call.weights[:-1]]
    last = F.pad(call.weights[-1], (0, gap, 0, OUTPUTS - call.weights[-1].shape[0]))
    # Layer one's lanes hold other channels than wgmma's fragments name: the next layer's columns follow them.
    order = torch.tensor(_fragment_order(width), device=last.device)
    if inner:
        inner[0] = inner[0][:, order]
    else:
        last = last[:, order]
    stages = torch.cat([_swizzled(weight.to(dtype)) for weight in inner]) if inner else last.new_zeros(8).to(dtype)
    updates = torch.cat([call.biases[0].unsqueeze(0), call.rest.t()]).float()
    between = [F.pad(bias, (0, gap)).to(dtype) for bias in call.biases[1:-1]]
    return Packed(
        stages,
        _swizzled(last.to(dtype)),
        F.pad(updates, (0, gap)),
        torch.stack(between) if between else last.new_zeros(0, width).to(dtype),
        F.pad(call.biases[-1], (0, OUTPUTS - call.biases[-1].shape[0])).float(),
    )


def _fragment_order(width: int) -> list[int]:
    """Which channel lies at each place of operand A after layer one: a lane reads eight in a row at a time."""
    order = []
    for place in range(width):
        block, within = divmod(place, 16)
        high, lane, odd = within // 8, within % 8 // 2, within % 2
        order.append(32 * (block // 2) + 8 * lane + 4 * (block % 2) + 2 * high + odd)
    return order


def _swizzled(matrix: Tensor) -> Tensor:
    """[out, in] -> [in / 64, out, 64]; 16-byte pieces of a row change places by the row's number, as wgmma reads."""
    rows = matrix.shape[0]
    pieces = matrix.view(rows, -1, 8, 8).transpose(0, 1)  # [steps, rows, pieces, halves]
    row = torch.arange(rows, device=matrix.device).view(1, rows, 1, 1)
    piece = torch.arange(8, device=matrix.device).view(1, 1, 8, 1)
    return torch.take_along_dim(pieces, piece ^ row % 8, dim=2).contiguous()


@torch.no_grad()
def _vectors(weights: Packed, call: Call, window: Window, build: Build, dtype: torch.dtype) -> Tensor:
    """Layer one's vectors and the biases between, as halves; on a grid the cell is the same for all and in the bias."""
    updates = weights.updates
    if build.cell and build.grid:
        assert call.grid is not None
        cell = [2 / call.grid[axis] * window[axis] for axis in (0, 1)]
        first = updates[0] + updates[3] * cell[0] + updates[4] * cell[1]
        updates = torch.cat([first.unsqueeze(0), updates[1:3]])
    return torch.cat([updates.to(dtype), weights.biases])


def _arguments(
    call: Call, source: Tensor, weights: Packed, vectors: Tensor, out: Tensor, window: Window, tiles: tuple[int, int]
) -> bytes:
    """The struct `Arguments` of the kernel."""
    grid = None if call.grid is None else Grid((call.grid[0], call.grid[1]), Box(*call.grid[2:]))
    pointers = [source.data_ptr(), *source.stride()[:3], *_strided(call.coord), *_strided(call.cell)]
    pointers += [t.data_ptr() for t in (weights.stages, weights.last, vectors, weights.last_bias, out)]
    axes = [_axis(window[axis], call.local_ensemble, None if grid is None else grid.size[axis]) for axis in (0, 1)]
    box = (0, 0, 1) if grid is None else (grid.box.top, grid.box.left, grid.box.width)
    return struct.pack(
        "<18q14f9i4x", *pointers, out.shape[1], *axes[0], *axes[1],
        window.top, window.left, source.shape[1], source.shape[2], *box, *tiles,
    )  # fmt: skip


def _strided(tensor: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0, 0) if tensor is None else (tensor.data_ptr(), *tensor.stride())


def _axis(size: int, local_ensemble: bool, output: int | None) -> tuple[float, ...]:
    """The struct `Axis`: float64 numbers that are rounded once, as PyTorch rounds a scalar."""
    shift, eps = (2 / size / 2, SHIFT_EPS) if local_ensemble else (0.0, 0.0)
    grid: Sequence[Any] = (0.0, 0.0) if output is None else (-1 + 1 / output, 2 / output)
    return (size, -shift + eps, shift + eps, -1 + 1 / size, 2 / size, *grid)
