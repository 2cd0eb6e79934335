"""The tracker of nuPlan's simulation: a linear quadratic regulator for speed, then one for the path.

As in nuplan-devkit's two-stage `LQRTracker` (Caesar et al. 2021), derived anew: one constant acceleration over the
horizon brings the speed to the plan's there; with that speed profile the errors beside the path are linear, and one
constant rate of curvature brings them to zero at the horizon. [ours] the state holds the curvature instead of the wheel
angle, so that the model is exact on circles at any angle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from senna2.types import Array, EgoState, Trajectory, VehicleShape
from senna2.world.vehicle import VehicleLimits, along_plan, means_stand
from senna2.world.vehicle_kernel import STANDING_M


@dataclass(frozen=True)
class LqrTracker:
    """Plan → (acceleration, steering) commands. Weights are nuPlan's; the horizon is 1 s.

    It regulates speed, not position along the plan: where a plan closes a gap at its very start, pure pursuit reacts
    and this one does not.
    """

    horizon_s: float = 1.0
    step_s: float = 0.1
    q_speed: float = 10.0
    r_accel: float = 1.0
    q_side: float = 1.0
    q_heading: float = 10.0
    r_steer_rate: float = 1.0
    smooth: float = 2.0  # weight of curvature's changes when it is read off a plan
    hold_accel: float = -2.0

    def command(
        self, state: EgoState, plan: Trajectory, shape: VehicleShape, limits: VehicleLimits
    ) -> tuple[float, float]:
        """Commands for a plan in the ego frame of `state` (its first point is one `dt` ahead)."""
        points_T2 = np.asarray(plan.points_T2, np.float64)
        way_T = along_plan(points_T2, plan.dt)
        if means_stand(points_T2, plan.dt, state.v):
            return self.hold_accel, self._steer_or_hold(state, points_T2, way_T, plan.dt, 0.0, shape, limits)
        accel = self._accel(state, way_T, plan.dt, limits)
        return accel, self._steer_or_hold(state, points_T2, way_T, plan.dt, accel, shape, limits)

    def _accel(self, state: EgoState, way_T: Array, dt: float, limits: VehicleLimits) -> float:
        """v_N = v + T·a; the least q (v_N - v_plan)² + r a²."""
        t = dt * np.arange(len(way_T) + 1)
        way = np.concatenate([[0.0], way_T])
        # Of a plan that ends before, its last speed: beyond the end there is no way to read one off.
        early = max(self.horizon_s + 0.2 - float(t[-1]), 0.0)
        high = self.horizon_s + 0.2 - early
        low = max(self.horizon_s - 0.2 - early, 0.0)
        ends = np.interp((low, high), t, way)
        wanted = max(float(ends[1] - ends[0]) / min(0.4, high), 0.0)
        gain = self.q_speed * self.horizon_s / (self.q_speed * self.horizon_s**2 + self.r_accel)
        accel = gain * (wanted - state.v)
        return min(max(accel, limits.min_accel), limits.max_accel)

    def _steer_or_hold(
        self, state: EgoState, points_T2: Array, way_T: Array, dt: float, accel: float, shape: VehicleShape,
        limits: VehicleLimits,
    ) -> float:  # fmt: skip
        if float(np.hypot(*(points_T2[-1] - points_T2[0]))) < STANDING_M or way_T[-1] < STANDING_M:
            return state.steer  # a standing plan has no direction: leave the wheel
        rate = self._curvature_rate(state, points_T2, way_T, accel, shape)
        now = math.tan(state.steer) / shape.wheelbase
        grip = limits.max_lateral_accel / max(state.v, 1.0) ** 2
        wanted = min(max(now + rate * self.step_s, -grip), grip)
        steer = math.atan(wanted * shape.wheelbase)
        # The wheel follows with a lag; asked for this much it is where it should be one step later.
        steer = state.steer + (steer - state.steer) / (1 - math.exp(-self.step_s / limits.steer_lag_s))
        return min(max(steer, -limits.max_steer), limits.max_steer)

    def _curvature_rate(
        self, state: EgoState, points_T2: Array, way_T: Array, accel: float, shape: VehicleShape
    ) -> float:
        """1/(m·s). Errors (side, heading, curvature of the car) over N steps: z' = A z + B u + g; u least squares."""
        s_P, curvature_P, side, heading = self._reference(points_T2, way_T)
        n = round(self.horizon_s / self.step_s)
        v = np.maximum(state.v + accel * self.step_s * np.arange(n), 0.3)
        s = np.concatenate([[0.0], np.cumsum(v * self.step_s)])[:-1]
        wanted = np.interp(s, s_P, curvature_P)
        z = np.array([-side, -heading, math.tan(state.steer) / shape.wheelbase])
        response = np.zeros(3)
        for k in range(n):
            h = v[k] * self.step_s
            for vector, drive, reference in ((z, 0.0, wanted[k]), (response, 1.0, 0.0)):
                turn = h * (vector[2] + 0.5 * drive * self.step_s - reference)
                vector[0] += h * (vector[1] + 0.5 * turn)
                vector[1] += turn
                vector[2] += drive * self.step_s
        weight = np.array([self.q_side, self.q_heading, 0.0])
        effort = self.r_steer_rate * shape.wheelbase**2  # of the wheel's rate, to first order
        return float(-(response * weight) @ z / ((response * weight) @ response + effort))

    def _reference(self, points_T2: Array, way_T: Array) -> tuple[Array, Array, float, float]:
        """Way and smoothed curvature along the plan, and its offset and heading abeam the car."""
        ahead = points_T2[np.concatenate([[True], np.diff(way_T) > 1e-3])]
        step = np.diff(ahead, axis=0)
        length = np.hypot(*step.T)
        if len(length) < 2:  # too few for a fit: the arc from the car through the last one
            x, y = (float(c) for c in ahead[-1])
            return np.array([0.0, 1.0]), np.full(2, 2 * y / (x * x + y * y)), 0.0, 0.0
        course = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
        between = 0.5 * (length[:-1] + length[1:])
        bend = np.diff(course)
        # Least squares of heading changes and small changes of curvature: a plan's points are noisy.
        m = len(bend)
        change = np.diff(np.eye(m), axis=0)
        scale = max(float(between.mean()), 1e-3)
        normal = np.diag(between**2 + 1e-9) + self.smooth * scale**2 * change.T @ change
        curvature = np.linalg.solve(normal, between * bend)
        s = np.concatenate([[0.0], np.cumsum(between)])[:-1] + length[0]
        # The straight-line fit of the course, bends taken out, is its heading at the first point.
        use = min(len(course), 8)
        turned = np.concatenate([[0.0], np.cumsum(curvature * between)])[:use]
        first = float(np.mean(course[:use] - turned))
        heading = first - float(curvature[0]) * (float(ahead[0, 0]) + 0.5 * length[0])
        fitted = first - 0.5 * float(curvature[0]) * length[0]  # at the first point
        rest = ahead[: min(use, len(ahead))]
        along = rest[:, 0] - rest[0, 0]
        drift = rest[:, 1] - along * math.tan(fitted) - 0.5 * float(curvature[0]) * along**2
        at_first = float(np.mean(drift[:3]))
        back = float(rest[0, 0])
        side = at_first - back * math.tan(0.5 * (fitted + heading))
        return s + back, curvature, side, heading
