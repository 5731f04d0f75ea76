"""What comes in: a model, and a picture of any kind as pixels [1, C, H, W]."""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from liif_fast import checkpoint
from liif_fast.errors import ImageError, UsageError
from liif_fast.image import FileArray, Picture, plain, read
from liif_fast.rendering.encoding import INTEGER_MAX, Pixels, input_channels


def open_model(model: nn.Module | str | os.PathLike[str] | None) -> nn.Module:
    """The model itself, the one of a path (kept until another is asked for), or the one of the package."""
    return model if isinstance(model, nn.Module) else _load(None if model is None else os.fspath(model))


@lru_cache(maxsize=1)
def _load(path: str | None) -> nn.Module:
    return checkpoint.load(path)


class FilePixels:
    """A picture that stays in its file, as pixels [1, C, H, W] that are read when they are sliced.

    repeat: how often the channels of the file are given, one after another.
    """

    device = torch.device("cpu")

    def __init__(self, array: FileArray, repeat: int = 1) -> None:
        self.array = array
        height, width, channels = (*array.shape, 1)[:3]
        self.shape = 1, channels * repeat, height, width
        self.dtype: torch.dtype = getattr(torch, str(array.dtype))

    def expand(self, *sizes: int) -> FilePixels:
        """A gray picture with sizes[1] equal channels."""
        return FilePixels(self.array, sizes[1])

    def __getitem__(self, key: tuple[slice, slice, slice, slice]) -> Tensor:
        """A window of the picture; the slices of the first two axes are taken for whole ones."""
        pixels = torch.from_numpy(self.array[key[2:]])
        if self.dtype.is_floating_point and self.array.ends is None:
            _check_range(pixels)
        pixels = pixels.unsqueeze(-1) if pixels.dim() == 2 else pixels
        return pixels.permute(2, 0, 1).unsqueeze(0).expand(-1, self.shape[1], -1, -1)


def read_if_path(image: Any) -> Picture:
    """Return the picture in a file where a path is given, upright, or the picture given; reading warns of its changes.

    Raises ImageError as `liif_fast.image.read` does.
    """
    if not isinstance(image, (str, os.PathLike)):
        return Picture(image)
    picture = read(image)
    notes = picture.notes
    if picture.bands:
        notes += (f"{len(picture.bands)} further bands left out; the command `liif-fast upscale` keeps them",)
    for note in notes:
        warnings.warn(f"{os.fspath(image)}: {note}", stacklevel=3)
    if isinstance(picture.image, Image.Image):
        kept = {"icc_profile": picture.icc, "dpi": picture.dpi}
        picture.image.info = {key: value for key, value in kept.items() if value is not None}
    return picture._replace(bands=())


def open_picture(image: Any, model: nn.Module, *, any_level: bool = False) -> Pixels:
    """The picture as pixels [1, C, H, W] of its own type, a view where that is possible.

    image: a Pillow picture, an array, a tensor, or a `FileArray`, whose pixels stay in the file. any_level: floating
    values may lie beyond [0, 1], for what gives them back to the result (`consistency`).

    Raises UsageError for anything else, ImageError for a picture that the model cannot take.
    """
    if isinstance(image, FileArray):
        return FilePixels(image)
    if isinstance(image, Tensor):
        pixels, form = image.detach() if image.dim() == 4 else image.detach().unsqueeze(0), "[C, H, W] or [1, C, H, W]"
    elif isinstance(image, (np.ndarray, Image.Image)):
        array = np.asarray(plain(image)[0]) if isinstance(image, Image.Image) else image
        form = "[H, W] or [H, W, C]"
        if array.dtype.kind not in "fu":
            raise _unfit(image, form, model)
        pixels = _of_array(array)
    else:
        raise UsageError(
            f"image: expected a path, a Pillow picture, a NumPy array or a tensor, got {type(image).__name__}"
        )
    allowed = {input_channels(model)} | ({1, 2, 4} if input_channels(model) == 3 else set())
    known = pixels.is_floating_point() or pixels.dtype in INTEGER_MAX
    if pixels.dim() != 4 or pixels.shape[0] != 1 or pixels.shape[1] not in allowed or 0 in pixels.shape or not known:
        raise _unfit(image, form, model)
    if pixels.is_floating_point() and not any_level:
        _check_range(pixels)
    return pixels


def _of_array(array: np.ndarray) -> Tensor:
    """An array [H, W] or [H, W, C] as a tensor [1, C, H, W]; one of another shape keeps it, and fits no model."""
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if not native.flags.writeable:
        # torch warns of arrays it might write to; nothing here does, but it cannot know.
        native = native.copy()
    pixels = torch.from_numpy(native)
    pixels = pixels.unsqueeze(-1) if pixels.dim() == 2 else pixels
    return pixels.permute(2, 0, 1).unsqueeze(0) if pixels.dim() == 3 else pixels


def _unfit(image: Any, form: str, model: nn.Module) -> ImageError:
    channels = input_channels(model)
    allowed = "1 to 4" if channels == 3 else str(channels)
    return ImageError(
        f"image: expected {form} with C {allowed}, uint8, uint16 or floating, got {image.dtype} {list(image.shape)}; "
        "call once for each picture of a batch"
    )


def _check_range(pixels: Tensor) -> None:
    """ImageError unless floating values lie in [0, 1], or a little beyond."""
    low, high = (float(value) for value in torch.aminmax(pixels))
    # A little beyond is what filters leave behind; far beyond is another unit.
    if not (low >= -0.5 and high <= 1.5):
        raise ImageError(f"image: expected floating values in [0, 1], got {low:g} to {high:g}; divide by the maximum")
