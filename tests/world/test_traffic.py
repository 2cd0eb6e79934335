"""Reactive and triggered traffic: closed forms, laws, and the same state always stepping to the same bits."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest

from senna2.drivers import ConstantVelocity
from senna2.geometry import box_of, overlap
from senna2.registry import listing
from senna2.rollouts import drive as rollout_of
from senna2.types import AgentClass, Array, EgoState, InputError, Trajectory
from senna2.world.scene import (
    BRAKE,
    INDICATOR_LEFT,
    Expert,
    Lane,
    LaneMap,
    Light,
    Scene,
    Signal,
    Track,
    Trigger,
)
from senna2.world.sim import SimConfig, SimState, Simulator
from senna2.world.state_arrays import state_from_arrays, state_to_arrays
from senna2.world.traffic import AgentsState, make_traffic
from senna2.world.traffic.idm import CAR_IDM, FREE_SPEED
from senna2.world.traffic.kernel import idm_accel

DT = 0.1
KINDS = ("replay", "idm", "mobil", "hybrid", "triggered")


def along(name: str, x: float, y: float, v_T: Array, *, yaw: float = 0.0, kind: AgentClass = AgentClass.CAR,
          size: tuple[float, float] = (4.5, 1.8), trigger: Trigger | None = None, first: int = 0) -> Track:  # fmt: skip
    """A track straight on with the given speeds."""
    way = np.concatenate([[0.0], np.cumsum(0.5 * (v_T[1:] + v_T[:-1]) * DT)])
    pose = np.stack([x + way * math.cos(yaw), y + way * math.sin(yaw), np.full(len(way), yaw)], 1)
    t = DT * np.arange(first, first + len(way))
    return Track(name, kind, "car", *size, 1.5, t, pose, v_T, np.zeros(len(way), np.int8), trigger=trigger)


def steady(v: float, frames: int = 300) -> Array:
    return np.full(frames, v)


def clip(*tracks: Track, v: float = 8.0, frames: int = 300) -> Scene:
    return dataclasses.replace(Scene.fake(frames=frames, v=v), tracks=tracks)


def drive(scene: Scene, traffic: str, v_of: Array | float, *, start: EgoState | None = None, y: float = 0.0) -> list:
    """States of an ego that goes straight on along the road with the given speeds (vehicle mode "perfect")."""
    sim = Simulator(scene, SimConfig(vehicle="perfect", traffic=traffic))
    speed = np.broadcast_to(np.asarray(v_of, np.float64), 400)
    states = [sim.reset(start or EgoState(0.0, y, 0.0, float(speed[0])))]
    while not states[-1].done:
        k = states[-1].step
        way = np.cumsum(speed[k + 1 : k + 31]) * DT
        states.append(sim.step(states[-1], Trajectory(np.stack([way, 0 * way], 1), DT, np.zeros(30))))
    return states


def column(states: list, agent: int, what: int) -> Array:
    return np.array([s.agents.boxes_A6[agent, what] for s in states])


# --- idm


def test_idm_follower_settles_at_the_equilibrium_gap() -> None:
    """s_e = (s_0 + v T) / sqrt(1 - (v / v_0)^4) behind a leader at constant speed."""
    headway, least, _, _ = CAR_IDM
    scene = clip(along("follower", -40.0, 0.0, steady(10.0)), v=6.0)
    states = drive(scene, "idm", 6.0)
    gap = box_of(np.array([states[-1].ego.x, 0, 0]), scene.meta.ego_shape)[0] - scene.meta.ego_shape.length / 2
    gap -= column(states, 0, 0)[-1] + 4.5 / 2
    expected = (least + 6.0 * headway) / math.sqrt(1 - (6.0 / (10.0 * FREE_SPEED)) ** 4)
    assert column(states, 0, 5)[-1] == pytest.approx(6.0, abs=0.02)
    assert gap == pytest.approx(expected, abs=0.05)


def test_idm_acceleration_by_its_formula() -> None:
    assert idm_accel(8.0, 10.0, math.inf, 0.0, 1.2, 2.0, 1.5, 2.5) == pytest.approx(1.5 * (1 - 0.8**4))
    wanted = 2.0 + 8.0 * 1.2 + 8.0 * (8.0 - 6.0) / (2 * math.sqrt(1.5 * 2.5))
    got = idm_accel(8.0, 10.0, 20.0, 6.0, 1.2, 2.0, 1.5, 2.5)
    assert got == pytest.approx(1.5 * (1 - 0.8**4) - 1.5 * (wanted / 20.0) ** 2)
    assert idm_accel(8.0, 10.0, 0.0, 0.0, 1.2, 2.0, 1.5, 2.5) == -8.0


@pytest.mark.parametrize("brake", [3.0, 6.0, 8.0])
@pytest.mark.parametrize("v", [6.0, 12.0])
@pytest.mark.parametrize("kind", ["idm", "hybrid"])
def test_nobody_runs_into_an_ego_that_brakes(kind: str, v: float, brake: float) -> None:
    """Three in a row behind, at 1.3 s; in the log all drive on."""
    followers = [along(f"f{i}", 1.4 - (i + 1) * (4.6 + 1.3 * v), 0.0, steady(v)) for i in range(3)]
    speed = np.maximum(v - brake * np.maximum(DT * np.arange(400) - 2.0, 0.0), 0.0)
    states = drive(clip(*followers, v=v, frames=200), kind, speed)
    assert states[-1].contacts == ()
    assert not any(overlap(s.agents.boxes_A6[0, :5], s.agents.boxes_A6[1, :5]) for s in states)
    assert np.abs(column(states, 0, 5)[-1]) < 0.01
    assert any(s.agents.lights_A[0] & BRAKE for s in states)


def test_unhindered_agents_keep_to_their_logs() -> None:
    """Braking, standing and driving on again are the log's, at its places and its times."""
    v = np.concatenate(
        [steady(8.0, 30), np.linspace(8, 0, 30), steady(0.0, 30), np.linspace(0, 6, 40), steady(6.0, 70)]
    )
    scene = clip(along("a", 30.0, 3.5, v), along("b", 20.0, -12.0, steady(5.0, 200), yaw=-0.3), frames=200)
    states = drive(scene, "idm", 0.0)
    log = make_traffic("replay", scene, DT, 200)
    for k, state in enumerate(states):
        gap = state.agents.boxes_A6[:, :2] - log.initial(k, state.ego).boxes_A6[:, :2]
        assert np.hypot(*gap.T).max() < 1.0


def test_parked_cars_and_things_stay() -> None:
    parked = along("parked", 30.0, 3.5, steady(0.0))
    cone = along("cone", 25.0, 5.0, steady(0.0), kind=AgentClass.STATIC, size=(0.4, 0.4))
    states = drive(clip(parked, cone, frames=60), "idm", 0.0)
    assert all(np.array_equal(s.agents.boxes_A6, states[0].agents.boxes_A6) for s in states)


def test_a_path_goes_on_beyond_its_end() -> None:
    short = along("short", 20.0, 3.5, np.concatenate([steady(8.0, 50), steady(8.0, 150)]))
    short = dataclasses.replace(short, pose_T3=short.pose_T3.copy())
    states = drive(clip(short, frames=200), "idm", 0.0)
    assert column(states, 0, 0)[-1] == pytest.approx(20 + 8 * 19.9, abs=1.0)
    assert np.allclose(column(states, 0, 1), 3.5)


def test_a_car_waits_for_the_ego_that_crosses_its_path() -> None:
    """It comes from the right, a second later than the ego; the log would hit the ego's side."""
    other = along("other", 40.0, -20.0, steady(8.0), yaw=math.pi / 2)
    scene = clip(other, frames=80)
    scene = dataclasses.replace(scene, map=dataclasses.replace(scene.map, kerbs=()))
    hit = drive(scene, "replay", 14.0, start=EgoState(2.0, 0.0, 0.0, 14.0))
    assert hit[-1].contacts
    kept = drive(scene, "idm", 14.0, start=EgoState(2.0, 0.0, 0.0, 14.0))
    assert kept[-1].contacts == ()
    assert column(kept, 0, 5).min() < 4.0
    assert column(kept, 0, 1)[-1] > 5.0  # it has crossed after the ego


def test_two_cars_at_a_crossing_do_not_wait_for_each_other() -> None:
    a = along("a", 40.0, 20.0, steady(8.0), yaw=-math.pi / 2)
    b = along("b", 20.0, -5.0, steady(8.0))
    states = drive(clip(a, b, frames=150), "idm", 0.0, start=EgoState(-30.0, 0.0, 0.0, 0.0))
    assert not any(overlap(s.agents.boxes_A6[0, :5], s.agents.boxes_A6[1, :5]) for s in states)
    assert column(states, 0, 1)[-1] < -30.0
    assert column(states, 1, 0)[-1] > 60.0


def red_light(states: tuple[tuple[float, Light], ...]) -> Signal:
    line = np.array([(60.0, -1.8), (60.0, 5.3)])
    t, s = zip(*states, strict=True)
    return Signal("s", "car", np.array([60.0, -2.5, 0.0]), line, ("right",), np.array(t), np.array(s, np.int8))


def test_red_is_stopped_for_until_it_is_green() -> None:
    scene = clip(along("a", 20.0, 3.5, steady(10.0)), frames=200)
    scene = dataclasses.replace(scene, signals=(red_light(((0.0, Light.RED), (10.0, Light.GREEN))),))
    states = drive(scene, "idm", 0.0)
    front = column(states, 0, 0) + 4.5 / 2
    assert 58.5 < front[99] < 60.0
    assert column(states, 0, 5)[99] < 0.1
    assert front[-1] > 100.0


def test_amber_is_passed_where_stopping_would_be_harsh() -> None:
    scene = clip(along("a", 20.0, 3.5, steady(10.0)), frames=100)
    amber = dataclasses.replace(scene, signals=(red_light(((0.0, Light.GREEN), (2.8, Light.AMBER), (5.0, Light.RED))),))
    assert column(drive(amber, "idm", 0.0), 0, 5).min() > 9.5
    early = dataclasses.replace(scene, signals=(red_light(((0.0, Light.GREEN), (1.0, Light.AMBER), (4.0, Light.RED))),))
    assert column(drive(early, "idm", 0.0), 0, 5)[-1] < 0.1


def test_an_agent_whose_place_is_taken_appears_when_it_is_free() -> None:
    late = along("late", 30.0, 0.0, steady(6.0, 150), first=20)
    speed = np.where(np.arange(400) * DT < 1.0, 8.0, 0.0)
    speed = np.where(np.arange(400) * DT > 6.0, 5.0, speed)
    scene = clip(late, frames=170)
    states = drive(scene, "idm", speed, start=EgoState(20.0, 0.0, 0.0, 8.0))
    seen = np.isfinite(column(states, 0, 0))
    assert states[-1].contacts == ()
    assert not seen[20]
    assert seen[-1]


# --- pedestrians


def walker(
    v: float = 1.4, y: float = -6.0, x: float = 40.0, kind: AgentClass = AgentClass.PEDESTRIAN, length: float = 0.5
) -> Track:
    return along("walker", x, y, steady(v), yaw=math.pi / 2, kind=kind, size=(length, 0.5))


def test_the_walker_waits_at_the_kerb_for_an_ego_that_comes() -> None:
    states = drive(clip(walker(), v=8.0, frames=100), "idm", 8.0)
    assert states[-1].contacts == ()
    passes = int(np.argmax([s.ego.x > 41.0 for s in states]))
    y = column(states, 0, 1)
    assert y[:passes].max() < -1.75 + 0.3  # never on the lane before the ego has gone by
    assert y[passes - 5] > -4.0  # but at its edge
    assert y[-1] > 0.0  # and across afterwards
    assert drive(clip(walker(), v=8.0, frames=100), "replay", 8.0)[-1].contacts != ()


def test_a_cyclist_waits_too() -> None:
    rider = walker(3.5, -16.0, kind=AgentClass.CYCLIST, length=1.8)
    states = drive(clip(rider, v=8.0, frames=100), "idm", 8.0)
    passes = int(np.argmax([s.ego.x > 42.0 for s in states]))
    y = column(states, 0, 1)
    assert states[-1].contacts == ()
    assert y[:passes].max() + 0.9 < -1.75 + 0.3
    assert y[-1] > 3.0
    assert drive(clip(rider, v=8.0, frames=100), "replay", 8.0)[-1].contacts != ()


def test_the_walker_goes_before_an_ego_far_away_or_standing() -> None:
    for speed, start in ((5.0, -60.0), (0.0, 25.0)):
        states = drive(clip(walker(), frames=100), "idm", speed, start=EgoState(start, 0.0, 0.0, speed))
        assert column(states, 0, 1)[70] == pytest.approx(-6.0 + 1.4 * 7.0, abs=0.3)


# --- hybrid


def test_hybrid_is_exact_replay_while_the_ego_stays_on_its_log() -> None:
    tracks = (along("behind", -25.0, 0.0, steady(8.0)), along("ahead", 30.0, 3.5, steady(7.0)), walker(y=-14.0, x=90.0))
    scene = clip(*tracks, frames=60)
    states = drive(scene, "hybrid", 8.0)
    log = make_traffic("replay", scene, DT, 60)
    for k, state in enumerate(states):
        expected = log.initial(k, state.ego)
        assert state.agents.boxes_A6.tobytes() == expected.boxes_A6.tobytes()
        assert state.agents.lights_A.tobytes() == expected.lights_A.tobytes()


def test_hybrid_stops_behind_an_ego_that_stands() -> None:
    scene = clip(along("behind", -25.0, 0.0, steady(8.0)), frames=150)
    speed = np.maximum(8.0 - 4.0 * DT * np.arange(400), 0.0)
    states = drive(scene, "hybrid", speed)
    assert states[-1].contacts == ()
    ego_rear = box_of(np.array([states[-1].ego.x, 0, 0]), scene.meta.ego_shape)[0] - scene.meta.ego_shape.length / 2
    gap = ego_rear - column(states, 0, 0)[-1] - 4.5 / 2
    assert column(states, 0, 5)[-1] < 0.02
    assert 1.0 < gap < 4.0
    x, v = column(states, 0, 0), column(states, 0, 5)
    assert (np.diff(x) >= 0).all()
    assert np.abs(np.diff(v)).max() < 0.81  # no jump when it takes over
    assert drive(scene, "replay", speed)[-1].contacts != ()


def test_a_braking_leader_keeps_its_log_in_hybrid() -> None:
    """Who is about to be hit from behind must not flee, or no hazard would be left."""
    speed = np.maximum(8.0 - 5.0 * np.maximum(DT * np.arange(300) - 1.0, 0.0), 0.0)
    scene = clip(along("leader", 25.0, 0.0, speed), frames=100)
    assert [c.agent_id for c in drive(scene, "hybrid", 8.0)[-1].contacts] == ["leader"]


# --- mobil


def three_lanes(*tracks: Track, frames: int = 200) -> Scene:
    """The fake road with a third lane at the left."""
    scene = clip(*tracks, frames=frames)
    x = np.linspace(-40.0, 600.0, 33)

    def line(y: float) -> Array:
        return np.stack([x, np.full_like(x, y)], 1)

    def strip(y: float) -> Array:
        return np.array([(x[0], y - 1.75), (x[-1], y - 1.75), (x[-1], y + 1.75), (x[0], y + 1.75)])

    names = ("right", "middle", "left")
    lanes = tuple(
        Lane(n, line(3.5 * i), strip(3.5 * i), 13.9, left=(*names, None)[i + 1], right=(None, *names)[i])
        for i, n in enumerate(names)
    )
    return dataclasses.replace(scene, map=LaneMap(lanes))


def test_mobil_overtakes_a_slow_leader() -> None:
    fast, slow = along("fast", 20.0, 0.0, steady(11.0)), along("slow", 55.0, 0.0, steady(4.0))
    scene = three_lanes(fast, slow)
    states = drive(scene, "mobil", 0.0, start=EgoState(-30.0, 7.0, 0.0, 0.0))
    y, v = column(states, 0, 1), column(states, 0, 5)
    assert y[-1] == pytest.approx(3.5, abs=0.05)
    assert v[-1] > 9.0
    assert not any(overlap(s.agents.boxes_A6[0, :5], s.agents.boxes_A6[1, :5]) for s in states)
    begun = int(np.argmax(y > 0.02))
    assert all(s.agents.lights_A[0] & INDICATOR_LEFT for s in states[begun : begun + 25])
    takes = int(np.argmax(y > 3.48)) - begun
    assert 20 <= takes <= 30  # the quintic, without its flat ends
    assert np.abs(np.diff(y, 2)).max() / DT**2 < 3.0
    assert drive(scene, "idm", 0.0, start=EgoState(-30.0, 7.0, 0.0, 0.0))[-1].agents.boxes_A6[0, 1] == 0.0


def test_mobil_stays_behind_when_the_other_lane_is_not_free() -> None:
    fast, slow = along("fast", 20.0, 0.0, steady(9.0)), along("slow", 45.0, 0.0, steady(5.0))
    beside = [along(f"b{i}", -40.0 + 11.0 * i, 3.5, steady(9.0)) for i in range(8)]
    states = drive(three_lanes(fast, slow, *beside, frames=60), "mobil", 0.0, start=EgoState(-39.0, 9.0, 0.0, 0.0))
    assert np.abs(column(states, 0, 1)).max() < 0.1


def test_mobil_does_not_cut_off_the_ego() -> None:
    fast, slow = along("fast", 20.0, 0.0, steady(8.0)), along("slow", 40.0, 0.0, steady(4.0))
    safe = drive(three_lanes(fast, slow, frames=40), "mobil", 16.0, start=EgoState(-10.0, 3.5, 0.0, 16.0))
    assert np.abs(column(safe, 0, 1)).max() < 0.1
    free = drive(three_lanes(fast, slow, frames=40), "mobil", 0.0, start=EgoState(-30.0, 3.5, 0.0, 0.0))
    assert column(free, 0, 1)[-1] > 0.3


# --- triggered


@pytest.mark.parametrize("ego_v", [5.0, 6.5, 8.0, 10.0, 12.0, 14.0])
@pytest.mark.parametrize("agent_v", [1.5, 6.0])
def test_a_triggered_crossing_meets_the_ego_at_any_speed(ego_v: float, agent_v: float) -> None:
    point, arrives = np.array([55.0, 0.0]), 6.0
    start = point - agent_v * arrives * np.array([0.0, 1.0])
    crossing = along(
        "crossing", *start, steady(agent_v), yaw=math.pi / 2, kind=AgentClass.CYCLIST, size=(1.8, 0.6),
        trigger=Trigger(*point, arrives),
    )  # fmt: skip
    scene = clip(crossing, v=8.0)
    sim = Simulator(dataclasses.replace(scene, map=LaneMap()), SimConfig(vehicle="perfect", traffic="triggered"))
    state = sim.reset(EgoState(0.0, 0.0, 0.0, ego_v))
    front = scene.meta.ego_shape.front
    agents = state.agents
    x = 0.0
    while x + front < point[0]:
        agents = sim.traffic.advance(agents, EgoState(x, 0.0, 0.0, ego_v))
        x += ego_v * DT
    late = (x + front - point[0]) / ego_v  # s since the front reached the point
    met = agents.boxes_A6[0, :2] - late * agents.boxes_A6[0, 5] * np.array([0.0, 1.0])
    assert np.hypot(*(met - point)) < 0.5


def test_triggered_agents_wait_for_a_standing_ego_but_not_for_ever() -> None:
    point = np.array([55.0, 0.0])
    crossing = along("c", 55.0, -9.0, steady(1.5), yaw=math.pi / 2, trigger=Trigger(*point, 6.0))
    other = along("o", 30.0, 3.5, steady(5.0))
    scene = clip(crossing, other, v=8.0)
    states = drive(scene, "triggered", 0.0)
    log = make_traffic("replay", scene, DT, 300)
    assert [s.agents.boxes_A6[1].tobytes() for s in states] == [
        log.initial(k, s.ego).boxes_A6[1].tobytes() for k, s in enumerate(states)
    ]
    y = column(states, 0, 1)
    arrives = DT * int(np.argmax(y >= 0.0))
    assert 9.0 < arrives < 11.0  # 6 s, and 4 s of waiting
    assert np.abs(np.diff(column(states, 0, 5))).max() < 0.3  # it slows and goes smoothly
    assert (np.diff(y)[: round(10 / DT)] >= -1e-12).all()


def test_a_triggered_crossing_meets_an_ego_that_changes_its_speed() -> None:
    """It brakes from 12 to 6 m/s on the way."""
    crossing = along("c", 60.0, -9.0, steady(1.5), yaw=math.pi / 2, trigger=Trigger(60.0, 0.0, 6.0))
    scene = dataclasses.replace(clip(crossing), map=LaneMap())
    front = scene.meta.ego_shape.front
    states = drive(scene, "triggered", np.maximum(12.0 - 2.0 * DT * np.arange(400), 6.0))
    at = int(np.argmax([s.ego.x + front >= 60.0 for s in states] + [True]))
    agent = states[min(at, len(states) - 1)].agents.boxes_A6[0]
    assert np.hypot(agent[0] - 60.0, agent[1]) < 0.5
    assert states[-1].contacts != ()


def test_a_triggered_walker_passes_before_an_ego_that_brakes_for_it() -> None:
    """It commits itself 1.5 s before: who brakes then is not run into, and the walker does not wait for it."""
    crossing = along("c", 60.0, -9.0, steady(1.5), yaw=math.pi / 2, trigger=Trigger(60.0, 0.0, 6.0))
    scene = dataclasses.replace(clip(crossing, frames=120), map=LaneMap())
    speed = np.maximum(9.4 - 5.0 * np.maximum(DT * np.arange(400) - 4.4, 0.0), 1.5)
    states = drive(scene, "triggered", speed)
    assert states[-1].contacts == ()
    assert column(states, 0, 1)[75] > 1.5
    assert drive(scene, "triggered", 9.4)[-1].contacts != ()


def test_without_the_ego_s_hurry_the_script_keeps_its_own_time() -> None:
    crossing = along("c", 56.0, -12.0, steady(2.0), yaw=math.pi / 2, trigger=Trigger(56.0, 0.0, 6.0))
    scene = clip(crossing, v=8.0)
    v = (56.0 - scene.meta.ego_shape.front) / 6.0
    states = drive(dataclasses.replace(scene, map=LaneMap()), "triggered", v)
    assert np.allclose(column(states[:55], 0, 1), -12.0 + 2.0 * DT * np.arange(55), atol=0.05)


# --- rollouts


def test_a_rollout_holds_the_agents_where_they_were() -> None:
    scene = clip(along("behind", -25.0, 0.0, steady(8.0)), frames=80)
    slow = ConstantVelocity()
    rollouts = {k: rollout_of(slow, scene, policy_name="cv", config=SimConfig(traffic=k), start=EgoState(0, 0, 0, 3.0))
                for k in ("replay", "idm")}  # fmt: skip
    assert [r.traffic for r in rollouts.values()] == ["replay", "idm"]
    assert rollouts["replay"].contacts != ()
    assert rollouts["idm"].validate().contacts == ()
    assert rollouts["idm"].boxes_FA6[-1, 0, 5] == pytest.approx(3.0, abs=0.3)


# --- laws of every kind


def mixed() -> Scene:
    """Something for every controller to do."""
    rng = np.random.default_rng(4)
    tracks = [
        along("lead", 30.0, 0.0, np.maximum(8.0 - 0.05 * np.arange(80), 3.0)),
        along("behind", -25.0, 0.0, steady(9.0, 80)),
        along("beside", -5.0, 3.5, steady(9.5, 80)),
        along("late", -30.0, 3.5, steady(9.0, 60), first=20),
        walker(x=60.0),
        along("c", 80.0, -15.0, steady(3.0, 80), yaw=math.pi / 2, kind=AgentClass.CYCLIST, size=(1.8, 0.6),
              trigger=Trigger(80.0, 0.0, 5.0)),
        along("parked", 45.0, -4.0, steady(0.0, 80)),
    ]  # fmt: skip
    noise = rng.normal(0, 0.003, (80, 3))
    tracks[2] = dataclasses.replace(tracks[2], pose_T3=tracks[2].pose_T3 + noise)
    scene = three_lanes(*tracks, frames=80)
    return dataclasses.replace(scene, signals=(red_light(((0.0, Light.RED), (4.0, Light.GREEN))),))


def plan_of(state: SimState) -> Trajectory:
    """Some driving: slowing down, drifting to the left."""
    v = max(8.0 - 0.1 * state.step, 2.0)
    way = v * DT * np.arange(1, 31)
    return Trajectory(np.stack([way, 0.002 * way**2], 1), DT)


@pytest.mark.parametrize("kind", KINDS)
def test_stepping_is_pure_and_any_instant_restores(kind: str) -> None:
    scene = mixed()
    sim = Simulator(scene, SimConfig(traffic=kind))
    states = [sim.reset()]
    while not states[-1].done:
        states.append(sim.step(states[-1], plan_of(states[-1])))
    again = Simulator(scene, SimConfig(traffic=kind))
    state = again.reset()
    for expected in states[1:]:
        state = again.step(state, plan_of(state))
        assert state == expected
    for k in (0, 7, 23, len(states) - 2):
        file = io.BytesIO()
        np.savez(file, **state_to_arrays(states[k]))
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            state = state_from_arrays(again, dict(arrays))
        assert state == states[k]
        sim.step(states[k], Trajectory.fake(1.0))  # another branch from the same instant leaves no trace
        for expected in states[k + 1 : k + 6]:
            state = again.step(state, plan_of(state))
            assert state == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_without_anybody_is_kept_too(kind: str) -> None:
    sim = Simulator(dataclasses.replace(Scene.fake(), tracks=()), SimConfig(traffic=kind))
    state = sim.step(sim.reset(), Trajectory.fake())
    assert state_from_arrays(sim, state_to_arrays(state)) == state


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_whole_and_nobody_jumps(kind: str) -> None:
    sim = Simulator(mixed(), SimConfig(traffic=kind))
    state = sim.reset()
    while not state.done:
        after = sim.step(state, plan_of(state))
        boxes = after.agents.boxes_A6
        here = np.isfinite(boxes).all(1)
        assert (here | np.isnan(boxes).all(1)).all()
        assert (boxes[here, 5] >= 0).all()
        moved = np.hypot(*(boxes - state.agents.boxes_A6)[:, :2].T)
        assert np.nanmax(moved) < 1.5
        with pytest.raises(ValueError, match="read-only"):
            boxes[0, 0] = 1.0
        state = after


def test_agents_act_on_the_present_not_on_what_the_ego_does_next() -> None:
    sim = Simulator(mixed(), SimConfig(traffic="idm"))
    state = sim.reset()
    for _ in range(10):
        state = sim.step(state, plan_of(state))
    one, two = sim.step(state, Trajectory.fake(12.0)), sim.step(state, Trajectory.fake(0.0))
    assert one.agents == two.agents
    assert sim.step(one, plan_of(one)).agents != sim.step(two, plan_of(two)).agents


def test_restoring_into_the_wrong_simulator_says_so() -> None:
    scene = mixed()
    sim = Simulator(scene, SimConfig(traffic="idm"))
    arrays = state_to_arrays(sim.reset())
    with pytest.raises(InputError, match=r"SimConfig\.traffic"):
        state_from_arrays(Simulator(scene), arrays)
    with pytest.raises(InputError, match="another clip"):
        state_from_arrays(Simulator(Scene.fake(), SimConfig(traffic="idm")), arrays)
    with pytest.raises(InputError, match="touched_ids"):
        state_from_arrays(sim, {k: v for k, v in arrays.items() if k != "touched_ids"})


def test_states_of_agents_are_equal_by_value() -> None:
    boxes, lights = np.zeros((2, 6)), np.zeros(2, np.int8)
    one = AgentsState(3, boxes, lights, {"s_A": np.zeros(2)})
    assert one == AgentsState(3, boxes.copy(), lights.copy(), {"s_A": np.zeros(2)})
    assert hash(one) == hash(AgentsState(3, boxes.copy(), lights.copy()))
    assert one != AgentsState(3, boxes, lights, {"s_A": np.ones(2)})
    assert one != AgentsState(4, boxes, lights, {"s_A": np.zeros(2)})
    assert one.seen == AgentsState(3, boxes, lights)


def test_every_kind_is_registered() -> None:
    assert set(KINDS) <= set(listing("traffic"))
    recorded = Scene.fake()
    assert isinstance(recorded.expert, Expert)
    for kind in KINDS:
        traffic = make_traffic(kind, dataclasses.replace(recorded, tracks=()), DT, 50)
        ego = EgoState.fake()
        assert traffic.advance(traffic.initial(0, ego), ego).boxes_A6.shape == (0, 6)
