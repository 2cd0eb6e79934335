"""Reinforcement of `rad` on its own drives (RAD, arXiv 2502.13144, sections 3.4 and 3.5): rounds of sampled drives,
each followed by PPO on what happened, four steps to one of imitation.

    r = −1 into a dynamic or static collision, a deviation of 2 m, one of 40°     Â by GAE, γ = .9, λ = .95
    L = L_PPO,x(Â_dynamic) + L_PPO,y(Â_static + Â_position + Â_heading) + ½ (V − R)² + directional auxiliaries

Auxiliaries raise the probability of cells that would have been better and lower that of worse ones, by |Â| of the event
where it is negative: slower if what was hit is ahead, faster if it is behind; back towards the expert across.

Encoder and perception heads are frozen (the original trains its image encoder on), so their tokens are computed once a
round. x is along, y across.

Legend: N live frames of a round, B samples, E events, S scene tokens, C width, G bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from senna2.model.batch import Batch
from senna2.model.planners.rad import Beliefs, Rad
from senna2.model.planners.rad_anchors import action_of
from senna2.model.policy import DualSystem
from senna2.model.scene import SceneTokens
from senna2.train.distributed import Ranks
from senna2.train.events import EVENTS, Episode, ends, episode
from senna2.train.loop import Optim, TrainingError, train
from senna2.train.ppo import advantages, clipped, inside, value_loss
from senna2.train.rounds import begin_rounds, encoded, end_round, sampling, seen, undecided
from senna2.train.sampling import draw_indices
from senna2.train.stage1 import PolicyStage, Store, freeze_except, natural
from senna2.types import Array, InputError, Rollout, Samples

__all__ = ["Drives", "Reinforce", "run_rad"]

Drives = list[tuple[Rollout, Array]]  # each with the poses of the clip's expert
Collect = Callable[[DualSystem, int], Drives]
DYNAMIC = EVENTS.index("dynamic")


@dataclass(frozen=True)
class Reinforce:
    """`optim` is that of each round; its batch is of frames of drives, or `imitation_batch` in a step of imitation."""

    optim: Optim
    rounds: int = 12
    clips: int = 24  # driven a round
    imitation_every: int = 5  # one step in five: RL to imitation 4 : 1
    imitation_batch: int = 64
    gamma: float = 0.9
    lam: float = 0.95
    clip_along: float = 0.2
    clip_across: float = 0.1
    value_weight: float = 1.0
    auxiliary_weight: float = 1.0
    static_along: bool = False  # the release's: a static collision counts along, too


@dataclass(frozen=True, eq=False)
class Frames:
    """Everything a step needs of the live frames of a round. advantage_N2: along, across; by_event_NE: without a
    critic, for the auxiliaries."""

    samples: Samples
    scene: SceneTokens
    row_N: torch.Tensor
    column_N: torch.Tensor
    old: Beliefs
    advantage_N2: torch.Tensor
    by_event_NE: torch.Tensor
    ahead_N: torch.Tensor
    steer_N: torch.Tensor

    def __len__(self) -> int:
        return len(self.samples)


def run_rad(
    policy: DualSystem, collect: Collect, store: Store, config: Reinforce, out: Path, *, seed: int, ranks: Ranks,
    resume: bool, **more: Any,
) -> list[dict[str, float]]:  # fmt: skip
    """Rounds of sampled drives and PPO. `collect(policy, round)` drives and records every frame.

    `out/log.jsonl` has one row a round: what happened in the drives, then how the distribution moved. `out/round-k` is
    kept until the next one is whole; `resume` goes on after it.
    """
    freeze_except(policy, ("planner.",))
    rad_of(policy)
    log: list[dict[str, float]] = []
    for number in range(begin_rounds(policy, out, resume=resume), config.rounds):
        with sampling(policy):
            drives = collect(policy, number)
        frames, told = live_frames(policy, drives, config)
        stage = RadStage(policy, frames, store, config, seed + number)
        rows = train(stage, config.optim, out / "ppo", ranks=ranks, **more)
        log.append({"round": float(number), **told, **{k: v for k, v in rows[-1].items() if k not in ("step", "lr")}})
        end_round(policy, out, log[-1])
    return log


def rad_of(policy: DualSystem) -> Rad:
    """The policy's planner; `InputError` if this stage cannot train it."""
    if not isinstance(policy.planner, Rad):
        raise InputError(f"stage rad: is for planner 'rad', not for '{policy.config.planner}'")
    undecided(policy, "rad")
    return policy.planner


def live_frames(policy: DualSystem, drives: Drives, config: Reinforce) -> tuple[Frames, dict[str, float]]:
    """The frames to learn from, with what the policy believed there, and how the drives went: share of drives that end
    in each event, mean seconds alive."""
    episodes = [(r, episode(r, expert)) for r, expert in drives]
    episodes = [(r, e) for r, e in episodes if len(e)]
    if not episodes:
        raise TrainingError("stage rad: no drive lasted for a frame")
    samples = Samples.concatenate([seen(r, range(len(e))) for r, e in episodes])
    plans = np.concatenate([r.plans_FT2[: len(e), 4] for r, e in episodes])
    row_N, column_N = (torch.as_tensor(a, device=policy.device) for a in action_of(plans))
    scene = encoded(policy, samples)
    samples = replace(samples, images={})
    with torch.no_grad():
        old = rad_of(policy).believe(scene, None, Batch.from_samples(samples, policy.device))
    along: list[Array] = []
    across: list[Array] = []
    by_event, start = [], 0
    for _, e in episodes:
        here = slice(start, start + len(e))
        start += len(e)
        r_along, r_across = _rewards(e, config)
        for out, r, v in ((along, r_along, old.value_along_B), (across, r_across, old.value_across_B)):
            v_F = v[here].double().cpu().numpy()
            after = 0.0 if e.ended else float(v_F[-1])
            out.append(advantages(r, v_F, gamma=config.gamma, lam=config.lam, after=after))
        zero = np.zeros(len(e))
        by_event.append(np.stack([advantages(r, zero, gamma=config.gamma, lam=config.lam) for r in e.rewards_F4.T], 1))

    def tensor(x: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(x), dtype=torch.float32, device=policy.device)

    frames = Frames(
        samples, scene, row_N, column_N, old,
        tensor(np.stack([np.concatenate(along), np.concatenate(across)], 1)), tensor(np.concatenate(by_event)),
        tensor(np.repeat([e.ahead for _, e in episodes], [len(e) for _, e in episodes])) > 0,
        tensor(np.repeat([e.steer for _, e in episodes], [len(e) for _, e in episodes])),
    )  # fmt: skip
    return frames, {**ends([e for _, e in episodes]), "alive_s": float(np.mean([len(e) * r.dt for r, e in episodes]))}


def _rewards(e: Episode, config: Reinforce) -> tuple[Array, Array]:
    """Along: dynamic collisions (and, as an option, static ones); across: the three others (the paper's)."""
    dynamic, static, position, heading = e.rewards_F4.T
    return dynamic + (static if config.static_along else 0), static + position + heading


class RadStage(PolicyStage):
    """What the loop needs: indices under `len(frames)` are of drives, the others of the store."""

    name = "rad"

    def __init__(self, policy: DualSystem, frames: Frames, store: Store, config: Reinforce, seed: int) -> None:
        super().__init__(policy, seed)
        self.planner, self.frames, self.store, self.config = rad_of(policy), frames, store, config
        self.pool_N = natural(store.states)

    def draw(self, step: int, batch: int) -> Array:
        every = self.config.imitation_every
        if every and step % every == every - 1:
            index = draw_indices(len(self.pool_N), self.config.imitation_batch, step // every, self.seed)
            return len(self.frames) + self.pool_N[index]
        return draw_indices(len(self.frames), batch, step, self.seed)

    def load(self, index: Array) -> tuple[Array, Samples | None]:
        n = len(self.frames)
        return index, self.store.take(index - n) if len(index) and index[0] >= n else None

    def loss(
        self, data: tuple[Array, Samples | None], step: int, batch: int
    ) -> tuple[torch.Tensor | None, dict[str, float]]:
        index, samples = data
        if samples is not None:
            tensors = Batch.from_samples(samples, self.device)
            with torch.no_grad():
                scene = self.policy.encode(tensors)
            loss_B = self.policy.planning_loss(scene, None, tensors, seed=self.seed, step=step)
            loss = loss_B.sum() / self.config.imitation_batch
            return loss, {"imitation": float(loss.detach())}
        found = {name: term * (len(index) / batch) for name, term in self.reinforced(index).items()}
        return torch.stack([*found.values()]).sum(), {k: float(v.detach()) for k, v in found.items()}

    def reinforced(self, index: Array) -> dict[str, torch.Tensor]:
        """Each term's mean over these frames."""
        f, c = self.frames, self.config
        at = torch.as_tensor(index, device=self.device)
        batch = Batch.from_samples(f.samples.take(index), self.device)
        now = self.planner.believe(f.scene.take(at), None, batch)
        old = Beliefs(*(x[at] for x in f.old))
        row, column = f.row_N[at], f.column_N[at]
        along_logp, along_old = (b.along_BG.log_softmax(-1) for b in (now, old))
        across_logp, across_old = (self.planner.across_logp(b, row) for b in (now, old))
        policy, value, auxiliary = (torch.zeros((), device=self.device) for _ in range(3))
        better_along = better_cells(row, torch.where(f.ahead_N[at], -1, 1), along_logp)
        better_across = better_cells(column, f.steer_N[at], across_logp)
        by_event = f.by_event_NE[at]
        for k, (logp, old_logp, chosen, clip, better, events) in enumerate((
            (along_logp, along_old, row, c.clip_along, better_along, by_event[:, :DYNAMIC + 1]),
            (across_logp, across_old, column, c.clip_across, better_across, by_event[:, DYNAMIC + 1:]),
        )):  # fmt: skip
            new_B, old_B = (x.gather(1, chosen[:, None])[:, 0] for x in (logp, old_logp))
            policy = policy + clipped(new_B, old_B, f.advantage_N2[at, k], clip).mean()
            weight = events.clamp_max(0).sum(-1).abs() * inside(new_B, old_B, clip)
            auxiliary = auxiliary - (weight * (better * logp.exp()).sum(-1)).mean()
            value = value + value_loss(now[2 + k], old[2 + k], f.advantage_N2[at, k]).mean()
        return {"policy": policy, "value": c.value_weight * value, "auxiliary": c.auxiliary_weight * auxiliary}


def better_cells(chosen_B: torch.Tensor, side_B: torch.Tensor, like_BG: torch.Tensor) -> torch.Tensor:
    """(B, G) +1 for the bins on the side that would have been better, −1 for those on the other, 0 for the chosen one.

    side_B: +1 the higher bins, −1 the lower ones, 0 nobody knows."""
    bins = torch.arange(like_BG.shape[1], device=like_BG.device)
    return (bins - chosen_B[:, None]).sign() * side_B[:, None]
