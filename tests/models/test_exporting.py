"""What other parts of PyTorch make of a model: exporters, tracers, transforms, counters, fake tensors, shards."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import foreign
from support.golden import seeded
from support.paths import ROOT
from support.versions import TORCH
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.flop_counter import FlopCounterMode

import liif_fast
from liif_fast import LIIF, accelerate, make_cell, make_coord, models

ENCODER = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 16, "no_upsampling": True}}
IMNET = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16, 16]}}
INP, COORD, CELL = seeded((1, 3, 9, 8), 1, 1), make_coord((7, 6))[None], make_cell((7, 6))[None]
MORE_COORD, MORE_CELL = make_coord((11, 9))[None], make_cell((11, 9))[None]


def built() -> LIIF:
    torch.manual_seed(0)
    return LIIF(ENCODER, IMNET).eval()


def accelerated() -> nn.Module:
    torch.manual_seed(0)
    return accelerate(foreign.GivenFeatures().eval())


class OnFeatures(nn.Module):
    """A decoder that is given its features."""

    def __init__(self, model: LIIF) -> None:
        super().__init__()
        self.model = model

    def forward(self, feat: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        self.model.feat = feat
        return self.model.query_rgb(coord, cell)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


pytestmark = pytest.mark.filterwarnings("ignore:The tensor attribute self.feat was assigned during export")


# ---- exporters ----


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    queries = torch.export.Dim("queries", min=2, max=10_000)
    shapes = (None, {1: queries}, {1: queries})
    with torch.no_grad():
        # PyTorch 2.6's other way refuses a module that keeps its features.
        return torch.export.export(model, (INP, COORD, CELL), dynamic_shapes=shapes, strict=False)


@pytest.mark.parametrize("make", [built, accelerated])
def test_export_holds_the_fused_operator_and_takes_any_number_of_queries(make: Any) -> None:
    model = make()
    program = exported(model)
    fused = any("liif_fast.query" in str(node.target) for node in program.graph.nodes)
    assert fused is ("cpu" in liif_fast.available_backends())
    with torch.no_grad():
        close(program.module()(INP, MORE_COORD, MORE_CELL), model(INP, MORE_COORD, MORE_CELL))


def printed(code: str, folder: Path) -> str:
    """What another process prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@pytest.mark.parametrize("imports", ["import liif_fast, torch", "import torch, liif_fast"])
def test_importing_the_package_registers_the_operators(imports: str, tmp_path: Path) -> None:
    assert printed(f"{imports}; print(hasattr(torch.ops.liif_fast, 'query'))", tmp_path) == "True"


@pytest.mark.slow
def test_importing_the_package_is_enough_to_load_a_program(tmp_path: Path) -> None:
    torch.export.save(exported(built()), tmp_path / "model.pt2")
    code = "import liif_fast, torch; print(len(torch.export.load('model.pt2').graph.nodes) > 0)"
    assert printed(code, tmp_path) == "True"


@pytest.mark.slow
def test_compiled_ahead_of_time(tmp_path: Path) -> None:
    model = built()
    with torch.no_grad():
        package = torch._inductor.aoti_compile_and_package(exported(model), package_path=str(tmp_path / "model.pt2"))
        run = torch._inductor.aoti_load_package(package)
        close(run(INP, MORE_COORD, MORE_CELL), model(INP, MORE_COORD, MORE_CELL))


@pytest.mark.parametrize("dynamo", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_gives_the_same_answers(dynamo: bool, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, file = built(), tmp_path / "model.onnx"
    names = ["inp", "coord", "cell"]
    with torch.no_grad():
        if dynamo:
            queries = torch.export.Dim("queries", min=2, max=10_000)
            shapes = {"inp": None, "coord": {1: queries}, "cell": {1: queries}}
            torch.onnx.export(model, (INP, COORD, CELL), file, input_names=names, dynamic_shapes=shapes, dynamo=True)
            asked = INP, MORE_COORD, MORE_CELL
        else:
            torch.onnx.export(model, (INP, COORD, CELL), str(file), input_names=names, dynamo=False)
            asked = INP, COORD, CELL
        session = runtime.InferenceSession(str(file))
        given = {name: value.numpy() for name, value in zip(names, asked, strict=True)}
        close(torch.from_numpy(session.run(None, given)[0]), model(*asked))


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_trace_is_right_for_other_inputs(learning: bool) -> None:
    model = built()
    with torch.set_grad_enabled(learning):
        traced = torch.jit.trace(model, (INP, COORD, CELL))
        close(traced(INP.flip(2), COORD, CELL), model(INP.flip(2), COORD, CELL))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_a_trace_holds_no_projection_that_was_kept() -> None:
    decoder = OnFeatures(built())
    feat = decoder.model.encoder(INP)
    decoder(feat, COORD, CELL)
    traced = torch.jit.trace(decoder, (feat, COORD, CELL))
    close(traced(feat * 0.3, COORD, CELL), decoder(feat * 0.3, COORD, CELL))


# ---- transforms and modes ----


def loss(model: nn.Module, parameters: dict[str, Tensor], inp: Tensor) -> Tensor:
    answer: Tensor = functional_call(model, parameters, (inp[None], COORD, CELL))
    return answer.square().sum()


def test_gradients_of_each_sample() -> None:
    model, inputs = built(), seeded((3, 3, 9, 8), 2, 1)
    parameters = dict(model.named_parameters())
    each = vmap(grad(lambda p, x: loss(model, p, x)), in_dims=(None, 0))(parameters, inputs)
    for k in range(3):
        model.zero_grad()
        model(inputs[k : k + 1], COORD, CELL).square().sum().backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(each[name][k], parameter.grad, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_vmap_over_pictures() -> None:
    model, inputs = built(), seeded((3, 3, 9, 8), 2, 1)
    found = vmap(lambda x: model(x[None], COORD, CELL)[0])(inputs)
    close(found, torch.cat([model(x[None], COORD, CELL) for x in inputs]))


@torch.no_grad()
def test_operations_are_counted() -> None:
    model = built()
    with FlopCounterMode(display=False) as counter:
        model(INP, COORD, CELL)
    pixels, queries, width = 72, 42, 16
    convolutions = pixels * 9 * (3 * width + 3 * width * width + width * width)
    rows = 4 * queries * (4 * width + width * width) + queries * width * 3
    assert counter.get_total_flops() == 2 * (convolutions + rows)


@pytest.mark.parametrize("learning", [False, True])
def test_fake_and_meta_tensors_give_shapes(learning: bool) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.set_grad_enabled(learning):
        with FakeTensorMode():
            fake = built()(torch.rand(2, 3, 9, 8), torch.rand(2, 20, 2), torch.rand(2, 20, 2))
        with torch.device("meta"):
            meta = built()(torch.rand(2, 3, 9, 8), torch.rand(2, 20, 2), torch.rand(2, 20, 2))
            other = models.MetaSR(ENCODER)(torch.rand(2, 3, 9, 8), torch.rand(2, 20, 2), torch.rand(2, 20, 2))
    assert fake.shape == meta.shape == other.shape == (2, 20, 3)
    assert meta.is_meta


@pytest.mark.skipif(TORCH < (2, 7), reason="FSDP2 of this PyTorch does not run on a CPU")
def test_a_sharded_mlp_is_called(tmp_path: Path) -> None:
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = built()
    model(INP, COORD, CELL).square().sum().backward()
    wanted = model.imnet.layers[0].weight.grad
    sharded = copy.deepcopy(built())
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        fully_shard(sharded.imnet, mesh=init_device_mesh("cpu", (1,)))  # type: ignore[arg-type]
        sharded(INP, COORD, CELL).square().sum().backward()
        found = sharded.imnet.layers[0].weight.grad.full_tensor()
    finally:
        distributed.destroy_process_group()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
