"""Files as other programs and devices write them: read as they are meant, or refused with what to do."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, features
from support.workspace import photo, upscale

from liif_fast import image
from liif_fast.errors import ImageError
from liif_fast.image import kinds, metadata, quirks, xmp

tifffile: Any = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")
PACKET = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    b'xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" tiff:Orientation="6" tiff:ImageWidth="128" '
    b'GPano:FullPanoWidthPixels="4000"><dc:creator><rdf:Seq><rdf:li>M\xc3\xbcller</rdf:li></rdf:Seq></dc:creator>'
    b"</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end='w'?>"
)
IPTC = b"\x1c\x02\x78\0\x05hello"


def small() -> Image.Image:
    return photo().resize((24, 18))


def gray(path: str, array: np.ndarray, **options: Any) -> None:
    tifffile.imwrite(path, array, photometric=options.pop("photometric", "minisblack"), metadata=None, **options)


# -- TIFF as Pillow alone would not have it -------------------------------------------------------------------------


def test_signed_bytes_keep_their_sign(workspace: Path) -> None:
    array = np.tile(np.array([-1, 1], np.int8).repeat(16), (20, 1))
    gray("x.tif", array)
    assert upscale("x.tif", "-s", "2", "-o", "y.tif") == 0
    found = tifffile.imread("y.tif")
    assert found.dtype == np.int8
    assert (found[:, :20] == -1).all()
    assert (found[:, -20:] == 1).all()


@pytest.mark.parametrize("factor", [1, 257])
def test_colour_maps_of_eight_and_of_sixteen_bits(factor: int, tmp_path: Path) -> None:
    levels = np.zeros((3, 256), np.uint16)
    levels[:, :3] = [[200, 10, 30], [0, 255, 90], [7, 8, 9]]
    index = np.tile(np.array([0, 1, 2], np.uint8), (6, 2))
    gray(str(tmp_path / "x.tif"), index, photometric="palette", colormap=levels * np.uint16(factor))
    found = np.asarray(image.read(tmp_path / "x.tif").image)
    assert found[0, :3].tolist() == [[200, 0, 7], [10, 255, 8], [30, 90, 9]]


@pytest.mark.parametrize("options", [{}, {"compression": "lzw", "rowsperstrip": 5}])
def test_gray_and_alpha_in_planes(options: dict[str, Any], tmp_path: Path) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (2, 18, 24)).astype(np.uint8)
    gray(str(tmp_path / "x.tif"), planes, planarconfig="separate", extrasamples=["unassalpha"], **options)
    found = image.read(tmp_path / "x.tif")
    assert found.mode == "LA"
    assert (np.asarray(found.image) == np.moveaxis(planes, 0, 2)).all()


def test_a_mask_beside_a_picture_is_no_reason_to_refuse_it(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(np.asarray(small()), photometric="rgb", metadata=None)
        file.write(np.zeros((18, 24), bool), photometric="mask", subfiletype=4, metadata=None)
    assert image.read(tmp_path / "x.tif").notes == ()


def test_a_tiff_without_resolution_gets_none(workspace: Path) -> None:
    gray("x.tif", np.asarray(small().convert("L")))
    data = Path("x.tif").read_bytes()
    assert image.read("x.tif").dpi is None or b"\x1a\x01" in data
    small().save("y.tif")
    assert image.read("y.tif").dpi is None


# -- raw photographs and other files --------------------------------------------------------------------------------


def raw(path: str) -> None:
    with tifffile.TiffWriter(path) as file:
        version = [(50706, 1, 4, b"\1\4\0\0", True)] if path.endswith(".dng") else []
        preview = np.asarray(small())
        file.write(preview, photometric="rgb", subfiletype=1, subifds=1, metadata=None, extratags=version)
        file.write(np.zeros((60, 80), np.uint16), photometric=32803, subfiletype=0, metadata=None)


@pytest.mark.parametrize("name", ["x.dng", "x.nef", "x.arw"])
def test_raw_photographs_are_not_their_thumbnail(name: str, tmp_path: Path) -> None:
    raw(str(tmp_path / name))
    with pytest.raises(ImageError, match="got a raw photograph; develop it first"):
        image.read(tmp_path / name)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"%PDF-1.7", "got PDF; draw it at a size first"),
        (b"<?xml version='1.0'?>\n<svg xmlns=''>", "got SVG; draw it"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html>", "got HTML; fetch the picture itself"),
        (bytes(128) + b"DICM", "got DICOM; convert it"),
        (b"v/1\x01\x02\0\0\0", "got OpenEXR; convert it"),
        (b"PK\x03\x04", "got a ZIP archive"),
        (b"\x1f\x8b\x08", "got a gzip archive"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "got a video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "got a raw photograph"),
        (b"FUJIFILMCCD-RAW ", "got a raw photograph"),
        (b"II\x2a\0\x10\0\0\0CR\x02\0", "got a raw photograph"),
        (b"version https://git-lfs.github.com/spec/v1", "got a Git LFS pointer"),
        (b"something else", "got something that Pillow does not know"),
    ],
)
def test_what_is_no_picture_is_named_with_advice(start: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(start.ljust(300, b"\0"))
    with pytest.raises(ImageError, match=words):
        image.read(tmp_path / "x.jpg")


@pytest.mark.parametrize(("kind", "extra"), [(kinds.HEIC, "heif"), (kinds.JPEG_XL, "jxl")])
def test_missing_extras_are_named(kind: kinds.Kind, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "find_spec", lambda name: None)
    assert not kind.readable
    assert f"pip install 'liif_fast[{extra}]'" in kind.reason


@pytest.mark.parametrize(("suffix", "module"), [(".heic", "pillow_heif"), (".jxl", "pillow_jxl")])
def test_heic_and_jpeg_xl_by_extras(suffix: str, module: str, workspace: Path) -> None:
    pytest.importorskip(module)
    assert upscale("photo.png", "-s", "0.5", "-o", f"x{suffix}") == 0
    assert upscale(f"x{suffix}", "-s", "2") == 0
    found = image.read(f"x_x2{suffix}")
    assert found.size == (128, 96)
    assert abs(np.asarray(found.image).mean() - np.asarray(photo()).mean()) < 3
    Path(f"x{suffix}").rename("x.jpg")
    assert image.read("x.jpg").size == (64, 48)


def test_jpeg_2000_is_written(workspace: Path) -> None:
    if not features.check("jpg_2000"):
        pytest.skip("this Pillow has no JPEG 2000")
    small().save("x.jp2")
    assert upscale("x.jp2", "-s", "2") == 0
    assert upscale("x.jp2", "-s", "2", "-o", "y.png") == 0
    assert (np.asarray(image.read("x_x2.jp2").image) == np.asarray(image.read("y.png").image)).all()


def test_plain_bitmaps(tmp_path: Path) -> None:
    (tmp_path / "x.pbm").write_text("P1\n4 2\n0 1 0 1\n1 0 1 0\n")
    assert np.asarray(image.read(tmp_path / "x.pbm").image).tolist() == [[255, 0, 255, 0], [0, 255, 0, 255]]


def photoshop(layers: int, merged: bool | None = None, channels: int = 4) -> bytes:
    """A PSD of 3 x 2 pixels and so many layers, negative where the fourth channel is the transparency."""
    resources = b""
    if merged is not None:
        resources = b"8BIM" + struct.pack(">HHL", 1057, 0, 5) + struct.pack(">LB", 1, merged) + b"\0"
    info = struct.pack(">L", 82) + struct.pack(">h", layers) + bytes(80)
    head = b"8BPS" + struct.pack(">H6xHLLHH", 1, channels, 2, 3, 8, 3)
    pixels = bytes(range(6)) * (channels - 1) + bytes((0, 0, 0, 255, 255, 255))
    sections = struct.pack(">L", 0) + struct.pack(">L", len(resources)) + resources
    return head + sections + struct.pack(">L", len(info)) + info + struct.pack(">H", 0) + pixels


def test_a_stored_selection_is_no_transparency(tmp_path: Path) -> None:
    (tmp_path / "a.psd").write_bytes(photoshop(0))
    found = image.read(tmp_path / "a.psd")
    assert (found.mode, found.notes) == ("RGB", ("a stored selection left out",))
    (tmp_path / "b.psd").write_bytes(photoshop(-1))
    assert image.read(tmp_path / "b.psd").mode == "RGBA"
    (tmp_path / "c.psd").write_bytes(photoshop(-1, merged=False))
    with pytest.raises(ImageError, match="save it with Maximize Compatibility"):
        image.read(tmp_path / "c.psd")


# -- what is said beside the pixels ---------------------------------------------------------------------------------


def test_xmp_is_upright_and_true(workspace: Path, capsys: Any) -> None:
    exif = Image.Exif()
    exif[274] = 6
    small().save("x.jpg", xmp=PACKET, exif=exif)
    for out in ("y.jpg", "y.png", "y.tif", "y.webp"):
        assert upscale("x.jpg", "-s", "2", "-o", out) == 0
        assert "GPano:FullPanoWidthPixels" in capsys.readouterr().err.replace("panorama", "GPano:FullPanoWidthPixels")
        packet = image.read(out).extras.xmp
        assert packet is not None
        assert b'tiff:Orientation="1"' in packet
        assert "Müller".encode() in packet
        assert b"ImageWidth" not in packet
        assert b"GPano" not in packet


def test_damaged_and_hostile_xmp_is_left_out() -> None:
    for packet in (b"<x:xmpmeta", b"<!DOCTYPE a [<!ENTITY b 'c'>]><x:xmpmeta/>", b"", b"\xff\xfe"):
        notes: list[str] = []
        assert xmp.kept(packet, notes) is None
        assert len(notes) == 1


def test_iptc_and_comments_are_carried(workspace: Path, capsys: Any) -> None:
    data = io.BytesIO()
    small().save(data, "JPEG", comment=b"a comment", quality=95)
    block = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + bytes(len(IPTC) % 2)
    jpeg = data.getvalue()
    Path("x.jpg").write_bytes(jpeg[:2] + b"\xff\xed" + struct.pack(">H", len(block) + 2) + block + jpeg[2:])
    assert upscale("x.jpg", "-s", "2", "-o", "y.jpg") == 0
    assert upscale("y.jpg", "-s", "2", "-o", "z.tif") == 0
    for name in ("y.jpg", "z.tif"):
        assert image.read(name).extras.iptc == IPTC
    assert image.read("y.jpg").extras.comment == b"a comment"
    capsys.readouterr()
    assert upscale("x.jpg", "-s", "2", "-o", "w.webp") == 0
    assert "IPTC data, comment left out, which WEBP cannot hold" in capsys.readouterr().err


def test_texts_and_colours_of_a_png(workspace: Path, capsys: Any) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat, steps: 20")
    info.add_itxt("Title", "ein Bär", "de", "Name")
    info.add_text("Thumb::Image::Width", "24")
    info.add(b"gAMA", struct.pack(">I", 100_000))
    info.add(b"cICP", bytes((9, 16, 0, 1)))
    small().save("x.png", pnginfo=info)
    assert upscale("x.png", "-s", "2", "-o", "y.png") == 0
    assert "texts left out that the result makes false: Thumb::Image::Width" in capsys.readouterr().err
    found = image.read("y.png").extras
    assert dict(found.texts) == {"parameters": "a cat, steps: 20", "Title": "ein Bär"}
    assert (found.gamma, found.coding) == (1.0, (9, 16, 0, 1))
    assert upscale("x.png", "-s", "2", "-o", "y.jpg") == 0
    said = capsys.readouterr().err
    assert "texts, gamma and chromaticities, colour coding left out, which JPEG cannot hold" in said


def test_long_texts_and_profiles_of_a_png(workspace: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 1_200_000, zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(1_200_000)
    small().save("x.png", pnginfo=info, icc_profile=profile)
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    assert upscale("x.png", "-s", "2", "-o", "y.png") == 0
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    found = image.read("y.png")
    assert found.icc == profile
    assert len(dict(found.extras.texts)["workflow"]) == 1_200_000


def test_resolution_turns_with_the_picture(workspace: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    for name in ("x.jpg", "x.tif"):
        small().save(name, dpi=(204, 98), exif=exif)
        assert upscale(name, "-s", "2", "-o", f"y{name}") == 0
        with Image.open(f"y{name}") as opened:
            assert opened.size == (36, 48)
            assert tuple(round(value) for value in opened.info["dpi"]) == (98, 204)


def test_tags_that_are_false_of_the_result(workspace: Path, capsys: Any) -> None:
    tags = [(37724, 7, 4, b"8BIM", True), (34377, 1, 4, b"8BIM", True), (315, "s", 0, "Me", True)]
    tifffile.imwrite("x.tif", np.asarray(small()), photometric="rgb", extratags=tags)
    assert upscale("x.tif", "-s", "2", "-o", "y.tif") == 0
    with tifffile.TiffFile("y.tif") as file:
        found = {tag.code for tag in file.pages[0].tags}
        assert not found & {37724, 34377, 270}
        assert 315 in found
        assert file.series[0].shape == (36, 48, 3)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "left out, as the result may make it false:" in said
    assert "ImageSourceData" in said


def test_lossless_webp_stays_lossless(workspace: Path) -> None:
    if not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    for lossless in (True, False):
        small().save("x.webp", lossless=lossless)
        assert image.read("x.webp").extras.lossless == lossless
        assert upscale("x.webp", "-s", "2", "-o", "y.webp", "--overwrite") == 0
        assert upscale("x.webp", "-s", "2", "-o", "y.png", "--overwrite") == 0
        same = (np.asarray(image.read("y.webp").image) == np.asarray(image.read("y.png").image)).all()
        assert same == lossless


def test_colour_coding_of_an_avif(workspace: Path) -> None:
    imagecodecs: Any = pytest.importorskip("imagecodecs")
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    try:
        data = imagecodecs.avif_encode(np.asarray(small()), level=95, primaries=12, transfer=13, matrix=6)
    except TypeError:
        pytest.skip("this imagecodecs writes no colour coding")
    Path("x.avif").write_bytes(data)
    assert upscale("x.avif", "-s", "2", "-o", "y.avif") == 0
    for name in ("x.avif", "y.avif"):
        coding = image.read(name).extras.coding
        assert coding is not None
        assert coding[:2] == (12, 13)


def test_hidden_colour_is_kept_by_request_and_replaced_with_a_word(workspace: Path, capsys: Any) -> None:
    texture = photo().convert("RGBA")
    texture.putalpha(Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 64, axis=1).repeat(96, axis=0)))
    texture.save("x.png")
    assert upscale("x.png", "-s", "2", "-o", "y.png") == 0
    assert "--keep-hidden-colour keeps it" in capsys.readouterr().err
    assert upscale("x.png", "-s", "2", "-o", "z.png", "--keep-hidden-colour") == 0
    assert upscale("photo.png", "-s", "2", "-o", "rgb.png") == 0
    assert capsys.readouterr().err == ""
    assert (np.asarray(Image.open("z.png"))[..., :3] == np.asarray(Image.open("rgb.png"))).all()


@pytest.mark.parametrize(
    ("values", "box"),
    [
        ((32, 1, 20, 1, 0, 1, 0, 1), (16, 14, 48, 34)),
        ((64, 2, 40, 2, -6, 2, 4, 1), (13, 18, 45, 38)),
        ((64, 1, 48, 1, 0, 1, 0, 1), (0, 0, 64, 48)),
        ((65, 1, 48, 1, 0, 1, 0, 1), None),
        ((32, 1, 20, 0, 0, 1, 0, 1), None),
    ],
)
def test_the_clean_aperture_of_an_avif(values: tuple[int, ...], box: tuple[int, ...] | None) -> None:
    data = b"meta" + b"clap" + struct.pack(">8i", *values) + bytes(8)
    assert quirks.clean_aperture((64, 48), data) == box
    assert quirks.clean_aperture((64, 48), b"meta" + bytes(60)) is None


def test_orientation_of_what_says_nothing() -> None:
    assert metadata.orientation(None) == 1
    assert metadata.turned((300.0, 150.0), 6) == (150.0, 300.0)
    assert metadata.turned((300.0, 150.0), 3) == (300.0, 150.0)
