"""The data pipeline: what is read, cropped, reduced and asked."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from liif_fast.data import ImageFolder, SRImplicitDownsampled, make, make_samples
from liif_fast.data.detail import DetailMap
from liif_fast.errors import ImageError, UsageError
from liif_fast.geometry import make_coord


def noise(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    root.mkdir()
    for number, (height, width) in enumerate([(60, 70), (81, 64), (100, 90)]):
        Image.fromarray(noise(height, width, number)).save(root / f"{number}.png")
    (root / "notes.txt").write_text("not a picture")
    return root


@pytest.mark.parametrize("cache", ["none", "bin", "in_memory"])
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


def test_folder_shrinks(folder: Path) -> None:
    pictures = ImageFolder(folder, shrink=[1, 2], cache="in_memory")
    assert len(pictures) == 6
    expected = Image.fromarray(noise(81, 64, 1)).resize((32, 40), Image.Resampling.BICUBIC)
    assert np.array_equal(pictures[4], np.asarray(expected))


def test_folder_reads_gray_and_alpha_as_rgb(tmp_path: Path) -> None:
    Image.new("L", (5, 4), 7).save(tmp_path / "gray.png")
    Image.new("RGBA", (5, 4), (1, 2, 3, 0)).save(tmp_path / "rgba.png")
    pictures = ImageFolder(tmp_path)
    assert pictures[0].tolist() == [[[7, 7, 7]] * 5] * 4
    assert pictures[1].tolist() == [[[1, 2, 3]] * 5] * 4


def test_folder_errors(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="found none"):
        ImageFolder(tmp_path / "empty")
    with pytest.raises(UsageError, match="not a folder"):
        ImageFolder(tmp_path / "missing")
    with pytest.raises(UsageError, match="cache"):
        ImageFolder(folder, cache="ram")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageError, match=r"broken\.png"):
        ImageFolder(folder, cache="in_memory")


class One:
    """A data set of one picture."""

    def __init__(self, picture: NDArray[np.uint8]) -> None:
        self.picture = picture

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.picture


def coordinates_as_picture(height: int, width: int) -> NDArray[np.uint8]:
    """Red is the row, green the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=2).astype(np.uint8)


@pytest.mark.parametrize("scale", [1.0, 2.0, 2.7, 4.0])
@pytest.mark.parametrize("index", range(4))
def test_a_crop_is_a_part_of_the_picture_and_its_bicubic_reduction(scale: float, index: int) -> None:
    samples: Any = SRImplicitDownsampled(One(coordinates_as_picture(200, 220)), 24, scale)  # type: ignore[arg-type]
    sample = samples[index]
    side = round(24 * scale)
    truth = (sample["gt"] * 255).round().to(torch.uint8).view(side, side, 3).numpy()
    top, left = int(truth[0, 0, 0]), int(truth[0, 0, 1])
    assert np.array_equal(truth, coordinates_as_picture(200, 220)[top : top + side, left : left + side])
    low = np.asarray(Image.fromarray(truth).resize((24, 24), Image.Resampling.BICUBIC))
    assert torch.equal(sample["inp"], torch.from_numpy(low.copy()).permute(2, 0, 1).float() / 255)
    assert torch.equal(sample["coord"], make_coord((side, side)))
    assert torch.equal(sample["cell"], torch.full((side * side, 2), 2 / side))


def test_queries_are_distinct_pixels_with_their_own_colours() -> None:
    samples: Any = SRImplicitDownsampled(One(coordinates_as_picture(99, 99)), 20, 2, sample_q=700, augment=False)  # type: ignore[arg-type]
    sample = samples[0]
    side = 40
    pixels = (((sample["coord"] + 1) * side - 1) / 2).round().long()
    assert len({tuple(pixel) for pixel in pixels.tolist()}) == 700
    colours = (sample["gt"] * 255).round().long()
    assert len(torch.unique(colours[:, 0] - pixels[:, 0])) == 1
    assert len(torch.unique(colours[:, 1] - pixels[:, 1])) == 1
    with pytest.raises(UsageError, match="sample_q"):
        SRImplicitDownsampled(One(noise(99, 99, 0)), 8, 1, sample_q=65)[0]  # type: ignore[arg-type]


def test_augmentation_turns_input_and_truth_alike_in_eight_ways() -> None:
    samples: Any = SRImplicitDownsampled(One(coordinates_as_picture(16, 16)), 16, 1, augment=True)  # type: ignore[arg-type]
    seen = set()
    for epoch in range(100):
        samples.set_epoch(epoch)
        sample = samples[0]
        truth = sample["gt"].T.reshape(3, 16, 16)
        assert torch.equal(sample["inp"], truth)
        seen.add(tuple((truth[:2, 0, 0] * 255).int().tolist() + (truth[:2, 0, 15] * 255).int().tolist()))
    assert len(seen) == 8


def test_whole_pictures_are_cut_to_the_scale() -> None:
    samples: Any = SRImplicitDownsampled(One(noise(33, 47, 5)), None, 4)  # type: ignore[arg-type]
    sample = samples[0]
    assert sample["inp"].shape == (3, 8, 11)
    truth = noise(33, 47, 5)[:32, :44]
    assert torch.equal(sample["gt"], torch.from_numpy(truth.copy()).view(-1, 3).float() / 255)
    assert sample["cell"][0].tolist() == pytest.approx([2 / 32, 2 / 44])


def test_small_pictures_are_mirrored() -> None:
    picture = noise(10, 50, 1)
    samples: Any = SRImplicitDownsampled(One(picture), 20, 1)  # type: ignore[arg-type]
    inp = (samples[0]["inp"] * 255).round().to(torch.uint8).permute(1, 2, 0)
    assert torch.equal(inp[10:], inp[:10].flip(0))


def test_scales_cover_the_range() -> None:
    samples: Any = SRImplicitDownsampled(One(noise(90, 90, 1)), 20, 1, 4)  # type: ignore[arg-type]
    scales = []
    for epoch in range(60):
        samples.set_epoch(epoch)
        scales.append(round(2 / samples[0]["cell"][0, 0].item()) / 20)
    assert 1 <= min(scales) < 1.3
    assert 3.7 < max(scales) <= 4
    assert np.mean(scales) == pytest.approx(2.5, abs=0.4)
    with pytest.raises(UsageError, match="scale_min"):
        SRImplicitDownsampled(One(noise(9, 9, 1)), 4, 3, 2)  # type: ignore[arg-type]


def test_samples_depend_on_seed_epoch_and_index_only(folder: Path) -> None:
    def build(seed: int) -> SRImplicitDownsampled:
        args = {"inp_size": 12, "scale_max": 4, "sample_q": 64, "augment": True, "seed": seed, "detail_candidates": 3}
        spec = {"dataset": {"name": "image-folder", "args": {"root_path": str(folder)}}, "batch_size": 2}
        samples: SRImplicitDownsampled = make_samples(
            {**spec, "wrapper": {"name": "sr-implicit-downsampled", "args": args}}
        )
        return samples

    first = next(iter(DataLoader(build(1), batch_size=3)))
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    again = next(iter(DataLoader(build(1), batch_size=3, num_workers=1)))
    assert all(torch.equal(first[key], again[key]) for key in first)
    other_seed, other_epoch = build(2), build(1)
    other_epoch.set_epoch(7)
    for other in (other_seed, other_epoch):
        assert not torch.equal(other[0]["coord"], build(1)[0]["coord"])


def test_detail_is_the_laplacian_energy_of_the_crop() -> None:
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, 48:] = noise(64, 48, 3)
    detail = DetailMap(picture)
    assert detail.energy(0, 0, 32) == DetailMap.FLOOR
    gray = picture.astype(np.float64).mean(axis=2)[15:49, 63:81]
    laplacian = 4 * gray[1:-1, 1:-1] - gray[:-2, 1:-1] - gray[2:, 1:-1] - gray[1:-1, :-2] - gray[1:-1, 2:]
    assert detail.energy(16, 64, 16) == pytest.approx((laplacian[:16, :16] ** 2).mean() + DetailMap.FLOOR, rel=1e-4)
    assert np.isfinite(detail.energy(63, 95, 16))


def test_detailed_crops_are_preferred() -> None:
    picture = np.zeros((128, 512, 3), np.uint8)
    picture[:, 448:] = noise(128, 64, 3)

    def share_of_detail(candidates: int) -> float:
        samples: Any = SRImplicitDownsampled(One(picture), 32, detail_candidates=candidates)  # type: ignore[arg-type]
        hits = 0
        for epoch in range(60):
            samples.set_epoch(epoch)
            hits += samples[0]["inp"].std().item() > 0.1
        return hits / 60

    assert share_of_detail(1) < 0.35
    assert share_of_detail(8) > 0.6


def test_unknown_names_and_arguments_are_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="image-foldr"):
        make({"name": "image-foldr", "args": {}})
    with pytest.raises(UsageError, match="rot_path"):
        make({"name": "image-folder", "args": {"rot_path": "x"}})
    with pytest.raises(UsageError, match="wrapper"):
        make_samples({"dataset": {"name": "image-folder", "args": {"root_path": str(folder)}}, "batch_size": 1})
