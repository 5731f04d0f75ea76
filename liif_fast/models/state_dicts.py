"""The weights in what people save: under many names, with the prefixes of wrappers, with running means of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Where weights stand in a checkpoint. Means over the training come first: they are what such a file is made for.
EMA_NAMES = ("params_ema", "state_dict_ema", "model_ema", "ema_state_dict", "ema")
NAMES = ("state_dict", "model_state_dict", "params", "model", "net", "network", "weights", "sd")
# What DataParallel, torch.compile, AveragedModel and the trainers of others put before each key.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "ema_model.")
COUNTERS = ("n_averaged", "module.n_averaged", "num_updates", "decay")


def find(content: Any) -> tuple[str, dict[str, Tensor]] | None:
    """Where the weights stand ("" where they are the whole file) and what they are; None where there are none."""
    if not isinstance(content, Mapping):
        return None
    for name in (*EMA_NAMES, *NAMES):
        inner = content.get(name)
        if isinstance(inner, Mapping):
            found = find(inner)
            if found is not None:
                return ".".join(part for part in (name, found[0]) if part), found[1]
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor) and isinstance(key, str)}
    others = set(content) - set(tensors) - set(COUNTERS)
    return None if others or not tensors else ("", without_prefixes(tensors))


def without_prefixes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the keys of the model itself, without a wrapper's prefixes and counters."""
    weights = {key: value for key, value in weights.items() if key not in COUNTERS}
    while True:
        prefix = next((p for p in PREFIXES if weights and all(key.startswith(p) for key in weights)), None)
        if prefix is None:
            # torch.compile of a part leaves its prefix in the middle.
            return {key.replace("._orig_mod.", "."): value for key, value in weights.items()}
        weights = {key[len(prefix) :]: value for key, value in weights.items()}
