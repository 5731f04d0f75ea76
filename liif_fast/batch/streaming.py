"""Results written while they are made: tiled TIFF (BigTIFF beyond 4 GiB) and zarr, in bounded memory.

The parts of an output are of any size. They fill bands, each a row of the file's tiles, and a thread of its own writes
each band once, when it is complete. This needs the extra `large`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from queue import Full, Queue
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from liif_fast.box import Box, Region
from liif_fast.errors import ImageError, LiifError, one_line
from liif_fast.files import replacing
from liif_fast.image import FileArray, Picture, tiff
from liif_fast.image.formats import extra
from liif_fast.image.writing import options_for
from liif_fast.rendering.options import Held
from liif_fast.rendering.output import Output

TIFF = (".tif", ".tiff")
STREAMED_FROM = 2**27  # bytes of pixels: smaller TIFFs are written whole
DESCRIPTION = "zarr.json"  # the file in a zarr that says what it holds
TILE = 256  # side of a file's tiles
# Bands that are waiting, being written and being filled, beside those that the tiles being made are filling.
BANDS = 3

Bands = Iterator[np.ndarray]


def should_stream(path: Path, picture: Picture, box: Box, *, compress: bool) -> bool:
    """Say whether a result of the size of `box` is written to `path` while it is made.

    A zarr always is; a TIFF when it is large (STREAMED_FROM), deflated, or made of a picture that stays in its file.
    Without the extra, a TIFF that is merely large is written whole.
    """
    suffix = path.suffix.lower()
    if suffix == ".zarr" or (suffix in TIFF and (compress or isinstance(picture.image, FileArray))):
        return True
    if picture.bands:
        return False
    large = box.pixels * _pixel_bytes(picture) >= STREAMED_FROM
    return suffix in TIFF and large and find_spec("tifffile") is not None


def _pixel_bytes(picture: Picture) -> int:
    image = picture.image
    if isinstance(image, Image.Image):
        return 2 if image.mode.startswith("I;16") else len(image.getbands())
    channels = image.shape[2] if image.ndim == 3 else 1
    return int(channels * image.dtype.itemsize)


def write(
    output: Output, path: Path, like: Picture | None = None, *, compress: bool = False, part: Region | None = None
) -> None:
    """Write an output to a .tif, .tiff or .zarr; it appears whole under its name or not at all.

    like: gives the metadata to keep, and the span into which floating values are brought back.
    compress: TIFF tiles are deflated (zarr's chunks always are compressed).
    part: where the output lies in a larger result; it goes to its place in the zarr `path`, which is made if it is
        missing. Where the edges of parts are multiples of TILE, they have no file (`part_files`) in common but the one
        that describes them all, so that several processes may write into one zarr.

    Raises ImageError when the file cannot be written or the extra is missing, and what the rendering raises.
    """
    extra("zarr" if path.suffix.lower() == ".zarr" else "tifffile", f"{path}: writing it in tiles", "large")
    row_bytes = output.size[1] * output.channels * output.dtype.itemsize
    parts = output.parts(Held(row_bytes, BANDS * TILE))
    if part is None:
        check_replaceable(path)
    ready = _restored(bands(parts, output.size, TILE), like)

    def save(target: Path, ready: Bands) -> None:
        if path.suffix.lower() == ".zarr":
            whole = Region(output.size, Box(0, 0, *output.size))
            _write_zarr(target, ready, part or whole, like.icc if like else None)
        else:
            _write_tiff(target, ready, output.size, like, compress)

    try:
        with replacing(path) if part is None else nullcontext(path) as target:
            _write_behind(ready, lambda ready: save(target, ready))
    except _Failed as failed:
        error = failed.__cause__
        raise ImageError(f"{path}: cannot be written: {one_line(error)}") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be written: {error.strerror or error}") from error


def _restored(made: Bands, like: Picture | None) -> Bands:
    """Bring levels back into the values of the source's file."""
    top = 0
    for band in made:
        yield band if like is None or like.values is None else like.values.restore(band, top)
        top += len(band)


def check_replaceable(path: Path) -> None:
    """ImageError where a result would replace a folder, or a zarr's name anything, that is no zarr."""
    if (path.is_dir() or path.suffix.lower() == ".zarr") and path.exists() and not (path / DESCRIPTION).exists():
        got = "another folder" if path.is_dir() else "a file"
        raise ImageError(f"{path}: expected a zarr folder to replace, got {got}; choose another name")


def part_files(box: Box) -> list[str]:
    """Return the files of a zarr, beside its DESCRIPTION, that can hold a box of its pixels.

    The edges of the box are multiples of TILE or those of the result.
    """
    chunks = [
        f"c/{row}/{col}"
        for row in range(box.top // TILE, -(-box.bottom // TILE))
        for col in range(box.left // TILE, -(-box.right // TILE))
    ]
    # Arrays with a third axis have the second kind of names.
    return [*chunks, *(f"{chunk}/0" for chunk in chunks)]


def bands(parts: Iterable[tuple[Box, Tensor]], size: Sequence[int], rows: int) -> Bands:
    """Yield the result from top to bottom in arrays [rows, W, C]; the last one may have fewer rows.

    parts: (box, values [C, h, w]) in any order; each pixel once. A band is held from its first part to its last, so
    parts from top to bottom are held for as long as a row of them takes.
    """
    height, width = size
    open_bands: dict[int, np.ndarray] = {}
    missing: dict[int, int] = {}
    following = 0
    for box, values in parts:
        pixels = values.permute(1, 2, 0).cpu().numpy()
        for number in range(box.top // rows, (box.bottom - 1) // rows + 1):
            top, bottom = number * rows, min(height, (number + 1) * rows)
            if number not in open_bands:
                open_bands[number] = np.empty((bottom - top, width, pixels.shape[2]), pixels.dtype)
                missing[number] = (bottom - top) * width
            first, last = max(box.top, top), min(box.bottom, bottom)
            inside = pixels[first - box.top : last - box.top]
            open_bands[number][first - top : last - top, box.left : box.right] = inside
            missing[number] -= inside.shape[0] * inside.shape[1]
        while missing.get(following) == 0:
            yield open_bands.pop(following)
            following += 1


# -- a thread that writes -------------------------------------------------------------------------------------------


class _Failed(Exception):
    """The writer ended with the error that is this one's cause."""


class _Abandoned(Exception):
    """Nothing more will come."""


def _write_behind(made: Bands, save: Callable[[Bands], None]) -> None:
    """Run save on the bands, in another thread, one band behind; its error is raised as the cause of _Failed."""
    queue: Queue[np.ndarray | type[_Abandoned] | None] = Queue(maxsize=1)

    def received() -> Bands:
        while (item := queue.get()) is not None:
            if not isinstance(item, np.ndarray):
                raise item
            yield item

    with ThreadPoolExecutor(1, "writer") as pool:
        writing = pool.submit(save, received())
        try:
            for band in made:
                _hand_over(band, queue, writing)
                if writing.done():
                    break
            _hand_over(None, queue, writing)
        except BaseException:
            _hand_over(_Abandoned, queue, writing)
            raise
    error = writing.exception()
    if isinstance(error, LiifError):
        raise error
    if error is not None:
        raise _Failed from error


def _hand_over(item: Any, queue: Queue[Any], writing: Future[None]) -> None:
    """Wait until the writer takes the item or has ended."""
    while not writing.done():
        try:
            queue.put(item, timeout=0.1)
            return
        except Full:
            continue


# -- formats --------------------------------------------------------------------------------------------------------


def _write_tiff(path: Path, ready: Bands, size: Sequence[int], like: Picture | None, compress: bool) -> None:
    import tifffile

    first = next(ready)
    channels = first.shape[2]
    pixels = (*size, channels) if channels > 1 else tuple(size)
    options: dict[str, Any] = {"photometric": "rgb" if channels > 2 else "minisblack"}
    if channels in (2, 4):
        options |= {"extrasamples": ["unassalpha"], "planarconfig": "contig"}
    if compress:
        options |= {"compression": "zlib", "predictor": first.dtype.kind in "iu"}
    tiles = -(-size[0] // TILE) * -(-size[1] // TILE)
    big = tiles * TILE**2 * channels * first.itemsize > tiff.CLASSIC
    with tifffile.TiffWriter(path, bigtiff=big) as file:
        file.write(
            _tiles(chain([first], ready)),
            shape=pixels,
            dtype=first.dtype,
            tile=(TILE, TILE),
            software=False,
            metadata=None,
            # The default reads 256 MiB ahead.
            buffersize=TILE * first.nbytes // first.shape[0],
            **options,
        )
    tiff.label(path, {} if like is None else options_for(like, (size[1], size[0])))


def _tiles(ready: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the tiles of each band from left to right, those at the edges filled up with zeros."""
    for band in ready:
        height, width, channels = band.shape
        for left in range(0, width, TILE):
            tile = band[:, left : left + TILE]
            if tile.shape[:2] != (TILE, TILE):
                tile = np.pad(tile, ((0, TILE - height), (0, TILE - tile.shape[1]), (0, 0)))
            yield np.ascontiguousarray(tile if channels > 1 else tile[:, :, 0])


def _write_zarr(path: Path, ready: Bands, region: Region, icc: bytes | None) -> None:
    import zarr

    first = next(ready)
    last = first.shape[2:] if first.shape[2] > 1 else ()
    # One file describes the array. It is written at once, and whoever writes it writes the same.
    with suppress(zarr.errors.ContainsArrayError):
        zarr.create_array(
            str(path),
            shape=(*region.size, *last),
            chunks=(TILE, TILE, *last),
            dtype=first.dtype,
            zarr_format=3,
            dimension_names=["y", "x", "c"][: 2 + len(last)],
            attributes={} if icc is None else {"icc_profile": icc.hex()},
        )
    with ensure_same_folder(path):
        array: Any = zarr.open_array(str(path), mode="r+")
        top, cols = region.box.top, slice(region.box.left, region.box.right)
        for band in chain([first], ready):
            array[top : top + band.shape[0], cols] = band if last else band[:, :, 0]
            top += band.shape[0]


@contextmanager
def ensure_same_folder(folder: Path) -> Iterator[None]:
    """Raises FileNotFoundError at the end if the folder's name is no longer its: what went there may be elsewhere."""
    # No other folder gets the number of one that is open.
    opened = os.open(folder, os.O_RDONLY)
    try:
        yield
        if not os.path.samestat(os.fstat(opened), os.stat(folder)):
            raise FileNotFoundError(errno.ENOENT, "another process has moved it")
    finally:
        os.close(opened)
