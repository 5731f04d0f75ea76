"""An interpreter of PTX: it executes what Triton and NVRTC compile for a GPU, in NumPy, a warp of 32 lanes at a time.

`launch` runs one kernel on tensors of this machine. Warps run in a random order and asynchronous work (cp.async, wgmma,
bulk copies) happens as late as the program allows, so that a missing barrier or wait gives a wrong result. Every
address is checked for alignment and bounds. An instruction that is not known raises `Unknown` with its name.

What it does not see: SASS (faults of ptxas, its registers and schedule), time, tcgen05 (sm_100), registers that are
touched while a wgmma still owns them, an L2 or memory order weaker than one instruction after another.
"""

from ptx.machine import Machine, launch
from ptx.memory import AccessError, GlobalMemory
from ptx.parser import Program, parse
from ptx.registry import Unknown

__all__ = ["AccessError", "GlobalMemory", "Machine", "Program", "Unknown", "launch", "parse"]
