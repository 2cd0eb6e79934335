"""The ego's body: a kinematic bicycle about the rear axle, and the tracker that turns a plan into its commands.

Both are small pure functions of floats: a step of 0.1 s costs some twenty microseconds, and mirroring the plan
mirrors every number exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from senna2.frames import along_polyline, points_to_ego, points_to_world, poses_to_world, wrap, yaw_from_steps
from senna2.types import Array, EgoState, Trajectory, VehicleShape, require

STANDING_M = 0.3  # a plan whose points span less than this gives no direction to steer for


@dataclass(frozen=True)
class VehicleLimits:
    """What the actuators can do. rad, rad/s, m/s², m/s³, s; values of an ordinary car [ours]."""

    max_steer: float = 0.6
    max_steer_rate: float = 0.7
    min_accel: float = -8.0
    max_accel: float = 3.0
    max_jerk: float = 20.0
    max_lateral_accel: float = 8.0  # grip: no curvature is asked for beyond it
    accel_lag_s: float = 0.1
    steer_lag_s: float = 0.1

    def validate(self) -> VehicleLimits:
        for name in ("max_steer", "max_steer_rate", "max_accel", "max_jerk", "accel_lag_s", "steer_lag_s"):
            require(getattr(self, name) > 0, f"VehicleLimits.{name}", "must be positive")
        require(self.min_accel < 0, "VehicleLimits.min_accel", "must be negative")
        return self


def bicycle_substep(
    state: EgoState, accel: float, steer: float, dt: float, shape: VehicleShape, limits: VehicleLimits
) -> EgoState:
    """One integration step of `dt` s under commanded acceleration (m/s²) and front wheel angle (rad).

    Commands pass a first-order lag (exact over `dt`), a jerk and a steering rate limit; the car never reverses, and
    brakes of a standing car read as no acceleration.
    """
    accel = min(max(accel, limits.min_accel), limits.max_accel)
    steer = min(max(steer, -limits.max_steer), limits.max_steer)
    da = (accel - state.a) * (1 - math.exp(-dt / limits.accel_lag_s))
    a = state.a + min(max(da, -limits.max_jerk * dt), limits.max_jerk * dt)
    ds = (steer - state.steer) * (1 - math.exp(-dt / limits.steer_lag_s))
    new_steer = state.steer + min(max(ds, -limits.max_steer_rate * dt), limits.max_steer_rate * dt)
    v = state.v + a * dt
    if v <= 0:
        way = 0.0 if a >= 0 else 0.5 * state.v**2 / -a  # comes to rest within the step
        v, a = 0.0, max(a, 0.0)
    else:
        way = 0.5 * (state.v + v) * dt
    turn = way * math.tan(0.5 * (state.steer + new_steer)) / shape.wheelbase
    heading = state.yaw + 0.5 * turn  # midpoint rule: exact to second order on an arc
    return EgoState(
        state.x + way * math.cos(heading), state.y + way * math.sin(heading),
        math.remainder(state.yaw + turn, 2 * math.pi), v, a, new_steer,
    )  # fmt: skip


def yaw_rate(state: EgoState, shape: VehicleShape) -> float:
    """rad/s of the kinematic bicycle."""
    return state.v * math.tan(state.steer) / shape.wheelbase


class PlanTracker(Protocol):
    """What turns a plan into commands; by name in `sim.TRACKERS`."""

    def command(
        self, state: EgoState, plan: Trajectory, shape: VehicleShape, limits: VehicleLimits
    ) -> tuple[float, float]:
        """Acceleration (m/s²) and front wheel angle (rad) for a plan in the ego frame of `state`."""


@dataclass(frozen=True)
class Tracker:
    """Tracker "pursuit": plan → (acceleration, steering) commands.

    Both axes solve the same least squares: which constant command, through the known lag, brings the car closest to
    the plan over a short preview. Along the path it fits planned *positions*, from the first point on, so that a
    plan shortened anywhere slows the car (a tracker that reads the speed of points 5-8 misses a gap closed at the
    start). Across it, it is a pure pursuit over all points up to the look-ahead, exact on circles.
    """

    preview_s: float = 0.6
    lookahead_s: float = 0.6
    min_lookahead_m: float = 3.0
    hold_m: float = 0.1  # a plan that gets less far than this in a second means: stand
    hold_accel: float = -2.0

    def command(
        self, state: EgoState, plan: Trajectory, shape: VehicleShape, limits: VehicleLimits
    ) -> tuple[float, float]:
        """Commands for a plan in the ego frame of `state` (its first point is one `dt` ahead)."""
        points_T2 = np.asarray(plan.points_T2, np.float64)
        way_T = along_plan(points_T2, plan.dt)
        # Without the hold, the fit decays exponentially and never quite stands.
        stands = means_stand(points_T2, plan.dt, state.v, self.hold_m)
        accel = self.hold_accel if stands else self._accel(state, way_T, plan.dt, limits)
        return accel, self._steer(state, points_T2, shape, limits)

    def _accel(self, state: EgoState, way_T: Array, dt: float, limits: VehicleLimits) -> float:
        v = state.v
        n = min(max(round(self.preview_s / dt), 2), len(way_T))
        t = dt * np.arange(1, n + 1)
        tau = limits.accel_lag_s
        kept = tau * t - tau**2 * (1 - np.exp(-t / tau))  # way the present acceleration makes while it fades
        gain = 0.5 * t**2 - kept
        rest = way_T[:n] - v * t - state.a * kept
        accel = float(gain @ rest / (gain @ gain))
        return min(max(accel, limits.min_accel), limits.max_accel)

    def _steer(self, state: EgoState, points_T2: Array, shape: VehicleShape, limits: VehicleLimits) -> float:
        reach = max(self.min_lookahead_m, self.lookahead_s * state.v)
        line = _steering_line(points_T2, reach)
        if line is None:
            return state.steer  # a standing plan has no direction: leave the wheel
        line_P2, way_P = line
        s = reach * np.linspace(0.3, 1.0, 8)
        x, y = np.interp(s, way_P, line_P2[:, 0]), np.interp(s, way_P, line_P2[:, 1])
        square = np.maximum(x**2 + y**2, 1e-6)
        curvature = 2 * y / square  # of the circle through the point, tangent to the car
        lag = max(state.v, 0.5) * limits.steer_lag_s  # m driven while the wheel follows
        share = 1 - 2 * (lag * s - lag**2 * (1 - np.exp(-s / lag))) / s**2  # of the bend made by the command
        now = math.tan(state.steer) / shape.wheelbase
        weight = square**2 * share  # least squares in y = ½ κ s²
        wanted = float(weight @ (curvature - now * (1 - share)) / (weight @ share))
        grip = limits.max_lateral_accel / max(state.v, 1.0) ** 2
        wanted = min(max(wanted, -grip), grip)
        return min(max(math.atan(wanted * shape.wheelbase), -limits.max_steer), limits.max_steer)


def _one_second(points_T2: Array, dt: float) -> int:
    """Index of the point a second ahead, or the last."""
    return min(max(round(1.0 / dt) - 1, 0), len(points_T2) - 1)


def means_stand(points_T2: Array, dt: float, v: float, hold_m: float = 0.1) -> bool:
    """Whether a plan tells a slow car (v m/s) to stand: it gets less than `hold_m` ahead within a second."""
    i = _one_second(points_T2, dt)
    return bool(v < 1.0 and points_T2[max(i - 2, 0) : i + 3, 0].mean() < hold_m)


def along_plan(points_T2: Array, dt: float) -> Array:
    """Way (T,) along a plan's own smoothed direction from the car's position, m; negative while it lies behind.

    Zigzag noise must not read as speed, so each step counts by its part along the chord of its neighbours; nor may
    a sideways jump to the first point (a car beside its plan). A plan that runs backward has no way at all: there is
    no reverse gear, it means stand.
    """
    if points_T2[_one_second(points_T2, dt), 0] < points_T2[0, 0] - 0.02:
        return np.zeros(len(points_T2))
    last = len(points_T2) - 1
    k = np.arange(last + 1)
    chord = points_T2[np.minimum(k + 2, last)] - points_T2[np.maximum(k - 3, 0)]
    size = np.hypot(chord[:, 0], chord[:, 1])
    unit = np.where((size > 0.03)[:, None], chord / np.maximum(size, 1e-9)[:, None], (1.0, 0.0))
    step = (np.diff(points_T2, axis=0, prepend=np.zeros((1, 2))) * unit).sum(1)
    return step[0] + np.maximum.accumulate(np.concatenate([[0.0], np.cumsum(step[1:])]))


def _steering_line(points_T2: Array, reach: float) -> tuple[Array, Array] | None:
    """The plan ahead of the car as a polyline from it, with its arc length, at least `reach` long; None if the
    plan does not move."""
    ahead = np.flatnonzero(points_T2[:, 0] > 0.05)
    if len(ahead) == 0:
        return None
    line_P2 = np.vstack([np.zeros((1, 2)), points_T2[ahead[0] :]])
    way_P = along_polyline(line_P2)
    keep = np.concatenate([[True], np.diff(way_P) > 1e-6])
    line_P2, way_P = line_P2[keep], way_P[keep]
    if float(np.hypot(*(points_T2[-1] - points_T2[0]))) < STANDING_M:
        return None
    if way_P[-1] < reach:
        back = line_P2[max(int(np.searchsorted(way_P, way_P[-1] - 1.0)) - 1, 0)]  # a single short step is noise
        tail = line_P2[-1] - back
        end = line_P2[-1] + tail / max(float(np.hypot(*tail)), 1e-9) * (reach - way_P[-1] + 0.1)
        line_P2, way_P = np.vstack([line_P2, end]), np.append(way_P, reach + 0.1)
    return line_P2, way_P


def follow_plan(
    state: EgoState, plan: Trajectory, dt: float, substeps: int, shape: VehicleShape, limits: VehicleLimits,
    tracker: PlanTracker,
) -> list[EgoState]:  # fmt: skip
    """The bicycle under the tracker for `dt` s: its states after each of `substeps` equal parts."""
    accel, steer = tracker.command(state, plan, shape, limits)
    states = []
    for _ in range(substeps):
        state = bicycle_substep(state, accel, steer, dt / substeps, shape, limits)
        states.append(state)
    return states


def follow_exactly(
    state: EgoState, plan: Trajectory, dt: float, substeps: int, shape: VehicleShape, limits: VehicleLimits
) -> list[EgoState]:
    """Vehicle mode `perfect`: the pose `dt` later is the plan's, poses between are interpolated.

    Speed is the mean over the steps before and after (central difference), so that replaying a recording gives its
    speeds and not those of half a step ago.
    """
    points = plan.points_T2 if plan.dt == dt else _resample_linear(plan, dt)
    yaw = plan.yaw_T if plan.yaw_T is not None and plan.dt == dt else yaw_from_steps(points)
    end_in_ego = np.array([points[0, 0], points[0, 1], yaw[0]])
    x, y, heading = (float(c) for c in poses_to_world(end_in_ego[None], np.array([state.x, state.y, state.yaw]))[0])
    first = math.hypot(points[0, 0], points[0, 1])
    second = math.hypot(*(points[1] - points[0])) if len(points) > 1 else first
    v = 0.5 * (first + second) / dt
    turn = math.remainder(heading - state.yaw, 2 * math.pi)
    steer = math.atan(shape.wheelbase * turn / first) if first > 0.05 else state.steer
    a = (v - state.v) / dt
    steer = min(max(steer, -limits.max_steer), limits.max_steer)
    states = []
    for k in range(1, substeps + 1):
        u = k / substeps
        yaw_k = math.remainder(state.yaw + u * turn, 2 * math.pi)
        states.append(
            EgoState(
                state.x + u * (x - state.x), state.y + u * (y - state.y), yaw_k, state.v + u * (v - state.v), a, steer
            )
        )
    states[-1] = EgoState(x, y, heading, v, a, steer)
    return states


def _resample_linear(plan: Trajectory, dt: float) -> Array:
    t = plan.dt * np.arange(len(plan.points_T2) + 1)
    line = np.vstack([np.zeros((1, 2)), plan.points_T2])
    at = dt * np.arange(1, int(t[-1] / dt + 1e-9) + 1)
    return np.stack([np.interp(at, t, line[:, 0]), np.interp(at, t, line[:, 1])], 1)


def shift_plan(plan: Trajectory, old: EgoState, new: EgoState, elapsed_s: float) -> Trajectory:
    """What is left of a plan made at `old`, `elapsed_s` later, in the ego frame of `new`.

    For planning less often than driving. Raises `InputError` when nothing is left of it.
    """
    gone = round(elapsed_s / plan.dt)
    require(gone < len(plan.points_T2), "plan", f"is only {plan.dt * len(plan.points_T2):.1f} s long; plan more often")
    if gone == 0:
        return plan
    old_pose, new_pose = np.array([old.x, old.y, old.yaw]), np.array([new.x, new.y, new.yaw])
    points = points_to_ego(points_to_world(plan.points_T2[gone:], old_pose), new_pose)
    yaw = None if plan.yaw_T is None else wrap(plan.yaw_T[gone:] + old.yaw - new.yaw)
    return Trajectory(points, plan.dt, yaw)
