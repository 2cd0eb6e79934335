"""`resad`: diffusion of the normalised residual to perturbed inertial references, and a ranker (ResAD, 2510.08562).

The residual to constant velocity is what a network has to explain (TRM), brought to [−1, 1] by its range (PRNorm); the
velocity is perturbed so that candidates fan out (IRP), each still aiming at the expert's plan. A ranker picks one.

Differs from the original: neither text nor code of it was at hand, only two accounts of its formulas; perturbations of
1 m/s along and 0.2 m/s beside are ours; 8 references in training (20 there), 20 when driving; the ranker judges the
candidates that training denoises, by nearness and by one learned sub-score (meets nobody and no kerb) instead of those
of NAVSIM.

Legend: B batch, D candidates, K knots, C width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from senna2.model.batch import Batch
from senna2.model.diffusion import SAMPLE, Schedule, keyed_noise, keyed_uniform
from senna2.model.layers import mlp, sines, zero
from senna2.model.planners.constraints import conflicts
from senna2.model.planners.dit import Block
from senna2.model.planners.knots import KNOT_S, KnotPlanner, Reader, point_encoding
from senna2.model.scene import SceneTokens
from senna2.types import Array

if TYPE_CHECKING:
    from senna2.model.config import PolicyConfig


@dataclass(frozen=True)
class Options:
    ABOVE_0: ClassVar = ("gamma",)
    candidates: int = 8  # in training
    driven: int = 20  # candidates when driving
    sigma_along: float = 1.0  # m/s
    sigma_beside: float = 0.2
    gamma: float = 1.0  # half the width of the normalised range
    ranking: float = 1.0


class ResAd(KnotPlanner):
    """L = mean over candidates of |r̃ − r̂| + CE(softmax(−‖τ* − τ̂‖²), softmax S) + BCE(free, σ(S_free)); ‖·‖²
    the mean over knots [ours]."""

    Options = Options
    range_22: Tensor
    t_K: Tensor

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.register_buffer("range_22", torch.zeros(2, 2), persistent=False)
        t_K = KNOT_S * torch.arange(1, self.knots + 1)
        self.register_buffer("t_K", t_K, persistent=False)
        self._learn_to_be_told(config)
        self.embed = nn.Linear(2, dim)
        self.place_KC = nn.Parameter(torch.randn(self.knots, dim) * 0.5)
        self.time, self.reference = mlp(16, dim, dim), mlp(32 * self.knots, dim, dim)
        self.blocks = nn.ModuleList(Block(dim, config.heads, config.mlp_ratio) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = zero(nn.Linear(dim, 2 * dim))
        self.out = zero(nn.Linear(dim, 2))
        self.candidate, self.judge = mlp(32 * self.knots, dim, dim), Reader(dim, config.heads)
        self.score = mlp(dim, dim, 2)
        self.schedule = Schedule(config.schedule, config.diffusion_steps)

    def more(self, knots_NK2: Array, v_N: Array) -> dict[str, Array]:
        """The residual's range, one pair an axis, over all plans and knots (PRNorm)."""
        residual = knots_NK2.copy()
        residual[..., 0] -= v_N[:, None] * KNOT_S * np.arange(1, self.knots + 1)
        low, high = residual.min((0, 1)), residual.max((0, 1))
        return {"range_22": np.stack([low, high.clip(low + 0.1)])}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return super().shapes() | {"range_22": (2, 2)}

    def normalised(self, residual_K2: Tensor) -> Tensor:
        low, high = self.range_22
        return self.options.gamma * (2 * (residual_K2 - low) / (high - low) - 1)

    def residual(self, normal_K2: Tensor) -> Tensor:
        low, high = self.range_22
        return (normal_K2 / self.options.gamma + 1) / 2 * (high - low) + low

    def references(self, v_B: Tensor, noise_BD2: Tensor) -> Tensor:
        """(B, D, K, 2) constant velocity from the ego on; the first candidate's is not perturbed."""
        sigma = noise_BD2.new_tensor([self.options.sigma_along, self.options.sigma_beside])
        change = noise_BD2 * sigma
        change = torch.cat([torch.zeros_like(change[:, :1]), change[:, 1:]], 1)
        velocity = change + torch.stack([v_B, torch.zeros_like(v_B)], -1)[:, None]
        return velocity[:, :, None] * self.t_K[:, None]

    def _denoise(
        self, x_BDK2: Tensor, t_BD: Tensor, reference: Tensor, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch
    ) -> Tensor:
        """→ x̂0 (B, D, K, 2)"""
        with self.autocast():
            told = self.told(batch.motion_B4, batch.navigation_B, batch.speed_limit_B, f_vlm)[:, None]
            time = self.time(sines(t_BD[..., None].float(), 8, 4000.0))
            c = F.silu(told + time + self.reference(point_encoding(reference)))
            x = self.embed(x_BDK2) + self.place_KC
            for block in self.blocks:
                x = block(x, c, scene.tokens_BSC, scene.valid_BS)
            shift, scale = self.modulation(c).unsqueeze(2).chunk(2, -1)
            return cast(Tensor, self.out(self.norm(x) * (1 + scale) + shift).float())

    def scores(
        self, plans_BDK2: Tensor, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, D) of being the expert's and of meeting nobody and no kerb."""
        with self.autocast():
            told = self.told(batch.motion_B4, batch.navigation_B, batch.speed_limit_B, f_vlm)[:, None]
            x = self.judge(self.candidate(point_encoding(plans_BDK2)) + told, scene.tokens_BSC, scene.valid_BS)
            near, free = self.score(x).float().unbind(-1)
        return near, free

    def loss(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int, step: int, draws: int
    ) -> Tensor:
        self.demand_fitted()
        o, expert = self.options, self.expert(batch)
        shape = (o.candidates, self.knots, 2)
        noise = keyed_noise(batch.index_B, seed, step, shape).to(self.device)
        fan = keyed_noise(batch.index_B, seed, step, (o.candidates, 2), SAMPLE).to(self.device)
        u = keyed_uniform(batch.index_B, seed, step, (o.candidates,)).to(self.device)
        t = (u * self.schedule.steps).long()
        reference = self.references(batch.motion_B4[:, 0], fan)
        target = self.normalised(expert[:, None] - reference)
        x0 = self._denoise(self.schedule.q_sample(target, noise, t), t, reference, scene, f_vlm, batch)
        total = (x0 - target).abs().flatten(1).mean(1)

        plans = (reference + self.residual(x0)).detach()
        near, free = self.scores(plans, scene, f_vlm, batch)
        gap = ((plans - expert[:, None]) ** 2).sum(-1).mean(-1)
        ranking = F.cross_entropy(near, (-gap).softmax(1), reduction="none")
        met = conflicts(plans, batch, self.at_K).float()
        ranking = ranking + F.binary_cross_entropy_with_logits(free, 1 - met, reduction="none").mean(1)
        return (total + o.ranking * ranking) * batch.has_future_B

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.options.driven, self.knots + 1, 2)  # the last row perturbs the reference

    def candidates(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        """(B, D, K, 2) after DDIM from `noise`, in m."""
        self.demand_fitted()
        reference = self.references(batch.motion_B4[:, 0], noise[:, :, -1])

        def denoise(x_BDK2: Tensor, t_B: Tensor) -> Tensor:
            return self._denoise(x_BDK2, t_B[:, None].expand(-1, x_BDK2.shape[1]), reference, scene, f_vlm, batch)

        x0 = self.schedule.ddim(denoise, noise[:, :, :-1], prediction="x0", steps=steps or self.config.ddim_steps)
        return reference + self.residual(x0)

    def plan(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        plans = self.candidates(scene, f_vlm, batch, noise=noise, steps=steps)
        best = self.ranking(plans, scene, f_vlm, batch).argmax(1)
        return self.to_plan(plans[torch.arange(len(plans), device=self.device), best], batch)

    def ranking(self, plans_BDK2: Tensor, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch) -> Tensor:
        """(B, D) the higher, the better."""
        near, free = self.scores(plans_BDK2, scene, f_vlm, batch)
        return near.log_softmax(1) + F.logsigmoid(free)

    @torch.no_grad()
    def considered(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int = 0, draws: int = 16
    ) -> tuple[Tensor, Tensor]:
        """The candidates, by what the ranker says of them."""
        noise = self.sample_noise(batch.index_B, seed)
        plans = self.candidates(scene, f_vlm, batch, noise=noise)
        return self.to_plan(plans, batch), self.ranking(plans, scene, f_vlm, batch).softmax(1)
