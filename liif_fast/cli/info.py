"""`liif-fast info`: what is installed, and which backends can run here."""

from __future__ import annotations

import argparse
import json
import os
import platform
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command and its arguments."""
    parser = subparsers.add_parser(
        "info",
        help="show versions, devices, and which backends can run here",
        description="Show versions, devices, and whether each backend can run here, or why not and what would help.",
    )
    parser.add_argument("--model", metavar="FILE", help="also say which way this model's queries go, and why")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print; the exit code is 0."""
    facts = collect()
    if args.model is not None:
        from liif_fast import acceleration, checkpoint

        decoders = acceleration.report(checkpoint.load(args.model))
        facts["model"] = {row.name or args.model: f"{row.way}: {row.reason}" for row in decoders}
    if args.json:
        print(json.dumps(facts))
        return 0
    for title, value in facts.items():
        print(f"{title}:")
        for line in _lines(value):
            print(f"  {line}")
    return 0


def collect() -> dict[str, Any]:
    """Return everything that `info` shows, as plain values."""
    import numpy
    import PIL
    import torch

    from liif_fast import __version__, backends, checkpoint
    from liif_fast.rendering import request

    model = checkpoint.DEFAULT_MODEL
    return {
        "versions": {
            "liif_fast": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": _version("triton"),
            "numpy": numpy.__version__,
            "pillow": PIL.__version__,
        },
        "devices": {
            "cpu": f"{_processor()}, {os.cpu_count()} logical processors",
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            **{f"cuda:{k}": torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())},
        },
        "backends": [row._asdict() for row in backends.report()],
        "default model": {"path": str(model), "present": model.is_file()},
        "limits": {"output pixels without --force": request.MAX_PIXELS},
    }


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        width = max(map(len, value))
        return [f"{key:<{width}}  {item}" for key, item in value.items()]
    width = max(len(row["name"]) for row in value)
    return [
        f"{row['name']:<{width}}  " + (f"usable ({row['detail']})" if row["usable"] else f"not usable: {row['reason']}")
        for row in value
    ]


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
