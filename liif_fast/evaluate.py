"""Evaluation: PSNR over a data set, and a model beside Pillow's filters on pictures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from liif_fast.geometry import make_cell, make_coord
from liif_fast.metrics import parse_mode, psnr

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
IDENTITY_NORM: dict[str, dict[str, list[float]]] = {
    "inp": {"sub": [0.0], "div": [1.0]},
    "gt": {"sub": [0.0], "div": [1.0]},
}


class Normalisation:
    """A config's data_norm as tensors: into the model (`inp`), targets (`gt`) and back (`undo`)."""

    def __init__(self, data_norm: dict[str, Any] | None, device: torch.device | str = "cpu") -> None:
        spec = IDENTITY_NORM if data_norm is None else data_norm

        def tensor(part: str, key: str) -> Tensor:
            return torch.tensor(spec[part][key], dtype=torch.float32, device=device)

        self._inp = [tensor("inp", key).view(1, -1, 1, 1) for key in ("sub", "div")]
        self._gt = [tensor("gt", key).view(1, 1, -1) for key in ("sub", "div")]

    def inp(self, picture: Tensor) -> Tensor:
        """[B, C, h, w] in [0, 1] to what the encoder takes."""
        return (picture - self._inp[0]) / self._inp[1]

    def gt(self, colours: Tensor) -> Tensor:
        """[B, Q, C] in [0, 1] to what the model should answer."""
        return (colours - self._gt[0]) / self._gt[1]

    def undo(self, prediction: Tensor) -> Tensor:
        """[B, Q, C] of the model to colours clamped to [0, 1]."""
        return (prediction * self._gt[1] + self._gt[0]).clamp(0, 1)


@torch.no_grad()
def predict(model: Any, inp: Tensor, coord: Tensor, cell: Tensor, bsize: int | None = None) -> Tensor:
    """[B, Q, C] of the model, in chunks of `bsize` queries that share one feature map (None: in one go)."""
    if bsize is None:
        answer: Tensor = model(inp, coord, cell)
        return answer
    model.gen_feat(inp)
    chunks = zip(coord.split(bsize, dim=1), cell.split(bsize, dim=1), strict=True)
    return torch.cat([model.query_rgb(*chunk) for chunk in chunks], dim=1)


def eval_psnr(
    batches: Iterable[dict[str, Tensor]],
    model: nn.Module,
    data_norm: dict[str, Any] | None = None,
    eval_type: str | None = None,
    eval_bsize: int | None = None,
    device: torch.device | str = "cpu",
) -> float:
    """Mean PSNR in dB of the batches, each counted by its samples (the published protocol).

    Batches are {inp, coord, cell, gt}. For an `eval_type` the queries must be whole pictures, row by row;
    their shape is taken from the cells, so that scales may be non-uniform.
    """
    mode, scale = parse_mode(eval_type)
    norm = Normalisation(data_norm, device)
    training = model.training
    model.eval()
    total, count = 0.0, 0
    for batch in batches:
        inp, coord, cell, gt = (batch[key].to(device) for key in ("inp", "coord", "cell", "gt"))
        pred = norm.undo(predict(model, norm.inp(inp), coord, cell, eval_bsize))
        if mode is None:
            height, width = pred.shape[1], 1
        else:
            height, width = (round(2 / side) for side in cell[0, 0].tolist())
        shape = (len(inp), height, width, pred.shape[-1])
        sr, hr = (x.reshape(shape).permute(0, 3, 1, 2) for x in (pred, gt))
        value = psnr(sr, hr, mode, scale)
        total += value.item() * len(inp)
        count += len(inp)
    model.train(training)
    if count == 0:
        raise ValueError("evaluation: expected one sample or more, got none")
    return total / count


def upscale_array(
    model: Any, picture: NDArray[np.uint8], height: int, width: int, bsize: int = 16384
) -> NDArray[np.uint8]:
    """[h, w, 3] uint8 to [height, width, 3] uint8 by the model, rounded to the nearest level."""
    norm = Normalisation(getattr(model, "data_norm", None))
    inp = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()[None] / 255
    coord, cell = make_coord((height, width))[None], make_cell((height, width))[None]
    answer = norm.undo(predict(model, norm.inp(inp), coord, cell, bsize))
    rounded = (answer * 255).round().to(torch.uint8)
    return rounded.view(height, width, -1).numpy()


def psnr_uint8(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """PSNR in dB of two [H, W, C] 8-bit pictures, every channel and pixel counted."""
    mse = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / mse)) if mse else float("inf")


def compare(model: Any, truth: NDArray[np.uint8], scale: float) -> dict[str, float]:
    """PSNR in dB of the model and of Pillow's filters: the truth, reduced by bicubic, brought back to its size.

    truth: [H, W, 3] uint8; it is cropped so that the reduced picture has floor(side / scale) pixels.
    """
    height, width = (int(side / scale + 1e-9) for side in truth.shape[:2])
    truth = truth[: round(height * scale), : round(width * scale)]
    full = (truth.shape[1], truth.shape[0])
    low = Image.fromarray(truth).resize((width, height), Image.Resampling.BICUBIC)
    results = {"model": psnr_uint8(upscale_array(model, np.asarray(low), full[1], full[0]), truth)}
    for name, kernel in FILTERS.items():
        results[name] = psnr_uint8(np.asarray(low.resize(full, kernel)), truth)
    return results
