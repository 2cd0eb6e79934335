"""`transfuser`: one query reads the scene, an MLP states the plan, L1 (PAMI 2022; the NAVSIM port's decoder).

Differs from the original: the camera-only "latent" variant, since the shared backbone has no lidar; the scene tokens
are the backbone's, not 64 of a bird's-eye grid; the query is told the speed limit like every planner here.

Legend: B batch, K knots, C width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from senna2.model.batch import Batch
from senna2.model.layers import mlp, zero_last
from senna2.model.planners.knots import KnotPlanner, Reader
from senna2.model.scene import SceneTokens

if TYPE_CHECKING:
    from senna2.model.config import PolicyConfig


@dataclass(frozen=True)
class Options:
    layers: int = 3


class TransFuser(KnotPlanner):
    """L = mean over knots and axes of |τ − τ*| in m."""

    Options = Options

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self._learn_to_be_told(config)
        self.query_C = nn.Parameter(torch.randn(dim) * 0.5)
        self.readers = nn.ModuleList(Reader(dim, config.heads) for _ in range(self.options.layers))
        self.head = zero_last(mlp(dim, 4 * dim, 2 * self.knots))

    def _knots(self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch) -> Tensor:
        with self.autocast():
            told = self.told(batch.motion_B4, batch.navigation_B, batch.speed_limit_B, f_vlm)
            x = (self.query_C + told)[:, None]
            for reader in self.readers:
                x = reader(x, scene.tokens_BSC, scene.valid_BS)
            units = self.head(x[:, 0])
        return self.from_units(units.float().unflatten(-1, (self.knots, 2)))

    def loss(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int, step: int, draws: int
    ) -> Tensor:
        self.demand_fitted()
        error = (self._knots(scene, f_vlm, batch) - self.expert(batch)).abs().mean((1, 2))
        return error * batch.has_future_B

    def plan(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        self.demand_fitted()
        return self.to_plan(self._knots(scene, f_vlm, batch), batch)
