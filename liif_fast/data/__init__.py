"""Training data: pictures (datasets) and the samples drawn from them (wrappers), by the published names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import default_collate

from liif_fast.data.folder import ImageFolder, PairedImageFolders
from liif_fast.data.paired import SRImplicitPaired, SRImplicitUniformVaried
from liif_fast.data.samples import Sample, Samples
from liif_fast.data.wrappers import SRImplicitDownsampled
from liif_fast.errors import UsageError, suggestion

DATASETS: dict[str, type[Any]] = {
    "image-folder": ImageFolder,
    "paired-image-folders": PairedImageFolders,
}
WRAPPERS: dict[str, type[Samples]] = {
    "sr-implicit-paired": SRImplicitPaired,
    "sr-implicit-downsampled": SRImplicitDownsampled,
    "sr-implicit-uniform-varied": SRImplicitUniformVaried,
}
ENTRY = ("dataset", "wrapper", "batch_size")
OPTIONAL = ("num_workers",)


def make(spec: Mapping[str, Any], **extra: Any) -> Any:
    """Builds a dataset or wrapper from a published `{name, args}` spec; `extra` arguments override those of the spec.

    Raises UsageError for an unknown name or argument, and suggests the nearest known one.
    """
    return _make(spec, DATASETS | WRAPPERS, "dataset or wrapper", extra)


def make_samples(spec: Mapping[str, Any]) -> Samples:
    """Builds the samples of one `train_dataset`, `val_dataset` or `test_dataset`: {dataset, wrapper, batch_size}.

    Raises UsageError for missing and unknown keys, and for a dataset that the wrapper cannot take.
    """
    if not isinstance(spec, Mapping):
        raise UsageError(f"data entry: expected the keys {', '.join(ENTRY)}, got {spec!r}")
    for key in spec:
        if key not in (*ENTRY, *OPTIONAL):
            raise UsageError(f"data entry: unknown key {key!r}{suggestion(key, (*ENTRY, *OPTIONAL))}")
    for key in ENTRY:
        if key not in spec:
            raise UsageError(f"data entry: expected the keys {', '.join(ENTRY)}, {key} is missing")
    dataset = _make(spec["dataset"], DATASETS, "dataset", {})
    wrapper = WRAPPERS.get(_name(spec["wrapper"], WRAPPERS, "wrapper"))
    assert wrapper is not None
    if wrapper.paired != dataset.paired:
        kind = next(name for name, kind in DATASETS.items() if kind.paired == wrapper.paired)
        raise UsageError(f"{spec['wrapper']['name']}: expected the dataset {kind}, got {spec['dataset']['name']}")
    samples: Samples = _make(spec["wrapper"], WRAPPERS, "wrapper", {"dataset": dataset})
    return samples


def collate(samples: Sequence[Sample]) -> Sample:
    """Stacks samples into one batch; raises UsageError where their sizes differ."""
    for key, first in samples[0].items():
        odd = next((sample[key].shape for sample in samples if sample[key].shape != first.shape), None)
        if odd is not None:
            raise UsageError(
                f"expected samples of one size in a batch, got {key} of {list(first.shape)} and {list(odd)}: set "
                f"{'inp_size' if key == 'inp' else 'sample_q'} of the wrapper, or batch_size: 1"
            )
    batch: Sample = default_collate(list(samples))
    return batch


def _name(spec: Any, known: Mapping[str, type[Any]], what: str) -> str:
    name = spec.get("name") if isinstance(spec, Mapping) else spec
    if not isinstance(name, str) or name not in known:
        raise UsageError(
            f"unknown {what}: expected {{name, args}} with one of {', '.join(known)}, got {name!r}"
            f"{suggestion(str(name), known)}"
        )
    return name


def _make(spec: Any, known: Mapping[str, type[Any]], what: str, extra: Mapping[str, Any]) -> Any:
    name = _name(spec, known, what)
    args = {**(spec.get("args") or {}), **extra}
    parameters = inspect.signature(known[name]).parameters
    for key in args:
        if key not in parameters:
            hint = suggestion(str(key), parameters) or f"; it takes {', '.join(parameters)}"
            raise UsageError(f"{name}: unknown argument {key!r}{hint}")
    missing = [key for key, p in parameters.items() if p.default is p.empty and key not in args]
    if missing:
        raise UsageError(f"{name}: expected the argument {' and '.join(missing)}, got {', '.join(args) or 'none'}")
    return known[name](**args)


__all__ = [
    "DATASETS",
    "WRAPPERS",
    "ImageFolder",
    "PairedImageFolders",
    "SRImplicitDownsampled",
    "SRImplicitPaired",
    "SRImplicitUniformVaried",
    "collate",
    "make",
    "make_samples",
]
