"""Training of `rad2` on its own drives (RAD-2, arXiv 2604.15308): the discriminator by group-relative policy
optimisation, now and then the generator towards plans with another timing.

A round drives each clip several times from the same start, candidates drawn by their scores and held for 0.8 s, so that
a choice can be told by its end. Returns (`returns.drive_return`) are compared within the clip; PPO's clipped ratio on
the choices, with a constant entropy bonus (the original adapts it); clips whose drives all went about alike teach
nothing, as in the original. Every few rounds the generator learns the plans that were driven, braked where the
time to collision was short and hastened where it was too slow (the original's on-policy generator optimisation).
A round learns from its own drives alone; the original keeps those of the last eight batches.

Encoder and perception heads are frozen, so their tokens are computed once a round.

Legend: N choices of a round, B samples, M candidates, T plan steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from senna2.model.batch import Batch
from senna2.model.planners.rad2 import Rad2
from senna2.model.policy import DualSystem
from senna2.model.scene import SceneTokens
from senna2.train.diagnostics import driving, retimed
from senna2.train.distributed import Ranks
from senna2.train.frames import flags
from senna2.train.loop import Optim, TrainingError, train
from senna2.train.ppo import among_group, clipped
from senna2.train.returns import drive_return
from senna2.train.rounds import CHUNK, begin_rounds, choices_in, encoded, end_round, noise_of, sampling, seen, undecided
from senna2.train.sampling import draw_indices
from senna2.train.stage1 import PolicyStage, freeze_except
from senna2.types import PLAN_DT, Array, InputError, Rollout, Samples, require

Groups = Sequence[Sequence[Rollout]]  # of each clip its drives
Collect = Callable[[DualSystem, int], Groups]
SAME_M = 0.01  # a plan is the candidate that is nearer than this: batches round their sums otherwise


@dataclass(frozen=True)
class Rerank:
    """`optim`: of the discriminator, each round; `generator`: of the generator, every `generator_every`-th round."""

    optim: Optim
    generator: Optim
    rounds: int = 30
    clips: int = 12
    group: int = 4  # drives a clip
    hold: int = 8  # frames that a choice is held
    clip: float = 0.2
    entropy: float = 0.01
    generator_every: int = 8
    ttc_s: float = 3.0
    brake: float = 1.5  # m/s² of the generator's targets where it was risky [ours: the ratios are not published]
    go: float = 1.0  # m/s² where it was slow [ours]
    slow_share: float = 0.8
    behind_m: float = 2.0
    least_spread: float = 0.05  # of a clip's returns: where all went about alike there is nothing to learn [value ours]


@dataclass(frozen=True, eq=False)
class Choices:
    """The choices of a round. target_NT2: what the generator is to learn there."""

    samples: Samples
    scene: SceneTokens
    plans_NMT2: torch.Tensor
    chosen_N: torch.Tensor
    old_logp_N: torch.Tensor
    advantage_N: torch.Tensor
    target_NT2: torch.Tensor

    def __len__(self) -> int:
        return len(self.samples)


def run_rad2(
    policy: DualSystem, collect: Collect, config: Rerank, out: Path, *, seed: int, ranks: Ranks, resume: bool,
    **more: Any,
) -> list[dict[str, float]]:  # fmt: skip
    """Rounds of grouped drives. `collect(policy, round)` drives and records every choice; `out/log.jsonl` has one row
    a round: how the drives went, how far the returns of a clip differ, how the scores moved."""
    rad2_of(policy)
    require(config.group > 1, "stage rad2: rerank.group", "must be at least 2: drives of a clip are compared")
    log: list[dict[str, float]] = []
    for number in range(begin_rounds(policy, out, resume=resume), config.rounds):
        with sampling(policy):
            groups = collect(policy, number)
        choices, told = choices_of(policy, groups, config)
        row = {"round": float(number), **told}
        if bool((choices.advantage_N != 0).any()):
            stage = Discriminate(policy, choices, config, seed + number)
            row |= _last(train(stage, config.optim, out / "discriminator", ranks=ranks, **more))
        if config.generator_every and number % config.generator_every == config.generator_every - 1:
            row |= _last(train(Generate(policy, choices, seed + number), config.generator, out / "generator",
                               ranks=ranks, **more))  # fmt: skip
        log.append(row)
        end_round(policy, out, row)
    return log


def _last(rows: list[dict[str, float]]) -> dict[str, float]:
    return {k: v for k, v in rows[-1].items() if k in ("entropy", "policy", "generator")}


def rad2_of(policy: DualSystem) -> Rad2:
    """The policy's planner; `InputError` if this stage cannot train it."""
    if not isinstance(policy.planner, Rad2):
        raise InputError(f"stage rad2: is for planner 'rad2', not for '{policy.config.planner}'")
    undecided(policy, "rad2")
    return policy.planner


def choices_of(policy: DualSystem, groups: Groups, config: Rerank) -> tuple[Choices, dict[str, float]]:
    """The choices before anything was touched, with the candidates they were made among, and how the drives went."""
    returns = [np.array([drive_return(r, config.ttc_s) for r in group]) for group in groups]
    parts: list[tuple[Rollout, Array, float, Array, Array]] = []
    for group, of_group in zip(groups, returns, strict=True):
        for rollout, advantage in zip(group, among_group(of_group, config.least_spread), strict=True):
            _, risky, slow = flags(rollout, config.ttc_s, config.slow_share, config.behind_m)
            frames = choices_in(rollout)
            if len(frames):
                parts.append((rollout, frames, float(advantage), risky[frames], slow[frames]))
    if not parts:
        raise TrainingError("stage rad2: no drive holds a choice")
    samples = Samples.concatenate([seen(r, frames) for r, frames, *_ in parts])
    noise = torch.cat([noise_of(policy, r, len(frames)) for r, frames, *_ in parts])
    driven = torch.as_tensor(np.concatenate([r.plans_FT2[frames] for r, frames, *_ in parts]), dtype=torch.float32,
                             device=policy.device)  # fmt: skip
    scene = encoded(policy, samples)
    samples = replace(samples, images={})
    plans, scores = _candidates(policy, scene, samples, noise)
    away = (plans - driven[:, None]).abs().amax((2, 3))
    chosen = away.argmin(1)
    worst = float(away.amin(1).max())
    if worst > SAME_M:
        raise TrainingError(f"stage rad2: a driven plan is {worst:.3f} m from every candidate: another policy's")
    logp = scores.log_softmax(1).gather(1, chosen[:, None])[:, 0]
    advantage_N = np.concatenate([np.full(len(frames), a) for _, frames, a, *_ in parts])
    m_s, m_e = (torch.as_tensor(np.concatenate([p[k] for p in parts]), device=policy.device) for k in (3, 4))
    target = torch.where(m_s[:, None, None], retimed(driven, -config.brake, PLAN_DT), driven)
    target = torch.where(m_e[:, None, None], retimed(driven, config.go, PLAN_DT), target)
    found = Choices(samples, scene, plans, chosen, logp,
                    torch.as_tensor(advantage_N, dtype=torch.float32, device=policy.device), target)  # fmt: skip
    told = driving([r for group in groups for r in group])
    alike = float(np.mean([np.ptp(r) < 1e-6 for r in returns]))
    return found, {**told, "return": float(np.mean(np.concatenate(returns))), "alike": alike}


@torch.no_grad()
def _candidates(
    policy: DualSystem, scene: SceneTokens, samples: Samples, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    planner, parts = rad2_of(policy), []
    for i in range(0, len(samples), CHUNK):
        at = torch.arange(i, min(i + CHUNK, len(samples)))
        batch, some = Batch.from_samples(samples.take(at.numpy()), policy.device), scene.take(at.to(policy.device))
        plans = planner.candidates(some, None, batch, noise=noise[at].to(policy.device))
        parts.append((plans, planner.scores(plans, some, None, batch)))
    return torch.cat([p for p, _ in parts]), torch.cat([s for _, s in parts])


class _ChoiceStage(PolicyStage):
    """Steps on the choices of a round; `pool_N` says on which."""

    def __init__(self, policy: DualSystem, choices: Choices, seed: int, pool_N: Array) -> None:
        super().__init__(policy, seed)
        self.planner, self.choices, self.pool_N = rad2_of(policy), choices, pool_N

    def draw(self, step: int, batch: int) -> Array:
        return self.pool_N[draw_indices(len(self.pool_N), batch, step, self.seed)]

    def load(self, index: Array) -> tuple[torch.Tensor, Samples]:
        return torch.as_tensor(index, device=self.device), self.choices.samples.take(index)


class Discriminate(_ChoiceStage):
    """TC-GRPO on the discriminator: −min(ρ Â, clip(ρ) Â) − λ H, on choices of clips whose drives differ."""

    name = "rad2-discriminator"

    def __init__(self, policy: DualSystem, choices: Choices, config: Rerank, seed: int) -> None:
        super().__init__(policy, choices, seed, np.flatnonzero(choices.advantage_N.cpu().numpy()))
        self.config = config
        freeze_except(policy, ("planner.discriminator.",))

    def loss(self, data: tuple[torch.Tensor, Samples], step: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        at, samples = data
        c, f = self.config, self.choices
        tensors = Batch.from_samples(samples, self.device)
        logp = self.planner.scores(f.plans_NMT2[at], f.scene.take(at), None, tensors).log_softmax(1)
        new = logp.gather(1, f.chosen_N[at, None])[:, 0]
        policy = clipped(new, f.old_logp_N[at], f.advantage_N[at], c.clip).sum() / batch
        entropy = -(logp.exp() * logp).sum(1).sum() / batch
        return policy - c.entropy * entropy, {"policy": float(policy.detach()), "entropy": float(entropy.detach())}


class Generate(_ChoiceStage):
    """The generator's own loss, towards the plans that were driven, re-timed where they were risky or slow."""

    name = "rad2-generator"

    def __init__(self, policy: DualSystem, choices: Choices, seed: int) -> None:
        super().__init__(policy, choices, seed, np.arange(len(choices)))
        freeze_except(policy, ("planner.",))
        self.planner.discriminator.requires_grad_(False)

    def loss(self, data: tuple[torch.Tensor, Samples], step: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        at, samples = data
        tensors = replace(Batch.from_samples(samples, self.device), future_BT2=self.choices.target_NT2[at],
                          index_B=at.cpu())  # fmt: skip
        scene = self.choices.scene.take(at)
        loss = self.policy.planning_loss(scene, None, tensors, seed=self.seed, step=step).sum() / batch
        return loss, {"generator": float(loss.detach())}
