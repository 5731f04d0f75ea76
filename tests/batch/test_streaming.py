"""Results written while they are made: the same pixels as in memory, bounded memory, whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.files import FULL, SRGB, noise
from support.models import WideEncoder, tiny_liif
from support.workspace import names, photo, upscale

import liif_fast
from liif_fast import functional, image
from liif_fast.batch import streaming
from liif_fast.box import Box, Region
from liif_fast.cli.reporting import Bar
from liif_fast.errors import LiifError
from liif_fast.image import tiff
from liif_fast.rendering import tiling
from liif_fast.rendering.job import open_jobs
from liif_fast.rendering.options import Held, Options
from liif_fast.rendering.output import Output
from liif_fast.rendering.request import Request
from liif_fast.rendering.source import open_picture
from liif_fast.upscaling import prepare_output

tifffile: Any = pytest.importorskip("tifffile")


def stored(path: Path | str) -> np.ndarray:
    """The pixels of a file, [H, W, C]."""
    if Path(path).suffix == ".zarr":
        array = pytest.importorskip("zarr").open_array(str(path), mode="r")[:]
    else:
        array = tifffile.imread(path)
    return array if array.ndim == 3 else array[..., None]


def prepare(source: np.ndarray, model: Any, options: Options | None = None) -> Output:
    """The result at x5.3."""
    region = Request(5.3).region((source.shape[0], source.shape[1]), None)
    return prepare_output(model, open_picture(source, model), region, options or Options())


# -- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", list(FULL))
def test_streamed_whole_and_tiled_are_the_same_to_the_bit(
    dtype: str, channels: int, suffix: str, tmp_path: Path
) -> None:
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    source, model = noise(channels, dtype), tiny_liif(WideEncoder())
    whole = liif_fast.upscale(source, 5.3, model=model)
    assert whole.std() > 0.001 * FULL[dtype]
    assert np.array_equal(liif_fast.upscale(source, 5.3, model=model, tile=16), whole)
    for compress in (False, True):
        path = tmp_path / f"{compress}{suffix}"
        streaming.write(prepare(source, model, Options(tile=16)), path, compress=compress)
        assert np.array_equal(stored(path), whole)
        assert stored(path).dtype == dtype
    assert len(list(tmp_path.iterdir())) == 2


def test_the_included_model_gives_the_same_pixels_in_tiles_of_any_size() -> None:
    """Convolutions of libraries sum in another order where they choose another kernel for another shape."""
    model = liif_fast.load()
    source = photo().crop((20, 20, 90, 74))
    whole = np.asarray(liif_fast.upscale(source, 1.7, model=model))
    for tile in (16, 37):
        assert np.array_equal(np.asarray(liif_fast.upscale(source, 1.7, model=model, tile=tile)), whole)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bands_put_any_tiles_together(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 40))
    rows = data.draw(st.integers(1, 80))
    boxes = tiling.tiles(Box(0, 0, height, width), data.draw(st.integers(1, 80)), data.draw(st.integers(1, 50)))
    boxes = data.draw(st.permutations([half for box in boxes for half in tiling.halves(box)]))
    picture = torch.arange(2 * height * width, dtype=torch.int32).reshape(2, height, width)
    parts = ((box, picture[:, box.top : box.bottom, box.left : box.right]) for box in boxes)
    made = list(streaming.bands(parts, (height, width), rows))
    assert [len(band) for band in made[:-1]] == [rows] * (len(made) - 1)
    assert np.array_equal(np.concatenate(made), picture.permute(1, 2, 0).numpy())


def test_tiles_of_a_tiff_are_tiles_and_bigtiff_begins_where_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, model = noise(3, "uint8"), tiny_liif()
    for big in (False, True):
        monkeypatch.setattr(tiff, "CLASSIC", 1000 if big else 10**9)
        streaming.write(prepare(source, model), tmp_path / "x.tif", compress=big)
        with tifffile.TiffFile(tmp_path / "x.tif") as file:
            page = file.pages[0]
            assert file.is_bigtiff == big
            assert page.tile == (streaming.TILE, streaming.TILE)
            assert page.compression == (8 if big else 1)
    with Image.open(tmp_path / "x.tif") as opened:
        assert np.array_equal(np.asarray(opened), stored(tmp_path / "x.tif"))
    # The tiles at the edges are stored whole: 424 x 318 pixels take 512 x 512.
    for most, big in ((512 * 512 * 3 - 1, True), (512 * 512 * 3, False)):
        monkeypatch.setattr(tiff, "CLASSIC", most)
        streaming.write(prepare(source, model), tmp_path / "x.tif")
        with tifffile.TiffFile(tmp_path / "x.tif") as file:
            assert file.is_bigtiff == big


# -- recovering, and memory -----------------------------------------------------------------------------------------


def test_lack_of_memory_and_overflow_are_recovered_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, model = noise(4, "uint8"), tiny_liif(WideEncoder())
    expected = liif_fast.upscale(source, 5.3, model=model)
    project, refused, overflowed = functional.project, [], []

    def poor(feat: torch.Tensor, params: Any, precision: str) -> torch.Tensor:
        if feat.shape[-1] * feat.shape[-2] > 700:
            refused.append(feat.shape)
            raise MemoryError
        projected = project(feat, params, precision)
        if precision == "fp16":
            overflowed.append(feat.shape)
            return projected.fill_(float("nan"))
        return projected

    monkeypatch.setattr(functional, "project", poor)
    output = prepare(source, model, Options("torch", "fp16"))
    streaming.write(output, tmp_path / "x.tif")
    assert 1 <= len(refused) <= 8
    assert len(overflowed) > 4
    assert np.abs(stored(tmp_path / "x.tif").astype(int) - expected).max() <= 1


def test_what_is_held_of_the_output_is_counted() -> None:
    """Lower and wider tiles, and no more memory in all, where the rows of the output are long."""
    inp = torch.zeros(1, 3, 2000, 2000, dtype=torch.uint8)
    (job,) = open_jobs(tiny_liif(), [inp], Options())
    region = Region((16_000, 16_000), Box(0, 0, 16_000, 16_000))
    alone = job.tile_sides(region, Options(memory="64M"))
    held = job.tile_sides(region, Options(memory="64M", held=Held(16_000 * 3, 100)))
    assert held[0] < alone[0]
    assert (held[0] + 100) * 16_000 * 3 <= 2**24
    assert held[0] * held[1] <= alone[0] * alone[1]


def test_few_bands_wait(tmp_path: Path) -> None:
    """A slow writer holds the renderer back rather than letting bands pile up."""
    waiting, most = 0, 0

    def made() -> Iterator[np.ndarray]:
        nonlocal waiting, most
        for _ in range(30):
            waiting += 1
            most = max(most, waiting)
            yield np.zeros((1, 1, 1))

    def save(ready: Iterator[np.ndarray]) -> None:
        nonlocal waiting
        for _ in ready:
            waiting -= 1

    streaming._write_behind(made(), save)
    assert waiting == 0
    assert most <= streaming.BANDS


# -- the command ----------------------------------------------------------------------------------------------------


def test_the_command_streams_and_keeps_what_it_can(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[315] = "me"
    photo().save("labelled.png", icc_profile=SRGB, dpi=(300, 300), exif=exif)
    assert upscale("labelled.png", "-s", "3.3", "-o", "small.tif") == 0
    monkeypatch.setattr(streaming, "STREAMED_FROM", 1000)
    assert upscale("labelled.png", "-s", "3.3", "-o", "large.tif") == 0
    assert np.array_equal(stored("small.tif"), stored("large.tif"))
    with tifffile.TiffFile("small.tif") as small, tifffile.TiffFile("large.tif") as large:
        assert not small.pages[0].is_tiled
        assert large.pages[0].is_tiled
    found = image.read("large.tif")
    assert found.icc == SRGB
    assert found.dpi == pytest.approx((300, 300), abs=0.01)
    assert found.exif is not None
    assert found.exif[315] == "me"


def test_a_zarr_is_written_replaced_and_read(workspace: Path, capsys: Any) -> None:
    pytest.importorskip("zarr")
    assert upscale("photo.png", "-s", "2", "-o", "x.zarr", "--precision", "fp32") == 0
    with Image.open("photo.png") as source:
        expected = np.asarray(liif_fast.upscale(source, 2, model="model.safetensors"))
    assert np.array_equal(stored("x.zarr"), expected)
    assert upscale("photo.png", "-s", "2", "-o", "x.zarr") == 1
    assert "x.zarr exists already" in capsys.readouterr().err
    assert upscale("photo.png", "-s", "1.5", "-o", "x.zarr", "--overwrite") == 0
    assert stored("x.zarr").shape == (144, 192, 3)
    assert names(workspace) == ["model.safetensors", "photo.png", "x.zarr"]
    (workspace / "mine.zarr").mkdir()
    (workspace / "mine.zarr" / "diary.txt").write_text("precious")
    assert upscale("photo.png", "-s", "2", "-o", "mine.zarr", "--overwrite") == 1
    assert "mine.zarr: expected a zarr folder to replace, got another folder" in capsys.readouterr().err
    assert (workspace / "mine.zarr" / "diary.txt").read_text() == "precious"
    assert upscale("x.zarr", "-s", "1.5", "-o", "again.png") == 0
    with Image.open("again.png") as again:
        assert again.size == (288, 216)


@pytest.mark.parametrize("name", ["x.tif", "x.zarr"])
@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("writing", OSError(28, "No space left on device")),
        ("rendering", OSError(28, "No space left on device")),
        # Python interrupts the main thread, which is the one that renders.
        ("rendering", KeyboardInterrupt()),
    ],
)
def test_nothing_half_written_remains(
    place: str, error: BaseException, name: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    if name == "x.zarr":
        pytest.importorskip("zarr")
    calls = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            assert any(path.name.startswith(".x.") for path in workspace.iterdir()) or place == "rendering"
            raise error

    if place == "rendering":
        monkeypatch.setattr(Bar, "__call__", fail)
    elif name == "x.tif":
        tiles = streaming._tiles

        def failing(ready: Any) -> Iterator[np.ndarray]:
            for tile in tiles(ready):
                fail()
                yield tile

        monkeypatch.setattr(streaming, "_tiles", failing)
    else:
        import zarr

        monkeypatch.setattr(streaming, "TILE", 64)
        put = zarr.Array.__setitem__
        monkeypatch.setattr(zarr.Array, "__setitem__", lambda *args: (fail(), put(*args))[1])
    before = names(workspace)
    interrupted = isinstance(error, KeyboardInterrupt)
    assert upscale("photo.png", "-s", "4", "--tile", "16", "--compress", "-o", name) == (130 if interrupted else 1)
    assert names(workspace) == before
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "interrupted" in err or f"{name}: cannot be written" in err
    assert interrupted or "No space left on device" in err


def test_without_the_extra(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(streaming, "STREAMED_FROM", 1000)
    monkeypatch.setattr(streaming, "find_spec", lambda name: None)
    for name in ("tifffile", "zarr"):
        monkeypatch.setitem(sys.modules, name, None)
    assert upscale("photo.png", "-s", "2", "-o", "x.tif") == 0
    before = names(workspace)
    for arguments, missing in ((["-o", "y.tif", "--compress"], "tifffile"), (["-o", "y.zarr"], "zarr")):
        assert upscale("photo.png", "-s", "2", *arguments) == 1
        err = capsys.readouterr().err
        assert f"writing it in tiles needs {missing}: pip install 'liif_fast[large]'" in err
        assert err.count("\n") == 1
    assert names(workspace) == before
    (workspace / "x.zarr").mkdir()
    assert upscale("x.zarr", "-s", "2", "-o", "y.png") == 1
    assert "x.zarr: this kind of picture needs zarr: pip install 'liif_fast[large]'" in capsys.readouterr().err


# -- what else is kept ----------------------------------------------------------------------------------------------


def test_floating_values_are_streamed_in_their_own_range(workspace: Path) -> None:
    source = noise(3, "float32", 60, 40)
    source.flat[:2] = 0, 1
    tifffile.imwrite("heights.tif", source * 900 - 100, photometric="rgb")
    assert upscale("heights.tif", "-s", "1.5", "-o", "out.tif", "--compress", "--no-consistent") == 0
    expected = liif_fast.upscale(source, 1.5, model="model.safetensors") * 900 - 100
    with tifffile.TiffFile("out.tif") as file:
        assert file.pages[0].compression.name == "ADOBE_DEFLATE"
        assert np.abs(file.asarray() - expected).max() < 1e-2


def test_a_streamed_result_without_metadata(workspace: Path) -> None:
    photo().save("photo.tif", dpi=(300, 300), tiffinfo={315: "me"})
    for arguments, kept in (([], {282, 315}), (["--strip-metadata"], set())):
        assert upscale("photo.tif", "-s", "1", "-o", "out.tif", "--compress", "--overwrite", *arguments) == 0
        with tifffile.TiffFile("out.tif") as file:
            assert {282, 315} & {tag.code for tag in file.pages[0].tags} >= kept
            assert (315 in {tag.code for tag in file.pages[0].tags}) == bool(kept)


def test_a_zarr_among_other_pictures(workspace: Path) -> None:
    zarr = pytest.importorskip("zarr")
    (workspace / "album").mkdir()
    photo().save("album/b.png")
    zarr.create_array("album/a.zarr", data=noise(3, "uint16", 30, 20), chunks=(16, 16, 3))
    assert upscale("album", "-o", "out/", "-s", "2") == 0
    assert names(workspace / "out") == ["a_x2.zarr", "b_x2.png"]
    assert stored("out/a_x2.zarr").shape == (60, 40, 3)
    # Not a zarr again: 16-bit colour as a file of its own.
    assert upscale("album/a.zarr", "-o", "a.png", "-s", "2") == 0
    imagecodecs = pytest.importorskip("imagecodecs")
    assert np.array_equal(imagecodecs.imread("a.png"), stored("out/a_x2.zarr"))


def test_errors_of_the_writer_keep_their_kind(tmp_path: Path) -> None:
    def save(ready: Iterator[np.ndarray]) -> None:
        raise LiifError("as it is")

    with pytest.raises(LiifError, match="as it is"):
        streaming._write_behind(iter([np.zeros((1, 1, 1))]), save)
