"""Training state on disk: weights that train, optimiser moments and the step; safetensors and JSON, never a pickle.

All randomness is keyed by (seed, step, sample), so nothing else is needed to go on as if nothing had happened.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from senna2.config import load_json
from senna2.files import replace_folder, write_json
from senna2.types import InputError

Named = Mapping[str, torch.nn.Parameter]


def save_step(folder: Path, step: int, named: Named, optimiser: torch.optim.Optimizer, identity: str) -> None:
    """Write `folder/step-<n>` whole (beside, then rename), then drop older ones."""
    target = folder / f"step-{step:07d}"
    temporary = folder / f".step-{step:07d}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".step-*"):  # of a process that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir()
        tensors = {f"weight/{n}": p.detach().cpu().contiguous() for n, p in named.items()}
        for n, p in named.items():
            for key, value in optimiser.state.get(p, {}).items():
                tensors[f"{key}/{n}"] = torch.as_tensor(value).detach().cpu().contiguous()
        save_file(tensors, temporary / "state.safetensors")
        write_json(temporary / "state.json", {"step": step, "identity": identity})
        replace_folder(temporary, target)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
        raise InputError(f"{target}: cannot be written ({error}); free disk space or choose another --out") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in folder.glob("step-*"):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)


def load_step(folder: Path, named: Named, optimiser: torch.optim.Optimizer | None, identity: str) -> int:
    """Restore the newest whole checkpoint in place; returns its step, or 0 if there is none.

    Raises `InputError` if it belongs to another configuration or is damaged.
    """
    found = sorted(folder.glob("step-*"))
    if not found:
        return 0
    newest = found[-1]
    meta = load_json(newest / "state.json")
    if not isinstance(meta, dict) or not {"step", "identity"} <= set(meta):
        raise InputError(f"{newest / 'state.json'}: lacks step or identity; delete {newest} and resume again")
    if meta["identity"] != identity:
        raise InputError(f"{newest}: was written by another configuration; drop --resume or choose another --out")
    try:
        tensors = load_file(newest / "state.safetensors")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{newest / 'state.safetensors'}: damaged ({error}); delete {newest} and resume again"
        ) from error
    wanted = {f"weight/{n}" for n in named}
    if wanted - set(tensors):
        raise InputError(f"{newest}: lacks weights {sorted(wanted - set(tensors))[:3]}; it is of another model")
    for n, p in named.items():
        found_shape, own_shape = tuple(tensors[f"weight/{n}"].shape), tuple(p.shape)
        if found_shape != own_shape:
            raise InputError(f"{newest}: {n} has shape {found_shape}, the model {own_shape}; it is of another model")
    with torch.no_grad():
        for n, p in named.items():
            p.copy_(tensors[f"weight/{n}"])
    if optimiser is not None:
        for n, p in named.items():
            state = {
                k.split("/", 1)[0]: v
                for k, v in tensors.items()
                if k.split("/", 1)[1] == n and not k.startswith("weight/")
            }
            if state:
                optimiser.state[p] = {k: v.to(p.device) for k, v in state.items()}  # a fused AdamW's step, too
    return int(meta["step"])
