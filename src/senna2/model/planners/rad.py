"""`rad`: two categorical heads over where the car is in half a second, along and across (RAD, arXiv 2502.13144).

A planning embedding reads the scene; two MLPs give 61 logits along and 61 across, two more the values that
reinforcement needs (`train.rad`). Imitation: cross-entropy towards the nearest valid cell. Driven greedily, or sampled
while it learns from its own drives.

Differs from the original: the lateral distribution is masked by the row that was chosen, so that a cell which the
bicycle cannot reach is never sampled (the release masks targets only). There the pose 0.1 s along the anchor is taken
for the car's own; here a car with inertia follows a plan that is at the chosen cell in half a second, by one constant
acceleration on the anchor's arc, and goes on so: cells tell a speed to 0.5 m/s, and that is all a plan of `rad` means
beyond them. It stands in no open-loop table.

Legend: B batch, C width, T plan steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from senna2.model.batch import Batch
from senna2.model.layers import mlp, zero_last
from senna2.model.planners import rad_anchors as anchors
from senna2.model.planners.base import Planner
from senna2.model.planners.knots import Reader
from senna2.model.scene import SceneTokens

if TYPE_CHECKING:
    from senna2.model.config import PolicyConfig


@dataclass(frozen=True)
class Options:
    readers: int = 2  # layers of the decoder over the scene
    sampled: bool = False  # cells are drawn; else the likeliest row, and in it the likeliest column


class Beliefs(NamedTuple):
    """Logits (B, 61) along and across, and values (B,) of what lies ahead along and across."""

    along_BG: Tensor
    across_BG: Tensor
    value_along_B: Tensor
    value_across_B: Tensor


class Rad(Planner):
    """π(i, j | s) = π_x(i | s) π_y(j | s, j valid in row i)."""

    Options = Options
    no_open_loop = "the planner states half a second of motion"
    valid_GG: Tensor
    cells_GG2: Tensor

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.register_buffer("valid_GG", torch.tensor(anchors.valid()), persistent=False)
        self.register_buffer("cells_GG2", torch.tensor(anchors.grid(), dtype=torch.float32), persistent=False)
        self._learn_to_be_told(config)
        self.query_C = nn.Parameter(torch.randn(dim) * 0.5)
        self.readers = nn.ModuleList(Reader(dim, config.heads) for _ in range(self.options.readers))
        self.norm = nn.LayerNorm(dim)
        self.along, self.across = mlp(dim, dim, anchors.BINS), mlp(dim, dim, anchors.BINS)
        self.values = zero_last(mlp(dim, dim, 2))  # a critic that knows nothing expects nothing

    def believe(self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch) -> Beliefs:
        with self.autocast():
            told = self.told(batch.motion_B4, batch.navigation_B, batch.speed_limit_B, f_vlm)[:, None]
            x = self.query_C + told
            for reader in self.readers:
                x = reader(x, scene.tokens_BSC, scene.valid_BS)
            x = self.norm(x + told)[:, 0]
            values = self.values(x).float()
            return Beliefs(self.along(x).float(), self.across(x).float(), values[:, 0], values[:, 1])

    def across_logp(self, beliefs: Beliefs, row_B: Tensor) -> Tensor:
        """(B, 61) log π_y in the given rows; −∞ where the bicycle cannot get to."""
        return beliefs.across_BG.masked_fill(~self.valid_GG[row_B], -torch.inf).log_softmax(-1)

    def loss(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int, step: int, draws: int
    ) -> Tensor:
        whole, at = batch.has_future_B, round(anchors.HORIZON_S / self.config.plan_dt) - 1
        expert = torch.where(whole[:, None], batch.future_BT2[:, at], 0.0)
        row, column = anchors.nearest_valid(expert, self.valid_GG)
        beliefs = self.believe(scene, f_vlm, batch)
        along = F.cross_entropy(beliefs.along_BG, row, reduction="none")
        across = -self.across_logp(beliefs, row).gather(1, column[:, None])[:, 0]
        return (along + across) * whole

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (2,) if self.options.sampled else (0,)

    def plan(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        beliefs = self.believe(scene, f_vlm, batch)
        if self.options.sampled:
            level = torch.special.ndtr(noise.to(beliefs.along_BG.device))  # uniform
            row = drawn(beliefs.along_BG.softmax(-1), level[:, 0])
            column = drawn(self.across_logp(beliefs, row).exp(), level[:, 1])
        else:
            row = beliefs.along_BG.argmax(-1)
            column = self.across_logp(beliefs, row).argmax(-1)
        return self.to_plan(self.cells_GG2[row, column], batch.motion_B4[:, 0])

    @torch.no_grad()
    def considered(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int = 0, draws: int = 16
    ) -> tuple[Tensor, Tensor]:
        """The likeliest cells, as many as four times `draws`, by their probability among these."""
        beliefs = self.believe(scene, f_vlm, batch)
        across = beliefs.across_BG[:, None].masked_fill(~self.valid_GG, -torch.inf).log_softmax(-1)
        joint = (beliefs.along_BG.log_softmax(-1)[..., None] + across).flatten(1)
        logp, cell = joint.topk(4 * draws, dim=1)
        plans = self.to_plan(self.cells_GG2.flatten(0, 1)[cell], batch.motion_B4[:, 0])
        return plans, logp.softmax(1)

    def to_plan(self, ends_B2: Tensor, v_B: Tensor) -> Tensor:
        """(B, …, T, 2): on the arc to each cell (B, …, 2), at one acceleration that is there in half a second; a car
        that would have to turn back stops there."""
        c, h = self.config, anchors.HORIZON_S
        length, kappa = anchors.arc_length(ends_B2)
        v = v_B.clamp_min(0).view(len(v_B), *(1,) * (length.ndim - 1)).expand_as(length)
        accel = (length - v * h) / (0.5 * h * h)
        stops = v + accel * h < 0
        accel = torch.where(stops, -(v**2) / (2 * length.clamp_min(1e-6)), accel)
        t = c.plan_dt * torch.arange(1, c.plan_steps + 1, device=v.device, dtype=v.dtype)
        ends = torch.where(accel < 0, v / (-accel).clamp_min(1e-6), torch.inf)
        at = torch.minimum(t, ends[..., None])
        way = torch.where(length[..., None] > 0, v[..., None] * at + 0.5 * accel[..., None] * at**2, 0.0)
        return anchors.along_arc(way.clamp_min(0), kappa)


def drawn(p_BG: Tensor, level_B: Tensor) -> Tensor:
    """(B,) the bin in which the cumulative probability passes `level_B`, never one of probability 0."""
    total = p_BG.cumsum(-1)
    index = (total < (level_B[:, None] * total[:, -1:]).clamp_min(1e-12)).sum(-1)
    return index.clamp_max(p_BG.shape[-1] - 1)
