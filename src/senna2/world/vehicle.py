"""The ego's body: a kinematic bicycle about the rear axle, and the tracker that turns a plan into its commands.

Both are small pure functions, compiled in `vehicle_kernel`: a step of 0.1 s costs some ten microseconds, and mirroring
the plan mirrors every number exactly.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from typing import Protocol

import numpy as np

from senna2.frames import points_to_ego, points_to_world, poses_to_world, wrap, yaw_from_steps
from senna2.types import Array, EgoState, Trajectory, VehicleShape, require
from senna2.world import vehicle_kernel


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
        for name in (f.name for f in fields(self) if f.name != "min_accel"):
            require(getattr(self, name) > 0, f"VehicleLimits.{name}", "must be positive")
        require(self.min_accel < 0, "VehicleLimits.min_accel", "must be negative")
        return self

    @cached_property
    def array_8(self) -> Array:
        """The fields in their order, for the kernels."""
        return np.array(astuple(self), np.float64)


def bicycle_substep(
    state: EgoState, accel: float, steer: float, dt: float, shape: VehicleShape, limits: VehicleLimits
) -> EgoState:
    """One integration step of `dt` s under commanded acceleration (m/s²) and front wheel angle (rad).

    Commands pass a first-order lag (exact over `dt`), a jerk and a steering rate limit; the car never reverses, and
    brakes of a standing car read as no acceleration.
    """
    path = vehicle_kernel.bicycle(state.as_array(), accel, steer, dt, 1, shape.wheelbase, limits.array_8)
    return EgoState(*path[1].tolist())


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
        # Without the hold, the fit decays exponentially and never quite stands.
        return vehicle_kernel.pursue(
            state.as_array(), _float64(plan.points_T2), plan.dt, shape.wheelbase, limits.array_8,
            self.preview_s, self.lookahead_s, self.min_lookahead_m, self.hold_m, self.hold_accel,
        )  # fmt: skip


def _float64(points_T2: Array) -> Array:
    return np.ascontiguousarray(points_T2, np.float64)


def means_stand(points_T2: Array, dt: float, v: float, hold_m: float = 0.1) -> bool:
    """Whether a plan tells a slow car (v m/s) to stand: it gets less than `hold_m` ahead within a second."""
    return bool(vehicle_kernel.stands(_float64(points_T2), dt, v, hold_m))


def along_plan(points_T2: Array, dt: float) -> Array:
    """Way (T,) along a plan's own smoothed direction from the car's position, m; negative while it lies behind.

    Zigzag noise must not read as speed, so each step counts by its part along the chord of its neighbours; nor may
    a sideways jump to the first point (a car beside its plan). A plan that runs backward has no way at all: there is
    no reverse gear, it means stand.
    """
    return vehicle_kernel.way_along(_float64(points_T2), dt)


def path_under_plan(
    state: EgoState, plan: Trajectory, dt: float, substeps: int, shape: VehicleShape, limits: VehicleLimits,
    tracker: PlanTracker,
) -> Array:  # fmt: skip
    """The bicycle under the tracker for `dt` s: (substeps + 1, 6) rows of x, y, yaw, v, a, steer, from `state` on."""
    accel, steer = tracker.command(state, plan, shape, limits)
    return vehicle_kernel.bicycle(
        state.as_array(), accel, steer, dt / substeps, substeps, shape.wheelbase, limits.array_8
    )


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
    return _between_points(plan, dt * np.arange(1, int(plan.dt * len(plan.points_T2) / dt + 1e-9) + 1))


def _between_points(plan: Trajectory, at_T: Array) -> Array:
    """(T, 2) where a plan is at these times in s: straight lines from point to point, the first one from the ego."""
    t = plan.dt * np.arange(len(plan.points_T2) + 1)
    line = np.vstack([np.zeros((1, 2)), plan.points_T2])
    return np.stack([np.interp(at_T, t, line[:, 0]), np.interp(at_T, t, line[:, 1])], 1)


def shift_plan(plan: Trajectory, old: EgoState, new: EgoState, elapsed_s: float) -> Trajectory:
    """What is left of a plan made at `old`, `elapsed_s` later, in the ego frame of `new`.

    For planning less often than driving. Raises `InputError` when nothing is left of it.
    """
    if elapsed_s == 0:
        return plan
    gone = round(elapsed_s / plan.dt)
    whole = abs(elapsed_s / plan.dt - gone) < 1e-6
    gone = gone if whole else math.ceil(elapsed_s / plan.dt)  # between two points the last one has nothing after it
    require(gone < len(plan.points_T2), "plan", f"is only {plan.dt * len(plan.points_T2):.1f} s long; plan more often")
    points, yaw = plan.points_T2[gone:], None if plan.yaw_T is None else plan.yaw_T[gone:]
    if not whole:
        at = elapsed_s + plan.dt * np.arange(1, len(points) + 1)
        points = _between_points(plan, at)
        if plan.yaw_T is not None:
            yaw = np.interp(at / plan.dt, np.arange(len(plan.yaw_T) + 1), np.unwrap([0.0, *plan.yaw_T]))
    old_pose, new_pose = np.array([old.x, old.y, old.yaw]), np.array([new.x, new.y, new.yaw])
    points = points_to_ego(points_to_world(points, old_pose), new_pose)
    return Trajectory(points, plan.dt, None if yaw is None else wrap(yaw + old.yaw - new.yaw))
