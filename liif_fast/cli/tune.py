"""`liif-fast tune`: find the fastest tile of the Triton kernel on this GPU and keep it for later runs."""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from liif_fast.kernels.configs import Tile

SIDE, OUT = 256, 1024  # feature map and output of the published width that are timed
CHECKED = 32  # side of the output whose answers are compared


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command and its arguments."""
    parser = subparsers.add_parser(
        "tune",
        help="find the fastest GPU kernel configuration and remember it",
        description="Time tile sizes of the Triton kernel on this GPU; save the fastest in the user's cache directory.",
    )
    parser.add_argument("--precision", choices=("fp16", "bf16", "tf32", "tf32x3", "fp32"), default="fp16")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Search both prologues; the exit code is 1 where the backend cannot run."""
    import torch

    from liif_fast.backends import triton

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reason = "PyTorch sees no CUDA GPU" if device.type == "cpu" else triton.unusable_reason(device, args.precision)
    if reason is not None:
        print(f"liif-fast tune: backend 'triton' cannot run: {reason}", file=sys.stderr)
        return 1
    from liif_fast.kernels import configs, tuning

    for direct in (False, True):
        base = configs.choose(torch.cuda.get_device_capability(device), args.precision, direct)
        tiles = list(tuning.candidates(base))
        print(f"{'direct' if direct else 'projected'}: {len(tiles)} tiles", file=sys.stderr)
        timer = _Timer(device, args.precision, direct)
        before = timer(base)
        tile, after = tuning.search(tiles, timer)
        path = tuning.keep(torch.cuda.get_device_name(device), args.precision, direct, tile)
        print(f"{'direct' if direct else 'projected'}: {tile}, {before / after:.2f} times the table's speed -> {path}")
    return 0


class _Timer:
    """Median milliseconds of one launch at the published width with a tile, after its answers were found right."""

    def __init__(self, device: torch.device, precision: str, direct: bool) -> None:
        import torch

        self.precision, self.direct = precision, direct
        self._exact: torch.Tensor | None = None
        widths = (580, 256, 256, 256, 256, 3)
        self.weights = [torch.randn(n, m, device=device) * m**-0.5 for m, n in pairwise(widths[1:])]
        self.biases = [torch.zeros(n, device=device) for n in widths[1:]]
        self.kernel = torch.randn(256, 64, 3, 3, device=device) * 0.04 if direct else None
        self.rest = torch.randn(256, 4, device=device)
        channels = 64 if direct else 256
        source = torch.randn(1, SIDE, SIDE, channels, device=device)
        self.source = source.permute(0, 3, 1, 2) if direct else source

    def __call__(self, tile: Tile) -> float:
        from triton.testing import do_bench

        self._check(tile)
        took: float = do_bench(lambda: self._launch(tile, OUT), return_mode="median")
        return took

    def _launch(self, tile: Tile, side: int) -> torch.Tensor:
        """Answers of a side x side output: [1, side * side, 3]."""
        from liif_fast.box import Box
        from liif_fast.geometry import Grid, Window
        from liif_fast.kernels import launch

        dtype = launch.DTYPES[self.precision]
        packed = launch.packed(self.kernel, self.rest, self.weights, self.biases, dtype, tile.block_c)
        grid, window = Grid((side, side), Box(0, 0, side, side)), Window(SIDE, SIDE)
        options: dict[str, Any] = {"local_ensemble": True, "cell_decode": True, "precision": self.precision}
        source = self.source.to(dtype)
        return launch.forward(source, grid, packed, 64 if self.direct else 256, 3, window, tile=tile, **options)

    def _check(self, tile: Tile) -> None:
        """WrongAnswer unless some answers are those of float64."""
        from liif_fast.backends import proof
        from liif_fast.kernels import tuning

        got, want = self._launch(tile, CHECKED), self._truth()
        worst = float((got - want).abs().max() / want.abs().max())
        if not worst <= proof.TOLERANCE[self.precision]:
            raise tuning.WrongAnswer(f"{tile} is off by {worst:.1e} of the values")

    def _truth(self) -> torch.Tensor:
        """The same answers in float64."""
        if self._exact is None:
            import torch.nn.functional as F

            from liif_fast.backends import pytorch
            from liif_fast.backends.call import Query
            from liif_fast.box import Box
            from liif_fast.geometry import Grid, Window, grid_queries
            from liif_fast.params import DecoderParams

            source, kernel = self.source.double(), self.kernel
            if kernel is not None:
                source = F.conv2d(source, kernel.double(), padding=1).permute(0, 2, 3, 1).contiguous()
            # Layer one's feature columns are in the map already.
            first = F.pad(self.rest, (576, 0)).double()
            params = DecoderParams(
                (first, *(weight.double() for weight in self.weights)), tuple(b.double() for b in self.biases), 64
            )
            where = grid_queries(Grid((CHECKED, CHECKED), Box(0, 0, CHECKED, CHECKED)), 1, source.device)
            self._exact = pytorch.run(Query(None, source, where, params, Window(SIDE, SIDE), "fp32"))
        return self._exact
