"""Time to collision, and who is at fault in a contact."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, pi

import numpy as np

from senna2.geometry.boxes import bearing, box_of, corners, hits_segments
from senna2.geometry.kernels import ttc_along, ttc_many, ttc_nearest
from senna2.types import Array, InputError, VehicleShape

STAND_SPEED = 0.05  # m/s; at or below it a car stands
AHEAD = pi / 6  # rad; nuPlan's bound of "ahead of the ego"
BEHIND = 150 * pi / 180  # rad; beyond it an agent is behind


@dataclass(frozen=True)
class ContactVerdict:
    """`kind` is one of front, rear, lateral, stopped_ego, stopped_agent, static.

    `lateral_undecided`: a lateral contact on a map without complete lanes, hence counted as nobody's fault.
    """

    kind: str
    at_fault: bool
    lateral_undecided: bool = False


def ttc(
    ego_pose_3: Array,
    ego_v: float,
    shape: VehicleShape,
    boxes_A5: Array,
    v_A: Array,
    *,
    all_around: bool,
    stand_speed: float = STAND_SPEED,
    horizon_s: float = 5.0,
    step_s: float = 0.1,
) -> Array:
    """Time to collision with each agent, (A,) s, inf where there is none.

    The smallest τ = step_s·k, k = 0, 1 … up to the horizon, at which ego and agent overlap when each keeps
    its speed and heading. Agents ahead (±30° from the rear axle to the box's centre) count; with `all_around`
    (the ego is in several lanes, off the lanes or in a junction) every agent not behind (150°). None counts
    while the ego stands.
    """
    boxes = np.ascontiguousarray(boxes_A5, np.float64).reshape(-1, 5)
    pose = np.asarray(ego_pose_3, np.float64)
    if ego_v <= stand_speed or len(boxes) == 0:
        return np.full(len(boxes), inf)
    counts = bearing(pose, boxes[:, :2]) <= (BEHIND if all_around else AHEAD)
    steps = round(horizon_s / step_s)
    v = np.ascontiguousarray(np.broadcast_to(np.asarray(v_A, np.float64), len(boxes)))
    return ttc_many(box_of(pose, shape), float(ego_v), boxes, v, counts, step_s, steps)


def least_ttc(
    ego_pose_3: Array, ego_v: float, shape: VehicleShape, boxes_A6: Array, counted_A: Array, *,
    horizon_s: float = 5.0, step_s: float = 0.1,
) -> tuple[float, float]:  # fmt: skip
    """The least `ttc` over the agents ahead, and over all that are not behind, s; inf where there is none.

    boxes_A6: with the speed, NaN rows for absent agents. counted_A: (A,) bool, who is looked at. The ego must move.
    """
    steps = round(horizon_s / step_s)
    ahead, around = ttc_nearest(
        ego_pose_3, box_of(ego_pose_3, shape), ego_v, boxes_A6, counted_A, AHEAD, BEHIND, step_s, steps
    )
    return ahead, around


def pair_ttc(
    box_5: Array, v: float, boxes_A5: Array, v_A: Array, *, horizon_s: float = 5.0, step_s: float = 0.1
) -> Array:
    """Time (A,) s after which one box (5,) and each of the others overlap, all at constant velocity along their
    headings; inf beyond the horizon, NaN rows never. No agent is left out, wherever it is: `ttc` chooses."""
    boxes = np.ascontiguousarray(boxes_A5, np.float64).reshape(-1, 5)
    speeds = np.ascontiguousarray(np.broadcast_to(np.asarray(v_A, np.float64), len(boxes)))
    steps, everybody = round(horizon_s / step_s), np.ones(len(boxes), np.bool_)
    return ttc_many(np.ascontiguousarray(box_5, np.float64), float(v), boxes, speeds, everybody, step_s, steps)


def plan_ttc(
    plan_T3: Array, plan_dt: float, shape: VehicleShape, boxes_A5: Array, v_A: Array, *, all_around: bool,
    stand_speed: float = STAND_SPEED, horizon_s: float = 5.0, step_s: float = 0.1,
) -> Array:  # fmt: skip
    """Time to collision along a plan, (T,) s, inf where there is none (mode "plan").

    plan_T3: rear-axle poses at plan_dt, 2·plan_dt … from now; boxes_A5 and v_A: the agents now. Point t is `ttc` of an
    ego at the plan's pose there, with the plan's speed there (the step that leads to it), while every agent has gone
    on at constant velocity for t·plan_dt. The first point's speed is that of the step to the second.
    """
    plan = np.ascontiguousarray(plan_T3, np.float64).reshape(-1, 3)
    boxes = np.ascontiguousarray(boxes_A5, np.float64).reshape(-1, 5)
    if len(plan) < 2 or not np.isfinite(plan).all():
        raise InputError(f"plan_ttc: a plan of shape {plan.shape}; needs at least two finite poses")
    step = np.hypot(*np.diff(plan[:, :2], axis=0).T) / plan_dt
    speed_T = np.concatenate([step[:1], step])
    v = np.ascontiguousarray(np.broadcast_to(np.asarray(v_A, np.float64), len(boxes)))
    bound = BEHIND if all_around else AHEAD
    steps = round(horizon_s / step_s)
    return ttc_along(plan, box_of(plan, shape), speed_T, plan_dt, boxes, v, bound, stand_speed, step_s, steps)


def judge_contact(
    ego_pose_3: Array,
    ego_v: float,
    shape: VehicleShape,
    box_5: Array,
    agent_v: float,
    *,
    is_static: bool,
    several_lanes: bool | None,
    off_drivable: bool | None,
    stand_speed: float = STAND_SPEED,
) -> ContactVerdict:
    """Kind and fault of the first contact with an agent (nuPlan's collision types).

    Poses are those of the overlap, speeds those before it. None for `several_lanes` or `off_drivable`: the
    map does not say. Without complete lanes a lateral contact is no fault, whatever the drivable area says.
    """
    if ego_v <= stand_speed:
        return ContactVerdict("stopped_ego", False)
    if is_static:
        return ContactVerdict("static", True)
    if agent_v <= stand_speed:
        return ContactVerdict("stopped_agent", True)
    box = np.asarray(box_5, np.float64)
    if bearing(ego_pose_3, box[:2]) > BEHIND:
        return ContactVerdict("rear", False)
    front_edge = corners(box_of(ego_pose_3, shape))[:2].reshape(1, 4)
    if hits_segments(box[None], front_edge)[0, 0]:
        return ContactVerdict("front", True)
    if several_lanes is None:
        return ContactVerdict("lateral", False, lateral_undecided=True)
    return ContactVerdict("lateral", bool(several_lanes or off_drivable))
