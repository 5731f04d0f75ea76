"""Training data: pictures (datasets) and the samples drawn from them (wrappers), by the published names."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from liif_fast.data.folder import ImageFolder
from liif_fast.data.wrappers import SRImplicitDownsampled
from liif_fast.errors import UsageError

DATASETS: dict[str, type[Dataset[Any]]] = {
    "image-folder": ImageFolder,
    "sr-implicit-downsampled": SRImplicitDownsampled,
}


def make(spec: dict[str, Any], **extra: Any) -> Any:
    """Builds a dataset or wrapper from a published `{name, args}` spec; `extra` arguments override.

    Raises UsageError for an unknown name or an argument the class does not take.
    """
    name = spec.get("name")
    if name not in DATASETS:
        raise UsageError(f"unknown dataset or wrapper: expected one of {', '.join(DATASETS)}, got {name!r}")
    args = {**(spec.get("args") or {}), **extra}
    try:
        return DATASETS[name](**args)
    except TypeError as error:
        raise UsageError(f"{name}: {error}") from error


def make_samples(spec: dict[str, Any]) -> Any:
    """The wrapped dataset of one `train_dataset` or `val_dataset` entry: {dataset, wrapper, batch_size}."""
    for key in ("dataset", "wrapper", "batch_size"):
        if key not in spec:
            raise UsageError(f"data entry: expected the keys dataset, wrapper and batch_size, {key} is missing")
    return make(spec["wrapper"], dataset=make(spec["dataset"]))


__all__ = ["DATASETS", "ImageFolder", "SRImplicitDownsampled", "make", "make_samples"]
