"""Compile every shipped tile for every GPU generation, without a GPU, and look at what the compiler made of it.

`python -m benchmarks.compile_report [--out FOLDER] [--quick]`: registers, spilled bytes, shared memory, matrix
instructions, tensor work done twice, and static cycles of tensor cores, shared memory and schedulers for a tile. The
exit code is 1 when a kernel misses what is expected of it. Half precision: no spill, no product that ptxas serializes,
no work done twice. All: shared memory within the part's limit; a matrix instruction unless the operands are float32.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks import machine_code
from liif_fast.kernels import configs, hopper, launch, nvrtc
from liif_fast.kernels.backward import liif_backward
from liif_fast.kernels.configs import BackwardTile, Tile
from liif_fast.kernels.forward import SIZES, liif_forward

# Bytes of shared memory that one block can have.
SHARED = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
INSTRUCTIONS = ("wgmma.mma_async", "tcgen05.mma", "mma.sync")
POINTER = {"fp16": "*fp16", "bf16": "*bf16", **dict.fromkeys(configs.FULL, "*fp32")}
POINTERS = ("grad", "coord", "cell", "rest", "first_bias", "middle_bias", "last_bias", "out", "d_source")
OPERANDS = ("source", "first_weight", "middle", "last", "middle_t", "last_t", "hidden", "delta", "delta_last", "extra")
UNIT_STRIDES = ("stride_c", "coord_i", "cell_i")
# Compile-time switches of the published decoder: 580-256-256-256-256-3.
PUBLISHED = {"CELL": True, "CORNERS": 4, "WIDTH": 256, "HIDDEN": 4, "OUT_DIM": 3, "OUT": 16}
FORWARD: dict[str, dict[str, Any]] = {
    f"{name}{' grid' if grid else ''}": {"DIRECT": direct, "GRID": grid, "TAPS": 9, "CHANNELS": 64 if direct else 256}
    for name, direct in (("projected", False), ("direct", True))
    for grid in (False, True)
}
BACKWARD: dict[str, dict[str, Any]] = {
    "backward": {"CHANNELS": 256, "ATOMIC": True},
    "backward deterministic": {"CHANNELS": 256, "ATOMIC": False},
}
QUICK = ("projected", "direct", "backward")


class Case(NamedTuple):
    """One kernel to compile; form is a key of FORWARD or BACKWARD."""

    arch: int
    precision: str
    form: str
    tile: Tile | BackwardTile


def cases(quick: bool = False) -> Iterator[Case]:
    """Every shipped configuration; quick: three fp16 kernels of each generation."""
    for arch in configs.HALF:
        capability = divmod(arch, 10)
        for precision in ("fp16",) if quick else POINTER:
            for form, switches in FORWARD.items():
                if not quick or form in QUICK:
                    yield Case(arch, precision, form, configs.choose(capability, precision, switches["DIRECT"]))
            for form in BACKWARD:
                if not quick or form in QUICK:
                    yield Case(arch, precision, form, configs.choose_backward(capability, precision))


def compile_case(case: Case) -> dict[str, Any]:
    """Compile one kernel and read its resources: a row of the report, with what it misses under `misses`."""
    tile, function = case.tile, liif_backward if case.form in BACKWARD else liif_forward
    constants: dict[str, Any] = {
        **PUBLISHED, **(FORWARD | BACKWARD)[case.form], **dict.fromkeys(UNIT_STRIDES, 1),
        "INDEX": tl.int32, "QUERY": tl.int32,
        "ROWS": tile.rows, "BLOCK_K": tile.block_k, "BLOCK_N": tile.block_n, "STAGES": tile.stages,
        "DOT": launch.DOT[case.precision], "PRECISION": launch.INPUT_PRECISION.get(case.precision, "ieee"),
    }  # fmt: skip
    if isinstance(tile, Tile):
        constants["BLOCK_C"] = tile.block_c
    signature, aligned = {}, {}
    for place, name in enumerate(function.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in POINTERS or name in OPERANDS or name == "pixel":
            kind = "*i64" if name == "pixel" else "*fp32"
            signature[name] = POINTER[case.precision] if name in OPERANDS else kind
            aligned[(place,)] = [["tt.divisibility", 16]]
        else:
            floating = any(part in name for part in ("step_", "first_y", "first_x", "shift_", "grid_cell"))
            signature[name] = "fp32" if floating else "i32"
            if name.startswith("stride_") and name not in SIZES:
                aligned[(place,)] = [["tt.divisibility", 16]]
    kernel = triton.compile(
        ASTSource(
            fn=function,
            signature=signature,
            constexprs={name: value for name, value in constants.items() if name in function.arg_names},
            attrs=aligned,
        ),
        target=GPUTarget("cuda", case.arch, 32),
        options={"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": False},
    )
    found = machine_code.resources(kernel.asm["ptx"], case.arch)
    row = {**case._asdict(), "tile": tile._asdict(), **found, "shared": kernel.metadata.shared}
    row["instruction"] = next((name for name in INSTRUCTIONS if name in kernel.asm["ptx"]), "")
    row["duplicated"] = round(machine_code.duplicated(kernel.asm["ttgir"]), 2)
    if case.form in FORWARD and row["instruction"] != "tcgen05.mma":
        row["cycles"] = machine_code.cycles(kernel.asm["cubin"], case.arch, tile.warps, _trips(case))._asdict()
        row["bound"] = _bound(row)
    row["misses"] = misses(row)
    return row


def cuda_rows() -> Iterator[dict[str, Any]]:
    """The Hopper kernel of the published decoder, by NVRTC; none where that is missing."""
    if nvrtc.library() is None:
        return
    for precision in hopper.DTYPES:
        for grid in (True, False):
            build = hopper.Build(256, 4, 3, 4, True, grid, False, precision == "bf16")
            cubin = hopper.code(build)
            row = {
                "arch": 90, "precision": precision, "form": f"cuda{' grid' if grid else ''}",
                "tile": {"rows": 128, "cluster": hopper.CLUSTER, "stages": build.stages},
                **machine_code.resources_of_code(cubin), "shared": build.shared,
                "instruction": "wgmma.mma_async", "duplicated": 1.0,
            }  # fmt: skip
            row["misses"] = misses(row)
            yield row


def _trips(case: Case) -> list[int]:
    """How often each loop of the forward kernel runs at the published width, in the order of their starts."""
    tile = case.tile
    inner = [9 * -(-64 // tile.block_c)] if isinstance(tile, Tile) and case.form.startswith("direct") else []
    return [256 // tile.block_k, *inner, 256 // tile.block_n]


def _bound(row: dict[str, Any]) -> float | None:
    """The share of the tensor cores' peak that a tile's static cycles allow, before any latency; None for float32."""
    rate = {"fp16": 1, "bf16": 1, "tf32": 2}.get(row["precision"])
    if rate is None:
        return None
    layers = 3 + (9 * 64 / 256 if row["form"].startswith("direct") else 0)
    ideal: float = (
        row["tile"]["rows"] * 256 * 256 * layers * rate / (16 * 8 * 16) / 4 * machine_code.MMA_CYCLES[row["arch"]]
    )
    worst: int = max(row["cycles"].values())
    return round(ideal / worst, 2)


def misses(row: dict[str, Any]) -> list[str]:
    """What a row lacks of what is expected."""
    found = []
    if row["precision"] not in configs.FULL and row["spill"]:
        found.append(f"{row['spill']} bytes spilled")
    found += [f"ptxas serializes: {why}" for why in row["serialized"]]
    if row["precision"] not in configs.FULL and row["duplicated"] > 1:
        found.append(f"{row['duplicated']} times the tensor work that is needed")
    if row["shared"] > SHARED[row["arch"]]:
        found.append(f"{row['shared']} bytes of shared memory, {SHARED[row['arch']]} allowed")
    if row["precision"] != "fp32" and not row["instruction"]:
        found.append("no matrix instruction")
    return found


def line(row: dict[str, Any]) -> str:
    tile = "/".join(str(value) for value in row["tile"].values())
    return (
        f"sm_{row['arch']:<4}{row['precision']:<7}{row['form']:<24}{tile:<19}{row['registers']:>4} regs"
        f"{row['spill']:>6} spill{row['shared'] // 1024:>5} KiB  {row['instruction']:<16}x{row['duplicated']:<5}"
        f"{_cycles(row):<40}{'; '.join(row['misses'])}"
    )


def _cycles(row: dict[str, Any]) -> str:
    if "cycles" not in row:
        return ""
    bound = "" if row["bound"] is None else f" <= {100 * row['bound']:.0f} %"
    return " ".join(f"{name} {count}" for name, count in row["cycles"].items()) + bound


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_report", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="also write compile-report.json there")
    parser.add_argument("--quick", action="store_true", help="three fp16 kernels of each generation")
    args = parser.parse_args(argv)
    rows = []
    for row in chain(map(compile_case, cases(args.quick)), cuda_rows()):
        rows.append(row)
        print(line(row), flush=True)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        report = {"triton": triton.__version__, "torch": torch.__version__, "kernels": rows}
        (args.out / "compile-report.json").write_text(json.dumps(report, indent=1) + "\n")
    failed = [row for row in rows if row["misses"]]
    print(f"{len(rows)} kernels, {len(failed)} with misses")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
