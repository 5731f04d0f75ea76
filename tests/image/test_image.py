"""Files: what is read, what is kept, what is refused, and that nothing is ever half written."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, features
from support.files import BAD, SRGB, bad_files, tagged
from support.workspace import PHOTO, photo

from liif_fast import image
from liif_fast.errors import ImageError
from liif_fast.image import Picture, reading
from liif_fast.image.extras import Extras


def pixels(picture: Any) -> np.ndarray:
    return np.asarray(picture).astype(int)


# -- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_what_is_written_losslessly_is_read_back(mode: str, suffix: str, tmp_path: Path) -> None:
    source = photo().convert(mode)
    if "A" in mode:
        source.putalpha(photo().convert("L"))
    image.write(source, tmp_path / f"x{suffix}")
    found = image.read(tmp_path / f"x{suffix}")
    assert found.image.mode == mode
    assert found.notes == ()
    assert (pixels(found.image) == pixels(source)).all()


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif", ".bmp", ".ppm"])
def test_other_formats_come_close(suffix: str, tmp_path: Path) -> None:
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    image.write(photo(), tmp_path / f"x{suffix}")
    found = image.read(tmp_path / f"x{suffix}").image
    assert found.mode == "RGB"
    assert np.abs(pixels(found) - pixels(photo())).mean() < 4


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_gray_stays(suffix: str, tmp_path: Path) -> None:
    deep = Image.fromarray((pixels(photo().convert("L")) * 257 - 3).clip(0).astype(np.uint16))
    image.write(deep, tmp_path / f"x{suffix}")
    found = image.read(tmp_path / f"x{suffix}").image
    assert found.mode == "I;16"
    assert (pixels(found) == pixels(deep)).all()


def test_sixteen_bit_gray_of_other_byte_order(tmp_path: Path) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5 2 1 65535\n" + bytes([1, 2, 250, 4]))
    found = image.read(tmp_path / "x.pgm").image
    assert found.mode == "I;16"
    assert pixels(found).tolist() == [[258, 64004]]


def test_deep_ppm_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.ppm").write_bytes(b"P6 1 1 65535\n" + bytes(6))
    with pytest.raises(ImageError, match=r"x.ppm: expected 8 bits a channel or 16-bit gray, got more than 8 bits"):
        image.read(tmp_path / "x.ppm")


def test_deep_jpeg_2000_and_avif_are_refused(tmp_path: Path) -> None:
    imagecodecs = pytest.importorskip("imagecodecs", reason="writes the deep JPEG 2000 and AVIF")
    deep = np.zeros((32, 32, 3), np.uint16)
    (tmp_path / "x.jp2").write_bytes(imagecodecs.jpeg2k_encode(deep, codecformat="jp2"))
    (tmp_path / "x.avif").write_bytes(imagecodecs.avif_encode(deep, bitspersample=10))
    for name in ("x.jp2", "x.avif"):
        with pytest.raises(ImageError, match="more than 8 bits"):
            image.read(tmp_path / name)
    shallow = np.zeros((32, 32, 3), np.uint8)
    (tmp_path / "y.jp2").write_bytes(imagecodecs.jpeg2k_encode(shallow, codecformat="jp2"))
    (tmp_path / "y.avif").write_bytes(imagecodecs.avif_encode(shallow))
    for name in ("y.jp2", "y.avif"):
        assert image.read(tmp_path / name).image.mode == "RGB"


def test_drawings_are_refused(tmp_path: Path) -> None:
    photo().save(tmp_path / "x.eps")
    with pytest.raises(ImageError, match="expected a picture of pixels, got EPS"):
        image.read(tmp_path / "x.eps")


@pytest.mark.parametrize(
    ("mode", "becomes", "suffix", "note"),
    [
        ("1", "L", ".png", "black and white"),
        ("P", "RGB", ".png", "palette"),
        ("P", "RGB", ".gif", "palette"),
        ("CMYK", "RGB", ".jpg", "CMYK"),
        ("CMYK", "RGB", ".tif", "CMYK"),
        ("LAB", "RGB", ".tif", "LAB"),
    ],
)
def test_other_modes_are_converted_with_a_word(mode: str, becomes: str, suffix: str, note: str, tmp_path: Path) -> None:
    if mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        source = ImageCms.profileToProfile(photo(), ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
        assert source is not None
    else:
        source = photo().quantize(200) if mode == "P" else photo().convert(mode)
    source.save(tmp_path / f"x{suffix}")
    found = image.read(tmp_path / f"x{suffix}")
    assert found.image.mode == becomes
    assert note in " ".join(found.notes)
    if mode != "1":
        assert np.abs(pixels(found.image) - pixels(photo())).mean() < 8


def test_transparency_of_a_palette_or_a_colour_is_kept(tmp_path: Path) -> None:
    palette = photo().quantize(16)
    palette.save(tmp_path / "p.png", transparency=int(np.asarray(palette)[0, 0]))
    photo().save(tmp_path / "c.png", transparency=photo().getpixel((0, 0)))
    for name in ("p.png", "c.png"):
        found = image.read(tmp_path / name).image
        assert found.mode == "RGBA"
        assert pixels(found)[0, 0, 3] == 0
        assert pixels(found)[..., 3].max() == 255


def test_cmyk_goes_by_its_profile_and_loses_it(tmp_path: Path) -> None:
    source = photo().convert("CMYK")
    # An RGB profile in a CMYK file is nonsense, but no reason to fail.
    source.save(tmp_path / "x.jpg", icc_profile=SRGB)
    found = image.read(tmp_path / "x.jpg")
    assert found.icc is None
    assert found.image.mode == "RGB"


def test_only_the_first_frame_with_a_word(tmp_path: Path) -> None:
    photo().save(tmp_path / "x.tif", save_all=True, append_images=[Image.new("RGB", (5, 5))])
    found = image.read(tmp_path / "x.tif")
    assert found.image.size == (128, 96)
    assert "first of 2 frames" in found.notes[0]


# -- metadata -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", [".jpg", ".png", ".tif", ".webp", ".avif"])
@pytest.mark.parametrize("source", [".jpg", ".png", ".tif", ".webp"])
def test_profile_exif_and_resolution_are_kept_and_the_picture_stands_upright(
    source: str, out: str, tmp_path: Path
) -> None:
    if out == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    options: dict[str, Any] = {"quality": 95} if source in (".jpg", ".webp") else {}
    photo().save(tmp_path / f"a{source}", exif=tagged(), icc_profile=SRGB, dpi=(300, 300), **options)
    found = image.read(tmp_path / f"a{source}")
    upright = photo().transpose(Image.Transpose.ROTATE_270)
    assert np.abs(pixels(found.image) - pixels(upright)).mean() < 4
    assert found.icc == SRGB
    assert isinstance(found.image, Image.Image)
    image.write(found.image.resize((192, 256)), tmp_path / f"b{out}", found)
    with Image.open(tmp_path / f"b{out}") as written:
        assert written.size == (192, 256)
        assert written.info["icc_profile"] == SRGB
        exif = written.getexif()
        assert exif[ExifTags.Base.Artist] == "Somebody"
        assert exif.get(ExifTags.Base.Orientation, 1) == 1
        details = exif.get_ifd(ExifTags.IFD.Exif)
        assert details[ExifTags.Base.LensModel] == "A lens"
        assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == (192, 256)
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
        if source != ".webp":
            assert image.read(tmp_path / f"b{out}").dpi == pytest.approx((300, 300), abs=0.01)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    photo().save(tmp_path / "x.png", exif=exif)
    turned = np.asarray(photo())
    turned = turned.swapaxes(0, 1) if orientation > 4 else turned
    turned = turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned
    turned = turned[::-1] if orientation in (3, 4, 7, 8) else turned
    found = image.read(tmp_path / "x.png")
    assert (np.asarray(found.image) == turned).all()
    assert found.exif is None


def test_a_file_without_metadata_gets_none(tmp_path: Path) -> None:
    found = image.read(PHOTO)
    assert found[1:] == (None, None, None, (), Extras(), None, ())
    image.write(found.image, tmp_path / "x.png", found)
    with Image.open(tmp_path / "x.png") as written:
        assert not written.getexif()
        assert "icc_profile" not in written.info


def test_broken_exif_does_not_spoil_a_picture(tmp_path: Path) -> None:
    photo().save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    found = image.read(tmp_path / "x.jpg")
    assert found.image.size == (128, 96)
    image.write(found.image, tmp_path / "y.jpg", found)


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
def test_bad_file(name: str, tmp_path: Path) -> None:
    message = bad_files(tmp_path)[name]
    with pytest.raises(ImageError, match=message) as caught:
        image.read(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_unreadable_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    # Simulated, since root may read everything.
    monkeypatch.setattr(reading, "open", refuse, raising=False)
    with pytest.raises(ImageError, match="cannot be read: Permission denied"):
        image.read(PHOTO)


def test_the_limit_of_the_input_is_lifted_only_for_trusted_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo().save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="--force"):
        image.read(tmp_path / "x.png")
    assert image.read(tmp_path / "x.png", trusted=True).image.size == (128, 96)
    assert Image.MAX_IMAGE_PIXELS == 1000
    # Between the limit and twice it Pillow only warns; so do we not even that.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert image.read(tmp_path / "x.png").notes == ()


# -- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "picture", "message"),
    [
        ("x.xyz", Image.new("RGB", (2, 2)), "expected a name that ends in one of .png, .jpg"),
        ("x", Image.new("RGB", (2, 2)), "got 'no suffix'"),
        ("x.pcx", Image.new("RGB", (2, 2)), "got '.pcx'"),
        ("x.jpg", Image.new("RGBA", (2, 2)), "JPEG cannot keep the picture's transparency"),
        ("x.jpg", Image.new("I;16", (2, 2)), "JPEG cannot keep the picture's 16 bits"),
        ("x.webp", Image.new("L", (17_000, 1)), "at most 16383 pixels on a side for WEBP"),
        ("x.jpg", Image.new("L", (1, 65_501)), "at most 65500 pixels on a side for JPEG"),
        ("missing/x.png", Image.new("RGB", (2, 2)), "cannot be written"),
    ],
)
def test_what_cannot_be_written(name: str, picture: Image.Image, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        image.write(picture, tmp_path / name)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_or_interrupted_write_leaves_the_old_file_alone(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.png").write_text("old")

    def save(self: Image.Image, stream: IO[bytes], **_: Any) -> None:
        stream.write(b"half")
        stream.flush()
        assert len(list(tmp_path.iterdir())) == 2
        raise error

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(ImageError if isinstance(error, OSError) else KeyboardInterrupt):
        image.write(photo(), tmp_path / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert (tmp_path / "x.png").read_text() == "old"


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    image.write(photo(), tmp_path / "x.png")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "x.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_picture_keeps_what_it_was_given() -> None:
    assert Picture(photo()).notes == ()
