"""Evaluation: the PSNR of a model over a data set, and a picture enlarged by a model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from liif_fast.data import collate, make_samples
from liif_fast.errors import UsageError
from liif_fast.geometry import make_cell, make_coord
from liif_fast.training.config import read_config
from liif_fast.training.metrics import border, parse_mode, psnr

logger = logging.getLogger(__name__)

IDENTITY_NORM: dict[str, dict[str, list[float]]] = {
    "inp": {"sub": [0.0], "div": [1.0]},
    "gt": {"sub": [0.0], "div": [1.0]},
}


class Result(NamedTuple):
    """The mean PSNR in dB over `samples`, and the pictures that were left out of it, with the reasons."""

    psnr: float
    samples: int
    skipped: list[str]


class Normalisation:
    """A config's data_norm as tensors: what goes into the model (`inp`), its targets (`gt`) and the way back (`undo`).

    data_norm: {inp: {sub, div}, gt: {sub, div}}, each a list of numbers, one for each channel or one for all; None
    changes nothing. Raises UsageError for anything else.
    """

    def __init__(self, data_norm: dict[str, Any] | None, device: torch.device | str = "cpu") -> None:
        spec = IDENTITY_NORM if data_norm is None else data_norm

        def tensor(part: str, key: str) -> Tensor:
            return torch.tensor(spec[part][key], dtype=torch.float32, device=device)

        try:
            self._inp = [tensor("inp", key).view(1, -1, 1, 1) for key in ("sub", "div")]
            self._gt = [tensor("gt", key).view(1, 1, -1) for key in ("sub", "div")]
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"data_norm: expected {{inp: {{sub: [0.5], div: [0.5]}}, gt: ...}}, got {data_norm}"
            ) from error

    def inp(self, picture: Tensor) -> Tensor:
        """Turns colours [B, C, h, w] in [0, 1] into what the encoder takes."""
        return (picture - self._inp[0]) / self._inp[1]

    def gt(self, colours: Tensor) -> Tensor:
        """Turns true colours [B, Q, C] in [0, 1] into what the model should answer."""
        return (colours - self._gt[0]) / self._gt[1]

    def undo(self, prediction: Tensor) -> Tensor:
        """Turns the model's answers [B, Q, C] into colours clamped to [0, 1]."""
        return (prediction * self._gt[1] + self._gt[0]).clamp(0, 1)


@torch.no_grad()
def predict(model: Any, inp: Tensor, coord: Tensor, cell: Tensor, bsize: int | None = None) -> Tensor:
    """The model's answers [B, Q, C], in chunks of `bsize` queries that share one feature map (None: in one go)."""
    if bsize is None:
        answer: Tensor = model(inp, coord, cell)
        return answer
    model.gen_feat(inp)
    chunks = zip(coord.split(bsize, dim=1), cell.split(bsize, dim=1), strict=True)
    return torch.cat([model.query_rgb(*chunk) for chunk in chunks], dim=1)


def evaluate(
    config: Mapping[str, Any], model: nn.Module, device: torch.device | str = "cpu", quiet: bool = False
) -> Result:
    """The PSNR that a test configuration asks for, as the published test script measures it.

    config: a mapping with the keys of `liif_fast.training.config.Config`, of which test_dataset (or val_dataset where
    there is none), data_norm, eval_type and eval_bsize count.
    Raises UsageError for wrong values, and when no picture is left.
    """
    settings = read_config(config)
    entry = settings.test_dataset or settings.val_dataset
    if entry is None:
        raise UsageError("configuration: expected test_dataset (or val_dataset), got neither")
    data_norm = settings.norm or IDENTITY_NORM
    trained = getattr(model, "data_norm", None)
    if trained not in (None, data_norm):
        logger.warning("data_norm: the configuration's is used, %s; the model's own is %s", data_norm, trained)
    samples = make_samples(asdict(entry))
    samples.dataset.leave_out_unreadable()
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_size=entry.batch_size,
        num_workers=entry.num_workers or 0,
        # Batches are made in this process, so that an error in one does not come with a worker's traceback.
        collate_fn=list,
        pin_memory=torch.device(device).type == "cuda",
    )
    result = measure(
        map(collate, tqdm(loader, desc="evaluate", leave=False, disable=True if quiet else None)),
        model,
        data_norm,
        settings.eval_type,
        settings.eval_bsize,
        device,
    )
    return result._replace(skipped=samples.dataset.skipped + result.skipped)


def eval_psnr(
    batches: Iterable[dict[str, Tensor]],
    model: nn.Module,
    data_norm: dict[str, Any] | None = None,
    eval_type: str | None = None,
    eval_bsize: int | None = None,
    device: torch.device | str = "cpu",
) -> float:
    """The mean PSNR in dB of `measure`."""
    return measure(batches, model, data_norm, eval_type, eval_bsize, device).psnr


def measure(
    batches: Iterable[dict[str, Tensor]],
    model: nn.Module,
    data_norm: dict[str, Any] | None = None,
    eval_type: str | None = None,
    eval_bsize: int | None = None,
    device: torch.device | str = "cpu",
) -> Result:
    """The mean PSNR in dB of the batches, each weighted by its number of samples (the published protocol).

    Batches are {inp, coord, cell, gt}. With an `eval_type`, the queries must be whole pictures, row by row; their shape
    is taken from the coordinates, so that scales may be non-uniform. Pictures that are all border are skipped.
    """
    mode, scale = parse_mode(eval_type)
    margin = border(mode, scale)
    norm = Normalisation(data_norm, device)
    training = model.training
    model.eval()
    total, count, seen = 0.0, 0, 0
    skipped = []
    for batch in batches:
        inp, coord, cell, gt = (batch[key].to(device) for key in ("inp", "coord", "cell", "gt"))
        height, width = (coord.shape[1], 1) if mode is None else grid_shape(coord)
        seen += len(inp)
        if mode is not None and min(height, width) <= 2 * margin:
            skipped.append(f"picture {seen} ({height} x {width}, {eval_type} leaves out {margin} at every side)")
            logger.warning("skipped: %s", skipped[-1])
            continue
        pred = norm.undo(_predict_channels(model, norm.inp(inp), coord, cell, eval_bsize, gt.shape[-1]))
        shape = (len(inp), height, width, pred.shape[-1])
        sr, hr = (x.reshape(shape).permute(0, 3, 1, 2) for x in (pred, gt))
        total += psnr(sr, hr, mode, scale).item() * len(inp)
        count += len(inp)
    model.train(training)
    if count == 0:
        enough = " that is large enough" if seen else ""
        raise UsageError(f"evaluation: expected one picture or more, got none{enough}")
    return Result(total / count, count, skipped)


def grid_shape(coord: Tensor) -> tuple[int, int]:
    """The (height, width) of the pictures whose pixels the queries [B, Q, 2] are, row by row; UsageError for others."""
    queries = coord.shape[1]
    width = int((coord[0, :, 0] == coord[0, 0, 0]).sum())
    if queries % width == 0:
        grid = coord.view(len(coord), -1, width, 2)
        rows, columns = grid[:1, :, :1, 0], grid[:1, :1, :, 1]
        if bool((grid[..., 0] == rows).all()) and bool((grid[..., 1] == columns).all()):
            return queries // width, width
    raise UsageError(
        f"eval_type: expected every pixel of the pictures, row by row, got {queries} other queries; "
        "leave out sample_q, or eval_type"
    )


def _predict_channels(model: Any, inp: Tensor, coord: Tensor, cell: Tensor, bsize: int | None, channels: int) -> Tensor:
    """Calls `predict`; raises UsageError when the model is for pictures of another number of channels."""
    wrong = f"expected pictures with the channels of the model, got {channels}; set channels of the dataset"
    try:
        pred = predict(model, inp, coord, cell, bsize)
    except RuntimeError as error:
        if "channels" not in str(error):
            raise
        raise UsageError(wrong) from error
    if pred.shape[-1] != channels:
        raise UsageError(wrong)
    return pred


def upscale_array(
    model: Any, picture: NDArray[np.uint8], height: int, width: int, bsize: int = 16384
) -> NDArray[np.uint8]:
    """The picture [h, w, 3] uint8 enlarged by the model to [height, width, 3] uint8, rounded to the nearest level."""
    norm = Normalisation(getattr(model, "data_norm", None))
    inp = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()[None] / 255
    coord, cell = make_coord((height, width))[None], make_cell((height, width))[None]
    answer = norm.undo(predict(model, norm.inp(inp), coord, cell, bsize))
    rounded = (answer * 255).round().to(torch.uint8)
    return rounded.view(height, width, -1).numpy()
