"""Samples of paired pictures: what lies where, at whole, broken and uneven scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from liif_fast.data import SRImplicitPaired, SRImplicitUniformVaried, collate, make_samples
from liif_fast.data.pairing import covered
from liif_fast.geometry import make_coord

Picture = NDArray[np.uint8]


def places(height: int, width: int) -> Picture:
    """Red is the row, green the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=2).astype(np.uint8)


def noise(height: int, width: int, seed: int = 0) -> Picture:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


class Pairs:
    """A data set of one pair, several times."""

    def __init__(self, low: Picture, high: Picture, count: int = 4) -> None:
        self.pair, self.count = (low, high), count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Picture, Picture]:
        return self.pair


def levels(values: Tensor) -> Tensor:
    return (values * 255).round().long()


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        ((160, 240), (321, 481), (320, 480)),  # B100 at x2
        ((80, 120), (321, 481), (320, 480)),
        ((107, 160), (321, 481), (321, 480)),
        ((10, 10), (20, 30), (20, 30)),  # uneven, whole
        ((10, 10), (21, 32), (20, 30)),
        ((161, 241), (321, 481), (321, 481)),  # rounded up: the scale is the ratio
        ((100, 100), (250, 250), (250, 250)),
        ((10, 40), (25, 100), (25, 100)),
        ((7, 9), (7, 9), (7, 9)),
    ],
)
def test_what_a_low_resolution_picture_shows_of_its_original(low: Any, high: Any, shown: Any) -> None:
    assert covered(low, high) == shown


def test_whole_pictures_are_cut_as_published() -> None:
    low, high = noise(10, 13, 1), noise(31, 41, 2)
    samples: Any = SRImplicitPaired(Pairs(low, high))
    sample = samples[0]
    truth = high[:30, :39]
    assert torch.equal(sample["inp"], torch.from_numpy(low.transpose(2, 0, 1).copy()).float() / 255)
    assert torch.equal(sample["gt"], torch.from_numpy(truth.reshape(-1, 3).copy()).float() / 255)
    assert torch.equal(sample["coord"], make_coord((30, 39)))
    assert torch.equal(sample["cell"], torch.tensor([2 / 30, 2 / 39]).expand(30 * 39, 2))


def test_crops_at_a_whole_scale_are_those_of_both_pictures() -> None:
    samples: Any = SRImplicitPaired(Pairs(places(20, 30), places(61, 92)), inp_size=6)
    for index in range(4):
        sample = samples[index]
        top, left = levels(sample["inp"])[:2, 0, 0].tolist()
        truth = levels(sample["gt"]).view(18, 18, 3)
        expected = places(61, 92)[3 * top : 3 * top + 18, 3 * left : 3 * left + 18]
        assert np.array_equal(truth.numpy(), expected)
        assert torch.equal(sample["coord"], make_coord((18, 18)))
        assert torch.equal(sample["cell"], torch.full((324, 2), 2 / 18))


@settings(max_examples=150, deadline=None)
@given(
    side=st.integers(2, 9),
    extra=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    growth=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    augment=st.booleans(),
    sample_q=st.sampled_from([None, 1, 7]),
    index=st.integers(0, 3),
)
def test_every_query_lies_where_its_colour_does(
    side: int, extra: tuple[int, int], growth: tuple[int, int], augment: bool, sample_q: int | None, index: int
) -> None:
    low = (side + extra[0], side + extra[1])
    high = (low[0] + growth[0], low[1] + growth[1])
    samples: Any = SRImplicitPaired(Pairs(places(*low), places(*high)), side, augment, sample_q)
    sample = samples[index]
    scale = np.array(covered(low, high)) / low
    # The crop is affine in its rows and columns, whichever way it was turned: where a query lies is read off it.
    inp = levels(sample["inp"])[:2].double()
    down, right = inp[:, 1, 0] - inp[:, 0, 0], inp[:, 0, 1] - inp[:, 0, 0]
    at = (sample["coord"].double() + 1) * side / 2 - 0.5
    lies = inp[:, 0, 0] + at[:, :1] * down + at[:, 1:] * right
    of_original = (lies + 0.5) * torch.from_numpy(scale) - 0.5
    assert torch.allclose(of_original, levels(sample["gt"])[:, :2].double(), atol=2e-4)
    assert sample["coord"].abs().max() <= 1 + 1e-6
    size = (sample["cell"].double() * side / 2) @ torch.stack([down, right]).abs()
    assert torch.allclose(size * torch.from_numpy(scale), torch.ones(1, dtype=torch.double), atol=1e-5)
    rows, columns = (side * total // n for total, n in zip(covered(low, high), low, strict=True))
    assert len(sample["coord"]) == (sample_q or rows * columns)
    assert len(torch.unique(sample["coord"], dim=0)) == min(rows * columns, len(sample["coord"]))


def test_augmentation_turns_pairs_in_eight_ways() -> None:
    samples: Any = SRImplicitPaired(Pairs(places(8, 8), places(20, 20), 100), 8, augment=True)
    assert len({tuple(levels(samples[n]["inp"])[:2, (0, 7), (0, 0)].flatten().tolist()) for n in range(100)}) == 8


def test_small_pairs_are_mirrored_alike() -> None:
    low, high = noise(4, 9, 1), noise(8, 18, 2)
    samples: Any = SRImplicitPaired(Pairs(low, high), 6)
    sample = samples[0]
    inp = levels(sample["inp"])
    assert torch.equal(inp[:, 4:], inp[:, :4].flip(1)[:, :2])
    truth = levels(sample["gt"]).view(12, 12, 3)
    assert torch.equal(truth[8:], truth[:8].flip(0)[:4])
    assert torch.equal(sample["coord"], make_coord((12, 12)))


def pil(picture: Picture, height: int, width: int) -> Picture:
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def test_sizes_grow_with_the_index() -> None:
    low, high = noise(8, 10, 1), noise(40, 50, 2)
    samples: Any = SRImplicitUniformVaried(Pairs(low, high, 5), 9, 33)
    for index, side in enumerate([9, 15, 21, 27, 33]):
        sample = samples[index]
        truth = pil(high, side, int(side * 50 / 40))
        assert torch.equal(levels(sample["inp"]).permute(1, 2, 0), torch.from_numpy(low).long())
        assert torch.equal(levels(sample["gt"]), torch.from_numpy(truth.reshape(-1, 3)).long())
        assert torch.equal(sample["coord"], make_coord(truth.shape[:2]))
        assert torch.equal(sample["cell"][0], torch.tensor([2 / truth.shape[0], 2 / truth.shape[1]]))


def test_gt_resize_brings_all_to_one_size() -> None:
    low, high = noise(8, 8, 1), noise(50, 40, 2)
    samples: Any = SRImplicitUniformVaried(Pairs(low, high, 3), 8, 32, gt_resize=24)
    for index, side in enumerate([8, 20, 32]):
        truth = pil(high, int(side * 50 / 40), side)
        truth = pil(truth, int(24 * truth.shape[0] / side), 24)
        assert torch.equal(levels(samples[index]["gt"]), torch.from_numpy(truth.reshape(-1, 3)).long())


def test_samples_of_many_sizes_make_a_batch_by_their_queries() -> None:
    samples: Any = SRImplicitUniformVaried(Pairs(noise(8, 8, 1), noise(64, 64, 2)), 8, 64, sample_q=64)
    batch = collate([samples[n] for n in range(4)])
    assert batch["coord"].shape == (4, 64, 2)
    assert (2 / batch["cell"][:, 0, 0]).round().tolist() == [8, 27, 45, 64]


def test_uniform_varied_flips_from_left_to_right_only() -> None:
    samples: Any = SRImplicitUniformVaried(Pairs(places(8, 8), places(16, 16)), 16, augment=True)
    seen = set()
    for epoch in range(30):
        samples.set_epoch(epoch)
        inp, truth = levels(samples[0]["inp"]), levels(samples[0]["gt"]).view(16, 16, 3)
        assert inp[0, :, 0].tolist() == list(range(8))
        assert (int(inp[1, 0, 0]), int(truth[0, 0, 1])) in ((0, 0), (7, 15))
        seen.add(int(inp[1, 0, 0]))
    assert seen == {0, 7}


def test_one_picture_draws_its_size() -> None:
    samples: Any = SRImplicitUniformVaried(Pairs(noise(8, 8, 1), noise(64, 64, 2), 1), 8, 64)
    sides = set()
    for epoch in range(40):
        samples.set_epoch(epoch)
        sides.add(round(len(samples[0]["gt"]) ** 0.5))
    assert 8 <= min(sides) < 16
    assert 56 < max(sides) <= 64


@pytest.mark.parametrize(
    "wrapper",
    [
        {"name": "sr-implicit-paired", "args": {"inp_size": 5, "augment": True, "sample_q": 9}},
        {"name": "sr-implicit-uniform-varied", "args": {"size_min": 8, "size_max": 20, "augment": True, "sample_q": 9}},
    ],
)
def test_pairs_depend_on_seed_epoch_and_index_only(tmp_path: Path, wrapper: dict[str, Any]) -> None:
    for name, size in (("LR", (9, 10)), ("HR", (24, 27))):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(noise(*size, number)).save(tmp_path / name / f"{number}.png")
    roots = {"root_path_1": str(tmp_path / "LR"), "root_path_2": str(tmp_path / "HR")}
    spec = {"dataset": {"name": "paired-image-folders", "args": roots}, "wrapper": wrapper, "batch_size": 1}

    def sample(seed: int, epoch: int, index: int) -> dict[str, Tensor]:
        samples = make_samples(spec)
        samples.seed = seed
        samples.set_epoch(epoch)
        return samples[index]

    first = sample(1, 2, 1)
    assert all(torch.equal(first[key], sample(1, 2, 1)[key]) for key in first)
    for other in ((2, 2, 1), (1, 3, 1), (1, 2, 0)):
        assert not torch.equal(first["coord"], sample(*other)["coord"])
