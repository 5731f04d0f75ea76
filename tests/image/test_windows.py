"""Pictures that stay in their file and are read a window at a time: the same pixels, or a line that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.files import noise
from support.models import WideEncoder, tiny_liif
from support.workspace import names, photo, upscale

import liif_fast
from liif_fast.errors import ImageError
from liif_fast.image import FileArray, windows

tifffile: Any = pytest.importorskip("tifffile")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        ("zarr", "float32"),
        *((layout, dtype) for layout in ("tiled", "strips", "zarr") for dtype in ("uint8", "uint16")),
    ],
)
def test_windows_give_the_same_pixels_as_the_whole(
    dtype: str, layout: str, channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zarr = pytest.importorskip("zarr")
    monkeypatch.setattr(windows, "WINDOWED_FROM", 0)
    source = noise(channels, dtype, 200, 150)
    source = source if channels == 3 else source[..., 0]
    path = tmp_path / ("x.zarr" if layout == "zarr" else "x.tif")
    if layout == "zarr":
        zarr.create_array(str(path), data=source, chunks=(64, 64, 3)[: source.ndim])
    else:
        shape: dict[str, Any] = {"tile": (64, 64)} if layout == "tiled" else {"rowsperstrip": 16}
        photometric = "rgb" if channels == 3 else "minisblack"
        tifffile.imwrite(path, source, photometric=photometric, compression="zlib", **shape)
    opened = windows.open_lazily(path)
    assert opened is not None
    read: list[int] = []
    slicing = FileArray.__getitem__

    def counted(self: FileArray, key: Any) -> np.ndarray:
        window = slicing(self, key)
        read.append(window.shape[0] * window.shape[1])
        return window

    monkeypatch.setattr(FileArray, "__getitem__", counted)
    model = tiny_liif(WideEncoder())
    calls: list[dict[str, Any]] = [{}, {"roi": (30, 40, 50, 20)}]
    for arguments in calls:
        expected = liif_fast.upscale(source, 1.7, model=model, **arguments)
        assert np.array_equal(liif_fast.upscale(opened.image, 1.7, model=model, tile=32, **arguments), expected)
    assert max(read) < 60 * 60


def test_what_is_better_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("zarr")
    path = tmp_path / "x.tif"
    photo().save(path)
    assert windows.open_lazily(path) is None
    monkeypatch.setattr(windows, "WINDOWED_FROM", 0)
    assert windows.open_lazily(path) is not None
    exif = Image.Exif()
    exif[274] = 6
    photo().save(path, exif=exif)
    assert windows.open_lazily(path) is None
    for mode in ("RGBA", "LA", "P", "CMYK"):
        photo().convert(mode).save(path)
        assert windows.open_lazily(path) is None
    path.write_bytes(b"II*\0 not really")
    assert windows.open_lazily(path) is None
    assert windows.open_lazily(tmp_path / "none.tif") is None


def test_a_damaged_file_is_one_line(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("zarr")
    monkeypatch.setattr(windows, "WINDOWED_FROM", 0)
    tifffile.imwrite("x.tif", np.asarray(photo()), tile=(64, 64), photometric="rgb", compression="zlib")
    data = (workspace / "x.tif").read_bytes()
    (workspace / "x.tif").write_bytes(data[: len(data) // 2])
    (workspace / "x.zarr").mkdir()
    before = names(workspace)
    for name, message in (("x.tif", "x.tif: expected a picture"), ("x.zarr", "x.zarr: expected a zarr array")):
        assert upscale(name, "-s", "2", "-o", "y.tif") == 1
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert names(workspace) == before


def test_floating_windows_are_checked() -> None:
    opened = FileArray(np.full((20, 30), 255, np.float32))
    with pytest.raises(ImageError, match=r"floating values in \[0, 1\], got 255"):
        liif_fast.upscale(opened, 2, model=tiny_liif())
