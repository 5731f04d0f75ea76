"""Samples of pictures reduced on the fly: what is cropped, reduced and asked; and the specs of data sets."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from liif_fast.data import ImageFolder, SRImplicitDownsampled, collate, make, make_samples
from liif_fast.data.detail import DetailMap
from liif_fast.errors import UsageError
from liif_fast.geometry import make_coord


def noise(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    root.mkdir()
    for number, (height, width) in enumerate([(60, 70), (81, 64), (100, 90)]):
        Image.fromarray(noise(height, width, number)).save(root / f"{number}.png")
    return root


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
    samples: Any = SRImplicitDownsampled(One(coordinates_as_picture(200, 220)), 24, scale)
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
    samples: Any = SRImplicitDownsampled(One(coordinates_as_picture(99, 99)), 20, 2, sample_q=700, augment=False)
    sample = samples[0]
    side = 40
    pixels = (((sample["coord"] + 1) * side - 1) / 2).round().long()
    assert len({tuple(pixel) for pixel in pixels.tolist()}) == 700
    colours = (sample["gt"] * 255).round().long()
    assert len(torch.unique(colours[:, 0] - pixels[:, 0])) == 1
    assert len(torch.unique(colours[:, 1] - pixels[:, 1])) == 1
    with pytest.raises(UsageError, match="sample_q"):
        SRImplicitDownsampled(One(noise(99, 99, 0)), 8, 1, sample_q=65)[0]


def test_augmentation_turns_input_and_truth_alike_in_eight_ways() -> None:
    samples: Any = SRImplicitDownsampled(One(coordinates_as_picture(16, 16)), 16, 1, augment=True)
    seen = set()
    for epoch in range(100):
        samples.set_epoch(epoch)
        sample = samples[0]
        truth = sample["gt"].T.reshape(3, 16, 16)
        assert torch.equal(sample["inp"], truth)
        seen.add(tuple((truth[:2, 0, 0] * 255).int().tolist() + (truth[:2, 0, 15] * 255).int().tolist()))
    assert len(seen) == 8


def test_whole_pictures_are_cut_to_the_scale() -> None:
    samples: Any = SRImplicitDownsampled(One(noise(33, 47, 5)), None, 4)
    sample = samples[0]
    assert sample["inp"].shape == (3, 8, 11)
    truth = noise(33, 47, 5)[:32, :44]
    assert torch.equal(sample["gt"], torch.from_numpy(truth.copy()).view(-1, 3).float() / 255)
    assert sample["cell"][0].tolist() == pytest.approx([2 / 32, 2 / 44])


def test_small_pictures_are_mirrored() -> None:
    picture = noise(10, 50, 1)
    samples: Any = SRImplicitDownsampled(One(picture), 20, 1)
    inp = (samples[0]["inp"] * 255).round().to(torch.uint8).permute(1, 2, 0)
    assert torch.equal(inp[10:], inp[:10].flip(0))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    inp_size=st.integers(1, 14),
    scale=st.floats(1, 4),
    channels=st.sampled_from([1, 3, 4]),
    augment=st.booleans(),
)
def test_any_picture_gives_a_crop_and_its_reduction(
    height: int, width: int, inp_size: int, scale: float, channels: int, augment: bool
) -> None:
    picture = np.random.RandomState(3).randint(0, 256, (height, width, channels)).astype(np.uint8)
    samples: Any = SRImplicitDownsampled(One(picture), inp_size, scale, augment=augment)
    sample = samples[1]
    side = round(inp_size * scale)
    truth = (sample["gt"] * 255).round().to(torch.uint8).view(side, side, channels).numpy()
    # Turned back by each of the eight ways: one of them is a part of the picture, and its reduction is the input.
    mirrored = np.pad(picture, ((0, max(0, side - height)), (0, max(0, side - width)), (0, 0)), "symmetric")
    parts = np.lib.stride_tricks.sliding_window_view(mirrored, (side, side), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    inp = (sample["inp"] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    ways = [(turned(truth, way), turned(inp, way)) for way in range(8 if augment else 1)]
    found = [(high, low) for high, low in ways if (parts == high).all(axis=(2, 3, 4)).any()]
    reduced = [
        np.stack([np.asarray(Image.fromarray(c).resize((inp_size,) * 2, Image.Resampling.BICUBIC)) for c in high], 2)
        for high in (np.ascontiguousarray(np.moveaxis(high, 2, 0)) for high, _ in found)
    ]
    assert any(np.array_equal(r, low) for r, (_, low) in zip(reduced, found, strict=True))
    assert torch.equal(sample["coord"], make_coord((side, side)))
    assert torch.equal(sample["cell"], torch.full((side * side, 2), 2 / side))


def turned(picture: NDArray[np.uint8], way: int) -> NDArray[np.uint8]:
    """The inverse of one of the eight flips and transpositions."""
    picture = picture.transpose(1, 0, 2) if way & 4 else picture
    picture = picture[:, ::-1] if way & 2 else picture
    return picture[::-1] if way & 1 else picture


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), scale=st.floats(1, 9))
def test_any_whole_picture_is_reduced_by_the_scale(height: int, width: int, scale: float) -> None:
    samples: Any = SRImplicitDownsampled(One(coordinates_as_picture(height, width)), None, scale)
    sample = samples[0]
    least = math.ceil(scale)
    small = [int(max(side, least) / scale + 1e-9) for side in (height, width)]
    large = [round(side * scale) for side in small]
    assert sample["inp"].shape == (3, *small)
    truth = (sample["gt"] * 255).round().view(*large, 3)
    rows, columns = (min(a, b) for a, b in zip(large, (height, width), strict=True))
    assert truth[:rows, 0, 0].tolist() == list(range(rows))
    assert truth[0, :columns, 1].tolist() == list(range(columns))


def test_a_truth_with_fewer_pixels_than_queries_gives_all_of_them() -> None:
    samples: Any = SRImplicitDownsampled(One(coordinates_as_picture(5, 7)), None, 1, sample_q=80)
    colours = [tuple(colour) for colour in (samples[0]["gt"][:, :2] * 255).round().int().tolist()]
    assert len(colours) == 80
    assert {colours.count((row, column)) for row in range(5) for column in range(7)} == {2, 3}


def test_small_pictures_are_told_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    SRImplicitDownsampled(ImageFolder(folder), 15, 1, 4)
    assert not caplog.messages
    SRImplicitDownsampled(ImageFolder(folder), 17, 1, 4)
    assert caplog.messages == [
        "2 of 3 pictures are smaller than the largest crop, 68 x 68, and mirrored beyond their edges: "
        "0.png (60 x 70), 1.png (81 x 64)"
    ]


def test_scales_cover_the_range() -> None:
    samples: Any = SRImplicitDownsampled(One(noise(90, 90, 1)), 20, 1, 4)
    scales = []
    for epoch in range(60):
        samples.set_epoch(epoch)
        scales.append(round(2 / samples[0]["cell"][0, 0].item()) / 20)
    assert 1 <= min(scales) < 1.3
    assert 3.7 < max(scales) <= 4
    assert np.mean(scales) == pytest.approx(2.5, abs=0.4)
    with pytest.raises(UsageError, match="scale_min"):
        SRImplicitDownsampled(One(noise(9, 9, 1)), 4, 3, 2)


def test_samples_depend_on_seed_epoch_and_index_only(folder: Path) -> None:
    def build(seed: int) -> SRImplicitDownsampled:
        args = {"inp_size": 12, "scale_max": 4, "sample_q": 64, "augment": True, "seed": seed, "detail_candidates": 3}
        spec = {"dataset": {"name": "image-folder", "args": {"root_path": str(folder)}}, "batch_size": 2}
        samples = make_samples({**spec, "wrapper": {"name": "sr-implicit-downsampled", "args": args}})
        assert isinstance(samples, SRImplicitDownsampled)
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
        samples: Any = SRImplicitDownsampled(One(picture), 32, detail_candidates=candidates)
        hits = 0
        for epoch in range(60):
            samples.set_epoch(epoch)
            hits += samples[0]["inp"].std().item() > 0.1
        return hits / 60

    assert share_of_detail(1) < 0.35
    assert share_of_detail(8) > 0.6


FOLDER = {"name": "image-folder", "args": {"root_path": "pictures"}}
WRAPPER = {"name": "sr-implicit-downsampled"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"dataset": {"name": "image-foldr"}}, "unknown dataset: .*got 'image-foldr'; did you mean 'image-folder'?"),
        ({"dataset": {"name": "image-folder", "args": {"rot_path": "x"}}}, "'rot_path'; did you mean 'root_path'?"),
        ({"dataset": {"name": "image-folder"}}, "image-folder: expected the argument root_path, got none"),
        ({"dataset": WRAPPER}, "unknown dataset"),
        ({"wrapper": {"name": "sr-implicit-pared"}}, "unknown wrapper: .*; did you mean 'sr-implicit-paired'?"),
        ({"wrapper": {**WRAPPER, "args": {"scale_mx": 4}}}, "'scale_mx'; did you mean 'scale_max'?"),
        ({"wrapper": {**WRAPPER, "args": {"xyz": 4}}}, "unknown argument 'xyz'; it takes dataset, inp_size"),
        ({"wrapper": {**WRAPPER, "args": {"inp_size": "48"}}}, "inp_size: expected a whole number"),
        ({"wrapper": {"name": "sr-implicit-paired"}}, "expected the dataset paired-image-folders, got image-folder"),
        ({"batch_sise": 2}, "unknown key 'batch_sise'; did you mean 'batch_size'?"),
    ],
)
def test_wrong_specs_say_what_is_right(
    folder: Path, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(UsageError, match=message.replace("?", "[?]")):
        make_samples({"dataset": FOLDER, "wrapper": WRAPPER, "batch_size": 1, **spec})


def test_incomplete_specs(folder: Path) -> None:
    with pytest.raises(UsageError, match="wrapper is missing"):
        make_samples({"dataset": FOLDER, "batch_size": 1})
    with pytest.raises(UsageError, match="unknown dataset or wrapper"):
        make({"args": {}})


def test_a_batch_of_many_sizes_says_what_to_set() -> None:
    samples: Any = SRImplicitDownsampled(One(noise(40, 40, 1)), 8, 1, 4)
    with pytest.raises(UsageError, match="set sample_q of the wrapper, or batch_size: 1"):
        collate([samples[0], samples[1]])
    samples.sample_q = 30
    assert collate([samples[0], samples[1]])["gt"].shape == (2, 30, 3)
