"""`liif-fast train`: trains a model from a YAML configuration."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command and its arguments."""
    parser = subparsers.add_parser(
        "train",
        help="train a model from a YAML configuration",
        description="Trains a model from a YAML configuration with the keys of the published LIIF code. On several "
        "GPUs or machines: torchrun --nproc-per-node N -m liif_fast train CONFIG ...",
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML file, or the name of one that comes with the package")
    parser.add_argument("-o", "--output", type=Path, help="folder of the run (default: save/NAME-OF-CONFIG)")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="lay a value over the configuration's, as in train_dataset.batch_size=8 optimizer.args.lr=5e-4",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=None,
        metavar="CHECKPOINT",
        help="go on from a checkpoint (default: the output folder's epoch-last.pth)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, only errors and the result")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Trains and returns the exit code; one of several processes ends with that code instead."""
    # torch takes long to load, so it is imported only once the arguments are right.
    from liif_fast.training.distributed import leave

    return leave(_train(args))


def _train(args: argparse.Namespace) -> int:
    import torch

    from liif_fast.errors import LiifError, UsageError
    from liif_fast.training.config import read_config
    from liif_fast.training.config_file import load_config
    from liif_fast.training.distributed import joined, world
    from liif_fast.training.trainer import LAST, Trainer

    path = _config_path(args.config)
    folder: Path = args.output or Path("save") / path.stem
    last = folder / LAST
    try:
        written = load_config(path, args.set)
        config = read_config(written)
        resume = _resume(args.resume or config.resume, last)
        device = _device(args.device)
        with joined(device):
            trainer = Trainer(written, folder, resume, device, None if args.quiet else _say)
            best = trainer.run()
            first = world()[0] == 0
    except LiifError as error:
        print(f"liif-fast train: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except torch.OutOfMemoryError:
        print(
            "liif-fast train: the GPU's memory is full: lower train_dataset.batch_size or sample_q, or set amp=bf16",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; go on with --resume ({last})", file=sys.stderr)
        return 130
    if first:
        validated = f", best validation PSNR {best:.2f} dB" if best > float("-inf") else ""
        print(f"{last}: epoch {config.epoch_max}{validated}")
    return 0


def _config_path(name: str) -> Path:
    """The file of that name, or the package's configuration; whoever reads the file reports a missing one."""
    from liif_fast.training.config_file import SHIPPED

    shipped = SHIPPED / f"{name}.yaml"
    return shipped if shipped.is_file() and not Path(name).is_file() else Path(name)


def _resume(asked: Any, last: Path) -> Path | None:
    """The checkpoint to go on from; UsageError if the run would write over another one in the same folder."""
    from liif_fast.errors import UsageError

    resume = last if asked is True else None if asked is None else Path(asked)
    if last.exists() and (resume is None or resume.resolve().parent != last.resolve().parent):
        raise UsageError(f"{last.parent} already holds a run: pass --resume to go on with it, or another --output")
    return resume


def _device(name: str | None) -> Any:
    import torch

    from liif_fast.errors import UsageError
    from liif_fast.training.distributed import own

    try:
        device = own(torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu")))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"--device: expected one that is present, got {name!r}: {str(error).splitlines()[0]}"
        ) from error
    return device


def _say(line: str) -> None:
    from tqdm import tqdm

    # tqdm writes the line above its progress bar.
    tqdm.write(line, file=sys.stderr)
