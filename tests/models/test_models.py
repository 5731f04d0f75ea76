"""Encoders and LIIF against recorded outputs of the published code."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.golden import GoldenCase, golden_cases, seeded
from support.models import EDSR, MLP, grid_queries, reference_answer, tiny_liif
from support.paths import RECORDED
from support.versions import TORCH
from torch import Tensor, nn

from liif_fast import models
from liif_fast.backends import reference
from liif_fast.errors import UsageError


class Identity(nn.Module):
    """An encoder that hands its input on: the feature map of a test is what the test says."""

    def __init__(self, out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim

    def forward(self, x: Tensor) -> Tensor:
        return x


# ---- published keys, encoders, models ----

KEYS = json.loads((RECORDED / "state_dict_keys.json").read_text())
DEFAULT_IMNET = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [256] * 4}}


def encoder_spec(name: str) -> dict[str, Any]:
    """Spec of an encoder as the recorded files call it: NAME, NAME-xSCALE, rdn-A, rdn-B."""
    name, _, scale = name.partition("-x")
    args: dict[str, Any] = {"scale": int(scale)} if scale else {"no_upsampling": True}
    if name.startswith("rdn"):
        args["RDNconfig"] = name[4:] or "B"
        name = "rdn"
    return {"name": name, "args": args}


@pytest.mark.parametrize("name", KEYS)
def test_state_dict_has_the_published_keys_shapes_and_order(name: str) -> None:
    decoder, _, encoder = name.rpartition("/")
    args = {"encoder_spec": encoder_spec(encoder)} | ({} if decoder else {"imnet_spec": DEFAULT_IMNET})
    with torch.device("meta"):
        model = models.make({"name": decoder or "liif", "args": args})
    assert [(key, list(value.shape)) for key, value in model.state_dict().items()] == list(KEYS[name].items())


UPSAMPLING_KEYS = json.loads((RECORDED / "upsampling_keys.json").read_text())


@pytest.mark.parametrize("name", UPSAMPLING_KEYS)
@pytest.mark.parametrize("decoder", ["liif", "metasr"])
def test_encoders_that_upsample_have_the_published_keys_too(name: str, decoder: str) -> None:
    with torch.device("meta"):
        model = models.make({"name": decoder, "args": {"encoder_spec": encoder_spec(name)}})
    got = [(key, list(value.shape)) for key, value in model.state_dict().items() if key.startswith("encoder.")]
    plain = KEYS[name.rpartition("-x")[0].replace("rdn-B", "rdn")]
    body = {key: shape for key, shape in plain.items() if key.startswith("encoder.")}
    assert got == list((body | UPSAMPLING_KEYS[name]).items())


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4}},
        {"name": "edsr", "args": {"n_resblocks": 1, "n_feats": 4, "scale": 3}},
        {"name": "rcan", "args": {"n_resgroups": 1, "n_resblocks": 1, "n_feats": 4, "reduction": 2, "scale": 4}},
        {"name": "rdn", "args": {"G0": 4, "RDNconfig": "A", "scale": 4}},
    ],
    ids=lambda spec: spec["name"],
)
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("no_upsampling", [True, False])
def test_encoders_of_any_channels_drive_every_decoder(spec: Any, channels: int, no_upsampling: bool) -> None:
    encoder = {**spec, "args": spec["args"] | {"n_colors": channels, "no_upsampling": no_upsampling}}
    inp, (coord, cell) = seeded((1, channels, 6, 5), 1, 1), grid_queries()
    torch.manual_seed(0)
    imnet = {"name": "mlp", "args": {"out_dim": channels, "hidden_list": [8]}}
    liif: Any = models.make({"name": "liif", "args": {"encoder_spec": encoder, "imnet_spec": imnet}})
    meta: Any = models.make({"name": "metasr", "args": {"encoder_spec": encoder, "out_dim": channels}})
    with torch.no_grad():
        torch.testing.assert_close(liif(inp, coord, cell), reference_answer(liif, coord, cell), rtol=0, atol=1e-5)
        got = meta(inp, coord, cell)
        want = reference.metasr_query(meta.feat, coord, cell, meta.imnet)
    assert meta.feat.shape[1] == (4 if no_upsampling else channels)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", list(np.load(RECORDED / "encoders.npz")))
def test_encoder_gives_the_published_features(name: str) -> None:
    expected = torch.from_numpy(np.load(RECORDED / "encoders.npz")[name])
    encoder: Any = models.make(encoder_spec(name))
    for i, (key, value) in enumerate(encoder.state_dict().items()):
        if "_mean" not in key:
            fan = int(np.prod(value.shape[1:])) if value.dim() > 1 else value.shape[0]
            value.copy_(seeded(list(value.shape), 5000 + i, 1 / np.sqrt(fan)))
    with torch.no_grad():
        got = encoder(seeded((1, 3, 8, 9), 4999, 1))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert got.shape[1] == encoder.out_dim
    assert got.shape[2] == 8 * encoder.scale


def reach(encoder: Any, width: int) -> int:
    """How many input pixels along a row one pixel really changes the features."""
    encoder = copy.deepcopy(encoder).double()
    # All positive, so that nothing cancels; no bias, so that a feature is zero unless the pixel reaches it.
    with torch.no_grad():
        for key, value in encoder.named_parameters():
            value.copy_(torch.full_like(value, 0.1 if key.endswith("weight") else 0.0))
        inp = torch.zeros(1, 3, 1, width, dtype=torch.float64)
        inp[..., width // 2] = 1.0
        out = encoder(inp)[0].abs().sum(dim=(0, 1))
    changed = out.nonzero().flatten().div(encoder.scale, rounding_mode="floor") - width // 2
    return int(changed.abs().max())


@pytest.mark.parametrize("name", ["edsr-baseline", "edsr-baseline-x2", "edsr-baseline-x3", "edsr-baseline-x4", "rdn-A"])
def test_receptive_radius_is_exact(name: str) -> None:
    encoder: Any = models.make(encoder_spec(name))
    assert reach(encoder, 2 * encoder.receptive_radius + 21) == encoder.receptive_radius


def test_receptive_radii_of_the_published_encoders() -> None:
    with torch.device("meta"):
        radii = {n: models.make(encoder_spec(n)).receptive_radius for n in ("edsr-baseline", "edsr", "rdn", "rcan")}
    assert radii == {"edsr-baseline": 34, "edsr": 66, "rdn": 131, "rcan": None}


def test_unused_mean_shift_is_frozen_and_holds_the_published_constants() -> None:
    encoder = models.make({"name": "edsr-baseline", "args": {**EDSR["args"], "rgb_range": 255}})
    assert not any(p.requires_grad for p in encoder.sub_mean.parameters())
    torch.testing.assert_close(encoder.sub_mean.bias, torch.tensor([-114.444, -111.4605, -103.02]))
    torch.testing.assert_close(encoder.add_mean.bias, torch.tensor([114.444, 111.4605, 103.02]))


@pytest.mark.parametrize("name", ["edsr", "rcan"])
@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_whole_model_gives_the_published_features_and_colours(name: str, backend: str) -> None:
    arrays = np.load(RECORDED / "models.npz")
    content = torch.load(RECORDED / f"tiny-{name}-liif.pth", weights_only=True)
    model: Any = models.make(content["model"], load_sd=True)
    model.backend = backend
    with torch.no_grad():
        feat = model.gen_feat((torch.from_numpy(arrays["inp"]) - 0.5) / 0.5)
        out = model.query_rgb(*grid_queries(23, 31))
    torch.testing.assert_close(feat, torch.from_numpy(arrays[f"{name}/feat"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(out, torch.from_numpy(arrays[f"{name}/out"]), rtol=0, atol=1e-6)


def test_model_without_imnet_gives_the_published_colours() -> None:
    arrays = np.load(RECORDED / "models.npz")
    model = models.make(torch.load(RECORDED / "tiny-edsr-x2.pth", weights_only=True)["model"], load_sd=True)
    with torch.no_grad():
        out = model((torch.from_numpy(arrays["inp"]) - 0.5) / 0.5, *grid_queries(24, 20))
    torch.testing.assert_close(out, torch.from_numpy(arrays["edsr-x2/out"]), rtol=0, atol=1e-6)


def test_imnet_none_is_the_nearest_pixel() -> None:
    arrays = np.load(RECORDED / "query.npz")
    case = next(c for c in json.loads((RECORDED / "query.json").read_text()) if c["name"] == "imnet-none")
    model = models.LIIF(Identity(3))
    model.gen_feat(seeded(case["feat_shape"], case["feat_seed"], 1))
    coord = torch.from_numpy(arrays["imnet-none/coord"])
    expected = torch.from_numpy(arrays["imnet-none/out"])
    assert torch.equal(model.query_rgb(coord), expected)
    # Half precision features, coordinates kept in float32: the same pixels.
    assert model.feat is not None
    model.feat = model.feat.half()
    assert torch.equal(model.query_rgb(coord), expected.half())


# ---- LIIF over recorded feature maps ----


def from_case(case: GoldenCase) -> models.LIIF:
    """A LIIF with the case's MLP on its feature map."""
    params = case.params
    imnet = {"name": "mlp", "args": {"out_dim": params.out_dim, "hidden_list": list(params.hidden)}}
    switches = {key: case.spec[key] for key in ("local_ensemble", "feat_unfold", "cell_decode")}
    model = models.LIIF(Identity(params.channels), imnet, **switches)
    with torch.no_grad():
        for layer, weight, bias in zip(model.imnet.layers[::2], params.weights, params.biases, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return model


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_liif_gives_the_published_outputs(golden: GoldenCase, backend: str) -> None:
    model = from_case(golden)
    model.backend = backend
    model.gen_feat(golden.feat)
    with torch.no_grad():
        whole = model.query_rgb(golden.coord, golden.cell)
        chunks = zip(golden.coord.split(50, 1), golden.cell.split(50, 1), strict=True)
        parts = torch.cat([model.query_rgb(coord, cell) for coord, cell in chunks], dim=1)
    torch.testing.assert_close(whole, golden.out, rtol=0, atol=1e-5)
    torch.testing.assert_close(parts, golden.out, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", [c for c in golden_cases() if c.spec["grad"]], ids=lambda c: c.name)
def test_liif_gives_the_published_gradients(case: GoldenCase) -> None:
    model = from_case(case)
    feat = case.feat.clone().requires_grad_()
    loss = (model(feat, case.coord, case.cell) * seeded(list(case.out.shape), case.spec["seed"] + 200, 1)).sum()
    loss.backward()
    assert feat.grad is not None
    gradients = {"feat": feat.grad}
    for k, layer in enumerate(model.imnet.layers[::2]):
        gradients |= {f"weight{k}": layer.weight.grad, f"bias{k}": layer.bias.grad}
    for key, got in gradients.items():
        expected = case.array(f"grad_{key}")
        got = got[:8] if got.shape != expected.shape else got
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_cell_may_be_left_out_only_without_cell_decode() -> None:
    coord, cell = grid_queries()
    model = tiny_liif(cell_decode=False)
    with torch.no_grad():
        model.gen_feat(seeded((1, 3, 6, 7), 1, 1))
        assert torch.equal(model.query_rgb(coord), model.query_rgb(coord, cell))
    model = tiny_liif()
    model.gen_feat(seeded((1, 3, 6, 7), 1, 1))
    with pytest.raises(UsageError, match="cell_decode is on, got None"):
        model.query_rgb(coord)


def test_query_before_gen_feat_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"call gen_feat\(inp\) first"):
        tiny_liif().query_rgb(*grid_queries())


def test_gen_feat_returns_and_keeps_the_features() -> None:
    model = tiny_liif()
    inp = seeded((2, 3, 5, 7), 3, 1)
    feat = model.gen_feat(inp)
    assert feat is model.feat
    assert torch.equal(feat, model.encoder(inp))


def test_channels_in_and_out_are_free() -> None:
    encoder = {"name": "edsr-baseline", "args": {**EDSR["args"], "n_colors": 5}}
    imnet = {"name": "mlp", "args": {"out_dim": 2, "hidden_list": []}}
    model = models.LIIF(encoder, imnet)
    coord, cell = grid_queries(4, 3, batch=2)
    with torch.no_grad():
        out = model(seeded((2, 5, 6, 4), 4, 1), coord, cell)
    assert out.shape == (2, 12, 2)
    torch.testing.assert_close(out, reference_answer(model, coord, cell), rtol=0, atol=1e-5)


def test_any_module_with_out_dim_is_an_encoder() -> None:
    class Stem(nn.Conv2d):
        out_dim = 6

    torch.manual_seed(1)
    model = models.LIIF(Stem(3, 6, 3, stride=2, padding=1), MLP)
    coord, cell = grid_queries()
    with torch.no_grad():
        out = model(seeded((1, 3, 10, 8), 5, 1), coord, cell)
    torch.testing.assert_close(out, reference_answer(model, coord, cell), rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="`out_dim`, got Conv2d"):
        models.LIIF(nn.Conv2d(3, 6, 3), MLP)


def test_backend_and_precision_are_attributes_outside_of_the_state() -> None:
    model = tiny_liif(backend="torch", precision="fp32")
    assert (model.backend, model.precision) == ("torch", "fp32")
    assert set(model.state_dict()) == set(tiny_liif().state_dict())
    model.backend = "abacus"
    model.gen_feat(seeded((1, 3, 4, 4), 1, 1))
    with pytest.raises(UsageError, match="abacus"):
        model.query_rgb(*grid_queries())


@pytest.mark.parametrize("compiled", ["compile", "export"])
@pytest.mark.filterwarnings("ignore:The tensor attribute self.feat was assigned during export")
def test_traced_model_gives_the_same_answer(compiled: str) -> None:
    if compiled == "export" and TORCH < (2, 10):
        pytest.skip("PyTorch 2.10 is the first that exports a model that keeps its features")
    model = tiny_liif()
    inp, (coord, cell) = seeded((1, 3, 6, 7), 1, 1), grid_queries()
    with torch.no_grad():
        expected = model(inp, coord, cell)
        if compiled == "compile":
            traced: Callable[..., Tensor] = torch.compile(model, fullgraph=True, backend="aot_eager")
        else:
            traced = torch.export.export(model, (inp, coord, cell)).module()
        torch.testing.assert_close(traced(inp, coord, cell), expected, rtol=0, atol=1e-6)
        # A state kept by the trace would answer for the first picture.
        other = seeded((1, 3, 6, 7), 2, 1)
        torch.testing.assert_close(traced(other, coord, cell), model(other, coord, cell), rtol=0, atol=1e-6)


# ---- the registry ----


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "liff", "args": {}}, "edsr-baseline, .*got 'liff'"),
        ({"args": {}}, r"got \['args'\]"),
        ("liif", "got str"),
        ({"name": "rdn", "args": {"G0": 8, "depth": 3}}, "unexpected keyword argument 'depth'.*G0"),
        ({"name": "rdn", "args": {"RDNconfig": "C"}}, "out of A, B, got 'C'"),
        ({"name": "rdn", "args": {"scale": 5}}, "out of 2, 3, 4, got 5"),
        ({"name": "edsr", "args": {"n_resblocks": 0, "scale": 6}}, "power of two, got 6"),
    ],
)
def test_bad_specs_are_named(spec: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        models.make(spec)


def test_make_lays_arguments_over_the_spec_and_leaves_it_alone() -> None:
    spec = {"name": "mlp", "args": {"in_dim": 2, "out_dim": 3, "hidden_list": [4]}}
    before = copy.deepcopy(spec)
    model = models.make(spec, args={"in_dim": 5})
    assert model.layers[0].in_features == 5
    assert spec == before


def test_spec_of_a_model_builds_one_like_it() -> None:
    model = tiny_liif(feat_unfold=False)
    twin = models.make({**models.spec_of(model), "sd": model.state_dict()}, load_sd=True)
    inp, (coord, cell) = seeded((1, 3, 5, 6), 1, 1), grid_queries()
    with torch.no_grad():
        assert torch.equal(twin(inp, coord, cell), model(inp, coord, cell))
    with pytest.raises(UsageError, match="got a Identity without a spec"):
        models.spec_of(models.LIIF(Identity(3), MLP))
