"""Small PTX kernels that a test runs by the interpreter in tests/ptx."""

from __future__ import annotations

from typing import Any

import ptx
from torch import Tensor

HEAD = """.version 8.7
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry kernel({parameters})
.reqntid {threads}
{{
.reg .pred %p<40>;
.reg .b16 %h<40>;
.reg .b32 %r<200>;
.reg .f32 %f<40>;
.reg .b64 %rd<40>;
mov.u32 %r0, %tid.x;
mul.wide.u32 %rd0, %r0, 4;
mul.wide.u32 %rd1, %r0, 8;
mul.wide.u32 %rd2, %r0, 2;
{addresses}
{body}
ret;
}}
"""


def run(body: str, *tensors: Tensor, threads: int = 32, shared: int = 0, **options: Any) -> ptx.Machine:
    """Pointers to the tensors are in %rd10, %rd11, ...; %rd0, %rd1 and %rd2 are 4, 8 and 2 times the thread."""
    parameters = ", ".join(f".param .u64 p{k}" for k in range(len(tensors)))
    addresses = "\n".join(f"ld.param.u64 %rd{10 + k}, [p{k}];" for k in range(len(tensors)))
    text = HEAD.format(parameters=parameters, threads=threads, addresses=addresses, body=body)
    program = ptx.parse(text.replace("\n}", "\n}\n"), "kernel")
    return ptx.launch(program, (1, 1), [t.data_ptr() for t in tensors], list(tensors), shared=shared, **options)
