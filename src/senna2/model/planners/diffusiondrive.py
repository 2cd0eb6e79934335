"""`diffusiondrive`: diffusion cut short, from anchors, with a classifier of modes (DiffusionDrive, arXiv 2411.15139).

K-means anchors of the expert's plans are nudged by a little noise; two cascaded decoder layers read the scene at the
noisy plans, refine each by an offset, and say which one the expert took. Driving denoises twice, then takes the
likeliest.

Differs from the original: no bird's-eye grid, so instead of sampling features at the plan's points a plan reads the
scene tokens with its points as query; no yaw; the classifier weighs 25 to the regression's 1, not the release's 10 to
8, which takes far more samples than here (docs/decisions/mode-classifier.md); the first call's DDIM step goes from t =
10 to 9, as in the release's schedule: the second reads anchors with a little noise, as in training.

Legend: B batch, V anchors, K knots, C width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from senna2.model.batch import Batch
from senna2.model.diffusion import Schedule, keyed_noise, keyed_uniform
from senna2.model.layers import mlp, sines, zero, zero_last
from senna2.model.planners.knots import KnotPlanner, Reader, point_encoding
from senna2.model.planners.vocabulary import clustered_plans
from senna2.model.scene import SceneTokens
from senna2.types import Array

if TYPE_CHECKING:
    from senna2.model.config import PolicyConfig

NOISE_AT, CALLS = 8, (10, 0)  # of 1000: the noise put on the anchors when driving, and the times the decoder is told


@dataclass(frozen=True)
class Options:
    MOST: ClassVar = {"truncated": 1000}
    anchors: int = 20
    layers: int = 2
    truncated: int = 50  # training draws its time below this, of 1000
    classification: float = 25.0  # to 1 of the regression; the release: 1.25


class Layer(nn.Module):
    """One refinement: (plans, what they are told, time) → offsets in m (B, V, K, 2) and logits (B, V)."""

    def __init__(self, dim: int, heads: int, knots: int) -> None:
        super().__init__()
        self.knots = knots
        self.embed = mlp(32 * knots, dim, dim)
        self.rest, self.agents, self.lines = (Reader(dim, heads) for _ in range(3))
        self.norm = nn.LayerNorm(dim)
        self.time = zero(nn.Linear(dim, 2 * dim))
        self.offset, self.logit = zero_last(mlp(dim, dim, 2 * knots)), mlp(dim, dim, 1)

    def forward(
        self, plans_BVK2: Tensor, told_BC: Tensor, time_BC: Tensor, scene: SceneTokens
    ) -> tuple[Tensor, Tensor]:
        x = self.embed(point_encoding(plans_BVK2)) + told_BC[:, None]
        x = self.rest(x, *scene.part("rest"))
        x = self.lines(self.agents(x, *scene.part("agents")), *scene.part("lines"))
        scale, shift = self.time(F.mish(time_BC))[:, None].chunk(2, -1)
        x = self.norm(x) * (1 + scale) + shift
        return self.offset(x).float().unflatten(-1, (self.knots, 2)), self.logit(x).float()[..., 0]


class DiffusionDrive(KnotPlanner):
    """L = Σ over layers of 25 · focal(which anchor is the expert's nearest) + |τ − τ*| of that one, m."""

    Options = Options
    anchors_VK2: Tensor
    range_22: Tensor

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        dim, o = config.dim, self.options
        for name, shape in self.shapes().items():
            self.register_buffer(name, torch.zeros(shape), persistent=False)
        self._learn_to_be_told(config)
        self.time = mlp(16, dim, dim)
        self.layers = nn.ModuleList(Layer(dim, config.heads, self.knots) for _ in range(o.layers))
        self.schedule = Schedule("scaled_linear", 1000)

    def more(self, knots_NK2: Array, v_N: Array) -> dict[str, Array]:
        low, high = knots_NK2.min((0, 1)), knots_NK2.max((0, 1))
        high = high.clip(low + 1.0)  # a set of straight roads has no width
        anchors = clustered_plans(knots_NK2, self.options.anchors)
        return {"anchors_VK2": anchors, "range_22": np.stack([low, high])}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return super().shapes() | {"anchors_VK2": (self.options.anchors, self.knots, 2), "range_22": (2, 2)}

    def _normal(self, knots_K2: Tensor) -> Tensor:
        """m → [−1, 1] of the training range."""
        low, high = self.range_22
        return 2 * (knots_K2 - low) / (high - low) - 1

    def _metres(self, normal_K2: Tensor) -> Tensor:
        low, high = self.range_22
        return (normal_K2.clamp(-1, 1) + 1) / 2 * (high - low) + low

    def _decode(
        self, plans: Tensor, t_B: Tensor, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch
    ) -> list[tuple[Tensor, Tensor]]:
        """Refined plans and logits of every layer; a layer begins where the one before ended, without its gradient."""
        found = []
        with self.autocast():
            told = self.told(batch.motion_B4, batch.navigation_B, batch.speed_limit_B, f_vlm)
            time = self.time(sines(t_B[:, None].float(), 8, 4000.0))
            for layer in self.layers:
                offset, logit = layer(plans, told, time, scene)
                plans = plans + offset
                found.append((plans, logit))
                plans = plans.detach()
        return found

    def loss(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int, step: int, draws: int
    ) -> Tensor:
        self.demand_fitted()
        o, expert = self.options, self.expert(batch)
        t = (keyed_uniform(batch.index_B, seed, step, ()) * o.truncated).long().to(self.device)
        noise = keyed_noise(batch.index_B, seed, step, self.noise_shape).to(self.device)
        noisy = self.schedule.q_sample(self._normal(self.anchors_VK2).expand(len(batch), -1, -1, -1), noise, t)
        own = torch.linalg.vector_norm(self.anchors_VK2 - expert[:, None], dim=-1).mean(-1).argmin(1)
        total = torch.zeros(len(batch), device=self.device)
        for plans, logit in self._decode(self._metres(noisy), t, scene, f_vlm, batch):
            mine = plans[torch.arange(len(plans), device=self.device), own]
            total = total + (mine - expert).abs().mean((1, 2)) + o.classification * focal(logit, own)
        return total * batch.has_future_B

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.options.anchors, self.knots, 2)

    def modes(self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Refined knots (B, V, K, 2) of every anchor and their logits (B, V)."""
        self.demand_fitted()
        n = len(batch)
        at = torch.full((n,), NOISE_AT, device=self.device)
        x = self.schedule.q_sample(self._normal(self.anchors_VK2).expand(n, -1, -1, -1), noise, at)
        plans, logit = self._metres(x), noise.new_zeros(n, self.options.anchors)
        for now in CALLS:
            t = torch.full_like(at, now)
            plans, logit = self._decode(self._metres(x), t, scene, f_vlm, batch)[-1]
            x0, eps = self.schedule.resolve(self._normal(plans), x, t, "x0")
            a, s = self.schedule.roots(t - 1, x.ndim - 1)
            x = a * x0 + s * eps
        return plans, logit

    def plan(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        plans, logit = self.modes(scene, f_vlm, batch, noise=noise)
        return self.to_plan(plans[torch.arange(len(batch), device=self.device), logit.argmax(1)], batch)

    @torch.no_grad()
    def considered(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int = 0, draws: int = 16
    ) -> tuple[Tensor, Tensor]:
        """The mode of every anchor, by its share of the scores."""
        noise = self.sample_noise(batch.index_B, seed)
        plans, logit = self.modes(scene, f_vlm, batch, noise=noise)
        score = logit.sigmoid()
        return self.to_plan(plans, batch), score / score.sum(1, keepdim=True)


def focal(logit_BV: Tensor, own_B: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """(B,) sigmoid focal loss of a one-hot target, its mean over the classes (the release's reduction)."""
    target = F.one_hot(own_B, logit_BV.shape[1]).float()
    p = logit_BV.sigmoid()
    p_right = torch.where(target > 0, p, 1 - p)
    weight = torch.where(target > 0, alpha, 1 - alpha)
    bce = F.binary_cross_entropy_with_logits(logit_BV, target, reduction="none")
    return (weight * (1 - p_right) ** gamma * bce).mean(1)
