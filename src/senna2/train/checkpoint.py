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
from senna2.provenance import write_json
from senna2.types import InputError

Named = Mapping[str, torch.nn.Parameter]


def save_step(folder: Path, step: int, named: Named, optimiser: torch.optim.Optimizer, identity: str) -> None:
    """Write `folder/step-<n>` whole (beside, then rename), then drop older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{step:07d}"
    temporary = folder / f".step-{step:07d}.{os.getpid()}"
    try:
        temporary.mkdir()
        tensors = {f"weight/{n}": p.detach().cpu().contiguous() for n, p in named.items()}
        for n, p in named.items():
            for key, value in optimiser.state.get(p, {}).items():
                tensors[f"{key}/{n}"] = torch.as_tensor(value).detach().cpu().contiguous()
        save_file(tensors, temporary / "state.safetensors")
        write_json(temporary / "state.json", {"step": step, "identity": identity})
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except (OSError, SafetensorError) as error:
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
                # AdamW keeps its step counter on the CPU, the moments beside the weights
                optimiser.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in state.items()}
    return int(meta["step"])
