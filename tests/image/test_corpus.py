"""Odd pictures through the command line: the right picture, or one line and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, features
from support.files import SRGB, png
from support.paths import ROOT
from support.workspace import make_workspace, names, photo, size, upscale

from liif_fast import image


def bilinear(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """What the workspace's model makes of [H, W, C], in the values given: bilinear interpolation, edges repeated."""

    def weights(size: int, length: int) -> np.ndarray:
        at = ((np.arange(size) + 0.5) * length / size - 0.5).clip(0, length - 1)
        matrix = np.zeros((size, length))
        low = np.floor(at).astype(int)
        matrix[np.arange(size), low] += 1 - (at - low)
        matrix[np.arange(size), np.minimum(low + 1, length - 1)] += at - low
        return matrix

    rows, cols = weights(height, array.shape[0]), weights(width, array.shape[1])
    return np.einsum("yh,hwc,xw->yxc", rows, array.astype(float), cols, optimize=True)


# -- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_tiny_and_thin(width: int, height: int, workspace: Path) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(array).save("x.png")
    assert upscale("x.png", "-s", "1.5", "-o", "y.png") == 0
    found = np.asarray(Image.open("y.png")).astype(float)
    assert found.shape == (round(height * 1.5), round(width * 1.5), 3)
    assert np.abs(found - bilinear(array, *found.shape[:2])).max() <= 0.6


def test_sixteen_bit_gray_with_alpha(workspace: Path) -> None:
    pytest.importorskip("imagecodecs", reason="reads and writes the deep PNG")
    gray = np.asarray(photo().convert("L")).astype(np.uint16)[:40, :50] * 257
    alpha = np.full_like(gray, 40_000)
    alpha[:, 20:] = 65535
    image.write(np.stack([gray, alpha], axis=2), "x.png")
    assert upscale("x.png", "-s", "1.5", "--no-consistent") == 0
    found = image.read("x_x1.5.png")
    assert found.mode == "LA;16"
    out = np.asarray(found.image).astype(float)
    assert np.abs(out[..., 0] - bilinear(gray[..., None], 60, 75)[..., 0]).max() <= 2
    assert (out[:, :25, 1] == 40_000).all()
    assert (out[:, 35:, 1] == 65535).all()


def test_sixteen_bit_colour_in_every_format_that_has_it(workspace: Path) -> None:
    pytest.importorskip("imagecodecs", reason="reads and writes the deep PNG")
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (12, 15, 3)).astype(np.uint16)
    image.write(deep, "x.png")
    image.write(deep, "x.tif")
    for name in ("x.png", "x.tif"):
        for out in ("y.png", "y.tif"):
            assert upscale(name, "-s", "2.5", "-o", out, "--overwrite", "--no-consistent") == 0
            found = np.asarray(image.read(out).image)
            assert found.dtype == np.uint16
            assert np.abs(found - bilinear(deep, 30, 38)).max() <= 2


def test_cmyk_jpeg_with_a_word(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo().convert("CMYK").save("x.jpg", quality=95, subsampling=0)
    assert upscale("x.jpg", "-s", "1.5") == 0
    with Image.open("x_x1.5.jpg") as found:
        assert (found.format, found.mode) == ("JPEG", "RGB")
        assert np.abs(np.asarray(found).astype(float) - bilinear(np.asarray(photo()), 144, 192)).mean() < 4
    assert capsys.readouterr().err == "x.jpg: CMYK converted to sRGB\n"


def test_rotated_jpeg_with_all_its_metadata_or_none(workspace: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    exif[ExifTags.Base.Artist] = "Somebody"
    photo().save("x.jpg", exif=exif, icc_profile=SRGB, dpi=(300, 300), quality=95)
    assert upscale("x.jpg", "-s", "1.5", "-o", "kept.jpg") == 0
    assert upscale("x.jpg", "-s", "1.5", "-o", "bare.jpg", "--strip-metadata") == 0
    kept, bare = Image.open("kept.jpg"), Image.open("bare.jpg")
    assert kept.size == bare.size == (144, 192)
    upright = np.asarray(photo().transpose(Image.Transpose.ROTATE_90))
    assert np.abs(np.asarray(kept).astype(float) - bilinear(upright, 192, 144)).mean() < 4
    assert (np.asarray(kept) == np.asarray(bare)).all()
    assert dict(kept.getexif())[ExifTags.Base.Artist] == "Somebody"
    assert kept.getexif().get(ExifTags.Base.Orientation, 1) == 1
    assert kept.info["icc_profile"] == SRGB
    assert kept.info["dpi"] == (300, 300)
    assert not bare.getexif()
    assert not {"icc_profile", "dpi"} & set(bare.info)


def test_transparency_that_a_jpeg_cannot_keep(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rgba = photo()
    rgba.putalpha(photo().convert("L"))
    rgba.save("alpha.png")
    assert upscale("alpha.png", "-s", "1.5", "-o", "out.jpg", "--json") == 0
    out, err = capsys.readouterr()
    assert err == "alpha.png: out.jpg could not keep the transparency; written to out.png instead\n"
    assert json.loads(out)["output"] == "out.png"
    assert not Path("out.jpg").exists()
    assert (Image.open("out.png").mode, size("out.png")) == ("RGBA", (192, 144))
    # The other name was not asked for: not even --overwrite replaces it, least of all when it is an input.
    before = Path("out.png").read_bytes()
    assert upscale("alpha.png", "-s", "2", "-o", "out.jpg", "--overwrite") == 1
    assert upscale("alpha.png", "-s", "2", "-o", "alpha.jpg", "--overwrite") == 1
    err = capsys.readouterr().err
    assert err.count("exists already; name another output\n") == err.count("\n") == 2
    assert Path("out.png").read_bytes() == before
    image.write(np.full((4, 4, 4), 0.5, np.float32), "float.tif")
    pytest.importorskip("tifffile", reason="reads the TIFF of floating RGBA")
    assert upscale("float.tif", "-s", "2", "-o", "float-out.jpg") == 0
    assert image.read("float-out.tif").mode == "RGBA;F"


def test_formats_asked_for(workspace: Path) -> None:
    photo().save("other.bmp")
    assert upscale("photo.png", "other.bmp", "-s", "1.5", "--format", "jpg", "-o", "out/") == 0
    assert names(workspace / "out") == ["other_x1.5.jpg", "photo_x1.5.jpg"]
    assert upscale("photo.png", "-s", "1.5", "--format", "webp") == 0
    assert Image.open("photo_x1.5.webp").format == "WEBP"


# -- what goes wrong ------------------------------------------------------------------------------------------------


def refused(workspace: Path, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """The one line that is said; nothing is left behind."""
    before = sorted(workspace.rglob("*"))
    assert upscale(*arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert sorted(workspace.rglob("*")) == before
    return err


def test_deep_pictures_that_are_no_pictures(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("imagecodecs", reason="reads the deep PNG")
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 16, 6, 0, 0, 0)
    Path("bomb.png").write_bytes(png(header, b""))
    Path("short.png").write_bytes(png(struct.pack(">IIBBBBB", 30, 30, 16, 6, 0, 0, 0), b"\0" * 100))
    Path("cut.tif").write_bytes(b"II*\0\x08\0\0\0")
    Path("text.tif").write_bytes(b"MM\0*This is no picture.")
    assert "safety limit of 179 megapixels" in refused(workspace, capsys, "bomb.png")
    for name in ("short.png", "cut.tif", "text.tif"):
        assert f"{name}: expected" in refused(workspace, capsys, name)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The workspace of a user who may not do everything, also where root runs the tests."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = make_workspace(Path(folder), monkeypatch)
        # What is imported on the way may lie where only root looks.
        assert upscale("photo.png", "-s", "1.5", "-q") == 0
        root = os.geteuid() == 0
        if root:
            for path in (workspace, *workspace.iterdir()):
                os.chown(path, 65_534, 65_534)
            os.setresuid(65_534, 65_534, 0)
        try:
            yield workspace
        finally:
            if root:
                os.setresuid(0, 0, 0)


def test_what_may_not_be_read_or_written(nobody: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("secret.png").write_bytes(Path("photo.png").read_bytes())
    Path("secret.png").chmod(0)
    assert "secret.png: cannot be read: Permission denied" in refused(nobody, capsys, "secret.png")
    Path("locked").mkdir(mode=0o500)
    for output in ("locked/", "locked/x.png"):
        said = refused(nobody, capsys, "photo.png", "-o", output, code=2)
        assert "no permission to write into locked" in said
    Path("old.png").write_bytes(b"old")
    nobody.chmod(0o500)
    said = refused(nobody, capsys, "photo.png", "-s", "1.5", "-o", "old.png", "--overwrite", code=2)
    assert "no permission to write into ." in said
    assert Path("old.png").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.avif", "x.bmp", "x.ppm", "x.tif", "deep.png"])
def test_a_full_disk(name: str, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file may pass 100 bytes: a write stops short and the next one fails, as where a disk fills up."""
    if name == "x.avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    source = "photo.png"
    if name == "deep.png":
        pytest.importorskip("imagecodecs", reason="writes the deep PNG")
        source = "source.png"
        image.write(np.asarray(photo()).astype(np.uint16) * 257, source)
    resource = pytest.importorskip("resource", reason="limits the size of files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        err = refused(workspace, capsys, source, "-s", "1.5", "-o", name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"{name}: cannot be written: [Errno {errno.EFBIG}] File too large" in err


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_pipe(workspace: Path) -> None:
    # So small that it only fails when all that was buffered is written.
    command = [sys.executable, "-m", "liif_fast", "upscale", "photo.png", "-s", "0.1", "-o", "-"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*command, "-q", "--model", "model.safetensors"], stdout=full, stderr=subprocess.PIPE,
                              env=environment, check=False)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.decode() == "liif-fast upscale: -: No space left on device\n"
