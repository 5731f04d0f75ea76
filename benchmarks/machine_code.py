"""What a compiled kernel is like: ptxas' words, tensor work done twice, and the static cycles that bound its speed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

from triton.backends import nvidia
from triton.backends.nvidia import compiler

TOOLS = Path(nvidia.__file__).parent / "bin"
# Cycles of a quarter of an SM for one mma.sync m16n8k16 of halves: A100 and H100 full rate; the others half
# rate with float32 sums.
MMA_CYCLES = {80: 8, 86: 16, 89: 16, 90: 4, 100: 2, 120: 16}
# Messages of ptxas about wgmma: C7510 to C7518 mean that the products wait for one another.
SERIALIZED = re.compile(r"\((C75\d\d)\)[^\n]*serialized due to ([^\n]*?)(?: in (?:the )?function|\n)")


class Cycles(NamedTuple):
    """Of one SM for one tile: its tensor cores, its shared memory, its schedulers. The largest bounds the speed."""

    tensor: int
    shared: int
    issue: int


def resources(ptx: str, arch: int) -> dict[str, Any]:
    """Registers of a thread, bytes of its stack (what was spilled), and why ptxas serialized products, if it did."""
    name = f"sm_{arch}{'a' if arch >= 90 else ''}"
    with tempfile.NamedTemporaryFile(suffix=".ptx", mode="w") as file:
        file.write(ptx)
        file.flush()
        command: list[str] = [_ptxas(arch), "--fmad=false", "-v", f"--gpu-name={name}", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, stack = re.search(r"Used (\d+) registers", said), re.search(r"(\d+) bytes stack frame", said)
    if registers is None or stack is None:
        raise RuntimeError(f"expected registers and stack in ptxas' output, got {said!r}")
    serialized = sorted({f"{code} {why}" for code, why in SERIALIZED.findall(said)})
    return {"registers": int(registers[1]), "spill": int(stack[1]), "serialized": serialized}


def resources_of_code(cubin: bytes) -> dict[str, Any]:
    """The same of machine code; products are serialized where each is waited for."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / "cuobjdump"), "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    if found is None:
        raise RuntimeError(f"expected registers and stack in cuobjdump's output, got {said!r}")
    names, _ = _disassembled(cubin)
    products, waits = (sum(name.startswith(kind) for name in names) for kind in ("HGMMA", "WARPGROUP.DEPBAR"))
    serialized = [f"{waits} waits for {products} products"] if 2 * waits >= products else []
    return {"registers": int(found[1]), "spill": int(found[2]), "serialized": serialized}


def _ptxas(arch: int) -> str:
    """The one that Triton itself takes for a generation."""
    choose = compiler.get_ptxas
    tool = choose(arch) if signature(choose).parameters else choose()  # Triton 3.5 has one for all
    return str(tool.path)


def duplicated(ttgir: str) -> float:
    """Tensor work that the layout makes, over what the products need: 1 unless warps repeat one another's."""
    layouts = dict(re.findall(r"^(#\w+) = (#ttg\.nvidia_mma<.*?>)$", ttgir, re.M))
    products = re.finditer(
        r"(?:tt\.dot|warp_group_dot)[^\n]*?: [^\n]*?tensor<(\d+)x(\d+)x\w+,[^\n]*-> tensor<(\d+)x(\d+)x\w+, (#\w+)>",
        ttgir,
    )
    made = needed = 0.0
    for product in products:
        rows, inner, _, cols = (int(product[k]) for k in range(1, 5))
        shape = re.search(r"warpsPerCTA = \[(\d+), (\d+)\].*instrShape = \[([\d, ]+)\]", layouts.get(product[5], ""))
        if shape is None:
            continue
        sizes = [int(size) for size in shape[3].split(",")]
        covered = max(rows, int(shape[1]) * 16) * max(cols, int(shape[2]) * sizes[1])
        made += covered * inner
        needed += rows * cols * inner
    return made / needed if needed else 1.0


def cycles(cubin: bytes, arch: int, warps: int, trips: list[int]) -> Cycles:
    """Static cycles of a tile; trips: how often each loop runs, in the order of their starts, the last for the rest."""
    instructions, loops = _disassembled(cubin)
    tensor = shared = issue = 0.0
    for place, name in enumerate(instructions):
        times = 1
        for number, (start, end) in enumerate(loops):
            if start <= place < end:
                times *= trips[min(number, len(trips) - 1)]
        tensor += times * _tensor(name, arch)
        shared += times * _shared(name)
        issue += times
    return Cycles(round(tensor * warps / 4), round(shared * warps), round(issue * warps / 4))


def _disassembled(cubin: bytes) -> tuple[list[str], list[tuple[int, int]]]:
    """Names of the instructions, and from where to where each loop goes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / "nvdisasm"), "-c", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names: list[str] = []
    labels: dict[str, int] = {}
    loops = []
    for line in text.splitlines():
        label = re.match(r"(\.L_[\w.]+):", line)
        if label:
            labels[label[1]] = len(names)
        found = re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S+)(.*?);", line)
        if found:
            names.append(found[1])
            target = re.search(r"`\((\.L_[\w.]+)\)", found[2])
            # A few instructions that jump back wait for something.
            if found[1].startswith("BRA") and target and len(names) - labels.get(target[1], len(names)) > 20:
                loops.append((labels[target[1]], len(names)))
    return names, sorted(loops)


def _tensor(name: str, arch: int) -> float:
    """Cycles of a quarter of an SM's tensor cores for one warp's instruction."""
    group = re.match(r"HGMMA\.64x(\d+)x16", name)
    if group:
        return max(int(group[1]), 64) / 2  # narrower ones take as long
    if name.startswith("HMMA.16816"):
        return MMA_CYCLES[arch]
    if name.startswith("HMMA.1688"):
        return MMA_CYCLES[arch] * (1 if "TF32" in name else 0.5)
    return 0


def _shared(name: str) -> float:
    """Cycles of an SM's shared memory, 128 bytes each, for one warp's instruction."""
    group = re.match(r"HGMMA\.64x(\d+)x16", name)
    if group:
        return int(group[1]) * 32 / 128 / 4  # the second operand, once for four warps
    if name.startswith(("LDSM", "STSM")):
        return 4 if name.endswith(".4") else 2 if name.endswith(".2") else 1
    if name.startswith(("LDS", "STS", "LDGSTS")):
        return 4 if ".128" in name else 2 if ".64" in name else 1
    return 0
