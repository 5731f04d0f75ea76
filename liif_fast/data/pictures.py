"""Picture files as 8-bit arrays [H, W, C], and Pillow's bicubic resize of such arrays."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from liif_fast.errors import ImageError, one_line

Picture = NDArray[np.uint8]

ARRAY = ".npy"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".ppm", ".pgm", ARRAY})
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def read_picture(path: Path, shrink: int = 1, channels: int = 3) -> Picture:
    """Reads a picture as [H, W, channels] uint8.

    channels: 1 for gray, 2 for gray and alpha, 3 for RGB, 4 for RGBA; Pillow converts. A `.npy` file holds [H, W] or
        [H, W, C] uint8 and must have that many channels.
    shrink: the factor by which Pillow's antialiased bicubic filter reduces the picture.
    Raises ImageError with the path and the reason.
    """
    try:
        return decode(content(path), path, shrink, channels)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def decode(data: bytes, path: Path, shrink: int = 1, channels: int = 3) -> Picture:
    """Does what `read_picture` does, from a file's bytes; an ImageError gives the reason without the path."""
    try:
        picture = _array(data) if path.suffix.lower() == ARRAY else _pixels(data, channels)
    except (ImageError, MemoryError):
        raise
    # Decoders raise errors of any type for damaged files.
    except Exception as error:
        raise ImageError(_explain(error)) from error
    if picture.shape[2] != channels or not picture.size:
        raise ImageError(f"expected {channels} channels, got [H, W, C] = {list(picture.shape)}")
    if shrink != 1:
        picture = resize(picture, *(max(1, side // shrink) for side in picture.shape[:2]))
    return picture


def picture_size(path: Path, shrink: int = 1) -> tuple[int, int]:
    """Reads (height, width) from the file's header alone; an ImageError gives the reason without the path."""
    try:
        if path.suffix.lower() == ARRAY:
            height, width = np.load(path, mmap_mode="r").shape[:2]
        else:
            with Image.open(path) as file:
                width, height = file.size
    # Decoders raise errors of any type for damaged files.
    except Exception as error:
        raise ImageError(_explain(error)) from error
    return max(1, height // shrink), max(1, width // shrink)


def resize(picture: Picture, height: int, width: int) -> Picture:
    """Resizes [H, W, C] uint8 by Pillow's bicubic filter, antialiased and rounded to 8 bits, as published."""
    size = (width, height)
    if picture.shape[2] == 3:
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    # Channels are resized one by one, because Pillow would weight the others by an alpha channel.
    channels = (
        Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC) for channel in np.moveaxis(picture, 2, 0)
    )
    return np.stack([np.asarray(channel) for channel in channels], axis=2)


def content(path: Path) -> bytes:
    """Reads the bytes of a file; an ImageError gives the reason without the path."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(_explain(error)) from error


def _array(data: bytes) -> Picture:
    array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise ImageError(f"expected uint8 [H, W] or [H, W, C], got {array.dtype} {list(array.shape)}")
    return array if array.ndim == 3 else array[:, :, None]


def _pixels(data: bytes, channels: int) -> Picture:
    if channels not in MODES:
        raise ImageError(f"expected {channels} channels, which only a {ARRAY} file can hold")
    with Image.open(io.BytesIO(data)) as file:
        image: Image.Image = file
        if file.mode.startswith("I"):
            # Pillow's own conversion of 16-bit gray clips at 255.
            levels = np.asarray(file).astype(np.float64) / 257
            image = Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))
        elif file.mode == "F":
            raise ImageError("expected 8 or 16 bits a channel, got floating-point pixels")
        picture = np.array(image.convert(MODES[channels]))
    return picture.reshape(*picture.shape[:2], channels)


def _explain(error: Exception) -> str:
    """The reason of an error in words, on one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that Pillow knows"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return one_line(error)
