"""A whole picture through a model in bounded memory: encoder tiles with an exact halo, bands of queries.

Each output pixel belongs to exactly one tile. A tile encodes only the input that its queries can see (the encoder's
receptive radius, the unfolding, the neighbours) and asks at slices of the whole output's coordinates, so that tiles
and whole agree to float32's rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from liif_fast import backends, functional, geometry
from liif_fast.box import Box
from liif_fast.errors import LiifError, UsageError
from liif_fast.geometry import Grid, Window, grid_queries
from liif_fast.models import metasr
from liif_fast.params import DecoderParams, linear_layers
from liif_fast.rendering.encoding import STRIP_COPIES, Encoding, Pixels, encoder_of, input_channels, norm, placement
from liif_fast.rendering.tiling import (
    SMALLEST,
    Span,
    check_tile,
    core_sides,
    feature_span,
    halves,
    parse_memory,
    strip_rows,
    tiles,
    widen,
)

Progress = Callable[[int, int], None]
Decode = Callable[[Box], Tensor]

MEMORY = 5 * 2**27  # bytes of working memory on the CPU, where nothing else is asked for
BAND = 2**17  # queries at a time: their coordinates, cells and answers are small beside a tile
PLAIN_BAND = 30_000  # the published demo's, for decoders that hold all activations of a band
MODEL = "model"  # stands for a backend where only the model itself knows its decoder


class Held(NamedTuple):
    """What the receiver of tiles keeps of the output, to be counted as working memory.

    row_bytes: of one row of the output; rows: how many it keeps beside those of the tiles being made.
    """

    row_bytes: int
    rows: int


NOTHING = Held(0, 0)


def render(
    model: nn.Module,
    inp: Tensor,
    size: tuple[int, int],
    box: Box | None = None,
    *,
    backend: str = "auto",
    precision: str = "auto",
    tile: int | None = None,
    memory: int | str | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """The picture that the model makes of inp at size (H, W), or the part `box` of it.

    inp: [1, C, h, w] in [0, 1], or uint8 / uint16 standing for that; normalised by the model's `data_norm`.
    tile: side of a tile in input pixels, without its halo; otherwise it follows from memory.
    memory: bytes (or "1.5G") of working memory beside the input, the output and the model: 640 MiB by default on the
        CPU, half of what is free on a GPU. An encoder that sees the whole picture needs what it needs.
    progress: called with (output pixels done, all output pixels) after each band.

    Returns [1, out_dim, H, W] (or the box's size) float32 in [0, 1], on inp's device.
    Raises UsageError for arguments that do not fit, BackendError for a backend that cannot run, LiifError when memory
    does not suffice for the smallest tile or the model gives no numbers even in float32.
    """
    box = Box(0, 0, *size) if box is None else box
    result: Tensor | None = None
    options: dict[str, Any] = {"backend": backend, "precision": precision, "tile": tile, "memory": memory}
    for part, values in pieces(model, inp, size, box, progress=progress, **options):
        if result is None:
            result = torch.empty(1, values.shape[0], box.height, box.width, device=inp.device)
        top, left = part.top - box.top, part.left - box.left
        result[0, :, top : top + part.height, left : left + part.width] = values
    assert result is not None
    return result


def pieces(
    model: nn.Module,
    inp: Pixels | Sequence[Pixels],
    size: tuple[int, int],
    box: Box | None = None,
    *,
    backend: str = "auto",
    precision: str = "auto",
    tile: int | None = None,
    memory: int | str | None = None,
    held: Held = NOTHING,
    progress: Progress | None = None,
) -> Iterator[tuple[Box, Tensor]]:
    """The tiles of `render` one after another: (place in the whole output, [out_dim, height, width] float32).

    The rows of tiles follow each other from top to bottom, the tiles in a row from left to right. Several pictures of
    one size may be given: their values then lie one after another, [pictures * out_dim, height, width], and progress
    counts the pixels of all.
    """
    pictures = tuple(inp) if isinstance(inp, Sequence) else (inp,)
    jobs = [Job(model, picture, size, backend, precision) for picture in pictures]
    box = Box(0, 0, *size) if box is None else box
    todo = tiles(box, *jobs[0].tile_sides(box, tile, memory, held))[::-1]
    done = 0

    def report(before: int, pixels: int) -> None:
        if progress is not None:
            progress(before + pixels, box.pixels * len(jobs))

    training = model.training
    model.eval()
    try:
        while todo:
            part = todo[-1]
            answers: list[Tensor] = []

            for number, job in enumerate(jobs):
                values = job.attempt(part, partial(report, done + number * part.pixels))
                if values is None:
                    job.check_divisible(part)
                    # What did not fit now would not fit for the other tiles either.
                    todo = [half for whole in todo for half in halves(whole)[::-1]]
                    break
                answers.append(values)
            else:
                todo.pop()
                done += part.pixels * len(jobs)
                yield part, answers[0] if len(answers) == 1 else torch.cat(answers)
    finally:
        model.train(training)


def settle(model: nn.Module, backend: str = "auto", precision: str = "auto") -> tuple[str, str]:
    """The backend and the precision that would render with this model ("model" where it decodes by itself).

    Raises UsageError or BackendError for what is unknown or cannot run.
    """
    job = Job(model, torch.zeros(1, input_channels(model), 1, 1), (1, 1), backend, precision)
    return job.backend, job.precision


class Job:
    """One picture, one model, one output grid."""

    def __init__(self, model: nn.Module, inp: Pixels, size: tuple[int, int], backend: str, precision: str) -> None:
        self.model, self.inp, self.size = model, inp, size
        self.device, dtype = placement(model, inp)
        self.params = _decoder_params(model)
        self.nearest = getattr(model, "imnet", self) is None
        backend = getattr(model, "backend", "auto") if backend in ("auto", MODEL) else backend
        precision = getattr(model, "precision", "auto") if precision == "auto" else precision
        self.precision = functional.resolve_precision(precision, torch.empty(0, dtype=dtype, device=self.device))
        self.backend = backends.select(backend, self.device, self.precision, self.params)
        if self.params is None and not self.nearest:
            self.backend = MODEL
        whole = self.backend == "reference" and not self.nearest
        self.metasr = model if isinstance(model, metasr.MetaSR) else None
        ask_model = self.backend == MODEL and self.metasr is None
        self.encoding = Encoding(model, inp, whole=whole, ask_model=ask_model)
        self.gt_sub, self.gt_div = norm(model, "gt", inp.device)

    # -- how large -----------------------------------------------------------------------------------------------

    def tile_sides(self, box: Box, tile: int | None, memory: int | str | None, held: Held = NOTHING) -> tuple[int, int]:
        """Output rows and columns of a tile."""
        budget = self._budget(memory)
        height, width = self.inp.shape[-2:]
        halo, tallest = (self.encoding.radius or 0) + 3, height
        if tile is None and held.row_bytes:
            # The receiver keeps whole rows of tiles: a quarter is for them.
            rows = min(box.height, max(1, budget // 4 // held.row_bytes - held.rows))
            tallest = max(1, rows * height // self.size[0])
            budget = max(budget // 4, budget - held.row_bytes * (held.rows + rows))
        # A quarter is for the answers, see below.
        inside, pixel = budget * 3 // 4, self._bytes_per_pixel()
        strip = strip_rows(width, inside, self.encoding.column_bytes(), pixel) if self.encoding.rolling else 0
        if tile is not None:
            core = check_tile(tile), tile
        elif strip:
            core = min(tallest, strip), width
        else:
            core = core_sides(height, width, halo, inside // pixel, tallest)
        rows = min(box.height, max(1, core[0] * self.size[0] // height))
        cols = min(box.width, max(1, core[1] * self.size[1] // width))
        # The answers in float32, what is made of them, and the copies between.
        decoder = self.params or self.metasr
        most = max(SMALLEST**2, budget // 4 // (8 * (decoder.out_dim if decoder else 3) + 16))
        if strip:
            rows = max(1, min(rows, most // cols))
        if tile is None and rows * cols > most:
            cols = min(cols, max(int(most**0.5), most // rows))
            rows = max(1, min(rows, most // cols))
        return rows, cols

    def _bytes_per_pixel(self) -> int:
        """An input pixel's share of a tile's peak, which is in the encoder or where its features are projected."""
        encoder = encoder_of(self.model)
        convolutions = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
        widest = max((m.in_channels + m.out_channels for m in convolutions), default=64)
        features = int(getattr(encoder, "out_dim", widest))
        # Input and output of the widest layer, each also in the layout that the library computes in, and two skips.
        encoding = 0 if self.encoding.radius is None else 2 * widest + 2 * features
        encoding = STRIP_COPIES * features if self.encoding.rolling else encoding
        projecting = 2 * features + (0 if self.params is None else self.params.weights[0].shape[0])
        if self.metasr is not None:
            projecting += self.metasr.matrix_size
        return 4 * self.encoding.zoom**2 * max(encoding, projecting)

    def _budget(self, memory: int | str | None) -> int:
        if memory is not None:
            return parse_memory(memory)
        return int(torch.cuda.mem_get_info(self.device)[0] // 2) if self.device.type == "cuda" else MEMORY

    def check_divisible(self, part: Box) -> None:
        """LiifError where a tile that did not fit into memory cannot be made smaller."""
        if not self.encoding.divisible:
            raise LiifError(
                f"out of memory on {self.device}: this model encodes the whole picture at once; free memory, or cut "
                "the picture into pieces"
            )
        height, width = self.inp.shape[-2:]
        core = max(part.height * height / self.size[0], part.width * width / self.size[1])
        if core <= SMALLEST or part.pixels == 1:
            raise LiifError(f"out of memory on {self.device} with the smallest tile; free memory")

    # -- one tile ------------------------------------------------------------------------------------------------

    def attempt(self, part: Box, report: Callable[[int], None]) -> Tensor | None:
        """The tile's values, again in float32 where a lower precision overflowed; None when memory did not suffice."""
        try:
            values = self._tile(part, report, self.precision)
            if values is None and self.precision != "fp32":
                values = self._tile(part, report, "fp32")
                # A map that is encoded whole would be encoded twice for each tile.
                self.precision = "fp32" if self.encoding.radius is None else self.precision
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return None
        if values is None:
            raise LiifError(
                "expected numbers from the model, got NaN or infinity even in float32; check the checkpoint and the "
                "input (values in [0, 1])"
            )
        return values

    @torch.no_grad()
    def _tile(self, part: Box, report: Callable[[int], None], precision: str) -> Tensor | None:
        """[out_dim, height, width] float32 in [0, 1] on the input's device; None where it holds NaN or infinity."""
        decode = self._decoder(part, precision)
        plain = self.backend == "reference" or (self.backend == MODEL and self.metasr is None)
        most = PLAIN_BAND if plain else BAND
        values: Tensor | None = None
        done = 0
        for band in tiles(part, max(1, most // part.width), most):
            answer = decode(band)
            if values is None:
                values = torch.empty(answer.shape[0], part.height, part.width, device=self.inp.device)
            top, left = band.top - part.top, band.left - part.left
            values[:, top : top + band.height, left : left + band.width] = answer
            done += band.pixels
            report(done)
        assert values is not None
        if not bool(torch.isfinite(values.sum())):
            return None
        return values.mul_(self.gt_div).add_(self.gt_sub).clamp_(0, 1)

    def _decoder(self, part: Box, precision: str) -> Decode:
        """A function of a band of the tile, placed in the whole output, that gives [out_dim, h, w] float32."""
        height, width = self.encoding.shape(precision)
        if self.metasr is not None:
            return self._metasr_decoder(self.metasr, part, precision)
        if self.backend == MODEL:
            self.encoding.whole(precision)
            ask: Any = self.model.query_rgb
            return lambda band: _picture(ask(*grid_queries(Grid(self.size, band), device=self.device)), band)
        unfold = 1 if self.params is not None and self.params.feat_unfold else 0
        rows = widen(feature_span(part.top, part.bottom, self.size[0], height), unfold, height)
        cols = widen(feature_span(part.left, part.right, self.size[1], width), unfold, width)
        window = Window(height, width, rows.start, cols.start)
        if self.params is None:
            feat = self.encoding.part(rows, cols, precision)
            return lambda band: _nearest(feat, Grid(self.size, band), window)
        options: dict[str, Any] = {"params": self.params, "backend": self.backend, "precision": precision}
        if self.backend == "reference":
            options["feat"] = self.encoding.whole(precision)
        else:
            projected = functional.project(self.encoding.part(rows, cols, precision), self.params, precision)
            options |= {"feat": None, "projected": projected, "window": window}
        return lambda band: _picture(functional.query_grid(size=self.size, box=band, **options), band)

    def _metasr_decoder(self, model: metasr.MetaSR, part: Box, precision: str) -> Decode:
        height, width = self.encoding.shape(precision)

        def queries(box: Box) -> tuple[Tensor, Tensor]:
            return grid_queries(Grid(self.size, box), device=self.device)

        # Rows and columns grow with the queries, so the part's first and last query bound the pixels that it reads.
        ends = (Box(part.top, part.left, 1, 1), Box(part.bottom - 1, part.right - 1, 1, 1))
        first, last = (metasr.locate(*queries(end), Window(height, width))[0][0, 0].tolist() for end in ends)
        rows, cols = (widen(Span(a, b + 1), 1, n) for a, b, n in zip(first, last, (height, width), strict=True))
        projected = model.project(self.encoding.part(rows, cols, precision))
        window = Window(height, width, rows.start, cols.start)
        return lambda band: _picture(model.decode(projected, *queries(band), window), band)


def _picture(answer: Tensor, band: Box) -> Tensor:
    """Answers [1, pixels, out_dim] of a band as [out_dim, h, w] float32."""
    return answer[0].float().t().reshape(-1, band.height, band.width)


def _decoder_params(model: nn.Module) -> DecoderParams | None:
    """The decoder of a LIIF, this package's, the published one or mmagic's; None for any other model."""
    imnet = getattr(model, "imnet", None)
    names = ("local_ensemble", "feat_unfold", "cell_decode")
    if not isinstance(imnet, nn.Module) or not all(hasattr(model, name) for name in names):
        return None
    ensemble, unfold, cell = (bool(getattr(model, name)) for name in names)
    try:
        # Not every foreign encoder says how many channels it makes.
        width = linear_layers(imnet)[0][0].shape[1] - (4 if cell else 2)
        channels = width // (9 if unfold else 1)
        return DecoderParams.from_mlp(imnet, channels, local_ensemble=ensemble, feat_unfold=unfold, cell_decode=cell)
    except UsageError:
        return None


def _nearest(feat: Tensor, grid: Grid, window: Window) -> Tensor:
    """The nearest feature at each point of a grid: [C, h, w] (what LIIF is without an MLP)."""
    (height, width), box = grid
    ys = geometry.axis_coord(height, device=feat.device)[box.top : box.bottom]
    xs = geometry.axis_coord(width, device=feat.device)[box.left : box.right]
    rows = geometry.nearest_index(ys, window.height) - window.top
    cols = geometry.nearest_index(xs, window.width) - window.left
    return feat[0].float().index_select(1, rows).index_select(2, cols)


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory"))
