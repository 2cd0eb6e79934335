"""What learns in stage 3 on the frames of a round: the planner (`LowLevel`), the VLM (`HighLevel`), or both in one step
(`Together`). The losses are explained in `stage3.py`."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from senna2.config import later
from senna2.decisions import f_k_plan
from senna2.model.batch import Batch
from senna2.model.diffusion import TOLD, keyed_uniform
from senna2.model.policy import DualSystem, SceneTokens
from senna2.train.diagnostics import cross_track, plan_length, shares
from senna2.train.distributed import Ranks, gather
from senna2.train.frames import RolloutFrames
from senna2.train.guards import DrivingGuards, at_least, at_most, not_one_class
from senna2.train.loop import Loss, Optim, TrainingError
from senna2.train.losses import disagreement_nll, l_eff, l_retime, l_safe
from senna2.train.sampling import draw_indices
from senna2.train.stage1 import FULLY_TRAINED, PolicyStage, freeze_except, vlm_of
from senna2.types import Array, Samples

PROBE = 48  # frames on which plans are compared with those of the start
LEAST_PLAN_M = 1.0  # mean length of the plans of the start, under which their ratio says nothing


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
    # Of the frames that hold the policy, how many hold it to what it planned under a forced speed [ours]: L_safe is
    # about plans under the VLM's own decisions, and blunts the answer to others. Not with `together`, where L_high
    # judges the same plans of flagged frames.
    forced_share: float = 0.3
    low_mode: Literal["literal", "retime"] = "literal"
    retime_brake: float = 1.5  # m/s² of the targets where it is risky
    retime_go: float = 1.0  # m/s² where it is too slow
    together: bool = False  # L_high + β L_low in one step, as printed; else the planner first, then the VLM
    beta: float = 1.0
    # On which frames the VLM learns what the plan does: the paper's flagged ones, or "all" of the rollouts [ours]:
    # decision and plan are to agree where nothing is wrong, too. Where they do L_high is 0 anyway.
    high_on: Literal["flagged", "all"] = "all"
    lane_change_by_speed: bool = True  # L_high's direction is silent where the VLM says CHANGE LANE
    lora_rank: int = 8
    lora_alpha: int = 16
    guards: DrivingGuards = field(default_factory=DrivingGuards)
    faithful: bool = False
    # Weight of L_E2E on demonstrations, as many a step as there are frames [ours]. L_low sums metres squared over a
    # plan, L_E2E is a mean of normalised residuals: the gradients are alike at a few hundred. Not with `together`.
    imitation: float = later(0.0)

    def effective(self) -> Stage3:
        literal = replace(self, lambda_eff=1.0, lambda_anchor=0.0, forced_share=0.0, low_mode="literal", together=True,
                          high_on="flagged", lane_change_by_speed=False, imitation=0.0)  # fmt: skip
        ours = replace(self, forced_share=0.0, high_on="flagged", imitation=0.0) if self.together else self
        return literal if self.faithful else ours


@dataclass(frozen=True, eq=False)
class Heard:
    """What the VLM has to say of every frame before the round: features (N, D), the speed it decides (N,), and whether
    its decision is the one used in the rollout (N,). All None without a VLM."""

    hidden_ND: torch.Tensor | None = None
    speed_N: Array | None = None
    agrees_N: torch.Tensor | None = None


class FrameStage(PolicyStage):
    """Steps on frames of the policy's own rollouts, with the VLM read once a round."""

    def __init__(self, policy: DualSystem, frames: RolloutFrames, seed: int, heard: Heard | None = None) -> None:
        super().__init__(policy, seed)
        self.frames, self.heard = frames, heard or listen(policy, frames)

    def told(
        self, policy: DualSystem, index: Array, tensors: Batch, forced_B: Array | None = None
    ) -> tuple[SceneTokens, torch.Tensor]:
        """What the planner is to plan from: scene tokens and F_vlm, as in the rollout. The decision has the speed
        `forced_B` where that is not −1, and then comes without the VLM's features."""
        tokens = policy.encode(tensors)
        speed_B = self.frames.speed_N[index].astype(int)
        if forced_B is not None:
            speed_B = np.where(forced_B >= 0, forced_B, speed_B)
        speed = torch.as_tensor(speed_B, device=self.device)
        direction = torch.as_tensor(self.frames.direction_N[index].astype(int), device=self.device)
        rows = torch.as_tensor(index)
        hidden, agrees = (
            None if x is None else x[rows.to(x.device)].to(self.device)
            for x in (self.heard.hidden_ND, self.heard.agrees_N)
        )
        if forced_B is not None and agrees is not None:
            agrees = agrees & torch.as_tensor(forced_B < 0, device=self.device)
        return tokens, policy.condition(hidden, speed, direction, agrees)


class _FlaggedStage(FrameStage):
    """What the levels share: some frames are risky or slow."""

    def __init__(
        self, policy: DualSystem, frames: RolloutFrames, config: Stage3, seed: int, heard: Heard | None = None
    ) -> None:
        super().__init__(policy, frames, seed, heard)
        self.config = config.effective()
        self.flagged = np.flatnonzero(frames.safe_N | frames.slow_N)
        self.unflagged = np.flatnonzero(~(frames.safe_N | frames.slow_N))

    def load(self, index: Array) -> tuple[Array, Samples]:
        return index, self.frames.samples.take(index)

    def plan(
        self, policy: DualSystem, index: Array, tensors: Batch, step: int, forced_B: Array | None = None
    ) -> torch.Tensor:
        """τ_θ(o, d, z): the absolute plan in metres after both DDIM steps; z is fresh each step and keyed by frame."""
        tokens, f_vlm = self.told(policy, index, tensors, forced_B)
        noise = policy.sample_noise(tensors.index_B, self.seed, step)
        return policy.sample_plan(tokens, f_vlm, tensors, noise=noise, steps=2)

    def high_terms(
        self, tau_BT2: torch.Tensor, flagged_B: torch.Tensor, samples: Samples, batch: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """L_high of the flagged samples over the batch, and how often the two disagree there."""
        speed_B, path_B = f_k_plan(tau_BT2)
        nll_B, disagree_B = disagreement_nll(
            vlm_of(self.policy).score_all(samples), speed_B, path_B,
            lane_change_by_speed=self.config.lane_change_by_speed,
        )  # fmt: skip
        high = (flagged_B * nll_B).sum() / batch
        values = {"high": float(high.detach()), "disagree": float((flagged_B & disagree_B).sum()) / batch}
        return high, values


class LowLevel(_FlaggedStage):
    """The planner learns; the VLM is frozen."""

    name = "3-low"
    terms: tuple[str, ...] = ("safe", "slow", "anchor")

    def __init__(
        self, policy: DualSystem, anchor: DualSystem, frames: RolloutFrames, config: Stage3, seed: int,
        heard: Heard | None = None,
    ) -> None:  # fmt: skip
        super().__init__(policy, frames, config, seed, heard)
        self.anchor = anchor
        freeze_except(policy, FULLY_TRAINED)
        if self.config.lambda_anchor > 0 and len(self.unflagged) == 0:
            raise TrainingError("stage 3: every frame is flagged, so nothing can hold the policy; train stage 1 longer")
        # Without unflagged frames (literal mode) the flagged ones must do: there, plans may well become shorter.
        pool = self.unflagged if len(self.unflagged) else self.flagged
        rng = np.random.default_rng(seed)
        self.probes = {"": rng.permutation(pool)[:PROBE], "flagged_": rng.permutation(self.flagged)[:PROBE]}
        self.held: dict[str, torch.Tensor] = {}

    def draw(self, step: int, batch: int) -> Array:
        half = batch // 2 if self.config.lambda_anchor > 0 else batch
        f = self.flagged[draw_indices(len(self.flagged), half, step, self.seed)]
        if half == batch:
            return f
        # F and U alternate: of two ranks one gets F, the other U, and gradients add up to the same
        u = self.unflagged[draw_indices(len(self.unflagged), batch - half, step, self.seed + 1)]
        return np.stack([f, u], 1).reshape(-1) if len(f) == len(u) else np.concatenate([f, u])

    def loss(self, data: tuple[Array, Samples], step: int, batch: int) -> tuple[Loss, dict[str, float]]:
        index, samples = data
        if len(index) == 0:
            return None, dict.fromkeys(self.terms, 0.0)
        tensors = Batch.from_samples(samples, self.device)
        forced_B = self.forced(index, step)
        tau_BT2 = self.plan(self.policy, index, tensors, step, forced_B)
        found = self.low_terms(tau_BT2, index, tensors, step, batch, forced_B)
        return found, {name: float(value.detach()) for name, value in found.items()}

    def forced(self, index: Array, step: int) -> Array | None:
        """(B,) the forced speed of each frame, −1 where the decision of the rollout stays: on all that are flagged."""
        share = self.config.forced_share
        if share == 0:
            return None
        u_B2 = keyed_uniform(self.frames.samples.index_N[index], self.seed, step, (2,), TOLD).numpy()
        free_B = ~(self.frames.safe_N[index] | self.frames.slow_N[index])
        return np.where(free_B & (u_B2[:, 0] < share), (4 * u_B2[:, 1]).astype(int), -1)

    def low_terms(
        self, tau_BT2: torch.Tensor, index: Array, tensors: Batch, step: int, batch: int, forced_B: Array | None = None
    ) -> dict[str, torch.Tensor]:
        """The terms of L_low, summed over the samples and divided by their number in the global batch."""
        c = self.config
        m_s = torch.as_tensor(self.frames.safe_N[index], device=self.device)
        m_e = torch.as_tensor(self.frames.slow_N[index], device=self.device)
        free = ~(m_s | m_e)
        half = batch // 2 if c.lambda_anchor > 0 else batch
        held_BT2 = tau_BT2.detach()
        if c.low_mode == "retime" or (c.lambda_anchor > 0 and bool(free.any())):
            with torch.no_grad():
                held_BT2 = self.plan(self.anchor, index, tensors, step, forced_B)
        if c.low_mode == "retime":
            safe_B = l_retime(tau_BT2, held_BT2, -c.retime_brake)
            slow_B = l_retime(tau_BT2, held_BT2, c.retime_go)
        else:
            safe_B, slow_B = l_safe(tau_BT2), l_eff(tau_BT2)
        anchor = (free * ((tau_BT2 - held_BT2) ** 2).sum((1, 2))).sum() / max(batch - half, 1)
        return {
            "safe": (m_s * safe_B).sum() / half,
            "slow": c.lambda_eff * (m_e * slow_B).sum() / half,
            "anchor": c.lambda_anchor * anchor,
        }

    @torch.no_grad()
    def measure(self, step: int) -> dict[str, float]:
        """Plans now against plans of the start of the stage, same frames and noise: ratio of lengths, share that has
        parked, how far they leave the path (m), on frames without and with (`flagged_`) a flag."""
        found = {}
        for name, probe in self.probes.items():
            if len(probe) == 0:
                continue
            tensors = Batch.from_samples(self.frames.samples.take(probe), self.device)
            if name not in self.held:
                self.held[name] = self.plan(self.anchor, probe, tensors, 0)
            held_BT2, now_BT2 = self.held[name], self.plan(self.policy, probe, tensors, 0)
            was_B, is_B = plan_length(held_BT2), plan_length(now_BT2)
            moved = was_B > LEAST_PLAN_M
            if bool(moved.any()):
                found[f"{name}length_ratio"] = float(is_B[moved].sum() / was_B[moved].sum())
                found[f"{name}parked"] = float((is_B[moved] < LEAST_PLAN_M).float().mean())
            found[f"{name}cross_track_m"] = float(cross_track(now_BT2, held_BT2).mean())
        return found

    def guard(self, row: dict[str, float], step: int) -> None:
        """Against a policy that parks, runs away or leaves its paths."""
        limits = self.config.guards
        if step + 1 < limits.after:
            return
        advice = "take a smaller lr, fewer steps or a larger lambda_anchor"
        what = "the length of its plans, over that before the stage, on frames without a flag,"
        if "length_ratio" in row:
            at_least(limits.least_length, row["length_ratio"], "parked", what, advice)
            at_most(limits.most_length, row["length_ratio"], "run away", what, f"{advice}, or a smaller lambda_eff")
        what = "the distance of its plans to their paths before the stage, in m,"
        at_most(limits.most_cross_track_m, row["cross_track_m"], "leaves its path", what,
                f'{advice}, or low_mode="retime"')  # fmt: skip


class Together(LowLevel):
    """L_high + β L_low in one step, as printed: the planner fully, the VLM by LoRA."""

    name = "3"
    terms = ("safe", "slow", "anchor", "high")

    def __init__(
        self, policy: DualSystem, anchor: DualSystem, frames: RolloutFrames, config: Stage3, seed: int,
        heard: Heard | None = None,
    ) -> None:  # fmt: skip
        super().__init__(policy, anchor, frames, config, seed, heard)
        freeze_except(policy, FULLY_TRAINED, lora=True)

    def loss(self, data: tuple[Array, Samples], step: int, batch: int) -> tuple[Loss, dict[str, float]]:
        index, samples = data
        if len(index) == 0:
            return None, dict.fromkeys((*self.terms, "disagree"), 0.0)
        tensors = Batch.from_samples(samples, self.device)
        tau_BT2 = self.plan(self.policy, index, tensors, step)
        low = self.low_terms(tau_BT2, index, tensors, step, batch)
        flagged = torch.as_tensor(self.frames.safe_N[index] | self.frames.slow_N[index], device=self.device)
        half = batch // 2 if self.config.lambda_anchor > 0 else batch
        high, values = self.high_terms(tau_BT2.detach(), flagged, samples, half)
        found = {name: self.config.beta * value for name, value in low.items()} | {"high": high}
        return found, {**values, **{name: float(value.detach()) for name, value in found.items()}}


class HighLevel(_FlaggedStage):
    """The VLM learns by LoRA to say what the refined plan does. UNKNOWN plans are left out; a CHANGE LANE decision is
    judged on speed alone (f_K cannot see lane changes)."""

    name = "3-high"
    terms = ("high",)

    def __init__(
        self, policy: DualSystem, frames: RolloutFrames, config: Stage3, seed: int, heard: Heard | None = None
    ) -> None:
        super().__init__(policy, frames, config, seed, heard)
        freeze_except(policy, (), lora=True)
        self.probe = np.random.default_rng(seed).permutation(self.unflagged)[:PROBE]
        self.pool = self.flagged if self.config.high_on == "flagged" else np.arange(len(frames.samples))

    def draw(self, step: int, batch: int) -> Array:
        return self.pool[draw_indices(len(self.pool), batch, step, self.seed)]

    def loss(self, data: tuple[Array, Samples], step: int, batch: int) -> tuple[Loss, dict[str, float]]:
        index, samples = data
        if len(index) == 0:
            return None, {"high": 0.0, "disagree": 0.0}
        tensors = Batch.from_samples(samples, self.device)
        with torch.no_grad():
            tau_BT2 = self.plan(self.policy, index, tensors, step)
        every = torch.ones(len(index), dtype=torch.bool, device=self.device)
        high, values = self.high_terms(tau_BT2, every, samples, batch)
        return {"high": high}, values

    def measure(self, step: int) -> dict[str, float]:
        """What the VLM says (`says_`) on frames without a flag, and what it said (`said_`) there before the round; its
        entropy."""
        if len(self.probe) == 0 or self.heard.speed_N is None:
            return {}
        answer = vlm_of(self.policy).decide(self.frames.samples.take(self.probe))
        return {
            **{f"says_{c}": v for c, v in shares(answer.speed_B).items()},
            **{f"said_{c}": v for c, v in shares(self.heard.speed_N[self.probe]).items()},
            "decision_entropy": float(answer.speed_entropy_B.mean()),
        }

    def guard(self, row: dict[str, float], step: int) -> None:
        """Against a VLM that says everywhere what is right where it is risky."""
        if step + 1 < self.config.guards.after or not any(name.startswith("says_") for name in row):
            return
        said, before = (
            {name.removeprefix(p): v for name, v in row.items() if name.startswith(p)} for p in ("says_", "said_")
        )
        not_one_class(self.config.guards.most_one_class, said, before, "take a smaller lr or fewer steps for `high`")


@torch.no_grad()
def listen(policy: DualSystem, frames: RolloutFrames, batch: int = 32, *, ranks: Ranks | None = None) -> Heard:
    """Read the VLM once on every frame; ranks share the work.

    The rollout's decision may be of an earlier tick. Features that argue for another one are taken away, as when
    driving, so that the planner never gets features and a decision that do not belong together.
    """
    if policy.vlm is None:
        return Heard()
    ranks = ranks or Ranks()
    chunks = [np.arange(i, min(i + batch, len(frames.samples))) for i in range(0, len(frames.samples), batch)]
    mine = {}
    for i in range(ranks.rank, len(chunks), ranks.size):
        said = policy.ask(frames.samples.take(chunks[i]))
        mine[i] = tuple(x.cpu() for x in (said.hidden_BD, said.speed_B, said.direction_B))
    every = {i: found for part in gather(mine, ranks) for i, found in part.items()}
    hidden, speed, direction = (torch.cat([every[i][k] for i in range(len(chunks))]) for k in range(3))
    agrees = (speed.numpy() == frames.speed_N) & (direction.numpy() == frames.direction_N)
    return Heard(hidden, speed.numpy(), torch.as_tensor(agrees))


def frozen_copy(policy: DualSystem) -> DualSystem:
    """θ0: the E2E policy and adapter as they are now, without the VLM, never to train."""
    vlm, policy.vlm = policy.vlm, None
    try:
        held = copy.deepcopy(policy)
    finally:
        policy.vlm = vlm
    return held.requires_grad_(False).eval()
