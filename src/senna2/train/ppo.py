"""Proximal policy optimisation with generalised advantages, as pure functions (Schulman et al. 2015, 2017).

Legend: F frames of one episode, B samples.
"""

from __future__ import annotations

import numpy as np
import torch

from senna2.types import Array


def advantages(rewards_F: Array, values_F: Array, *, gamma: float, lam: float, after: float = 0.0) -> Array:
    """(F,) Â_t = δ_t + γλ Â_{t+1}, δ_t = r_{t+1} + γ V_{t+1} − V_t, of the live frames of one episode.

    rewards_F: of the transition that leaves each frame. after: value of the frame after the last live one; 0 where the
    episode ended there, the critic's own where it was only cut.
    """
    following = np.append(values_F[1:], after)
    delta_F = rewards_F + gamma * following - values_F
    out, carried = np.empty(len(delta_F)), 0.0
    for t in range(len(delta_F) - 1, -1, -1):
        carried = delta_F[t] + gamma * lam * carried
        out[t] = carried
    return out


def clipped(logp_B: torch.Tensor, old_logp_B: torch.Tensor, advantage_B: torch.Tensor, clip: float) -> torch.Tensor:
    """(B,) −min(ρ Â, clip(ρ, 1 − ε, 1 + ε) Â), ρ = π/π_old."""
    ratio = (logp_B - old_logp_B).exp()
    return -torch.minimum(ratio * advantage_B, ratio.clamp(1 - clip, 1 + clip) * advantage_B)


def inside(logp_B: torch.Tensor, old_logp_B: torch.Tensor, clip: float) -> torch.Tensor:
    """(B,) bool: the ratio is not clipped."""
    return ((logp_B.detach() - old_logp_B).exp() - 1).abs() < clip


def value_loss(value_B: torch.Tensor, old_value_B: torch.Tensor, advantage_B: torch.Tensor) -> torch.Tensor:
    """(B,) ½ (V − (Â + V_old))²."""
    return 0.5 * (value_B - (advantage_B + old_value_B)) ** 2


def among_group(returns_G: Array, least_spread: float = 1e-6) -> Array:
    """(G,) advantages of roll-outs of one clip among themselves: (R − mean) / std; 0 where all went alike (GRPO), which
    is where their standard deviation is under `least_spread`."""
    spread = float(np.std(returns_G))
    return np.zeros(len(returns_G)) if spread < least_spread else (returns_G - np.mean(returns_G)) / spread


def standardised(advantage_N: Array, live_N: Array) -> Array:
    """(N,) Â less its mean over its spread, both of those that are live; 0 elsewhere."""
    live = advantage_N[live_N]
    out = np.zeros(len(advantage_N))
    if len(live):
        out[live_N] = (live - live.mean()) / max(float(live.std()), 1e-6)
    return out
