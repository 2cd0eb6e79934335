"""Stage 3, closed-loop alignment by hierarchical reinforcement learning, bottom-up (paper section 3.5).

Low level, on frames of the policy's own rollouts (every fourth, before the first contact):

    L_safe = Σ_{t=1..T−1} |τ_{t+1} − sg(τ_t)|²      where TTC < 3 s: each point is pulled back, the plan slows down
    L_eff  = Σ_{t=1..T−1} |τ_t − sg(τ_{t+1})|²      where too slow: each point is pulled on, the plan speeds up
    L_low  = mean_F [m_s L_safe + λ_e m_e L_eff] + λ_a mean_U Σ_t |τ_θ − sg τ_θ0|²

F: frames with m_s or m_e; U: the others. The anchor on U is ours (docs/decisions/stage-3-anchor.md): without it the
policy parks or runs away. `faithful=True` is the paper's reading: λ_e = 1, no anchor. High level, on F afterwards:

    L_high = −log P(f_K(τ) | Q)                     where decision and refined plan disagree
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from senna2.decisions import f_k_plan
from senna2.model.batch import Batch
from senna2.model.policy import DualSystem
from senna2.train.distributed import Ranks
from senna2.train.frames import RolloutFrames, load_frames, save_frames, select_frames
from senna2.train.loop import Optim, TrainingError, train
from senna2.train.sampling import draw_indices
from senna2.train.stage1 import FULLY_TRAINED, PolicyStage, freeze_except, vlm_of
from senna2.types import Array, Rollout, Samples


@dataclass(frozen=True)
class Stage3:
    """Defaults of ours; `faithful` is the paper's loss alone."""

    low: Optim
    high: Optim
    rounds: int = 1
    every: int = 4  # one frame in four, on a fixed grid
    ttc_s: float = 3.0
    slow_share: float = 0.8  # "well below" the expert's speed and the limit [ours]
    behind_m: float = 2.0
    lambda_eff: float = 0.1
    lambda_anchor: float = 1.0
    faithful: bool = False
    lora_rank: int = 8
    lora_alpha: int = 16

    def effective(self) -> Stage3:
        return replace(self, lambda_eff=1.0, lambda_anchor=0.0) if self.faithful else self


@dataclass(frozen=True)
class Verdict:
    """What the recipe's judge found on its tuning clips; `fine` False takes the round back and ends the stage."""

    fine: bool
    reason: str


Collect = Callable[[DualSystem, int, Path], list[Rollout]]
Judge = Callable[[DualSystem, int], Verdict]


def l_safe(tau_BT2: torch.Tensor) -> torch.Tensor:
    """Σ_t |τ_{t+1} − sg(τ_t)|² per sample, m²: only the later point has a gradient, toward the earlier one."""
    return ((tau_BT2[:, 1:] - tau_BT2[:, :-1].detach()) ** 2).sum((1, 2))


def l_eff(tau_BT2: torch.Tensor) -> torch.Tensor:
    """Σ_t |τ_t − sg(τ_{t+1})|² per sample, m²: only the earlier point has a gradient, toward the later one."""
    return ((tau_BT2[:, :-1] - tau_BT2[:, 1:].detach()) ** 2).sum((1, 2))


class _FrameStage(PolicyStage):
    """What low and high level share: frames of the policy's own rollouts, with the VLM read once a round."""

    name = "3"

    def __init__(self, policy: DualSystem, frames: RolloutFrames, config: Stage3, seed: int) -> None:
        super().__init__(policy, seed)
        self.frames, self.config = frames, config
        self.flagged = np.flatnonzero(frames.safe_N | frames.slow_N)
        self.unflagged = np.flatnonzero(~(frames.safe_N | frames.slow_N))
        self.hidden_ND, self.agrees_N = _hidden(policy, frames)

    def load(self, index: Array) -> tuple[Array, Samples]:
        return index, self.frames.samples.take(index)

    def plan(self, policy: DualSystem, index: Array, tensors: Batch, step: int) -> torch.Tensor:
        """τ_θ(o, d, z): the absolute plan in metres after both DDIM steps; z is fresh each step and keyed by frame."""
        tokens = policy.encode(tensors)
        speed = torch.as_tensor(self.frames.speed_N[index].astype(int), device=self.device)
        direction = torch.as_tensor(self.frames.direction_N[index].astype(int), device=self.device)
        hidden, agrees = (None if x is None else x[torch.as_tensor(index)] for x in (self.hidden_ND, self.agrees_N))
        hidden, agrees = (None if x is None else x.to(self.device) for x in (hidden, agrees))
        f_vlm = policy.condition(hidden, speed, direction, agrees)
        noise = policy.sample_noise(tensors.index_B, self.seed, step)
        return policy.sample_plan(tokens, f_vlm, tensors, noise=noise, steps=2)


class LowLevel(_FrameStage):
    """The planner learns; the VLM is frozen."""

    name = "3-low"

    def __init__(
        self, policy: DualSystem, anchor: DualSystem, frames: RolloutFrames, config: Stage3, seed: int
    ) -> None:
        super().__init__(policy, frames, config, seed)
        self.anchor = anchor
        freeze_except(policy, FULLY_TRAINED)
        if config.lambda_anchor > 0 and len(self.unflagged) == 0:
            raise TrainingError("stage 3: every frame is flagged, so nothing can hold the policy; train stage 1 longer")

    def draw(self, step: int, batch: int) -> Array:
        half = batch // 2 if self.config.lambda_anchor > 0 else batch
        f = self.flagged[draw_indices(len(self.flagged), half, step, self.seed)]
        if half == batch:
            return f
        # F and U alternate, so that every rank gets its share of both
        u = self.unflagged[draw_indices(len(self.unflagged), batch - half, step, self.seed + 1)]
        return np.stack([f, u], 1).reshape(-1) if len(f) == len(u) else np.concatenate([f, u])

    def loss(self, data: tuple[Array, Samples], step: int, batch: int) -> tuple[torch.Tensor | None, dict[str, float]]:
        index, samples = data
        names = ("safe", "slow", "anchor")
        if len(index) == 0:
            return None, dict.fromkeys(names, 0.0)
        tensors = Batch.from_samples(samples, self.device)
        tau_BT2 = self.plan(self.policy, index, tensors, step)
        m_s = torch.as_tensor(self.frames.safe_N[index], device=self.device)
        m_e = torch.as_tensor(self.frames.slow_N[index], device=self.device)
        half = batch // 2 if self.config.lambda_anchor > 0 else batch
        safe = (m_s * l_safe(tau_BT2)).sum() / half
        slow = self.config.lambda_eff * (m_e * l_eff(tau_BT2)).sum() / half
        total, anchor = safe + slow, torch.zeros((), device=self.device)
        free = ~(m_s | m_e)
        if self.config.lambda_anchor > 0 and bool(free.any()):
            with torch.no_grad():
                held_BT2 = self.plan(self.anchor, index, tensors, step)
            anchor = self.config.lambda_anchor * (free * ((tau_BT2 - held_BT2) ** 2).sum((1, 2))).sum() / (batch - half)
            total = total + anchor
        return total, dict(zip(names, (float(v.detach()) for v in (safe, slow, anchor)), strict=True))


class HighLevel(_FrameStage):
    """The VLM learns by LoRA to say what the refined plan does. UNKNOWN plans are left out; a CHANGE LANE decision is
    judged on speed alone (f_K cannot see lane changes)."""

    name = "3-high"

    def __init__(self, policy: DualSystem, frames: RolloutFrames, config: Stage3, seed: int) -> None:
        super().__init__(policy, frames, config, seed)
        freeze_except(policy, (), lora=True)

    def draw(self, step: int, batch: int) -> Array:
        return self.flagged[draw_indices(len(self.flagged), batch, step, self.seed)]

    def loss(self, data: tuple[Array, Samples], step: int, batch: int) -> tuple[torch.Tensor | None, dict[str, float]]:
        index, samples = data
        if len(index) == 0:
            return None, {"high": 0.0, "disagree": 0.0}
        tensors = Batch.from_samples(samples, self.device)
        with torch.no_grad():
            speed_B, path_B = f_k_plan(self.plan(self.policy, index, tensors, step))
        nll_B, disagree_B = disagreement_nll(vlm_of(self.policy).score_all(samples), speed_B, path_B)
        high = nll_B.sum() / batch
        return high, {"high": float(high.detach()), "disagree": float(disagree_B.sum()) / batch}


def disagreement_nll(
    logp_B20: torch.Tensor, speed_B: torch.Tensor, path_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """L_high per sample and where the two disagree (B,). logp_B20 in `ALL_DECISIONS` order (speed-major).

    Speed and direction are compared apart, each by its marginal: f_K cannot tell TURN LEFT from CHANGE LANE LEFT,
    so the direction's likelihood is the sum over the decisions that fold to the plan's side.
    """
    logp_B45 = logp_B20.view(-1, 4, 5)
    best = logp_B20.argmax(1)
    said_speed, said_direction = best // 5, best % 5
    fold = torch.tensor([0, 1, 2, 1, 2], device=logp_B20.device)  # Direction → Path
    row = torch.arange(len(best), device=logp_B20.device)
    speed_nll = -torch.logsumexp(logp_B45, 2)[row, speed_B.clamp(min=0)]
    side = fold[None] == path_B[:, None]
    direction_nll = -torch.logsumexp(torch.logsumexp(logp_B45, 1).masked_fill(~side, -1e9), 1)
    known = speed_B >= 0
    wrong_speed = known & (said_speed != speed_B)
    wrong_side = known & (said_direction < 3) & (fold[said_direction] != path_B)
    return wrong_speed * speed_nll + wrong_side * direction_nll, wrong_speed | wrong_side


@torch.no_grad()
def _hidden(
    policy: DualSystem, frames: RolloutFrames, batch: int = 32
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Features of every frame (N, D), and whether their own decision is the one used in the rollout (N,).

    The rollout's decision may be of an earlier tick. Features that argue for another one are taken away, as when
    driving, so that the planner never gets features and a decision that do not belong together.
    """
    if policy.vlm is None:
        return None, None
    rows = [slice(i, i + batch) for i in range(0, len(frames.samples), batch)]
    said = [policy.ask(frames.samples.take(r)) for r in rows]
    speed, direction = (torch.cat([getattr(s, n) for s in said]).cpu().numpy() for n in ("speed_B", "direction_B"))
    agrees = (speed == frames.speed_N) & (direction == frames.direction_N)
    return torch.cat([s.hidden_BD for s in said]), torch.as_tensor(agrees)


def run_3(
    policy: DualSystem, collect: Collect, config: Stage3, out: Path, *, seed: int, ranks: Ranks, resume: bool,
    judge: Judge | None = None, **more: Any,
) -> list[dict[str, float]]:  # fmt: skip
    """Rounds of: roll out, refine the planner (L_low), then teach the VLM (L_high). Returns the joined log.

    `collect(policy, round, folder)` drives the policy through training clips and returns rollouts with observations.
    `judge` looks at progress, parking and off-road on tuning clips after each round.
    """
    config = config.effective()
    torch.manual_seed(seed)
    if policy.vlm is not None:
        policy.vlm.add_lora(config.lora_rank, config.lora_alpha)
    anchor = frozen_copy(policy)
    log: list[dict[str, float]] = []
    for number in range(config.rounds):
        folder = out / f"round-{number}"
        frames = load_frames(folder) if resume else None
        if frames is None:
            if ranks.is_main:
                rollouts = collect(policy, number, folder)
                save_frames(
                    folder,
                    select_frames(rollouts, config.every, config.ttc_s, config.slow_share, config.behind_m),
                )
            ranks.barrier()
            frames = load_frames(folder)
            assert frames is not None
        if not (frames.safe_N | frames.slow_N).any():
            break  # nothing to correct
        before = {n: p.detach().clone() for n, p in policy.named_parameters()}
        key = seed + 1000 * number
        log += train(
            LowLevel(policy, anchor, frames, config, key),
            config.low,
            folder / "low",
            ranks=ranks,
            resume=resume,
            **more,
        )
        if policy.vlm is not None:
            log += train(
                HighLevel(policy, frames, config, key),
                config.high,
                folder / "high",
                ranks=ranks,
                resume=resume,
                **more,
            )
        verdict = judge(policy, number) if judge is not None else Verdict(True, "not judged")
        log.append({"round": float(number), "fine": float(verdict.fine)})
        if not verdict.fine:
            with torch.no_grad():
                for n, p in policy.named_parameters():
                    p.copy_(before[n])
            print(f"stage 3: round {number} is taken back: {verdict.reason}")
            break
    return log


def frozen_copy(policy: DualSystem) -> DualSystem:
    """θ0: the E2E policy and adapter as they are now, without the VLM, never to train."""
    vlm, policy.vlm = policy.vlm, None
    try:
        held = copy.deepcopy(policy)
    finally:
        policy.vlm = vlm
    return held.requires_grad_(False).eval()
