"""The published arithmetic in ONNX Runtime, on an export of the reference's graph."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.problem import Problem
from liif_fast.backends import reference
from liif_fast.params import DecoderParams


class _Reference(nn.Module):
    """reference.query as a module whose constants are the weights."""

    def __init__(self, params: DecoderParams) -> None:
        super().__init__()
        self.params = params
        self.layers = nn.ParameterList([*params.weights, *params.biases])

    def forward(self, feat: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        count = len(self.layers) // 2
        layers = tuple(self.layers)
        params = self.params
        switches = (params.local_ensemble, params.feat_unfold, params.cell_decode)
        return reference.query(
            feat, coord, cell, DecoderParams(layers[:count], layers[count:], params.channels, *switches)
        )


def session(problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    """(coord, cell) -> answers, for any number of queries, with as many threads as torch has."""
    queries = torch.export.Dim("queries", min=2)
    few = problem.coord[:, :8], problem.cell[:, :8]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.onnx"
        torch.onnx.export(
            _Reference(problem.params).eval(),
            (problem.feat, *few),
            path,
            input_names=["feat", "coord", "cell"],
            dynamic_shapes={"feat": None, "coord": {1: queries}, "cell": {1: queries}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        runtime = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    taken = {value.name for value in runtime.get_inputs()}  # without cell_decode the cell is no input

    def ask(coord: Tensor, cell: Tensor) -> Tensor:
        given = {"feat": problem.feat, "coord": coord, "cell": cell}
        arrays = {name: tensor.detach().numpy() for name, tensor in given.items() if name in taken}
        return torch.from_numpy(runtime.run(None, arrays)[0])

    return ask
