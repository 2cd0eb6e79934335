"""VAD's three vectorised constraints (arXiv 2303.12077, section 3.3), and VADv2's test of a conflict.

Differences from the released code: road users, kerbs and dividers are the annotated ones, not what the perception heads
believe (those are learned beside it); the ego is its box's centre with its own heading; distances to boundaries are to
segments, not to their points. x is forward, y left; the releases have x right, y forward.

Legend: B batch, N candidates, K knots, A agents, S kerb segments, L polylines, P their points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from senna2.model.batch import Batch
from senna2.types import AgentClass, LaneKind, VehicleShape

BOUND_M, NEAR_M, SIDE_M, ALONG_M, DIVIDER_M, STILL_M = 1.0, 3.0, 1.5, 3.0, 2.0, 1.0
FAR = 1e4
VEHICLES = AgentClass.MOTORCYCLE  # classes up to here; the release leaves motorcycles out
EGO = VehicleShape()


@dataclass(frozen=True)
class ConstraintWeights:
    """Those of VAD's release (1, 1, ½), brought to our imitation loss: there it is the mean over three commands, of
    which one counts, and the collision loss the mean of both axes, here their sum."""

    boundary: float = 3.0
    collision: float = 1.5
    direction: float = 1.5


def headings(knots_K2: Tensor) -> Tensor:
    """(…, K, 2) → (…, K) rad: of the step that ends at each knot, held while a step is shorter than 5 cm, beginning
    with 0. No gradient."""
    step = torch.diff(knots_K2.detach(), dim=-2, prepend=torch.zeros_like(knots_K2[..., :1, :]))
    yaw = torch.nn.functional.pad(torch.atan2(step[..., 1], step[..., 0]), (1, 0))
    number = torch.arange(1, yaw.shape[-1], device=yaw.device)
    moves = torch.linalg.vector_norm(step, dim=-1) >= 0.05
    return yaw.gather(-1, torch.where(moves, number, 0).cummax(-1).values)


def centres(knots_K2: Tensor) -> Tensor:
    """Rear axle → centre of the ego's box."""
    yaw = headings(knots_K2)
    return knots_K2 + EGO.centre_offset * torch.stack([yaw.cos(), yaw.sin()], -1)


def agent_knots(batch: Batch, at_K: Sequence[int]) -> Tensor:
    """(B, A, K, 3) poses of the others at the knots; absent ones (NaN in the recording) are far away."""
    poses = batch.agent_futures_BAT3[:, :, [i + 1 for i in at_K]]
    absent = ~torch.isfinite(poses).all(-1, keepdim=True) | (batch.classes_BA < 0)[..., None, None]
    return torch.where(absent, FAR, poses)


def _to_segments(point_2: Tensor, ends_BS4: Tensor) -> Tensor:
    """(B, …, 2) → (B, …, S) distance to each segment (x0, y0, x1, y1); `FAR` to absent ones (NaN)."""
    there = torch.isfinite(ends_BS4).all(-1)
    ends = torch.where(there[..., None], ends_BS4, 0.0)
    shape = (len(ends), *(1,) * (point_2.ndim - 2), ends.shape[1], 2)
    start, step = ends[..., :2].view(shape), (ends[..., 2:] - ends[..., :2]).view(shape)
    rel = point_2[..., None, :] - start
    share = ((rel * step).sum(-1) / (step**2).sum(-1).clamp_min(1e-6)).clamp(0, 1)
    gap = rel - share[..., None] * step
    distance = torch.sqrt((gap**2).sum(-1) + 1e-9)
    return torch.where(there.view(shape[:-1]), distance, FAR)


def _crosses(points_K2: Tensor, batch: Batch, start_x: float = 0.0) -> Tensor:
    """(B, …, K) bool: the step that ends at the point crosses a kerb. start_x: m, where the first step begins."""
    start = torch.zeros_like(points_K2[..., :1, :])
    start[..., 0] = start_x
    way = torch.cat([start, points_K2], -2)
    p, q = way[..., :-1, None, :], way[..., 1:, None, :]
    shape = (len(way), *(1,) * (way.ndim - 2), batch.kerbs_BS4.shape[1], 2)
    c, d = batch.kerbs_BS4[..., :2].view(shape), batch.kerbs_BS4[..., 2:].view(shape)

    def side(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
        u, v = b - a, x - a
        return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

    apart = (side(p, q, c) * side(p, q, d) < 0) & (side(c, d, p) * side(c, d, q) < 0)  # NaN compares false
    return apart.any(-1)


def boundary_loss(knots_BK2: Tensor, batch: Batch) -> Tensor:
    """(B,) mean over the knots of max(0, 1 m − distance to the nearest boundary), 0 from the first crossing on."""
    middle = centres(knots_BK2)
    distance = _to_segments(middle, batch.kerbs_BS4).amin(-1)
    crossed = _crosses(middle.detach(), batch, EGO.centre_offset).cumsum(-1) > 0
    return torch.where(crossed, 0.0, (BOUND_M - distance).clamp_min(0)).mean(-1)


def collision_loss(knots_BK2: Tensor, batch: Batch, at_K: Sequence[int]) -> Tensor:
    """(B,) mean over the knots of the lack of distance to vehicles within 3 m, along and beside separately: each axis
    takes its own nearest vehicle, as in the release."""
    gap = (centres(knots_BK2)[:, None] - agent_knots(batch, at_K)[..., :2]).abs()  # (B, A, K, 2)
    vehicle = ((batch.classes_BA >= 0) & (batch.classes_BA <= VEHICLES))[..., None]
    near = vehicle & (torch.linalg.vector_norm(gap.detach(), dim=-1) < NEAR_M)
    along, beside = (torch.where(near, gap[..., i], FAR).amin(1) for i in range(2))
    return ((ALONG_M - along).clamp_min(0) + (SIDE_M - beside).clamp_min(0)).mean(-1)


def direction_loss(knots_BK2: Tensor, batch: Batch) -> Tensor:
    """(B,) mean over the knots of the angle, rad, between the plan's step and the nearest divider within 2 m, folded to
    ±π/2; 0 for a plan that ends within a metre."""
    points = torch.cat([torch.zeros_like(knots_BK2[:, :1]), knots_BK2], 1)
    step = torch.diff(points, dim=1)
    lanes = batch.lanes_BLP2
    divider = (batch.lane_kinds_BL == LaneKind.DIVIDER)[:, :, None, None]
    pieces = torch.where(divider, torch.cat([lanes[:, :, :-1], lanes[:, :, 1:]], -1), torch.nan).flatten(1, 2)
    distance, nearest = _to_segments(knots_BK2.detach(), pieces).min(-1)
    along = torch.nan_to_num(pieces[..., 2:] - pieces[..., :2])
    angle = torch.atan2(along[..., 1], along[..., 0])
    turn = torch.atan2(step[..., 1], step[..., 0] + 1e-6) - angle.gather(1, nearest)
    folded = (turn + math.pi / 2) % math.pi - math.pi / 2
    moves = torch.linalg.vector_norm(knots_BK2[:, -1].detach(), dim=-1) >= STILL_M
    counts = (distance < DIVIDER_M) & (torch.linalg.vector_norm(step.detach(), dim=-1) > 0.05) & moves[:, None]
    return torch.where(counts, folded.abs(), 0.0).mean(-1)


def vectorised_loss(
    knots_BK2: Tensor, expert_BK2: Tensor, batch: Batch, at_K: Sequence[int], weights: ConstraintWeights
) -> Tensor:
    """(B,) VAD's planning loss: L1 of the offsets from knot to knot, and the three constraints."""
    steps = torch.diff(knots_BK2 - expert_BK2, dim=1, prepend=torch.zeros_like(knots_BK2[:, :1]))
    return (
        steps.abs().mean((1, 2))
        + weights.boundary * boundary_loss(knots_BK2, batch)
        + weights.collision * collision_loss(knots_BK2, batch, at_K)
        + weights.direction * direction_loss(knots_BK2, batch)
    )


@torch.no_grad()
def conflicts(knots_BNK2: Tensor, batch: Batch, at_K: Sequence[int]) -> Tensor:
    """(B, N) bool: the plan's body meets another's at a knot, or a kerb on its way.

    The body is three discs of half its width along its axis, so a corner may be missed by 0.4 m.
    """
    yaw, half = headings(knots_BNK2), EGO.width / 2
    offsets = knots_BNK2.new_tensor([half - EGO.rear_overhang, EGO.centre_offset, EGO.front - half])
    unit = torch.stack([yaw.cos(), yaw.sin()], -1)
    discs = knots_BNK2[..., None, :] + offsets[:, None] * unit[..., None, :]  # (B, N, K, 3, 2)
    kerb = (_to_segments(discs.flatten(1, 3), batch.kerbs_BS4).amin(-1) < half).view(discs.shape[:-1]).any(-1).any(-1)
    kerb |= _crosses(knots_BNK2, batch).any(-1)
    meets = torch.zeros_like(kerb)
    poses = agent_knots(batch, at_K)
    size = torch.nan_to_num(batch.boxes_BA6[..., 3:5], nan=0.0) / 2
    for a in range(poses.shape[1]):  # one by one: all at once would be a hundred megabytes
        rel = discs - poses[:, a, None, :, None, :2]
        cos, sin = poses[:, a, None, :, None, 2].cos(), poses[:, a, None, :, None, 2].sin()
        x, y = rel[..., 0] * cos + rel[..., 1] * sin, rel[..., 1] * cos - rel[..., 0] * sin
        out_x = (x.abs() - size[:, a, 0, None, None, None]).clamp_min(0)
        out_y = (y.abs() - size[:, a, 1, None, None, None]).clamp_min(0)
        meets |= (out_x**2 + out_y**2 < half**2).any(-1).any(-1)
    return kerb | meets
