"""GPU kernels in Triton, importable as liif_fast.kernels; none yet."""
