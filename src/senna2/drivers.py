"""Drivers to compare with, plain numpy: constant velocity, a naive one, the recorded expert, IDM on the route.

Each is a `Policy` (rollouts.py). IDM reads the state observation, the expert the recording: both are privileged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from senna2.frames import along_polyline, poses_to_ego, project_to_polyline, resample_poses, sample_polyline
from senna2.geometry import corners
from senna2.types import (
    PLAN_DT,
    PLAN_STEPS,
    Array,
    ClipMeta,
    Decision,
    Direction,
    InputError,
    LaneKind,
    Observation,
    Plan,
    Plans,
    Samples,
    StateObservation,
    Trajectory,
    VehicleShape,
)

LANE_CHANGES = (Direction.CHANGE_LEFT, Direction.CHANGE_RIGHT)


class ConstantVelocity:
    """Straight on at the present speed."""

    needs_images = False

    def reset(self, meta: ClipMeta, seed: int) -> None:
        """Nothing to remember."""

    def act(self, observation: Observation) -> Plan:
        return Plan(Trajectory.fake(observation.v))

    def plan_batch(self, samples: Samples, decision: Decision | None = None, seed: int = 0) -> Plans:
        """The same for samples; a decision is recorded as given, and ignored: this driver takes none."""
        way_NT = samples.motion_N4[:, :1] * PLAN_DT * np.arange(1, PLAN_STEPS + 1)
        return _plans(np.stack([way_NT, np.zeros_like(way_NT)], -1), decision)


class Naive(ConstantVelocity):
    """Constant velocity that carries out a commanded lane change at constant speed without looking: from the command
    on it keeps to the told route. It must fail where a clip family asks for care (EVALUATION.md, Statistics)."""

    def __init__(self) -> None:
        self._told = False

    def reset(self, meta: ClipMeta, seed: int) -> None:
        self._told = False

    def act(self, observation: Observation) -> Plan:
        # It has begun before the expert, who waits; that the command ends where the expert was done must not leave it
        # between two lanes: what it does wrong is not to look, nothing else.
        self._told |= observation.navigation in LANE_CHANGES
        if not self._told or observation.state is None:
            return super().act(observation)
        path = route_path(observation.state.route_R2, observation.v)
        way = observation.v * PLAN_DT * np.arange(1, PLAN_STEPS + 1)
        return Plan(Trajectory(sample_polyline(path, way)[0], PLAN_DT))


class Expert:
    """Replays the recording: its plan is the next 3 s of it. Drives in vehicle mode `perfect`."""

    needs_images = False
    vehicle = "perfect"

    def reset(self, meta: ClipMeta, seed: int) -> None:
        """Prepares the recording, prolonged beyond its end as it last moved."""
        t_E, pose_E3 = np.asarray(meta.expert_t_E, np.float64), np.asarray(meta.expert_pose_E3, np.float64)
        ahead = PLAN_DT * np.arange(1, PLAN_STEPS + 2)
        rate = (pose_E3[-1, :2] - pose_E3[-2, :2]) / (t_E[-1] - t_E[-2])
        tail = np.column_stack([pose_E3[-1, :2] + ahead[:, None] * rate, np.full(len(ahead), pose_E3[-1, 2])])
        self._t_E = np.concatenate([t_E, t_E[-1] + ahead])
        self._pose_E3 = np.concatenate([pose_E3, tail])

    def act(self, observation: Observation) -> Plan:
        t = np.clip(observation.t_s, self._t_E[0], self._t_E[-1] - PLAN_DT * PLAN_STEPS)
        at = t + PLAN_DT * np.arange(PLAN_STEPS + 1)
        poses = resample_poses(self._t_E, self._pose_E3, at)
        ahead = poses_to_ego(poses[1:], poses[0])
        return Plan(Trajectory(ahead[:, :2], PLAN_DT, ahead[:, 2]))

    def plan_batch(self, samples: Samples, decision: Decision | None = None, seed: int = 0) -> Plans:
        """The samples' own futures."""
        if not np.isfinite(samples.future_NT3).all():
            raise InputError("expert: a sample has no recorded future; leave such samples out")
        return _plans(samples.future_NT3[..., :2], decision)


@dataclass(frozen=True)
class IdmParameters:
    """Intelligent driver model (Treiber, Hennecke, Helbing 2000) and what surrounds it. m, s, m/s, m/s²."""

    headway_s: float = 1.3
    min_gap: float = 3.0
    accel: float = 1.5
    brake: float = 2.5
    hardest: float = -7.0
    curve_accel: float = 1.8  # lateral acceleration accepted in bends
    margin: float = 0.3  # beside the ego's width, for what counts as in the way
    unknown_limit: float = 13.9
    line_gap: float = 1.0  # where to stand before a stop line
    line_brake: float = 4.0  # a light that turned so late that stopping asks for more is passed


class Idm:
    """Keeps to the line of the route; its speed by IDM on the nearest box that reaches into the route's corridor, or
    on the stop line of a red light.

    It never changes lane on its own, looks at nobody beside the corridor and takes every agent to keep its speed.
    """

    needs_images = False

    def __init__(self, parameters: IdmParameters = IdmParameters()) -> None:
        self._p = parameters
        self._shape = VehicleShape()

    def reset(self, meta: ClipMeta, seed: int) -> None:
        self._shape = meta.ego_shape

    def act(self, observation: Observation) -> Plan:
        state = observation.state
        if state is None:
            raise InputError("idm: needs the state observation; drive it with record or obs 'state'")
        path = route_path(state.route_R2, observation.v)
        limit = observation.speed_limit if math.isfinite(observation.speed_limit) else self._p.unknown_limit
        gap, leader_v = self._leader(path, state.boxes_A6[state.classes_A >= 0])
        line_gap = self._red_line(path, state, observation.v)
        if line_gap < gap:
            gap, leader_v = line_gap, 0.0
        way = self._drive(observation.v, limit, path, gap, leader_v)
        points, _ = sample_polyline(path, way)
        return Plan(Trajectory(points, PLAN_DT))

    def _leader(self, path_P2: Array, boxes_A6: Array) -> tuple[float, float]:
        """Free way ahead of the front bumper along the path (inf: all free) and the leader's speed along it."""
        best, leader_v = math.inf, 0.0
        half = self._shape.width / 2 + self._p.margin
        if len(boxes_A6) == 0:
            return best, leader_v
        beside = np.abs(project_to_polyline(boxes_A6[:, :2].astype(np.float64), path_P2)[1])
        boxes_A6 = boxes_A6[beside <= half + np.hypot(boxes_A6[:, 3], boxes_A6[:, 4]) / 2]
        for box, four in zip(boxes_A6, corners(boxes_A6[:, :5]), strict=True):
            outline = np.concatenate([four + u * (np.roll(four, -1, 0) - four) for u in (0.0, 0.25, 0.5, 0.75)])
            s, offset = project_to_polyline(outline.astype(np.float64), path_P2)
            inside = (np.abs(offset) < half) & (s > 0)
            if not inside.any() and not (offset.min() < -half and offset.max() > half and s.max() > 0):
                continue
            nearest = float(s[inside].min() if inside.any() else s.min())
            centre = float(project_to_polyline(box[None, :2].astype(np.float64), path_P2)[0][0])
            if centre <= 0.5 * self._shape.front:
                continue  # beside or behind
            if nearest - self._shape.front < best:
                heading = float(sample_polyline(path_P2, np.array([nearest]))[1][0])
                best = nearest - self._shape.front
                leader_v = max(float(box[5]) * math.cos(float(box[2]) - heading), 0.0)
        return best, leader_v

    def _red_line(self, path_P2: Array, state: StateObservation, v: float) -> float:
        """Free way before the nearest red stop line that the path crosses, as if somebody stood behind it; or inf."""
        p, best = self._p, math.inf
        for line_P2 in state.lanes_LP2[state.lane_kinds_L == LaneKind.RED_STOP_LINE].astype(np.float64):
            s, offset = project_to_polyline(line_P2, path_P2)
            nearest = int(np.argmin(np.abs(offset)))
            way = float(s[nearest]) - self._shape.front
            crossed = abs(offset[nearest]) < self._shape.width and s[nearest] > 0
            if crossed and way > 0 and v**2 / (2 * way) <= p.line_brake:
                best = min(best, way + p.min_gap - p.line_gap)
        return best

    def _drive(self, v: float, limit: float, path_P2: Array, gap: float, leader_v: float) -> Array:
        """Way (T,) at each plan point, by integrating the model at 0.1 s."""
        p = self._p
        s_C, v_C = _curve_speeds(path_P2, p.curve_accel, limit)
        s, way = 0.0, np.empty(PLAN_STEPS)
        for k in range(PLAN_STEPS):
            # A bend ahead is a speed to be reached there by comfortable braking.
            ahead = s_C >= s
            wanted = limit
            if ahead.any():
                wanted = min(limit, float(np.sqrt(v_C[ahead] ** 2 + 2 * 1.0 * (s_C[ahead] - s)).min()))
            wanted = max(wanted, 0.5)
            a = max(p.accel * (1 - (v / wanted) ** 4), -p.brake)  # a lower limit is no emergency
            if math.isfinite(gap):
                free = max(gap + leader_v * k * PLAN_DT - s, 0.1)
                closing = v * (v - leader_v) / (2 * math.sqrt(p.accel * p.brake))
                a -= p.accel * ((p.min_gap + max(v * p.headway_s + closing, 0.0)) / free) ** 2
            a = max(a, p.hardest)
            new_v = max(v + a * PLAN_DT, 0.0)
            s += 0.5 * (v + new_v) * PLAN_DT
            v = new_v
            way[k] = s
        return way


def route_path(route_R2: Array, v: float) -> Array:
    """A path (P, 2) from the ego (origin, along x) that joins the route smoothly, 1 m between points.

    The offset and the angle to the route fade by a cubic over the joining distance.
    """
    route = np.asarray(route_R2, np.float64)
    first = route[1] - route[0]
    first /= max(float(np.hypot(*first)), 1e-9)
    line = np.vstack([route[0] - 30.0 * first, route])
    s_0, offset = (float(c[0]) for c in project_to_polyline(np.zeros((1, 2)), line))
    _, heading_0 = sample_polyline(line, np.array([s_0]))
    join = max(10.0, 2.0 * v, 4.0 * abs(offset))
    s = np.arange(0.0, along_polyline(line)[-1] - s_0 + 20.0)
    point, heading = sample_polyline(line, s_0 + s)
    # Between the polyline's points its direction jumps; a mean over 3 m is the road's.
    heading = np.convolve(np.pad(np.unwrap(heading), 2, mode="edge"), np.ones(5) / 5, mode="valid")
    slope = math.tan(max(min(-float(heading_0[0]), 1.0), -1.0))  # of the ego's heading against the route
    u = np.clip(s / join, 0, 1)
    fade = offset * (1 - 3 * u**2 + 2 * u**3) + slope * join * (u - 2 * u**2 + u**3)
    return point + fade[:, None] * np.stack([-np.sin(heading), np.cos(heading)], 1)


def _curve_speeds(path_P2: Array, lateral_accel: float, limit: float) -> tuple[Array, Array]:
    """Positions and the speeds (at most `limit`) at which bends are taken with `lateral_accel`."""
    s = along_polyline(path_P2)
    step = np.diff(path_P2, axis=0)
    heading = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
    span = 4  # over 4 m: the path is a polyline, curvature of single corners means nothing
    if len(heading) <= span:
        return s[:0], s[:0]
    bend = np.abs(heading[span:] - heading[:-span]) / np.maximum(s[span:-1] - s[: -span - 1], 1e-6)
    return s[span // 2 : -span // 2 - 1], np.minimum(np.sqrt(lateral_accel / np.maximum(bend, 1e-6)), limit)


def _plans(points_NT2: Array, decision: Decision | None) -> Plans:
    n = len(points_NT2)
    none = np.full(n, -1, np.int8)
    speed = none if decision is None else np.full(n, decision.speed, np.int8)
    direction = none if decision is None else np.full(n, decision.direction, np.int8)
    return Plans(np.asarray(points_NT2, np.float32), speed, direction, none, none)
