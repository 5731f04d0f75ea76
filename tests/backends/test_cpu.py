"""The C++ decoder: every arithmetic that runs here against float64 truth, its geometry bit by bit, its limits."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.golden import GoldenCase, random_params, seeded
from torch import Tensor

from liif_fast import geometry
from liif_fast.backends import cpu, reference
from liif_fast.functional import Window, project, query
from liif_fast.native import decoder, library
from liif_fast.params import DecoderParams

FP32 = library.arithmetics("fp32") or ["absent"]
BF16 = [name for name in library.arithmetics("any") if name not in FP32] or ["absent"]
# The others' library products may add in another order for another number of rows.
OWN = ("avx512", "avx2", "vnni-int16", "avx2-int16")
SWITCHES = [(e, u, c) for e in (True, False) for u in (True, False) for c in (True, False)]
NAMES = ("local_ensemble", "feat_unfold", "cell_decode")


@pytest.fixture(autouse=True)
def _built(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without the library these tests skip, or fail where it has to be there. Fresh memory holds NaN."""
    if library.import_error is not None:
        if os.environ.get("LIIF_FAST_REQUIRE_CPU") == "1":
            pytest.fail(f"the C++ library is not built: {library.import_error}")
        pytest.skip(f"the C++ library is not built: {library.import_error}")
    if "absent" in getattr(getattr(request.node, "callspec", None), "params", {}).values():
        pytest.skip("this processor has no other arithmetic")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def run(
    arithmetic: str,
    projected: Tensor,
    coord: Tensor,
    cell: Tensor | None,
    params: DecoderParams,
    window: Window | None = None,
) -> Tensor:
    _, rest = params.split()
    place = window or Window(projected.shape[1], projected.shape[2])
    weights, biases = list(params.weights[1:]), list(params.biases)
    cell = cell if params.cell_decode else None
    out: Tensor = decoder.query(
        projected, coord, cell, rest, weights, biases, params.local_ensemble, list(place), arithmetic
    )
    return out


def random_queries(batch: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return seeded((batch, count, 2), seed, 1.05), seeded((batch, count, 2), seed + 1, 0.4).abs()


def to_double(params: DecoderParams) -> DecoderParams:
    return dataclasses.replace(
        params,
        weights=tuple(w.double() for w in params.weights),
        biases=tuple(b.double() for b in params.biases),
    )


def psnr(got: Tensor, want: Tensor) -> float:
    """Against the range of the wanted values, which is harder than against [0, 1]."""
    peak = want.max() - want.min()
    return float(20 * torch.log10(peak / (got - want).square().mean().sqrt()))


def check_against_truth(arithmetic: str, feat: Tensor, coord: Tensor, cell: Tensor, params: DecoderParams) -> None:
    truth = reference.query(feat.double(), coord, cell, to_double(params))
    own = (reference.query(feat, coord, cell, params) - truth).abs().max()
    got = run(arithmetic, project(feat, params), coord, cell, params)
    assert got.shape == truth.shape
    assert got.dtype == torch.float32
    assert (got - truth).abs().max() <= 2 * own + 1e-6


@pytest.mark.parametrize("arithmetic", FP32)
def test_golden_output(golden: GoldenCase, arithmetic: str) -> None:
    got = run(arithmetic, project(golden.feat, golden.params), golden.coord, golden.cell, golden.params)
    torch.testing.assert_close(got, golden.out, rtol=0, atol=3e-7)


@pytest.mark.parametrize("arithmetic", FP32)
@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize(("batch", "size", "count"), [(1, (1, 1), 1), (2, (3, 7), 63), (1, (9, 4), 129)])
def test_error_is_within_twice_pytorchs_own(
    arithmetic: str, switches: tuple[bool, bool, bool], batch: int, size: tuple[int, int], count: int
) -> None:
    params = random_params(5, [24, 40], seed=7, **dict(zip(NAMES, switches, strict=True)))
    check_against_truth(arithmetic, seeded((batch, 5, *size), 1, 1), *random_queries(batch, count), params)


@pytest.mark.parametrize("arithmetic", FP32)
@pytest.mark.parametrize("hidden", [[], [16], [1, 1], [40, 24, 17], [256, 100, 256], [256] * 4, [300, 520]])
@pytest.mark.parametrize("out_dim", [1, 3, 20])
def test_any_hidden_list(arithmetic: str, hidden: list[int], out_dim: int) -> None:
    params = random_params(4, hidden, out_dim, seed=11)
    check_against_truth(arithmetic, seeded((1, 4, 6, 5), 2, 1), *random_queries(1, 77), params)


@pytest.mark.parametrize("arithmetic", BF16)
@pytest.mark.parametrize("hidden", [[16], [40, 24, 17], [256] * 4, [64, 1000, 64]])
@pytest.mark.parametrize("local_ensemble", [True, False])
def test_bf16_is_close_to_fp32(arithmetic: str, hidden: list[int], local_ensemble: bool) -> None:
    params = random_params(16, hidden, seed=5, local_ensemble=local_ensemble)
    feat = seeded((2, 16, 12, 9), 3, 1)
    coord, cell = random_queries(2, 513)
    got = run(arithmetic, project(feat, params), coord, cell, params)
    assert psnr(got, reference.query(feat, coord, cell, params)) >= 58


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (5, 7), (1, 127), (48, 1), (2, 1000)])
def test_neighbours_are_those_of_the_published_arithmetic(shape: tuple[int, int]) -> None:
    """A map of one-hot pixels answers with the share of each pixel: a single other choice shows, even at a tie."""
    height, width = shape
    pixels = height * width
    weights, biases = (torch.zeros(pixels, pixels + 2),), (torch.zeros(pixels),)
    params = DecoderParams(weights, biases, pixels, feat_unfold=False, cell_decode=False)
    projected = torch.eye(pixels).view(1, height, width, pixels)
    ties = [geometry.axis_coord(n) + sign / n for n in shape for sign in (-1, 0, 1)]
    near = torch.cat([*ties, *(torch.nextafter(t, t.new_tensor(s)) for t in ties for s in (-2.0, 2.0))])
    chosen = near[torch.randint(len(near), (600, 2), generator=torch.Generator().manual_seed(0))]
    wide = torch.tensor([[-3.0, 3.0], [1e9, -1e9], [-1.0, 1.0], [1.0, -1.0], [0.0, 0.0], [-0.0, 1 - 1e-6]])
    coord = torch.cat([chosen, wide, seeded((600, 2), 4, 1.02)])[None]
    got = run(FP32[0], projected, coord, None, params)
    corners = geometry.corners(coord, shape, True)
    want = torch.zeros_like(got)
    for corner, share in zip(corners, geometry.blend_weights([c.area for c in corners]), strict=True):
        want.scatter_add_(2, (corner.row * width + corner.col).unsqueeze(-1), share.unsqueeze(-1))
    assert torch.equal(got != 0, want != 0)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("local_ensemble", [True, False])
def test_relative_coordinates_are_bit_identical(local_ensemble: bool) -> None:
    weight = torch.cat([torch.zeros(2, 1), torch.eye(2)], dim=1)
    params = DecoderParams((weight,), (torch.zeros(2),), 1, local_ensemble, False, False)
    for shape in ((3, 5), (64, 48), (517, 1)):
        coord = seeded((1, 4000, 2), sum(shape), 1.02)
        got = run(FP32[0], torch.zeros(1, *shape, 2), coord, None, params)
        corners = geometry.corners(coord, shape, local_ensemble)
        if local_ensemble:
            shares = geometry.blend_weights([c.area for c in corners])
            want = sum((c.rel * s.unsqueeze(-1) for c, s in zip(corners, shares, strict=True)), torch.zeros(2))
            torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
        else:
            assert torch.equal(got, corners[0].rel * (corners[0].area / corners[0].area).unsqueeze(-1))


@pytest.mark.parametrize("arithmetic", [*FP32, *BF16])
def test_answers_do_not_depend_on_threads_order_or_company(arithmetic: str) -> None:
    params = random_params(3, [24, 40, 16], seed=1)
    projected = project(seeded((1, 3, 9, 7), 1, 1), params)
    coord, cell = random_queries(1, 1000)
    whole = run(arithmetic, projected, coord, cell, params)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(run(arithmetic, projected, coord, cell, params), whole)
    finally:
        torch.set_num_threads(threads)
    shuffle = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    shuffled = run(arithmetic, projected, coord[:, shuffle], cell[:, shuffle], params)
    torch.testing.assert_close(shuffled, whole[:, shuffle], rtol=0, atol=1e-7)
    alone = run(arithmetic, projected, coord[:, 500:501], cell[:, 500:501], params)
    torch.testing.assert_close(alone, whole[:, 500:501], rtol=0, atol=1e-7)


@pytest.mark.parametrize("arithmetic", [name for name in (*FP32, *BF16) if name in OWN] or ["absent"])
def test_own_kernels_are_bit_identical_in_any_company(arithmetic: str) -> None:
    params = random_params(3, [24, 40, 16], seed=1)
    projected = project(seeded((1, 3, 9, 7), 1, 1), params)
    coord, cell = random_queries(1, 300)
    whole = run(arithmetic, projected, coord, cell, params)
    for q in (0, 63, 299):
        assert torch.equal(
            run(arithmetic, projected, coord[:, q : q + 1], cell[:, q : q + 1], params), whole[:, q : q + 1]
        )


@pytest.mark.parametrize("arithmetic", [*FP32, *BF16])
def test_no_queries(arithmetic: str) -> None:
    params = random_params(3, [8, 8])
    projected = project(seeded((2, 3, 4, 4), 1, 1), params)
    empty = torch.zeros(2, 0, 2)
    assert run(arithmetic, projected, empty, empty, params).shape == (2, 0, 3)


@pytest.mark.parametrize("arithmetic", [*FP32, *BF16])
def test_strided_inputs(arithmetic: str) -> None:
    params = random_params(4, [16, 16])
    projected = project(seeded((1, 4, 6, 8), 1, 1), params).permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    coord = seeded((1, 2, 40), 2, 1).transpose(1, 2)
    cell = torch.tensor([0.1, 0.2]).expand(1, 40, 2)
    mirrored = tuple(w.t().contiguous().t() for w in params.weights)
    strided = run(arithmetic, projected, coord, cell, dataclasses.replace(params, weights=mirrored))
    assert torch.equal(strided, run(arithmetic, projected.contiguous(), coord.contiguous(), cell.clone(), params))


@pytest.mark.parametrize("arithmetic", [*FP32, *BF16])
def test_nan_and_infinity_stay_where_they_are(arithmetic: str) -> None:
    params = random_params(3, [16, 16], feat_unfold=False)
    feat = seeded((1, 3, 6, 6), 1, 1)
    coord, cell = seeded((1, 100, 2), 2, 0.9), torch.full((1, 100, 2), 0.1)
    clean = run(arithmetic, project(feat, params), coord, cell, params)

    bad = coord.clone()
    bad[0, 3, 0], bad[0, 50, 1], bad[0, 70] = float("nan"), float("inf"), float("-inf")
    got = run(arithmetic, project(feat, params), bad, cell, params)
    hit = torch.zeros(100, dtype=torch.bool)
    hit[[3, 50, 70]] = True
    assert got[0, hit].isnan().all()
    assert torch.equal(got[0, ~hit], clean[0, ~hit])

    feat[0, 0, 2, 3] = float("nan")
    got = run(arithmetic, project(feat, params), coord, cell, params)
    want = query(feat, coord, cell, params, backend="torch").isnan()
    assert want.any()
    assert not want.all()
    assert torch.equal(got.isnan(), want)


@pytest.mark.parametrize("arithmetic", BF16)
@pytest.mark.parametrize("width", [16, 256, 1000, 4096])
def test_fixed_point_sums_cannot_overflow(arithmetic: str, width: int) -> None:
    """All inputs at the row's largest and all weights at their largest: the worst case for a 32-bit sum."""
    rest = torch.zeros(width, 4)
    weights = (torch.cat([torch.zeros(width, 1), rest], dim=1), torch.ones(40, width), torch.ones(1, 40) / 40)
    biases = (torch.full((width,), 0.7), torch.zeros(40), torch.zeros(1))
    params = DecoderParams(weights, biases, 1, feat_unfold=False)
    coord, cell = random_queries(1, 50)
    got = run(arithmetic, project(torch.ones(1, 1, 3, 3), params), coord, cell, params)
    torch.testing.assert_close(got, torch.full_like(got, 0.7 * width), rtol=4e-3, atol=0)


@pytest.mark.parametrize("arithmetic", [*FP32, *BF16])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_rows_of_zeros_and_extreme_weights(arithmetic: str, scale: float) -> None:
    params = random_params(3, [24, 24, 24])
    weights = (params.weights[0], params.weights[1] * scale, *params.weights[2:])
    biases = (params.biases[0], params.biases[1] * 0, *params.biases[2:])
    params = dataclasses.replace(params, weights=weights, biases=biases)
    feat = seeded((1, 3, 6, 6), 1, 1)
    coord, cell = random_queries(1, 60)
    want = reference.query(feat, coord, cell, params)
    got = run(arithmetic, project(feat, params), coord, cell, params)
    torch.testing.assert_close(got, want, rtol=0, atol=float(want.abs().max()) * (1e-6 if arithmetic in FP32 else 1e-2))


@pytest.mark.parametrize("arithmetic", [*FP32, *BF16])
def test_a_window_answers_as_the_whole_map(arithmetic: str) -> None:
    params = random_params(3, [24, 24])
    projected = project(seeded((1, 3, 12, 10), 1, 1), params)
    coord = geometry.make_coord((31, 27)).view(31, 27, 2)[10:20, 5:15].reshape(1, -1, 2)
    cell = geometry.make_cell((31, 27), count=100)[None]
    whole = run(arithmetic, projected, coord, cell, params)
    part = run(arithmetic, projected[:, 2:10, 1:8], coord, cell, params, Window(12, 10, 2, 1))
    assert torch.equal(part, whole)
    with pytest.raises(RuntimeError, match="every neighbour of every query inside rows 5 to 9"):
        run(arithmetic, projected[:, 5:10, 1:8], coord, cell, params, Window(12, 10, 5, 1))


def test_wrong_arguments_are_named() -> None:
    params = random_params(3, [8, 8])
    projected = project(seeded((1, 3, 4, 4), 1, 1), params)
    coord, cell = random_queries(1, 5)
    for change, message in (
        ({"coord": coord[0]}, "coord: expected"),
        ({"cell": cell[:, :3]}, "cell: expected"),
        ({"projected": projected[..., :7]}, "rest: expected"),
        ({"projected": projected.double()}, "projected: expected float32"),
        ({"window": Window(3, 4)}, "window: expected a part of a 3 x 4 map"),
    ):
        arguments = {"projected": projected, "coord": coord, "cell": cell, "params": params} | change
        with pytest.raises(RuntimeError, match=message):
            run(FP32[0], **arguments)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="arithmetic: expected one of"):
        run("int3", projected, coord, cell, params)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_backend_by_name(precision: str, dtype: torch.dtype) -> None:
    params = random_params(3, [32, 32])
    feat = seeded((1, 3, 8, 8), 1, 1).to(dtype)
    coord, cell = random_queries(1, 200)
    with torch.no_grad():
        got = query(feat, coord, cell, params, backend="cpu", precision=precision)
    assert got.dtype == dtype
    assert psnr(got.float(), reference.query(feat.float(), coord, cell, params)) >= (58 if dtype.itemsize == 4 else 45)


def test_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cpu.unusable_reason(torch.device("cpu"), "fp32") is None
    assert "expected tensors on the CPU, got cuda" in str(cpu.unusable_reason(torch.device("cuda"), "fp32"))
    assert "got 'tf32'" in str(cpu.unusable_reason(torch.device("cpu"), "tf32"))
    assert FP32[0] in cpu.detail()
    assert library.compiler() in cpu.detail()
    monkeypatch.setattr(library, "import_error", "no such file")
    monkeypatch.setattr(library, "PATH", tmp_path / "absent")
    assert "not built (no such file); install a C++ compiler" in str(cpu.unusable_reason(torch.device("cpu"), "fp32"))
    monkeypatch.setattr(library, "PATH", tmp_path)
    assert "cannot be loaded (no such file); build it" in str(cpu.unusable_reason(torch.device("cpu"), "fp32"))
    monkeypatch.setattr(library, "import_error", None)
    monkeypatch.setitem(library.BEST, "fp32", "")
    assert "AVX2 with FMA or AVX-512" in str(cpu.unusable_reason(torch.device("cpu"), "fp32"))
