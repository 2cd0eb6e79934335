"""`vadv2`: a distribution over a vocabulary of plans (VADv2, arXiv 2402.13243).

Every plan is a token that reads images, agents and map in turn; an MLP gives it one logit. Trained towards the expert's
plan, softly by distance, and away from plans that meet somebody or a kerb.

Differs from the original: of the 4096 plans (furthest-trajectory sampling, as there) those 512 are scored that begin
nearest to the ego's speed, since a car cannot follow the others (docs/decisions/vocabulary-in-reach.md), and of them 64
are drawn a step (the release: 256 of 4096); the loss is cross-entropy plus the conflict term, as the paper writes it,
not the release's focal loss with its weights; conflicts: `constraints`. With adapter="decision" this is `senna_vadv2`:
the planning tokens are told the meta-action (Senna, arXiv 2410.22313).

Legend: B batch, V vocabulary, M plans that are scored, or those drawn of them, K knots, C width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from senna2.model.batch import Batch
from senna2.model.diffusion import keyed_uniform
from senna2.model.layers import mlp
from senna2.model.planners.constraints import conflicts
from senna2.model.planners.knots import KNOT_S, KnotPlanner, Reader, point_encoding
from senna2.model.planners.vocabulary import furthest_plans
from senna2.model.scene import SceneTokens
from senna2.types import Array

if TYPE_CHECKING:
    from senna2.model.config import PolicyConfig


@dataclass(frozen=True)
class Options:
    ABOVE_0: ClassVar = ("temperature_m",)
    vocabulary: int = 4096
    scored: int = 512  # of them: those whose first half second is nearest to the ego's speed
    drawn: int = 64  # of those, a step, the expert's nearest among them
    temperature_m: float = 0.5  # of the soft target over distances
    conflict: float = 1.0
    sampled: bool = False  # a plan is drawn from the distribution; else the likeliest is taken


class VadV2(KnotPlanner):
    """L = CE(q, p) − λ log(1 − Σ over conflicting plans of p), p = softmax z."""

    Options = Options
    vocabulary_VK2: Tensor

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        dim, o = config.dim, self.options
        self.register_buffer("vocabulary_VK2", torch.zeros(o.vocabulary, self.knots, 2), persistent=False)
        self._learn_to_be_told(config)
        self.embed = mlp(32 * self.knots, dim, dim)
        self.images, self.agents, self.map = (Reader(dim, config.heads) for _ in range(3))
        # No bias: a softmax does not see one.
        self.head = nn.Sequential(mlp(dim, dim), nn.SiLU(), nn.Linear(dim, 1, bias=False))

    def more(self, knots_NK2: Array, v_N: Array) -> dict[str, Array]:
        # To a tenth of a millimetre: a checkpoint holds it as text.
        return {"vocabulary_VK2": furthest_plans(knots_NK2, self.options.vocabulary).round(4)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return super().shapes() | {"vocabulary_VK2": (self.options.vocabulary, self.knots, 2)}

    def in_reach(self, v_B: Tensor) -> Tensor:
        """(B, M, K, 2) the plans that are scored at these speeds, nearest first."""
        first_V = torch.linalg.vector_norm(self.vocabulary_VK2[:, 0], dim=-1)
        count = min(self.options.scored, len(first_V))
        return self.vocabulary_VK2[(first_V - KNOT_S * v_B[:, None]).abs().topk(count, largest=False).indices]

    def logits(self, plans_BMK2: Tensor, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch) -> Tensor:
        """(B, M)"""
        with self.autocast():
            told = self.told(batch.motion_B4, batch.navigation_B, batch.speed_limit_B, f_vlm)[:, None]
            x = self.embed(point_encoding(plans_BMK2)) + told
            x = self.images(x, *scene.part("rest"))
            agents = self.agents(x, *scene.part("agents"))
            lines = self.map(agents, *scene.part("lines"))
            return cast(Tensor, self.head(agents + lines + told).float()[..., 0])

    def _drawn(self, gap_BM: Tensor, batch: Batch, seed: int, step: int) -> Tensor:
        """(B, drawn) indices into M: the expert's nearest first, then others in an order keyed by the sample."""
        size = gap_BM.shape[1]
        order = keyed_uniform(batch.index_B, seed, step, (size,)).to(self.device)
        order = order.scatter(1, gap_BM.argmin(1, keepdim=True), -1.0)
        return order.topk(min(self.options.drawn, size), largest=False).indices

    def loss(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int, step: int, draws: int
    ) -> Tensor:
        self.demand_fitted()
        o, expert = self.options, self.expert(batch)
        plans = self.in_reach(batch.motion_B4[:, 0])
        gap_BM = torch.linalg.vector_norm(plans - expert[:, None], dim=-1).mean(-1)
        drawn = self._drawn(gap_BM, batch, seed, step)
        plans, gap = plans.take_along_dim(drawn[..., None, None], 1), gap_BM.gather(1, drawn)
        z = self.logits(plans, scene, f_vlm, batch)
        meets = conflicts(plans, batch, self.at_K)
        meets[:, 0] = False  # the expert's own nearest: what it meets is the vocabulary's coarseness
        near = (-gap / o.temperature_m).masked_fill(meets, -torch.inf).softmax(1)
        imitation = F.cross_entropy(z, near, reduction="none")
        # Of the softmax, not of each logit's own sigmoid: that would be met by lowering all logits alike.
        conflict = -torch.log1p(-(z.softmax(1) * meets).sum(1).clamp_max(1 - 1e-6))
        return (imitation + o.conflict * conflict) * batch.has_future_B

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (1,) if self.options.sampled else (0,)

    def plan(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        self.demand_fitted()
        plans = self.in_reach(batch.motion_B4[:, 0])
        z = self.logits(plans, scene, f_vlm, batch)
        if self.options.sampled:
            level = torch.special.ndtr(noise[:, 0])[:, None]  # uniform
            best = (z.softmax(1).cumsum(1) < level).sum(1).clamp_max(z.shape[1] - 1)
        else:
            best = z.argmax(1)
        return self.to_plan(plans[torch.arange(len(plans), device=best.device), best], batch)

    @torch.no_grad()
    def considered(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int = 0, draws: int = 16
    ) -> tuple[Tensor, Tensor]:
        """All that are scored, by probability."""
        self.demand_fitted()
        plans = self.in_reach(batch.motion_B4[:, 0])
        return self.to_plan(plans, batch), self.logits(plans, scene, f_vlm, batch).softmax(1)
