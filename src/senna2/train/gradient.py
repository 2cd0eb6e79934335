"""Other closed-loop trainers of the same planner, so that "the gain comes from alignment, not from reinforcement as
such" can be tested: policy gradients where stage 3 has its losses. The planner explores by a normal noise σ on its
coefficients c (`dit.Options.explore`), which gives it a density:

    log π(c | s, z) = −|c − c_θ(s, z)|² / 2σ²      c_θ: DDIM's plan from the noise z of the drive

`grpo`: each clip is driven several times; Â is the drive's return among those of its clip (RAD-2's, `returns`).
`ppo`: RAD's events as rewards (`events`), Â by GAE with a critic of the trainer's own, standardised over a round.

A plan is held for 0.8 s, so that a choice can be told by what follows. What trains is what trains in stage 3's low
level; the VLM is frozen, and decisions are those of the drive.

Legend: N choices of a round, B samples, K coefficients, S scene tokens, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from senna2.model.batch import Batch
from senna2.model.layers import mlp, zero_last
from senna2.model.planners.dit import DiT
from senna2.model.planners.knots import Reader
from senna2.model.policy import DualSystem
from senna2.model.scene import SceneTokens
from senna2.train.diagnostics import driving
from senna2.train.distributed import Ranks
from senna2.train.events import EVENTS, Episode, ends, episode
from senna2.train.frames import RolloutFrames
from senna2.train.levels import FrameStage, Heard
from senna2.train.loop import Optim, TrainingError, train
from senna2.train.ppo import advantages, among_group, clipped, standardised, value_loss
from senna2.train.returns import drive_return
from senna2.train.rounds import CHUNK, begin_rounds, choices_in, end_round, noise_of, sampling, seen
from senna2.train.sampling import draw_indices
from senna2.train.stage1 import FULLY_TRAINED, freeze_except
from senna2.types import Array, InputError, Rollout, Samples, require

Groups = Sequence[Sequence[tuple[Rollout, Array]]]  # of each clip its drives, each with the poses of the expert
Collect = Callable[[DualSystem, int], Groups]


@dataclass(frozen=True)
class PolicyGradient:
    """`optim`: of each round."""

    optim: Optim
    rounds: int = 16
    clips: int = 5
    group: int = 4  # drives a clip
    hold: int = 8  # frames that a plan is held
    explore: float = 0.3  # σ, in units of the coefficients' spread; at .1 nine of ten ratios are soon clipped
    clip: float = 0.2
    # PPO's [ours, on tuning clips]. RAD's .9 and .95 a frame leave .29 of an event to the choice before the last one,
    # which cannot avoid it any more: AF-CR stays at .18; so it comes to .10.
    gamma: float = 0.98  # a frame
    lam: float = 1.0
    critic_lr_scale: float = 50.0  # it begins with nothing; the planner does not
    events: tuple[str, ...] = EVENTS  # that are rewarded and end a drive
    ttc_s: float = 3.0
    # GRPO [ours]: of a clip's returns. Divided by less, a centimetre of progress would count as much as a collision.
    least_spread: float = 0.05


class Critic(nn.Module):
    """The value of a scene: one query over its tokens, whose gradient ends there."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query_C = nn.Parameter(torch.randn(dim) * 0.5)
        self.reader = Reader(dim, heads)
        self.told = mlp(2, dim, dim)
        self.value = zero_last(mlp(dim, dim, 1))

    def forward(self, scene: SceneTokens, batch: Batch) -> torch.Tensor:
        """(B,)"""
        speed = batch.motion_B4[:, 0]
        x = self.query_C + self.told(torch.stack([speed / 10, torch.exp(-speed.clamp_min(0))], -1))
        out: torch.Tensor = self.value(self.reader(x[:, None], scene.tokens_BSC.detach(), scene.valid_BS))[:, 0, 0]
        return out


@dataclass(frozen=True, eq=False)
class Choices:
    """The choices of a round; `noise_NK2` is that from which DDIM started, `chosen_NK2` what was driven, `heard` what
    the VLM says there. `live_N`: there is something to learn from; `raw_N`: Â as it came (the critic's target),
    `advantage_N`: as the planner learns from it."""

    frames: RolloutFrames
    heard: Heard
    noise_NK2: torch.Tensor
    chosen_NK2: torch.Tensor
    old_logp_N: torch.Tensor
    old_value_N: torch.Tensor
    raw_N: torch.Tensor
    advantage_N: torch.Tensor
    live_N: Array


def dit_of(policy: DualSystem, method: str) -> DiT:
    """The policy's planner; `InputError` if these stages cannot train it."""
    if type(policy.planner) is not DiT:
        raise InputError(f"stage {method}: is for planner 'dit', not for '{policy.config.planner}'")
    return policy.planner


def run_gradient(
    policy: DualSystem, collect: Collect, config: PolicyGradient, out: Path, *, method: Literal["grpo", "ppo"],
    seed: int, ranks: Ranks, resume: bool, **more: Any,
) -> list[dict[str, float]]:  # fmt: skip
    """Rounds of drives that explore and of policy gradients. `collect(policy, round)` drives and records every choice;
    `out/log.jsonl` has one row a round. A critic is not kept between two runs: `resume` is for "grpo", "ppo" begins
    again."""
    dit_of(policy, method)
    require(config.explore > 0, f"stage {method}: gradient.explore", "must be positive: alike plans teach nothing")
    if method == "grpo":
        require(config.group > 1, "stage grpo: gradient.group", "must be at least 2: drives of a clip are compared")
    unknown = set(config.events) - set(EVENTS)
    require(not unknown, f"stage {method}: gradient.events", f"must be of {list(EVENTS)}, not {sorted(unknown)}")
    critic = None
    if method == "ppo":
        require(bool(config.events), "stage ppo: gradient.events", "is empty: nothing would be rewarded")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            critic = Critic(policy.config.dim, policy.config.heads).to(policy.device)
    log: list[dict[str, float]] = []
    for number in range(begin_rounds(policy, out, resume=resume and critic is None), config.rounds):
        with sampling(policy, explore=config.explore):
            groups = collect(policy, number)
        choices, told = choices_of(policy, critic, groups, config)
        row = {"round": float(number), **told}
        if choices.live_N.any():
            stage = GradientStage(policy, critic, choices, config, seed + number)
            rows = train(stage, config.optim, out / "gradient", ranks=ranks, lr_scale=lambda name: (
                config.critic_lr_scale if name.startswith("critic.") else 1.0), **more)  # fmt: skip
            row |= {k: rows[-1][k] for k in ("policy", "value", "ratio_off", "grad_norm") if k in rows[-1]}
        log.append(row)
        end_round(policy, out, row)
    return log


def choices_of(
    policy: DualSystem, critic: Critic | None, groups: Groups, config: PolicyGradient
) -> tuple[Choices, dict[str, float]]:
    """The choices before anything was touched, and how the drives went."""
    drives = [drive for group in groups for drive in group]
    returns = [np.array([drive_return(r, config.ttc_s) for r, _ in group]) for group in groups]
    ranked = np.concatenate([among_group(r, config.least_spread) for r in returns])
    at = [choices_in(r) for r, _ in drives]
    if not any(len(a) for a in at):
        raise TrainingError("policy gradient: no drive holds a choice")
    samples = Samples.concatenate([seen(r, a) for (r, _), a in zip(drives, at, strict=True) if len(a)])
    samples = replace(samples, index_N=np.arange(len(samples), dtype=np.int64))
    decisions = np.concatenate([r.decision_F2[a] for (r, _), a in zip(drives, at, strict=True)])
    nothing = np.zeros(len(samples), bool)
    frames = RolloutFrames(samples, nothing, nothing, decisions[:, 0], decisions[:, 1])
    with sampling(policy, explore=config.explore):
        drawn = torch.cat([noise_of(policy, r, len(a)) for (r, _), a in zip(drives, at, strict=True)])
    noise = drawn[:, : policy.config.coefficients]  # the rest of it was the exploration
    driven = np.concatenate([r.plans_FT2[a] for (r, _), a in zip(drives, at, strict=True)])
    reader = FrameStage(policy, frames, 0)
    chosen, logp, value = _before(policy, critic, reader, noise, driven, config)
    told = {**driving([r for r, _ in drives]), "return": float(np.mean(np.concatenate(returns)))}
    if critic is None:  # where all drives of a clip ended alike there is nothing to learn
        raw = advantage = np.repeat(ranked, [len(a) for a in at])
        live = advantage != 0
    else:
        episodes = [episode(r, expert, config.events) for r, expert in drives]
        told |= ends(episodes)
        parts = np.split(value.double().cpu().numpy(), np.cumsum([len(a) for a in at])[:-1])
        raw = np.concatenate([_by_events(e, a, v, config) for e, a, v in zip(episodes, at, parts, strict=True)])
        live = np.concatenate([a < len(e) for e, a in zip(episodes, at, strict=True)])
        advantage = standardised(raw, live)

    def tensor(x: Array) -> torch.Tensor:
        return torch.as_tensor(x, dtype=torch.float32, device=policy.device)

    return Choices(frames, reader.heard, noise, chosen, logp, value, tensor(raw), tensor(advantage), live), told


def _by_events(e: Episode, at_n: Array, value_n: Array, config: PolicyGradient) -> Array:
    """Â of the choices at these frames: rewards between two of them belong to the earlier; those that come after the
    first event have none."""
    live = at_n < len(e)
    if not live.any():
        return np.zeros(len(at_n))
    reward = np.add.reduceat(e.rewards_F4.sum(1), at_n[live])
    value = value_n[live]
    found = advantages(reward, value, gamma=config.gamma**config.hold, lam=config.lam**config.hold,
                       after=0.0 if e.ended else float(value[-1]))  # fmt: skip
    return np.concatenate([found, np.zeros(int((~live).sum()))])


@torch.no_grad()
def _before(
    policy: DualSystem, critic: Critic | None, reader: FrameStage, noise_NK2: torch.Tensor, driven_NT2: Array,
    config: PolicyGradient,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """What was chosen (N, K, 2), its log-density and the critic's value (N,), in chunks."""
    planner, parts = dit_of(policy, GradientStage.name), []
    for i in range(0, len(driven_NT2), CHUNK):
        index = np.arange(i, min(i + CHUNK, len(driven_NT2)))
        batch = Batch.from_samples(reader.frames.samples.take(index), policy.device)
        scene, f_vlm = reader.told(policy, index, batch)
        plans = torch.as_tensor(driven_NT2[index], dtype=torch.float32, device=policy.device)
        chosen = planner.coefficients_of(plans, batch)
        now = planner.coefficients(scene, f_vlm, batch, noise=noise_NK2[index])
        value = torch.zeros(len(index), device=policy.device) if critic is None else critic(scene, batch)
        parts.append((chosen, log_density(chosen, now, config.explore), value))
    chosen, logp, value = (torch.cat(column) for column in zip(*parts, strict=True))
    return chosen, logp, value


def log_density(chosen_BK2: torch.Tensor, mean_BK2: torch.Tensor, sigma: float) -> torch.Tensor:
    """(B,) of a normal distribution about the mean, but for its constant."""
    return -((chosen_BK2 - mean_BK2) ** 2).sum((1, 2)) / (2 * sigma**2)


class GradientStage(FrameStage):
    """PPO's clipped objective on the choices, and the critic's loss where there is one."""

    name = "policy-gradient"

    def __init__(
        self, policy: DualSystem, critic: Critic | None, choices: Choices, config: PolicyGradient, seed: int
    ) -> None:
        super().__init__(policy, choices.frames, seed, choices.heard)
        self.critic, self.choices, self.config = critic, choices, config
        self.pool_N = np.flatnonzero(choices.live_N)
        freeze_except(policy, FULLY_TRAINED)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        own = super().named_parameters()
        return own if self.critic is None else own | {f"critic.{n}": p for n, p in self.critic.named_parameters()}

    def draw(self, step: int, batch: int) -> Array:
        return self.pool_N[draw_indices(len(self.pool_N), batch, step, self.seed)]

    def load(self, index: Array) -> tuple[Array, Samples]:
        return index, self.frames.samples.take(index)

    def loss(self, data: tuple[Array, Samples], step: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        index, samples = data
        c, f, at = self.config, self.choices, torch.as_tensor(index, device=self.device)
        tensors = Batch.from_samples(samples, self.device)
        scene, f_vlm = self.told(self.policy, index, tensors)
        now = dit_of(self.policy, self.name).coefficients(scene, f_vlm, tensors, noise=f.noise_NK2[at])
        logp = log_density(f.chosen_NK2[at], now, c.explore)
        total = clipped(logp, f.old_logp_N[at], f.advantage_N[at], c.clip).sum() / batch
        off = ((logp.detach() - f.old_logp_N[at]).abs() > c.clip).float().sum() / batch
        values = {"policy": float(total.detach()), "ratio_off": float(off)}
        if self.critic is not None:
            value = value_loss(self.critic(scene, tensors), f.old_value_N[at], f.raw_N[at]).sum() / batch
            total, values["value"] = total + value, float(value.detach())
        return total, values
