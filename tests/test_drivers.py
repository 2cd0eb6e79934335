"""The drivers that the models are compared with."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from senna2.drivers import ConstantVelocity, Expert, Idm, Naive, route_path
from senna2.rollouts import drive
from senna2.sample_plans import plan_samples
from senna2.types import (
    AgentClass,
    ClipMeta,
    Decision,
    Direction,
    EgoState,
    InputError,
    LaneKind,
    Observation,
    Samples,
    StateObservation,
)  # fmt: skip
from senna2.world.scene import Scene
from senna2.world.sim import Simulator


def seen(v: float, *boxes: tuple[float, ...], limit: float = 13.9, route_y: float = 0.0) -> Observation:
    """An ego on a straight road; boxes are x, y, yaw, length, width, speed."""
    base = Observation.fake()
    state = StateObservation.fake()
    agents, classes = np.full_like(state.boxes_A6, np.nan), np.full_like(state.classes_A, -1)
    for i, box in enumerate(boxes):
        agents[i], classes[i] = box, AgentClass.CAR
    route = state.route_R2 + np.array([0, route_y], np.float32)
    state = dataclasses.replace(state, boxes_A6=agents, classes_A=classes, route_R2=route)
    motion = np.array([v, 0, 0, 0], np.float32)
    return dataclasses.replace(base, motion_4=motion, speed_limit=limit, state=state)


def end(policy: object, observation: Observation) -> np.ndarray:
    policy.reset(ClipMeta.fake(), 0)  # type: ignore[attr-defined]
    return policy.act(observation).validate().trajectory.points_T2[-1]  # type: ignore[attr-defined]


def test_constant_velocity_is_straight_on() -> None:
    assert end(ConstantVelocity(), seen(7.0)) == pytest.approx([21.0, 0.0])
    plans = plan_samples(ConstantVelocity(), Samples.fake(5))
    assert np.allclose(plans.points_NT2[:, -1, 0], 3 * Samples.fake(5).motion_N4[:, 0], atol=1e-4)


def test_naive_driver_changes_lane_when_told_and_looks_at_nobody() -> None:
    told = dataclasses.replace(seen(8.0, (4, 3.5, 0, 4.5, 1.8, 8), route_y=3.5), navigation=Direction.CHANGE_LEFT)
    x, y = end(Naive(), told)
    assert y == pytest.approx(3.5, abs=0.05)
    assert 22 < x <= 24
    assert end(Naive(), seen(8.0, route_y=3.5))[1] == 0.0


def test_naive_driver_ends_what_it_was_told_to_begin_even_when_the_command_is_over() -> None:
    naive = Naive()
    naive.reset(ClipMeta.fake(), 0)
    naive.act(dataclasses.replace(seen(8.0, route_y=3.5), navigation=Direction.CHANGE_LEFT))
    half_way = naive.act(seen(8.0, route_y=1.7)).trajectory.points_T2
    assert half_way[-1, 1] == pytest.approx(1.7, abs=0.05)
    naive.reset(ClipMeta.fake(), 0)  # another clip, without a command
    assert naive.act(seen(8.0, route_y=1.7)).trajectory.points_T2[-1, 1] == 0.0


def test_naive_driver_keeps_its_speed_through_the_change() -> None:
    told = dataclasses.replace(seen(8.0, (12, 0, 0, 4.5, 1.8, 0), route_y=3.5), navigation=Direction.CHANGE_LEFT)
    naive = Naive()
    naive.reset(ClipMeta.fake(), 0)
    points = naive.act(told).trajectory.points_T2
    steps = np.hypot(*np.diff(points, axis=0).T) / 0.1
    assert steps == pytest.approx(8.0, abs=0.1)


def test_expert_plan_is_the_recording_and_its_prolongation() -> None:
    meta = ClipMeta.fake()
    expert = Expert()
    expert.reset(meta, 0)
    for t in (0.0, 1.0, 4.0, 4.9):
        points = expert.act(dataclasses.replace(seen(8.0), t_s=t)).trajectory.points_T2
        assert np.allclose(points, np.stack([0.8 * np.arange(1, 31), np.zeros(30)], 1), atol=1e-9)
    samples = Samples.fake(3)
    assert np.array_equal(plan_samples(expert, samples).points_NT2, samples.future_NT3[..., :2])
    live = Samples.from_observations([Observation.fake()])
    with pytest.raises(InputError, match="future"):
        plan_samples(expert, live)


def test_expert_stands_where_the_recording_ends_at_rest() -> None:
    meta = ClipMeta.fake()
    pose = meta.expert_pose_E3.copy()
    pose[30:] = pose[30]
    expert = Expert()
    expert.reset(dataclasses.replace(meta, expert_pose_E3=pose), 0)
    assert np.abs(expert.act(dataclasses.replace(seen(0.0), t_s=4.9)).trajectory.points_T2).max() < 1e-9


# --- IDM


def test_idm_reaches_the_limit_and_keeps_to_it() -> None:
    scene = dataclasses.replace(Scene.fake(frames=200, v=5.0), tracks=())
    rollout = drive(Idm(), scene, policy_name="idm")
    assert 12.5 < rollout.ego_F6[-1, 3] <= 13.9 + 1e-6
    assert np.abs(rollout.ego_F6[:, 1]).max() < 1e-6
    assert rollout.ego_F6[:, 4].max() < 1.6


def test_idm_follows_at_the_model_s_equilibrium_gap() -> None:
    scene = Scene.fake(frames=400, v=8.0, leader_v=8.0, gap=25.0)
    rollout = drive(Idm(), scene, policy_name="idm")
    gap = rollout.boxes_FA6[-1, 0, 0] - 2.25 - (rollout.ego_F6[-1, 0] + 3.7)
    wanted = (3.0 + 8.0 * 1.3) / math.sqrt(1 - (8 / 13.9) ** 4)
    assert rollout.ego_F6[-1, 3] == pytest.approx(8.0, abs=0.1)
    assert gap == pytest.approx(wanted, abs=1.0)


@pytest.mark.parametrize("v", [4.0, 8.0, 13.0])
def test_idm_stops_behind_a_standing_car_and_stays(v: float) -> None:
    scene = Scene.fake(frames=200, v=v, leader_v=0.0, gap=60.0)
    rollout = drive(Idm(), scene, policy_name="idm")
    assert rollout.contacts == ()
    gap = 60.0 - 2.25 - (rollout.ego_F6[-1, 0] + 3.7)
    assert 1.5 < gap < 6.0
    assert rollout.ego_F6[-1, 3] < 0.1
    assert rollout.ego_F6[:, 4].min() > -5.0


@pytest.mark.parametrize(
    ("box", "brakes"),
    [
        ((20, 0, 0, 4.5, 1.8, 0), True),
        ((20, 2.0, 0, 4.5, 1.8, 0), True),  # its side reaches 1.1 m: into the corridor
        ((20, 3.5, 0, 4.5, 1.8, 0), False),  # the next lane
        ((-10, 0, 0, 4.5, 1.8, 0), False),  # behind
        ((1.4, 2.0, 0, 4.5, 1.8, 0), False),  # beside
        ((20, 0, math.pi / 2, 12.0, 2.5, 3), True),  # a bus across, its corners outside the corridor
        ((20, 3.0, 0.6, 4.5, 1.8, 0), True),  # a corner reaches in
    ],
)
def test_idm_brakes_for_what_reaches_into_its_corridor(box: tuple[float, ...], brakes: bool) -> None:
    free, hindered = end(Idm(), seen(8.0)), end(Idm(), seen(8.0, box))
    assert (hindered[0] < free[0] - 2) == brakes


def red_line(observation: Observation, x: float, y: tuple[float, float] = (-1.75, 1.75)) -> Observation:
    """The same with the stop line of a red light across the road at x."""
    state = observation.state
    assert state is not None
    lanes, kinds = state.lanes_LP2.copy(), state.lane_kinds_L.copy()
    lanes[1] = np.stack([np.full(lanes.shape[1], x), np.linspace(*y, lanes.shape[1])], -1)
    kinds[1] = LaneKind.RED_STOP_LINE
    return dataclasses.replace(observation, state=dataclasses.replace(state, lanes_LP2=lanes, lane_kinds_L=kinds))


def test_idm_stops_before_a_red_light_s_line_on_its_way_only() -> None:
    free = end(Idm(), seen(8.0))
    assert end(Idm(), red_line(seen(8.0), 25.0))[0] < free[0] - 2
    assert end(Idm(), red_line(seen(8.0), 25.0, (4.0, 7.0))) == pytest.approx(free)  # another street's
    assert end(Idm(), red_line(seen(8.0), -2.0)) == pytest.approx(free)  # passed
    assert end(Idm(), red_line(seen(8.0), 6.0)) == pytest.approx(free)  # turned red too late to stop


def test_idm_stands_before_the_line_and_goes_when_it_is_green() -> None:
    x, v, policy = 0.0, 8.0, Idm()
    policy.reset(ClipMeta.fake(), 0)
    for _ in range(200):
        points = policy.act(red_line(seen(v), 40.0 - x)).trajectory.points_T2
        v = float(points[0, 0]) / 0.1
        x += float(points[0, 0])
    front = x + 3.7
    assert 38.0 < front < 40.0
    assert v < 0.1
    assert end(policy, seen(v))[0] > 3.0


def test_idm_slows_for_a_bend() -> None:
    observation = seen(10.0)
    angle = np.clip((3.0 * np.arange(1, 21) - 15) / 12, 0, math.pi / 2)
    step = 3.0 * np.stack([np.cos(angle), np.sin(angle)], 1)
    assert observation.state is not None
    bend = dataclasses.replace(observation.state, route_R2=np.cumsum(step, 0).astype(np.float32))
    policy = Idm()
    policy.reset(ClipMeta.fake(), 0)
    points = policy.act(dataclasses.replace(observation, state=bend)).trajectory.points_T2
    way = np.hypot(*np.diff(points, axis=0).T) / 0.1
    assert way[-1] < 7.0  # sqrt(1.8 · 12) = 4.6 m/s is wanted in it
    assert way.max() < 10.5


def test_idm_keeps_a_standing_start_and_needs_the_state() -> None:
    assert end(Idm(), seen(0.0))[0] > 3.0
    with pytest.raises(InputError, match="state"):
        Idm().act(dataclasses.replace(seen(5.0), state=None))


def test_idm_without_a_speed_limit_still_drives() -> None:
    assert np.isfinite(end(Idm(), seen(8.0, limit=float("nan")))).all()


@pytest.mark.parametrize("offset", [-3.0, -0.5, 0.0, 0.5, 3.0])
@pytest.mark.parametrize("heading", [-0.2, 0.0, 0.2])
def test_joining_path_starts_at_the_ego_along_its_heading_and_ends_on_the_route(offset: float, heading: float) -> None:
    sim = Simulator(dataclasses.replace(Scene.fake(), tracks=()))
    ego = EgoState(0.0, offset, heading, 8.0)
    state = sim.observe(sim.reset(ego), images=False).state
    assert state is not None
    path = route_path(state.route_R2, 8.0)
    assert np.hypot(*path[0]) < 0.02
    assert abs(math.atan2(*(path[1] - path[0])[::-1])) < 0.12
    world_y = offset + math.sin(heading) * path[30, 0] + math.cos(heading) * path[30, 1]
    assert abs(world_y) < 0.02


def test_a_forced_decision_is_recorded_as_given() -> None:
    plans = plan_samples(ConstantVelocity(), Samples.fake(2), decision=Decision.fake())
    assert plans.speed_N.tolist() == [Decision.fake().speed] * 2
