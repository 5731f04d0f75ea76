"""The decoder as functions: check, settle the precision, choose a backend, call it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from liif_fast import backends
from liif_fast.backends import module, proof, pytorch, reference
from liif_fast.backends.call import Coordinates, Query
from liif_fast.box import Box
from liif_fast.errors import UsageError
from liif_fast.geometry import Grid, Window, grid_queries
from liif_fast.native import convolution
from liif_fast.native.tracing import autocast_dtype, is_traced, needs_plain_operations, without_autocast
from liif_fast.params import DecoderParams, Switches

__all__ = ["Window", "project", "query", "query_grid", "query_module", "resolve_precision"]

PROLOGUES = ("auto", "direct", "projected")
HALF = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def resolve_precision(precision: str, tensor: Tensor) -> str:
    """The precision that "auto" means: autocast's, else the tensor's own, else torch's float32 matmul setting."""
    if precision not in backends.PRECISIONS:
        raise UsageError(f"precision: expected one of {', '.join(backends.PRECISIONS)}, got {precision!r}")
    if precision != "auto":
        return precision
    autocast = autocast_dtype(tensor.device)
    if autocast is not None:
        return HALF.get(autocast, "fp32")
    if tensor.dtype in HALF:
        return HALF[tensor.dtype]
    return "tf32" if tensor.is_cuda and multiplies_in_tf32() else "fp32"


@proof.constant
def multiplies_in_tf32() -> bool:
    """Whether torch is set to multiply float32 matrices of a GPU in TF32, by its older setting or its newer one."""
    # torch 2.9 and newer refuse to tell the older setting once the newer one was used.
    newer = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    return torch.get_float32_matmul_precision() != "highest" if newer is None else newer == "tf32"


def project(feat: Tensor, params: DecoderParams, precision: str = "auto") -> Tensor:
    """Layer one's features columns applied to the whole map, once for each input pixel.

    feat [B, C, H, W] -> [B, H, W, N0], contiguous, without bias: one convolution with zero padding, which equals the
    linear layer on the unfolded features. Serves every query of this map; differentiable. On the CPU it is float32 (or
    float64) whatever the precision, since it is a small share of the work there; for bf16 with gradients by
    `convolution.convolve` where that fits.
    """
    check_feat(feat, params)
    precision = resolve_precision(precision, feat)
    dtype = pytorch.DTYPES[precision] if feat.device.type != "cpu" else torch.float32
    dtype = torch.float64 if feat.dtype == torch.float64 else dtype
    kernel, _ = params.split()
    learning = precision == "bf16" and dtype == torch.float32 and _needs_grad(feat, kernel)
    plain = needs_plain_operations(feat, kernel)
    learning = learning and not feat.is_cuda and not plain
    with without_autocast(feat.device):
        if learning and convolution.fits(feat.shape[1], kernel.shape[0], tuple(kernel.shape[2:])):
            projected: Tensor = convolution.convolve(feat.float(), kernel.float(), None)
            return projected.permute(0, 2, 3, 1).contiguous()
        feat = feat.to(dtype)
        if not plain:
            feat = feat.contiguous(memory_format=torch.channels_last)
        exact = feat.is_cuda and precision in ("fp32", "tf32x3")
        convolve = _float32_convolution if exact else convolution.steady_conv2d
        projected = convolve(feat, kernel.to(dtype), padding=[kernel.shape[-1] // 2] * 2)
    return projected.permute(0, 2, 3, 1).contiguous()


def _float32_convolution(feat: Tensor, kernel: Tensor, padding: list[int]) -> Tensor:
    """conv2d that never rounds to TF32, which cuDNN's convolutions do unless a global switch forbids it."""
    result: Tensor = _Float32Convolution.apply(feat, kernel, padding)  # type: ignore[no-untyped-call]
    return result


class _Float32Convolution(torch.autograd.Function):
    """Forward and backward by an operator that takes cuDNN's TF32 switch; its own backward reads the global one."""

    @staticmethod
    def forward(ctx: Any, feat: Tensor, kernel: Tensor, padding: list[int]) -> Tensor:
        ctx.save_for_backward(feat, kernel)
        ctx.padding = padding
        cudnn = torch.backends.cudnn
        deterministic = cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
        tail = (cudnn.benchmark, deterministic, cudnn.enabled, False)
        sides = [1, 1], padding, [1, 1]
        result: Tensor = torch.ops.aten._convolution(feat, kernel, None, *sides, False, [0, 0], 1, *tail)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Convolutions again: of the gradient with the turned kernel, and of the features with the gradient."""
        feat, kernel = ctx.saved_tensors
        d_feat = d_kernel = None
        if ctx.needs_input_grad[0]:
            turned = kernel.flip(2, 3).transpose(0, 1)
            rest = [side - 1 - pad for side, pad in zip(kernel.shape[2:], ctx.padding, strict=True)]
            d_feat = _float32_convolution(grad, turned, rest)
        if ctx.needs_input_grad[1]:
            d_kernel = _float32_convolution(feat.transpose(0, 1), grad.transpose(0, 1), ctx.padding).transpose(0, 1)
        return d_feat, d_kernel, None


def query(
    feat: Tensor | None,
    coord: Tensor,
    cell: Tensor | None,
    params: DecoderParams,
    *,
    backend: str = "auto",
    precision: str = "auto",
    projected: Tensor | None = None,
    window: Window | None = None,
    prologue: str = "auto",
) -> Tensor:
    """The signal at each coordinate, s_q (paper, equation 4).

    Args:
        feat: ``[B, C, H, W]``, the feature map. It may be None when `projected` is given.
        coord: ``[B, Q, 2]``, (y, x), the map spanning [-1, 1]; used as float32.
        cell: ``[B, Q, 2]``, height and width of the pixel asked for, in the same unit; used as float32. It may be None
            without `cell_decode`, or be ``[B, 2]`` or ``[B, 1, 2]``. B may be 1 for coord and cell where a batch is
            asked at the same points.
        params: the MLP's weights and the three switches.
        backend: "auto" or a name of `available_backends()`.
        precision: "auto", "fp32", "tf32x3", "tf32", "fp16" or "bf16".
        projected: ``[B, h, w, N0]``, what `project` makes of the map or of a part of it.
        window: which part of the map `projected` is; every neighbour of every query must lie inside it.
        prologue: "projected" applies layer one to the whole map first, "direct" (backend `triton`) unfolds the
            features inside the kernel, "auto" takes what costs less for this many queries.

    Returns:
        ``[B, Q, out_dim]`` in the dtype of `feat`, float32 under autocast. Gradients of every argument are right
        whatever the backend: those of `coord` and `cell` go through `torch`, and so do all gradients of a backend
        without a backward of its own.

    Raises:
        UsageError: arguments that do not fit.
        BackendError: the backend that was asked for cannot run.
    """
    source = _source(feat, projected, params)
    where = _check_query(source, coord, cell, params.cell_decode)
    plain = source.dtype == torch.float64 or coord.shape[1] == 0 or _needs_grad(coord, cell) or _plain(source, params)
    gradient = _needs_grad(feat, projected, *params.weights, *params.biases)
    asked = Query(
        feat, projected, where, params, window or _whole(feat, projected), resolve_precision(precision, source)
    )
    return _answer(asked, backend, prologue, plain, gradient)


def query_module(
    feat: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    imnet: nn.Module,
    switches: Switches,
    *,
    precision: str = "auto",
) -> Tensor:
    """`query` with the MLP called as a module, whatever it does; slower, on any device, differentiable as it is.

    Args:
        feat: ``[B, C, H, W]``, the feature map.
        coord: as for `query`.
        cell: as for `query`.
        imnet: maps rows ``[N, columns]`` to ``[N, out_dim]``, the columns as in `DecoderParams`; where it is made of
            convolutions of 1 x 1, it is given ``[B, columns, Q, 1]``.
        switches: how it is asked.
        precision: "auto", "fp32", "tf32x3", "tf32", "fp16" or "bf16".

    Returns:
        ``[B, Q, out_dim]`` in the dtype of `feat`, float32 under autocast.

    Raises:
        UsageError: arguments that do not fit.
    """
    if feat.dim() != 4 or not feat.is_floating_point():
        raise UsageError(f"feat: expected a floating tensor [B, C, H, W], got {feat.dtype} {list(feat.shape)}")
    where = _check_query(feat, coord, cell, switches.cell_decode)
    resolve_precision(precision, feat)
    return module.query(feat, where, imnet, switches, precision).to(_answer_dtype(feat))


def query_grid(
    feat: Tensor | None,
    size: tuple[int, int],
    params: DecoderParams,
    *,
    box: Box | None = None,
    backend: str = "auto",
    precision: str = "auto",
    projected: Tensor | None = None,
    window: Window | None = None,
    prologue: str = "auto",
) -> Tensor:
    """`query` at the pixels of a regular output, with the same numbers as for `make_coord` and `make_cell`.

    The `triton` backend makes no coordinate tensors. Gradients go through `torch`.

    Args:
        feat: as for `query`.
        size: (H, W) of the whole output.
        params: as for `query`.
        box: only this part of the output.
        backend: as for `query`.
        precision: as for `query`.
        projected: as for `query`.
        window: as for `query`.
        prologue: as for `query`.

    Returns:
        ``[B, pixels, out_dim]``, row by row.

    Raises:
        UsageError: arguments that do not fit.
        BackendError: the backend that was asked for cannot run.
    """
    source = _source(feat, projected, params)
    height, width = size
    box = Box(0, 0, height, width) if box is None else box
    if min(height, width, *box[2:]) < 1 or min(box[:2]) < 0 or box.bottom > height or box.right > width:
        raise UsageError(f"box: expected a part of a {height} x {width} output, got {tuple(box)}")
    plain = source.dtype == torch.float64 or _needs_grad(feat, projected, *params.weights, *params.biases)
    plain = plain or _plain(source, params)
    precision, window = resolve_precision(precision, source), window or _whole(feat, projected)
    asked = Query(feat, projected, Grid(size, box), params, window, precision)
    return _answer(asked, backend, prologue, plain, False)


def _answer(asked: Query, backend: str, prologue: str, plain: bool, gradient: bool) -> Tensor:
    """Choose the backend, project the features where it reads a projection, and ask it.

    plain, gradient: see `backends.select`.
    """
    feat, projected, where, params, window, precision = asked
    source = projected if feat is None else feat
    assert source is not None
    few = projected is None and prologue != "projected" and (prologue == "direct" or _few(asked))
    form = proof.form_of(params, grid=isinstance(where, Grid), direct=few, gradient=gradient)
    name = backends.select(backend, source.device, precision, params, plain=plain, gradient=gradient, form=form)
    direct = projected is None and _direct(prologue, name, few, gradient)
    if name == "reference" and not isinstance(where, Grid) and where[0].shape[1] == 0:
        name = pytorch.NAME  # The published code cannot tell the columns of no rows.
    if isinstance(where, Grid) and name not in backends.FUSED:
        where = grid_queries(where, source.shape[0], source.device)
    if name == "reference":
        run = _reference
    else:
        run = backends.FUSED.get(name, pytorch).run
        if projected is None and not direct:
            projected = project(source, params, precision)
    # Not by _replace, which torch.compile of PyTorch 2.6 and 2.7 cannot trace.
    result = run(Query(feat, projected, where, params, window, precision))
    return result.to(torch.float32 if feat is None and source.dtype != torch.float64 else _answer_dtype(source))


def _answer_dtype(feat: Tensor) -> torch.dtype:
    return feat.dtype if autocast_dtype(feat.device) is None else torch.float32


def _reference(asked: Query) -> Tensor:
    feat = asked.feat
    if feat is None or asked.window != _whole(feat, None):
        raise UsageError("backend 'reference' expects the whole feature map, got a projection or a window")
    assert not isinstance(asked.where, Grid)
    return reference.query(feat, *asked.where, asked.params)


def _whole(feat: Tensor | None, projected: Tensor | None) -> Window:
    """The window that is the whole map."""
    if feat is not None:
        return Window(feat.shape[2], feat.shape[3])
    assert projected is not None
    return Window(projected.shape[1], projected.shape[2])


def _source(feat: Tensor | None, projected: Tensor | None, params: DecoderParams) -> Tensor:
    if feat is not None:
        check_feat(feat, params)
        return feat
    if projected is None:
        raise UsageError("query: expected feat or projected, got neither; give the feature map or its projection")
    return projected


def _direct(prologue: str, name: str, few: bool, gradient: bool) -> bool:
    """Whether the kernel unfolds the features itself; its gradients are those of a projected map."""
    if prologue not in PROLOGUES:
        raise UsageError(f"prologue: expected one of {', '.join(PROLOGUES)}, got {prologue!r}")
    able = name in backends.FUSED and backends.FUSED[name].DIRECT and not gradient
    if prologue == "direct" and not able:
        when = " for gradients" if gradient else ""
        raise UsageError(
            f"prologue: backend {name!r} reads projected maps only{when}; use 'projected', or backend='triton'"
        )
    return able and few


def _few(asked: Query) -> bool:
    """Whether the queries are so few that unfolding inside the kernel costs less than projecting the whole map.

    Projecting applies layer one's feature columns once for each pixel of the map, the direct form once for each of the
    four neighbours of each query, and reads its features again for each of four chunks of columns. A traced graph must
    serve any number of queries.
    """
    if torch.compiler.is_compiling():
        return False
    queries = asked.where.box.pixels if isinstance(asked.where, Grid) else asked.where[0].shape[1]
    return 16 * queries < asked.window.height * asked.window.width


def check_feat(feat: Tensor, params: DecoderParams) -> None:
    """UsageError unless feat is a floating [B, params.channels, H, W] with H, W >= 1."""
    fits = feat.dim() == 4 and feat.shape[1] == params.channels and feat.is_floating_point()
    if not fits or feat.shape[2] < 1 or feat.shape[3] < 1:
        raise UsageError(
            f"feat: expected a floating tensor [B, {params.channels}, H, W] with H, W >= 1, "
            f"got {feat.dtype} {list(feat.shape)}"
        )


def _check_query(source: Tensor, coord: Tensor, cell: Tensor | None, cell_decode: bool) -> Coordinates:
    """coord and cell [B, Q, 2] in the geometry's dtype, or UsageError."""
    if cell_decode and cell is None:
        raise UsageError("cell: expected [B, Q, 2] because cell_decode is on, got None; use make_cell((H, W))")
    batch = source.shape[0]
    _check_points("coord", coord, source)
    # Rounding coordinates to half precision would choose other pixels, so only float64 features use another dtype.
    dtype = torch.float64 if source.dtype == coord.dtype == torch.float64 else torch.float32
    coord = coord.to(dtype).expand(batch, -1, -1)
    if not cell_decode or cell is None:
        return coord, None
    if cell.dim() == 2:
        cell = cell.unsqueeze(1)
    _check_points("cell", cell, source)
    if cell.shape[1] not in (1, coord.shape[1]):
        raise UsageError(f"cell: expected one for each of {coord.shape[1]} queries, got {list(cell.shape)}")
    return coord, cell.to(dtype).expand(coord.shape)


def _check_points(name: str, value: Tensor, source: Tensor) -> None:
    if value.dim() != 3 or value.shape[-1] != 2 or value.shape[0] not in (1, source.shape[0]):
        raise UsageError(
            f"{name}: expected [B, Q, 2] with B={source.shape[0]} as in the feature map (or 1), got {list(value.shape)}"
        )
    if value.device != source.device or not value.is_floating_point():
        raise UsageError(
            f"{name}: expected floating [B, Q, 2] on {source.device}, "
            f"got {value.dtype} {list(value.shape)} on {value.device}"
        )
    # A data-dependent branch cannot be traced, and on a GPU it would wait for the device.
    if source.device.type == "cpu" and not is_traced() and not _all_finite(value):
        raise UsageError(f"{name}: expected finite values, got NaN or infinity; drop those queries")


def _all_finite(value: Tensor) -> bool:
    # One reduction instead of a mask: any NaN or infinity makes the sum of x - x a NaN.
    return bool((value.detach() - value.detach()).sum() == 0)


def _plain(source: Tensor, params: DecoderParams) -> bool:
    return needs_plain_operations(source, params.weights[0])


def _needs_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
