"""Where the expert is told to go: its line through the map, commanded lane changes, how fast, where to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.interpolate import CubicSpline

from senna2.frames import along_polyline
from senna2.types import Array, require
from senna2.world.scene import Lane, Light, Scene
from senna2.world.town.expert_kernel import project_onto
from senna2.world.town.roads import ReferenceLine

LATERAL_ACCEL = 1.8  # m/s², sets the speed in curves: v = sqrt(1.8 / κ)
CURVE_BRAKE = 1.2  # m/s², comfortable braking towards a curve
STEP = 0.5  # m between points of the line
DEPARTS = 1.0  # m off the line's lane from which on a route commands a lane change
UNKNOWN_LIMIT = 13.9  # m/s where the map gives none


@dataclass(frozen=True, eq=False)
class DrivingLine:
    """The middle of the lane of the route's start and of its successors along the route.

    goal_d: offset of the commanded lane from it (0: none); command_s: where that is commanded (inf: never).
    end_s: where the lane itself ends (inf: it does not); the line goes on beside the route.
    limit_P: speed limit; curve_P: speed in curves; room_P2: m to the kerbs right and left (inf: none near).
    """

    line: ReferenceLine
    goal_d: float
    command_s: float
    end_s: float
    limit_P: Array
    curve_P: Array
    room_P2: Array

    @classmethod
    def of(cls, scene: Scene, half_width: float) -> Self:
        route_P2 = np.asarray(scene.route_P2, np.float64)
        points_P2, lane_end = _followed(scene, route_P2)
        line = ReferenceLine.from_polyline(resampled(points_P2, STEP))
        route_s, route_d = project_onto(route_P2, line.xy_P2, line.s_P).T
        tail = route_s > route_s[-1] - 15.0
        end_d = float(np.median(route_d[tail]))
        goal_d = end_d if abs(end_d) > DEPARTS else 0.0
        departed = np.flatnonzero(np.abs(route_d) > 0.02)
        command_s = float(route_s[departed[0]]) if goal_d and len(departed) else math.inf
        room = _room(scene, line)
        end_s = math.inf
        if lane_end is not None and goal_d:
            end_s = float(project_onto(lane_end[None], line.xy_P2, line.s_P)[0, 0])
        tight = np.flatnonzero((room.min(1) < half_width + 0.3) & (line.s_P > route_s[0]))
        if goal_d and len(tight):
            end_s = min(end_s, float(line.s_P[tight[0]]))
        limit = np.nan_to_num(np.interp(line.s_P, route_s, scene.speed_limit_P), nan=UNKNOWN_LIMIT)
        curve = np.sqrt(LATERAL_ACCEL / np.maximum(np.abs(line.kappa_P), 1e-6))
        return cls(line, goal_d, command_s, end_s, limit, curve, room)

    def wished_speed(self, factor: float = 1.0) -> Array:
        """Speed limit times `factor`, curve speed, and comfortable braking towards either, per point of the line."""
        wished = np.minimum(self.limit_P * factor, self.curve_P)
        ds = np.diff(self.line.s_P)
        for i in range(len(wished) - 2, -1, -1):
            wished[i] = min(wished[i], math.sqrt(wished[i + 1] ** 2 + 2 * CURVE_BRAKE * ds[i]))
        return wished

    def room(self, s0: float, s1: float) -> tuple[float, float]:
        """Least distance from the line to the right and to the left kerb between two places, m."""
        on = (self.line.s_P >= s0) & (self.line.s_P <= s1)
        return (float(self.room_P2[on, 0].min()), float(self.room_P2[on, 1].min())) if on.any() else (0.0, 0.0)


def stops_along(scene: Scene, line: ReferenceLine, frames: int) -> tuple[Array, Array]:
    """(L,) where the stop lines of traffic lights lie along the line, and (frames, L) their states over the clip."""
    places, states = [], []
    for signal in scene.signals:
        (s0, d0), (s1, d1) = project_onto(np.asarray(signal.stop_line_22, np.float64), line.xy_P2, line.s_P)
        middle = 0.5 * (s0 + s1)
        speaks = abs(math.remainder(float(line.world(middle, 0.0)[2]) - float(signal.pose_3[2]), 2 * math.pi)) < 0.8
        if d0 * d1 < 0 and abs(s1 - s0) < 6.0 and speaks:
            places.append(float(s0 + (s1 - s0) * d0 / (d0 - d1)))
            states.append([int(signal.at(scene.meta.dt * k)) for k in range(frames)])
    light = np.array(states, np.int64).reshape(len(places), -1).T if places else np.full((1, 0), int(Light.GREEN))
    return np.array(places, np.float64), np.ascontiguousarray(light)


def resampled(line_P2: Array, step: float) -> Array:
    """A polyline resampled evenly by a spline (the compiled look-ahead indexes it by division)."""
    s = along_polyline(line_P2)
    keep = np.concatenate([[True], np.diff(s) > 0.05])
    s, points = s[keep], line_P2[keep]
    new = np.linspace(0.0, s[-1], max(2, round(s[-1] / step) + 1))
    return CubicSpline(s, points)(new)


def _followed(scene: Scene, route_P2: Array) -> tuple[Array, Array | None]:
    """The middle of the lanes from the route's start on, and the point where they end before the route does."""
    by_id = {lane.id: lane for lane in scene.map.lanes}
    lane = _lane_at(scene, route_P2[0], route_P2[1])
    parts, visited = [np.asarray(lane.centre_P2, np.float64)], {lane.id}
    route_line = resampled(route_P2, 1.0)
    route_s = along_polyline(route_line)
    while True:
        following = [by_id[i] for i in lane.successors if i in by_id and i not in visited]
        if not following:
            break
        lane = min(following, key=lambda n: float(np.abs(project_onto(n.centre_P2, route_line, route_s)[:, 1]).mean()))
        visited.add(lane.id)
        parts.append(np.asarray(lane.centre_P2, np.float64))
    points = np.concatenate(parts)
    end_s = project_onto(points[-1:], route_line, route_s)[0, 0]
    if route_s[-1] - end_s < 5.0:
        return points, None
    # The lane ends before the route: beside the neighbour on which that goes on, the line goes on as the lane began.
    beside = [by_id[i] for i in (lane.left, lane.right) if i in by_id]
    require(
        bool(beside), f"clip {scene.meta.name}: route", f"goes on where lane {lane.id} ends, which has no neighbour"
    )
    goal = min(beside, key=lambda n: float(np.abs(project_onto(route_P2[-1:], n.centre_P2, _along(n))[0, 1])))
    along = ReferenceLine.from_polyline(resampled(np.asarray(goal.centre_P2, np.float64), STEP))
    d = project_onto(np.asarray(route_P2[:1], np.float64), along.xy_P2, along.s_P)[0, 1]
    return along.offset(float(d)), points[-1]


def _along(lane: Lane) -> Array:
    return along_polyline(lane.centre_P2)


def _room(scene: Scene, line: ReferenceLine) -> Array:
    room = np.full((len(line.s_P), 2), np.inf)
    for kerb in scene.map.kerbs:
        dense = np.asarray(kerb, np.float64)
        length = along_polyline(dense)
        new = np.linspace(0.0, length[-1], max(2, int(length[-1] / STEP) + 1))
        dense = np.stack([np.interp(new, length, dense[:, i]) for i in (0, 1)], 1)
        s, d = project_onto(dense, line.xy_P2, line.s_P).T
        near = (np.abs(d) < 20.0) & (s >= line.s_P[0]) & (s <= line.s_P[-1])
        at = np.clip(np.round((s[near] - line.s_P[0]) / STEP).astype(int), 0, len(room) - 1)
        for side, sign in enumerate((-1.0, 1.0)):
            there = sign * d[near] > 0
            for shift in (-1, 0, 1):
                np.minimum.at(room[:, side], np.clip(at[there] + shift, 0, len(room) - 1), np.abs(d[near][there]))
    return room


def _lane_at(scene: Scene, point_2: Array, next_2: Array) -> Lane:
    """The car lane whose centre line passes a point in the sense of travel."""
    best, distance = None, math.inf
    for lane in scene.map.lanes:
        if lane.kind != "car":
            continue
        gap = np.hypot(*(lane.centre_P2 - point_2).T)
        i = int(np.argmin(gap))
        along = lane.centre_P2[min(i + 1, len(lane.centre_P2) - 1)] - lane.centre_P2[max(i - 1, 0)]
        if gap[i] < distance and float(along @ (next_2 - point_2)) > 0:
            best, distance = lane, float(gap[i])
    require(
        best is not None and distance < 3.0, f"clip {scene.meta.name}: route", "does not start on a lane of the map"
    )
    assert best is not None
    return best
