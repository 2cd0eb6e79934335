"""`dit`: diffusion of the residual to the inertial reference, the planner of Senna-2 (arXiv 2603.11219, section 3.2).

The network denoises the residual under the scene (cross-attention) and F_vlm (adaLN-zero); two steps of DDIM make a
plan.

Differs from the original, whose code is closed: the residual is stated in whitened principal modes, not in 30 free
points; x0 is predicted, not the noise, under a cosine schedule; half of the training times are the sampler's first
step; smooth L1; four draws a sample. Each is a switch of `PolicyConfig` (docs/method.md, section 8).

Legend: B batch, D draws (noise samples that share a scene), K coefficients, N plan tokens, S scene tokens, C width,
T plan steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from senna2.model import diffusion
from senna2.model.basis import PlanBasis
from senna2.model.batch import Batch
from senna2.model.layers import Attention, mlp, sines, zero
from senna2.model.planners.base import Planner
from senna2.model.scene import SceneTokens
from senna2.types import InputError, Samples

if TYPE_CHECKING:
    from senna2.model.config import PolicyConfig


class Block(nn.Module):
    """Self-attention over the plan tokens, cross-attention to the scene, MLP."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim, elementwise_affine=i == 1) for i in range(3))
        self.self_attention, self.cross_attention = Attention(dim, heads), Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_ratio * dim), nn.GELU("tanh"), nn.Linear(mlp_ratio * dim, dim))
        self.modulation = zero(nn.Linear(dim, 6 * dim))

    def forward(self, x_BDNC: Tensor, c_BDC: Tensor, scene_BSC: Tensor, valid_BS: Tensor | None) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(c_BDC).unsqueeze(2).chunk(6, -1)
        h = self.norms[0](x_BDNC) * (1 + scale_1) + shift_1
        x = x_BDNC + gate_1 * self.self_attention(h.flatten(0, 1)).view_as(x_BDNC)
        # All draws of a sample query one scene: keys and values are computed once, so more draws are nearly free.
        x = x + self.cross_attention(self.norms[1](x).flatten(1, 2), scene_BSC, valid_BS).view_as(x)
        h = self.norms[2](x) * (1 + scale_2) + shift_2
        return cast(Tensor, x + gate_2 * self.mlp(h))


@dataclass(frozen=True)
class Options:
    # Spread of a normal noise on the plan's coefficients, in their units: a policy with a density, for trainers that
    # need one (`train.gradient`). 0: what is planned is DDIM's alone.
    explore: float = 0.0


class DiT(Planner):
    """L_E2E = E ‖ε − ε_θ(r_t, t, c)‖² (or x0, v) on the residual's coefficients; plans by two steps of DDIM.

    The network: x_t, t, scene, ego speed, command, speed limit and F_vlm → x0, ε or v.

    The last layer starts at zero: before training the x0-planner drives the inertial reference exactly. F_vlm enters
    through a projection that starts at zero too, so a fresh adapter on a trained planner changes nothing (stage 1c).
    """

    Options: ClassVar[type[Any]] = Options
    basis: PlanBasis | None

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        c, dim = config, config.dim
        self.group = c.group
        self.embed = nn.Linear(2 * c.group, dim)
        self.place_NC = nn.Parameter(torch.randn(c.coefficients // c.group, dim) * 0.5)
        self.time = mlp(16, dim, dim)
        self._learn_to_be_told(config)
        self.blocks = nn.ModuleList(Block(dim, c.heads, c.mlp_ratio) for _ in range(c.blocks))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = zero(nn.Linear(dim, 2 * dim))
        self.out = zero(nn.Linear(dim, 2 * c.group))
        self.schedule = diffusion.Schedule(c.schedule, c.diffusion_steps)
        self.basis = None

    def forward(
        self, x_BDK2: Tensor, t_BD: Tensor, scene_BSC: Tensor, valid_BS: Tensor | None, *, motion_B4: Tensor,
        navigation_B: Tensor, speed_limit_B: Tensor, f_vlm_BC: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """→ (B, D, K, 2). `f_vlm_BC` None stands for zeros (stage 1b)."""
        c_BC = self.told(motion_B4, navigation_B, speed_limit_B, f_vlm_BC)
        time = self.time(sines(t_BD[..., None].to(x_BDK2.dtype), 8, 4000.0))
        c = nn.functional.silu(time + c_BC[:, None])
        x = self.embed(x_BDK2.unflatten(2, (-1, self.group)).flatten(-2)) + self.place_NC
        for block in self.blocks:
            x = block(x, c, scene_BSC, valid_BS)
        shift, scale = self.modulation(c).unsqueeze(2).chunk(2, -1)
        y = self.out(self.norm(x) * (1 + scale) + shift)
        return cast(Tensor, y.unflatten(-1, (self.group, 2)).flatten(2, 3))

    def fit(self, samples: Samples) -> None:
        """Fit the plan basis on the residuals."""
        c = self.config
        future, v = samples.future_NT3[..., :2], samples.motion_N4[:, 0]
        whole = np.isfinite(future).all((1, 2))
        t = c.plan_dt * np.arange(1, c.plan_steps + 1)
        residual = future[whole].astype(np.float64)
        residual[..., 0] -= v[whole, None] * t
        self._adopt(PlanBasis.fit(residual, kind=c.basis, modes=c.modes, dt=c.plan_dt), "fit")

    @property
    def is_fitted(self) -> bool:
        return self.basis is not None

    def fitted(self) -> dict[str, Any] | None:
        return None if self.basis is None else self.basis.to_json()

    def restore(self, data: Mapping[str, Any], where: str = "normalisation.json") -> None:
        self._adopt(PlanBasis.from_json(data, where), where)

    def _adopt(self, basis: PlanBasis, where: str) -> None:
        c = self.config
        got, wanted = (basis.kind, basis.coefficients, basis.steps), (c.basis, c.coefficients, c.plan_steps)
        if got != wanted or abs(basis.dt - c.plan_dt) > 1e-9:
            raise InputError(
                f"{where}: basis {got} at {basis.dt} s does not fit the policy's {wanted} at {c.plan_dt} s; "
                "fit it with the policy's own configuration"
            )
        self.basis = basis.to(self.place_NC.device)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """One that explores draws as many numbers again."""
        return ((2 if self.options.explore else 1) * self.config.coefficients, 2)

    def _known(self) -> PlanBasis:
        self.demand_fitted()
        return cast(PlanBasis, self.basis)

    def _reference(self, batch: Batch) -> Tensor:
        return diffusion.inertial_reference(batch.motion_B4[:, 0], self.config.plan_steps, self.config.plan_dt)

    def _denoise(self, x_BDK2: Tensor, t_BD: Tensor, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch) -> Tensor:
        with self.autocast():
            out = self(
                x_BDK2, t_BD, scene.tokens_BSC, scene.valid_BS, motion_B4=batch.motion_B4,
                navigation_B=batch.navigation_B, speed_limit_B=batch.speed_limit_B, f_vlm_BC=f_vlm,
            )  # fmt: skip
        return cast(Tensor, out.float())

    def loss(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, seed: int, step: int, draws: int
    ) -> Tensor:
        """Error of the predicted noise (or x0, v) of the residual plan, mean over coefficients and draws."""
        c, basis, whole = self.config, self._known(), batch.has_future_B
        residual = torch.where(whole[:, None, None], batch.future_BT2 - self._reference(batch), 0.0)
        z = basis.encode(residual)[:, None].expand(-1, draws, -1, -1)
        noise = diffusion.keyed_noise(batch.index_B, seed, step, (draws, c.coefficients, 2)).to(self.device)
        t = diffusion.training_times(
            batch.index_B, seed, step, draws=draws, steps=c.diffusion_steps, t_start=c.t_start,
            first_share=c.first_step_share,
        ).to(self.device)  # fmt: skip
        out = self._denoise(self.schedule.q_sample(z, noise, t), t, scene, f_vlm, batch)
        target = self.schedule.target(z, noise, t, c.prediction)
        if c.loss == "mse":
            loss = F.mse_loss(out, target, reduction="none")
        else:
            loss = F.smooth_l1_loss(out, target, beta=c.loss_beta, reduction="none")
        return loss.flatten(1).mean(-1) * whole

    def plan(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        """Deterministic DDIM from `noise` (B, K, 2); differentiable through every step, as L_low needs."""
        k = self.config.coefficients
        z = self.coefficients(scene, f_vlm, batch, noise=noise[:, :k], steps=steps)
        if self.options.explore:
            z = z + self.options.explore * noise[:, k:]
        return self._reference(batch) + self._known().decode(z)

    def coefficients(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        """(B, K, 2) DDIM's plan in the coefficients of the basis."""
        return self.denoised(scene, f_vlm, batch, noise=noise[:, None], steps=steps)[:, 0]

    def denoised(
        self, scene: SceneTokens, f_vlm: Tensor | None, batch: Batch, *, noise: Tensor, steps: int | None = None
    ) -> Tensor:
        """(B, D, K, 2) by DDIM from as many noises, which share the scene."""
        c = self.config

        def denoise(x_BDK2: Tensor, t_B: Tensor) -> Tensor:
            return self._denoise(x_BDK2, t_B[:, None].expand(-1, x_BDK2.shape[1]), scene, f_vlm, batch)

        return self.schedule.ddim(
            denoise, noise, prediction=c.prediction, steps=steps or c.ddim_steps, t_start=c.t_start
        )  # fmt: skip

    def coefficients_of(self, plan_BT2: Tensor, batch: Batch) -> Tensor:
        """(B, T, 2) m → (B, K, 2): those of a plan that this planner made."""
        return self._known().encode(plan_BT2 - self._reference(batch))
