"""16-bit colour and floating-point pictures: every value kept, upright, with their metadata; what the extra is for."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from support.files import SRGB, png, tagged
from support.models import bilinear_liif, tiny_liif
from support.workspace import photo

from liif_fast import checkpoint, image, upscale
from liif_fast.batch import conversion
from liif_fast.errors import ImageError
from liif_fast.image import Picture, tiff
from liif_fast.image.values import levels_of
from liif_fast.rendering.request import Request

tifffile = pytest.importorskip("tifffile", reason="reads and writes the deep TIFF")
imagecodecs = pytest.importorskip("imagecodecs", reason="reads and writes the deep PNG")
CHANNELS = {"LA": 2, "RGB": 3, "RGBA": 4}


def noise(channels: int, dtype: Any = np.uint16, seed: int = 0) -> np.ndarray:
    """[9, 14, channels] with all bits in use."""
    rng = np.random.default_rng(seed)
    shape = (9, 14, channels) if channels else (9, 14)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def save_tiff(path: Path, array: np.ndarray, **options: Any) -> None:
    rgb = array.ndim == 3 and (array.shape[2] > 2 or array.shape[0] in (3, 4))
    if array.ndim == 3 and "extrasamples" not in options and array.shape[2] in (2, 4):
        options["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(path, array, photometric=options.pop("photometric", "rgb" if rgb else "minisblack"), **options)


# -- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_read_and_written_exactly(suffix: str, channels: int, tmp_path: Path) -> None:
    deep = noise(channels)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(deep))
    save_tiff(tmp_path / "a.tif", deep)
    found = image.read(tmp_path / f"a{suffix}")
    assert found.mode == {2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[channels]
    assert found.size == (14, 9)
    assert found.notes == ()
    assert np.asarray(found.image).dtype == np.uint16
    assert (found.image == deep).all()
    for out in (".png", ".tif"):
        image.write(found.image, tmp_path / f"b{out}")
        again = image.read(tmp_path / f"b{out}")
        assert again.mode == found.mode
        assert (again.image == deep).all()
    # Other readers agree.
    assert (imagecodecs.png_decode((tmp_path / "b.png").read_bytes()) == deep).all()
    assert (tifffile.imread(tmp_path / "b.tif") == deep).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [0, 2, 3, 4])
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"bigtiff": True, "byteorder": ">"},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw", "tile": (16, 16)},
        {"rowsperstrip": 2},
    ],
    ids=str,
)
def test_every_layout_of_tiff(layout: dict[str, Any], channels: int, dtype: Any, tmp_path: Path) -> None:
    array = noise(channels, dtype)
    save_tiff(tmp_path / "x.tif", array, **layout)
    found = image.read(tmp_path / "x.tif")
    assert found.mode.endswith(";16" if dtype == np.uint16 else ";F")
    unread = layout.get("bigtiff") and layout.get("byteorder")
    assert found.notes == (("EXIF data of a big-endian BigTIFF dropped",) if unread else ())
    assert (np.asarray(found.image) == array).all()
    image.write(found.image, tmp_path / "y.tif", found)
    assert (tifffile.imread(tmp_path / "y.tif") == array).all()
    assert tifffile.imread(tmp_path / "y.tif").dtype == dtype


def test_planes_half_floats_and_big_endian_bytes(tmp_path: Path) -> None:
    planes = noise(3).transpose(2, 0, 1)
    save_tiff(tmp_path / "x.tif", planes, planarconfig="separate")
    assert (image.read(tmp_path / "x.tif").image == planes.transpose(1, 2, 0)).all()
    half = noise(3, np.float16)
    save_tiff(tmp_path / "x.tif", half)
    found = image.read(tmp_path / "x.tif").image
    assert (found == half).all()
    assert np.asarray(found).dtype == np.float32
    # Pillow does not know a BigTIFF of this byte order at all.
    shallow = noise(3, np.uint8)
    save_tiff(tmp_path / "x.tif", shallow, bigtiff=True, byteorder=">")
    assert (np.asarray(image.read(tmp_path / "x.tif").image) == shallow).all()
    assert image.read(tmp_path / "x.tif").mode == "RGB"


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_kinds_of_extra_channels(dtype: Any, tmp_path: Path) -> None:
    array = noise(4, dtype)
    array[:3, :, 3] = 0
    full = 1 if dtype == np.float32 else 65535
    save_tiff(tmp_path / "x.tif", array, extrasamples=["unspecified"])
    found = image.read(tmp_path / "x.tif")
    assert (found.image == array[..., :3]).all()
    assert found.notes == ()
    (band,) = found.bands
    assert (np.asarray(band.image) == array[..., 3]).all()
    image.write(found.image, tmp_path / "y.tif", found)
    assert (tifffile.imread(tmp_path / "y.tif") == array).all()
    premultiplied = array.copy()
    product = array[..., :3].astype(float) * array[..., 3:] / full
    premultiplied[..., :3] = product if dtype == np.float32 else product.round()
    save_tiff(tmp_path / "x.tif", premultiplied, extrasamples=["assocalpha"])
    found = image.read(tmp_path / "x.tif")
    assert "divided by their alpha" in found.notes[0]
    strong = array[..., 3] > full * 0.5
    assert (np.abs(np.asarray(found.image, float) - array)[strong] <= full * 3e-5).all()
    assert (np.asarray(found.image)[:3, :, :] == 0).all()


def test_white_is_zero_is_turned_round(tmp_path: Path) -> None:
    for array in (noise(0), noise(0, np.float32)[..., None].repeat(2, 2)):
        save_tiff(tmp_path / "x.tif", array, photometric="miniswhite")
        full = 65535 if array.dtype == np.uint16 else 1
        assert (np.asarray(image.read(tmp_path / "x.tif").image)[..., 0] == (full - array)[..., 0]).all()


def test_a_transparent_level_of_deep_gray_or_colour_becomes_alpha(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for colour, level in ((0, b"\x12\x34"), (2, b"\x12\x34\x56\x78\x9a\xbc")):
        rows = b"\0" + level + bytes(len(level))
        whole = png(struct.pack(">IIBBBBB", 2, 1, 16, colour, 0, 0, 0), rows)
        (tmp_path / "x.png").write_bytes(whole[:33] + chunk(b"tRNS", level) + whole[33:])
        found = image.read(tmp_path / "x.png")
        assert found.mode == {0: "LA;16", 2: "RGBA;16"}[colour]
        assert np.asarray(found.image)[0, :, -1].tolist() == [0, 65535]
        assert np.asarray(found.image)[0, 0, 0] == 0x1234


def test_twelve_bits_reach_white(tmp_path: Path) -> None:
    # Two pixels in three bytes: 4095 and 2048.
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 200, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "x.tif").write_bytes(head.ljust(200, b"\0") + b"\xff\xf8\x00")
    assert np.asarray(image.read(tmp_path / "x.tif").image).tolist() == [[65535, 32776]]


# -- metadata -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", [".png", ".tif"])
@pytest.mark.parametrize("kind", ["16", "F"])
def test_metadata_of_deep_pictures(kind: str, out: str, tmp_path: Path) -> None:
    if (kind, out) == ("F", ".png"):
        out = ".tif"
    array = noise(3, np.uint16 if kind == "16" else np.float32)
    first = Picture(array, SRGB, tagged(), (300.0, 200.0))
    image.write(array, tmp_path / f"a{out}", first)
    found = image.read(tmp_path / f"a{out}")
    assert (found.image == np.rot90(array, -1)).all()
    assert found.icc == SRGB
    assert found.dpi is not None
    assert [round(value) for value in found.dpi] == [200, 300]
    assert found.exif is not None
    assert found.exif[ExifTags.Base.Artist] == "Somebody"
    assert ExifTags.Base.Orientation not in found.exif
    assert found.exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] == "A lens"
    assert found.exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
    image.write(found.image, tmp_path / f"b{out}", found)
    again = image.read(tmp_path / f"b{out}")
    assert (again.image == found.image).all()
    assert again.exif is not None
    assert dict(again.exif.get_ifd(ExifTags.IFD.Exif))[ExifTags.Base.ExifImageWidth] == 9
    stripped = found.stripped()
    image.write(found.image, tmp_path / f"c{out}", stripped)
    assert image.read(tmp_path / f"c{out}")[1:4] == (None, None, None)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_orientation_of_a_deep_picture(suffix: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    shallow = noise(3, np.uint8)
    Image.fromarray(shallow).save(tmp_path / "x.png", exif=exif)
    image.write(shallow.astype(np.uint16) * 257, tmp_path / f"y{suffix}", Picture(photo(), exif=exif))
    upright = np.asarray(image.read(tmp_path / "x.png").image).astype(int)
    assert (np.asarray(image.read(tmp_path / f"y{suffix}").image).astype(int) == upright * 257).all()


def test_a_bigtiff_is_written_where_a_tiff_would_overflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "CLASSIC", 100)
    monkeypatch.setattr(tiff, "_STRIP", 100)
    for array in (np.asarray(photo()), noise(4), noise(3, np.float32)):
        image.write(array, tmp_path / "x.tif", Picture(array, SRGB, tagged(), (300.0, 200.0)))
        with tifffile.TiffFile(tmp_path / "x.tif") as file:
            assert file.is_bigtiff
            assert (file.pages.first.asarray() == array).all()
        found = image.read(tmp_path / "x.tif")
        assert (np.asarray(found.image) == np.rot90(array, -1)).all()
        assert found.icc == SRGB
        assert found.exif is not None
        assert found.exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] == "A lens"
        assert found.notes == ()


# -- floating values ------------------------------------------------------------------------------------------------


def test_floats_beyond_one_are_computed_in_unit_range_and_written_in_their_own(tmp_path: Path) -> None:
    checkpoint.save(bilinear_liif(), tmp_path / "model.safetensors")
    convert = conversion.Converter(
        conversion.Settings(Request(1.5), str(tmp_path / "model.safetensors"), consistent=False)
    )
    base = np.asarray(photo(), np.float32)[:40, :30] / 255
    for factor, shift in ((65535.0, 0.0), (3.0, -1.0), (1.0, 0.0), (0.5, 0.25), (10.0, 270.0)):
        array = (base * factor + shift).astype(np.float32)
        save_tiff(tmp_path / "x.tif", array)
        notes: list[str] = []
        convert(tmp_path / "x.tif", tmp_path / f"y{factor}.tif", notes.append)
        found = tifffile.imread(tmp_path / f"y{factor}.tif")
        expected = upscale(base, 1.5, model=convert.model) * factor + shift
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() <= 2e-6 * (abs(factor) + abs(shift))
        assert bool(notes) == (array.min() < 0 or array.max() > 1)
        if notes:
            assert notes == [f"values from {array.min():g} to {array.max():g} computed as 0 to 1 and written in that "
                             "range again"]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_levels_come_back(data: st.DataObject) -> None:
    channels = data.draw(st.integers(0, 4))
    shape = (2, 3, channels) if channels else (2, 3)
    width: Any = data.draw(st.sampled_from([32, 64]))
    floats = st.floats(-(2.0**100), 2.0**100, width=width)
    drawn = data.draw(st.lists(floats, min_size=6 * max(1, channels), max_size=6 * max(1, channels)))
    array = np.array(drawn, f"f{width // 8}").reshape(shape)
    if channels in (2, 4):
        array[..., -1] = np.abs(array[..., -1])
    levels, values, notes = levels_of(array, alpha=channels in (2, 4))
    assert levels.min() >= 0
    assert levels.max() <= 1
    assert levels.dtype == array.dtype
    back = levels if values is None else values.restore(levels)
    reach = np.abs(array).max(axis=(0, 1)) * np.ones(max(1, channels))
    colours = slice(None, -1) if channels in (2, 4) else slice(None)
    reach[colours] = reach[colours].max()
    reach = reach if channels else reach[0]
    assert (np.abs(back - array) <= 4 * np.finfo(array.dtype).eps * reach).all()
    assert (values is None) == (notes == [])
    assert values is not None or levels is array


def test_floats_that_cannot_be_brought_back(tmp_path: Path) -> None:
    wild = noise(4, np.float32)
    for value, channel, message in (
        (np.nan, 0, "finite values, got infinite ones or NaN"),
        (np.inf, 1, "finite values"),
        (-0.5, 3, "alpha from 0, got -0.5"),
        (np.nan, 3, "finite values"),
    ):
        array = wild.copy()
        array[2, 3, channel] = value
        save_tiff(tmp_path / "x.tif", array)
        with pytest.raises(ImageError, match=message):
            image.read(tmp_path / "x.tif")
    wild[0, 0, 0], wild[0, 0, 1] = 3e38, -3e38
    save_tiff(tmp_path / "x.tif", wild)
    with pytest.raises(ImageError, match="range of values that float32 can hold"):
        image.read(tmp_path / "x.tif")


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_alpha_of_deep_pictures_has_no_dark_border(dtype: Any, tmp_path: Path) -> None:
    """A white disc on transparent black stays white up to its edge; clear stays clear and opaque opaque."""
    full = 1 if dtype == np.float32 else 65535
    y, x = np.mgrid[:40, :36]
    inside = (y - 20) ** 2 + (x - 17) ** 2 < 11**2
    array = np.zeros((40, 36, 4), dtype)
    array[inside] = full
    save_tiff(tmp_path / "x.tif", array)
    found = image.read(tmp_path / "x.tif")
    out = upscale(found.image, 3, model=bilinear_liif(), tile=16)
    assert (out[..., :3][out[..., 3] > 0] >= full * (1 - 1e-6)).all()
    alpha = upscale(found.image, 3, model=tiny_liif())[..., 3]
    assert (alpha[60 - 20 : 60 + 20, 51 - 15 : 51 + 15] == full).all()
    assert (alpha[:15] == 0).all()


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((9, 9, 3), np.int64), {}, "16 or 32 bits a channel or floating point, got 64-bit"),
        (np.full((9, 9, 3), 2**25, np.uint32), {}, "whole numbers up to 16777216, which float32 holds exactly"),
        (np.zeros((9, 9, 4), np.uint16), {"photometric": "separated", "extrasamples": ()}, "4 channels of SEPARATED"),
        (np.zeros((9, 9, 3), np.uint16), {"photometric": "cielab"}, "3 channels of CIELAB"),
        (np.zeros((9, 9, 3), np.uint16), {"compression": "jpeg2000"}, "compression, got .*2000"),
    ],
    ids=str,
)
def test_kinds_of_tiff_that_are_refused(
    array: np.ndarray, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_tiff(tmp_path / "x.tif", array, **options)
    with pytest.raises(ImageError, match=message) as caught:
        image.read(tmp_path / "x.tif")
    assert "\n" not in str(caught.value)


def test_damaged_deep_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (60, 50, 3)).astype(np.uint16)
    for options in ({}, {"compression": "zlib"}, {"compression": "lzw", "tile": (16, 16)}):
        save_tiff(tmp_path / "x.tif", deep, **options)
        whole = (tmp_path / "x.tif").read_bytes()
        (tmp_path / "x.tif").write_bytes(whole[:-500])
        with pytest.raises(ImageError, match="damaged"):
            image.read(tmp_path / "x.tif")
    whole = imagecodecs.png_encode(deep)
    (tmp_path / "x.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="damaged"):
        image.read(tmp_path / "x.png")


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 16, 2, 0, 0, 0)
    (tmp_path / "x.png").write_bytes(png(header, b""))
    two = png(header, b"")
    (tmp_path / "y.png").write_bytes(two[:33] + png(struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0), bytes(7))[8:])
    save_tiff(tmp_path / "z.tif", np.zeros((9, 9, 3), np.float32))
    with tifffile.TiffFile(tmp_path / "z.tif", mode="r+b") as file:
        for tag in (256, 257):
            file.pages.first.tags[tag].overwrite(30_000)
    save_tiff(tmp_path / "tile.tif", np.zeros((9, 9, 3), np.float32), tile=(16, 16))
    with tifffile.TiffFile(tmp_path / "tile.tif", mode="r+b") as file:
        for tag in (322, 323):
            file.pages.first.tags[tag].overwrite(32_000)
    for name in ("x.png", "y.png", "z.tif", "tile.tif"):
        with pytest.raises(ImageError, match="safety limit of 179 megapixels, got more; pass --force"):
            image.read(tmp_path / name)
    save_tiff(tmp_path / "z.tif", np.zeros((9, 9, 3), np.float32))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match="safety limit"):
        image.read(tmp_path / "z.tif")
    assert image.read(tmp_path / "z.tif", trusted=True).size == (9, 9)


@pytest.mark.parametrize(
    ("array", "name", "message"),
    [
        (noise(3), "x.jpg", "JPEG cannot keep the picture's 16 bits; write .png or .tif"),
        (noise(4), "x.webp", "WEBP cannot keep the picture's 16 bits"),
        (noise(3, np.float32), "x.png", "PNG cannot keep the picture's floating-point values; write .tif"),
        (noise(4, np.float32), "x.avif", "AVIF cannot keep the picture's floating-point values; write .tif"),
    ],
)
def test_formats_that_would_reduce_are_refused(array: np.ndarray, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=message):
        image.write(array, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(noise(3)))
    save_tiff(tmp_path / "x.tif", noise(3))
    save_tiff(tmp_path / "f.tif", noise(3, np.float32))
    save_tiff(tmp_path / "gray.tif", noise(0, np.float32))
    for module in ("imagecodecs", "tifffile"):
        monkeypatch.setitem(sys.modules, module, None)
    for name, module in (("x.png", "imagecodecs"), ("x.tif", "tifffile"), ("f.tif", "tifffile")):
        with pytest.raises(ImageError, match=rf"{name}: .* needs {module}: pip install 'liif_fast\[formats\]'$"):
            image.read(tmp_path / name)
    with pytest.raises(ImageError, match=r"y.png: .* needs imagecodecs: pip install"):
        image.write(noise(3), tmp_path / "y.png")
    # What Pillow can do goes on.
    assert (np.asarray(image.read(tmp_path / "gray.tif").image) == noise(0, np.float32)).all()
    image.write(noise(3), tmp_path / "y.tif")
    image.write(photo(), tmp_path / "y.png")
    assert image.read(tmp_path / "y.png").mode == "RGB"
