"""What a result says beside its pixels: the same however it is written, and nothing left out without a word."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms
from PIL.TiffImagePlugin import IFDRational
from support.workspace import names, photo, upscale

from liif_fast import image
from liif_fast.batch import streaming
from liif_fast.image import metadata, tags, tiff, windows

tifffile: Any = pytest.importorskip("tifffile")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DETAILS, PLACE, INTEROP = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop
MAKER_NOTE = ExifTags.Base.MakerNote
TEXTS = {270: "a view", 271: "Maker", 272: "Model 1", 305: "Camera 2.0", 306: "2024:01:02 03:04:05", 315: "Somebody"}


def described() -> Image.Exif:
    exif = Image.Exif()
    exif.update(TEXTS)
    exif[274] = 6
    exif[33432] = "© Müller".encode()
    details = exif.get_ifd(DETAILS)
    details.update({33434: IFDRational(1, 60), 37380: IFDRational(-1, 3), 34855: 400, 36867: TEXTS[306]})
    details.update({36864: b"0232", 37510: b"ASCII\0\0\0hello", 42036: "50 mm", 40962: 128, 40963: 96})
    details.update({MAKER_NOTE: b"secret\0" * 30, INTEROP: {1: "R98"}})
    exif.get_ifd(PLACE).update({0: b"\2\3\0\0", 1: "N", 2: (48.0, 8.0, 12.25), 5: b"\0", 6: 261.5})
    return exif


def said(path: str) -> dict[int, Any]:
    """What a TIFF says beside its layout, as tifffile reads it."""
    with tifffile.TiffFile(path) as file:
        found = {tag.code: tag.value for tag in file.pages[0].tags if tag.code not in tags.LAYOUT - {34675}}
    found.get(DETAILS, {}).pop("InteroperabilityTag", None)  # where it lies
    return found


def directories(path: str) -> tuple[dict[int, Any], ...]:
    """EXIF data, place, interoperability: as Pillow reads them."""
    with Image.open(path) as opened:
        exif = opened.getexif()
        assert exif.get(274, 1) == 1 or path.startswith("a.")
        details, place, interop = (dict(exif.get_ifd(tag)) for tag in (DETAILS, PLACE, INTEROP))
    details.pop(INTEROP, None)
    return details, place, interop


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("big", [False, True])
def test_a_streamed_tiff_says_what_a_whole_one_says(
    big: bool, compress: bool, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo().save("a.jpg", exif=described(), icc_profile=SRGB, dpi=(300, 150))
    monkeypatch.setattr(tiff, "CLASSIC", 1000 if big else 10**9)
    assert upscale("a.jpg", "-s", "2.6", "-o", "whole.tif") == 0
    monkeypatch.setattr(streaming, "STREAMED_FROM", 1000)
    options = ["--compress"] if compress else []
    assert upscale("a.jpg", "-s", "2.6", "-o", "streamed.tif", *options) == 0
    with tifffile.TiffFile("streamed.tif") as file, tifffile.TiffFile("whole.tif") as whole:
        assert file.pages[0].is_tiled
        assert not whole.pages[0].is_tiled
        assert file.is_bigtiff == whole.is_bigtiff == big
        assert len(file.pages) == 1
        assert np.array_equal(file.asarray(), whole.asarray())
        assert file.asarray().shape[:2] == (333, 250)
    assert said("streamed.tif") == said("whole.tif")
    assert said("streamed.tif").items() >= TEXTS.items()
    assert {282, 283, 296, 34675, 33432} < said("streamed.tif").keys()
    details, place, interop = directories("a.jpg")
    size = {40962: 250, 40963: 333}
    assert directories("streamed.tif") == directories("whole.tif") == ({**details, **size}, place, interop)
    with Image.open("streamed.tif") as opened:
        assert np.array_equal(np.asarray(opened), tifffile.imread("whole.tif"))
        assert opened.getexif()[33432].encode("latin-1").decode() == "© Müller"
        assert opened.info["dpi"] == (150, 300)  # turned with the sides
        assert opened.info["icc_profile"] == SRGB


def test_a_streamed_tiff_says_nothing_where_it_is_asked_to(workspace: Path, capsys: Any) -> None:
    photo().save("a.jpg", exif=described(), icc_profile=SRGB, dpi=(300, 300))
    assert upscale("a.jpg", "-s", "1", "-o", "x.tif", "--compress", "--strip-metadata") == 0
    assert said("x.tif") == {}
    assert "left out" not in capsys.readouterr().err


@pytest.mark.parametrize("out", ["b.tif", "b.png"])
def test_a_picture_that_stays_in_its_file_says_the_same(
    out: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("zarr")
    photo().save("a.jpg", exif=described(), icc_profile=SRGB, dpi=(300, 300))
    assert upscale("a.jpg", "-s", "1", "-o", "a.tif", "--compress") == 0
    monkeypatch.setattr(windows, "WINDOWED_FROM", 0)
    found = windows.open_lazily("a.tif")
    assert found is not None
    assert found.stripped().exif is None
    assert upscale("a.tif", "-s", "1", "-o", out) == 0
    assert directories(out) == directories("a.tif")
    read = image.read(out)
    assert read.icc == SRGB
    assert read.dpi == pytest.approx((300, 300), abs=0.01)
    assert read.exif is not None
    assert read.exif[271] == "Maker"


def test_nothing_remains_where_the_directory_finds_no_room(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(stream: IO[bytes], *_: Any) -> int:
        assert stream.seek(0, 2) > 256 * 256 * 3
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tiff, "_append", full)
    monkeypatch.setattr(streaming, "STREAMED_FROM", 1000)
    before = names(workspace)
    assert upscale("photo.png", "-s", "2", "-o", "x.tif") == 1
    assert "x.tif: cannot be written: [Errno 28] No space left on device" in capsys.readouterr().err
    assert names(workspace) == before


def tiled(path: Path, big: bool) -> Path:
    pixels = np.arange(40 * 30 * 3, dtype=np.uint8).reshape(40, 30, 3)
    tifffile.imwrite(path, pixels, tile=(16, 16), photometric="rgb", compression="zlib", bigtiff=big, metadata=None)
    return path


def test_directories_beyond_4_gib(tmp_path: Path) -> None:
    path = tiled(tmp_path / "x.tif", big=True)
    # A hole, which takes no space on the disk.
    with open(path, "r+b") as stream:
        stream.truncate(2**32 + 2**20 + 1)
    exif = metadata.kept(described(), [])
    tiff.label(path, metadata.options(None, exif, None, (30, 40)))
    assert path.stat().st_size > 2**32
    found = image.read(path)
    assert found.exif is not None
    assert found.exif.get_ifd(DETAILS)[MAKER_NOTE] == b"secret\0" * 30
    assert found.exif.get_ifd(PLACE)[2] == (48, 8, 12.25)
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].tags.valueof(DETAILS)["ISOSpeedRatings"] == 400


VALUES = st.one_of(
    st.integers(0, 2**32 - 1),
    st.text(st.characters(min_codepoint=1, max_codepoint=255), min_size=1, max_size=20),
    st.binary(min_size=1, max_size=20),
    st.builds(IFDRational, st.integers(0, 2**32 - 1), st.integers(1, 2**16)),
    st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=4).map(tuple),
)
# Tags of which Pillow has no idea what they hold.
TAGS = st.dictionaries(st.integers(60_000, 65_000), VALUES, max_size=6)


@settings(max_examples=50, deadline=None)
@given(TAGS, TAGS, TAGS, st.booleans())
def test_any_tags_are_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    own: dict[int, Any],
    details: dict[int, Any],
    place: dict[int, Any],
    big: bool,
) -> None:
    made, exif = Image.Exif(), Image.Exif()
    for directory, values in ((made, own), (made.get_ifd(DETAILS), details), (made.get_ifd(PLACE), place)):
        directory.update(
            {tag: metadata._Text(value) if isinstance(value, str) else value for tag, value in values.items()}
        )
    exif.load(made.tobytes())
    path = tiled(tmp_path_factory.mktemp("tags") / "x.tif", big)
    pixels = tifffile.imread(path)
    metadata._load(exif)
    tiff.label(path, metadata.options(None, exif, None, (30, 40)))
    assert np.array_equal(tifffile.imread(path), pixels)
    with Image.open(path) as opened:
        found = opened.getexif()
        for directory, expected in ((found, own), (found.get_ifd(DETAILS), details), (found.get_ifd(PLACE), place)):
            assert {tag: directory[tag] for tag in expected} == expected


# -- what there is no room for --------------------------------------------------------------------------------------


def saved(exif: Image.Exif) -> None:
    photo().save("a.png", exif=exif, icc_profile=SRGB, dpi=(300, 300))


def test_a_long_maker_note_is_left_out_of_a_jpeg_with_a_word(workspace: Path, capsys: Any) -> None:
    exif = described()
    exif.get_ifd(DETAILS)[MAKER_NOTE] = b"x" * 70_000
    saved(exif)
    assert upscale("a.png", "-s", "1", "-o", "x.jpg") == 0
    err = capsys.readouterr().err
    assert "MakerNote left out: JPEG has room for 65533 bytes of EXIF data" in err
    assert err.count("left out") == 1
    details, place, interop = directories("a.png")
    del details[MAKER_NOTE]
    assert directories("x.jpg") == (details | {40962: 96, 40963: 128}, place, interop)
    # Others have room.
    assert upscale("a.png", "-s", "1", "-o", "y.png") == 0
    assert directories("y.png")[0][MAKER_NOTE] == b"x" * 70_000
    assert "left out" not in capsys.readouterr().err


def test_too_many_short_tags_are_left_out_together(
    workspace: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = described()
    exif.get_ifd(DETAILS).update(dict.fromkeys((42032, 42033, 42035, 42037), "x" * 400))
    monkeypatch.setitem(image.FORMATS, ".jpg", image.FORMATS[".jpg"]._replace(exif=1000))
    saved(exif)
    assert upscale("a.png", "-s", "1", "-o", "x.jpg") == 0
    assert "EXIF data left out: JPEG has room for" in capsys.readouterr().err
    with Image.open("x.jpg") as opened:
        assert not opened.getexif()
        assert opened.info["icc_profile"] == SRGB


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("x.zarr", "EXIF data, resolution left out, which zarr cannot hold"),
        ("x.bmp", "colour profile, EXIF data left out, which BMP cannot hold"),
        ("x.ppm", "colour profile, EXIF data, resolution left out, which PPM cannot hold"),
    ],
)
def test_formats_that_say_little(out: str, words: str, workspace: Path, capsys: Any) -> None:
    if out == "x.zarr":
        pytest.importorskip("zarr")
    saved(described())
    assert upscale("a.png", "-s", "1", "-o", out) == 0
    assert words in capsys.readouterr().err
    assert upscale("a.png", "-s", "1", "-o", out, "--overwrite", "--strip-metadata") == 0
    assert upscale("photo.png", "-s", "1", "-o", out, "--overwrite") == 0
    assert "left out" not in capsys.readouterr().err


def test_a_directory_that_holds_nothing_is_nothing_left() -> None:
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {}
    assert metadata.kept(exif, []) is None
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Somebody"
    found = metadata.kept(exif, [])
    assert found is not None
    assert found[ExifTags.Base.Artist] == "Somebody"
