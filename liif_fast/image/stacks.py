"""Files of several pages: multi-page TIFF, ImageJ and OME stacks, animations; read and written a page at a time."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from liif_fast.errors import ImageError, one_line
from liif_fast.files import replacing
from liif_fast.image import deep, tiff
from liif_fast.image.formats import TIFF_STARTS, PathLike, extra, format_of
from liif_fast.image.geotiff import Resampling
from liif_fast.image.picture import Picture
from liif_fast.image.reading import Reading, pages_of, read, read_array, read_frames, refusing
from liif_fast.image.writing import layout_of, options_for, save, values_of

_MOVING = ("GIF", "WEBP", "PNG", "AVIF")
# What ImageJ says that is no number of pixels; regions of interest and overlays are places in the old ones.
_IMAGEJ_KEYS = (
    *("mode", "loop", "fps", "finterval", "unit", "yunit", "zunit", "spacing", "min", "max", "Info", "Labels", "LUTs"),
    *("Ranges", "Properties", "xorigin", "yorigin", "zorigin"),
)
_IMAGEJ_PLACES = ("ROI", "Overlays", "Plot")
_OME_SIZES = ("PhysicalSizeX", "PhysicalSizeY")
_OME_KEYS = ("PhysicalSizeZ", "TimeIncrement", "SignificantBits")
_OME_UNITS = ("PhysicalSizeXUnit", "PhysicalSizeYUnit", "PhysicalSizeZUnit", "TimeIncrementUnit")


class Stack(NamedTuple):
    """The pages of a file.

    frames: their numbers, as `Reading.frame` has them. moving: they are the frames of an animation. kind: "imagej" or
    "ome" where the file describes all its pages as one array, of these axes and this shape; said: in tifffile's words
    for its writer, and calibration: (x, y) in pixels per unit. notes: what of that is left out.
    """

    frames: tuple[int, ...]
    moving: bool = False
    kind: str = ""
    axes: str = ""
    shape: tuple[int, ...] = ()
    said: Mapping[str, Any] = {}
    calibration: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def pages(self) -> int:
        """The number of pages."""
        return len(self.frames)


def stack_of(path: PathLike, *, trusted: bool = False) -> Stack | None:
    """Return the pages of a file, None for a file of one plain picture and for one that cannot be read."""
    path = Path(path)
    try:
        with refusing(path, trusted), open(path, "rb") as stream:
            is_tiff = stream.read(4) in TIFF_STARTS
            found = _tiff_stack(path) if is_tiff else _animation(path)
    # What is wrong with the file is said when it is read.
    except (ImageError, OSError):
        return None
    return found if found is not None and (found.pages > 1 or found.kind) else None


def _animation(path: Path) -> Stack | None:
    with Image.open(path) as opened:
        moving = opened.format in _MOVING and getattr(opened, "is_animated", False)
        return Stack(tuple(range(opened.n_frames)), moving=True) if moving else None


def _tiff_stack(path: Path) -> Stack | None:
    try:
        import tifffile
    except ImportError:
        with Image.open(path) as opened:
            return Stack(tuple(pages_of(opened))) if isinstance(opened, TiffImageFile) else None
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    with tifffile.TiffFile(path) as file:
        frames = tuple(deep.pages(file))
        series = file.series[0] if file.is_imagej or file.is_ome else None
        if series is None or len(file.series) > 1:
            # Several OME images in one file are written as pages.
            return Stack(frames)
        said, notes = _imagej(file) if file.is_imagej else _ome(file)
        planes = int(np.prod(series.shape)) // int(np.prod(file.pages.first.shape))
        if planes != len(frames):
            # ImageJ states one page of a stack of more than 4 GiB.
            contiguous = series.dataoffset is not None and len(frames) == 1
            frames = tuple(range(planes)) if contiguous else frames
        kind = "imagej" if file.is_imagej else "ome"
        in_order = [axis for axis in "TZCYXS" if axis in series.axes] == list(series.axes)
        if planes != len(frames) or not (in_order or (kind == "ome" and set(series.axes) <= set("TZCYXS"))):
            return Stack(frames, notes=("its description does not fit its pages, and is left out",))
        per_unit = deep.density(file.pages.first) if kind == "imagej" else None
        return Stack(frames, False, kind, series.axes, tuple(series.shape), said, per_unit, tuple(notes))


def _imagej(file: Any) -> tuple[dict[str, Any], list[str]]:
    found = dict(file.imagej_metadata or {})
    dropped = [key for key in _IMAGEJ_PLACES if key in found]
    notes = [f"ImageJ's {', '.join(dropped)} left out: places in the old pixels"] if dropped else []
    return {key: found[key] for key in _IMAGEJ_KEYS if key in found}, notes


def _ome(file: Any) -> tuple[dict[str, Any], list[str]]:
    import tifffile

    images = tifffile.xml2dict(file.ome_metadata).get("OME", {}).get("Image", {})
    first = images[0] if isinstance(images, list) else images
    pixels = first.get("Pixels", {})
    said = {key: pixels[key] for key in (*_OME_SIZES, *_OME_KEYS, *_OME_UNITS) if key in pixels}
    if "Name" in first:
        said["Name"] = first["Name"]
    if isinstance(first.get("Description"), str):
        said["Description"] = first["Description"]
    channels = pixels.get("Channel", ())
    names = [channel.get("Name") for channel in (channels if isinstance(channels, list) else [channels])]
    if names and all(isinstance(name, str) for name in names):
        said["Channel"] = {"Name": names}
    return said, ["OME-XML written anew with axes, sizes, units and names; the rest of it is left out"]


# -- reading --------------------------------------------------------------------------------------------------------


def read_stack(path: PathLike, stack: Stack, how: Reading) -> Iterator[tuple[Picture, float]]:
    """Yield each page with the milliseconds for which it is shown (0 where none are stated)."""
    if stack.moving:
        yield from read_frames(Path(path), stack.frames, how)
        return
    planes = _unstated_planes(Path(path), stack, how)
    if planes is not None:
        yield from ((read_array(np.array(plane), how), 0.0) for plane in planes)
        return
    for frame in stack.frames:
        yield read(path, how=how._replace(frame=frame)), 0.0


def _unstated_planes(path: Path, stack: Stack, how: Reading) -> Any:
    """Return the planes of a stack that states only the first of them, mapped into memory; None for any other."""
    if not stack.kind:
        return None
    tifffile = extra("tifffile", f"{path}: this kind of TIFF")
    with refusing(path, how.trusted):
        with tifffile.TiffFile(path) as file:
            if len(file.pages) >= stack.pages:
                return None
        return tifffile.memmap(path, series=0, mode="r").reshape(stack.pages, *_page_shape(stack))


def _page_shape(stack: Stack) -> tuple[int, ...]:
    return stack.shape[stack.axes.index("Y") :]


# -- writing --------------------------------------------------------------------------------------------------------


def write_stack(pages: Iterator[tuple[Picture, float]], path: PathLike, stack: Stack, how: Resampling) -> None:
    """Write results of the pages of a stack, in order, into one file; it appears complete or not at all.

    how: the resampling of the first page, which is that of all pages where the file describes them as one array.
    Raises ImageError when the file cannot be written, and what making the pages raises.
    """
    path = Path(path)
    form = format_of(path)

    def raise_here() -> Iterator[tuple[Picture, float]]:
        try:
            yield from pages
        except Exception as error:
            failed.append(error)
            raise

    failed: list[Exception] = []
    try:
        with replacing(path) as temporary:
            if form.name != "TIFF":
                _write_animation(raise_here(), temporary, path)
            elif stack.kind:
                _write_series(raise_here(), temporary, stack, how)
            else:
                _write_pages(raise_here(), temporary, stack.pages)
    # Encoders raise errors of any type; those of the pages are not theirs.
    except Exception as error:
        if failed:
            raise failed[0] from None
        raise ImageError(f"{path}: cannot be written: {one_line(error)}") from error


def _write_pages(pages: Iterator[tuple[Picture, float]], path: Path, count: int) -> None:
    with open(path, "w+b") as stream:
        writer: tiff.Pages | None = None
        for picture, _ in pages:
            found = values_of(picture.image, picture)
            array = np.asarray(found)
            writer = writer or tiff.Pages(stream, big=array.nbytes * count > tiff.CLASSIC)
            layout = layout_of(picture) if picture.bands else (None, None)
            writer.add(array, options_for(picture, picture.size), *layout)


def _write_series(pages: Iterator[tuple[Picture, float]], path: Path, stack: Stack, how: Resampling) -> None:
    import tifffile

    first, _ = next(pages)
    array = np.asarray(values_of(first.image, first))
    at = stack.axes.index("Y")
    shape = (*stack.shape[:at], *array.shape)
    axes = stack.axes if len(stack.axes) == len(shape) else stack.axes.rstrip("S") + "S" * (array.ndim == 3)
    down, across = how.scale
    said: dict[str, Any] = {**stack.said, "axes": axes}
    options: dict[str, Any] = {}
    if stack.kind == "imagej" and stack.calibration is not None:
        options["resolution"] = (stack.calibration[0] * across, stack.calibration[1] * down)
    for key, factor in zip(_OME_SIZES, (across, down), strict=True):
        if key in said:
            said[key] = said[key] / factor
    for key, factor in (("xorigin", across), ("yorigin", down)):
        if key in said:
            said[key] = said[key] * factor
    if stack.kind == "imagej":
        said = {key: _escaped(value) if key not in _IMAGEJ_APART else value for key, value in said.items()}
    big = array.nbytes * stack.pages > tiff.CLASSIC and stack.kind == "ome"
    rest = (np.asarray(values_of(picture.image, picture)) for picture, _ in pages)
    rgb = array.ndim == 3 and array.shape[2] in (3, 4)
    with tifffile.TiffWriter(path, bigtiff=big, imagej=stack.kind == "imagej", ome=stack.kind == "ome") as file:
        file.write(
            chain([array], rest),
            shape=shape,
            dtype=array.dtype,
            photometric="rgb" if rgb else "minisblack",
            metadata=said,
            software=False,
            **options,
        )


# What ImageJ keeps beside its description, in tags of its own.
_IMAGEJ_APART = ("Info", "Labels", "Ranges", "LUTs", "Plot", "ROI", "Overlays", "Properties")


def _escaped(value: Any) -> Any:
    """Return a text of ImageJ's description as ImageJ writes it, in ASCII; other values as they are."""
    if not isinstance(value, str):
        return value
    return "".join(letter if letter.isascii() else f"\\u{ord(letter):04X}" for letter in value)


class _Frames(Image.Image):
    """The frames of a result, RGBA of this shape each, that lie in a file until Pillow's writer asks for them.

    opaque: they are given without their alpha.
    """

    def __init__(self, spool: Any, shape: tuple[int, ...], count: int, opaque: bool) -> None:
        super().__init__()
        self._spool, self._shape, self.n_frames, self._opaque = spool, shape, count, opaque
        self.is_animated = count > 1
        self.seek(0)

    def seek(self, frame: int) -> None:
        if not 0 <= frame < self.n_frames:
            raise EOFError("no more frames")
        size = int(np.prod(self._shape))
        self._spool.seek(frame * size)
        array = np.frombuffer(self._spool.read(size), np.uint8).reshape(self._shape)
        loaded = Image.fromarray(np.ascontiguousarray(array[:, :, :3]) if self._opaque else array)
        self.im, self._mode, self._size = loaded.im, loaded.mode, loaded.size
        self._frame = frame

    def tell(self) -> int:
        return self._frame


def _write_animation(pages: Iterator[tuple[Picture, float]], temporary: Path, path: Path) -> None:
    form = format_of(path)
    durations: list[float] = []
    shape: tuple[int, ...] = ()
    opaque = True
    like: Picture | None = None
    with tempfile.TemporaryFile(dir=temporary.parent) as spool:
        for picture, duration in pages:
            like = like or picture
            image = picture.image
            if not isinstance(image, Image.Image):
                raise ImageError(f"{form.name} holds frames of 8 bits, got {picture.mode}; write .tif")
            array = np.asarray(image.convert("RGBA"))
            opaque = opaque and bool((array[:, :, 3] == 255).all())
            shape = array.shape
            spool.write(array.tobytes())
            durations.append(duration)
        assert like is not None
        frames = _Frames(spool, shape, len(durations), opaque)
        more: dict[str, Any] = {"save_all": True, "duration": [round(value) for value in durations]}
        if like.extras.loop is not None:
            more["loop"] = like.extras.loop
        if form.name == "GIF":
            # Each frame is complete, and what is clear in it must not show the one before.
            more |= {"disposal": 1 if opaque else 2}
        with open(temporary, "w+b") as stream:
            save(frames, stream, form, options_for(like, like.size), **more)
