"""Reading and writing models: every format, every way a file can be wrong, and nothing in it executed."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from support.golden import seeded
from support.paths import RECORDED
from torch import Tensor, nn

from liif_fast import checkpoint, load, make_cell, make_coord, models, save
from liif_fast.errors import CheckpointError, UsageError

TINY = RECORDED / "tiny-edsr-liif.pth"
IMNET = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [16]}}


def answer(model: nn.Module, inp: Tensor | None = None) -> Tensor:
    inp = seeded((1, 3, 6, 7), 1, 1) if inp is None else inp
    with torch.no_grad():
        out: Tensor = model(inp, make_coord((9, 8))[None], make_cell((9, 8))[None])
    return out


def content() -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(TINY, weights_only=True)
    return loaded


def refused(path: Path) -> str:
    """The message for a file that cannot be loaded: one line, with the file's name."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# ---- what can be read ----


def spec_and_weights() -> tuple[dict[str, Any], dict[str, Tensor]]:
    model = content()["model"]
    return {"name": model["name"], "args": model["args"]}, model["sd"]


def nested(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Files that hold weights without saying whose, as people have them."""
    noise = {key: value + 1 for key, value in weights.items()}
    return {
        "bare": weights,
        "state_dict": {"state_dict": weights, "epoch": 3},
        "DataParallel": {f"module.{key}": value for key, value in weights.items()},
        "compiled": {f"_orig_mod.{key}": value for key, value in weights.items()},
        "compiled encoder": {key.replace("encoder.", "encoder._orig_mod."): value for key, value in weights.items()},
        "Lightning": {"state_dict": {f"model.module.{key}": value for key, value in weights.items()}, "epoch": 3},
        "BasicSR": {"params": noise, "params_ema": weights},
        "timm": {"state_dict": noise, "state_dict_ema": {f"module.{key}": v for key, v in weights.items()}},
        "AveragedModel": {"n_averaged": torch.tensor(7), **{f"module.{key}": v for key, v in weights.items()}},
        "half": {key: value.half() for key, value in weights.items()},
        "arguments": {
            "model_state_dict": weights,
            "args": argparse.Namespace(scale=4),
            "loss": np.float64(0.25),
            "step": np.int64(7),
        },
    }


@pytest.mark.parametrize("kind", nested({}))
def test_weights_alone_with_their_description_beside(kind: str, tmp_path: Path) -> None:
    spec, weights = spec_and_weights()
    file = tmp_path / "weights.pth"
    torch.save(nested(weights)[kind], file)
    message = refused(file)
    assert "tensors alone" in message
    assert "load(path, config=...)" in message
    data_norm = {"inp": {"sub": [0.4], "div": [1]}, "gt": {"sub": [0], "div": [1]}}
    model = load(file, config={"model": spec, "data_norm": data_norm})
    tolerance = 1e-2 if kind == "half" else 0
    torch.testing.assert_close(answer(model), answer(load(TINY)), rtol=tolerance, atol=tolerance)
    assert model.data_norm["inp"] == {"sub": [0.4], "div": [1.0]}


def test_a_description_from_a_training_file(tmp_path: Path) -> None:
    spec, weights = spec_and_weights()
    config, file = tmp_path / "train.yaml", tmp_path / "weights.safetensors"
    config.write_text(yaml.safe_dump({"model": spec, "epoch_max": 3}))
    safetensors.torch.save_file({f"module.{key}": value.contiguous() for key, value in weights.items()}, file)
    assert torch.equal(answer(load(file, config=config)), answer(load(TINY)))
    config.write_text("- 1")
    with pytest.raises(CheckpointError, match="expected a YAML file of keys, got list"):
        load(file, config=config)
    with pytest.raises(CheckpointError, match=r"expected a model .* got \['epoch_max'\]"):
        load(file, config={"epoch_max": 3})


def test_prefixes_inside_of_a_published_file(tmp_path: Path) -> None:
    found = content()
    found["model"]["sd"] = {f"module.{key}": value for key, value in found["model"]["sd"].items()}
    torch.save(found, tmp_path / "parallel.pth")
    assert torch.equal(answer(load(tmp_path / "parallel.pth")), answer(load(TINY)))


def test_a_whole_pickled_model_is_refused_with_the_safe_way(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "whole.pth")
    message = refused(tmp_path / "whole.pth")
    assert "torch.nn.modules.container.Sequential" in message
    assert "save its state_dict()" in message


@pytest.mark.parametrize("name", ["edsr", "rcan"])
def test_published_file_gives_the_published_colours(name: str) -> None:
    arrays = np.load(RECORDED / "models.npz")
    model = load(RECORDED / f"tiny-{name}-liif.pth")
    assert not model.training
    with torch.no_grad():
        inp = (torch.from_numpy(arrays["inp"]) - 0.5) / 0.5
        out = model(inp, make_coord((23, 31))[None], make_cell((23, 31))[None])
    torch.testing.assert_close(out, torch.from_numpy(arrays[f"{name}/out"]), rtol=0, atol=1e-6)
    assert model.data_norm == {"inp": {"sub": [0.5], "div": [0.5]}, "gt": {"sub": [0.5], "div": [0.5]}}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_saved_model_is_loaded_as_it_was(tmp_path: Path, suffix: str) -> None:
    model: Any = models.make(
        {
            "name": "liif",
            "args": {
                "encoder_spec": {"name": "edsr", "args": {"n_resblocks": 1, "n_feats": 6, "no_upsampling": True}},
                "imnet_spec": IMNET,
                "local_ensemble": False,
                "cell_decode": False,
            },
        }
    )
    model.data_norm = {"inp": {"sub": [0.1, 0.2, 0.3], "div": [1.0]}, "gt": {"sub": [0.0], "div": [2.0]}}
    save(model, tmp_path / f"model{suffix}")
    loaded = load(tmp_path / f"model{suffix}")
    assert loaded.spec == model.spec
    assert loaded.data_norm == model.data_norm
    assert torch.equal(answer(loaded), answer(model))
    assert [path.name for path in tmp_path.iterdir()] == [f"model{suffix}"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_half_precision_file_is_half_as_large_and_loads_as_float32(tmp_path: Path, suffix: str) -> None:
    model = load(RECORDED / "tiny-rcan-liif.pth")
    save(model, tmp_path / f"whole{suffix}")
    save(model, tmp_path / f"half{suffix}", dtype=torch.float16)
    loaded = load(tmp_path / f"half{suffix}")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[key].half().float()), key
    # The names and the file's own structure take some kilobytes of each.
    sizes = [(tmp_path / f"{name}{suffix}").stat().st_size for name in ("half", "whole")]
    weights = sum(value.numel() for value in model.state_dict().values())
    assert sizes[1] - sizes[0] == pytest.approx(2 * weights, rel=0.02)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_metasr_and_imnet_none_are_saved_too(tmp_path: Path) -> None:
    encoder: dict[str, Any] = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8}}
    for spec in (
        {"name": "metasr", "args": {"encoder_spec": {**encoder, "args": {**encoder["args"], "no_upsampling": True}}}},
        {"name": "liif", "args": {"encoder_spec": encoder}},
    ):
        model = models.make(spec)
        save(model, tmp_path / "model.safetensors")
        loaded = load(tmp_path / "model.safetensors")
        assert type(loaded) is type(model)
        assert torch.equal(answer(loaded), answer(model))


def test_published_code_finds_what_it_reads(tmp_path: Path) -> None:
    save(load(TINY), tmp_path / "model.pth")
    written = torch.load(tmp_path / "model.pth", weights_only=True)["model"]
    assert set(written) == {"name", "args", "sd"}
    assert written["name"] == "liif"
    assert list(written["sd"]) == list(content()["model"]["sd"])
    assert written["args"]["imnet_spec"] == {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [32, 32]}}


def test_optimizer_state_of_the_published_code_still_fits(tmp_path: Path) -> None:
    model = load(TINY)
    # Adam counts parameters by place, the frozen ones included.
    torch.optim.Adam(model.parameters()).load_state_dict(content()["optimizer"]["sd"])


def test_format_is_told_by_the_content(tmp_path: Path) -> None:
    model = load(TINY)
    save(model, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
    assert torch.equal(answer(load(tmp_path / "a.pth")), answer(model))
    # A header of this length starts with the byte that starts a pickle.
    data = bytearray((tmp_path / "a.pth").read_bytes())
    length = int.from_bytes(data[:8], "little")
    padded = (length // 256 + 1) * 256 + 0x80
    data[:8] = padded.to_bytes(8, "little")
    data[8 + length : 8 + length] = b" " * (padded - length)
    (tmp_path / "b.safetensors").write_bytes(data)
    assert data[0] == 0x80
    assert torch.equal(answer(load(tmp_path / "b.safetensors")), answer(model))


def test_unused_mean_shift_may_be_missing_or_too_many(tmp_path: Path) -> None:
    whole = content()
    sd = whole["model"]["sd"]
    expected = answer(load(TINY))
    for key in [key for key in sd if "_mean" in key]:
        del sd[key]
    torch.save(whole, tmp_path / "without.pth")
    model = load(tmp_path / "without.pth")
    assert torch.equal(answer(model), expected)
    torch.testing.assert_close(model.encoder.sub_mean.bias, torch.tensor([-0.4488, -0.4371, -0.4040]))

    save(models.make({"name": "rdn", "args": {"G0": 4, "RDNconfig": "A", "no_upsampling": True}}), tmp_path / "r.pth")
    whole = torch.load(tmp_path / "r.pth", weights_only=True)
    whole["model"]["sd"]["sub_mean.weight"] = torch.eye(3).view(3, 3, 1, 1)
    torch.save(whole, tmp_path / "r.pth")
    assert "sub_mean.weight" not in load(tmp_path / "r.pth").state_dict()


def test_loading_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load(TINY)
    assert torch.equal(torch.rand(2), expected)


# ---- mmagic ----


def mmagic_names(state_dict: dict[str, Tensor], edsr: bool) -> dict[str, Tensor]:
    """A published state_dict under the names that mmagic gives the same tensors."""
    renamed = {}
    for key, value in state_dict.items():
        if "_mean" in key:
            continue
        part = key.split(".")
        leaf = part[-1]
        if part[0] == "imnet":
            name = key
        elif edsr and part[1] == "head":
            name = f"conv_first.{leaf}"
        elif edsr and len(part) == 4:
            name = f"conv_after_body.{leaf}"
        elif edsr:
            name = f"body.{part[2]}.conv{1 if part[4] == '0' else 2}.{leaf}"
        elif part[1].startswith("SFENet"):
            name = f"sfe{part[1][-1]}.{leaf}"
        elif part[1] == "GFF":
            name = f"gff.{part[2]}.{leaf}"
        elif part[3] == "LFF":
            name = f"rdbs.{part[2]}.lff.{leaf}"
        else:
            name = f"rdbs.{part[2]}.layers.{part[4]}.conv.{leaf}"
        renamed[f"generator.{name}"] = value
    return renamed


@pytest.mark.parametrize("switches", [(True, True), (True, False), (False, True), (False, False)])
def test_mmagic_edsr_is_converted_with_its_normalisation(tmp_path: Path, switches: tuple[bool, bool]) -> None:
    encoder = {"name": "edsr-baseline", "args": {"n_resblocks": 3, "n_feats": 8, "no_upsampling": True}}
    model = models.LIIF(encoder, IMNET, feat_unfold=switches[0], cell_decode=switches[1])
    names = mmagic_names(model.state_dict(), edsr=True)
    assert "generator.body.2.conv2.bias" in names
    assert "generator.conv_after_body.weight" in names
    torch.save({"meta": {"epoch": 3}, "state_dict": {**names, "step_counter": torch.tensor(7)}}, tmp_path / "m.pth")
    loaded = load(tmp_path / "m.pth")
    assert torch.equal(answer(loaded), answer(model))
    mean = [0.4488, 0.4371, 0.4040]
    assert loaded.data_norm == {"inp": {"sub": mean, "div": [1.0]}, "gt": {"sub": mean, "div": [1.0]}}
    save(loaded, tmp_path / "m.safetensors")
    assert load(tmp_path / "m.safetensors").data_norm == loaded.data_norm


def test_mmagic_rdn_is_converted_with_its_normalisation(tmp_path: Path) -> None:
    encoder = {"name": "rdn", "args": {"G0": 4, "RDNconfig": "A", "no_upsampling": True}}
    model = models.LIIF(encoder, IMNET)
    names = mmagic_names(model.state_dict(), edsr=False)
    assert {"generator.sfe2.bias", "generator.rdbs.19.layers.5.conv.weight", "generator.rdbs.0.lff.bias"} < set(names)
    torch.save({"state_dict": names}, tmp_path / "m.pth")
    loaded = load(tmp_path / "m.pth")
    assert torch.equal(answer(loaded), answer(model))
    assert loaded.data_norm["inp"] == {"sub": [0.5], "div": [0.5]}


def test_mmagic_of_another_form_is_refused(tmp_path: Path) -> None:
    encoder = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8, "no_upsampling": True}}
    names = mmagic_names(models.LIIF(encoder, IMNET).state_dict(), edsr=True)
    file = tmp_path / "m.pth"
    torch.save({"state_dict": {**names, "generator.upsample.0.weight": torch.zeros(1)}}, file)
    assert "generator.upsample.0.weight, which no EDSR or RDN" in refused(file)
    torch.save({"state_dict": {**names, "generator.imnet.layers.0.weight": torch.zeros(16, 99)}}, file)
    assert "8 or 72 feature columns and 2 or 4 more, got 99" in refused(file)
    del names["generator.body.0.conv1.weight"]
    torch.save({"state_dict": names}, file)
    assert "1 (encoder.body.0.body.0.weight) missing" in refused(file)
    rdn = {"generator.sfe1.weight": torch.zeros(4, 3, 3, 3), "generator.rdbs.4.lff.bias": torch.zeros(4)}
    torch.save({"state_dict": rdn}, file)
    assert "out of [(20, 6, 32), (16, 8, 64)], got (5, 0, 0)" in refused(file)


# ---- what cannot be read ----


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [None, 0, 2, 4])
def test_hostile_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int | None) -> None:
    file, trap = tmp_path / "hostile.pth", tmp_path / "trap"
    whole = {"model": {**content()["model"], "args": Hostile(trap)}}
    if protocol is None:
        torch.save(whole, file)
    else:
        file.write_bytes(pickle.dumps({"model": Hostile(trap)}, protocol=protocol))
    message = refused(file)
    assert not trap.exists()
    assert "weights_only" not in message
    assert "trusted" not in message
    if protocol is None:
        assert message.startswith("refused, and nothing in it was run: ")
        assert "posix.mkdir" in message
    elif protocol != 0:
        assert message.startswith("refused, and nothing in it was run: ")
    # The trap works: only the loader keeps it shut.
    pickle.loads(pickle.dumps(Hostile(trap)))
    assert trap.is_dir()


def test_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    assert "got torch.nn.modules.linear.Linear" in refused(tmp_path / "module.pth")


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    assert refused(file) == "expected a checkpoint, got no such file; check the path"
    file.touch()
    assert refused(file) == "expected a LIIF checkpoint (.pth or .safetensors), got an empty file"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert "got something else" in refused(file)
    assert "cannot be read: Is a directory" in refused(tmp_path)
    torch.save({"epoch": 3, "weights": torch.zeros(2)}, file)
    assert "got ['epoch', 'weights']" in refused(file)
    torch.save([1, 2], file)
    assert "got list" in refused(file)
    safetensors.torch.save_file({"a": torch.zeros(2)}, file, {"format": "pt"})
    assert "metadata 'model'" in refused(file)
    assert "got ['format']" in refused(file)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated_files(tmp_path: Path, suffix: str, part: float) -> None:
    file = tmp_path / f"model{suffix}"
    save(load(TINY), file)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * part)])
    assert "damaged" in refused(file)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"

    def written(**changes: Any) -> Path:
        whole = content()
        whole["model"] = {**whole["model"], **changes}
        torch.save(whole, file)
        return file

    sd, args = content()["model"]["sd"], content()["model"]["args"]
    less = {key: value for key, value in sd.items() if key != "imnet.layers.2.bias"}
    assert "got 1 (imnet.layers.2.bias) missing and none too many" in refused(written(sd=less))
    more = {**sd, "imnet.layers.9.bias": torch.zeros(1)}
    assert "got none missing and 1 (imnet.layers.9.bias) too many" in refused(written(sd=more))
    other = {**sd, "encoder.head.0.weight": torch.zeros(8, 4, 3, 3)}
    assert "encoder.head.0.weight of shape [8, 3, 3, 3] from its args, got [8, 4, 3, 3]" in refused(written(sd=other))
    assert "expected a state_dict of tensors" in refused(written(sd={"a": 1}))
    assert "got 'cutblur'" in refused(written(name="cutblur"))
    assert "cannot be built" in refused(written(args={**args, "depth": 3}))
    assert "cannot be built" in refused(written(args=7))
    # Sizes that no memory could hold are compared with the weights before anything is made.
    huge = {"name": "edsr-baseline", "args": {"n_resblocks": 2, "n_feats": 10**7, "no_upsampling": True}}
    assert "from its args, got" in refused(written(args={**args, "encoder_spec": huge}))


def test_bad_normalisation(tmp_path: Path) -> None:
    torch.save({**content(), "data_norm": {"inp": {"sub": ["x"]}}}, tmp_path / "model.pth")
    assert "expected data_norm {'inp'" in refused(tmp_path / "model.pth")


def test_missing_device_is_named() -> None:
    with pytest.raises(UsageError, match="expected a device that is present, got 'abacus'"):
        load(TINY, device="abacus")


def test_missing_default_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "DEFAULT_MODEL", tmp_path / "none.safetensors")
    for path in (None, "default"):
        with pytest.raises(CheckpointError, match=r"none\.safetensors is not part of this installation"):
            load(path)
    save(load(TINY), tmp_path / "none.safetensors")
    assert torch.equal(answer(load()), answer(load(TINY)))


# ---- what cannot be written ----


def test_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(TINY)
    file = tmp_path / "model.pth"
    save(model, file)
    before = file.read_bytes()

    def interrupted(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(model, file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_save_says_what_is_wrong(tmp_path: Path, suffix: str) -> None:
    model = load(TINY)
    with pytest.raises(CheckpointError, match=r"ends in \.pth or \.safetensors, got '\.onnx'"):
        save(model, tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match="cannot be written") as caught:
        save(model, tmp_path / "nowhere" / f"model{suffix}")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="got a Linear without a spec"):
        save(nn.Linear(2, 2), tmp_path / f"model{suffix}")
    with torch.no_grad():
        model.imnet.layers[0].bias[0] = 1e6
    with pytest.raises(CheckpointError, match=r"imnet.layers.0.bias holds values beyond the range of torch.float16"):
        save(model, tmp_path / f"model{suffix}", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []
