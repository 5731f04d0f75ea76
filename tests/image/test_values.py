"""Values of science files: integers and floating values of any range, pixels without data, bands, places."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.workspace import upscale

from liif_fast import image
from liif_fast.errors import ImageError
from liif_fast.image import geotiff, windows
from liif_fast.image.geotiff import Resampling
from liif_fast.image.values import levels_of

tifffile: Any = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")
KEYS = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
GEO: Any = [
    (33550, "d", 3, (10.0, 20.0, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 500000.0, 4500000.0, 0.0), True),
    (34735, "H", 16, KEYS, True),
]


def terrain(height: int = 40, width: int = 48) -> np.ndarray:
    rows, cols = np.mgrid[:height, :width]
    return np.asarray(300 + 80 * np.sin(cols / 9) + 50 * np.cos(rows / 7), np.float32)


def means(array: np.ndarray, factor: int) -> np.ndarray:
    height, width = array.shape[0] // factor, array.shape[1] // factor
    blocks = array.astype(float).reshape(height, factor, width, factor, -1)
    return np.asarray(blocks.mean(axis=(1, 3)).squeeze())


# -- levels ---------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_integers_of_any_range_come_back(data: st.DataObject) -> None:
    dtype: Any = np.dtype(data.draw(st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4"])))
    info = np.iinfo(dtype)
    numbers = st.integers(max(info.min, -(2**24)), min(info.max, 2**24))
    drawn = data.draw(st.lists(numbers, min_size=12, max_size=12))
    array = np.array(drawn, dtype).reshape(3, 4)
    levels, values, _ = levels_of(array, robust=data.draw(st.booleans()))
    assert values is not None
    back = values.restore(levels)
    assert back.dtype == dtype
    assert (np.abs(back.astype(float) - array) <= (1 if dtype.itemsize == 4 else 0)).all()


def test_one_outlier_does_not_take_the_range() -> None:
    array = np.full((100, 100), 300, np.uint16)
    array[:50] = 420
    array[7, 7] = 65535
    _, values, notes = levels_of(array, robust=True)
    assert values is not None
    assert list(values.ends) == [(300, 420)]
    assert list(values.bounds) == [(300, 65535)]
    assert "nearly all of 300 to 65535" in notes[0]


def test_a_photograph_of_sixteen_bits_keeps_its_scale() -> None:
    array = np.linspace(900, 64_000, 100 * 100).astype(np.uint16).reshape(100, 100)
    _, values, notes = levels_of(array, robust=True)
    assert values is not None
    assert list(values.ends) == [(0, 65535)]
    assert notes == []


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(100, 600, "u2"), (0, 65535, "u2"), (-300, -200, "i2"), (-5, 5, "i1"), (10**6, 10**6 + 999, "i4"), (3, 9, "f4")],
)
def test_means_and_flat_areas_are_those_of_the_file(low: float, high: float, dtype: str, workspace: Path) -> None:
    rows, cols = np.mgrid[:30, :36]
    spot = np.exp(-((rows - 12) ** 2 + (cols - 10) ** 2) / 8)
    array = (low + (high - low) * spot).round().astype(dtype)
    array[:, 24:] = round(low)
    tifffile.imwrite("x.tif", array, photometric="minisblack", metadata=None)
    assert upscale("x.tif", "-s", "3", "-o", "y.tif") == 0
    found = tifffile.imread("y.tif")
    assert found.dtype == np.dtype(dtype)
    assert (found[:, 78:] == array[0, -1]).all()
    step = 1 if np.dtype(dtype).kind != "f" else 1e-3
    assert np.abs(means(found, 3) - array).max() <= 0.02 * (high - low) + step
    assert abs(found.mean() - array.mean()) <= 0.01 * (high - low) / 10 + step / 10


def test_streamed_and_whole_values_are_the_same(workspace: Path) -> None:
    array = (terrain() * 10).astype(np.int16)
    array[4:9, 20:30] = -32768
    nodata = [(42113, "s", 0, "-32768", True)]
    tifffile.imwrite("x.tif", array, photometric="minisblack", metadata=None, extratags=nodata)
    for roi in ([], ["--roi", "10,3,30,20"]):
        assert upscale("x.tif", "-s", "2.5", "-o", "whole.tif", "--overwrite", *roi) == 0
        assert upscale("x.tif", "-s", "2.5", "-o", "tiled.tif", "--overwrite", "--compress", *roi) == 0
        whole = tifffile.imread("whole.tif")
        assert (tifffile.imread("tiled.tif") == whole).all()
        assert (whole == -32768).any()


@pytest.mark.parametrize(
    ("value", "said", "option"),
    [
        (-9999.0, "-9999", []),
        (float(np.float32(-3.4028234663852886e38)), "-3.4028234663852886e+38", []),
        (math.nan, "nan", []),
        (-9999.0, None, ["--nodata", "-9999"]),
        (math.nan, None, ["--nodata", "nan"]),
    ],
)
def test_pixels_without_data(value: float, said: str | None, option: list[str], workspace: Path) -> None:
    array = terrain()
    hole = np.zeros(array.shape, bool)
    hole[12:20, 16:30] = True
    array[hole] = value
    tags = [(42113, "s", 0, said, True)] if said else []
    tifffile.imwrite("x.tif", array, photometric="minisblack", metadata=None, extratags=tags)
    assert upscale("x.tif", "-s", "2", "-o", "y.tif", *option) == 0
    found = tifffile.imread("y.tif")
    none = np.isnan(found) if math.isnan(value) else found == np.float32(value)
    assert (none == hole.repeat(2, 0).repeat(2, 1)).all()
    assert found[~none].min() >= 170
    whole = terrain()
    assert np.abs(means(np.where(none, np.nan, found), 2) - whole)[~hole].max() < 0.5
    with Image.open("y.tif") as opened:
        assert opened.tag_v2.get(42113) == said


def test_nan_without_a_word_is_refused_with_advice(workspace: Path, capsys: Any) -> None:
    array = terrain()
    array[3, 3] = np.nan
    tifffile.imwrite("x.tif", array, photometric="minisblack", metadata=None)
    assert upscale("x.tif", "-s", "2", "-o", "y.tif") == 1
    assert "pass --nodata nan" in capsys.readouterr().err


def test_a_file_without_any_data_stays_so(workspace: Path) -> None:
    tags = [(42113, "s", 0, "-9999", True)]
    tifffile.imwrite("x.tif", np.full((8, 9), -9999, np.float32), photometric="minisblack", extratags=tags)
    assert upscale("x.tif", "-s", "2", "-o", "y.tif") == 0
    assert (tifffile.imread("y.tif") == -9999).all()


def test_no_computed_value_is_taken_for_missing(workspace: Path) -> None:
    array = np.zeros((20, 20), np.int16)
    array[:, 10:] = 2
    array[0, 0] = 1
    tags = [(42113, "s", 0, "1", True)]
    tifffile.imwrite("x.tif", array, photometric="minisblack", metadata=None, extratags=tags)
    assert upscale("x.tif", "-s", "4", "-o", "y.tif") == 0
    found = tifffile.imread("y.tif")
    assert (found[:4, :4] == 1).all()
    assert (found == 1).sum() == 16


@pytest.mark.parametrize("source", ["x.tif", "x.zarr"])
def test_values_of_a_picture_that_stays_in_its_file(
    source: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zarr: Any = pytest.importorskip("zarr")
    array = terrain(70, 90).round().astype(np.uint16)
    array[33, 44] = 60_000
    if source == "x.tif":
        monkeypatch.setattr(windows, "WINDOWED_FROM", 0)
        tifffile.imwrite("x.tif", array, photometric="minisblack", metadata=None, tile=(16, 16))
    else:
        zarr.create_array("x.zarr", data=array, chunks=(16, 16))
    assert upscale(source, "-s", "2", "-o", "y.tif") == 0
    assert upscale(source, "-s", "2", "-o", "z.tif", "--tile", "16") == 0
    found = tifffile.imread("y.tif")
    assert found.dtype == np.uint16
    assert (tifffile.imread("z.tif") == found).all()
    beside = np.ones(array.shape, bool)
    beside[30:37, 41:48] = False
    assert np.abs(means(found, 2) - array)[beside].max() <= 0.5
    assert means(found, 2)[33, 44] > 40_000


# -- bands ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(("count", "dtype"), [(2, "u1"), (5, "u1"), (4, "u2"), (13, "u2"), (3, "i2"), (2, "f8")])
def test_any_number_of_bands(count: int, dtype: str, planar: Any, workspace: Path) -> None:
    bands = np.stack([terrain(20, 24) / 4 + 7 * k for k in range(count)], axis=2).round().astype(dtype)
    array = bands if planar == "contig" else np.moveaxis(bands, 2, 0)
    extra = ["unspecified"] * (count - 1)
    tifffile.imwrite("x.tif", array, photometric="minisblack", planarconfig=planar, extrasamples=extra, metadata=None)
    assert upscale("x.tif", "-s", "2", "-o", "y.tif") == 0
    with tifffile.TiffFile("y.tif") as file:
        found = file.asarray()
        assert file.pages[0].photometric.name == "MINISBLACK"
        assert file.pages[0].samplesperpixel == count
    assert found.dtype == np.dtype(dtype)
    assert found.shape == (40, 48, count)
    assert np.abs(means(found, 2) - bands).max() <= 3
    assert upscale("x.tif", "-s", "2", "-o", "z.tif", "--bands", f"{count},1") == 0
    assert (tifffile.imread("z.tif") == found[..., [count - 1, 0]]).all()


def test_colour_with_more_bands(workspace: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 4000, (20, 24, 5)).astype(np.uint16)
    tifffile.imwrite("x.tif", rgb, photometric="rgb", extrasamples=["unspecified"] * 2, metadata=None)
    found = image.read("x.tif")
    assert (found.mode, len(found.bands)) == ("RGB;16+2", 2)
    assert upscale("x.tif", "-s", "2", "-o", "y.tif") == 0
    with tifffile.TiffFile("y.tif") as file:
        assert file.pages[0].photometric.name == "RGB"
        assert tuple(file.pages[0].extrasamples) == (0, 0)
        assert file.asarray().shape == (40, 48, 5)
    for out, message in (("z.png", "PNG cannot keep the picture's bands"), ("z.jpg", "JPEG cannot keep")):
        with pytest.raises(ImageError, match=message):
            image.check_fits(out, found.mode, (48, 40))


def test_bands_that_there_are_not(workspace: Path, capsys: Any) -> None:
    tifffile.imwrite("x.tif", np.zeros((9, 9, 3), np.uint8), photometric="rgb", metadata=None)
    assert upscale("x.tif", "-o", "y.tif", "--bands", "4") == 1
    assert "--bands: expected numbers from 1 to 3, got 4" in capsys.readouterr().err
    assert upscale("photo.png", "-o", "y.png", "--bands", "1") == 1
    assert "--bands: expected a TIFF, got PNG" in capsys.readouterr().err
    assert upscale("photo.png", "-o", "y.png", "--bands", "0") == 2


# -- places ---------------------------------------------------------------------------------------------------------

NUMBERS = st.floats(-1e6, 1e6)
SIZES = st.tuples(st.integers(1, 300), st.integers(1, 300))


def ground(tags: dict[int, Any], x: float, y: float) -> tuple[float, float]:
    """Where a point of the raster space lies, by the pixel size and the first tie point, or by the matrix."""
    if geotiff.TRANSFORMATION in tags:
        a, b, _, d, e, f, _, h = tags[geotiff.TRANSFORMATION][:8]
        return a * x + b * y + d, e * x + f * y + h
    (i, j, _, east, north, _), (across, down, _) = tags[geotiff.TIE_POINTS], tags[geotiff.PIXEL_SCALE]
    return east + (x - i) * across, north - (y - j) * down


@settings(max_examples=80, deadline=None)
@given(SIZES, SIZES, st.integers(0, 50), st.integers(0, 50), st.booleans(), st.lists(NUMBERS, min_size=8, max_size=8))
def test_the_same_point_of_the_picture_lies_at_the_same_place(
    source: tuple[int, int], whole: tuple[int, int], top: int, left: int, point: bool, numbers: list[float]
) -> None:
    keys = (1, 1, 0, 1, 1025, 0, 1, 2 if point else 1)
    a, b, d, e, f, h, x, y = numbers
    matrix = (a, b, 0.0, d, e, f, 0.0, h, *(0.0,) * 7, 1.0)
    scaled = {geotiff.PIXEL_SCALE: (abs(a) + 0.1, abs(b) + 0.1, 0.0), geotiff.TIE_POINTS: (d, e, 0.0, f, h, 0.0)}
    how = Resampling(source, whole, (top, left))
    half = 0.5 if point else 0.0
    down, across = how.scale
    for tags in ({geotiff.TRANSFORMATION: matrix}, scaled):
        new = geotiff.resampled({**tags, geotiff.KEYS: keys}, how)
        before = ground(tags, x, y)
        after = ground(new, (x + half) * across - half - left, (y + half) * down - half - top)
        reach = 1 + max(abs(value) for value in numbers) ** 2
        assert after == pytest.approx(before, rel=1e-6, abs=1e-6 * reach)


@pytest.mark.parametrize("compress", [[], ["--compress"]])
def test_rasterio_finds_the_result_at_its_place(compress: list[str], workspace: Path) -> None:
    rasterio: Any = pytest.importorskip("rasterio")
    metadata = '<GDALMetadata><Item name="SCALE" sample="0" role="scale">0.1</Item><Item name="STATISTICS_MEAN" ' + (
        'sample="0">7</Item></GDALMetadata>'
    )
    tags = [*GEO, (42112, "s", 0, metadata, True), (42113, "s", 0, "-9999", True)]
    tifffile.imwrite("x.tif", terrain(), photometric="minisblack", metadata=None, extratags=tags)
    assert upscale("x.tif", "-s", "2", "-o", "y.tif", "--roi", "8,4,20,10", *compress) == 0
    with rasterio.open("x.tif") as source, rasterio.open("y.tif") as result:
        assert result.crs == source.crs
        assert (result.transform.a, result.transform.e) == (5, -10)
        assert result.transform @ (0, 0) == source.transform @ (8, 4)
        assert result.transform @ (result.width, result.height) == source.transform @ (28, 14)
        assert result.nodata == -9999
        assert result.scales == (0.1,)
        assert result.tags(1) == {}


def test_no_place_is_kept_in_what_cannot_hold_it(workspace: Path, capsys: Any) -> None:
    tifffile.imwrite("x.tif", np.zeros((20, 20, 3), np.uint8), photometric="rgb", metadata=None, extratags=GEO)
    assert upscale("x.tif", "-s", "2", "-o", "y.png") == 0
    assert "place on the ground left out, which PNG cannot hold" in capsys.readouterr().err
    assert upscale("x.tif", "-s", "2", "-o", "y.tif", "--strip-metadata") == 0
    with tifffile.TiffFile("y.tif") as file:
        assert not {33550, 33922, 34735} & {tag.code for tag in file.pages[0].tags}
