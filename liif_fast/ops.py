"""The fused operators, `torch.ops.liif_fast.*`.

Import this module before you load a program that was exported with one of them.
"""

from liif_fast.backends.operators import query, query_backward, query_keeping

__all__ = ["query", "query_backward", "query_keeping"]
