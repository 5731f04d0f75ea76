"""One picture through one model in bounded memory: how large its tiles are, and what becomes of one that fails.

A tile encodes only the input that its queries can see: the encoder's receptive radius, the unfolding, the neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from liif_fast.box import Region
from liif_fast.errors import LiifError
from liif_fast.rendering import decoders
from liif_fast.rendering.decoders import AnyTile, Decoder, Tile
from liif_fast.rendering.encoding import STRIP_COPIES, Encoding, Pixels, encoder_of, norm, placement
from liif_fast.rendering.options import Options
from liif_fast.rendering.request import SMALLEST_TILE, check_tile, parse_memory
from liif_fast.rendering.tiling import core_sides, strip_rows

MEMORY = 5 * 2**27  # bytes of working memory on the CPU, where nothing else is asked for


class Job:
    """One picture [1, C, H, W] and one model: the encoder's features of a tile, its decoder's answers."""

    def __init__(self, model: nn.Module, inp: Pixels, decoder: Decoder, precision: str) -> None:
        self.model, self.inp, self.decoder, self.precision = model, inp, decoder, precision
        self.device, _ = placement(model, inp)
        whole, ask_model = self.decoder.reads_whole_map, self.decoder.asks_model
        self.encoding = Encoding(model, inp, whole=whole, ask_model=ask_model)
        self.gt_sub, self.gt_div = (value.view(-1, 1) for value in norm(model, "gt", inp.device))

    # -- how large -----------------------------------------------------------------------------------------------

    def tile_sides(self, region: Region, options: Options) -> tuple[int, int]:
        """Rows and columns of the tiles in which a part of an output is made."""
        size, box = region
        tile, held, memory = options.tile, options.held, self.memory(options)
        height, width = self.inp.shape[-2:]
        halo, tallest = (self.encoding.radius or 0) + 3, height
        if tile is None and held.row_bytes:
            # The receiver keeps whole rows of tiles: a quarter is for them.
            rows = min(box.height, max(1, memory // 4 // held.row_bytes - held.rows))
            tallest = max(1, rows * height // size[0])
            memory = max(memory // 4, memory - held.row_bytes * (held.rows + rows))
        # A quarter is for the answers, see below.
        inside, pixel = memory * 3 // 4, self._bytes_per_pixel()
        strip = strip_rows(width, inside, self.encoding.column_bytes(), pixel) if self.encoding.rolling else 0
        if tile is not None:
            core = check_tile(tile), tile
        elif strip:
            core = min(tallest, strip), width
        else:
            core = core_sides(height, width, halo, inside // pixel, tallest)
        rows = min(box.height, max(1, core[0] * size[0] // height))
        cols = min(box.width, max(1, core[1] * size[1] // width))
        # The answers in float32, what is made of them, and the copies between.
        most = max(SMALLEST_TILE**2, memory // 4 // (8 * self.decoder.out_dim + 16))
        if strip:
            rows = max(1, min(rows, most // cols))
        if tile is None and rows * cols > most:
            cols = min(cols, max(int(most**0.5), most // rows))
            rows = max(1, min(rows, most // cols))
        return rows, cols

    def memory(self, options: Options) -> int:
        """Bytes of working memory."""
        if options.memory is not None:
            return parse_memory(options.memory)
        return int(torch.cuda.mem_get_info(self.device)[0] // 2) if self.device.type == "cuda" else MEMORY

    def _bytes_per_pixel(self) -> int:
        """An input pixel's share of a tile's peak, which is in the encoder or where its features are projected."""
        encoder = encoder_of(self.model)
        convolutions = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
        widest = max((m.in_channels + m.out_channels for m in convolutions), default=64)
        features = int(getattr(encoder, "out_dim", widest))
        # Input and output of the widest layer, each also in the layout that the library computes in, and two skips.
        encoding = 0 if self.encoding.radius is None else 2 * widest + 2 * features
        encoding = STRIP_COPIES * features if self.encoding.rolling else encoding
        projecting = 2 * features + self.decoder.floats
        return 4 * self.encoding.zoom**2 * max(encoding, projecting)

    # -- one tile ------------------------------------------------------------------------------------------------

    def attempt(self, tile: Tile, report: Callable[[int], None], before: int) -> Tensor | None:
        """The tile's values [out_dim, count] float32 in [0, 1], on the input's device; None when memory is too small.

        They are computed again in float32 where a lower precision overflowed. report: told how many are done,
        counted from `before`.
        """
        try:
            values = self._values(tile, report, before, self.precision)
            if values is None and self.precision != "fp32":
                values = self._values(tile, report, before, "fp32")
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
    def _values(self, tile: Tile, report: Callable[[int], None], before: int, precision: str) -> Tensor | None:
        """The tile's values in one precision; None where they hold NaN or infinity."""
        answer = self.decoder.open(self.encoding, tile, precision)
        values: Tensor | None = None
        done = 0
        for queries in tile.bands(self.decoder.band, self.device):
            band = answer(queries)[0].float().t()
            if values is None:
                values = torch.empty(band.shape[0], tile.count, device=self.inp.device)
            values[:, done : done + band.shape[1]] = band
            done += band.shape[1]
            report(before + done)
        assert values is not None
        if not bool(torch.isfinite(values.sum())):
            return None
        return values.mul_(self.gt_div).add_(self.gt_sub).clamp_(0, 1)

    def check_divisible(self, tile: Tile) -> None:
        """LiifError where a tile that did not fit into memory cannot be made smaller."""
        if not self.encoding.divisible:
            raise LiifError(
                f"out of memory on {self.device}: this model encodes the whole picture at once; free memory, or cut "
                "the picture into pieces"
            )
        (size, box), (height, width) = tile.region, self.inp.shape[-2:]
        core = max(box.height * height / size[0], box.width * width / size[1])
        if core <= SMALLEST_TILE or box.pixels == 1:
            raise LiifError(f"out of memory on {self.device} with the smallest tile; free memory")


def open_jobs(model: nn.Module, pictures: Sequence[Pixels], options: Options) -> list[Job]:
    """A job for each picture, all with one decoder."""
    decoder, precision = decoders.choose(model, *placement(model, pictures[0]), options.backend, options.precision)
    return [Job(model, picture, decoder, precision) for picture in pictures]


def answer_tiles(
    jobs: Sequence[Job], tiles: Sequence[AnyTile], report: Callable[[int], None]
) -> Iterator[tuple[AnyTile, Tensor]]:
    """Each tile with its values [jobs * out_dim, count], in order; in halves from where memory does not suffice.

    jobs: pictures of one size. report: told how many values are done, of all jobs together.
    """
    model, todo, done = jobs[0].model, list(tiles)[::-1], 0
    training = model.training
    model.eval()
    try:
        while todo:
            tile = todo[-1]
            answers: list[Tensor] = []
            for job in jobs:
                values = job.attempt(tile, report, done + len(answers) * tile.count)
                if values is None:
                    job.check_divisible(tile)
                    # What did not fit now would not fit for the other tiles either.
                    todo = [half for whole in todo for half in whole.halves()[::-1]]
                    break
                answers.append(values)
            else:
                todo.pop()
                done += tile.count * len(jobs)
                yield tile, answers[0] if len(answers) == 1 else torch.cat(answers)
    finally:
        model.train(training)


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory"))
