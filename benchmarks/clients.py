"""Public LIIF codes as clients of `accelerate`: what it takes, what it refuses, and whether the answers are the same.

    python -m benchmarks.clients CHECKOUTS --out benchmarks/results/clients.json

CHECKOUTS is a folder with a checkout of each repository as OWNER+NAME. Each class runs in a process of its own, with an
encoder of one convolution, on the CPU: `.cuda()` does nothing, and packages that are not installed are stood in for.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CHANNELS = 8
# Repository, module, class. The arguments are those of the published code.
CLIENTS = (
    ("yinboc/liif", "models.liif", "LIIF"),
    ("yinboc/liif", "models.misc", "MetaSR"),
    ("jaewon-lee-b/lte", "models.liif", "LIIF"),
    ("jaewon-lee-b/lte", "models.lte", "LTE"),
    ("Astrostellar/SMORE", "models.liif", "LIIF"),
    ("Astrostellar/SMORE", "models.misc", "MetaSR"),
    ("Teenye/MINet", "models.liif", "LIIF"),
    ("Teenye/MINet", "models.liif", "LIIF_FPN_space_scale_attn"),
    ("Teenye/MINet", "models.liif", "LIIF_FPN_space_cell_scale_attn"),
    ("XUSean0118/FPLIA", "models.liif", "LIIF"),
    ("Adar-SR-NR/liif", "models.liif", "LIIF"),
    ("Adar-SR-NR/liif", "models.liif_softmax", "LIIF_softmax"),
)


class Encoder(nn.Module):
    """One convolution."""

    scale = 1

    def __init__(self, out_dim: int = CHANNELS, **_: Any) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.conv = nn.Conv2d(3, out_dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.conv(x)
        return features


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for packages that are not installed: any attribute is a class that does nothing."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        known = fullname.partition(".")[0] in self.names
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if known else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__path__ = []
        module.__getattr__ = self._stand_in  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass

    @staticmethod
    def _stand_in(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {"__init__": lambda self, *args, **kwargs: nn.Module.__init__(self)})


def module_of(root: Path, name: str) -> types.ModuleType:
    """A module of a checkout, with what it imports and is not installed stood in for."""
    absent = _Absent()
    sys.meta_path.append(absent)
    sys.path.insert(0, str(root))
    while True:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            top = (error.name or "").partition(".")[0]
            if top in absent.names or (root / top).exists() or not top:
                raise
            absent.names.add(top)
            for loaded in [key for key in sys.modules if key.partition(".")[0] in ("models", "utils", "datasets")]:
                del sys.modules[loaded]


def built(module: types.ModuleType, kind: str) -> nn.Module:
    registry = importlib.import_module("models")
    registry.register("one-convolution")(Encoder)
    arguments: dict[str, Any] = {"encoder_spec": {"name": "one-convolution", "args": {}}}
    if kind != "MetaSR":
        arguments["imnet_spec"] = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [32, 32]}}
    if kind == "LTE":
        arguments["hidden_dim"] = 16
    torch.manual_seed(0)
    model: nn.Module = getattr(module, kind)(**arguments).eval()
    return model


def learned(model: nn.Module) -> list[Tensor]:
    """The answer to random queries, and the gradients of a loss."""
    from liif_fast import make_cell, make_coord

    torch.manual_seed(1)
    inp = (torch.rand(2, 3, 12, 10) * 2 - 1).requires_grad_()
    pick = torch.randperm(29 * 23)[:300]
    coord, cell = make_coord((29, 23))[pick].repeat(2, 1, 1), make_cell((29, 23))[pick].repeat(2, 1, 1)
    model.zero_grad()
    try:
        answer = model(inp, coord, cell)
    except RuntimeError:
        # Some take one cell for each picture.
        answer = model(inp, coord, cell[:, 0])
    (answer * torch.randn_like(answer)).sum().backward()
    gradients = (parameter.grad for parameter in model.parameters())
    return [answer.detach(), inp.grad.clone(), *(g.clone() for g in gradients if g is not None)]  # type: ignore[union-attr]


def tried(root: Path, name: str, kind: str) -> dict[str, Any]:
    """What became of one class."""
    import liif_fast

    identity: Callable[..., Any] = lambda self, *args, **kwargs: self  # noqa: E731
    Tensor.cuda = nn.Module.cuda = identity  # type: ignore[method-assign]
    try:
        model = built(module_of(root, name), kind)
        plain = learned(model)
    except Exception as error:
        return {"result": "does not run here", "detail": f"{type(error).__name__}: {error}".splitlines()[0][:160]}
    try:
        liif_fast.accelerate(model)
    except liif_fast.errors.UsageError as error:
        return {"result": "refused", "detail": str(error)}
    fast = learned(model)
    apart = [float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in zip(plain, fast, strict=True)]
    report = liif_fast.report(model)[0]
    equal = apart[0] < 1e-4 and max(apart) < 1e-3
    return {"result": "equal" if equal else "WRONG", "apart": apart[0], "way": report.way, "detail": report.reason}


def main() -> int:
    """Run every client; the exit code is 1 when an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", type=Path, help="folder with a checkout of each repository as OWNER+NAME")
    parser.add_argument("--out", type=Path, help="file for the results, as JSON")
    parser.add_argument("--one", nargs=2, metavar=("MODULE", "CLASS"), help="run one class of the checkout given")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(tried(args.checkouts, *args.one)))
        return 0
    rows = []
    for repository, module, kind in CLIENTS:
        root = args.checkouts.resolve() / repository.replace("/", "+")
        command = [sys.executable, "-m", "benchmarks.clients", str(root), "--one", module, kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        crashed = {"result": "does not run here", "detail": (done.stderr.splitlines() or ["no output"])[-1][:160]}
        row = {"repository": repository, "class": f"{module}.{kind}"} | (json.loads(lines[-1]) if lines else crashed)
        print(row)
        rows.append(row)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(any(row["result"] == "WRONG" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
