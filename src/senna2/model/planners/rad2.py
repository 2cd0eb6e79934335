"""`rad2`: a generator proposes plans, a discriminator trained on closed-loop returns chooses (RAD-2, arXiv 2604.15308).

The generator is the `dit` of this project: diffusion of the residual, as many candidates as asked for from one pass
over the scene. The discriminator reads points of each candidate with a [CLS] token, then agents, map and images, and
gives it one score. Its last layer starts at zero: until it has learned from drives (`train.rad2`) the first candidate
is driven, which is what `dit` would plan.

Differs from the original, of which no code is public: 16 candidates (32 there), scored against the shared scene tokens
instead of encoders of its own; the choice is a softmax over them, not a sigmoid of each; drives are in the simulator's
images, not in warped features of the bird's-eye view.

Legend: B batch, M candidates, K coefficients, T plan steps, P points that are read, C width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from senna2.model.batch import Batch
from senna2.model.layers import Attention, mlp, sines, zero_last
from senna2.model.planners.dit import DiT
from senna2.model.planners.knots import Reader
from senna2.model.planners.rad import drawn
from senna2.model.scene import SceneTokens
from senna2.types import PLAN_STEPS

if TYPE_CHECKING:
    from senna2.model.config import PolicyConfig


@dataclass(frozen=True)
class Options:
    MOST: ClassVar = {"read_every": PLAN_STEPS}
    candidates: int = 16
    read_every: int = 3  # of a plan's points, the discriminator reads every third
    sampled: bool = False  # a candidate is drawn by its score; else the best is taken


class Discriminator(nn.Module):
    """One score a candidate: its points read by a [CLS] token, then agents, map and images by what that found."""

    def __init__(self, dim: int, heads: int, points: int) -> None:
        super().__init__()
        self.point = mlp(32, dim, dim)
        self.place_PC = nn.Parameter(torch.randn(1 + points, dim) * 0.5)
        self.norm = nn.LayerNorm(dim)
        self.among_points = Attention(dim, heads)
        self.told = nn.Linear(dim, dim)
        self.agents, self.lines, self.rest = (Reader(dim, heads) for _ in range(3))
        last = nn.Linear(dim, 1, bias=False)  # a softmax does not see a bias
        self.score = zero_last(nn.Sequential(nn.LayerNorm(dim), mlp(dim, dim), nn.SiLU(), last))

    def forward(self, points_BMP2: Tensor, told_BC: Tensor, scene: SceneTokens) -> Tensor:
        """→ (B, M)"""
        points = self.point(sines(points_BMP2, 8, 200.0))
        x = torch.cat([torch.zeros_like(points[..., :1, :]), points], -2) + self.place_PC
        h = self.norm(x).flatten(0, 1)
        read = x[..., 0, :] + self.among_points(h[:, :1], h)[:, 0].view_as(x[..., 0, :])
        read = read + self.told(told_BC)[:, None]
        for name, reader in (("agents", self.agents), ("lines", self.lines), ("rest", self.rest)):
            read = reader(read, *scene.part(name))
        out: Tensor = self.score(read)[..., 0]
        return out


class Rad2(DiT):
    """π(m | s) = softmax of the scores of the candidates τ_1 … τ_M."""

    Options = Options

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        points = config.plan_steps // self.options.read_every
        self.discriminator = Discriminator(config.dim, config.heads, points)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """The last row draws among the candidates."""
        return (self.options.candidates + 1, self.config.coefficients, 2)

    def candidates(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        """(B, M, T, 2) m, by DDIM from `noise` (B, M + 1, K, 2)."""
        z = self.denoised(scene, f_vlm, batch, noise=noise[:, :-1], steps=steps)
        return self._reference(batch)[:, None] + self._known().decode(z)

    def scores(self, plans_BMT2: Tensor, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch) -> Tensor:
        """(B, M) logits of the candidates."""
        every = self.options.read_every
        with self.autocast():
            told = self.told(batch.motion_B4, batch.navigation_B, batch.speed_limit_B, f_vlm)
            out: Tensor = self.discriminator(plans_BMT2[..., every - 1 :: every, :], told, scene)
        return out.float()

    def plan(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        plans = self.candidates(scene, f_vlm, batch, noise=noise, steps=steps)
        scores = self.scores(plans, scene, f_vlm, batch)
        if self.options.sampled:
            best = drawn(scores.softmax(1), torch.special.ndtr(noise[:, -1, 0, 0]).to(scores.device))
        else:
            best = scores.argmax(1)
        return plans[torch.arange(len(plans), device=plans.device), best]

    @torch.no_grad()
    def considered(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int = 0, draws: int = 16
    ) -> tuple[Tensor, Tensor]:
        """The candidates, by the discriminator's scores."""
        noise = self.sample_noise(batch.index_B, seed)
        plans = self.candidates(scene, f_vlm, batch, noise=noise)
        return plans, self.scores(plans, scene, f_vlm, batch).softmax(1)
