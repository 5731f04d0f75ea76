"""Files to pictures: nothing is reduced silently, whatever is wrong with a file is said in one line."""

from __future__ import annotations

import io
import itertools
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from PIL import TiffImagePlugin as Tiff
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import TiffImageFile

from liif_fast.errors import ImageError, one_line
from liif_fast.image import deep, geotiff, kinds, metadata, quirks, tags
from liif_fast.image.extras import Extras
from liif_fast.image.formats import DEEP_MODES, TIFF_STARTS, PathLike
from liif_fast.image.picture import Picture, plain
from liif_fast.image.values import Pixels, levels_of

HEADER = 2**18  # bytes of a file in which its depth, its layers and what it says of its colours are looked for
TEXT = 2**26  # bytes of text or of a colour profile in a PNG, unpacked; Pillow alone refuses more than a mebibyte


class Reading(NamedTuple):
    """How a file is read.

    trusted: however many pixels its header states (Pillow refuses some 179 megapixels and more, since a small file can
    ask for all memory). frame: which of its frames, from 0, None for the first page with
    a note on the others (`pages`). bands: the channels of a TIFF to take, counted from 1, None
    for all. nodata: the value that stands for pixels without data, None for what the file says. consistent: integers
    of 16 bits too become levels in a robust range, for a result that is made consistent with its source.
    """

    trusted: bool = False
    frame: int | None = None
    bands: Sequence[int] | None = None
    nodata: float | None = None
    consistent: bool = False


def read(path: PathLike, *, trusted: bool = False, how: Reading | None = None) -> Picture:
    """Return the picture in a file, `how` replacing `trusted` where it is given.

    Values that no model takes (floating beyond [0, 1], signed, of 32 bits, with pixels without data) become levels in
    [0, 1], and `write` brings them back (`Picture.values`). Bands of a TIFF behind colour and alpha are pictures of
    their own (`Picture.bands`).

    Raises ImageError: no such file, a folder, not readable, empty, damaged, not a picture, of a kind that would be
    silently reduced, or one that needs an extra (`formats` for 16-bit colour and floating-point colour, `heif`, `jxl`).
    """
    path, how = Path(path), Reading(trusted) if how is None else how
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not path.is_file():
        got = "a folder; name the files in it" if path.is_dir() else "something else"
        raise ImageError(f"{path}: expected a picture file, got {got}")
    with refusing(path, how.trusted), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # Of an earlier picture that stayed in its file, and is let go of now.
        warnings.simplefilter("ignore", ResourceWarning)
        with open(path, "rb") as stream:
            start = stream.read(HEADER)
        if not start:
            raise ImageError(f"{path}: expected a picture, got an empty file")
        picture = _decoded(path, start, how, caught)
    said = (f"warning while reading: {one_line(warning.message)}" for warning in caught)
    return picture._replace(notes=tuple(dict.fromkeys((*picture.notes, *said))))


@contextmanager
def refusing(path: Path, trusted: bool) -> Iterator[None]:
    """Turn whatever goes wrong inside into an ImageError of one line; Pillow's limit is off for trusted files."""
    limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    if trusted:
        Image.MAX_IMAGE_PIXELS = None
    PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = TEXT, 2 * TEXT
    try:
        yield
    except ImageError as error:
        text = str(error)
        raise (error if text.startswith(str(path)) else ImageError(f"{path}: {text}")) from error.__cause__
    except Image.DecompressionBombError:
        raise ImageError(
            f"{path}: expected a picture below Pillow's safety limit of {2 * (limits[0] or 0) / 1e6:.0f} megapixels, "
            "got more; pass --force (trusted=True in Python) if you know where it comes from"
        ) from None
    except UnidentifiedImageError:
        kind = kinds.kind_of_file(path)
        reason = "got something that Pillow does not know"
        if kind is not None:
            reason = kind.reason or f"got a damaged or unusual {kind.name}"
        raise ImageError(f"{path}: expected a picture, {reason}") from None
    except PermissionError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    except MemoryError:
        raise ImageError(f"{path}: the picture does not fit into memory") from None
    # Decoders answer damaged files with errors of any type.
    except Exception as error:
        raise ImageError(f"{path}: expected a picture, got a damaged or unknown file ({one_line(error)})") from error
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = limits


def _decoded(path: Path, start: bytes, how: Reading, caught: list[warnings.WarningMessage]) -> Picture:
    """Return the picture; what Pillow warned of is dropped where it is not Pillow that reads the file."""
    kind = kinds.kind_of(start)
    if kind is kinds.RAW:
        raise ImageError(f"{path}: expected a picture, {kind.reason}")
    kinds.load_plugins(start)
    is_tiff = start.startswith(TIFF_STARTS)
    with _Bounded(path) as stream:
        try:
            opened = Image.open(stream)
        except (UnidentifiedImageError, SyntaxError):
            if not is_tiff:
                raise
            opened = None
        if opened is not None:
            return _of_pillow(opened, path, start, how, caught)
    caught.clear()
    return _picture(deep.tiff(path, how.frame, how.bands), how)


class _Bounded(io.BufferedReader):
    """A file of which no more is asked for than there is: for a damaged length Python would reserve as much memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(str(path)))
        self.length = path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        return super().read(-1 if size is None else min(size, self.length))


def _of_pillow(
    opened: Image.Image, path: Path, start: bytes, how: Reading, caught: list[warnings.WarningMessage]
) -> Picture:
    with opened:
        quirks.check(opened, path, start)
        if how.frame is not None:
            opened.seek(how.frame)
        if isinstance(opened, TiffImageFile) and (how.bands is not None or quirks.needs_tifffile(opened)):
            caught.clear()
            return _picture(deep.tiff(path, how.frame, how.bands), how)
        if how.bands is not None:
            raise ImageError(f"{path}: --bands: expected a TIFF, got {opened.format}")
        return _of_opened(opened, path, start, how)


def _of_opened(opened: Image.Image, path: Path, start: bytes, how: Reading) -> Picture:
    """Return the frame at which an open picture stands."""
    notes = _frames(opened, how)
    array = deep.png(path) if quirks.reduced_depth(opened, start) else None
    negative = isinstance(opened, TiffImageFile) and opened.tag_v2.get(Tiff.PHOTOMETRIC_INTERPRETATION) == 0
    # Pillow itself turns a TIFF when it is loaded, and then says nothing of it.
    turned = opened.tag_v2.get(Base.Orientation, 1) if isinstance(opened, TiffImageFile) else 1
    twelve = any("I;12" in str(tile[3]) for tile in getattr(opened, "tile", ()))
    opened.load()
    if array is None and opened.mode in (*DEEP_MODES, "F"):
        array = _array_of(opened, negative, twelve)
    exif, turn, stated = _exif(opened, notes)
    dpi, icc = metadata.resolution(opened.info.get("dpi")) or stated, opened.info.get("icc_profile")
    if isinstance(opened, TiffImageFile) and Tiff.X_RESOLUTION not in opened.tag_v2:
        # Pillow takes one dot per inch for granted.
        dpi = None
    dpi = metadata.turned(dpi, max(turn, turned))
    extras = metadata.extras_of(opened, start, notes)
    if max(turn, turned) > 1 and extras.geo:
        extras = extras._replace(geo={})
        notes.append("place on the ground left out of a turned picture")
    if array is not None:
        return _picture(deep.Decoded(metadata.upright(array, turn), notes, icc, exif, dpi, extras), how)
    image, changes = plain(quirks.mended(opened, start, notes))
    image = image.transpose(metadata.TURNS[turn]) if turn > 1 else image
    # A profile of other colour channels would misread the converted ones.
    icc = None if opened.mode in ("CMYK", "LAB", "YCbCr") else icc
    picture = Picture(image, icc, exif, dpi, (*notes, *changes), extras=extras)
    if _nodata(extras, how) is not None and image.mode in ("L", "RGB", "I;16"):
        return _picture(deep.Decoded(np.asarray(image), [*notes, *changes], icc, exif, dpi, extras), how)
    return picture


def read_frames(path: Path, frames: Sequence[int], how: Reading) -> Iterator[tuple[Picture, float]]:
    """Yield frames of an animation, with the milliseconds for which each is shown."""
    with open(path, "rb") as stream:
        start = stream.read(HEADER)
    with _Bounded(path) as file:
        with refusing(path, how.trusted):
            opened = Image.open(file)
        with opened:
            for frame in frames:
                with refusing(path, how.trusted):
                    opened.seek(frame)
                    picture = _of_opened(opened, path, start, how._replace(frame=frame))
                    duration = float(opened.info.get("duration", 0) or 0)
                yield picture, duration


def read_array(array: Pixels, how: Reading) -> Picture:
    """Return values [H, W] or [H, W, C] as `read` returns those of a file."""
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return _picture(deep.Decoded(native, []), how)


def _nodata(extras: Extras, how: Reading) -> float | None:
    return geotiff.nodata(extras.geo) if how.nodata is None else how.nodata


def _picture(decoded: deep.Decoded, how: Reading) -> Picture:
    """Return the picture as it is upscaled: Pillow's where it has a mode for it, else levels in [0, 1]."""
    main = _plane(decoded.array, decoded, how)
    planes = [_plane(band, decoded, how) for band in decoded.bands]
    if planes and any((plane.values is None) != (main.values is None) for plane in planes):
        # One type for all bands of a file.
        main, *planes = (_plane(array, decoded, how, always=True) for array in (decoded.array, *decoded.bands))
    notes = dict.fromkeys(note for plane in (main, *planes) for note in plane.notes)
    return main._replace(notes=(*decoded.notes, *notes), bands=tuple(plane._replace(notes=()) for plane in planes))


def _plane(array: Pixels, decoded: deep.Decoded, how: Reading, always: bool = False) -> Picture:
    nodata = _nodata(decoded.extras, how)
    if nodata is not None and array.dtype.kind != "f" and not _holds(array.dtype, nodata):
        nodata = None
    parts = decoded.icc, decoded.exif, decoded.dpi
    deep_gray_or_colour = array.dtype == np.uint16 and how.consistent
    absent = array.dtype == np.uint8 or array.dtype == np.uint16
    if absent and nodata is not None and not (array == nodata).any():
        nodata = None
    if always or deep_gray_or_colour or nodata is not None or not absent:
        alpha = array.ndim == 3 and array.shape[2] in (2, 4)
        levels, values, notes = levels_of(array, robust=how.consistent, alpha=alpha, nodata=nodata)
        return Picture(levels, *parts, notes=tuple(notes), extras=decoded.extras, values=values)
    array = np.ascontiguousarray(array)
    image = array if array.dtype == np.uint16 and array.ndim == 3 else Image.fromarray(array)
    return Picture(image, *parts, extras=decoded.extras)


def _holds(dtype: np.dtype, value: float) -> bool:
    return value == int(value) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max if abs(value) < 2**63 else False


def _array_of(opened: Image.Image, negative: bool, twelve: bool) -> Pixels:
    """Return deep gray as Pillow decodes it: uint16 or float32 [H, W]; [H, W, 2] where one level is transparent.

    negative: 0 is white, which Pillow does not mind in 16 bits. twelve: levels to 4095.
    """
    array = np.asarray(opened)
    if opened.mode == "F":
        return array
    array = array.astype(np.uint16)
    clear = opened.info.get("transparency")
    if clear is not None:
        return np.stack([array, np.where(array == clear, 0, 65535).astype(np.uint16)], axis=2)
    if twelve:
        array = (array << 4) | (array >> 8)
    return 65535 - array if negative else array


def _frames(opened: Image.Image, how: Reading) -> list[str]:
    """Say of how many frames only one is used; the thumbnails, pyramids and masks of a TIFF are none."""
    if how.frame is not None:
        return []
    count = len(pages_of(opened)) if isinstance(opened, TiffImageFile) else getattr(opened, "n_frames", 1)
    return [f"only the first of {count} frames is used"] if count > 1 else []


def pages_of(opened: TiffImageFile) -> list[int]:
    """Return which frames of a TIFF are pictures of their own: no thumbnails, pyramids or masks."""
    found = []
    for frame in itertools.count():
        try:
            opened.seek(frame)
        except EOFError:
            break
        # Of kinds that Pillow does not know, the tags are read all the same.
        except SyntaxError:
            pass
        if not opened.tag_v2.get(Base.NewSubfileType, 0) & (tags.REDUCED | tags.MASK):
            found.append(frame)
    opened.seek(0)
    return found or [0]


def _exif(image: Image.Image, notes: list[str]) -> tuple[Image.Exif | None, int, tuple[float, float] | None]:
    """Return what is kept of the EXIF data, and the orientation and the resolution that it states."""
    try:
        exif = image.getexif()
    # As in `metadata.kept`.
    except Exception as error:
        notes.append(f"unreadable EXIF data dropped ({one_line(error)})")
        return None, 1, None
    turn, dpi = metadata.orientation(exif), metadata.stated(*(exif.get(tag) for tag in tags.RESOLUTION))
    return metadata.kept(exif, notes), turn, dpi
