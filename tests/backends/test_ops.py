"""The operator liif_fast::query: its registration, torch.compile, torch.export, inference mode, autocast."""

from __future__ import annotations

import pytest
import torch
from support.golden import random_params, seeded
from torch import Tensor

from liif_fast import ops
from liif_fast.backends import available_backends, implementations, operators, unusable_reason
from liif_fast.functional import project, query
from liif_fast.params import DecoderParams

BACKENDS = [name for name in implementations.KERNELS if name in available_backends()] or ["absent"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "absent":
        pytest.skip("no fused backend can run here; tests/test_cpu.py says why and fails where one has to")
    name: str = request.param
    return name


def sample(count: int = 30, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    feat = seeded((batch, 4, 5, 6), 1, 1)
    return feat, seeded((batch, count, 2), 2, 1), seeded((batch, count, 2), 3, 0.4).abs()


def arguments(
    backend: str, params: DecoderParams, feat: Tensor, coord: Tensor, cell: Tensor | None
) -> tuple[object, ...]:
    _, rest = params.split()
    shared = (rest, list(params.weights[1:]), list(params.biases), params.local_ensemble)
    window = [feat.shape[2], feat.shape[3], 0, 0]
    return project(feat, params), None, coord, cell, None, *shared, window, backend, "fp32"


@pytest.mark.parametrize("hidden", [[], [16], [16, 24]])
@pytest.mark.parametrize("cell_decode", [True, False])
@pytest.mark.parametrize("count", [1, 30])
def test_opcheck(backend: str, hidden: list[int], cell_decode: bool, count: int) -> None:
    params = random_params(4, hidden, cell_decode=cell_decode)
    reason = unusable_reason(backend, torch.device("cpu"), "fp32", params)
    if reason is not None:
        pytest.skip(reason)
    feat, coord, cell = sample(count, batch=2)
    result = torch.library.opcheck(
        operators.query, arguments(backend, params, feat, coord, cell if cell_decode else None)
    )
    assert set(result.values()) == {"SUCCESS"}


def test_fake_result_has_the_real_ones_metadata(backend: str) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    real = arguments(backend, random_params(4, [16], out_dim=5), *sample(7, batch=2))
    out = operators.query(*real)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = operators.query(*[mode.from_tensor(a) if isinstance(a, Tensor) else a for a in real])
    assert (fake.shape, fake.dtype, fake.stride()) == (out.shape, out.dtype, out.stride())


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_in_one_graph(backend: str, dynamic: bool) -> None:
    params = random_params(4, [16, 16])

    def decode(feat: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        return query(feat, coord, cell, params, backend=backend)

    compiled = torch.compile(decode, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    with torch.no_grad():
        for count in (30, 41):
            inputs = sample(count)
            assert torch.equal(compiled(*inputs), decode(*inputs))


def test_what_it_runs_is_not_compiled(backend: str) -> None:
    """Where torch.compile leaves the operator to Python."""
    graphs = []

    def look(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    @torch.compiler.disable(recursive=False)
    def left() -> Tensor:
        return operators.query(*given)

    given = arguments(backend, random_params(4, [16, 16]), *sample())
    with torch.no_grad():
        assert torch.equal(torch.compile(lambda: left(), backend=look)(), left())
    assert graphs == []


class Decoder(torch.nn.Module):
    def __init__(self, params: DecoderParams, backend: str) -> None:
        super().__init__()
        self.params = params
        self.backend = backend

    def forward(self, feat: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        return query(feat, coord, cell, self.params, backend=self.backend)


def test_exports_with_any_number_of_queries(backend: str) -> None:
    decoder = Decoder(random_params(4, [16, 16]), backend)
    queries = torch.export.Dim("queries", min=2, max=1000)
    shapes = {"feat": None, "coord": {1: queries}, "cell": {1: queries}}
    with torch.no_grad():
        program = torch.export.export(decoder, sample(30), dynamic_shapes=shapes)
        assert any("liif_fast.query" in str(node.target) for node in program.graph.nodes)
        inputs = sample(57)
        assert torch.equal(program.module()(*inputs), decoder(*inputs))


def test_inference_mode(backend: str) -> None:
    params = random_params(4, [16, 16])
    with torch.no_grad():
        want = query(*sample(), params, backend=backend)
    with torch.inference_mode():
        assert torch.equal(query(*sample(), params, backend=backend), want)


def test_autocast_leaves_coordinates_alone(backend: str) -> None:
    """On a map 1,024 wide bfloat16 coordinates would choose another pixel for most queries."""
    params = random_params(2, [16], feat_unfold=False)
    feat = torch.linspace(-1, 1, 2 * 3 * 1024).view(1, 2, 3, 1024)
    coord, cell = seeded((1, 200, 2), 1, 0.99), torch.full((1, 200, 2), 0.01)
    with torch.no_grad():
        want = query(feat, coord, cell, params, backend="reference")
        # Triton's interpreter has no bfloat16.
        half = torch.float16 if backend == "triton" else torch.bfloat16
        with torch.autocast("cpu", dtype=half):
            got = query(feat, coord, cell, params, backend=backend)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0, atol=5e-3)


def test_the_public_module_names_the_operators() -> None:
    """Programs that were exported with one of them need that module, by that name."""
    for name in ("query", "query_keeping", "query_backward"):
        assert getattr(ops, name) is getattr(operators, name)
