"""Several rollouts of one policy at a time: each has its own memory, clock and noise, the networks run once for all.

On one core a plan costs about a third of what it costs alone, since most of a small network's time is overhead.

Legend: B rollouts that plan now, H hidden size of the VLM, K coefficients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from senna2.model.batch import Batch
from senna2.model.memory import MemoryBank, SimulatedClock, Thought
from senna2.model.override import columns, decisions, given_decision
from senna2.types import ClipMeta, InputError, Observation, Plan, Samples, Trajectory

if TYPE_CHECKING:
    from senna2.model.policy import DualSystem


@dataclass
class _Lane:
    """What one rollout has for itself."""

    seed: int
    clock: SimulatedClock
    memory: MemoryBank
    frame: int = 0


class Lockstep:
    """`DualSystem.act` for many rollouts, told apart by a key. The same plans but for the rounding of batched sums.

    All clips need the rig that the policy was trained with (`DualSystem.any_rig` is for one at a time).
    """

    def __init__(self, policy: DualSystem) -> None:
        if policy.any_rig:
            raise InputError("lockstep: drives with the rig that was trained with; load the policy without any_rig")
        self.policy = policy
        self._lanes: dict[int, _Lane] = {}

    def reset(self, key: int, meta: ClipMeta, seed: int) -> None:
        """Start a rollout. Raises `InputError` for cameras that are not the policy's."""
        self.policy.use_rig(meta.rig)
        clock = SimulatedClock()
        self._lanes[key] = _Lane(seed, clock, MemoryBank(self.policy.memory.period_s, clock))

    def drop(self, key: int) -> None:
        """Forget a rollout that is over."""
        del self._lanes[key]

    @torch.no_grad()
    def act(self, observations: Mapping[int, Observation]) -> dict[int, Plan]:
        """A plan for each observation, one a rollout; the VLM is asked for those whose period is over."""
        policy, lanes = self.policy, [self._lanes[key] for key in observations]
        samples = Samples.from_observations(list(observations.values()))
        samples = dataclasses.replace(samples, index_N=np.array([lane.frame for lane in lanes], np.int64))
        for lane, observation in zip(lanes, observations.values(), strict=True):
            lane.clock.now_s, lane.frame = float(observation.t_s), lane.frame + 1
        thoughts = self._think(lanes, samples)
        said = [None if t is None else t[0].decision for t in thoughts]
        told = [given_decision(policy.forced, o, s) for o, s in zip(observations.values(), said, strict=True)]
        given = [decision for decision, _ in told]
        own = np.array([own for _, own in told])
        speed_B, direction_B, own_B = (torch.as_tensor(c, device=policy.device) for c in (*columns(given), own))
        held = [t[0].hidden_1D for t in thoughts if t is not None and t[0].hidden_1D is not None]
        hidden_BH = torch.cat(held).to(policy.device, torch.float32) if held else None
        batch = Batch.from_samples(samples, policy.device)
        f_vlm = policy.condition(hidden_BH, speed_B, direction_B, own_B)
        noise_BK2 = torch.cat(
            [policy.sample_noise(batch.index_B[i : i + 1], lane.seed) for i, lane in enumerate(lanes)]
        )
        points_BT2 = policy.sample_plan(policy.encode(batch), f_vlm, batch, noise=noise_BK2).cpu().numpy()
        plans = {}
        for i, (key, thought) in enumerate(zip(observations, thoughts, strict=True)):
            plans[key] = Plan(
                trajectory=Trajectory(points_BT2[i], policy.config.plan_dt).validate(),
                decision=None if policy.config.adapter == "none" else given[i],
                vlm_decision=said[i],
                decision_age_s=0.0 if thought is None else thought[1],
                speed_probs_4=None if thought is None else thought[0].speed_probs_4,
            )
        return plans

    def _think(self, lanes: list[_Lane], samples: Samples) -> list[tuple[Thought, float] | None]:
        if self.policy.vlm is None:
            return [None] * len(lanes)
        due = np.flatnonzero([lane.memory.due for lane in lanes])
        fresh: dict[int, Thought] = {}
        if len(due):
            answer = self.policy.ask(samples.take(due))
            for row, (i, decision) in enumerate(
                zip(due.tolist(), decisions(answer.speed_B, answer.direction_B), strict=True)
            ):
                hidden = None if answer.hidden_BD is None else answer.hidden_BD[row : row + 1]
                probs = np.exp(torch.as_tensor(answer.speed_logp_B4)[row].float().cpu().numpy())
                fresh[i] = Thought(lanes[i].clock.now_s, hidden, decision, probs)
        return [lane.memory.read(lambda i=i: fresh[i]) for i, lane in enumerate(lanes)]  # type: ignore[misc]
