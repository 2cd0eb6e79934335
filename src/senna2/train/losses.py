"""Losses of stages 2 and 3 on plans and decisions; one value a sample, so that any batch adds up (paper sections 3.4,
3.5)."""

from __future__ import annotations

import torch

from senna2.decisions import A_PEAK, A_RMS, A_RUN, KEEP_SCALE, RUN, V_STOP, WINDOW, by_speed, smooth
from senna2.train.diagnostics import retimed
from senna2.types import PLAN_DT, Speed

SHORTFALL_MARGIN = 0.05  # m/s², m/s: on this side of every threshold a plan is called so by f_K, whatever the rounding


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


def decision_shortfall(tau_BT2: torch.Tensor, speed_B: torch.Tensor) -> torch.Tensor:
    """How far each plan is from being what f_K calls `speed_B`: the sum of what the inequalities of that class lack, in
    m/s² (m/s for those on the speed), with a small margin; 0 where all hold, and where the class is −1 [ours].

    (B, T, 2) m and (B,) → (B,). Every plan without a shortfall is called so by f_K. A plan that is parked has no
    gradient. Source of the inequalities: paper section 3, `senna2.decisions.f_k`.
    """
    points = torch.cat([torch.zeros_like(tau_BT2[:, :1]), tau_BT2[:, : WINDOW - 1]], 1)
    step = torch.sqrt(((points[:, 1:] - points[:, :-1]) ** 2).sum(-1) + 1e-8)  # finite slope at 0
    v_raw = step / PLAN_DT
    v_mean = smooth(v_raw).mean(1)
    a = smooth((v_raw[:, 1:] - v_raw[:, :-1]) / PLAN_DT)
    scale = by_speed(v_mean.detach(), KEEP_SCALE)
    rms = torch.sqrt((a * a).mean(1) + 1e-8)

    def pushes(a: torch.Tensor) -> torch.Tensor:  # what they lack, of the run that lacks least
        lacks = torch.relu(A_RUN + SHORTFALL_MARGIN - a).unfold(1, RUN, 1).mean(2).amin(1)
        peak = torch.relu(A_PEAK + SHORTFALL_MARGIN - a.amax(1))
        strong = torch.relu(A_RMS + SHORTFALL_MARGIN - rms)
        return lacks + peak + strong + torch.relu(SHORTFALL_MARGIN - a[:, 0])

    def pushed(a: torch.Tensor) -> torch.Tensor:  # by how much all of these hold: f_K asks them first
        run = a.unfold(1, RUN, 1).amin(2).amax(1)
        least = torch.stack([run - A_RUN, a.amax(1) - A_PEAK, rms - A_RMS, a[:, 0]]).amin(0)
        return torch.relu(least + SHORTFALL_MARGIN)

    calm = pushed(a) + pushed(-a)
    keeps = torch.relu(a.mean(1).abs() - A_RUN * scale + SHORTFALL_MARGIN)
    keeps = keeps + torch.relu(a.abs().amax(1) - A_PEAK * scale + SHORTFALL_MARGIN)
    keeps = keeps + torch.relu(V_STOP + SHORTFALL_MARGIN - v_mean) + calm
    stands = torch.relu(v_mean - V_STOP + SHORTFALL_MARGIN) + calm
    by_class = {Speed.ACCELERATE: pushes(a), Speed.DECELERATE: pushes(-a), Speed.KEEP: keeps, Speed.STOP: stands}
    every_B4 = torch.stack([by_class[speed] for speed in sorted(by_class)], 1)
    return torch.where(speed_B >= 0, every_B4.gather(1, speed_B.clamp(min=0)[:, None])[:, 0], 0.0)
