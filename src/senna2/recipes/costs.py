"""What each system of the tables costs: parameters, time of a plan, samples and drives it learned from, minutes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from senna2.files import write_json
from senna2.model.policy import DualSystem
from senna2.recipes.arms import ARMS, arm_recipe, stage_config
from senna2.recipes.own_drives import DRIVEN, drives_a_round, samples_of
from senna2.recipes.results import Study
from senna2.recipes.stages import new_policy
from senna2.types import Rig, Samples

BATCH, REPEATS, FITTED_ON = 64, 3, 8192


def system(study: Study, name: str, seed: int = 0) -> DualSystem:
    """The policy of a row as it is before training: weights do not change what it costs."""
    policy = new_policy(arm_recipe(study, seed, name), adapter=ARMS[name].adapter)
    if not any(ARMS[step].vlm for step in behind(name)):
        policy.vlm = None
    policy.fit_planner(Samples.fake(FITTED_ON, Rig.fake()))
    return policy.eval()


def behind(name: str) -> list[str]:
    """Every arm that a row rests on and its own, each once."""
    arm = ARMS[name]
    return list(dict.fromkeys([*(one for start in (arm.start, arm.vlm) if start for one in behind(start)), name]))


def learned_from(study: Study, name: str) -> dict[str, int]:
    """Samples that the planner and the VLM were shown, and clips that were driven to train."""
    shown = {"planner_samples": 0, "vlm_samples": 0, "drives": 0}
    for step in behind(name):
        recipe, stage = arm_recipe(study, 0, step), ARMS[step].stage
        if stage in DRIVEN:
            config = stage_config(recipe, stage)
            shown["planner_samples"] += samples_of(config)
            shown["drives"] += config.rounds * drives_a_round(config)
        elif stage == "3":
            three = recipe.stage3
            each = 2 if three.effective().imitation else 1  # a demonstration beside every frame
            shown["planner_samples"] += each * three.rounds * three.low.steps * three.low.batch
            shown["vlm_samples"] += three.rounds * three.high.steps * three.high.batch
            shown["drives"] += three.rounds * recipe.clips.rollout
        else:
            optim = stage_config(recipe, stage).optim
            shown["planner_samples"] += optim.steps * optim.batch if stage != "1a" else 0
            shown["vlm_samples"] += optim.steps * optim.batch if stage in ("1a", "2") else 0
    return shown


def measure_costs(study: Study, names: Sequence[str], out: Path) -> None:
    """One JSON object by row: parameters, plan_ms (CPU time of one thread, in batches of 64, the VLM asked anew), and
    `learned_from`. The systems take turns, so that a busy machine is busy for all."""
    torch.set_num_threads(1)
    samples = Samples.fake(BATCH, Rig.default())
    policies = {name: system(study, name) for name in names}
    least = dict.fromkeys(names, np.inf)
    for _ in range(REPEATS + 1):
        for name, policy in policies.items():
            start = time.thread_time()
            policy.plan_batch(samples)
            least[name] = min(least[name], time.thread_time() - start)
    found = {}
    for name, policy in policies.items():
        size = sum(p.numel() for p in policy.parameters())
        found[name] = {"parameters": size, "plan_ms": round(1e3 * least[name] / BATCH, 2), **learned_from(study, name)}
    write_json(out, found)


def with_minutes(
    costs: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, float], spent: Mapping[str, Mapping[str, float]],
    seeds: Sequence[int],
) -> dict[str, Any]:  # fmt: skip
    """Costs with `minutes` of one core of all trainings behind a row, each once, of every seed whose are all known.

    `seconds`: of the queue's jobs, by name; `spent`: the same by row ("rows/<seed>/<name>"), which come first: a job
    that was done again on another machine took another time there."""
    out = {}
    for name, cost in costs.items():
        minutes = []
        for seed in seeds:
            own = {**seconds, **spent.get(f"rows/{seed}/{name}", {})}
            jobs = [f"train/{seed}/{arm}" for arm in behind(name)]
            if all(job in own for job in jobs):
                minutes.append(round(sum(own[job] for job in jobs) / 60, 1))
        out[name] = {**cost, "minutes": minutes}
    return out
