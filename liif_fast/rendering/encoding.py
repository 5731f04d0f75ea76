"""The feature map of one picture, given out in parts: encoded tile by tile with an exact halo, or whole."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from liif_fast.errors import UsageError
from liif_fast.models.rolling import Rolling, rollable, row_floats
from liif_fast.rendering.tiling import Span, widen

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
INTEGER_MAX = {torch.uint8: 255, torch.uint16: 65_535}
STRIP = 2**23  # bytes of a strip's feature map: what goes into a convolution and comes out of it stays in a cache
LEAST_ROWS = 8  # of a strip: thinner ones are mostly rows kept from the one before
KEPT_ROWS = 8  # of features, for the next part: neighbours of its first queries, unfolded, are before this one's end
STRIP_COPIES = 6  # a layer's rows without and with those kept, its answer, a skip's rows twice, the features


class LazyPixels(Protocol):
    """Pixels [1, C, H, W] that are read when they are sliced; what is used of a tensor's own interface."""

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    device: torch.device

    def expand(self, *sizes: int) -> LazyPixels:
        """One channel given sizes[1] times."""

    def __getitem__(self, key: tuple[slice, slice, slice, slice]) -> Tensor: ...


Pixels = Tensor | LazyPixels


class Encoding:
    """What a model's encoder makes of inp [1, C, H, W] (in [0, 1], or uint8 / uint16 standing for that).

    radius: how many input pixels away an input still changes a feature; None where that is the whole picture, which
        is then encoded at once, when its features are first asked for.
    ask_model: the map is the model's own `gen_feat`, kept by it too, rather than its encoder's.

    `rolling` says that parts of the same columns, asked for from top to bottom, cost no row of the encoder twice.
    """

    def __init__(self, model: nn.Module, inp: Pixels, *, whole: bool = False, ask_model: bool = False) -> None:
        check_input(inp, model)
        encoder = encoder_of(model)
        self.inp = inp
        self.encode: Any = getattr(model, "gen_feat", encoder) if ask_model else encoder
        self.radius: int | None = None if whole or ask_model else getattr(encoder, "receptive_radius", None)
        self.zoom = int(getattr(encoder, "scale", 1))
        self.device, self.dtype = placement(model, inp)
        self.sub, self.div = norm(model, "inp", self.device)
        self._whole: tuple[str, Tensor] | None = None
        plain = self.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        self.rolling = plain and self.radius is not None and rollable(encoder)
        self._roll: _Roll | None = None

    def shape(self, precision: str) -> tuple[int, int]:
        """(H, W) of the whole feature map."""
        sides = self.inp.shape[-2:] if self.radius is not None else self.whole(precision).shape[-2:]
        zoom = self.zoom if self.radius is not None else 1
        return sides[0] * zoom, sides[1] * zoom

    @property
    def divisible(self) -> bool:
        """Whether smaller parts take less memory: not where the whole is yet to be encoded."""
        return self.radius is not None or self._whole is not None

    def part(self, rows: Span, cols: Span, precision: str) -> Tensor:
        """Features rows x cols of the whole map: [1, out_dim, h, w], equal to that part of it."""
        if self.radius is None:
            return self.whole(precision)[:, :, rows.start : rows.stop, cols.start : cols.stop]
        ys, xs = self._seen(rows, 0), self._seen(cols, 1)
        if self.rolling:
            return self._rolled(rows, ys, xs)[:, :, :, cols.start - xs.start : cols.stop - xs.start]
        with encoder_precision(self.device, precision):
            feat: Tensor = self.encode(self._normalised(ys, xs))
        top, left = ys.start * self.zoom, xs.start * self.zoom
        return feat[:, :, rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]

    def whole(self, precision: str) -> Tensor:
        """The whole feature map, computed once (again for another precision)."""
        if self._whole is None or self._whole[0] != precision:
            self._whole = None
            with encoder_precision(self.device, precision):
                feat = self.encode(self._normalised(Span(0, self.inp.shape[-2]), Span(0, self.inp.shape[-1])))
            self._whole = precision, feat
        return self._whole[1]

    def forget(self) -> None:
        """The whole map is computed again when it is next asked for."""
        self._whole = None

    def column_bytes(self) -> int:
        """Memory that `rolling` takes for each column of input pixels, beside that of a part's pixels."""
        return 4 * (row_floats(self.encode) + STRIP_COPIES * LEAST_ROWS * int(self.encode.out_dim))

    def _rolled(self, rows: Span, ys: Span, xs: Span) -> Tensor:
        """The features `rows` of all columns xs; they depend on the input ys x xs."""
        # Taken away meanwhile: where memory runs out in the middle, what has been kept belongs to different rows.
        roll, self._roll = self._roll, None
        if roll is None or roll.cols != xs or not roll.first <= rows.start <= roll.end:
            roll = _Roll(Rolling(self.encode), xs, ys.start, ys.start)
        height = min(rows.stop - rows.start, STRIP // (4 * self.encode.out_dim * (xs.stop - xs.start)))
        height = max(LEAST_ROWS, height)
        found = [] if roll.feat is None else [roll.feat[:, :, rows.start - roll.first :]]
        end = roll.end
        while end < rows.stop:
            strip = Span(roll.seen, min(roll.seen + height, self.inp.shape[2]))
            found.append(roll.encoder(self._normalised(strip, xs), last=strip.stop == self.inp.shape[2]))
            roll.seen, end = strip.stop, end + found[-1].shape[2]
        feat = torch.cat(found, dim=2)
        feat = feat[:, :, feat.shape[2] - (end - rows.start) :]
        roll.first = max(rows.start, rows.stop - KEPT_ROWS)
        roll.feat, self._roll = feat[:, :, roll.first - rows.start :].clone(), roll
        return feat[:, :, : rows.stop - rows.start]

    def _seen(self, span: Span, axis: int) -> Span:
        """The input pixels of one axis that a span of features depends on."""
        assert self.radius is not None
        under = Span(span.start // self.zoom, -(-span.stop // self.zoom))
        return widen(under, self.radius, self.inp.shape[2 + axis])

    def _normalised(self, rows: Span, cols: Span) -> Tensor:
        part = self.inp[:, :, rows.start : rows.stop, cols.start : cols.stop].to(self.device)
        # Convolutions on a CPU take a quarter less time on channels that lie together (EDSR-baseline, AVX-512). The
        # copy lays them so: contiguous() would keep the strides of a picture whose channels lie together already,
        # which convolutions do not recognise, and then they sum small windows in another order than large ones.
        layout = torch.channels_last if self.device.type == "cpu" else torch.preserve_format
        # A fresh tensor, since it is changed in place.
        part = part.to(torch.promote_types(self.dtype, torch.float32), copy=True, memory_format=layout)
        return part.div_(INTEGER_MAX.get(self.inp.dtype, 1)).sub_(self.sub).div_(self.div).to(self.dtype)


@dataclass
class _Roll:
    """A rolling encoder of the columns `cols`: it has had input rows before `seen` and keeps features from `first`."""

    encoder: Rolling
    cols: Span
    seen: int
    first: int
    feat: Tensor | None = None

    @property
    def end(self) -> int:
        return self.first + (0 if self.feat is None else self.feat.shape[2])


def encoder_of(model: nn.Module) -> nn.Module:
    """The model's encoder, the model itself where it has none."""
    encoder = getattr(model, "encoder", None)
    return encoder if isinstance(encoder, nn.Module) else model


def input_channels(model: nn.Module) -> int:
    """Channels of the pictures that the model takes: those of its encoder's first layer, 3 where that is unknown."""
    encoder = encoder_of(model)
    head = getattr(encoder, "head", None)
    # The published encoders list an unused layer for RGB before their first one.
    for module in (head if isinstance(head, nn.Module) else encoder).modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3


def check_input(inp: Pixels, model: nn.Module) -> None:
    """UsageError unless inp is one picture that the model's encoder takes."""
    channels = input_channels(model)
    known = inp.dtype.is_floating_point or inp.dtype in INTEGER_MAX
    if len(inp.shape) != 4 or inp.shape[0] != 1 or inp.shape[1] != channels or 0 in inp.shape or not known:
        raise UsageError(
            f"inp: expected one picture [1, {channels}, H, W], floating or uint8 or uint16, "
            f"got {inp.dtype} {list(inp.shape)}"
        )


def placement(model: nn.Module, inp: Pixels) -> tuple[torch.device, torch.dtype]:
    """Where and in which type the model computes."""
    parameter = next(model.parameters(), None)
    return (inp.device, torch.float32) if parameter is None else (parameter.device, parameter.dtype)


def norm(model: nn.Module, key: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """(sub, div), each [C, 1, 1], of the model's data_norm; the published 0.5 where it has none."""
    given: Any = getattr(model, "data_norm", None) or {}
    values = given.get(key, {"sub": [0.5], "div": [0.5]})
    sub, div = (torch.tensor(values[name], device=device).view(-1, 1, 1) for name in ("sub", "div"))
    return sub, div


def encoder_precision(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast around an encoder: off for float32; half precision is imposed only where convolutions gain by it."""
    if precision not in HALF:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast("cuda", dtype=HALF[precision]) if device.type == "cuda" else contextlib.nullcontext()
