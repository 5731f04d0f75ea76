"""Models on disk: the published `.pth`, mmagic's `.pth`, and safetensors. Nothing in a file is ever executed."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from liif_fast.errors import CheckpointError, LiifError, UsageError
from liif_fast.files import replacing
from liif_fast.models import make, mmagic, spec_of, state_dicts

DEFAULT_MODEL = Path(__file__).parent / "weights" / "edsr-baseline-liif.safetensors"

PICKLED = (".pth", ".pt")
SAFE = ".safetensors"
# Published encoders hold these constants but never use them; files without them, or with them where the encoder has
# none, mean the same model.
_UNUSED = re.compile(r"(.*\.)?(sub|add)_mean\.(weight|bias)")
# SwinIR's masks and indices follow from its sizes; files hold those of the pictures in training.
_CONSTANT = re.compile(r"(.*\.)?(attn_mask|relative_position_index)")

PathLike = str | os.PathLike[str]


def load(
    path: PathLike | None = None,
    device: torch.device | str = "cpu",
    *,
    config: Mapping[str, Any] | PathLike | None = None,
) -> nn.Module:
    """Read a model.

    Args:
        path: a published `.pth` (``{"model": {"name", "args", "sd"}, ...}``), an mmagic or mmediting `.pth` of LIIF
            with EDSR or RDN, or a `.safetensors` written by `save`. None or "default" is the model that comes with
            the package. The format is told by the content, not by the name.
        device: where the model is put.
        config: what the weights belong to, for a file that holds nothing else: a model spec ``{"name", "args"}``, a
            training configuration with one as ``model``, or the YAML file of either. A file that says so itself needs
            none. Prefixes of DataParallel and torch.compile are taken off, and means over the training (EMA) preferred.

    Returns:
        The model in eval mode, parameters float32 whatever the file stores, with the normalisation it was trained
        with as `data_norm` (a published file does not state it: 0.5 and 0.5, as in the published configurations).

    Raises:
        CheckpointError: no such file, not a model, unfit keys or shapes, or anything but tensors and plain values.
        UsageError: a device that is not there.
    """
    file = DEFAULT_MODEL if path is None or path == "default" else Path(path)
    if file == DEFAULT_MODEL and not file.is_file():
        raise CheckpointError(
            f"the default model {file.name} is not part of this installation: reinstall the package, or give a path"
        )
    try:
        spec, data_norm = _read(file, config)
        model = _build(spec)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    if data_norm is not None:
        model.data_norm = data_norm  # type: ignore[assignment]
    try:
        return model.eval().to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"expected a device that is present, got {device!r}: {_line(error)}") from error


def save(model: nn.Module, path: PathLike, dtype: torch.dtype | None = None) -> None:
    """Write a model, whole or not at all: `.safetensors`, or `.pth` in the published form.

    Args:
        model: built by `models.make`, `LIIF(...)` from specs, or `load`.
        path: its suffix chooses the format.
        dtype: of the floating tensors in the file (torch.float16 halves it); None keeps the model's.

    Raises:
        UsageError: the model was not built from a spec, so that the file could not say what it is.
        CheckpointError: another suffix, a folder that cannot be written, or weights beyond the range of `dtype`.
    """
    file = Path(path)
    if file.suffix not in (*PICKLED, SAFE):
        raise CheckpointError(f"{file}: expected a name that ends in .pth or {SAFE}, got {file.suffix!r}")
    spec = spec_of(model)
    sd = {key: _converted(key, value, dtype) for key, value in model.state_dict().items()}
    data_norm = getattr(model, "data_norm", None)
    try:
        with replacing(file) as temporary:
            if file.suffix == SAFE:
                metadata = {"format": "pt", "model": json.dumps(spec), "data_norm": json.dumps(data_norm)}
                # Not save_file, which keeps the file from everybody but its owner.
                temporary.write_bytes(safetensors.torch.save(sd, metadata))
            else:
                torch.save({"model": {**spec, "sd": sd}, "data_norm": data_norm}, temporary)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be written: {_line(error)}") from error


def read_pickled(file: Path) -> Any:
    """What a `.pth` holds, on the CPU: tensors, numbers, text and containers of them only, or CheckpointError."""
    try:
        with warnings.catch_warnings():
            # Pickle protocols other than torch's own are either understood or refused below.
            warnings.simplefilter("ignore", UserWarning)
            with torch.serialization.safe_globals(_plain_values()):
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Not torch's own words: they advise to run the file.
        named = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        what = named[1] if named else "other pickled objects"
        raise CheckpointError(
            f"refused, and nothing in it was run: expected only tensors and plain values, got {what}; if that is the "
            "whole model, save its state_dict() where its code is, and give load(path, config=...)"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OSError) as error:
        raise CheckpointError(f"expected a PyTorch checkpoint, got a damaged file ({_line(error)})") from error


def _plain_values() -> list[Any]:
    """What else than tensors checkpoints hold, and only holds values: NumPy's numbers, the arguments of a script."""
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "u1", "?")}
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds, argparse.Namespace]


def _read(
    file: Path, config: Mapping[str, Any] | PathLike | None = None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The spec with its weights under "sd", and the normalisation if the file or the configuration states one."""
    try:
        with open(file, "rb") as stream:
            start = stream.read(9)
    except FileNotFoundError:
        raise CheckpointError("expected a checkpoint, got no such file; check the path") from None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}") from error
    # Safetensors first: its first bytes are a length, which may look like the start of a pickle.
    if start[8:] == b"{":
        return _from_safetensors(file, config)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return _from_pickled(read_pickled(file), config)
    got = "an empty file" if not start else "something else"
    raise CheckpointError(f"expected a LIIF checkpoint (.pth or {SAFE}), got {got}")


def _from_pickled(
    content: Any, config: Mapping[str, Any] | PathLike | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    if isinstance(content, Mapping):
        model = content.get("model")
        if isinstance(model, Mapping) and {"name", "args", "sd"} <= model.keys():
            return dict(model), _normalisation(content.get("data_norm"))
        weights = content.get("state_dict", content)
        if isinstance(weights, Mapping) and mmagic.is_mmagic(weights):
            return mmagic.convert(weights)
    found = state_dicts.find(content)
    if found is not None:
        return _described(*found, config)
    got = sorted(map(str, content))[:4] if isinstance(content, Mapping) else type(content).__name__
    raise CheckpointError(
        "expected {'model': {'name', 'args', 'sd'}} as the published code writes, or the state_dict of mmagic's LIIF, "
        f"got {got}"
    )


def _described(
    place: str, weights: Mapping[str, Tensor], config: Mapping[str, Any] | PathLike | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Weights without a description, with the one that is given beside them."""
    if config is None:
        where = f" under {place!r}" if place else ""
        raise CheckpointError(
            f"expected a description of the model beside its weights, got {len(weights)} tensors alone{where} "
            f"({', '.join(list(weights)[:2])}, ...); give it: load(path, config=...), the training's YAML file or "
            "{'name': ..., 'args': ...}"
        )
    given = _configuration(config)
    spec = given.get("model", given)
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise CheckpointError(
            f"config: expected a model {{'name', 'args'}}, alone or as 'model', got {sorted(given)[:6]}"
        )
    return {"name": spec["name"], "args": spec.get("args") or {}, "sd": weights}, _normalisation(given.get("data_norm"))


def _configuration(config: Mapping[str, Any] | PathLike) -> Mapping[str, Any]:
    if isinstance(config, Mapping):
        return config
    try:
        import yaml

        given = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    except ImportError:
        raise CheckpointError(
            "config: reading YAML needs PyYAML: pip install 'liif_fast[train]', or give a dict"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"config: expected a YAML file, {config}: {_line(error)}") from error
    if not isinstance(given, Mapping):
        raise CheckpointError(f"config: expected a YAML file of keys, got {type(given).__name__} in {config}")
    return given


def _from_safetensors(
    file: Path, config: Mapping[str, Any] | PathLike | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    try:
        with safetensors.safe_open(file, framework="pt") as stream:
            metadata = stream.metadata() or {}
            sd = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 (not a mapping)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"expected a safetensors file, got a damaged one ({_line(error)})") from error
    if config is not None and "model" not in metadata:
        return _described("", state_dicts.without_prefixes(sd), config)
    try:
        spec = json.loads(metadata["model"])
        data_norm = json.loads(metadata.get("data_norm", "null"))
        model = {"name": spec["name"], "args": spec["args"], "sd": sd}
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"expected the metadata 'model' (name and args as JSON) beside the weights, got {sorted(metadata)}; "
            "write the file with liif_fast.save, or give load(path, config=...)"
        ) from None
    return model, _normalisation(data_norm)


def _normalisation(data_norm: Any) -> dict[str, dict[str, list[float]]] | None:
    """`data_norm` as plain lists of numbers, None where the file states none."""
    if data_norm is None:
        return None
    try:
        return {
            side: {key: [float(x) for x in data_norm[side][key]] for key in ("sub", "div")} for side in ("inp", "gt")
        }
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"expected data_norm {{'inp': {{'sub': [...], 'div': [...]}}, 'gt': ...}}, got {str(data_norm)[:80]}"
        ) from None


def _build(spec: Mapping[str, Any]) -> nn.Module:
    """The model of a spec with the weights under "sd"."""
    sd = {key: value.float() if value.is_floating_point() else value for key, value in _tensors(spec["sd"]).items()}
    try:
        # First without memory: sizes that do not fit the weights cost nothing, however absurd.
        with torch.device("meta"):
            expected = make(spec).state_dict()
        sd = _fitted(sd, expected)
        # The weights are about to be replaced: the caller's random numbers are none of their business.
        with torch.random.fork_rng(devices=[]):
            model = make(spec)
    except CheckpointError:
        raise
    except (LiifError, RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"its model description cannot be built: {_line(error)}") from error
    model.load_state_dict(sd, strict=False)
    return model


def _tensors(sd: Any) -> dict[str, Tensor]:
    if not isinstance(sd, Mapping) or not all(isinstance(value, Tensor) for value in sd.values()):
        raise CheckpointError("expected a state_dict of tensors under 'sd', got something else")
    return state_dicts.without_prefixes(sd)


def _fitted(sd: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`sd` without the unused constants the model does not have; CheckpointError unless it fits otherwise."""
    sd = {key: value for key, value in sd.items() if key in expected or not _UNUSED.fullmatch(key)}
    sd = {key: value for key, value in sd.items() if not _CONSTANT.fullmatch(key)}
    missing = [key for key in expected if key not in sd and not (_UNUSED.fullmatch(key) or _CONSTANT.fullmatch(key))]
    unknown = [key for key in sd if key not in expected]
    if missing or unknown:
        raise CheckpointError(
            f"expected the {len(expected)} keys of the model it describes, got {_some(missing)} missing and "
            f"{_some(unknown)} too many: its args and weights belong to different models"
        )
    for key, value in sd.items():
        if value.shape != expected[key].shape:
            raise CheckpointError(
                f"expected {key} of shape {list(expected[key].shape)} from its args, got {list(value.shape)}: "
                "its args and weights belong to different models"
            )
    return sd


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    return f"{len(keys)} ({shown})" if keys else "none"


def _converted(key: str, value: Tensor, dtype: torch.dtype | None) -> Tensor:
    value = value.detach().cpu()
    if dtype is not None and value.is_floating_point():
        converted = value.to(dtype)
        if value.isfinite().all() and not converted.isfinite().all():
            raise CheckpointError(f"{key} holds values beyond the range of {dtype}: save it as torch.float32")
        value = converted
    return value.contiguous()


def _line(error: BaseException) -> str:
    """The first sentence of what a library says, so that a message stays one line."""
    lines = str(error).strip().splitlines()
    return lines[0].partition(". ")[0] if lines else type(error).__name__
