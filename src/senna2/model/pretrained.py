"""Checkpoint folder of a policy (docs/training.md): config.json, model.safetensors, normalisation.json,
provenance.json and, where there is one, the VLM in vlm/. Loading needs nothing else and never unpickles."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from senna2.files import replace_folder
from senna2.model.config import PolicyConfig, rig_from_json, rig_to_json
from senna2.types import InputError

if TYPE_CHECKING:
    from senna2.model.policy import DualSystem

SCHEMA = "senna2.policy/1"


def save(policy: DualSystem, folder: Path, provenance: Mapping[str, Any], *, half: bool = False) -> None:
    """Write the whole folder beside its place, then put it there: an interrupted save leaves the old one as it was.

    `half` stores 16-bit weights. Raises `InputError` for a policy whose planner is not fitted, or when `folder` holds
    something that is not a checkpoint.
    """
    fitted = policy.planner.fitted()
    if fitted is None:
        raise InputError(f"{folder}: the planner is not fitted; call fit_planner(training samples) before saving")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / "config.json").exists())):
        raise InputError(f"{folder}: exists and is no checkpoint folder; choose another place")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir()
        config = {
            "schema": SCHEMA,
            "policy": policy.config.to_json(),
            "hidden_size": policy.hidden_size,
            "has_vlm": policy.vlm is not None,
            "rig": rig_to_json(policy.rig),
        }
        weights = {n: p.detach().cpu().contiguous() for n, p in policy.policy_parameters()}
        if half:
            weights = {n: p.half() for n, p in weights.items()}
        save_file(weights, fresh / "model.safetensors")
        files = {"config": config, "normalisation": fitted, "provenance": dict(provenance)}
        for name, data in files.items():
            (fresh / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
        if policy.vlm is not None:
            policy.vlm.save_pretrained(fresh / "vlm")
        replace_folder(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def load(folder: Path) -> DualSystem:
    """The policy on the CPU in 32 bit, its VLM as it was saved. Raises `InputError` naming the file, what is wrong with
    it and the fix."""
    from senna2.model.policy import DualSystem

    if not folder.is_dir():
        raise InputError(f"{folder}: no such checkpoint folder")
    config = _json(folder / "config.json")
    if not isinstance(config, dict) or config.get("schema") != SCHEMA:
        raise InputError(f"{folder / 'config.json'}: schema is not '{SCHEMA}'; is this a senna2 checkpoint?")
    for name in ("policy", "hidden_size", "has_vlm", "rig"):
        if name not in config:
            raise InputError(f"{folder / 'config.json'}: field '{name}' is missing; save the checkpoint again")
    where = str(folder / "config.json")
    if not isinstance(config["hidden_size"], int):
        raise InputError(f"{where}: hidden_size is no whole number; save the checkpoint again")
    settings, rig = PolicyConfig.from_json(config["policy"], where), rig_from_json(config["rig"], where)
    path = folder / "normalisation.json"
    fitted = _json(path)
    vlm = None
    if config["has_vlm"]:
        if not (folder / "vlm").is_dir():
            raise InputError(f"{folder / 'vlm'}: missing; copy the whole checkpoint folder")
        from senna2.model.vlm.qwen import DrivingVLM

        vlm = DrivingVLM.from_pretrained(folder / "vlm")
    policy = DualSystem(settings, rig, vlm=vlm, hidden_size=int(config["hidden_size"]))
    policy.planner.restore(fitted, str(path))
    _fill(policy, folder / "model.safetensors")
    return policy


def check_device(device: str | torch.device) -> None:
    """`InputError` for a device that torch does not know or that is not there."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter: of a build without CUDA
        why = str(error).splitlines()[0].split(". ")[0].rstrip(".")  # torch's first sentence
        raise InputError(
            f"device {device}: cannot be used ({why}); 'cpu' always can, `senna2 doctor` names a GPU"
        ) from error


def _fill(policy: DualSystem, path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: missing; copy the whole checkpoint folder")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the file is corrupt or cut off, copy it again") from error
    own = dict(policy.policy_parameters())
    if set(own) != set(weights):
        odd = sorted(set(own) ^ set(weights))
        raise InputError(
            f"{path}: {len(odd)} tensors missing or unknown ({odd[0]} …); config.json is of another policy"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            value = weights[name]
            if value.shape != parameter.shape:
                raise InputError(
                    f"{path}: {name} has shape {tuple(value.shape)}, config.json says {tuple(parameter.shape)}"
                )
            if not torch.isfinite(value).all():
                raise InputError(f"{path}: {name} holds NaN or infinity; train again from an earlier checkpoint")
            parameter.copy_(value)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; copy the whole checkpoint folder") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the file is corrupt or cut off, copy it again") from error
