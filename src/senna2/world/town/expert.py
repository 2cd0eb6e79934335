"""The privileged expert: it knows the true futures of all agents and drives as one would like to be driven."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.interpolate import CubicSpline

from senna2.frames import along_polyline, points_to_ego, wrap
from senna2.types import PLAN_DT, PLAN_STEPS, Array, Direction, EgoState, Speed, Trajectory, require
from senna2.world.scene import Lane, Scene
from senna2.world.town.expert_kernel import look_ahead
from senna2.world.town.roads import ReferenceLine
from senna2.world.traffic import ReplayTraffic

LATERAL_ACCEL = 1.8  # m/s², sets the speed in curves: v = sqrt(1.8 / κ)
CURVE_BRAKE = 1.2  # m/s², comfortable braking towards a curve
CHANGE_S = 3.6  # s, duration of a lane change
TURN_KAPPA = 1 / 60  # 1/m: tighter than this is a turn, wider is a road that bends
TURN_SIGHT = 40.0  # m before a turn at which the navigation announces it
FORCED = {Speed.ACCELERATE: 1.3, Speed.DECELERATE: -1.5, Speed.KEEP: 0.0, Speed.STOP: -2.5}  # m/s²


class TimedEgo(Protocol):
    """The part of a simulator state that the expert reads."""

    @property
    def t_s(self) -> float: ...

    @property
    def ego(self) -> EgoState: ...


@dataclass(frozen=True, eq=False)
class Others:
    """Agents along the ego's line at the clip's frames (K, A): centre s and d, speed along the line, half extents.

    follow_A: whether an agent is followed as traffic; the others cross, and are handled by windows.
    """

    s_KA: Array
    d_KA: Array
    v_KA: Array
    hs_KA: Array
    hd_KA: Array
    follow_A: Array

    @classmethod
    def along(cls, scene: Scene, line: ReferenceLine) -> Others:
        last = max([scene.duration_s, *(float(t.t_T[-1]) for t in scene.tracks)])
        frames = round(last / scene.meta.dt) + 1
        boxes = ReplayTraffic(scene.tracks, scene.meta.dt, frames).boxes_KA6
        shape = boxes.shape[:2]
        s, d, heading = (np.full(shape, np.nan) for _ in range(3))
        here = np.isfinite(boxes[..., 0])
        if here.any():
            s[here], d[here] = line.project(boxes[here][:, :2])
            heading[here] = wrap(boxes[here][:, 2] - line.world(s[here], 0.0)[..., 2])
        c, n = np.abs(np.cos(heading)), np.abs(np.sin(heading))
        half_l, half_w = boxes[..., 3] / 2, boxes[..., 4] / 2
        follow = np.ones(shape[1], bool)
        for a in range(shape[1]):
            ds, dd = (np.ptp(x[here[:, a], a]) if here[:, a].any() else 0.0 for x in (s, d))
            follow[a] = not (dd > 3.0 and dd > ds)
        return cls(s, d, boxes[..., 5] * np.cos(heading), c * half_l + n * half_w, n * half_l + c * half_w, follow)

    def windows(self, lane_d: float, half_width: float) -> Array:
        """(W, 4) first and last frame in which a crossing agent is on the lane at `lane_d`, and its s from … to."""
        rows = []
        for a in np.flatnonzero(~self.follow_A):
            on = np.flatnonzero(np.abs(self.d_KA[:, a] - lane_d) < self.hd_KA[:, a] + half_width + 0.5)
            if len(on):
                s, half = self.s_KA[on, a], self.hs_KA[on, a]
                rows.append((on[0], on[-1], float((s - half).min()), float((s + half).max())))
        return np.array(rows, np.float64).reshape(-1, 4)


class ExpertDriver:
    """Plans 3 s ahead from any state of a generated clip. `force` holds a speed change for counterfactual branches.

    After `plan`, `direction` (five classes) and `navigation` annotate that instant. Stateful only in when a lane
    change began; `reset` forgets it. Raises `InputError` if no lane of the clip's map holds the route's start.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        lane = _lane_at(scene, scene.route_P2[0], scene.route_P2[1])
        self.line = ReferenceLine.from_polyline(_dense(lane.centre_P2))
        shape = scene.meta.ego_shape
        self._body = (shape.front, shape.rear_overhang, shape.width / 2)
        route_s, route_d = self.line.project(scene.route_P2)
        end = float(route_d[-1])
        self._goal_d = end if abs(end) > 1.0 else 0.0
        departed = np.flatnonzero(np.abs(route_d) > 0.05)
        self._command_s = float(route_s[departed[0]]) if self._goal_d and len(departed) else math.inf
        self._limit_P = self._wished_speed(route_s)
        self._ds = float(self.line.s_P[1] - self.line.s_P[0])
        self.others = Others.along(scene, self.line)
        self._windows = {d: self.others.windows(d, shape.width / 2) for d in {0.0, self._goal_d}}
        self.force: Speed | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the lane change in progress and any forced speed."""
        self.force = None
        self.direction = self.navigation = Direction.STRAIGHT
        self._change: tuple[float, float, float, float] | None = None  # start d, goal d, start time, duration

    def plan(self, state: TimedEgo) -> Trajectory:
        """A smooth trajectory of 30 points at 0.1 s in the ego frame, from any state (also beside the lane's middle,
        at any speed or heading error)."""
        ego, t_s = state.ego, state.t_s
        s, d, d_rate = self._where(ego)
        self._decide_change(s, d, ego.v, t_s)
        change = self._change or (0.0, 0.0, 0.0, 1.0)
        forced = math.nan if self.force is None else FORCED.get(self.force, math.nan)
        rolled = look_ahead(
            (s, d, ego.v, ego.a, d_rate), change, t_s, PLAN_DT, PLAN_STEPS, round(t_s / self.scene.meta.dt), forced,
            float(self.line.s_P[0]), self._ds, self._limit_P, self.line.kappa_P, self._body,
            self.others.s_KA, self.others.d_KA, self.others.v_KA, self.others.hs_KA, self.others.hd_KA,
            self.others.follow_A, self._windows[change[1]],
        )  # fmt: skip
        self.direction, self.navigation = self._annotate(s, d, ego.v)
        points = self.line.world(rolled[:, 0], rolled[:, 1])[:, :2]
        return Trajectory(points_to_ego(points, np.array([ego.x, ego.y, ego.yaw])), PLAN_DT)

    def _where(self, ego: EgoState) -> tuple[float, float, float]:
        s, d = (float(x[0]) for x in self.line.project(np.array([[ego.x, ego.y]])))
        error = float(wrap(ego.yaw - self.line.world(s, 0.0)[2]))
        return s, d, ego.v * math.sin(error)

    def _wished_speed(self, route_s: Array) -> Array:
        """Speed limit, curve speed, and comfortable braking towards either, per point of the line."""
        limit = np.nan_to_num(np.interp(self.line.s_P, route_s, self.scene.speed_limit_P), nan=13.9)
        curve = np.sqrt(LATERAL_ACCEL / np.maximum(np.abs(self.line.kappa_P), 1e-6))
        wished = np.minimum(limit, curve)
        ds = np.diff(self.line.s_P)
        for i in range(len(wished) - 2, -1, -1):
            wished[i] = min(wished[i], math.sqrt(wished[i + 1] ** 2 + 2 * CURVE_BRAKE * ds[i]))
        return wished

    def _decide_change(self, s: float, d: float, v: float, t_s: float) -> None:
        """Begin the commanded lane change once it is commanded and the gap is there."""
        if self._change is not None or not self._goal_d:
            return
        share = d / self._goal_d
        if share > 0.75:  # entered after the change: keep the new lane
            self._change = (self._goal_d, self._goal_d, t_s, 1.0)
        elif share > 0.35:  # entered in its middle: bring it to its end
            self._change = (d, self._goal_d, t_s, CHANGE_S * (1 - 0.6 * share))
        elif s >= self._command_s and v > 2.0 and self._gap_is_free(s, v, t_s):
            self._change = (d, self._goal_d, t_s, CHANGE_S)

    def _gap_is_free(self, s: float, v: float, t_s: float) -> bool:
        """Whether nobody on the goal lane comes too near within the next 4 s, at unchanged ego speed."""
        o = self.others
        k0 = round(t_s / self.scene.meta.dt)
        k = np.arange(k0, min(k0 + int(4.0 / self.scene.meta.dt), len(o.s_KA)), 2)
        if len(k) == 0 or o.s_KA.shape[1] == 0:
            return True
        ego_s = s + v * (k - k0)[:, None] * self.scene.meta.dt
        front, rear, half_width = self._body
        near = np.abs(o.d_KA[k] - self._goal_d) < o.hd_KA[k] + half_width + 0.4
        ahead = o.s_KA[k] - o.hs_KA[k] - (ego_s + front)
        behind = (ego_s - rear) - (o.s_KA[k] + o.hs_KA[k])
        closing = np.maximum(v - o.v_KA[k], 0.0)
        overtaking = np.maximum(o.v_KA[k] - v, 0.0)
        free = (ahead > 3.0 + 0.8 * closing) | (behind > 4.0 + 1.2 * overtaking)
        return bool((~near | free).all())

    def _annotate(self, s: float, d: float, v: float) -> tuple[Direction, Direction]:
        """What a human annotator would say of this frame, and what the navigation announces."""
        direction = navigation = Direction.STRAIGHT
        # Turning: the road's own departure within the 1.4 s that f_K looks at, by f_K's thresholds.
        speed = max(v, 3.0)
        ahead = self.line.world(s + 1.4 * speed, 0.0)
        here = self.line.world(s, 0.0)
        side = float(points_to_ego(ahead[None, :2], here)[0, 1])
        least = 2.4 if v > 10 else 1.5 if v > 5 else 0.9
        if abs(side) > 0.9 * least and abs(float(wrap(ahead[2] - here[2]))) > math.pi / 36:
            direction = Direction.TURN_LEFT if side > 0 else Direction.TURN_RIGHT
        kappa = self.line.kappa_P[(self.line.s_P > s) & (self.line.s_P < s + TURN_SIGHT)]
        if len(kappa) and np.abs(kappa).max() > TURN_KAPPA:
            left = kappa[np.abs(kappa).argmax()] > 0
            navigation = Direction.TURN_LEFT if left else Direction.TURN_RIGHT
        if self._goal_d and abs(d - self._goal_d) > 0.5:
            change = Direction.CHANGE_LEFT if self._goal_d > 0 else Direction.CHANGE_RIGHT
            navigation = change
            direction = change if self._change is not None else direction
        return direction, navigation


def _lane_at(scene: Scene, point_2: Array, next_2: Array) -> Lane:
    """The lane whose centre line passes a point in the sense of travel."""
    best, distance = None, math.inf
    for lane in scene.map.lanes:
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


def _dense(line_P2: Array, step: float = 0.5) -> Array:
    """A polyline resampled evenly (the compiled look-ahead indexes it by division)."""
    s = along_polyline(line_P2)
    new = np.linspace(0.0, s[-1], max(2, round(s[-1] / step) + 1))
    return CubicSpline(s, line_P2)(new)
