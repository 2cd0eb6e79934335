"""The compiled tracker and bicycle against the same formulas in plain Python and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from senna2.frames import along_polyline
from senna2.types import Array, EgoState, Trajectory, VehicleShape
from senna2.world.vehicle import Tracker, VehicleLimits, along_plan, bicycle_substep, path_under_plan
from senna2.world.vehicle_kernel import remainder

SHAPE, LIMITS, TRACKER = VehicleShape(), VehicleLimits(), Tracker()


def plan_and_state(seed: int) -> tuple[Trajectory, EgoState]:
    """Plans of all kinds: noisy, standing, jumping aside, ending early; of any length and step."""
    rng = np.random.default_rng(seed)
    v = float(rng.choice([0.0, rng.uniform(0, 1.2), rng.uniform(0, 20)]))
    count, dt = int(rng.choice([1, 2, 3, 6, 30, 60])), float(rng.choice([0.1, 0.1, 0.25, 0.5, 1.0]))
    points = np.cumsum(rng.normal((v * dt, 0), (0.1, 0.2) if seed % 4 else (0.0, 0.0), (count, 2)), 0)
    if seed % 4 == 2:
        points = rng.normal(0, 0.05, (count, 2))
    if seed % 4 == 3:
        points = points + rng.normal(0, 1, 2)
        points[count // 2 :] = points[count // 2]
    state = EgoState(*rng.normal(0, 10, 2), rng.uniform(-4, 4), v, rng.uniform(-8, 3), rng.uniform(-0.6, 0.6))
    return Trajectory(points, dt), state


def way_oracle(points: Array, dt: float) -> Array:
    second = min(max(round(1.0 / dt) - 1, 0), len(points) - 1)
    if points[second, 0] < points[0, 0] - 0.02:
        return np.zeros(len(points))
    k, last = np.arange(len(points)), len(points) - 1
    chord = points[np.minimum(k + 2, last)] - points[np.maximum(k - 3, 0)]
    size = np.hypot(*chord.T)
    unit = np.where((size > 0.03)[:, None], chord / np.maximum(size, 1e-9)[:, None], (1.0, 0.0))
    step = (np.diff(points, axis=0, prepend=np.zeros((1, 2))) * unit).sum(1)
    return step[0] + np.maximum.accumulate(np.concatenate([[0.0], np.cumsum(step[1:])]))


def accel_oracle(points: Array, dt: float, state: EgoState) -> float:
    second = min(max(round(1.0 / dt) - 1, 0), len(points) - 1)
    if state.v < 1 and points[max(second - 2, 0) : second + 3, 0].mean() < 0.1:
        return TRACKER.hold_accel
    n = min(max(round(TRACKER.preview_s / dt), 2), len(points))
    t, tau = dt * np.arange(1, n + 1), LIMITS.accel_lag_s
    kept = tau * t - tau**2 * (1 - np.exp(-t / tau))
    fitted, *_ = np.linalg.lstsq(
        (0.5 * t**2 - kept)[:, None], way_oracle(points, dt)[:n] - state.v * t - state.a * kept, rcond=None
    )
    return float(np.clip(fitted[0], LIMITS.min_accel, LIMITS.max_accel))


def steer_oracle(points: Array, state: EgoState) -> float:
    reach = max(TRACKER.min_lookahead_m, TRACKER.lookahead_s * state.v)
    ahead = np.flatnonzero(points[:, 0] > 0.05)
    if len(ahead) == 0 or np.hypot(*(points[-1] - points[0])) < 0.3:
        return state.steer
    line = np.vstack([np.zeros((1, 2)), points[ahead[0] :]])
    way = along_polyline(line)
    keep = np.concatenate([[True], np.diff(way) > 1e-6])
    line, way = line[keep], way[keep]
    if way[-1] < reach:
        back = line[max(int(np.searchsorted(way, way[-1] - 1.0)) - 1, 0)]
        tail = line[-1] - back
        line = np.vstack([line, line[-1] + tail / max(np.hypot(*tail), 1e-9) * (reach - way[-1] + 0.1)])
        way = np.append(way, reach + 0.1)
    s = reach * np.linspace(0.3, 1.0, 8)
    x, y = np.interp(s, way, line[:, 0]), np.interp(s, way, line[:, 1])
    square = np.maximum(x**2 + y**2, 1e-6)
    lag = max(state.v, 0.5) * LIMITS.steer_lag_s
    share = 1 - 2 * (lag * s - lag**2 * (1 - np.exp(-s / lag))) / s**2
    now = math.tan(state.steer) / SHAPE.wheelbase
    wanted = np.sum(square**2 * share * (2 * y / square - now * (1 - share))) / np.sum(square**2 * share**2)
    grip = LIMITS.max_lateral_accel / max(state.v, 1.0) ** 2
    return float(np.clip(math.atan(np.clip(wanted, -grip, grip) * SHAPE.wheelbase), -0.6, 0.6))


@pytest.mark.parametrize("start", range(0, 600, 100))
def test_the_tracker_is_the_one_in_numpy(start: int) -> None:
    for seed in range(start, start + 100):
        plan, state = plan_and_state(seed)
        wanted = accel_oracle(plan.points_T2, plan.dt, state), steer_oracle(plan.points_T2, state)
        assert TRACKER.command(state, plan, SHAPE, LIMITS) == pytest.approx(wanted, abs=1e-9), seed
        assert np.allclose(along_plan(plan.points_T2, plan.dt), way_oracle(plan.points_T2, plan.dt), atol=1e-9)


def test_a_plan_in_single_precision_or_in_a_strided_array_is_the_same_plan() -> None:
    plan, state = plan_and_state(5)
    points = plan.points_T2.astype(np.float32)
    wanted = TRACKER.command(state, Trajectory(points.astype(np.float64), plan.dt), SHAPE, LIMITS)
    strided = np.asfortranarray(np.repeat(points, 2, axis=0))[::2]
    for given in (points, strided):
        assert TRACKER.command(state, Trajectory(given, plan.dt), SHAPE, LIMITS) == wanted


def substep_oracle(s: EgoState, accel: float, steer: float, dt: float, limits: VehicleLimits) -> EgoState:
    accel, steer = (
        np.clip(accel, limits.min_accel, limits.max_accel),
        np.clip(steer, -limits.max_steer, limits.max_steer),
    )
    a = s.a + np.clip(
        (accel - s.a) * (1 - math.exp(-dt / limits.accel_lag_s)), -limits.max_jerk * dt, limits.max_jerk * dt
    )
    rate = limits.max_steer_rate * dt
    wheel = s.steer + np.clip((steer - s.steer) * (1 - math.exp(-dt / limits.steer_lag_s)), -rate, rate)
    v = s.v + a * dt
    way = 0.5 * (s.v + v) * dt
    if v <= 0:
        way, v, a = (0.0 if a >= 0 else 0.5 * s.v**2 / -a), 0.0, max(a, 0.0)
    turn = way * math.tan(0.5 * (s.steer + wheel)) / SHAPE.wheelbase
    yaw = s.yaw + 0.5 * turn
    return EgoState(
        s.x + way * math.cos(yaw), s.y + way * math.sin(yaw), math.remainder(s.yaw + turn, 2 * math.pi), v, a, wheel
    )


@pytest.mark.parametrize("limits", [LIMITS, VehicleLimits(0.5, 0.3, -6.0, 2.0, 9.0, 5.0, 0.2, 0.05)])
def test_the_bicycle_is_the_one_in_plain_python(limits: VehicleLimits) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        state = other = EgoState(*rng.normal(0, 50, 2), rng.uniform(-4, 4), rng.uniform(0, 3))
        for _ in range(40):
            accel, steer, dt = rng.uniform(-10, 5), rng.uniform(-1, 1), rng.uniform(0.005, 0.1)
            state = bicycle_substep(state, accel, steer, dt, SHAPE, limits)
            other = substep_oracle(other, accel, steer, dt, limits)
            assert np.allclose(state.as_array(), other.as_array(), atol=1e-9)


def test_a_path_is_its_substeps() -> None:
    plan, state = plan_and_state(9)
    accel, steer = TRACKER.command(state, plan, SHAPE, LIMITS)
    path = path_under_plan(state, plan, 0.1, 5, SHAPE, LIMITS, TRACKER)
    assert np.array_equal(path[0], state.as_array())
    for row in path[1:]:
        state = bicycle_substep(state, accel, steer, 0.02, SHAPE, LIMITS)
        assert np.array_equal(row, state.as_array())


def test_remainder_is_that_of_the_standard_library() -> None:
    for angle in np.concatenate([np.linspace(-40, 40, 2001), [0.0, 3.1415, -3.1416, 1e6]]):
        assert remainder(angle) == math.remainder(angle, 2 * math.pi)
