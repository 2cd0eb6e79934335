"""`genad`: a latent future, rolled out by a recurrent network (GenAD, arXiv 2402.11502).

What the ego has read of the scene gives a prior over a latent; scene and expert's future together give a posterior. The
plan is rolled forward from the latent by a GRU, an offset a knot. Training draws from the posterior and pulls prior and
posterior together; driving draws from the prior. VAD's three constraints hold here too.

Differs from the original: the ego's future alone is generated, not that of the other agents (the shared perception
heads state no futures); five commands instead of three, "unknown" is straight on; scene tokens of the shared backbone;
with no other futures to tell, the latent says next to nothing at the release's weight of the KL: prior and posterior
are nearly one, and draws differ by centimetres (`kl` .02 widens them, for FDE 2.06 instead of 1.67 m on tuning clips).

Legend: B batch, M commands, K knots, Z latent, C width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from senna2.model.batch import Batch
from senna2.model.diffusion import keyed_noise
from senna2.model.layers import mlp, zero_last
from senna2.model.planners.constraints import ConstraintWeights, vectorised_loss
from senna2.model.planners.knots import Reader, StepPlanner
from senna2.model.scene import SceneTokens
from senna2.types import Direction

if TYPE_CHECKING:
    from senna2.model.config import PolicyConfig


@dataclass(frozen=True)
class Options(ConstraintWeights):
    latent: int = 32
    kl: float = 1.0
    sampled: bool = True  # drive by a draw from the prior, as released; False: by its mean


def gaussian_kl(mean_q: Tensor, log_q: Tensor, mean_p: Tensor, log_p: Tensor) -> Tensor:
    """KL(q ‖ p) of diagonal Gaussians by means and log standard deviations, summed over the last axis."""
    ratio = (torch.exp(2 * log_q) + (mean_q - mean_p) ** 2) / (2 * torch.exp(2 * log_p))
    return (log_p - log_q + ratio - 0.5).sum(-1)


class GenAd(StepPlanner):
    """L = |τ − τ*| + `kl` KL(q ‖ p) + 3 boundary + 1½ collision + 1½ direction."""

    Options = Options

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        dim, z = config.dim, self.options.latent
        self._learn_to_be_told(config)
        self.query_C = nn.Parameter(torch.randn(dim) * 0.5)
        self.rest, self.agents, self.map = (Reader(dim, config.heads) for _ in range(3))
        self.prior = zero_last(mlp(2 * dim, dim, 2 * z))
        self.posterior = zero_last(mlp(2 * dim + 2 * self.knots, dim, 2 * z))
        self.step = nn.GRUCell(z, 2 * dim)
        self.head = zero_last(mlp(4 * dim, dim, 2 * len(Direction)))

    def _state(self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch) -> Tensor:
        told = self.told(batch.motion_B4, batch.navigation_B, batch.speed_limit_B, f_vlm)
        x = self.rest((self.query_C + told)[:, None], *scene.part("rest"))
        x = self.map(self.agents(x, *scene.part("agents")), *scene.part("lines"))
        return torch.cat([x[:, 0], told], -1)

    def _roll(self, state_BC: Tensor, z_BZ: Tensor, batch: Batch) -> Tensor:
        """(B, K, 2) knots under the command given."""
        given = batch.navigation_B.clamp_min(0)[:, None, None].expand(-1, 1, 2)
        hidden, offsets = state_BC, []
        for _ in range(self.knots):
            hidden = self.step(z_BZ, hidden)
            out = self.head(torch.cat([state_BC, hidden], -1)).unflatten(-1, (len(Direction), 2))
            offsets.append(out.gather(1, given)[:, 0])
        return self.from_steps(torch.stack(offsets, 1).float())

    @staticmethod
    def _gaussian(out: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sigma = out.float().chunk(2, -1)
        return mean, log_sigma.clamp(-5, 5)

    def loss(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int, step: int, draws: int
    ) -> Tensor:
        self.demand_fitted()
        o, expert = self.options, self.expert(batch)
        with self.autocast():
            state = self._state(scene, f_vlm, batch)
            mean_p, log_p = self._gaussian(self.prior(state))
            mean_q, log_q = self._gaussian(self.posterior(torch.cat([state, self.to_units(expert).flatten(1)], -1)))
            noise = keyed_noise(batch.index_B, seed, step, (o.latent,)).to(self.device)
            knots = self._roll(state, mean_q + log_q.exp() * noise, batch)
        total = vectorised_loss(knots, expert, batch, self.at_K, o)
        total = total + o.kl * gaussian_kl(mean_q, log_q, mean_p, log_p)
        return total * batch.has_future_B

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.options.latent,)

    def plan(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        self.demand_fitted()
        with self.autocast():
            state = self._state(scene, f_vlm, batch)
            mean, log_sigma = self._gaussian(self.prior(state))
            knots = self._roll(state, mean + log_sigma.exp() * noise if self.options.sampled else mean, batch)
        return self.to_plan(knots, batch)
