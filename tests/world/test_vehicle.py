"""The bicycle against closed forms and the tracker against feasible, expert-like paths."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from senna2.frames import points_to_ego, points_to_world, project_to_polyline
from senna2.types import Array, EgoState, InputError, Trajectory, VehicleShape
from senna2.world.lqr import LqrTracker
from senna2.world.sim import TRACKERS
from senna2.world.vehicle import (
    PlanTracker,
    Tracker,
    VehicleLimits,
    bicycle_substep,
    follow_exactly,
    path_under_plan,
    shift_plan,
    yaw_rate,
)

SHAPE, LIMITS, TRACKER = VehicleShape(), VehicleLimits(), Tracker()
both_trackers = pytest.mark.parametrize("tracker", TRACKERS.values(), ids=TRACKERS)


def roll(state: EgoState, accel: float, steer: float, seconds: float, dt: float = 0.02) -> EgoState:
    for _ in range(round(seconds / dt)):
        state = bicycle_substep(state, accel, steer, dt, SHAPE, LIMITS)
    return state


def follow(state: EgoState, plan: Trajectory, tracker: PlanTracker = TRACKER) -> EgoState:
    return EgoState(*path_under_plan(state, plan, 0.1, 5, SHAPE, LIMITS, tracker)[-1].tolist())


# --- bicycle


def test_constant_speed_goes_straight() -> None:
    end = roll(EgoState(3.0, -2.0, 0.5, 10.0), 0.0, 0.0, 2.0)
    assert (end.x, end.y) == pytest.approx((3 + 20 * math.cos(0.5), -2 + 20 * math.sin(0.5)))


def test_steady_steering_drives_the_circle_of_the_bicycle() -> None:
    steer, v = 0.2, 5.0
    radius = SHAPE.wheelbase / math.tan(steer)
    angle = v * 3.0 / radius
    end = roll(EgoState(0, 0, 0, v, 0.0, steer), 0.0, steer, 3.0)
    assert (end.x, end.y) == pytest.approx((radius * math.sin(angle), radius * (1 - math.cos(angle))), abs=1e-3)
    assert end.yaw == pytest.approx(angle)
    assert yaw_rate(end, SHAPE) == pytest.approx(v / radius)


def test_limits_hold_under_any_command() -> None:
    rng = np.random.default_rng(0)
    state = EgoState(0, 0, 0, 6.0)
    for _ in range(400):
        old = state
        state = bicycle_substep(state, rng.uniform(-50, 50), rng.uniform(-5, 5), 0.02, SHAPE, LIMITS)
        assert state.v >= 0
        assert abs(state.steer) <= LIMITS.max_steer
        assert abs(state.steer - old.steer) <= LIMITS.max_steer_rate * 0.02 + 1e-12
        assert LIMITS.min_accel <= state.a <= LIMITS.max_accel
        assert abs(state.a - old.a) <= LIMITS.max_jerk * 0.02 + 1e-9 or state.v == 0


def test_braking_ends_at_rest_and_never_reverses() -> None:
    end = roll(EgoState(0, 0, 0, 8.0), -8.0, 0.0, 3.0)
    assert end.v == 0
    assert end.a == 0
    assert 4.0 < end.x < 8.0  # v²/2a = 4 m and the time to build up the brakes
    assert roll(end, -8.0, 0.3, 1.0).x == end.x


def test_small_steps_change_nothing() -> None:
    coarse = roll(EgoState(0, 0, 0, 6.0), 1.0, 0.3, 2.0, 0.02)
    fine = roll(EgoState(0, 0, 0, 6.0), 1.0, 0.3, 2.0, 0.001)
    assert np.allclose(coarse.as_array(), fine.as_array(), atol=0.05)


# --- tracker


@both_trackers
@pytest.mark.parametrize("v", [0.0, 0.5, 2.0, 8.0, 20.0])
def test_straight_plan_gives_zero_steer(tracker: PlanTracker, v: float) -> None:
    accel, steer = tracker.command(EgoState(0, 0, 0, v), Trajectory.fake(v), SHAPE, LIMITS)
    assert steer == 0.0
    assert abs(accel) < 1e-6 or v < 0.1


@both_trackers
@pytest.mark.parametrize("seed", range(20))
def test_mirrored_plan_mirrors_the_steering_exactly(tracker: PlanTracker, seed: int) -> None:
    rng = np.random.default_rng(seed)
    v = rng.uniform(0, 15)
    points = np.cumsum(rng.normal((v * 0.1, 0), (0.1, 0.2), (30, 2)), 0)
    mirrored = points * (1, -1)
    left = tracker.command(EgoState(0, 0, 0, v, 0.3, 0.1), Trajectory(points, 0.1), SHAPE, LIMITS)
    right = tracker.command(EgoState(0, 0, 0, v, 0.3, -0.1), Trajectory(mirrored, 0.1), SHAPE, LIMITS)
    assert left[0] == right[0]
    assert left[1] == -right[1]


def test_a_plan_shortened_at_its_start_slows_the_car() -> None:
    plan = Trajectory.fake(8.0)
    shorter = Trajectory(plan.points_T2 - (0.4, 0.0), 0.1)  # only the first gap is smaller
    assert TRACKER.command(EgoState(0, 0, 0, 8.0), shorter, SHAPE, LIMITS)[0] < -1.0


@both_trackers
@pytest.mark.parametrize("v", [0.3, 1.0, 2.0, 5.0, 12.0])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_plan_to_stand_stops_the_car_and_keeps_it_there(tracker: PlanTracker, v: float, noise: float) -> None:
    rng = np.random.default_rng(1)
    state = EgoState(0, 0, 0, v)
    for _ in range(40):
        state = follow(state, Trajectory(noise * rng.normal(size=(30, 2)), 0.1), tracker)
    rest = state
    for _ in range(50):
        state = follow(state, Trajectory(noise * rng.normal(size=(30, 2)), 0.1), tracker)
    assert rest.v == 0
    assert state.v == 0
    assert math.hypot(state.x - rest.x, state.y - rest.y) < 1e-9
    assert abs(rest.y) < 0.1


def test_a_plan_backward_means_stand() -> None:
    state = EgoState(0, 0, 0, 1.5)
    for _ in range(30):
        state = follow(state, Trajectory.fake(-3.0))
    assert state.v == 0
    assert abs(state.y) < 0.05


def speed_profile(v: float, accel_from: list[tuple[float, float]]) -> tuple[Array, Array]:
    """Way at 0.01 s of a drive with accelerations from given times on, jerk limited to 4 m/s³."""
    dt, a, way = 0.01, 0.0, [0.0]
    for i in range(1600):
        target = [0.0, *(acc for t, acc in accel_from if i * dt >= t)][-1]
        if target < 0 and v < a * a / 8:
            target = 0.0  # ease the brake so that it comes to rest softly
        a += float(np.clip(target - a, -4 * dt, 4 * dt))
        a = max(a, 0.0) if v == 0 else a
        v = max(v + a * dt, 0.0)
        way.append(way[-1] + v * dt)
    return dt * np.arange(len(way)), np.array(way)


def path(curvature: Callable[[Array], Array]) -> tuple[Array, Array]:
    s = np.arange(0, 260, 0.05)
    yaw = np.concatenate([[0], np.cumsum(curvature(s) * 0.05)[:-1]])
    step = 0.05 * np.stack([np.cos(yaw), np.sin(yaw)], 1)
    return s, np.concatenate([np.zeros((1, 2)), np.cumsum(step, 0)[:-1]])


def bend(radius: float, start: float = 14.0) -> Callable[[Array], Array]:
    """90 degrees with 4 m of transition at both ends."""
    end = start + radius * math.pi / 2 + 4
    return lambda s: np.clip((s - start) / 4, 0, 1) * np.clip((end - s) / 4, 0, 1) / radius


def lane_change(v: float) -> Callable[[Array], Array]:
    """3.5 m sideways in 4 s by a quintic."""

    def curvature(s: Array) -> Array:
        u = np.clip((s - 20) / (4 * v), 0, 1)
        return 3.5 * (60 * u - 180 * u**2 + 120 * u**3) / (4 * v) ** 2

    return curvature


DRIVES: dict[str, tuple[float, list[tuple[float, float]], Callable[[Array], Array]]] = {
    "straight": (8.0, [], np.zeros_like),
    "stop": (10.0, [(1.0, -3.0)], np.zeros_like),
    "hard stop": (14.0, [(1.0, -6.0)], np.zeros_like),
    "stop and go": (8.0, [(1.0, -2.5), (7.0, 1.8)], np.zeros_like),
    "start": (0.0, [(1.0, 1.5)], np.zeros_like),
    "tight bend": (3.5, [], bend(8.0)),
    "bend at walking speed": (1.5, [], bend(8.0, 5.0)),
    "right bend": (6.0, [], lambda s: -bend(22.0)(s)),
    "braking bend": (7.0, [(0.5, -1.5), (4.0, 1.5)], bend(12.0)),
    "lane change slow": (5.0, [], lane_change(5.0)),
    "lane change fast": (15.0, [], lane_change(15.0)),
}


@pytest.mark.parametrize("name", DRIVES)
@pytest.mark.parametrize(("noise", "offset"), [(0.0, 0.0), (0.03, 0.0), (0.0, 0.5)])
def test_tracking_a_feasible_drive(name: str, noise: float, offset: float) -> None:
    """Plans are the drive's next 3 s seen from wherever the car is; it stays within 0.2 m sideways."""
    v, accel_from, curvature = DRIVES[name]
    t, way = speed_profile(v, accel_from)
    s, line = path(curvature)
    rng = np.random.default_rng(3)

    def where(times: Array) -> Array:
        at = np.interp(times, t, way)
        return np.stack([np.interp(at, s, line[:, 0]), np.interp(at, s, line[:, 1])], 1)

    state, sideways, along = EgoState(0.0, offset, 0.0, v), [], []
    for i in range(120):
        pose = np.array([state.x, state.y, state.yaw])
        points = points_to_ego(where(i * 0.1 + 0.1 * np.arange(1, 31)), pose) + noise * rng.normal(size=(30, 2))
        state = follow(state, Trajectory(points, 0.1))
        position, side = project_to_polyline(np.array([[state.x, state.y]]), line)
        sideways.append(float(side[0]))
        along.append(float(position[0]) - float(np.interp((i + 1) * 0.1, t, way)))
    if offset == 0:
        assert np.abs(sideways).max() < 0.2
        assert np.abs(along).max() < 0.25
    else:
        assert np.abs(sideways).max() <= offset + 1e-9  # no overshoot to the other side beyond where it started
        moving = np.interp(12.0, t, way) > 15
        assert abs(sideways[-1]) < (0.1 if moving else offset)
    if way[-1] == way[-300]:
        assert state.v == 0


def drive_along(
    tracker: PlanTracker, v: float, curvature: Callable[[Array], Array], frames: int, noise: float = 0.0
) -> Array:
    """How far the car is beside the path at each frame, if its plans are the path's next 3 s at constant speed."""
    s, line = path(curvature)
    rng = np.random.default_rng(7)
    state, beside = EgoState(0.0, 0.0, 0.0, v), []
    for i in range(frames):
        at = v * 0.1 * (i + np.arange(1, 31))
        ahead = np.stack([np.interp(at, s, line[:, 0]), np.interp(at, s, line[:, 1])], 1)
        points = points_to_ego(ahead, np.array([state.x, state.y, state.yaw])) + noise * rng.normal(size=(30, 2))
        state = follow(state, Trajectory(points, 0.1), tracker)
        beside.append(float(project_to_polyline(np.array([[state.x, state.y]]), line)[1][0]))
    return np.array(beside)


@both_trackers
@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize(("v", "curvature", "frames", "within"), [
    (5.0, lambda s: np.where(s < 8, 0, 1 / 15.0), 90, 0.3),
    (5.0, lambda s: np.where(s < 8, 0, -1 / 15.0), 90, 0.3),
    (10.0, lambda s: lane_change(10.0)(s), 100, 0.4),
])  # fmt: skip
def test_both_trackers_follow_an_arc_and_a_lane_change(
    tracker: PlanTracker, noise: float, v: float, curvature: Callable[[Array], Array], frames: int, within: float
) -> None:
    beside = drive_along(tracker, v, curvature, frames, noise)
    assert np.abs(beside).max() < within
    assert np.abs(beside[-10:]).max() < 0.15


def test_lqr_takes_the_end_of_a_plan_for_no_braking() -> None:
    for points in range(1, 31):
        plan = Trajectory.fake(8.0).first(points)
        accel, steer = LqrTracker().command(EgoState(0, 0, 0, 8.0), plan, SHAPE, LIMITS)
        assert accel == pytest.approx(0.0, abs=1e-6), points
        assert steer == 0.0


@pytest.mark.parametrize("points", [2, 3, 5, 30])
@pytest.mark.parametrize("side", [1, -1])
def test_lqr_stays_on_the_arc_of_a_short_plan(points: int, side: int) -> None:
    radius, v = 20.0, 5.0
    turned = v * 0.1 * np.arange(1, points + 1) / radius
    plan = Trajectory(radius * np.stack([np.sin(turned), side * (1 - np.cos(turned))], 1), 0.1)
    steer = side * math.atan(SHAPE.wheelbase / radius)
    assert LqrTracker().command(EgoState(0, 0, 0, v, 0.0, steer), plan, SHAPE, LIMITS)[1] == pytest.approx(steer, 0.01)


def test_every_limit_must_be_able_to_act() -> None:
    for field in dataclasses.fields(VehicleLimits):
        with pytest.raises(InputError, match=f"VehicleLimits.{field.name}"):
            dataclasses.replace(LIMITS, **{field.name: 0.0}).validate()


# --- following exactly, and old plans


def test_perfect_mode_puts_the_car_on_the_plan() -> None:
    points = np.stack([0.8 * np.arange(1, 31), 0.02 * np.arange(1, 31) ** 2], 1)
    start = EgoState(100.0, 50.0, 1.0, 8.0)
    plan = Trajectory(points, 0.1, np.linspace(0.01, 0.5, 30))
    states = follow_exactly(start, plan, 0.1, 5, SHAPE, LIMITS)
    expected = points_to_world(points[:1], np.array([100.0, 50.0, 1.0]))[0]
    assert (states[-1].x, states[-1].y) == pytest.approx(tuple(expected), abs=1e-12)
    assert states[-1].yaw == pytest.approx(1.01)
    assert len(states) == 5


def test_perfect_mode_reports_the_recording_s_speed_under_acceleration() -> None:
    t = 0.1 * np.arange(1, 31)
    plan = Trajectory(np.stack([5 * t + t**2, 0 * t], 1), 0.1)  # a = 2: at 0.1 s the speed is 5.2
    assert follow_exactly(EgoState(0, 0, 0, 5.0), plan, 0.1, 5, SHAPE, LIMITS)[-1].v == pytest.approx(5.2)


def test_what_is_left_of_an_old_plan_is_the_same_path_in_the_world() -> None:
    plan = Trajectory(np.stack([0.5 * np.arange(1, 31), 0.01 * np.arange(1, 31) ** 2], 1), 0.1)
    old, new = EgoState(5, 6, 0.4, 5), EgoState(6, 6.5, 0.5, 5)
    rest = shift_plan(plan, old, new, 0.2)
    there = points_to_world(rest.points_T2, np.array([6, 6.5, 0.5]))
    assert np.allclose(there, points_to_world(plan.points_T2, np.array([5, 6, 0.4]))[2:])
    with pytest.raises(InputError, match="plan"):
        shift_plan(plan, old, new, 3.0)


def test_a_plan_is_cut_between_its_points_too() -> None:
    """At 8 m/s, 0.05 s after a plan of 0.1 s steps: its points lie 0.4 m on in the world, not where they were."""
    plan = Trajectory(np.stack([0.8 * np.arange(1, 31), np.zeros(30)], 1), 0.1, np.full(30, 0.2))
    for elapsed in (0.02, 0.05, 0.1, 0.13):
        rest = shift_plan(plan, EgoState(0, 0, 0, 8.0), EgoState(8 * elapsed, 0, 0, 8.0), elapsed)
        assert np.allclose(rest.points_T2[:, 0], 0.8 * np.arange(1, len(rest.points_T2) + 1))
        assert len(rest.points_T2) == 29 - (elapsed == 0.13)
        assert rest.yaw_T is not None
        assert np.allclose(rest.yaw_T, 0.2)
    assert shift_plan(plan, EgoState(0, 0, 0, 8.0), EgoState(0, 0, 0, 8.0), 0.0) is plan
    with pytest.raises(InputError, match="plan more often"):
        shift_plan(plan, EgoState(0, 0, 0, 8.0), EgoState(23.6, 0, 0, 8.0), 2.95)
