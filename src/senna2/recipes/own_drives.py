"""Trainers on a policy's own drives beside stage 3: which there are, and the clips that each of their rounds drives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from senna2.abreast import drive_abreast
from senna2.data.store import SampleStore
from senna2.model.policy import DualSystem
from senna2.recipes.config import Recipe
from senna2.train.gradient import PolicyGradient, run_gradient
from senna2.train.rad import Reinforce, run_rad
from senna2.train.rad2 import Rerank, run_rad2
from senna2.types import Array, InputError, Rollout
from senna2.world.clip import read_expert

# Stage, and the field of a recipe that says how.
DRIVEN = {"rad": "reinforce", "rad2": "rerank", "grpo": "gradient", "ppo": "gradient"}


def drives_a_round(how: Reinforce | Rerank | PolicyGradient) -> int:
    return how.clips if isinstance(how, Reinforce) else how.clips * how.group


def samples_of(how: Reinforce | Rerank | PolicyGradient) -> int:
    """Frames of drives and of demonstrations that all rounds show the planner, each as often as it is drawn."""
    each = how.optim.steps * how.optim.batch
    if isinstance(how, Reinforce):
        imitation = how.optim.steps // how.imitation_every if how.imitation_every else 0
        each += imitation * (how.imitation_batch - how.optim.batch)
    if not isinstance(how, Rerank) or not how.generator_every:
        return how.rounds * each
    return how.rounds * each + how.rounds // how.generator_every * how.generator.steps * how.generator.batch


def run_driven(
    stage: str, policy: DualSystem, recipe: Recipe, training: Path, clips: Sequence[Path], store: SampleStore | None,
    common: dict[str, Any],
) -> None:  # fmt: skip
    """A trainer on the policy's own drives of training clips, chosen anew each round."""
    if not clips:
        raise InputError(f"stage {stage}: needs clips to drive")

    def chosen(number: int, count: int) -> list[Path]:
        rng = np.random.default_rng([recipe.seed, number])
        return [clips[i] for i in rng.permutation(len(clips))[:count]]

    def roll(now: DualSystem, on: Sequence[Path], seed: int, every: int) -> list[Rollout]:
        now.eval()
        rollouts = drive_abreast(now, on, policy_name=stage, seed=seed, plan_every=every, record="images",
                                 record_every=every)  # fmt: skip
        now.train()
        return rollouts

    def alone(now: DualSystem, number: int, count: int, hold: int) -> list[tuple[Rollout, Array]]:
        on = chosen(number, count)
        rollouts = roll(now, on, recipe.seed + number, hold)
        return [(r, read_expert(clip).pose_E3) for r, clip in zip(rollouts, on, strict=True)]

    def grouped(now: DualSystem, number: int, how: Rerank | PolicyGradient) -> list[list[tuple[Rollout, Array]]]:
        on = chosen(number, how.clips)
        times = [roll(now, on, recipe.seed + 1000 * (number + 1) + k, how.hold) for k in range(how.group)]
        poses = [read_expert(clip).pose_E3 for clip in on]
        return [[(r, pose) for r in group] for group, pose in zip(zip(*times, strict=True), poses, strict=True)]

    r, r2, g = recipe.reinforce, recipe.rerank, recipe.gradient
    if stage == "rad":
        if store is None:
            raise InputError("stage rad: needs samples (--data DIR)")
        run_rad(policy, lambda now, k: alone(now, k, r.clips, 1), store, r, training, **common)
    elif stage == "rad2":
        run_rad2(policy, lambda now, k: [[x for x, _ in group] for group in grouped(now, k, r2)], r2, training,
                 **common)  # fmt: skip
    elif stage == "grpo":
        run_gradient(policy, lambda now, k: grouped(now, k, g), g, training, method="grpo", **common)
    else:
        run_gradient(policy, lambda now, k: [[x] for x in alone(now, k, g.clips * g.group, g.hold)], g, training,
                     method="ppo", **common)  # fmt: skip
