"""What tests of several rooms share.

The environment is set here, because the package reads it when it is first imported, which the modules of this room do.
"""

from __future__ import annotations

import os

import torch

# Without a GPU the Triton kernels run in Triton's interpreter. On one, cuBLAS is deterministic only with a workspace of
# this size.
if torch.cuda.is_available():
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
else:
    os.environ.setdefault("TRITON_INTERPRET", "1")
