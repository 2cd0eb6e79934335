"""DiT planner: denoises the residual plan under the scene (cross-attention) and F_vlm (adaLN-zero); spec section 2.

Legend: B batch, D draws (noise samples that share a scene), K coefficients, N plan tokens, S scene tokens, C width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from senna2.model.layers import Attention, mlp, sines, zero
from senna2.types import Direction


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


class DiT(nn.Module):
    """Network of the diffusion: x_t, t, scene, ego speed, command, speed limit and F_vlm → x0, ε or v.

    The last layer starts at zero: before training the x0-planner drives the inertial reference exactly. F_vlm enters
    through a projection that starts at zero too, so a fresh adapter on a trained planner changes nothing (stage 1c).
    """

    def __init__(
        self, *, coefficients: int, group: int, dim: int, heads: int, blocks: int, mlp_ratio: int,
        speed_limit_input: bool, motion_input: str = "speed",
    ) -> None:  # fmt: skip
        super().__init__()
        self.group, self.speed_limit_input, self.motion_input = group, speed_limit_input, motion_input
        self.embed = nn.Linear(2 * group, dim)
        self.place_NC = nn.Parameter(torch.randn(coefficients // group, dim) * 0.5)
        self.time = mlp(16, dim, dim)
        self.motion = mlp(6 if motion_input == "all" else 3, dim, dim)
        self.navigation = nn.Embedding(len(Direction), dim)
        self.command = mlp(dim + 4, dim, dim)
        self.f_vlm = zero(nn.Linear(dim, dim, bias=False))
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = zero(nn.Linear(dim, 2 * dim))
        self.out = zero(nn.Linear(dim, 2 * group))

    def forward(
        self, x_BDK2: Tensor, t_BD: Tensor, scene_BSC: Tensor, valid_BS: Tensor | None, *, motion_B4: Tensor,
        navigation_B: Tensor, speed_limit_B: Tensor, f_vlm_BC: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """→ (B, D, K, 2). `f_vlm_BC` None stands for zeros (stage 1b)."""
        c_BC = self.motion(_motion(motion_B4, self.motion_input))
        c_BC = c_BC + self._command(motion_B4[:, 0], navigation_B, speed_limit_B)
        if f_vlm_BC is not None:
            c_BC = c_BC + self.f_vlm(f_vlm_BC)
        time = self.time(sines(t_BD[..., None].to(x_BDK2.dtype), 8, 4000.0))
        c = nn.functional.silu(time + c_BC[:, None])
        x = self.embed(x_BDK2.unflatten(2, (-1, self.group)).flatten(-2)) + self.place_NC
        for block in self.blocks:
            x = block(x, c, scene_BSC, valid_BS)
        shift, scale = self.modulation(c).unsqueeze(2).chunk(2, -1)
        y = self.out(self.norm(x) * (1 + scale) + shift)
        return cast(Tensor, y.unflatten(-1, (self.group, 2)).flatten(2, 3))

    def _command(self, v_B: Tensor, navigation_B: Tensor, limit_B: Tensor) -> Tensor:
        """Command × speed limit, one embedding. An unknown limit (NaN) is marked, not guessed."""
        known = torch.isfinite(limit_B) if self.speed_limit_input else torch.zeros_like(limit_B, dtype=torch.bool)
        limit = torch.where(known, limit_B, v_B)
        features = torch.stack([known.float(), known * limit / 15, (limit - v_B) / 5, (limit - v_B).clamp(-2, 2)], -1)
        return cast(Tensor, self.command(torch.cat([self.navigation(navigation_B % len(Direction)), features], -1)))


def _motion(motion_B4: Tensor, inputs: str) -> Tensor:
    """v, and with "all" also a, yaw rate and steer, to about unit size, with the standing start resolved."""
    v, a, yaw_rate, steer = motion_B4.unbind(-1)
    speed = [v / 10, torch.exp(-v.clamp_min(0)), v**2 / 200]
    return torch.stack(speed if inputs == "speed" else [*speed, a / 2, yaw_rate / 0.3, steer / 0.2], -1)
