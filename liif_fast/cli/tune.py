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
    """Median milliseconds of one launch at the published width with a tile."""

    def __init__(self, device: torch.device, precision: str, direct: bool) -> None:
        import torch

        self.precision, self.direct = precision, direct
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

        from liif_fast.box import Box
        from liif_fast.geometry import Grid, Window
        from liif_fast.kernels import launch

        dtype = launch.DTYPES[self.precision]
        packed = launch.pack(self.kernel, self.rest, self.weights, self.biases, dtype, tile.block_c)
        grid, window = Grid((OUT, OUT), Box(0, 0, OUT, OUT)), Window(SIDE, SIDE)
        channels = 64 if self.direct else 256
        options: dict[str, Any] = {"local_ensemble": True, "cell_decode": True, "precision": self.precision}
        source = self.source.to(dtype)
        took: float = do_bench(
            lambda: launch.forward(source, grid, packed, channels, 3, window, tile=tile, **options),
            return_mode="median",
        )
        return took
