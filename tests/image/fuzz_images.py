"""Damaged pictures by the thousand through `image.read`, and what it accepts through `image.write`.

    python tests/image/fuzz_images.py --seconds 600 --seed 1 --out build/fuzz

Each case is a small picture (PNG, JPEG, WebP, TIFF, BigTIFF, AVIF, GIF, PSD; 8 bits, 16 bits, floating, bands, places
on the ground, stacks, animations) with bytes of it,
of its header by preference, changed, removed, repeated or exchanged; it follows from the seed and its number alone.
The cases run in a child process with a limit of memory, so that a crash of a decoder's native code and a hang are
findings like any other: whatever is not a picture or an ImageError of one line. The bytes of a finding are kept in
`--out` with what was said, the exit code is then 1.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, features

from liif_fast import image
from liif_fast.errors import ImageError
from liif_fast.image import geotiff, metadata, tiff

PATIENCE = 10.0  # seconds for one case
MEMORY = 3 * 2**30  # bytes of address space beyond what the child has at its start
PIXELS = 2**20  # Pillow's limit for the cases; it refuses twice that
HEADERS = (40, 40, 400, 10**9)  # bytes at the start of a file within which a change is made, one of these
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
Check = Callable[[Path], str]


# -- cases ----------------------------------------------------------------------------------------------------------


def seeds() -> dict[str, bytes]:
    """The pictures that are damaged, by name; those that need the extra `formats` only where it is there."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (21, 17, 3), dtype=np.uint8)
    colours[5:, 4:] = colours[0, 0]
    rgb = Image.fromarray(colours)
    gray = Image.fromarray(colours[:, :, 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Artist] = 6, "Somebody"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] = "A lens"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)  # when it was made: the cases must not change with the time
    found: dict[str, bytes] = {}

    def save(name: str, picture: Image.Image, form: str, **options: Any) -> None:
        data = io.BytesIO()
        picture.save(data, form, **options)
        found[name] = data.getvalue()

    everything: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": bytes(profile), "dpi": (300, 300)}
    save("rgb.png", rgb, "PNG", **everything)
    save("gray16.png", gray, "PNG", transparency=257 * 3)
    save("palette.png", rgb.quantize(9), "PNG", transparency=3)
    save("rgb.jpg", rgb, "JPEG", **everything)
    save("progressive.jpg", rgb, "JPEG", progressive=True, exif=exif.tobytes())
    save("cmyk.jpg", rgb.convert("CMYK"), "JPEG")
    save("rgb.webp", rgb.convert("RGBA"), "WEBP", exif=exif.tobytes(), icc_profile=bytes(profile))
    save("lossless.webp", rgb, "WEBP", lossless=True)
    if features.check("avif"):
        save("rgb.avif", rgb, "AVIF", exif=exif.tobytes())
    save("animated.gif", rgb.quantize(9), "GIF", save_all=True, append_images=[rgb.quantize(5)])
    save("rgb.bmp", rgb, "BMP")
    save("gray.pgm", gray, "PPM")
    save("rgb.tif", rgb, "TIFF", exif=exif, icc_profile=bytes(profile), dpi=(300, 300))
    save("lzw.tif", rgb, "TIFF", compression="tiff_lzw")
    save("jpeg.tif", rgb, "TIFF", compression="jpeg")
    save("gray16.tif", gray, "TIFF", compression="tiff_adobe_deflate")
    save("float.tif", rgb.convert("F"), "TIFF")
    save("big.tif", rgb, "TIFF", big_tiff=True, exif=exif)
    save("moving.png", rgb, "PNG", save_all=True, append_images=[rgb.rotate(90, expand=False)], duration=[10, 20])
    save("pages.tif", rgb, "TIFF", save_all=True, append_images=[rgb.convert("L"), rgb.quantize(9)])
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "steps: 20", zip=True)
    info.add(b"cICP", bytes((9, 16, 0, 1)))
    info.add(b"gAMA", struct.pack(">I", 100_000))
    save("texts.png", rgb, "PNG", pnginfo=info)
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    packet += (
        b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    save("xmp.jpg", rgb, "JPEG", xmp=packet, comment=b"words")
    found |= _deep_seeds(rng) | {"layers.psd": _photoshop(rgb)}
    return found


def _photoshop(picture: Image.Image) -> bytes:
    head = b"8BPS" + struct.pack(">H6xHLLHH", 1, 3, picture.height, picture.width, 8, 3)
    version = b"8BIM" + struct.pack(">HHL", 1057, 0, 5) + b"\0\0\0\1\1\0"
    planes = np.moveaxis(np.asarray(picture), 2, 0).tobytes()
    return head + struct.pack(">LL", 0, len(version)) + version + struct.pack(">LH", 0, 0) + planes


def _deep_seeds(rng: np.random.Generator) -> dict[str, bytes]:
    try:
        import imagecodecs
        import tifffile
    except ImportError:
        return {}
    deep = rng.integers(0, 65536, (21, 17, 4)).astype(np.uint16)
    found: dict[str, bytes] = {
        f"deep{channels}.png": bytes(imagecodecs.png_encode(np.ascontiguousarray(deep[..., :channels])))
        for channels in (2, 3, 4)
    }
    kinds: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "deep.tif": (deep[..., :3], {"resolution": (300, 300), "iccprofile": b"profile"}),
        "deep-lzw.tif": (deep, {"compression": "lzw", "tile": (16, 16), "extrasamples": ["unassalpha"]}),
        "deep-big.tif": (deep[..., :3], {"bigtiff": True, "byteorder": ">"}),
        "planes.tif": (deep[..., :3].transpose(2, 0, 1), {"planarconfig": "separate", "compression": "zlib"}),
        "float3.tif": (deep[..., :3].astype(np.float32), {"compression": "zlib", "predictor": True}),
        "float3-big.tif": (deep[..., :3].astype(np.float64) / 65535, {"bigtiff": True}),
        "zstd.tif": (deep[..., :3].astype(np.float16), {"compression": "zstd"}),
    }
    metadata = '<GDALMetadata><Item name="SCALE" sample="0" role="scale">0.1</Item></GDALMetadata>'
    place: Any = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 5e5, 4e6, 0.0), True),
        (34735, "H", 8, (1, 1, 0, 1, 1025, 0, 1, 1), True),
        (42112, "s", 0, metadata, True),
        (42113, "s", 0, "-9999", True),
    ]
    bands = deep.astype(np.int16)
    described: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "bands.tif": (bands, {"extrasamples": ["unspecified"] * 3, "extratags": place}),
        "place.tif": (bands[..., 0].astype(np.float32), {"extratags": place}),
        "signed.tif": (deep[..., 0].astype(np.int8), {"compression": "zlib"}),
        "wide.tif": (deep[..., 0].astype(np.uint32), {}),
        "imagej.tif": (np.moveaxis(deep, 2, 0)[:3], {"imagej": True, "metadata": {"axes": "ZYX", "unit": "um"}}),
        "ome.tif": (np.moveaxis(deep, 2, 0)[:3], {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.5}}),
    }
    for name, (array, options) in described.items():
        data = io.BytesIO()
        tifffile.imwrite(data, array, photometric="minisblack", **{"metadata": None, **options})
        # The cases must not change with the run.
        found[name] = re.sub(rb"urn:uuid:[0-9a-f-]{36}", b"urn:uuid:" + b"0" * 36, data.getvalue())
    for name, (array, options) in kinds.items():
        data = io.BytesIO()
        tifffile.imwrite(data, array, photometric="rgb", **options)
        found[name] = data.getvalue()
    return found


def case(pictures: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """(name, bytes) of a case."""
    rng = random.Random(f"{seed}/{number}")
    name = rng.choice(sorted(pictures))
    data = bytearray(pictures[name])
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8, 30))):
        if data:
            _change(data, rng, pictures)
    return name, _mended(data, rng) if name.endswith(".png") else bytes(data)


def _change(data: bytearray, rng: random.Random, pictures: dict[str, bytes]) -> None:
    at = rng.randrange(min(rng.choice(HEADERS), len(data)))
    kind = rng.randrange(8)
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at] = rng.randrange(256)
    elif kind in (2, 3, 4):
        size = rng.choice((1, 2, 4, 8))
        value = (rng.choice(INTERESTING) + rng.choice((0, 0, 1, -1))) % 256**size
        data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))
    elif kind == 5:
        del data[at : at + rng.choice((1, 2, 4, 12, 100, len(data)))]
    elif kind == 6:
        data[at:at] = data[at : at + rng.choice((1, 4, 12, 60))] * rng.choice((1, 1, 3, 200))
    else:
        other = pictures[rng.choice(sorted(pictures))]
        start = rng.randrange(len(other))
        size = rng.choice((2, 4, 12, 100))
        data[at : at + size] = other[start : start + size]


def _mended(data: bytearray, rng: random.Random) -> bytes:
    """A PNG whose chunks have, four times out of five, the check sums of what they hold now: else nothing is parsed."""
    if rng.random() < 0.2:
        return bytes(data)
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


# -- what must hold -------------------------------------------------------------------------------------------------


def check(path: Path) -> str:
    """Read a file, and write what was read: a word for the statistics; raises AssertionError or what was not caught."""
    try:
        picture = image.read(path)
    except ImageError as error:
        return _refused(str(error), path)
    for plane in (picture, *picture.bands):
        pixels = np.asarray(plane.image)
        assert pixels.size > 0
        assert pixels.dtype in (np.uint8, np.uint16) or (
            pixels.dtype.kind == "f" and 0 <= pixels.min() <= pixels.max() <= 1
        )
    robust = image.read(path, how=image.Reading(consistent=True))
    assert robust.size == picture.size
    assert all(np.isfinite(np.asarray(plane.image)).all() for plane in (robust, *robust.bands))
    _pages(path)
    assert all("\n" not in note for note in picture.notes), picture.notes
    suffix = ".tif" if picture.mode.endswith((";F", ";I")) or picture.mode == "RGBA" or picture.bands else ".png"
    jpeg = picture.mode in ("L", "RGB") and max(picture.size) <= image.FORMATS[".jpg"].most
    for out in {suffix, ".tif"} | ({".jpg"} if jpeg else set()):
        target = path.with_name(f"written{out}")
        image.notes_on_dropped(picture.icc, picture.exif, picture.dpi, image.FORMATS[out], picture.extras)
        image.write(picture.image, target, picture)
        again = image.read(target)
        assert again.size == picture.size
        assert out == ".jpg" or again.mode == picture.mode
    if find_spec("tifffile"):
        _label(picture, path.with_name("tiled.tif"))
    return "read"


def _pages(path: Path) -> None:
    """The pages of a stack, each a picture or an ImageError, and none after it."""
    stack = image.stack_of(path)
    if stack is None or stack.pages > 20:
        return
    try:
        found = [picture for picture, _ in image.read_stack(path, stack, image.Reading())]
    except ImageError as error:
        _refused(str(error), path)
        return
    assert len(found) == stack.pages
    out = path.with_name("stack.tif")
    same = len({np.asarray(picture.image).shape for picture in found}) == 1
    if same or not stack.kind:
        size = found[0].size[::-1]
        image.write_stack(((picture, 0.0) for picture in found), out, stack, geotiff.Resampling(size, size))
        assert image.read(out).size == found[0].size


def _label(picture: image.Picture, target: Path) -> None:
    """What a file says beside its pixels, in one that is written while it is made."""
    import tifffile

    pixels = np.zeros((16, 16), np.uint8)
    tifffile.imwrite(target, pixels, photometric="minisblack", tile=(16, 16), metadata=None)
    tiff.label(target, metadata.options(picture.icc, picture.exif, picture.dpi, (16, 16)))
    again = image.read(target)
    assert again.size == (16, 16)
    assert again.icc == (picture.icc or None)
    assert again.exif or not picture.exif


def _refused(said: str, path: Path) -> str:
    assert said.startswith(str(path)), f"not the file's name first: {said}"
    assert "\n" not in said, f"more than one line: {said}"
    assert "fit into memory" not in said, f"memory for a picture within the limit: {said}"
    return "refused"


# -- running --------------------------------------------------------------------------------------------------------


def _child(pipe: Any, theirs: Any, folder: Path, checked: Check) -> None:
    """Cases as they come, one answer each: (outcome, traceback); until nobody holds the other end of the pipe."""
    theirs.close()
    # Decoders write their warnings to the standard error themselves.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Image.MAX_IMAGE_PIXELS = PIXELS
    while True:
        name, data = pipe.recv()
        path = folder / name
        path.write_bytes(data)
        try:
            answer = (checked(path), "")
        except BaseException:
            answer = ("finding", traceback.format_exc())
        pipe.send(answer)


class Worker:
    """A child process that is replaced when it dies or hangs."""

    def __init__(self, folder: Path, checked: Check) -> None:
        self.context = multiprocessing.get_context("fork")
        self.folder, self.checked = folder, checked
        self.start()

    def start(self) -> None:
        self.pipe, other = self.context.Pipe()
        arguments = (other, self.pipe, self.folder, self.checked)
        self.process = self.context.Process(target=_child, args=arguments, daemon=True)
        self.process.start()
        other.close()

    def run(self, name: str, data: bytes, patience: float) -> tuple[str, str]:
        """(outcome, details) of a case."""
        try:
            self.pipe.send((name, data))
            if self.pipe.poll(patience):
                answer: tuple[str, str] = self.pipe.recv()
                return answer
            outcome = "finding", f"no answer within {patience:g} seconds"
        except (EOFError, OSError):
            self.process.join()
            outcome = "finding", f"the process died with exit code {self.process.exitcode}"
        self.stop()
        self.start()
        return outcome

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def fuzz(
    seed: int, numbers: Iterator[int], seconds: float, out: Path, checked: Check = check, patience: float = PATIENCE
) -> Counter[str]:
    """Run cases until the time or the numbers are over; how many there were of each outcome."""
    pictures = seeds()
    outcomes: Counter[str] = Counter()
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(Path(folder), checked)
        try:
            for number in numbers:
                if time.monotonic() > until:
                    break
                name, data = case(pictures, seed, number)
                outcome, details = worker.run(name, data, patience)
                outcomes[outcome] += 1
                if outcome == "finding":
                    out.mkdir(parents=True, exist_ok=True)
                    (out / f"{seed}-{number}-{name}").write_bytes(data)
                    (out / f"{seed}-{number}-{name}.txt").write_text(details)
        finally:
            worker.stop()
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only this one")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="where findings are kept")
    args = parser.parse_args()
    numbers = itertools.count() if args.case is None else iter([args.case])
    outcomes = fuzz(args.seed, numbers, args.seconds, args.out)
    sys.stdout.write(json.dumps({"seed": args.seed, "cases": sum(outcomes.values()), **outcomes}) + "\n")
    return 1 if outcomes["finding"] else 0


if __name__ == "__main__":
    sys.exit(main())
