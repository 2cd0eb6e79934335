"""Samples × policy → `Plans`, open loop: nothing is driven."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from senna2.rollouts import checked_plan
from senna2.types import (
    PLAN_DT,
    PLAN_STEPS,
    ClipMeta,
    Decision,
    Direction,
    EgoState,
    InputError,
    Observation,
    Plans,
    Rig,
    Samples,
    StateObservation,
    VehicleShape,
)


def plan_samples(
    policy: Any,
    samples: Samples,
    *,
    decision: Decision | None = None,
    seed: int = 0,
    batch: int = 64,
    shapes: Mapping[str, VehicleShape] | None = None,
) -> Plans:
    """Plans of a policy for samples, open loop; `decision` forces the planner's. `shapes`: the ego's body by clip name.

    Uses `policy.plan_batch(samples, decision, seed)` where there is one, else `act` on one sample after the other,
    each after a `reset` without an expert; its plan may have another step, as in `drive`. Raises `InputError` if a
    decision is forced on a policy that takes none, and for a plan that is not finite or shorter than 3 s.
    """
    if len(samples) == 0:
        raise InputError("plan_samples: there is no sample")
    if hasattr(policy, "plan_batch"):
        parts = [
            policy.plan_batch(samples.take(slice(i, i + batch)), decision, seed) for i in range(0, len(samples), batch)
        ]
        return _concatenate(parts).validate()
    if decision is not None:
        raise InputError("plan_samples: this policy cannot be given a decision (it has no plan_batch)")
    plans = []
    for i in range(len(samples)):
        observation = observation_of(samples, i)
        start = EgoState(0.0, 0.0, 0.0, observation.v)
        blank = np.zeros((0, 3))
        shape = (shapes or {}).get(samples.clips[samples.clip_N[i]], VehicleShape())
        policy.reset(ClipMeta(PLAN_DT, _rig_of(samples), shape, 0.0, blank[:, 0], blank, start), seed)
        plan = checked_plan(policy.act(observation), observation.v, f"plan_samples: sample {i}")
        plans.append(dataclasses.replace(plan, trajectory=plan.trajectory.first(PLAN_STEPS)))
    return Plans.stack(plans).validate()


def observation_of(samples: Samples, i: int) -> Observation:
    """One row of samples as a live observation."""
    state = StateObservation(
        samples.boxes_NA6[i], samples.classes_NA[i], samples.lanes_NLP2[i], samples.lane_kinds_NL[i],
        samples.route_NR2[i],
    )  # fmt: skip
    return Observation(
        0.0, samples.motion_N4[i], Direction(int(samples.navigation_N[i])), float(samples.speed_limit_N[i]),
        samples.instruction_N[i], {name: image[i] for name, image in samples.images.items()}, state,
    )  # fmt: skip


def _rig_of(samples: Samples) -> Rig:
    """The rig whose cameras the samples hold: the default one, cut to them."""
    kept = tuple(c for c in Rig.default().cameras if c.name in samples.images)
    return Rig(kept) if kept else Rig.default()


def _concatenate(parts: Sequence[Plans]) -> Plans:
    names = [f.name for f in dataclasses.fields(Plans)]
    return Plans(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})
