"""Laws of the closed loop on small hand-made clips."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from senna2.drivers import ConstantVelocity, Expert, Idm
from senna2.frames import poses_to_world
from senna2.rollouts import drive
from senna2.types import (
    MAX_AGENTS,
    AgentClass,
    Array,
    Camera,
    Direction,
    EgoState,
    InputError,
    LaneKind,
    Rig,
    Rollout,
    Trajectory,
)  # fmt: skip
from senna2.world.render.base import Instance, PosedCamera, Sky, View
from senna2.world.scene import BRAKE, INDICATOR_LEFT, WEATHERS, Lane, LaneMap, Light, Scene, Signal, Track
from senna2.world.scene import Expert as Recording
from senna2.world.sim import DEFAULT_CONFIG, SimConfig, SimState, Simulator


def agent(
    name: str, start: tuple[float, float, float], v: float, *, kind: AgentClass = AgentClass.CAR, frames: int = 60,
    size: tuple[float, float] = (4.5, 1.8), first: int = 0, lights: int = 0,
) -> Track:  # fmt: skip
    """One that keeps speed and heading; `start` is its pose at its first frame."""
    t = 0.1 * np.arange(first, frames)
    x, y, yaw = start
    way = v * (t - t[0])
    pose = np.stack([x + way * math.cos(yaw), y + way * math.sin(yaw), np.full_like(t, yaw)], 1)
    lit = np.full(len(t), lights, np.int8)
    return Track(name, kind, "car", size[0], size[1], 1.5, t, pose, np.full(len(t), v), lit)


def with_tracks(*tracks: Track, frames: int = 60, v: float = 8.0) -> Scene:
    return dataclasses.replace(Scene.fake(frames=frames, v=v), tracks=tracks)


def straight(v: float = 8.0) -> Trajectory:
    return Trajectory.fake(v)


def run(scene: Scene, plan: Trajectory | None = None, config: SimConfig = DEFAULT_CONFIG) -> list:
    sim = Simulator(scene, config)
    states = [sim.reset()]
    while not states[-1].done:
        states.append(sim.step(states[-1], plan or straight()))
    return states


# --- contacts


def test_hitting_a_standing_leader_ends_the_clip_at_the_moment_of_contact() -> None:
    states = run(with_tracks(agent("wall", (30.0, 0, 0), 0.0)))
    (contact,) = states[-1].contacts
    gap = 30.0 - 4.5 / 2 - 3.7  # to its rear, from the ego's front
    assert contact.at_fault
    assert contact.kind == "stopped_agent"
    assert contact.t_s == pytest.approx(gap / 8, abs=0.021)
    assert contact.ego_v == pytest.approx(8.0)
    assert states[-1].ttc_s == 0
    assert states[-1].failed
    assert len(states) == math.ceil(gap / 8 / 0.1) + 1


def test_time_to_collision_of_a_closing_leader() -> None:
    states = run(with_tracks(agent("slow", (30.0, 0, 0), 3.0)))
    gap = 30.0 - 4.5 / 2 - 3.7
    for state in states[:20]:
        left = (gap - 5 * state.t_s) / 5
        assert left - 1e-6 <= state.ttc_s <= left + 0.1 + 1e-6


def test_struck_from_behind_is_counted_but_goes_on() -> None:
    states = run(with_tracks(agent("pusher", (-12.0, 0, 0), 14.0)))
    (contact,) = states[-1].contacts
    assert (contact.kind, contact.at_fault) == ("rear", False)
    assert len(states) == 60
    assert [s.ttc_s for s in states].count(0.0) == 1  # the frame of the contact only: then it is ignored


def test_a_later_at_fault_contact_still_counts_after_one_from_behind() -> None:
    scene = with_tracks(agent("pusher", (-12.0, 0, 0), 14.0), agent("wall", (42.0, 0, 0), 0.0))
    contacts = run(scene)[-1].contacts
    assert [c.agent_id for c in contacts] == ["pusher", "wall"]
    assert [c.at_fault for c in contacts] == [False, True]


def test_standing_ego_is_never_at_fault() -> None:
    scene = with_tracks(agent("oncoming", (40.0, 0, math.pi), 10.0), v=0.0)
    states = run(scene, straight(0.0))
    assert [c.kind for c in states[-1].contacts] == ["stopped_ego"]
    assert len(states) == 60
    assert all(math.isinf(s.ttc_s) or s.ttc_s == 0 for s in states)


def test_agents_overlapping_at_the_start_are_ignored_and_counted() -> None:
    scene = with_tracks(agent("ghost", (2.0, 0, 0), 0.0))
    rollout = drive(ConstantVelocity(), scene, policy_name="cv")
    assert rollout.ignored_at_start == 1
    assert rollout.contacts == ()
    assert np.isinf(rollout.ttc_F).all()


def test_a_static_object_is_always_a_fault() -> None:
    scene = with_tracks(agent("cone", (20.0, 0.8, 0), 0.0, kind=AgentClass.STATIC, size=(0.4, 0.4)))
    (contact,) = run(scene)[-1].contacts
    assert (contact.kind, contact.at_fault, contact.agent_class) == ("static", True, AgentClass.STATIC)


@pytest.mark.parametrize("shift", np.linspace(0.0, 0.6, 9))
@pytest.mark.parametrize("v", [3.0, 12.0, 25.0])
def test_nothing_thin_tunnels_past_the_front(shift: float, v: float) -> None:
    """A thin walker leaves the ego's width 8 ms after the front reaches its line: found, though a sub-step is 20 ms.

    `shift` moves that moment through a whole sub-step (0.6 m at 30 m/s).
    """
    ego_v, crossing = 30.0, 31.0 + shift
    meets = (crossing - 0.05 - 3.7) / ego_v
    start = (crossing, 0.95 + 0.05 - v * (meets + 0.008), math.pi / 2)
    walker = agent("walker", start, v, kind=AgentClass.PEDESTRIAN, size=(0.1, 0.1))
    scene = with_tracks(walker, v=ego_v)
    (contact,) = run(scene, straight(ego_v))[-1].contacts
    assert contact.agent_id == "walker"
    assert meets - 1e-9 <= contact.t_s <= meets + 0.008 + 1e-9


def test_an_agent_that_has_left_is_not_there() -> None:
    scene = with_tracks(agent("gone", (30.0, 0, 0), 0.0, frames=15))
    assert run(scene)[-1].contacts == ()


def test_kerb_contact_is_static_and_ends_the_clip() -> None:
    bend = Trajectory(np.stack([0.8 * np.arange(1, 31), -0.01 * np.arange(1, 31) ** 2], 1), 0.1)
    states = run(with_tracks(), bend)
    (contact,) = states[-1].contacts
    assert (contact.kind, contact.at_fault, contact.agent_class) == ("static", True, -1)
    assert not math.isinf(states[-1].ego.y)


def test_scraping_a_neighbour_is_a_fault_only_out_of_the_lane() -> None:
    beside = agent("beside", (0.5, 3.2, 0), 8.0)
    drift = Trajectory(np.stack([0.8 * np.arange(1, 31), 0.08 * np.arange(1, 31)], 1), 0.1)
    (contact,) = run(with_tracks(beside), drift)[-1].contacts
    assert (contact.kind, contact.at_fault) == ("lateral", True)
    drifting = dataclasses.replace(agent("beside", (0.5, 3.2, 0), 8.0))
    drifting.pose_T3[:, 1] -= 0.4 * drifting.t_T
    (contact,) = run(with_tracks(drifting))[-1].contacts
    assert (contact.kind, contact.at_fault) == ("lateral", False)
    blind = with_tracks(drifting)
    blind = dataclasses.replace(blind, map=dataclasses.replace(blind.map, lanes_complete=False))
    (contact,) = run(blind)[-1].contacts
    assert contact.lateral_undecided
    assert not contact.at_fault


# --- maps that do not know


def test_unknown_maps_give_none_not_zero() -> None:
    scene = dataclasses.replace(Scene.fake(), map=LaneMap())
    rollout = drive(ConstantVelocity(), scene, policy_name="cv").validate()
    assert rollout.off_road_F is None
    assert rollout.straddle_F is None
    assert not rollout.has_kerbs


def test_drivable_boundary_stands_in_for_missing_kerbs_only_if_it_holds_the_expert() -> None:
    scene = Scene.fake()
    no_kerbs = dataclasses.replace(scene, map=dataclasses.replace(scene.map, kerbs=()))
    assert Simulator(no_kerbs).judge.has_kerbs
    bend = Trajectory(np.stack([0.8 * np.arange(1, 31), -0.01 * np.arange(1, 31) ** 2], 1), 0.1)
    assert run(no_kerbs, bend)[-1].contacts[0].kind == "static"
    narrow = tuple(ring * (1, 0.4) for ring in scene.map.drivable)
    cut = dataclasses.replace(scene, map=dataclasses.replace(scene.map, kerbs=(), drivable=narrow))
    rollout = drive(Expert(), cut, policy_name="expert")
    assert not rollout.has_kerbs
    assert rollout.off_road_F is None


def test_a_boundary_is_not_believed_if_the_recorded_ego_drives_over_a_hole_in_the_area() -> None:
    """The hole is narrower than the car: no corner is ever in it."""
    scene = Scene.fake()

    def box(x0: float, x1: float, y0: float, y1: float) -> Array:
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])

    holed = (box(-40, 400, -2.15, -0.5), box(-40, 400, 0.5, 5.65), box(-40, 20, -0.5, 0.5), box(21, 400, -0.5, 0.5))
    for drivable, held in ((holed, False), ((*holed, box(20, 21, -0.5, 0.5)), True)):
        cut = dataclasses.replace(scene, map=dataclasses.replace(scene.map, kerbs=(), drivable=drivable))
        rollout = drive(Expert(), cut, policy_name="expert")
        assert rollout.contacts == ()
        assert rollout.has_kerbs is held
        assert (rollout.off_road_F is not None) is held


def test_a_route_without_length_is_refused() -> None:
    for traffic in ("replay", "idm"):
        for route in (np.zeros((2, 2)), np.ones((3, 2))):
            scene = dataclasses.replace(Scene.fake(), route_P2=route, speed_limit_P=np.ones(len(route)))
            with pytest.raises(InputError, match="route: needs two points"):
                Simulator(scene, SimConfig(traffic=traffic))


def test_off_road_and_straddling() -> None:
    scene = Scene.fake()
    sim = Simulator(dataclasses.replace(scene, map=dataclasses.replace(scene.map, kerbs=())))
    assert sim.reset().straddling is False
    assert sim.reset(EgoState(0, 1.5, 0, 8)).straddling is True
    assert sim.reset(EgoState(0, -1.4, 0, 8)).off_road is False  # 0.2 m outside
    assert sim.reset(EgoState(0, -1.7, 0, 8)).off_road is True  # 0.5 m outside


# --- laws


def mirrored(scene: Scene) -> Scene:
    flip2, flip3 = np.array([1, -1]), np.array([1, -1, -1])
    lines = {
        f: tuple(p * flip2 for p in getattr(scene.map, f)) for f in ("dividers", "centre_lines", "kerbs", "drivable")
    }
    lanes = tuple(
        dataclasses.replace(
            n, centre_P2=n.centre_P2 * flip2, polygon_Q2=n.polygon_Q2 * flip2, left=n.right, right=n.left
        )
        for n in scene.map.lanes
    )
    swap = np.array([0, 2, 1, 4, 3], np.int8)
    expert = dataclasses.replace(
        scene.expert, pose_E3=scene.expert.pose_E3 * flip3, direction_E=swap[scene.expert.direction_E],
        navigation_E=swap[scene.expert.navigation_E],
    )  # fmt: skip
    return dataclasses.replace(
        scene, tracks=tuple(dataclasses.replace(t, pose_T3=t.pose_T3 * flip3) for t in scene.tracks),
        map=dataclasses.replace(scene.map, lanes=lanes, **lines), expert=expert, route_P2=scene.route_P2 * flip2,
    )  # fmt: skip


def moved(scene: Scene, pose: Array) -> Scene:
    def points(p: Array) -> Array:
        return poses_to_world(np.column_stack([p, np.zeros(len(p))]), pose)[:, :2]

    lines = {f: tuple(map(points, getattr(scene.map, f))) for f in ("dividers", "centre_lines", "kerbs", "drivable")}
    lanes = tuple(
        dataclasses.replace(n, centre_P2=points(n.centre_P2), polygon_Q2=points(n.polygon_Q2)) for n in scene.map.lanes
    )
    return dataclasses.replace(
        scene, tracks=tuple(dataclasses.replace(t, pose_T3=poses_to_world(t.pose_T3, pose)) for t in scene.tracks),
        map=dataclasses.replace(scene.map, lanes=lanes, **lines), route_P2=points(scene.route_P2),
        expert=dataclasses.replace(scene.expert, pose_E3=poses_to_world(scene.expert.pose_E3, pose)),
    )  # fmt: skip


def curved(radius: float = 60.0, frames: int = 80, v: float = 7.0) -> Scene:
    """A left bend of two lanes with a slow leader, a crossing walker, one from behind and one parked off the lane."""
    t = 0.1 * np.arange(frames)

    def at(s: Array, d: float) -> Array:
        yaw = s / radius
        return np.stack([(radius - d) * np.sin(yaw), radius - (radius - d) * np.cos(yaw)], -1)

    def drive_along(s: Array, d: float) -> Array:
        return np.column_stack([at(s, d), s / radius])

    s = np.linspace(-20, 150, 86)

    def strip(d0: float, d1: float) -> Array:
        return np.concatenate([at(s, d0), at(s, d1)[::-1]])

    lanes = (Lane("right", at(s, 0), strip(-1.75, 1.75), 8.3, left="left"), Lane("left", at(s, 3.5), strip(1.75, 5.25)))
    zeros = np.zeros(frames, np.int8)

    def track(name: str, kind: AgentClass, pose: Array, speed: float, size: tuple[float, float]) -> Track:
        return Track(name, kind, "car", *size, 1.5, t, pose, np.full(frames, speed), zeros)

    walker = np.column_stack(
        [at(np.full(frames, 45.0), 0) + np.outer(-6 + 1.5 * t, (0.2, 0.98)), np.full(frames, 1.37)]
    )
    tracks = (
        track("leader", AgentClass.CAR, drive_along(18 + 4 * t, 0.1), 4.0, (4.4, 1.8)),
        track("walker", AgentClass.PEDESTRIAN, walker, 1.5, (0.5, 0.5)),
        track("fast", AgentClass.TRUCK, drive_along(-15 + 9 * t, 0.3), 9.0, (7.0, 2.3)),
        track("parked", AgentClass.CAR, np.tile(drive_along(np.array([60.0]), 5.0), (frames, 1)), 0.0, (4.4, 1.8)),
    )
    base = Scene.fake(frames=frames)
    speed = np.full(frames, v * (1 - 3.5 / radius))
    recording = Recording(t, drive_along(v * t, 3.5), speed, zeros, zeros + Direction.TURN_LEFT)
    lane_map = LaneMap(lanes, (at(s, 1.75),), (), (at(s, -2.2), at(s, 5.7)), (strip(-2.2, 5.7),),
                       drivable_known=True, lanes_complete=True)  # fmt: skip
    return dataclasses.replace(base, tracks=tracks, map=lane_map, expert=recording, route_P2=at(s, 0.0),
                               speed_limit_P=np.full(len(s), 8.3))  # fmt: skip


def outcome(r: Rollout) -> list:
    contacts = [(c.agent_id, c.at_fault, c.kind, round(c.t_s, 3)) for c in r.contacts]
    assert r.off_road_F is not None
    assert r.straddle_F is not None
    return [contacts, len(r), r.off_road_F.tolist(), r.straddle_F.tolist(), np.round(r.ttc_F, 6).tolist()]


@pytest.mark.parametrize("policy", [ConstantVelocity, Idm])
def test_mirroring_and_moving_the_world_changes_no_outcome(policy: type) -> None:
    scene = curved()
    original = drive(policy(), scene, policy_name="x")
    assert original.contacts or np.isfinite(original.ttc_F).any()
    for other in (mirrored(scene), moved(scene, np.array([-830.0, 455.0, 2.3]))):
        r = drive(policy(), other, policy_name="x")
        assert outcome(r) == outcome(original)
        assert np.allclose(r.progress_F, original.progress_F, atol=1e-6)
        assert np.allclose(r.ego_F6[:, 3:5], original.ego_F6[:, 3:5], atol=1e-6)


def test_moving_the_world_far_away_costs_no_digits() -> None:
    scene = curved()
    far = drive(Expert(), moved(scene, np.array([4.6e5, 5.4e6, -1.0])), policy_name="expert")
    near = drive(Expert(), scene, policy_name="expert")
    assert outcome(far) == outcome(near)


@pytest.mark.parametrize("make", [Scene.fake, curved])
def test_replaying_the_recording_touches_nothing_and_stays_on_it(make: type) -> None:
    scene = make()
    scene = dataclasses.replace(scene, tracks=tuple(t for t in scene.tracks if t.id == "leader"))
    rollout = drive(Expert(), scene, policy_name="expert").validate()
    assert rollout.vehicle == "perfect"
    assert rollout.contacts == ()
    assert np.abs(rollout.ego_F6[:, :3] - scene.expert.pose_E3).max() < 1e-9
    assert np.allclose(rollout.ego_F6[:, 3], scene.expert.v_E, atol=0.05)
    assert rollout.progress_F[-1] == pytest.approx(rollout.expert_E4[-1, 2])


def test_at_fault_contacts_are_contacts_and_the_last_one_of_a_failed_clip() -> None:
    rng = np.random.default_rng(5)
    for _ in range(25):
        tracks = [
            agent(f"a{i}", (rng.uniform(-30, 60), rng.uniform(-6, 9), rng.uniform(-3.1, 3.1)), rng.uniform(0, 12))
            for i in range(8)
        ]
        states = run(with_tracks(*tracks))
        contacts = states[-1].contacts
        assert all(not (c.at_fault or c.kind == "static") for c in contacts[:-1]) or (
            contacts[-1].t_s == contacts[-2].t_s  # two in the very sub-step that ends the clip
        )
        assert len({c.agent_id for c in contacts}) == len(contacts)
        assert states[-1].failed == any(c.at_fault for c in contacts)
        assert not set(states[-1].ignored_ids) & {c.agent_id for c in contacts}


def test_a_state_kept_and_driven_on_equals_the_unbroken_drive() -> None:
    sim = Simulator(curved())
    states = [sim.reset()]
    while not states[-1].done:
        states.append(sim.step(states[-1], straight(7.0)))
    middle = states[len(states) // 2]
    for _ in range(2):  # any number of times, also on a simulator that has driven elsewhere since
        state = middle
        sim.step(sim.reset(), straight(1.0))
        while not state.done:
            state = sim.step(state, straight(7.0))
        assert state == states[-1]
    with pytest.raises(InputError, match="over"):
        sim.step(states[-1], straight())


def test_two_drives_are_identical() -> None:
    a, b = (drive(Idm(), curved(), policy_name="idm") for _ in range(2))
    assert np.array_equal(a.ego_F6, b.ego_F6)
    assert np.array_equal(a.plans_FT2, b.plans_FT2, equal_nan=True)
    assert outcome(a) == outcome(b)


# --- observations


def test_state_observation_is_nearest_first_in_the_ego_frame() -> None:
    tracks = [agent(f"a{i}", (10.0 + 6 * i, 3.5, 0.2), 5.0) for i in range(30)]
    sim = Simulator(moved(with_tracks(*reversed(tracks)), np.array([50.0, -20.0, 0.7])))
    state = sim.observe(sim.reset(), images=False).validate().state
    assert state is not None
    assert (state.classes_A == AgentClass.CAR).sum() == MAX_AGENTS
    assert np.allclose(state.boxes_A6[0], (10, 3.5, 0.2, 4.5, 1.8, 5), atol=1e-4)
    assert (np.diff(np.hypot(*state.boxes_A6[:, :2].T)) > 0).all()
    assert state.lane_kinds_L[0] == LaneKind.ROUTE_LANE
    assert np.allclose(state.lanes_LP2[0, :, 1], 0, atol=1e-4)
    assert {LaneKind.LANE, LaneKind.DIVIDER, LaneKind.KERB} <= set(state.lane_kinds_L.tolist())
    assert np.allclose(state.route_R2, np.stack([3.0 * np.arange(1, 21), np.zeros(20)], 1), atol=1e-3)
    left = state.lanes_LP2[list(state.lane_kinds_L).index(LaneKind.LANE)]
    assert np.allclose(left[:, 1], 3.5, atol=1e-4)


def test_motion_carries_the_bicycle_s_yaw_rate() -> None:
    sim = Simulator(Scene.fake())
    observation = sim.observe(sim.reset(EgoState(0, 0, 0, 6.0, 0.5, 0.1)), images=False)
    assert observation.motion_4 == pytest.approx([6.0, 0.5, 6.0 * math.tan(0.1) / 2.8, 0.1])


def test_navigation_and_limit_follow_the_route_position_not_the_clock() -> None:
    scene = Scene.fake(frames=60, v=8.0)
    command = np.where(np.arange(60) < 30, Direction.STRAIGHT, Direction.TURN_LEFT).astype(np.int8)
    limit = np.where(scene.route_P2[:, 0] < 20, 13.9, 8.3)
    scene = dataclasses.replace(
        scene, expert=dataclasses.replace(scene.expert, navigation_E=command), speed_limit_P=limit, tracks=()
    )
    sim = Simulator(scene)
    for x, turn, v in (
        (0.0, Direction.STRAIGHT, 13.9),
        (23.0, Direction.STRAIGHT, 8.3),
        (25.0, Direction.TURN_LEFT, 8.3),
    ):
        observation = sim.observe(sim.reset(EgoState(x, 0.3, 0, 8.0), 1.0), images=False)
        assert (observation.navigation, observation.speed_limit) == (turn, v)
    assert sim.reset(EgoState(500.0, 0, 0, 1.0)).progress_m == pytest.approx(500.0)  # straight on past the end


class Recorder:
    """A renderer that paints the camera's x position and remembers what it was given."""

    name = "recorder"

    def __init__(self) -> None:
        self.calls: list[tuple[list[Instance], list[PosedCamera]]] = []
        self.skies: list[Sky] = []

    def render(self, instances: list[Instance], cameras: list[PosedCamera], sky: Sky) -> list[View]:
        self.calls.append((instances, cameras))
        self.skies.append(sky)
        views = []
        for c in cameras:
            shade = np.full((c.camera.height, c.camera.width), c.cam_to_world_44[0, 3] / 255, np.float32)
            views.append(View(np.repeat(shade[..., None], 3, 2), shade, shade))
        return views


def test_front_camera_carries_the_frame_of_the_past_and_renders_each_frame_once() -> None:
    front = dataclasses.replace(Camera.fake(), history_s=(0.4, 0.0))
    side = dataclasses.replace(Camera.fake(), name="left")
    scene = dataclasses.replace(Scene.fake(v=10.0), rig=Rig((front, side)))
    renderer = Recorder()
    sim = Simulator(scene, SimConfig(), renderer)
    state = sim.reset()
    for k in range(8):
        images = sim.observe(state, images=True).images
        assert images["front"].shape == (2, front.height, front.width, 3)
        assert images["left"].shape[0] == 1
        x = 1.6 + 1.0 * k  # camera 1.6 m before the axle, 1 m a frame
        assert images["front"][1, 0, 0, 0] == round(x + 1e-6)
        assert images["front"][0, 0, 0, 0] == round(max(x - 4, 1.6) + 1e-6)  # the first frame repeats at the start
        state = sim.step(state, straight(10.0))
    assert len(renderer.calls) == 8
    assert all(len(cameras) == 2 for _, cameras in renderer.calls)


def test_agents_are_drawn_with_the_lights_and_legs_of_the_moment() -> None:
    scene = with_tracks(
        agent("braking", (20.0, 0, 0), 5.0, lights=BRAKE), agent("turning", (30.0, 0, 0), 5.0, lights=INDICATOR_LEFT),
        agent("plain", (40.0, 0, 0), 5.0), agent("walker", (20.0, 3, 0), 1.4, kind=AgentClass.PEDESTRIAN),
    )  # fmt: skip
    cloud = scene.assets["car"]
    variants = {s: dataclasses.replace(cloud) for s in (".brake", ".left", ".step")}
    scene = dataclasses.replace(scene, assets={"car": cloud, **{f"car{s}": c for s, c in variants.items()}})
    renderer = Recorder()
    sim = Simulator(scene, SimConfig(), renderer)
    state = sim.reset()
    legs = set()
    for _ in range(6):
        sim.observe(state, images=True)
        instances = renderer.calls[-1][0]
        assert len(instances) == 5  # background and four agents: the ego is not drawn
        assert instances[1].cloud is variants[".brake"]
        assert instances[2].cloud is variants[".left"]
        assert instances[3].cloud is cloud
        assert instances[1].pose_44 is not None
        assert instances[1].pose_44[0, 3] == pytest.approx(20 + 0.5 * state.step)
        legs.add(instances[4].cloud is variants[".step"])
        state = sim.step(state, straight())
    assert legs == {True, False}


def signal(name: str, x: float, *states: tuple[float, Light], y: tuple[float, float] = (-1.8, 1.7), yaw: float = 0.0):
    t, lit = zip(*states, strict=True)
    line = np.array([(x, y[0]), (x, y[1])])
    return Signal(name, "lamp", np.array([x, y[0], yaw]), line, ("right",), np.array(t), np.array(lit, np.int8))


def with_signals(*signals: Signal) -> Scene:
    cloud = Scene.fake().assets["car"]
    lamps = {f"lamp{suffix}": dataclasses.replace(cloud) for suffix in ("", ".red", ".amber", ".green")}
    return dataclasses.replace(with_tracks(), signals=signals, assets={"car": cloud, **lamps})


def red_rows(sim: Simulator, state: SimState) -> Array:
    seen = sim.observe(state, images=False).validate().state
    assert seen is not None
    return seen.lanes_LP2[seen.lane_kinds_L == LaneKind.RED_STOP_LINE]


def test_red_and_amber_stop_lines_ahead_are_seen_nearest_first() -> None:
    scene = with_signals(
        signal("far", 55.0, (0.0, Light.RED)),
        signal("near", 30.0, (0.0, Light.GREEN), (1.0, Light.AMBER), (2.0, Light.RED), (3.0, Light.GREEN)),
        signal("oncoming", 40.0, (0.0, Light.RED), y=(1.75, 5.0), yaw=math.pi),
        signal("elsewhere", 35.0, (0.0, Light.RED), y=(8.0, 12.0)),
        signal("out of range", 75.0, (0.0, Light.RED)),
        signal("behind", -5.0, (0.0, Light.RED)),
    )
    sim = Simulator(moved(scene, np.array([0.0, 0.0, 0.0])))
    state = sim.reset()
    for k in range(40):
        x, t = 0.8 * k, 0.1 * k
        rows = red_rows(sim, state)
        ahead = [30.0 - x] if 1.0 <= t + 1e-9 < 3.0 and x < 30 else []
        ahead += [55.0 - x] + ([75.0 - x] if 75 - x <= 60 else [])
        assert np.allclose(rows[:, 0, 0], ahead, atol=1e-3)
        assert np.allclose(rows[:, [0, -1], 1], (-1.8, 1.7), atol=1e-3)
        state = sim.step(state, straight())


def test_stop_lines_turn_with_the_world_and_follow_the_route() -> None:
    """A route that turns left at a junction passes its own line, not those of the other arms."""
    x = np.linspace(0, math.pi / 2, 30)
    bend = np.stack([30 + 12 * np.sin(x), 12 - 12 * np.cos(x)], 1)
    into, out = np.linspace((0, 0), (29, 0), 30), np.linspace((42, 13), (42, 60), 20)
    route = np.vstack([into, bend, out])
    own = signal("own", 26.0, (0.0, Light.RED))
    across = Signal("across", "lamp", np.array([44.0, 16.0, -math.pi / 2]), np.array([(44.0, 16.0), (40.5, 16.0)]),
                    (), np.zeros(1), np.zeros(1, np.int8))  # fmt: skip
    scene = dataclasses.replace(with_signals(own, across), route_P2=route, speed_limit_P=np.full(len(route), 8.3))
    pose = np.array([-200.0, 90.0, 2.0])
    turned = moved(scene, pose)
    lines = [poses_to_world(np.column_stack([s.stop_line_22, np.zeros(2)]), pose)[:, :2] for s in scene.signals]
    posts = [poses_to_world(s.pose_3[None], pose)[0] for s in scene.signals]
    signals = tuple(
        dataclasses.replace(s, stop_line_22=line, pose_3=post)
        for s, line, post in zip(scene.signals, lines, posts, strict=True)
    )
    for clip in (scene, dataclasses.replace(turned, signals=signals)):
        sim = Simulator(clip)
        rows = red_rows(sim, sim.reset())
        assert len(rows) == 1
        assert np.allclose(rows[0][[0, -1]], [(26.0, -1.8), (26.0, 1.7)], atol=1e-3)


def test_traffic_lights_are_drawn_in_their_colour_of_the_moment() -> None:
    scene = with_signals(signal("s", 30.0, (0.0, Light.RED), (0.2, Light.GREEN), (0.4, Light.AMBER)))
    renderer = Recorder()
    sim = Simulator(scene, SimConfig(), renderer)
    state = sim.reset()
    for name in ("red", "red", "green", "green", "amber"):
        sim.observe(state, images=True)
        (lamp,) = renderer.calls[-1][0][1:]
        assert lamp.cloud is scene.assets[f"lamp.{name}"]
        assert lamp.pose_44 is not None
        assert lamp.pose_44[:2, 3] == pytest.approx((30.0, -1.8))
        state = sim.step(state, straight())


def test_the_sky_is_that_of_the_clip_s_weather() -> None:
    for weather in WEATHERS:
        scene = Scene.fake()
        scene = dataclasses.replace(scene, meta=dataclasses.replace(scene.meta, weather=weather))
        renderer = Recorder()
        sim = Simulator(scene, SimConfig(), renderer)
        sim.observe(sim.reset(), images=True)
        assert renderer.skies == [Sky.of(weather)]


def test_two_branches_never_share_a_picture_that_differs() -> None:
    """One ego, one frame, but an agent that stood in its way in one of the two pasts."""
    front = dataclasses.replace(Camera.fake(), history_s=(0.2, 0.0))
    scene = dataclasses.replace(with_tracks(agent("a", (-20.0, 0.0, 0), 8.0)), rig=Rig((front,)))
    renderer = Recorder()
    sim = Simulator(scene, SimConfig(vehicle="perfect", traffic="idm"), renderer)
    start = sim.reset(EgoState(0.0, 0.0, 0.0, 8.0))
    fast = np.stack([0.8 * np.arange(1, 31), np.zeros(30)], 1)
    slow = fast * 0.1
    branches = []
    for plans in ([fast, fast, fast, fast], [slow, 1.9 * fast, fast, fast]):
        state = start
        for points in plans:
            state = sim.step(state, Trajectory(points, 0.1))
            sim.observe(state, images=True)
        branches.append(state)
    drawn = {}
    for instances, cameras in renderer.calls:
        at = (cameras[0].cam_to_world_44[0, 3], tuple(i.pose_44[0, 3] for i in instances if i.pose_44 is not None))
        assert at not in drawn  # each moment once
        drawn[at] = True
    again = sim.observe(branches[0], images=True)
    assert len(renderer.calls) == len(drawn)  # all in the cache
    assert branches[0].past[-1][0].boxes_A6[0, 0] != branches[1].past[-1][0].boxes_A6[0, 0]
    assert again.images["front"].shape[0] == 2


# --- bad input


def test_bad_input_names_the_field() -> None:
    sim = Simulator(Scene.fake())
    state = sim.reset()
    with pytest.raises(InputError, match="points_T2"):
        sim.step(state, Trajectory(np.full((30, 2), np.nan), 0.1))
    with pytest.raises(InputError, match="t_s"):
        sim.reset(t_s=0.05)
    with pytest.raises(InputError, match="leaves nothing"):
        sim.reset(t_s=60.0)
    with pytest.raises(InputError, match="vehicle"):
        Simulator(Scene.fake(), SimConfig(vehicle="boat"))
    with pytest.raises(InputError, match="traffic"):
        Simulator(Scene.fake(), SimConfig(traffic="chaos"))
    with pytest.raises(InputError, match=r"tracker.*lqr"):
        Simulator(Scene.fake(), SimConfig(tracker="rails"))
