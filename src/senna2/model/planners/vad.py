"""`vad`: one plan a navigation command, under three vectorised constraints (VAD, arXiv 2303.12077).

An ego query reads agents, then the map; an MLP on both readings states offsets for every command, of which the command
given selects one. Beside the imitation loss the plan keeps off boundaries and vehicles and along the dividers.

Differs from the original: scene tokens of the shared backbone; the MLP is also told speed and limit, as every planner
here (VAD's main table has no ego status); six commands (five and "none") instead of three; constraints: `constraints`.

Legend: B batch, M commands, K knots, C width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from senna2.model.batch import Batch
from senna2.model.layers import mlp, zero_last
from senna2.model.planners.constraints import ConstraintWeights, vectorised_loss
from senna2.model.planners.knots import Reader, StepPlanner
from senna2.model.scene import SceneTokens
from senna2.types import Direction

if TYPE_CHECKING:
    from senna2.model.config import PolicyConfig


class Vad(StepPlanner):
    """L = |τ − τ*| + 3 boundary + 1½ collision + 1½ direction (`ConstraintWeights`)."""

    Options = ConstraintWeights

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self._learn_to_be_told(config)
        self.query_C = nn.Parameter(torch.randn(dim) * 0.5)
        self.agents, self.map, self.rest = (Reader(dim, config.heads) for _ in range(3))
        self.head = zero_last(mlp(3 * dim, 2 * dim, len(Direction) * 2 * self.knots))

    def _knots(self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch) -> Tensor:
        with self.autocast():
            told = self.told(batch.motion_B4, batch.navigation_B, batch.speed_limit_B, f_vlm)
            x = (self.query_C + told)[:, None]
            x = self.rest(x, *scene.part("rest"))  # images: the shared backbone keeps no bird's-eye grid to read from
            agents = self.agents(x, *scene.part("agents"))
            lines = self.map(agents, *scene.part("lines"))
            out = self.head(torch.cat([agents[:, 0], lines[:, 0], told], -1))
        offsets_BMK2 = out.float().unflatten(-1, (len(Direction), self.knots, 2))
        given = batch.navigation_B.clamp_min(0)[:, None, None, None].expand(-1, 1, self.knots, 2)
        return self.from_steps(offsets_BMK2.gather(1, given)[:, 0])

    def loss(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int, step: int, draws: int
    ) -> Tensor:
        self.demand_fitted()
        knots = self._knots(scene, f_vlm, batch)
        total = vectorised_loss(knots, self.expert(batch), batch, self.at_K, self.options)
        return total * batch.has_future_B

    def plan(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        self.demand_fitted()
        return self.to_plan(self._knots(scene, f_vlm, batch), batch)
