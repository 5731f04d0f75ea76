"""IIIF Image API 3.0: parsing, sizes, canonical forms, info.json."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from liif_fast.box import Box
from liif_fast.serve import iiif, info
from liif_fast.serve.iiif import Limits, RequestError, parse, resolve

LIMITS = Limits(1000, 800, 600_000)
SIDES = st.integers(1, 2000)


def resolved(text: str, width: int = 300, height: int = 200, limits: Limits = LIMITS) -> iiif.Resolved:
    return resolve(parse(*text.split("/")), width, height, limits)


@pytest.mark.parametrize(
    ("region", "box"),
    [
        ("full", Box(0, 0, 200, 300)),
        ("square", Box(0, 50, 200, 200)),
        ("10,20,30,40", Box(20, 10, 40, 30)),
        ("290,190,30,40", Box(190, 290, 10, 10)),
        ("pct:10,25,50,50", Box(50, 30, 100, 150)),
        ("pct:41.6,7.5,40,70", Box(15, 125, 140, 120)),
        ("pct:50,50,100,100", Box(100, 150, 100, 150)),
    ],
)
def test_region(region: str, box: Box) -> None:
    assert resolved(f"{region}/max/0/default.jpg").box == box


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("max", (200, 300)),
        ("^max", (632, 949)),
        ("150,", (100, 150)),
        (",100", (100, 150)),
        ("pct:50", (100, 150)),
        ("225,100", (100, 225)),
        ("!225,100", (100, 150)),
        ("!900,900", (200, 300)),
        ("^600,", (400, 600)),
        ("^,400", (400, 600)),
        ("^pct:200", (400, 600)),
        ("^300,700", (700, 300)),
        ("^!450,800", (300, 450)),
        ("^150,", (100, 150)),
    ],
)
def test_size(size: str, expected: tuple[int, int]) -> None:
    assert resolved(f"full/{size}/0/default.jpg").size == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "all/max/0/default.jpg",
            "1,2,3/max/0/default.jpg",
            "-1,0,5,5/max/0/default.jpg",
            "0,0,0,5/max/0/default.jpg",
        ),
        *("300,0,5,5/max/0/default.jpg", "pct:0,0,0,9/max/0/default.jpg", "1.5,0,5,5/max/0/default.jpg"),
        *("full/301,/0/default.jpg", "full/pct:101/0/default.jpg", "full/pct:0/0/default.jpg", "full/0,/0/default.jpg"),
        *("full/!100,/0/default.jpg", "full/,/0/default.jpg", "full/full/0/default.jpg", "full/^1001,/0/default.jpg"),
        *("full/^900,700/0/default.jpg", "full/pct:0.1/0/default.jpg", "full/!0,5/0/default.jpg"),
        *("full/max/45/default.jpg", "full/max/361/default.jpg", "full/max/!/default.jpg", "full/max/-90/default.jpg"),
        *("full/max/0/native.jpg", "full/max/0/default.gif", "full/max/0/default", "full/max/0/bitonal.png"),
        *("full/\u0661,/0/default.jpg", f"full/{'1' * 300},/0/default.jpg", "full/ 5,/0/default.jpg"),
    ],
)
def test_what_the_standard_forbids_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        resolved(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("full/max/0/default.jpg", "full/max/0/default.jpg"),
        ("0,0,300,200/300,/360/color.png", "full/max/0/default.png"),
        ("square/pct:50/!90/gray.webp", "50,0,200,200/100,100/!90/gray.webp"),
        ("0,0,64,64/^512,/0.0/default.jpg", "0,0,64,64/^512,512/0/default.jpg"),
        ("full/!150,150/270/default.jpg", "full/150,100/270/default.jpg"),
    ],
)
def test_canonical(text: str, canonical: str) -> None:
    assert resolved(text).canonical == canonical


NUMBERS = st.one_of(st.integers(0, 500).map(str), st.decimals(0, 120, places=2).map(str))
REGIONS = st.one_of(
    st.sampled_from(["full", "square"]),
    st.tuples(*[st.integers(0, 500)] * 4).map(lambda four: ",".join(map(str, four))),
    st.tuples(*[NUMBERS] * 4).map(lambda four: "pct:" + ",".join(four)),
)
BOUNDS = st.integers(0, 1200).map(str)
SIZES = st.tuples(
    st.sampled_from(["", "^"]),
    st.one_of(
        st.just("max"),
        BOUNDS.map("{},".format),
        BOUNDS.map(",{}".format),
        NUMBERS.map("pct:{}".format),
        st.tuples(st.sampled_from(["", "!"]), BOUNDS, BOUNDS).map(lambda three: f"{three[0]}{three[1]},{three[2]}"),
    ),
).map("".join)
ROTATIONS = st.sampled_from(["0", "90", "180", "270", "360", "!0", "!90", "90.0"])
LAST = st.sampled_from([f"{quality}.{form}" for quality in iiif.QUALITIES for form in iiif.FORMATS])


@given(st.tuples(REGIONS, SIZES, ROTATIONS, LAST).map("/".join), SIDES, SIDES)
def test_every_request_is_refused_or_within_its_bounds(text: str, width: int, height: int) -> None:
    try:
        found = resolved(text, width, height)
    except RequestError:
        return
    box, size = found.box, found.size
    assert 0 <= box.left < box.right <= width
    assert 0 <= box.top < box.bottom <= height
    assert 1 <= size[1] <= LIMITS.width
    assert 1 <= size[0] <= LIMITS.height
    assert size[0] * size[1] <= LIMITS.area
    if "^" not in text:
        assert size[0] <= box.height
        assert size[1] <= box.width
    # The canonical form means the same, and is its own canonical form.
    assert resolved(found.canonical, width, height) == found


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_no_text_breaks_the_parser(region: str, size: str, rotation: str, last: str) -> None:
    for parts in ((region, size, rotation, last), (region, "max", "0", "default.jpg"), ("full", size, "0", "gray.png")):
        with contextlib.suppress(RequestError):
            resolve(parse(*parts), 300, 200, LIMITS)


@given(SIDES, SIDES, SIDES, SIDES)
def test_a_size_that_fits_into_a_rectangle_keeps_the_proportion(
    width: int, height: int, across: int, down: int
) -> None:
    found = resolved(f"full/^!{across},{down}/0/default.jpg", width, height)
    assume(min(found.size) > 1)
    scale = found.size[1] / width
    assert abs(found.size[0] - scale * height) <= 1.01 + height / width
    assert found.size[1] <= across
    assert found.size[0] <= down


@given(SIDES, SIDES)
def test_info_names_sizes_that_are_answered(width: int, height: int) -> None:
    document = info.describe("http://127.0.0.1/iiif/liif/a", width, height, LIMITS)
    assert document["tiles"][0]["scaleFactors"][0] == 1
    for size in document["sizes"]:
        found = resolved(f"full/{size['width']},{size['height']}/0/default.jpg", width, height)
        assert found.size == (size["height"], size["width"])
