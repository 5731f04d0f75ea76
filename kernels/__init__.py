"""GPU kernels in Triton, importable as liif_fast.kernels: see forward.py."""
