"""`liif-fast train`: trains a model from a YAML configuration."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command and its arguments."""
    parser = subparsers.add_parser(
        "train",
        help="train a model from a YAML configuration",
        description="Trains a model from a YAML configuration with the keys of the published LIIF code.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file")
    parser.add_argument("-o", "--output", type=Path, help="folder of the run (default: save/NAME-OF-CONFIG)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=None,
        metavar="CHECKPOINT",
        help="go on from a checkpoint (default: the output folder's epoch-last.pth)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Trains; returns the exit code."""
    # torch is heavy: only once the arguments are known to be right
    import torch

    from liif_fast.config import load_config
    from liif_fast.errors import LiifError, UsageError
    from liif_fast.train import LAST, Trainer

    folder: Path = args.output or Path("save") / args.config.stem
    last = folder / LAST
    try:
        config = load_config(args.config)
        resume = last if args.resume is True else args.resume or config.get("resume")
        if resume is None and last.exists():
            raise UsageError(f"{folder} already holds a run: pass --resume to go on with it, or another --output")
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        trainer = Trainer(config, folder, Path(resume) if resume else None, device, args.quiet)
        folder.mkdir(parents=True, exist_ok=True)
        copied = folder / "config.yaml"
        if not copied.exists() or not copied.samefile(args.config):
            shutil.copyfile(args.config, copied)
        best = trainer.run()
    except LiifError as error:
        print(f"liif-fast train: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print(f"interrupted; go on with --resume ({last})", file=sys.stderr)
        return 130
    print(f"{last}: epoch {config['epoch_max']}, best validation PSNR {best:.2f} dB")
    return 0
