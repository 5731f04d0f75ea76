"""Files to pictures: nothing is reduced silently, whatever is wrong with a file is said in one line."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from liif_fast.errors import ImageError, one_line
from liif_fast.image import deep, metadata
from liif_fast.image.formats import DEEP_MODES, TIFF_STARTS, PathLike
from liif_fast.image.picture import Picture, Pixels, levelled, plain

HEADER = 65_536  # bytes of a file in which its depth is looked for


def read(path: PathLike, *, trusted: bool = False) -> Picture:
    """The picture in a file.

    trusted: read it however many pixels its header states (Pillow refuses some 179 megapixels and more, since a small
    file can ask for all memory).

    Floating values outside of [0, 1] are brought into it, and `write` brings them back (`Picture.span`).

    Raises ImageError: no such file, a folder, not readable, empty, damaged, not a picture, of a kind that would be
    silently reduced, or one that needs the extra `formats` (16-bit colour, floating-point colour).
    """
    path = Path(path)
    if not path.exists():
        raise ImageError(f"{path}: no such file")
    if not path.is_file():
        got = "a folder; name the files in it" if path.is_dir() else "something else"
        raise ImageError(f"{path}: expected a picture file, got {got}")
    with refusing(path, trusted), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # Of an earlier picture that stayed in its file, and is let go of now.
        warnings.simplefilter("ignore", ResourceWarning)
        with open(path, "rb") as stream:
            start = stream.read(HEADER)
        if not start:
            raise ImageError(f"{path}: expected a picture, got an empty file")
        picture = _decoded(path, start, caught)
    notes = dict.fromkeys(
        (*picture.notes, *(f"warning while reading: {one_line(warning.message)}" for warning in caught))
    )
    return picture._replace(notes=tuple(notes))


@contextmanager
def refusing(path: Path, trusted: bool) -> Iterator[None]:
    """Whatever goes wrong inside becomes an ImageError of one line; Pillow's limit is off for trusted files."""
    limit = Image.MAX_IMAGE_PIXELS
    if trusted:
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    except ImageError as error:
        text = str(error)
        raise (error if text.startswith(str(path)) else ImageError(f"{path}: {text}")) from error.__cause__
    except Image.DecompressionBombError:
        raise ImageError(
            f"{path}: expected a picture below Pillow's safety limit of {2 * (limit or 0) / 1e6:.0f} megapixels, got "
            "more; pass --force (trusted=True in Python) if you know where it comes from"
        ) from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: expected a picture, got something that Pillow does not know") from None
    except PermissionError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    except MemoryError:
        raise ImageError(f"{path}: the picture does not fit into memory") from None
    # Decoders answer damaged files with errors of any type.
    except Exception as error:
        raise ImageError(f"{path}: expected a picture, got a damaged or unknown file ({one_line(error)})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _decoded(path: Path, start: bytes, caught: list[warnings.WarningMessage]) -> Picture:
    """The picture; what Pillow warned of is dropped where it is not Pillow that reads the file."""
    with _Bounded(path) as stream:
        try:
            opened = Image.open(stream)
        except UnidentifiedImageError:
            if not start.startswith(TIFF_STARTS):
                raise
            caught.clear()
            return _picture(deep.tiff(path))
        return _of_pillow(opened, path, start)


class _Bounded(io.BufferedReader):
    """A file of which no more is asked for than there is: for a damaged length Python would reserve as much memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(str(path)))
        self.length = path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        return super().read(-1 if size is None else min(size, self.length))


def _of_pillow(opened: Image.Image, path: Path, start: bytes) -> Picture:
    with opened:
        # Pillow would hand the file to another program to draw it.
        if opened.format in ("EPS", "WMF"):
            raise ImageError(f"{path}: expected a picture of pixels, got {opened.format}; draw it at a size first")
        reduced = _reduced_depth(opened, start)
        if reduced and opened.format == "TIFF":
            return _picture(deep.tiff(path))
        if reduced and opened.format != "PNG":
            raise ImageError(f"{path}: expected 8 bits a channel or 16-bit gray, got {reduced}; convert it first")
        notes = _frames(opened)
        array = deep.png(path) if reduced else None
        negative = isinstance(opened, TiffImageFile) and opened.tag_v2.get(262) == 0
        twelve = any("I;12" in str(tile[3]) for tile in getattr(opened, "tile", ()))
        opened.load()
        if array is None and opened.mode in (*DEEP_MODES, "F"):
            array = _array_of(opened, negative, twelve)
        exif, turn = _exif(opened, notes)
        dpi, icc = metadata.resolution(opened.info.get("dpi")), opened.info.get("icc_profile")
        if dpi is None and exif:
            dpi = metadata.stated(*(exif.get(tag) for tag in metadata.RESOLUTION))
        if array is not None:
            return _picture(deep.Decoded(metadata.upright(array, turn), notes, icc, exif, dpi))
        image, changes = plain(opened)
        image = image.transpose(metadata.TURNS[turn]) if turn > 1 else image
        # A profile of other colour channels would misread the converted ones.
        icc = None if opened.mode in ("CMYK", "LAB", "YCbCr") else icc
        return Picture(image, icc, exif, dpi, (*notes, *changes))


def _picture(decoded: deep.Decoded) -> Picture:
    """The picture as it is upscaled: Pillow's where it has a mode for it, floating values in [0, 1]."""
    array, notes = decoded.array, decoded.notes
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    if array.dtype.kind == "f":
        array, span, changes = levelled(array)
        return Picture(array, *decoded[2:], notes=(*notes, *changes), span=span)
    array = np.ascontiguousarray(array)
    image = array if array.dtype == np.uint16 and array.ndim == 3 else Image.fromarray(array)
    return Picture(image, *decoded[2:], notes=tuple(notes))


def _array_of(opened: Image.Image, negative: bool, twelve: bool) -> Pixels:
    """Deep gray as Pillow decodes it: uint16 or float32 [H, W]; [H, W, 2] where one level is transparent.

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


def _reduced_depth(image: Image.Image, start: bytes) -> str:
    """What Pillow would silently make 8 bits of, or an empty text."""
    if image.mode in ("F", *DEEP_MODES) or image.mode.startswith("I"):
        return ""
    tiles = getattr(image, "tile", [])
    more = any(";16" in str(tile[3]) for tile in tiles)
    if isinstance(image, TiffImageFile):
        # Of separate planes Pillow would take the bytes of a channel for pixels.
        bits = image.tag_v2.get(258, 1)
        more = max(bits if isinstance(bits, tuple) else (bits,)) > 8
    elif image.format == "PPM":
        more = any(tile[0].startswith("ppm") and tile[3][-1] > 255 for tile in tiles)
    elif image.format == "JPEG2000":
        # The SIZ marker behind the codestream's first: its 39th byte is the depth of the first component.
        at = start.find(b"\xff\x4f\xff\x51")
        more = 0 <= at < len(start) - 42 and (start[at + 42] & 0x7F) > 7
    elif image.format == "AVIF":
        at = start.find(b"av1C")
        more = 0 <= at < len(start) - 6 and bool(start[at + 6] & 0x40)
    return f"more than 8 bits a channel of {image.mode}" if more else ""


def _frames(image: Image.Image) -> list[str]:
    count = getattr(image, "n_frames", 1)
    return [f"only the first of {count} frames is used"] if count > 1 else []


def _exif(image: Image.Image, notes: list[str]) -> tuple[Image.Exif | None, int]:
    """What is kept of the EXIF data, and the orientation."""
    try:
        exif = image.getexif()
    # As in `metadata.kept`.
    except Exception as error:
        notes.append(f"unreadable EXIF data dropped ({one_line(error)})")
        return None, 1
    turn = metadata.orientation(exif)
    return metadata.kept(exif, notes), turn
