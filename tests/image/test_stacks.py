"""Stacks and animations: every page in order, with their axes, calibration, durations and loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.workspace import photo, upscale

from liif_fast import image

tifffile: Any = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")


def planes(count: int, dtype: Any = np.uint16, height: int = 12, width: int = 16) -> np.ndarray:
    rows, cols = np.mgrid[:height, :width]
    return np.stack([100 * k + 3 * rows + 2 * cols for k in range(count)]).astype(dtype)


def means(array: np.ndarray) -> np.ndarray:
    *front, height, width = array.shape
    found = array.astype(float).reshape(*front, height // 2, 2, width // 2, 2).mean(axis=(-3, -1))
    return np.asarray(found)


@pytest.mark.parametrize("axes", ["YX", "ZYX", "TZCYX"])
def test_imagej_stacks_keep_axes_and_calibration(axes: str, workspace: Path) -> None:
    shape = {"YX": (), "ZYX": (5,), "TZCYX": (2, 3, 2)}[axes]
    array = planes(int(np.prod(shape, dtype=int))).reshape(*shape, 12, 16)
    said = {"axes": axes, "unit": "micron", "spacing": 0.5, "Ranges": (0.0, 9.0) * 2}
    tifffile.imwrite("x.tif", array, imagej=True, resolution=(4.0, 2.0), metadata=said)
    assert upscale("x.tif", "-s", "2", "-o", "y.tif") == 0
    with tifffile.TiffFile("y.tif") as file:
        assert file.is_imagej
        assert file.series[0].axes == axes
        found = file.asarray()
        assert found.dtype == np.uint16
        assert np.abs(means(found) - array).max() <= 1
        assert file.imagej_metadata["unit"] == "micron"
        assert len(file.pages) == max(1, array[..., 0, 0].size)
        tags = file.pages[0].tags
        assert tags[282].value[0] / tags[282].value[1] == 8
        assert tags[283].value[0] / tags[283].value[1] == 4


def test_an_imagej_text_that_is_not_ascii_is_written_as_imagej_writes_it(workspace: Path) -> None:
    tifffile.imwrite("x.tif", planes(3), imagej=True, metadata={"axes": "ZYX", "unit": "um"})
    data = Path("x.tif").read_bytes()
    assert data.count(b"unit=um") == 1
    Path("x.tif").write_bytes(data.replace(b"unit=um", b"unit=\xb5m"))
    assert upscale("x.tif", "-s", "2", "-o", "y.tif") == 0
    assert b"unit=\\u00B5m" in Path("y.tif").read_bytes()


def test_an_imagej_stack_of_one_stated_page(workspace: Path) -> None:
    """ImageJ states the first page only of what is longer than 4 GiB."""
    array = planes(3)
    tifffile.imwrite("x.tif", array, imagej=True, metadata={"axes": "ZYX"})
    data = bytearray(Path("x.tif").read_bytes())
    with tifffile.TiffFile("x.tif") as file:
        page = file.pages[0]
        at = page.offset + 2 + 12 * len(page.tags)
        data[at : at + 4] = bytes(4)
    Path("x.tif").write_bytes(data)
    assert upscale("x.tif", "-s", "2", "-o", "y.tif") == 0
    assert np.abs(means(tifffile.imread("y.tif")) - array).max() <= 1


def test_ome_stacks_keep_axes_sizes_and_names(workspace: Path, capsys: Any) -> None:
    array = planes(6).reshape(3, 2, 12, 16)
    said = {
        "axes": "ZCYX",
        "PhysicalSizeX": 0.25,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 0.5,
        "PhysicalSizeYUnit": "µm",
        "PhysicalSizeZ": 2.0,
        "Channel": {"Name": ["DAPI", "GFP"]},
    }
    tifffile.imwrite("x.ome.tif", array, ome=True, metadata=said)
    assert upscale("x.ome.tif", "-s", "2", "-o", "y.ome.tif") == 0
    assert "OME-XML written anew" in capsys.readouterr().err
    with tifffile.TiffFile("y.ome.tif") as file:
        assert (file.series[0].axes, file.series[0].shape) == ("ZCYX", (3, 2, 24, 32))
        assert np.abs(means(file.asarray()) - array).max() <= 1
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeY"], pixels["PhysicalSizeZ"]) == (0.125, 0.25, 2.0)
    assert (pixels["SizeX"], pixels["SizeY"], pixels["SizeZ"], pixels["SizeC"]) == (32, 24, 3, 2)
    assert [channel["Name"] for channel in pixels["Channel"]] == ["DAPI", "GFP"]


def test_pages_of_several_sizes_and_kinds(workspace: Path) -> None:
    pages = [photo().resize((20, 16)), photo().convert("L").resize((9, 12)), photo().convert("P").resize((8, 8))]
    pages[0].save("x.tif", save_all=True, append_images=pages[1:], dpi=(200, 100))
    assert upscale("x.tif", "-s", "2", "-o", "y.tif") == 0
    with tifffile.TiffFile("y.tif") as file:
        assert [page.shape for page in file.pages] == [(32, 40, 3), (24, 18), (16, 16, 3)]
        for page, source in zip(file.pages, pages, strict=True):
            mean = np.asarray(source.convert("RGB" if source.mode == "P" else source.mode)).mean()
            assert abs(page.asarray().mean() - mean) < 2
    with Image.open("y.tif") as opened:
        assert opened.n_frames == 3
        assert opened.info["dpi"] == (200, 100)
    assert upscale("x.tif", "-s", "2", "-o", "z.tif", "--page", "2") == 0
    with Image.open("z.tif") as one:
        assert (one.size, one.mode, getattr(one, "n_frames", 1)) == ((18, 24), "L", 1)


def test_pyramids_masks_and_thumbnails_are_no_pages(workspace: Path, capsys: Any) -> None:
    with tifffile.TiffWriter("x.tif") as file:
        options: Any = {"photometric": "minisblack", "metadata": None}
        file.write(planes(1)[0], **options)
        file.write(planes(1, height=6, width=8)[0], subfiletype=1, **options)
        file.write(np.zeros((12, 16), bool), subfiletype=4, photometric="mask", metadata=None)
    assert upscale("x.tif", "-s", "2", "-o", "y.tif") == 0
    assert "frames" not in capsys.readouterr().err
    with tifffile.TiffFile("y.tif") as found:
        assert len(found.pages) == 1


def test_formats_of_one_page_get_the_first_with_a_word(workspace: Path, capsys: Any) -> None:
    pages = [Image.new("L", (9, 8), level) for level in (10, 90, 200)]
    pages[0].save("x.tif", save_all=True, append_images=pages[1:])
    assert upscale("x.tif", "-s", "2", "-o", "y.png") == 0
    assert "only the first of 3 frames is used, as PNG holds one; --page N chooses another" in capsys.readouterr().err
    assert upscale("x.tif", "-s", "2", "-o", "z.png", "--page", "3") == 0
    assert capsys.readouterr().err == ""
    assert np.asarray(Image.open("z.png")).mean() > 190
    assert upscale("x.tif", "-s", "2", "-o", "w.png", "--page", "4") == 1
    assert "--page: expected a page from 1 to 3, got 4" in capsys.readouterr().err
    assert upscale("x.tif", "-o", "w.png", "--page", "0") == 2


COLOURS = ("red", "lime", "blue", "yellow")


def moving(path: str, alpha: bool, **options: Any) -> None:
    frames = []
    for number, colour in enumerate(COLOURS):
        frame = Image.new("RGBA", (24, 20), (0, 0, 0, 0) if alpha else (40, 40, 40, 255))
        frame.paste(colour, (2 + 4 * number, 4, 10 + 4 * number, 14))
        frames.append(frame if alpha else frame.convert("RGB"))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[100, 200, 300, 400], **options)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("out", ["y.gif", "y.webp", "y.png"])
@pytest.mark.parametrize("source", ["x.gif", "x.webp", "x.png"])
def test_animations_move_on(source: str, out: str, alpha: bool, workspace: Path) -> None:
    if alpha and source == "x.webp":
        pytest.skip("Pillow writes no animated WebP with alpha")
    options: dict[str, Any] = {"lossless": True} if source.endswith("webp") else {}
    options |= {"disposal": 2} if source.endswith("gif") else {}
    moving(source, alpha, loop=3, **options)
    assert upscale(source, "-s", "2", "-o", out) == 0
    with Image.open(out) as opened:
        found: Any = opened
        assert (found.n_frames, found.size) == (4, (48, 40))
        assert found.info["loop"] == 3
        durations = []
        for number, colour in enumerate(COLOURS):
            found.seek(number)
            frame = found.convert("RGBA")
            durations.append(found.info["duration"])
            left = 2 * (2 + 4 * number)
            inside = np.asarray(frame)[12:24, left + 4 : left + 12].astype(int)
            expected = Image.new("RGBA", (1, 1), colour).getpixel((0, 0))
            assert np.abs(inside - expected).max() <= 40
            assert (frame.getpixel((1, 1))[3] == 0) == alpha
        assert durations == [100, 200, 300, 400]


def test_the_default_name_of_a_gif_says_whether_it_moves(workspace: Path) -> None:
    moving("x.gif", False)
    photo().resize((16, 12)).quantize(8).save("still.gif")
    assert upscale("x.gif", "-s", "2") == 0
    assert upscale("still.gif", "-s", "2") == 0
    assert Path("x_x2.gif").is_file()
    assert Path("still_x2.png").is_file()


def test_ranges_of_later_pages_are_not_told(workspace: Path, capsys: Any) -> None:
    array = planes(3).astype(np.float32)
    array[1:] = array[1:] / 7 - 200
    with tifffile.TiffWriter("x.tif") as file:
        for plane in array:
            file.write(plane, photometric="minisblack", metadata=None, contiguous=False)
    assert upscale("x.tif", "-s", "2", "-o", "y.tif") == 0
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert np.abs(means(tifffile.imread("y.tif")) - array).max() < 0.5


def test_a_page_that_fails_leaves_nothing(workspace: Path, capsys: Any) -> None:
    array = planes(3).astype(np.float32)
    array[2, 3, 3] = np.inf
    with tifffile.TiffWriter("x.tif") as file:
        for plane in array:
            file.write(plane, photometric="minisblack", metadata=None, contiguous=False)
    assert upscale("x.tif", "-s", "2", "-o", "y.tif") == 1
    assert "expected finite values" in capsys.readouterr().err
    assert not Path("y.tif").exists()
    assert image.stack_of("photo.png") is None
    assert image.stack_of("none.png") is None
