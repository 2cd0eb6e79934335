"""Clips driven by checkpoints, several abreast, and what came of it on disk: rollouts and plans as plain npz."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from senna2.abreast import drive_abreast
from senna2.arrays import load_arrays, save_arrays
from senna2.registry import make_policy
from senna2.rollouts import PolicySpec, Record
from senna2.types import Array, Contact, InputError, Plans, Rollout, VehicleShape
from senna2.workers import run_jobs

GROUP = 16  # clips a job: two fillings of the lanes; fixed, so that the number of workers changes nothing
SCHEMA = "senna2.rollouts/1"
AGAIN = "delete it and run with --resume"
_COLUMNS = (
    "t_F", "ego_F6", "plans_FT2", "decision_F2", "vlm_decision_F2", "decision_age_F", "speed_limit_F", "ttc_F",
    "progress_F", "off_road_F", "straddle_F", "boxes_FA6", "agent_classes_A", "expert_E4",
)  # fmt: skip
_SINGLE = ("plans_FT2", "boxes_FA6", "decision_age_F", "speed_limit_F")  # kept in 32 bit: no judgement turns on them


def drive_clips(
    drivers: Mapping[str, PolicySpec], drives: Sequence[tuple[str, Path]], *, seed: int, workers: int, label: str,
    record: Record = "none", record_every: int = 1,
) -> list[Rollout]:  # fmt: skip
    """Drive pairs of (policy name, clip folder), each policy's clips `abreast`; rollouts come in the order of `drives`.

    `drivers` says how each policy is made, as in `rollouts.drive_several`. An error names its clip or policy.
    """
    groups = [
        (name, part)
        for name in dict.fromkeys(name for name, _ in drives)
        for part in _parts([clip for n, clip in drives if n == name])
    ]
    jobs = [(drivers[name], name, part, seed, record, record_every) for name, part in groups]
    if workers <= 0:
        made = [drive_group(*job) for job in jobs]
    else:
        made = run_jobs(drive_group, jobs, workers=workers, label=label, unit=f"{GROUP} clips")
    of = {(name, clip): r for (name, part), rs in zip(groups, made, strict=True)
          for clip, r in zip(part, rs, strict=True)}  # fmt: skip
    return [of[key] for key in drives]


def _parts(clips: Sequence[Path]) -> list[Sequence[Path]]:
    return [clips[i : i + GROUP] for i in range(0, len(clips), GROUP)]


def drive_group(
    spec: PolicySpec, name: str, clips: Sequence[Path], seed: int, record: Record = "none", record_every: int = 1,
    done: Callable[[], object] = lambda: None,
) -> list[Rollout]:  # fmt: skip
    """These clips by one policy, in this process."""
    policy = make_policy(spec) if isinstance(spec, str) else spec()
    try:
        return drive_abreast(policy, clips, policy_name=name, seed=seed, record=record, record_every=record_every,
                             done=done)  # fmt: skip
    except InputError as error:
        raise InputError(f"policy {name}: {error}") from error


# --- on disk ------------------------------------------------------------------------------------------


def save_rollouts(path: Path, rollouts: Sequence[Rollout]) -> None:
    """Without observations; written beside and renamed."""
    arrays: dict[str, Array] = {}
    rows = []
    for i, r in enumerate(rollouts):
        for column in _COLUMNS:
            value = getattr(r, column)
            if value is not None:
                arrays[f"{i}.{column}"] = value.astype(np.float32) if column in _SINGLE else value
        apart = (*_COLUMNS, "observations", "ego_shape", "contacts")
        row = {f.name: getattr(r, f.name) for f in dataclasses.fields(r) if f.name not in apart}
        row["ego_shape"] = dataclasses.asdict(r.ego_shape)
        row["contacts"] = [dataclasses.asdict(c) for c in r.contacts]
        rows.append(row)
    save_arrays(path, arrays, {"schema": SCHEMA, "rollouts": rows})


def load_rollouts(path: Path) -> list[Rollout]:
    """Raises `InputError` for a file that is not one of `save_rollouts`."""
    arrays, meta = load_arrays(path, SCHEMA, AGAIN)
    out = []
    for i, row in enumerate(meta["rollouts"]):
        columns: dict[str, Any] = {}
        for column in _COLUMNS:
            value = arrays.get(f"{i}.{column}")
            columns[column] = value.astype(np.float64) if value is not None and column in _SINGLE else value
        row = row | {
            "ego_shape": VehicleShape(**row["ego_shape"]), "agent_ids": tuple(row["agent_ids"]),
            "contacts": tuple(Contact(**c) for c in row["contacts"]),
        }  # fmt: skip
        out.append(Rollout(**row, **columns).validate())
    return out


PLANS_SCHEMA = "senna2.plans/1"


def save_plans(path: Path, plans: Mapping[str, Plans], **more: Any) -> None:
    """Several sets of plans by name ("own", a forced decision …); `more` goes into the file as JSON."""
    arrays = {f"{k}.{f.name}": getattr(p, f.name) for k, p in plans.items() for f in dataclasses.fields(p)}
    save_arrays(path, arrays, {"schema": PLANS_SCHEMA, "names": list(plans), **more})


def load_plans(path: Path) -> dict[str, Plans]:
    arrays, meta = load_arrays(path, PLANS_SCHEMA, AGAIN)
    fields = [f.name for f in dataclasses.fields(Plans)]
    return {n: Plans(**{f: arrays[f"{n}.{f}"] for f in fields}).validate() for n in meta["names"]}


def why_no_plans(path: Path) -> str:
    """Why the policy's own plans are not in the file."""
    return str(load_arrays(path, PLANS_SCHEMA, AGAIN)[1].get("why_none", ""))
