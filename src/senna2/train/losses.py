"""The losses of stage 3 on plans and decisions; one value a sample, so that any batch adds up (paper section 3.5)."""

from __future__ import annotations

import torch

from senna2.train.diagnostics import retimed
from senna2.types import PLAN_DT


def l_safe(tau_BT2: torch.Tensor) -> torch.Tensor:
    """Σ_t |τ_{t+1} − sg(τ_t)|² per sample, m²: only the later point has a gradient, toward the earlier one."""
    return ((tau_BT2[:, 1:] - tau_BT2[:, :-1].detach()) ** 2).sum((1, 2))


def l_eff(tau_BT2: torch.Tensor) -> torch.Tensor:
    """Σ_t |τ_t − sg(τ_{t+1})|² per sample, m²: only the earlier point has a gradient, toward the later one."""
    return ((tau_BT2[:, :-1] - tau_BT2[:, 1:].detach()) ** 2).sum((1, 2))


def l_retime(tau_BT2: torch.Tensor, held_BT2: torch.Tensor, accel: float) -> torch.Tensor:
    """Σ_t |τ_t − sg(τ*_t)|² per sample, m²: τ* follows the path of the held plan, `accel` m/s² faster (or slower)."""
    return ((tau_BT2 - retimed(held_BT2, accel, PLAN_DT).detach()) ** 2).sum((1, 2))


def disagreement_nll(
    logp_B20: torch.Tensor, speed_B: torch.Tensor, path_B: torch.Tensor, *, lane_change_by_speed: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """L_high per sample and where the two disagree (B,). logp_B20 in `ALL_DECISIONS` order (speed-major).

    Speed and direction are compared apart, each by its marginal: f_K cannot tell TURN LEFT from CHANGE LANE LEFT,
    so the direction's likelihood is the sum over the decisions that fold to the plan's side. UNKNOWN plans are left
    out; the direction of a VLM that says CHANGE LANE too, unless `lane_change_by_speed` is off.
    """
    logp_B45 = logp_B20.view(-1, 4, 5)
    best = logp_B20.argmax(1)
    said_speed, said_direction = best // 5, best % 5
    fold = torch.tensor([0, 1, 2, 1, 2], device=logp_B20.device)  # Direction → Path
    row = torch.arange(len(best), device=logp_B20.device)
    speed_nll = -torch.logsumexp(logp_B45, 2)[row, speed_B.clamp(min=0)]
    side = fold[None] == path_B[:, None]
    direction_nll = -torch.logsumexp(torch.logsumexp(logp_B45, 1).masked_fill(~side, -1e9), 1)
    known = speed_B >= 0
    wrong_speed = known & (said_speed != speed_B)
    judged = known & ((said_direction < 3) | (not lane_change_by_speed))
    wrong_side = judged & (fold[said_direction] != path_B)
    return wrong_speed * speed_nll + wrong_side * direction_nll, wrong_speed | wrong_side
