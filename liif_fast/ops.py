"""The fused operators, `torch.ops.liif_fast.*`.

All three take the fields of a `Call`, in its order. PyTorch knows them once both it and `liif_fast` are imported.
"""

from liif_fast.backends.call import Call
from liif_fast.backends.operators import query, query_backward, query_keeping

__all__ = ["Call", "query", "query_backward", "query_keeping"]
