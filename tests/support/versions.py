"""Which PyTorch runs the tests."""

import torch

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
