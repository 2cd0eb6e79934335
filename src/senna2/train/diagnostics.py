"""What a stage writes into its log beside its losses: how decisions and plans agree, how the policy drives.

Sums over samples first (they add up over parts, steps and ranks), scores from the sums of a row of the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from senna2.decisions import coarse
from senna2.types import Direction, Path, Rollout, Speed

SPEED_CLASSES = tuple(s.name.lower() for s in Speed if s >= 0)
PATH_CLASSES = tuple(p.name.lower() for p in Path if p >= 0)
DIRECTION_CLASSES = tuple(d.name.lower() for d in Direction if d >= 0)
CLASSES = (*PATH_CLASSES, *SPEED_CLASSES)
COUNTED = tuple(f"{what}/{c}" for c in CLASSES for what in ("said", "did", "both"))

MIN_STEP = 0.02  # m; a shorter step has no direction
BEYOND = 200.0  # m by which a path is prolonged past its end
STANDS = 0.05  # m/s
LEAST_EXPERT_M = 5.0  # a clip in which the expert hardly moves says nothing of progress
TTC_S = 3.0


# --- decisions ----------------------------------------------------------------------------------------


def agreement_counts(
    speed_B: torch.Tensor, direction_B: torch.Tensor, plan_speed_B: torch.Tensor, plan_path_B: torch.Tensor
) -> dict[str, float]:
    """How often each of the seven classes is said, done, and both, by the names of `COUNTED`.

    UNKNOWN (−1) on either side masks that half of the sample, as in the evaluation; directions are folded to three.
    """
    counts = {}
    halves = (
        (PATH_CLASSES, coarse(direction_B), plan_path_B.to(direction_B.device)),
        (SPEED_CLASSES, speed_B, plan_speed_B.to(speed_B.device)),
    )
    for names, said, did in halves:
        judged = (said >= 0) & (did >= 0)
        for value, name in enumerate(names):
            one, other = judged & (said == value), judged & (did == value)
            for what, which in (("said", one), ("did", other), ("both", one & other)):
                counts[f"{what}/{name}"] = int(which.sum())
    return {name: float(counts[name]) for name in COUNTED}


def with_f1(row: Mapping[str, float]) -> dict[str, float]:
    """A row of the log with the counts replaced by F1 per class and their mean; classes that neither side has are left
    out of both. F1 = 2 both / (said + did)."""
    scores = {}
    for name in CLASSES:
        total = row.get(f"said/{name}", 0.0) + row.get(f"did/{name}", 0.0)
        if total > 0:
            scores[f"f1_{name}"] = 2 * row[f"both/{name}"] / total
    average = {"f1_avg": float(np.mean(list(scores.values())))} if scores else {}
    return {**{k: v for k, v in row.items() if k not in COUNTED}, **scores, **average}


def shares(value_B: torch.Tensor | np.ndarray, names: Sequence[str] = SPEED_CLASSES) -> dict[str, float]:
    """Share of each class among the known values."""
    values = np.asarray(value_B.cpu() if isinstance(value_B, torch.Tensor) else value_B).astype(int)
    known = values[values >= 0]
    return {name: float((known == i).mean()) if len(known) else 0.0 for i, name in enumerate(names)}


# --- plans --------------------------------------------------------------------------------------------


def path_of(plan_BT2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A plan as a path: corners (B, T + 2, 2) from the origin to far beyond the end, straight on in the last direction
    (of a standing plan: straight ahead), and the arc length (B, T + 2) at each."""
    origin = torch.zeros_like(plan_BT2[:, :1])
    corners = torch.cat([origin, plan_BT2], 1)
    steps = corners[:, 1:] - corners[:, :-1]
    length = steps.norm(dim=-1)
    place = torch.arange(1, length.shape[1] + 1, device=length.device) * (length >= MIN_STEP)
    last = place.amax(1)  # 0: it never moves
    row = torch.arange(len(last), device=last.device)
    index = (last - 1).clamp(min=0)
    ahead = torch.tensor([1.0, 0.0], device=plan_BT2.device, dtype=plan_BT2.dtype)
    direction = steps[row, index] / length[row, index].clamp(min=MIN_STEP)[:, None]
    direction = torch.where((last > 0)[:, None], direction, ahead)
    corners = torch.cat([corners, corners[:, -1:] + BEYOND * direction[:, None]], 1)
    arc = torch.cat([torch.zeros_like(length[:, :1]), length, torch.full_like(length[:, :1], BEYOND)], 1).cumsum(1)
    return corners, arc


def cross_track(plan_BT2: torch.Tensor, other_BT2: torch.Tensor) -> torch.Tensor:
    """(B,) how far at most a plan's points lie off the path of another plan, m: 0 if it only goes slower or faster."""
    corners, _ = path_of(other_BT2)
    start, step = corners[:, None, :-1], (corners[:, 1:] - corners[:, :-1])[:, None]
    rel = plan_BT2[:, :, None] - start
    along = ((rel * step).sum(-1) / (step**2).sum(-1).clamp(min=1e-12)).clamp(0, 1)
    return (rel - along[..., None] * step).norm(dim=-1).amin(2).amax(1)


def plan_length(plan_BT2: torch.Tensor) -> torch.Tensor:
    """(B,) m along the plan, from the origin."""
    return path_of(plan_BT2)[1][:, -2]


def retimed(plan_BT2: torch.Tensor, accel: float, dt: float) -> torch.Tensor:
    """The same path driven `accel` m/s² faster (slower if negative) than the plan does: arc length s_t + ½·accel·t²,
    never backwards, past the end straight on. A standing plan that is to go starts straight ahead."""
    corners, arc = path_of(plan_BT2)
    t = dt * torch.arange(1, plan_BT2.shape[1] + 1, device=plan_BT2.device, dtype=plan_BT2.dtype)
    s = (arc[:, 1:-1] + 0.5 * accel * t**2).clamp(min=0).cummax(1).values
    s = torch.minimum(s, arc[:, -1:])
    right = torch.searchsorted(arc.contiguous(), s.contiguous()).clamp(1, arc.shape[1] - 1)
    s_0, s_1 = arc.gather(1, right - 1), arc.gather(1, right)
    share = ((s - s_0) / (s_1 - s_0).clamp(min=1e-9))[..., None]
    start, end = (corners.gather(1, i[..., None].expand(-1, -1, 2)) for i in (right - 1, right))
    return start + share * (end - start)


# --- driving ------------------------------------------------------------------------------------------


def driving(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Means over clips: progress over the expert's, shares that are parked, off the road, in contact; the smallest TTC
    (at most 5 s), the share of frames under 3 s. What no clip can tell is left out."""
    moving = [r for r in rollouts if r.expert_E4[-1, 2] > LEAST_EXPERT_M]
    found = {
        "progress": [r.progress_F[-1] / r.expert_E4[-1, 2] for r in moving],
        "parked": [float((r.ego_F6[:, 3] < STANDS).mean() > 0.5) for r in moving],
        "off_road": [float(r.off_road_F.any()) for r in rollouts if r.off_road_F is not None],
        "collided": [float(bool(r.contacts)) for r in rollouts],
        "min_ttc_s": [float(np.minimum(r.ttc_F, 5.0).min()) for r in rollouts],
        "ttc_under_3s": [float((r.ttc_F < TTC_S).mean()) for r in rollouts],
    }
    needed = ("progress", "parked", "off_road")  # the judge compares them
    return {k: round(float(np.mean(v or [0.0])), 4) for k, v in found.items() if v or k in needed}
