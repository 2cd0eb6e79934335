"""A planner of your own: one class in one file, in the same policy, losses, stages and tables as Senna-2's.

    python examples/planner.py

By name: an entry point of the group "senna2.planners", or PolicyConfig(planner="my_package.arc:Arc").
"""

from __future__ import annotations

import torch
from torch import Tensor

from senna2.model.batch import Batch
from senna2.model.config import PolicyConfig
from senna2.model.layers import mlp, zero_last
from senna2.model.planners.base import Planner
from senna2.model.policy import DualSystem
from senna2.model.scene import SceneTokens
from senna2.types import Rig, Samples


class Arc(Planner):
    """Reads the mean of the scene; states one acceleration and one curvature, held for the whole plan."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        self._learn_to_be_told(config)
        self.head = zero_last(mlp(2 * config.dim, config.dim, 2))

    def plan(self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise=None, steps=None) -> Tensor:
        told = self.told(batch.motion_B4, batch.navigation_B, batch.speed_limit_B, f_vlm)
        a_B1, curve_B1 = self.head(torch.cat([scene.tokens_BSC.mean(1), told], -1)).split(1, -1)
        t = self.config.plan_dt * torch.arange(1, self.config.plan_steps + 1)
        s = (batch.motion_B4[:, :1] * t + a_B1 * t**2 / 2).clamp_min(0)
        return torch.stack([s, 0.01 * curve_B1 * s**2], -1)

    def loss(self, scene, f_vlm, batch: Batch, *, seed: int, step: int, draws: int) -> Tensor:
        gap_BT = torch.linalg.vector_norm(self.plan(scene, f_vlm, batch) - batch.future_BT2, dim=-1)
        return torch.where(batch.has_future_B[:, None], gap_BT, 0.0).mean(1)


def main() -> None:
    config = PolicyConfig(planner=f"{__name__}:Arc", obs="state", adapter="decision", dim=32)
    policy, batch = DualSystem(config, Rig.fake(), seed=0), Batch.from_samples(Samples.fake(24, Rig.fake()))
    optimiser = torch.optim.AdamW(policy.parameters(), 3e-3)
    for step in range(201):
        f_vlm = policy.condition(None, batch.speed_B, torch.zeros_like(batch.speed_B))  # the expert's own decisions
        loss = policy.planning_loss(policy.encode(batch), f_vlm, batch, seed=0, step=step).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 50 == 0:
            print(f"step {step:3d}: {loss.item():.2f} m from the expert")


if __name__ == "__main__":
    main()
