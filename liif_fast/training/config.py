"""Configurations as typed values: the published keys and a few more.

`read_config` checks a mapping, as `config_file.load_config` reads it from YAML, and makes it a `Config`;
`documented_keys` lists every key with what it takes, its default and its meaning.
"""

# `key` and `required` return dataclass fields, which ruff cannot know.
# ruff: noqa: RUF009

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from liif_fast.errors import UsageError
from liif_fast.models import registry
from liif_fast.training.keys import (
    Component,
    DocumentedKey,
    Kind,
    component,
    document,
    is_number,
    is_whole,
    key,
    number,
    read_section,
    required,
    section,
    value,
    whole_number,
)
from liif_fast.training.metrics import parse_mode
from liif_fast.training.optimizer import OPTIMIZERS

NUMBERS = Kind("a list of numbers", lambda written, name: written)  # `Normalisation` checks them.


@dataclass(frozen=True)
class DataEntry:
    """Where samples come from, and how many make a batch."""

    dataset: Component = key(component(), "The pictures: image-folder or paired-image-folders.")
    wrapper: Component = key(
        component(), "The samples: sr-implicit-downsampled, sr-implicit-paired or sr-implicit-uniform-varied."
    )
    batch_size: int = key(whole_number(1), "Samples of a batch, over all processes.")
    num_workers: int | None = key(
        whole_number(0),
        "Processes that make samples; 0 makes them in the training process.",
        None,
        "up to 8 for a GPU, else 0",
    )


@dataclass(frozen=True)
class Affine:
    """One side of a normalisation: (x - sub) / div, one number for each channel or one for all."""

    sub: Sequence[float] = key(NUMBERS, "What is subtracted from values in [0, 1].")
    div: Sequence[float] = key(NUMBERS, "What the difference is divided by.")


@dataclass(frozen=True)
class DataNorm:
    """The normalisation of what the model takes and of what it answers."""

    inp: Affine = key(section(Affine), "Normalisation of the low-resolution picture.")
    gt: Affine = key(section(Affine), "Normalisation of the true colours.")


@dataclass(frozen=True)
class MultiStepSchedule:
    """The published schedule: the learning rate is multiplied by `gamma` after each milestone."""

    milestones: Sequence[int] = key(
        value("a list of epochs", lambda written: isinstance(written, list) and all(map(is_whole, written))),
        "Epochs after whose end the learning rate falls.",
    )
    gamma: float = key(number("a number", lambda written: True), "The factor of each milestone.", 0.1)


@dataclass(frozen=True)
class CosineSchedule:
    """A linear rise over the first steps, then half a cosine over the rest of the run."""

    warmup: int = key(whole_number(0), "Steps of the rise.", 0)
    final: float = key(number("a number", lambda written: True), "The factor at the end of the run.", 0.0)


@dataclass(frozen=True)
class Sparsity:
    """An L1 penalty on the hidden activations of imnet, so that more of them are zero and the CPU kernels skip them."""

    weights: Sequence[float] = key(
        value("a list of numbers of 0 or more", lambda written: isinstance(written, list) and _none_below_0(written)),
        "The factor of each hidden layer's mean activation in the loss, from the first layer to the last.",
    )
    queries: float = key(
        number("a number above 0 and up to 1", lambda written: 0 < written <= 1),
        "The share of the queries on which the penalty is computed.",
        0.125,
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a configuration may say; what a run of training cannot do without is in `TrainingConfig`."""

    train_dataset: DataEntry | None = key(section(DataEntry), "What is trained on.", None, "required to train")
    val_dataset: DataEntry | None = key(section(DataEntry), "What is validated on while training.", None, "none")
    test_dataset: DataEntry | None = key(
        section(DataEntry), "What `liif-fast evaluate` measures on.", None, "val_dataset"
    )
    data_norm: DataNorm | None = key(section(DataNorm), "Normalisation around the model, saved with it.", None, "none")
    eval_type: str | None = key(
        Kind("none, div2k-N or benchmark-N", lambda written, name: _eval_type(written)),
        "PSNR of every value, of RGB without a border of N + 6 pixels, or of luma without a border of N.",
        None,
        "none",
    )
    eval_bsize: int | None = key(whole_number(1), "Queries of one call when measuring.", None, "all")
    model: Component | None = key(
        component(registry, ("self", "in_dim")), "The model with its encoder and MLP.", None, "required to train"
    )
    optimizer: Component | None = key(
        component(OPTIMIZERS, ("self", "params")), "adam or sgd, as in torch.optim.", None, "required to train"
    )
    epoch_max: int | None = key(whole_number(1), "Epochs of the whole run.", None, "required to train")
    multi_step_lr: MultiStepSchedule | None = key(
        section(MultiStepSchedule), "The published schedule of the learning rate.", None, "a constant rate"
    )
    resume: str | None = key(
        Kind("a path", lambda written, name: written),
        "A checkpoint to go on from; --resume overrides it.",
        None,
        "a new run",
    )
    epoch_val: int | None = key(whole_number(1), "Epochs from one validation to the next.", None, "none")
    epoch_save: int | None = key(
        whole_number(1), "Epochs from one checkpoint that is kept, epoch-N.pth, to the next.", None, "none"
    )
    seed: int = key(whole_number(0), "Seed of the weights, of the crops and of their order.", 0)
    init: Literal["bilinear"] | None = key(
        value("bilinear or nothing", lambda written: written == "bilinear"),
        "`bilinear` starts the model as bilinear interpolation.",
        None,
        "random weights",
    )
    cosine_lr: CosineSchedule | None = key(
        section(CosineSchedule), "A schedule of the learning rate in place of multi_step_lr.", None, "none"
    )
    ema: float = key(
        number("a number from 0 to below 1", lambda written: 0 <= written < 1),
        "Decay of a moving average of the weights, which is validated and saved; 0 takes the weights themselves.",
        0.0,
    )
    clip_grad: float | None = key(
        number("a number above 0", lambda written: written > 0),
        "Largest norm of the gradient.",
        None,
        "no limit",
    )
    sparsity: Sparsity | None = key(
        section(Sparsity), "L1 penalty on imnet's hidden activations, which makes its decoder faster.", None, "none"
    )
    amp: Literal["bf16", "fp16"] | None = key(
        value("bf16, fp16 or nothing", lambda written: written in ("bf16", "fp16")),
        "Automatic mixed precision.",
        None,
        "float32",
    )
    channels_last: bool = key(
        value("true or false", lambda written: isinstance(written, bool)),
        "Keeps the encoder's feature maps in channels-last order.",
        False,
    )

    def __post_init__(self) -> None:
        if self.multi_step_lr is not None and self.cosine_lr is not None:
            raise UsageError("configuration: expected multi_step_lr or cosine_lr, got both")

    @property
    def schedule(self) -> MultiStepSchedule | CosineSchedule | None:
        """The schedule of the learning rate; None for a constant one."""
        return self.multi_step_lr or self.cosine_lr

    @property
    def norm(self) -> dict[str, Any] | None:
        """`data_norm` as the mapping that models and checkpoints carry."""
        return None if self.data_norm is None else asdict(self.data_norm)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """A configuration with what a run of training needs."""

    train_dataset: DataEntry = required(Config, "train_dataset")
    model: Component = required(Config, "model")
    optimizer: Component = required(Config, "optimizer")
    epoch_max: int = required(Config, "epoch_max")


def read_config(written: Mapping[str, Any]) -> Config:
    """The configuration, checked.

    Raises UsageError for unknown, missing or conflicting keys and for values out of range. The args of datasets and
    wrappers are checked by `data.make_samples`, which builds them.
    """
    return read_section(Config, written, "")


def read_training_config(written: Mapping[str, Any]) -> TrainingConfig:
    """As `read_config`; raises UsageError, too, when a key is missing that training needs."""
    return read_section(TrainingConfig, written, "")


def documented_keys() -> list[DocumentedKey]:
    """Every key of a configuration as (key, type, default, text), in the order in which they are documented."""
    return document(Config)


def _none_below_0(written: list[Any]) -> bool:
    return all(is_number(entry) and entry >= 0 for entry in written)


def _eval_type(written: Any) -> str:
    parse_mode(written)
    return str(written)
