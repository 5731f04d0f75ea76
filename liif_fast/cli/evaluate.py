"""`liif-fast evaluate`: the PSNR of a model by a test configuration."""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from pathlib import Path

EPILOG = """\
CONFIG has the keys of the published test configurations: test_dataset (or val_dataset), data_norm, eval_type (none,
div2k-N: RGB without a border of N + 6 pixels, benchmark-N: luma without a border of N), eval_bsize.

Exit codes: 0 all right, 1 it failed or pictures were skipped (named), 2 wrong usage, 130 interrupted.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command and its arguments."""
    parser = subparsers.add_parser(
        "evaluate",
        help="PSNR of a model on test pictures",
        description="Measures the PSNR of a model as the published test script does.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file")
    parser.add_argument("--model", metavar="FILE", help="checkpoint, .pth or .safetensors (default: the one included)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Measures, prints the result and returns the exit code."""
    # torch takes long to load, so it is imported only once the arguments are right.
    import torch

    from liif_fast import checkpoint
    from liif_fast.errors import LiifError, UsageError
    from liif_fast.training.config_file import load_config
    from liif_fast.training.evaluation import evaluate

    # Pillow logs what it then raises, and our own message says it already.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    started = time.perf_counter()
    try:
        config = load_config(args.config)
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        result = evaluate(config, checkpoint.load(args.model, device), device, args.quiet or args.json)
    except LiifError as error:
        print(f"liif-fast evaluate: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    seconds = time.perf_counter() - started
    eval_type = config.get("eval_type") or "none"
    if args.json:
        record = {
            # The PSNR of equal pictures is infinite, which JSON cannot say.
            "psnr": result.psnr if math.isfinite(result.psnr) else None,
            "eval_type": eval_type,
            "samples": result.samples,
            "skipped": result.skipped,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(record))
    else:
        print(f"PSNR {result.psnr:.4f} dB ({eval_type}, samples: {result.samples}, {seconds:.1f} s)")
    return 1 if result.skipped else 0
