"""Parts of one picture at any size: enlarged by a model or by bicubic interpolation, reduced with antialiasing."""

from __future__ import annotations

import io
from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from liif_fast import backends, image
from liif_fast.batch.conversion import Converter
from liif_fast.box import Box, Region
from liif_fast.rendering.job import answer_tiles, open_jobs
from liif_fast.rendering.options import Fidelity, Options
from liif_fast.rendering.output import quantise
from liif_fast.rendering.planes import Planes
from liif_fast.rendering.render import RegularTile
from liif_fast.rendering.request import Request
from liif_fast.rendering.source import open_picture
from liif_fast.rendering.tiling import tiles
from liif_fast.serve.cache import Cache
from liif_fast.serve.features import KeptEncoding
from liif_fast.serve.iiif import Resolved
from liif_fast.upscaling import RegularTarget

Step = Callable[[int], None]
WORKING_MEMORY = 2**27  # bytes beside what is kept, while a part is computed
LARGEST_PROFILE = 2**14  # bytes of a colour profile that is sent with each part
SAVING: dict[str, dict[str, object]] = {
    "jpg": {"format": "JPEG", "quality": 92, "subsampling": 0},
    "png": {"format": "PNG", "compress_level": 1},
    "webp": {"format": "WEBP", "quality": 90, "method": 1},
}


class Shown(NamedTuple):
    """A picture as it is shown, of 8 bits: mode L, LA, RGB or RGBA."""

    image: Image.Image
    icc: bytes | None = None

    @property
    def bytes(self) -> int:
        return self.image.width * self.image.height * len(self.image.getbands())


class Enlarger(Protocol):
    """What makes parts of a picture larger."""

    def enlarge(self, region: Region) -> Image.Image:
        """The part region.box of the picture at region.size (H, W), neither side of which is below the picture's."""
        ...


def shown(picture: image.Picture) -> Shown:
    """What is shown of a picture that has been read: more than 8 bits are rounded to 8."""
    found = picture.image
    if isinstance(found, Image.Image) and found.mode in ("L", "LA", "RGB", "RGBA"):
        return Shown(found, picture.icc)
    array = np.asarray(found[:, :] if isinstance(found, image.FileArray) else found)
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif array.dtype != np.uint8:
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    return Shown(Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array), picture.icc)


def _go_on(done: int) -> None:
    pass


class ByModel:
    """One picture enlarged by one model; the features are kept in `features`, under `key`.

    step: called between two steps; what it raises ends the work.

    A part equals that part of the whole picture as `liif-fast upscale` makes it, bit for bit on a CPU.
    """

    def __init__(
        self, picture: Image.Image, converter: Converter, features: Cache[Tensor], key: Hashable, step: Step = _go_on
    ) -> None:
        self._step = step
        model = converter.model
        backend = converter.backend if converter.backend in backends.NAMES else "auto"
        self._options = Options(backend, converter.precision, memory=WORKING_MEMORY)
        self._shape = picture.height, picture.width
        self._planes = Planes(open_picture(picture, model), model, Fidelity(keep_gray=True))
        self._jobs = open_jobs(model, self._planes.given, self._options)
        for number, job in enumerate(self._jobs):
            if not (job.decoder.reads_whole_map or job.decoder.asks_model):
                job.encoding = KeptEncoding(model, job.inp, features, (key, number))

    def enlarge(self, region: Region) -> Image.Image:
        target, first = RegularTarget(region, self._shape, (0, 0)), region.box
        parts = tiles(first, *self._jobs[0].tile_sides(region, self._options))
        whole: np.ndarray | None = None
        asked = [RegularTile(Region(region.size, part)) for part in parts]
        for tile, values in answer_tiles(self._jobs, asked, self._step):
            box = tile.region.box
            box = box._replace(top=box.top - first.top, left=box.left - first.left)
            joined = self._planes.join(values.view(-1, box.height, box.width), target, box)
            part = quantise(joined, torch.uint8).permute(1, 2, 0).cpu().numpy()
            if whole is None:
                whole = np.empty((first.height, first.width, part.shape[2]), np.uint8)
            whole[box.top : box.bottom, box.left : box.right] = part
        assert whole is not None
        return Image.fromarray(whole[:, :, 0] if whole.shape[2] == 1 else whole)


class ByBicubic:
    """One picture enlarged by Pillow's bicubic interpolation."""

    def __init__(self, picture: Image.Image) -> None:
        self._picture = picture

    def enlarge(self, region: Region) -> Image.Image:
        (height, width), box = region
        down, across = self._picture.height / height, self._picture.width / width
        seen = (box.left * across, box.top * down, box.right * across, box.bottom * down)
        return self._picture.resize((box.width, box.height), Image.Resampling.BICUBIC, box=seen)


def draw(shown: Shown, enlarger: Enlarger, asked: Resolved) -> bytes:
    """The answer to a request: the bytes of a picture file."""
    picture = _scaled(shown.image, enlarger, asked.box, asked.size)
    if asked.mirror:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if asked.rotation:
        # The standard turns clockwise, Pillow the other way.
        turn = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
        picture = picture.transpose(turn[asked.rotation])
    if asked.gray and len(picture.getbands()) > 2:
        picture = picture.convert("LA" if picture.mode == "RGBA" else "L")
    if asked.format == "jpg" and picture.mode in ("LA", "RGBA"):
        picture = _on_white(picture)
    icc = shown.icc if shown.icc and len(shown.icc) <= LARGEST_PROFILE and not asked.gray else None
    stream = io.BytesIO()
    picture.info = {}
    picture.save(stream, icc_profile=icc, **SAVING[asked.format])  # type: ignore[arg-type]
    return stream.getvalue()


def _scaled(picture: Image.Image, enlarger: Enlarger, box: Box, size: tuple[int, int]) -> Image.Image:
    """The pixels `box` at size (H, W); an axis that gets shorter is reduced after the other is enlarged."""
    larger = max(size[0], box.height), max(size[1], box.width)
    if larger != (box.height, box.width):
        roi = box.left, box.top, box.width, box.height
        region = Request(size=larger, roi=roi).region((picture.height, picture.width), None)
        made = enlarger.enlarge(region)
        return made if larger == size else made.resize(size[::-1], Image.Resampling.LANCZOS)
    edges = box.left, box.top, box.right, box.bottom
    if size == larger:
        return picture.crop(edges)
    # With `box` Pillow looks at the pixels around it too, so that tiles join without a seam.
    return picture.resize(size[::-1], Image.Resampling.LANCZOS, box=edges)


def _on_white(picture: Image.Image) -> Image.Image:
    white = Image.new(picture.mode, picture.size, (255,) * len(picture.getbands()))
    return Image.alpha_composite(white.convert("RGBA"), picture.convert("RGBA")).convert(
        "L" if picture.mode == "LA" else "RGB"
    )
