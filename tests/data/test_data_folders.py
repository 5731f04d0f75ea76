"""Folders of pictures: order, caches, channels, and what happens to files that are not what they should be."""

from __future__ import annotations

import io
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from liif_fast.data import ImageFolder, PairedImageFolders, store
from liif_fast.data.pictures import read_picture, resize
from liif_fast.errors import ImageError, UsageError

CACHES = ["none", "bin", "in_memory"]


def noise(height: int, width: int, seed: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.RandomState(seed).randint(0, 256, (height, width, channels)).astype(np.uint8)


def write(folder: Path, pictures: dict[str, tuple[int, int]]) -> Path:
    """A folder with pictures of noise, {name: (height, width)}, seeded by their place."""
    folder.mkdir(exist_ok=True)
    for seed, (name, (height, width)) in enumerate(pictures.items()):
        Image.fromarray(noise(height, width, seed)).save(folder / name)
    return folder


def truncated(height: int = 50, width: int = 60) -> bytes:
    """A PNG with a whole header and half of its pixels."""
    file = io.BytesIO()
    Image.fromarray(noise(height, width, 9)).save(file, "PNG")
    return file.getvalue()[: len(file.getvalue()) // 2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = write(tmp_path / "pictures", {"0.png": (60, 70), "1.png": (81, 64), "2.png": (100, 90)})
    (root / "notes.txt").write_text("not a picture")
    return root


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that a store decodes when it is made."""
    names: list[str] = []
    real = store.decode

    def counting(data: bytes, path: Path, *args: Any) -> NDArray[np.uint8]:
        names.append(path.name)
        return real(data, path, *args)

    monkeypatch.setattr(store, "decode", counting)
    return names


@pytest.mark.parametrize("cache", CACHES)
def test_folder_gives_the_pictures_in_order_and_repeats(folder: Path, cache: str) -> None:
    pictures = ImageFolder(folder, repeat=2, cache=cache)
    assert len(pictures) == 6
    for index, (height, width, seed) in enumerate([(60, 70, 0), (81, 64, 1), (100, 90, 2), (60, 70, 0)]):
        for _ in range(2):
            assert np.array_equal(pictures[index], noise(height, width, seed))


def test_folder_chooses_by_split_and_first_k(folder: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["2.png", "0.png"], "test": ["1.png"]}))
    pictures = ImageFolder(folder, split_file=str(split), split_key="train")
    assert [path.name for path, _ in pictures.entries] == ["2.png", "0.png"]
    assert len(ImageFolder(folder, first_k=1)) == 1
    with pytest.raises(UsageError, match="did you mean 'train'"):
        ImageFolder(folder, split_file=str(split), split_key="trian")
    with pytest.raises(UsageError, match="split_file"):
        ImageFolder(folder, split_file=tmp_path / "no.json", split_key="train")


def test_folder_shrinks(folder: Path) -> None:
    pictures = ImageFolder(folder, shrink=[1, 2], cache="in_memory")
    assert len(pictures) == 6
    expected = Image.fromarray(noise(81, 64, 1)).resize((32, 40), Image.Resampling.BICUBIC)
    assert np.array_equal(pictures[4], np.asarray(expected))


# -- channels -------------------------------------------------------------------------------------------------------


def test_pictures_come_with_the_channels_asked_for(tmp_path: Path) -> None:
    Image.new("L", (5, 4), 7).save(tmp_path / "gray.png")
    Image.new("RGBA", (5, 4), (1, 2, 3, 0)).save(tmp_path / "rgba.png")
    Image.fromarray(np.full((4, 5), 257 * 200 + 20, np.uint16)).save(tmp_path / "sixteen.png")
    expected: dict[int, list[Any]] = {
        1: [7, 2, 200],
        3: [[7] * 3, [1, 2, 3], [200] * 3],
        4: [[7, 7, 7, 255], [1, 2, 3, 0], [200] * 3 + [255]],
    }
    for channels, values in expected.items():
        pictures = ImageFolder(tmp_path, channels=channels)
        for picture, value in zip((pictures[n] for n in range(3)), values, strict=True):
            assert picture.shape == (4, 5, channels)
            assert np.unique(picture.reshape(20, channels), axis=0).tolist() == [np.ravel(value).tolist()]


@pytest.mark.parametrize("cache", CACHES)
def test_arrays_hold_any_number_of_channels(tmp_path: Path, cache: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "a.npy", noise(6, 7, 1, 5))
    np.save(tmp_path / "arrays" / "b.npy", noise(6, 7, 1, 5).astype(np.float32))
    pictures = ImageFolder(tmp_path / "arrays", channels=5, cache=cache)
    pictures.leave_out_unreadable()
    assert len(pictures) == 1
    assert np.array_equal(pictures[0], noise(6, 7, 1, 5))
    assert "b.npy (expected uint8 [H, W] or [H, W, C], got float32 [6, 7, 5])" in caplog.text


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_every_channel_is_resized_by_itself(channels: int) -> None:
    picture = noise(31, 22, 3, channels)
    for channel in range(channels):
        alone = Image.fromarray(picture[:, :, channel]).resize((9, 13), Image.Resampling.BICUBIC)
        assert np.array_equal(resize(picture, 13, 9)[:, :, channel], np.asarray(alone))


# -- caches ---------------------------------------------------------------------------------------------------------


def test_bin_decodes_once_and_anew_when_the_content_changes(tmp_path: Path, decoded: list[str]) -> None:
    folder = write(tmp_path / "maps", {"a.bmp": (8, 9), "b.bmp": (8, 9)})
    ImageFolder(folder, cache="bin")
    assert sorted(decoded) == ["a.bmp", "b.bmp"]
    ImageFolder(folder, cache="bin", repeat=3)
    assert len(decoded) == 2
    # Another picture of the same name, length and time.
    before = os.stat(folder / "b.bmp")
    Image.fromarray(noise(8, 9, 5)).save(folder / "b.bmp")
    os.utime(folder / "b.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(folder / "b.bmp").st_size == before.st_size
    assert np.array_equal(ImageFolder(folder, cache="bin")[1], noise(8, 9, 5))
    assert decoded[2:] == ["b.bmp"]
    # The same picture by another name is known already.
    (folder / "b.bmp").rename(folder / "c.bmp")
    assert np.array_equal(ImageFolder(folder, cache="bin")[1], noise(8, 9, 5))
    assert len(decoded) == 3


def test_bin_keeps_channels_and_shrinks_apart(folder: Path) -> None:
    for channels in (3, 1):
        for shrink in (1, 2):
            pictures = ImageFolder(folder, cache="bin", channels=channels, shrink=[shrink])
            assert np.array_equal(pictures[0], read_picture(folder / "0.png", shrink, channels))


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"\0" * 12_728])
def test_bin_makes_a_damaged_file_anew(folder: Path, damage: bytes) -> None:
    ImageFolder(folder, cache="bin")
    for file in (folder.parent / "_bin_pictures").iterdir():
        file.write_bytes(damage)
    pictures = ImageFolder(folder, cache="bin")
    assert np.array_equal(pictures[0], noise(60, 70, 0))


def test_bin_leaves_no_part_of_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any, array: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(UsageError, match="No space left on device"):
            ImageFolder(folder, cache="bin")
    assert not list((folder.parent / "_bin_pictures").iterdir())
    assert np.array_equal(ImageFolder(folder, cache="bin")[0], noise(60, 70, 0))


def test_bin_says_when_its_folder_cannot_be(folder: Path) -> None:
    (folder.parent / "_bin_pictures").write_text("a file")
    with pytest.raises(UsageError, match=r"cache: bin: .*_bin_pictures cannot be written"):
        ImageFolder(folder, cache="bin")


def test_bin_is_safe_with_many_writers(folder: Path) -> None:
    for name in ("3.png", "4.png"):
        (folder / name).write_bytes((folder / "0.png").read_bytes())
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: ImageFolder(folder, cache="bin"), range(8)))
    for pictures in made:
        assert np.array_equal(pictures[0], noise(60, 70, 0))
        assert np.array_equal(pictures[4], noise(60, 70, 0))
    assert len(list((folder.parent / "_bin_pictures").iterdir())) == 3


class Sums(Dataset[int]):
    """The sum of each picture's levels: small enough to come back from a worker."""

    def __init__(self, pictures: ImageFolder) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> int:
        return int(self.pictures[index].sum(dtype=np.int64))


@pytest.mark.parametrize("cache", ["bin", "in_memory"])
def test_workers_decode_nothing(folder: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = ImageFolder(folder, cache=cache)

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(store, "decode", refuse)
    monkeypatch.setattr(store, "read_picture", refuse)
    loader = DataLoader(Sums(pictures), num_workers=2, multiprocessing_context="fork")
    expected = [noise(*size, seed).sum(dtype=np.int64) for seed, size in enumerate([(60, 70), (81, 64), (100, 90)])]
    assert [int(value) for value in loader] == expected


# -- files that are not what they should be -------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["bin", "in_memory"])
def test_damaged_pictures_are_named_skipped_and_counted(
    folder: Path, cache: str, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "a.png").write_bytes(truncated())
    (folder / "b.jpg").write_text("text")
    pictures = ImageFolder(folder, cache=cache)
    assert len(pictures) == 3
    (message,) = caplog.messages
    assert message.startswith("2 of 5 pictures skipped: a.png (image file is truncated")
    assert message.endswith("b.jpg (not a picture that Pillow knows)")


def test_without_a_cache_headers_are_looked_at_first_and_pixels_when_they_are_read(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "0a.png").write_bytes(truncated())
    (folder / "b.png").write_bytes(b"")
    pictures = ImageFolder(folder, repeat=2)
    assert caplog.messages == ["1 of 5 pictures skipped: b.png (not a picture that Pillow knows)"]
    caplog.clear()
    for _ in range(2):
        assert np.array_equal(pictures[1], noise(81, 64, 1))
    (message,) = caplog.messages
    assert "0a.png: image file is truncated" in message
    caplog.clear()
    pictures.leave_out_unreadable()
    assert len(pictures) == 6
    assert len(pictures.skipped) == 2
    assert np.array_equal(pictures[1], noise(81, 64, 1))
    assert caplog.messages[0].startswith("1 of 4 pictures skipped: 0a.png")


def test_workers_report_a_damaged_picture_once(folder: Path, tmp_path: Path) -> None:
    (folder / "0a.png").write_bytes(truncated())
    log = tmp_path / "log.txt"
    handler = logging.FileHandler(log)
    logging.getLogger("liif_fast.data").addHandler(handler)
    try:
        pictures = ImageFolder(folder, repeat=3)
        for _ in range(2):
            list(DataLoader(Sums(pictures), num_workers=1, multiprocessing_context="fork"))
        assert len([Sums(pictures)[n] for n in range(12)]) == 12
    finally:
        logging.getLogger("liif_fast.data").removeHandler(handler)
    assert len(log.read_text().splitlines()) == 1


@pytest.mark.parametrize("cache", CACHES)
def test_folders_without_a_picture(tmp_path: Path, cache: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="found none"):
        ImageFolder(tmp_path / "empty", cache=cache)
    with pytest.raises(UsageError, match="not a folder"):
        ImageFolder(tmp_path / "missing", cache=cache)
    (tmp_path / "bad").mkdir()
    for name in "abcdefg":
        (tmp_path / "bad" / f"{name}.png").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"none of the 7 can be read: a.png \(.*e.png \([^)]*\), ... \(2 more\)"):
        ImageFolder(tmp_path / "bad", cache=cache)
    with pytest.raises(ImageError, match=r"a\.png: not a picture"):
        read_picture(tmp_path / "bad" / "a.png")


@pytest.mark.parametrize("wrong", [{"cache": "im_memory"}, {"repeat": 0}, {"first_k": -1}, {"channels": "RGB"}])
def test_wrong_values_are_refused(folder: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}: expected"):
        ImageFolder(folder, **wrong)


# -- pairs ----------------------------------------------------------------------------------------------------------


def pairs(tmp_path: Path, low: dict[str, tuple[int, int]], high: dict[str, tuple[int, int]]) -> tuple[Path, Path]:
    return write(tmp_path / "LR", low), write(tmp_path / "HR", high)


@pytest.mark.parametrize("cache", CACHES)
def test_pairs_go_by_order(tmp_path: Path, cache: str) -> None:
    roots = pairs(tmp_path, {"ax2.png": (6, 5), "bx2.png": (7, 8)}, {"a.png": (12, 11), "b.png": (14, 16)})
    pictures = PairedImageFolders(*roots, repeat=2, cache=cache)
    assert len(pictures) == 4
    for index, sizes in [(0, [(6, 5), (12, 11)]), (3, [(7, 8), (14, 16)])]:
        for picture, size in zip(pictures[index], sizes, strict=True):
            assert np.array_equal(picture, noise(*size, index % 2))


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("side", [0, 1])
def test_a_damaged_picture_takes_its_partner_with_it(
    tmp_path: Path, cache: str, side: int, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {f"{name}.png": (30, 30) for name in "abcd"}
    roots = pairs(tmp_path, sizes, sizes)
    (roots[side] / "b.png").write_bytes(truncated(30, 30))
    pictures = PairedImageFolders(*roots, cache=cache)
    pictures.leave_out_unreadable()
    assert [[int(picture[0, 0, 0]) for picture in pictures[n]] for n in range(len(pictures))] == [
        [int(noise(30, 30, seed)[0, 0, 0])] * 2 for seed in (0, 2, 3)
    ]
    assert caplog.messages[0].startswith("1 of 4 pictures skipped: b.png (image file is truncated")


def test_unequal_folders_name_what_has_no_partner(tmp_path: Path) -> None:
    roots = pairs(tmp_path, {"0801x2.png": (6, 5), "0803x2.png": (6, 5)}, {f"080{n}.png": (12, 10) for n in (1, 2, 3)})
    with pytest.raises(UsageError, match=r"got 2 in .*LR and 3 in .*HR; without a partner: [^,]*HR/0802\.png$"):
        PairedImageFolders(*roots)


def test_sizes_that_do_not_fit_name_the_files(tmp_path: Path) -> None:
    swapped = pairs(tmp_path, {"a.png": (12, 10)}, {"a.png": (6, 5)})
    with pytest.raises(UsageError, match=r"LR/a\.png \(12 x 10\) and .*HR/a\.png \(6 x 5\).*swapped"):
        PairedImageFolders(*swapped)
    mixed = pairs(tmp_path, {"a.png": (20, 40), "b.png": (40, 20)}, {"a.png": (60, 120), "b.png": (60, 120)})
    with pytest.raises(UsageError, match=r"LR/b\.png \(40 x 20\) and .*HR/b\.png \(60 x 120\).*scales of 1.5 and 6"):
        PairedImageFolders(*mixed)
    other = pairs(tmp_path, {"a.png": (20, 40), "b.png": (21, 13)}, {"a.png": (60, 80), "b.png": (63, 26)})
    assert len(PairedImageFolders(*other)) == 2


def test_running_out_of_memory_is_not_taken_for_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("liif_fast.data.pictures._pixels", exhausted)
    with pytest.raises(MemoryError):
        ImageFolder(folder, cache="in_memory")
