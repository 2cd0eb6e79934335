"""The expert, driven in closed loop on hand-made roads: each behaviour that is to be imitated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from senna2.decisions import coarse, f_k, f_k_plan
from senna2.frames import points_to_ego
from senna2.types import AgentClass, Array, Direction, EgoState, InputError, Speed
from senna2.world.scene import INDICATOR_RIGHT, Lane, LaneMap, Light, Scene, Signal, Track
from senna2.world.sim import SimState, Simulator
from senna2.world.town.expert import ExpertDriver
from senna2.world.town.expert_gaps import FOLLOWER_BRAKE
from senna2.world.town.instructions import INSTRUCTIONS, instruction_of
from senna2.world.town.network import Roads, crossing_point
from senna2.world.town.roads import ReferenceLine, Section

DT, LANE, LIMIT = 0.1, 3.5, 11.1
SIZES = {
    AgentClass.CAR: (4.5, 1.8, 1.5),
    AgentClass.CYCLIST: (1.8, 0.65, 1.7),
    AgentClass.PEDESTRIAN: (0.5, 0.6, 1.7),
}
Way = Callable[[Array], Array]  # times (T,) s → (T, 2) positions


def agent(name: str, way: Way, kind: AgentClass = AgentClass.CAR, *, facing: float = 0.0, seconds: float = 30.0,
          lights: int = 0) -> Track:  # fmt: skip
    """A track that follows `way`; heading along the motion, held while it stands."""
    t = DT * np.arange(round(seconds / DT) + 1)
    xy = np.asarray(way(t), float)
    rate = np.gradient(xy, DT, axis=0)
    v = np.hypot(*rate.T)
    yaw, last = np.empty(len(t)), facing
    for i in range(len(t)):
        last = math.atan2(rate[i, 1], rate[i, 0]) if v[i] > 0.2 else last
        yaw[i] = last
    l, w, h = SIZES[kind]
    return Track(name, kind, "car", l, w, h, t, np.column_stack([xy, yaw]), v, np.full(len(t), lights, np.int8))


def steady(x0: float, y: float, v: float) -> Way:
    return lambda t: np.stack([x0 + v * t, np.full_like(t, y)], 1)


def profile(x0: float, y: float, knots: list[tuple[float, float]]) -> Way:
    """Along the road with speeds linear between (time, speed) knots."""
    times, speeds = np.array(knots).T

    def way(t: Array) -> Array:
        v = np.interp(t, times, speeds)
        x = x0 + np.concatenate([[0.0], np.cumsum((v[1:] + v[:-1]) / 2 * DT)])
        return np.stack([x, np.full_like(t, y)], 1)

    return way


def sideways(way: Way, y0: float, y1: float, begin: float, duration: float) -> Way:
    """The same way with a smooth move from y0 to y1."""

    def moved(t: Array) -> Array:
        u = np.clip((t - begin) / duration, 0, 1)
        xy = way(t).copy()
        xy[:, 1] = y0 + (y1 - y0) * u**3 * (10 - 15 * u + 6 * u * u)
        return xy

    return moved


def crossing(x: float, y_from: float, y_to: float, v: float, when: float) -> Way:
    """Across the road at constant speed so as to be at y = 0 at `when`."""
    way = math.copysign(1.0, y_to - y_from)
    return lambda t: np.stack([np.full_like(t, x), np.clip(way * v * (t - when), *sorted((y_from, y_to)))], 1)


def road(*tracks: Track, forward: int = 2, oncoming: int = 1, ego_v: float = 10.0, limit: float = LIMIT,
         change: tuple[int, float] | None = None, seconds: float = 14.0, signals: tuple[Signal, ...] = (),
         lane_end: float | None = None) -> Scene:  # fmt: skip
    """A straight road along x: the ego's lane 0 at y = 0, further forward lanes and then the oncoming ones to its
    left. change: (lanes to the left, where it is commanded). lane_end: x where lane 0 ends and the kerb moves in."""
    x = np.arange(-60.0, 420.0, 2.0)
    lanes: list[Lane] = []
    for k in range(forward + oncoming):
        way = 1 if k < forward else -1
        end = x if lane_end is None or k else x[x <= lane_end]
        low, high = (k - 0.5) * LANE, (k + 0.5) * LANE
        ring = np.array([(end[0], low), (end[-1], low), (end[-1], high), (end[0], high)])
        centre = np.stack([end, np.full_like(end, k * LANE)], 1)[::way].copy()
        left = f"lane_{k + 1}" if k + 1 < forward else None
        right = f"lane_{k - 1}" if 0 < k < forward else None
        lanes.append(Lane(f"lane_{k}", centre, ring, limit, left=left, right=right))
    low, high = -0.5 * LANE - 0.4, (forward + oncoming - 0.5) * LANE + 0.4
    kerb_y = np.full_like(x, low)
    if lane_end is not None:
        kerb_y = np.interp(x, [lane_end - 15.0, lane_end], [low, low + LANE])
    right_kerb = np.stack([x, kerb_y], 1)
    left_kerb = np.stack([x, np.full_like(x, high)], 1)
    between = [np.stack([x, np.full_like(x, (k + 0.5) * LANE)], 1) for k in range(forward + oncoming - 1)]
    lane_map = LaneMap(
        tuple(lanes), tuple(b for k, b in enumerate(between) if k != forward - 1),
        tuple(b for k, b in enumerate(between) if k == forward - 1), (right_kerb, left_kerb),
        (np.concatenate([right_kerb, left_kerb[::-1]]),), drivable_known=True, lanes_complete=True,
    )  # fmt: skip
    route_x = np.arange(0.0, 300.0, 1.0)
    route_y = np.zeros_like(route_x)
    if change is not None:
        u = np.clip((route_x - change[1]) / 35.0, 0, 1)
        route_y = change[0] * LANE * u**3 * (10 - 15 * u + 6 * u * u)
    base = Scene.fake(frames=round(seconds / DT) + 1, v=ego_v)
    return dataclasses.replace(
        base, tracks=tracks, map=lane_map, route_P2=np.stack([route_x, route_y], 1), signals=signals,
        speed_limit_P=np.full(len(route_x), limit),
    )  # fmt: skip


@dataclasses.dataclass
class Drive:
    states: list[SimState]
    direction: list[Direction]
    navigation: list[Direction]
    scene: Scene
    driver: ExpertDriver

    @property
    def x(self) -> Array:
        return np.array([s.ego.x for s in self.states])

    @property
    def y(self) -> Array:
        return np.array([s.ego.y for s in self.states])

    @property
    def v(self) -> Array:
        return np.array([s.ego.v for s in self.states])

    @property
    def front(self) -> Array:
        return self.x + self.scene.meta.ego_shape.front

    def gap(self, name: str) -> Array:
        """(F,) m between boxes along x: to whoever is ahead (negative: overlap along x)."""
        track = next(t for t in self.scene.tracks if t.id == name)
        shape = self.scene.meta.ego_shape
        x = track.pose_T3[: len(self.states), 0]
        ahead = x - track.length / 2 - (self.x + shape.front)
        behind = (self.x - shape.rear_overhang) - (x + track.length / 2)
        return np.maximum(ahead, behind)


def drive(scene: Scene, start: EgoState | None = None, instruction: str = "", *, comfort: bool = True,
          sideways_accel: float = 3.0) -> Drive:  # fmt: skip
    """To the clip's end with the bicycle. Always: no contact, on the road, bounded accelerations."""
    simulator, driver = Simulator(scene), ExpertDriver(scene, instruction)
    states, direction, navigation = [simulator.reset(start)], [], []
    while True:
        plan = driver.plan(states[-1])
        direction.append(driver.direction)
        navigation.append(driver.navigation)
        if states[-1].done:
            break
        states.append(simulator.step(states[-1], plan))
    done = Drive(states, direction, navigation, scene, driver)
    assert not states[-1].contacts, (states[-1].contacts, states[-1].t_s)
    assert not any(s.off_road for s in states)
    if comfort:
        a = np.diff(done.v) / DT
        assert np.mean(np.abs(a) > 4.0) < 0.03, np.abs(a).max()
        assert np.abs(np.diff(a)).max() < 2.0  # 20 m/s³
        yaw_rate = np.diff(np.unwrap([s.ego.yaw for s in states])) / DT
        assert np.abs(yaw_rate * done.v[1:]).max() < sideways_accel
    return done


def signal(x: float, *changes: tuple[float, Light]) -> Signal:
    """A light whose stop line crosses lane 0 at x."""
    line = np.array([(x, -1.75), (x, 1.75)])
    t, state = np.array(changes).T
    return Signal("light", "car", np.array([x, -3.0, 0.0]), line, ("lane_0",), t, state.astype(np.int8))


# ---------------------------------------------------------------- speed


def test_an_empty_road_is_driven_at_the_limit_without_stopping() -> None:
    d = drive(road(ego_v=0.0))
    assert d.v[-1] == pytest.approx(LIMIT, abs=0.3)
    assert (np.diff(d.v) > -0.02).all()
    assert np.abs(d.y).max() < 0.05
    assert set(d.direction) == set(d.navigation) == {Direction.STRAIGHT}
    assert d.driver.maneuver_done


def test_a_leader_is_followed_to_its_stop_and_off_again() -> None:
    leader = agent("leader", profile(28.0, 0.0, [(0, 10), (3, 10), (6, 0), (9, 0), (13, 8)]))
    d = drive(road(leader))
    gap = d.gap("leader")
    assert gap.min() > 2.0
    stands = d.v < 0.1
    assert stands.any()
    assert 2.0 < gap[stands].min() < 5.5
    assert d.v[-1] > 3.0


def test_who_cuts_in_is_let_in_and_who_passes_by_is_ignored() -> None:
    cutter = agent("cutter", sideways(profile(12.0, LANE, [(0, 10), (4, 10), (6, 7)]), LANE, 0.0, 2.0, 2.4))
    d = drive(road(cutter))
    assert d.gap("cutter")[45:].min() > 2.0
    oncoming = agent("oncoming", steady(120.0, 2 * LANE, -10.0), facing=math.pi)
    neighbour = agent("neighbour", steady(5.0, LANE, 6.0))
    free = drive(road(oncoming, neighbour))
    assert free.v.min() > 9.9


def test_pedestrians_and_cyclists_that_cross_are_yielded_to() -> None:
    for kind, v in ((AgentClass.PEDESTRIAN, 1.4), (AgentClass.CYCLIST, 4.0)):
        walker = agent("walker", crossing(48.0, -9.0, 12.0, v, 4.6), kind, facing=math.pi / 2)
        d = drive(road(walker))
        assert d.v.min() < 8.0
        on_path = np.abs(walker.pose_T3[: len(d.x), 1]) < 1.5
        assert (d.front[on_path] < 47.5).all() or (d.x[on_path] > 49.5).all()
        assert d.v[-1] > 8.0
        late = agent("walker", crossing(30.0, -9.0, 12.0, v, 8.0), kind, facing=math.pi / 2)
        assert drive(road(late)).v.min() > 9.5  # passes before: it never stops for nothing
    stays = agent(
        "walker", lambda t: np.stack([np.full_like(t, 40.0), np.full_like(t, -3.4)], 1), AgentClass.PEDESTRIAN
    )
    assert drive(road(stays)).v.min() > 9.5


def test_beside_people_with_little_room_it_slows_down() -> None:
    cyclist = agent("cyclist", steady(45.0, -1.95, 3.0), AgentClass.CYCLIST)
    d = drive(road(cyclist, oncoming=1, forward=1))
    beside = d.gap("cyclist") < 0
    assert beside.any()
    assert d.v[beside].max() < 4.6


def test_a_red_light_is_stopped_at_and_a_late_amber_is_not() -> None:
    red = drive(road(signals=(signal(60.0, (0.0, Light.RED), (11.0, Light.GREEN)),)))
    stands = red.v < 0.05
    assert stands.any()
    assert 0.5 < 60.0 - red.front[stands].max() < 4.0
    assert red.v[-1] > 3.0
    amber = (signal(60.0, (0.0, Light.GREEN), (2.5, Light.AMBER), (5.5, Light.RED)),)
    stopped = drive(road(signals=amber))
    assert 0.5 < 60.0 - stopped.front.max() < 4.0
    late = (signal(60.0, (0.0, Light.GREEN), (4.6, Light.AMBER), (7.6, Light.RED)),)
    assert drive(road(signals=late)).v.min() > 9.5
    green = (signal(60.0, (0.0, Light.GREEN)),)
    assert drive(road(signals=green)).v.min() > 9.9


# ---------------------------------------------------------------- lane changes


def test_a_commanded_lane_change_is_announced_begun_and_finished() -> None:
    d = drive(road(change=(1, 30.0)))
    assert d.y[-1] == pytest.approx(LANE, abs=0.1)
    begun = np.flatnonzero(np.array(d.direction) == Direction.CHANGE_LEFT)
    told = np.flatnonzero(np.array(d.navigation) == Direction.CHANGE_LEFT)
    assert (np.diff(begun) == 1).all()
    assert (np.diff(told) == 1).all()
    assert 15 <= len(begun) <= 45
    assert told[0] <= begun[0]
    assert 20.0 < d.x[told[0]] <= 30.0
    assert d.driver.maneuver_done
    d.driver.reset()
    assert not d.driver.maneuver_done
    assert d.v.min() > 9.5


def test_a_lane_change_waits_for_who_is_there() -> None:
    fast = agent("fast", steady(-14.0, LANE, 12.5))
    d = drive(road(fast, agent("slow", steady(30.0, 0.0, 5.0)), change=(1, 5.0)))
    assert d.y[-1] == pytest.approx(LANE, abs=0.15)
    beside = d.gap("fast") < 3.0
    assert (np.abs(d.y[beside]) < 0.4).all()


@pytest.mark.parametrize("who", ["from behind", "from the third lane"])
def test_a_lane_change_is_given_up_and_tried_again(who: str) -> None:
    if who == "from behind":
        # A gap that was fine: the car behind is slow, and then it is not.
        other = agent("other", profile(-22.0, LANE, [(0, 9), (1.3, 9), (2.6, 16), (20, 16)]))
    else:
        other = agent("other", sideways(steady(6.0, 2 * LANE, 10.4), 2 * LANE, LANE, 1.5, 2.4), lights=INDICATOR_RIGHT)
        late = other.lights_T.copy()
        late[:15] = 0
        other = dataclasses.replace(other, lights_T=late)
    d = drive(road(other, forward=3, change=(1, 3.0), seconds=16.0), sideways_accel=4.0)
    direction = np.array(d.direction)
    back = np.flatnonzero(direction == Direction.CHANGE_RIGHT)
    assert len(back) > 5
    assert 0.25 < d.y[: back[0] + 8].max() < 0.62 * LANE  # it had begun
    assert d.y[back[-1] : back[-1] + 15].min() < 0.3  # and was back
    assert (np.array(d.navigation)[back] == Direction.CHANGE_LEFT).all()
    again = np.flatnonzero(direction[back[-1] :] == Direction.CHANGE_LEFT)
    assert len(again) > 10
    assert again[0] >= 20
    assert d.y[-1] == pytest.approx(LANE, abs=0.2)
    assert (d.gap("other")[np.abs(d.y - LANE) < 1.5] > 2.0).all()


def platoon(v: float, gaps: list[float], first: float, y: float = LANE) -> list[Track]:
    x, out = first, []
    for i, gap in enumerate([0.0, *gaps]):
        x -= gap + (SIZES[AgentClass.CAR][0] if i else 0.0)
        out.append(agent(f"car_{i}", steady(x, y, v)))
    return out


@pytest.mark.parametrize("first", [55.0, 32.0])
def test_in_dense_traffic_it_finds_a_gap_and_forces_nobody(first: float) -> None:
    cars = platoon(8.0, [9.0, 9.0, 27.0, 9.0, 9.0], first)
    d = drive(road(*cars, change=(1, 4.0), ego_v=8.0, seconds=17.0))
    assert d.y[-1] == pytest.approx(LANE, abs=0.2)
    inside = np.abs(d.y - LANE) < 0.6 * LANE
    gaps = np.stack([d.gap(c.id) for c in cars], 1)
    assert gaps[inside].min() > 5.0
    v_ego = d.v[inside]
    for j in range(len(cars)):
        behind = cars[j].pose_T3[: len(d.x), 0][inside] < d.x[inside]
        if behind.any():
            gap, v = gaps[inside, j][behind], 8.0
            wish = 2.0 + v + np.maximum(v * (v - v_ego[behind]), 0) / (2 * math.sqrt(3.0))
            assert (1.5 * (wish / gap) ** 2 - 1.5).max() < FOLLOWER_BRAKE + 0.3
    assert d.v.min() > 3.0


def test_at_a_lane_drop_it_merges_or_stops_before_the_end() -> None:
    free = drive(road(change=(1, 40.0), lane_end=130.0))
    assert free.y[-1] == pytest.approx(LANE, abs=0.1)
    assert free.v.min() > 9.0
    wall = platoon(3.0, [4.0] * 14, 120.0)
    d = drive(road(*wall, change=(1, 20.0), lane_end=90.0, seconds=16.0))
    assert d.front.max() < 90.0
    assert d.v[-1] < 0.5
    assert np.abs(d.y).max() < 0.3


# ---------------------------------------------------------------- parked cars


def parked(x: float, y: float = -1.6) -> Track:
    return agent("parked", steady(x, y, 0.0))


def test_a_parked_car_is_passed_with_room() -> None:
    d = drive(road(parked(60.0), forward=1, oncoming=1))
    beside = d.gap("parked") < 0
    assert beside.any()
    assert (d.y[beside] - 0.95 - (-1.6 + 0.9)).min() > 0.55
    assert d.v.min() > 5.0
    assert abs(d.y[-1]) < 0.1
    assert {Direction.CHANGE_LEFT, Direction.CHANGE_RIGHT} <= set(d.direction)
    assert set(d.navigation) == {Direction.STRAIGHT}


def test_a_driver_that_starts_beside_a_parked_car_goes_on_around_it() -> None:
    scene = road(parked(20.0), forward=1, oncoming=1, seconds=8.0)
    for x in (10.0, 16.0):
        d = drive(scene, EgoState(x, 1.1, 0.0, 6.0))
        assert d.v.min() > 5.0
        assert abs(d.y[-1]) < 0.15


def test_behind_a_parked_car_it_waits_for_oncoming_traffic() -> None:
    cars = [agent(f"oncoming_{i}", steady(x, LANE, -9.0), facing=math.pi) for i, x in enumerate((105.0, 130.0, 150.0))]
    d = drive(road(parked(60.0, -1.2), *cars, forward=1, oncoming=1, seconds=26.0, ego_v=9.0))
    waits = d.v < 0.5
    assert d.v.min() < 4.0
    if waits.any():
        assert 5.0 < d.gap("parked")[waits].min() < 14.0
    assert d.x[-1] > 70.0
    aside = d.y > 1.0
    for car in cars:
        assert d.gap(car.id)[aside].min() > 2.0


# ---------------------------------------------------------------- junctions


def crossroads(lights: bool = False) -> Roads:
    rng = np.random.default_rng(0)
    section = Section(1, 1, cycle=True)
    return Roads.draw(rng, "cross", LIMIT, section=section, side_section=section, lights=lights, junction_s=48.0)


def along(line: ReferenceLine, s0: float, v: float) -> Way:
    return lambda t: line.world(s0 + v * t, 0.0)[:, :2]


def turning(
    roads: Roads, turn: Direction, *tracks: Track, signals: tuple[Signal, ...] = (), seconds: float = 12.0
) -> tuple[Scene, EgoState]:
    path = roads.path("main", 0, turn)
    scene = road(*tracks, signals=signals, seconds=seconds)
    route = path.world(np.arange(0.0, path.s_P[-1], 1.0), 0.0)[:, :2]
    scene = dataclasses.replace(
        scene, map=roads.lane_map(), route_P2=route, speed_limit_P=np.full(len(route), LIMIT)
    )  # fmt: skip
    x, y, yaw = (float(c) for c in path.world(0.0, 0.0))
    return scene, EgoState(x, y, yaw, 9.0)


def boxes_apart(d: Drive, name: str) -> Array:
    """(F,) m between the ego's and an agent's centres."""
    track = next(t for t in d.scene.tracks if t.id == name)
    middle = d.scene.meta.ego_shape.centre_offset
    yaw = np.array([s.ego.yaw for s in d.states])
    ego = np.stack([d.x + middle * np.cos(yaw), d.y + middle * np.sin(yaw)], 1)
    return np.hypot(*(track.pose_T3[: len(ego), :2] - ego).T)


@pytest.mark.parametrize("turn", [Direction.TURN_RIGHT, Direction.TURN_LEFT])
def test_a_free_turn_is_announced_slowed_for_and_driven(turn: Direction) -> None:
    scene, start = turning(crossroads(), turn)
    d = drive(scene, start)
    direction, navigation = np.array(d.direction), np.array(d.navigation)
    assert set(direction) == {Direction.STRAIGHT, turn} == set(navigation)
    told, turns = np.flatnonzero(navigation == turn), np.flatnonzero(direction == turn)
    assert told[0] < turns[0]
    assert (np.diff(turns) == 1).all()
    assert 3.0 < d.v.min() < 6.5  # sqrt(1.8 r), and no stop
    agree = []
    for k in range(len(d.states) - 15):
        pose = np.array([(s.ego.x, s.ego.y) for s in d.states[k : k + 15]])
        ego = d.states[k].ego
        path = f_k(points_to_ego(pose, np.array([ego.x, ego.y, ego.yaw])))[1]
        agree.append(int(path) == coarse(int(direction[k])))
    assert np.mean(agree) > 0.97


def test_turning_right_it_lets_cyclists_go_straight_on() -> None:
    roads = crossroads()
    ours, lane = roads.path("main", 0, Direction.TURN_RIGHT), roads.cycle_path("main")
    at, theirs = crossing_point(ours, lane)
    for v in (4.0, 5.5):
        cyclists = [
            agent(f"cyclist_{i}", along(lane, theirs - 6.5 * v - 5.0 * i, v), AgentClass.CYCLIST) for i in range(2)
        ]
        scene, start = turning(roads, Direction.TURN_RIGHT, *cyclists, seconds=16.0)
        d = drive(scene, start)
        s, _ = d.driver.line.project(np.stack([d.x, d.y], 1))
        at_line = float(d.driver.line.project(ours.world(at, 0.0)[None, :2])[0][0])
        for cyclist in cyclists:
            there = np.abs(lane.project(cyclist.pose_T3[: len(d.x), :2])[0] - theirs) < 1.2
            assert (s[there] + scene.meta.ego_shape.front < at_line - 0.5).all()  # it stands before the cycle lane
            assert boxes_apart(d, cyclist.id).min() > 2.3
        assert s[-1] > at_line + 15.0


def test_turning_left_it_waits_for_oncoming_cars_and_then_for_the_pedestrian_without_blocking_the_way() -> None:
    roads = crossroads()
    ours, oncoming = roads.path("main", 0, Direction.TURN_LEFT), roads.path("beyond", 0, Direction.STRAIGHT)
    at, theirs = crossing_point(ours, oncoming)
    cars = [agent(f"car_{i}", along(oncoming, theirs - 8.0 * when, 8.0)) for i, when in enumerate((5.0, 6.8, 11.5))]
    zebra = roads.zebra_line("left")
    walker = agent("walker", along(zebra, -1.4 * 10.0, 1.4), AgentClass.PEDESTRIAN)
    scene, start = turning(roads, Direction.TURN_LEFT, *cars, walker, seconds=20.0)
    d = drive(scene, start)
    s, _ = d.driver.line.project(np.stack([d.x, d.y], 1))
    at_line = float(d.driver.line.project(ours.world(at, 0.0)[None, :2])[0][0])
    for car in cars:
        assert boxes_apart(d, car.id).min() > 3.0
    # Nobody finds it standing in the way of the oncoming lane.
    on_the_way = (s + scene.meta.ego_shape.front > at_line - 1.0) & (
        s - scene.meta.ego_shape.rear_overhang < at_line + 1.0
    )
    assert (d.v[on_the_way] > 0.5).all()
    assert boxes_apart(d, "walker").min() > 2.0
    assert s[-1] > at_line + 8.0


def test_a_red_light_at_a_junction_is_that_of_the_own_arm() -> None:
    roads = crossroads(lights=True)
    signals = tuple(
        Signal(
            name, "car", pose, line, lanes, np.array([0.0]), np.array([Light.RED if "main" in name else Light.GREEN])
        )
        for name, pose, line, lanes in roads.signal_heads()
    )
    scene, start = turning(roads, Direction.STRAIGHT, signals=signals)
    d = drive(scene, start)
    own = next(s for s in signals if "main" in s.id).stop_line_22
    stop = float(d.driver.line.project(own.mean(0)[None])[0][0])
    s, _ = d.driver.line.project(np.stack([d.x, d.y], 1))
    assert d.v[-1] < 0.05
    assert 0.5 < stop - s[-1] - scene.meta.ego_shape.front < 4.0
    green = tuple(dataclasses.replace(s, state_T=2 - s.state_T) for s in signals)
    free = drive(*turning(roads, Direction.STRAIGHT, signals=green))
    assert free.v.min() > 8.9


# ---------------------------------------------------------------- instructions


def test_every_instruction_has_paraphrases_and_unknown_ones_are_told() -> None:
    texts = [t for i in INSTRUCTIONS for t in i.texts]
    assert len(set(texts)) == len(texts)
    assert all(len(i.texts) >= 4 for i in INSTRUCTIONS)
    assert {i.kind for i in INSTRUCTIONS} == {"hurry up", "slow down", "keep left", "keep right"}
    assert instruction_of("  Hurry   UP! ").speed_factor == 1.2
    assert instruction_of("take it easy").kind == "slow down"
    assert instruction_of("").lane_bias_m == 0
    with pytest.raises(InputError, match=r"'fly' is unknown; say one of .*hurry up"):
        ExpertDriver(road(), "fly")


def test_instructions_change_the_drive_in_the_asked_direction() -> None:
    plain = drive(road(ego_v=LIMIT))
    at = 30
    fast, slow = drive(road(ego_v=LIMIT), instruction="hurry up"), drive(road(ego_v=LIMIT), instruction="slow down")
    assert fast.v[at] > plain.v[at] + 0.8
    assert slow.v[at] < plain.v[at] - 1.5
    assert fast.v.max() < 1.2 * LIMIT + 0.2
    left, right = (drive(road(), instruction=text) for text in ("keep left", "keep right"))
    assert 0.3 < left.y[at] <= left.y.max() < 0.6
    assert -0.3 > right.y[at] >= right.y.min() > -0.6


@pytest.mark.parametrize("text", ["hurry up", "keep left", "keep right"])
def test_no_instruction_trades_safety(text: str) -> None:
    walker = agent("walker", crossing(48.0, -9.0, 12.0, 1.4, 4.4), AgentClass.PEDESTRIAN, facing=math.pi / 2)
    drive(road(walker), instruction=text)
    drive(road(agent("leader", profile(28.0, 0.0, [(0, 10), (3, 10), (6, 0)]))), instruction=text)
    kerbside = agent("kerbside", steady(60.0, -2.6, 0.0))  # reaches 5 cm past the gutter: passed, never waited for
    oncoming = agent("oncoming", steady(150.0, LANE, -9.0), facing=math.pi)
    assert drive(road(kerbside, oncoming, forward=1), instruction=text).v.min() > 5.0


# ---------------------------------------------------------------- plans, perturbations, annotation


def test_a_plan_comes_from_any_state_and_begins_with_the_present_motion() -> None:
    rng = np.random.default_rng(3)
    leader = agent("leader", profile(40.0, 0.0, [(0, 8), (4, 8), (8, 0)]))
    scene = road(leader, change=(1, 20.0))
    driver, simulator = ExpertDriver(scene), Simulator(scene)
    for _ in range(40):
        start = EgoState(
            float(rng.uniform(0, 25)),
            float(rng.uniform(-0.8, 4.3)),
            float(rng.normal(0, 0.08)),
            float(rng.uniform(0, 12)),
        )
        driver.reset()
        points = driver.plan(simulator.reset(start, t_s=1.0)).validate().points_T2
        assert points.shape == (30, 2)
        v = np.hypot(*np.diff(points, axis=0, prepend=np.zeros((1, 2))).T) / DT
        assert abs(v[0] - start.v) < 1.6
        assert np.abs(np.diff(v)).max() < 0.8
        assert np.abs(np.diff(points[:, 1], 3)).max() < 0.015


def test_it_recovers_from_perturbed_starts() -> None:
    rng = np.random.default_rng(5)
    for _ in range(4):
        start = EgoState(0.0, float(rng.normal(0, 0.5)), float(rng.normal(0, 0.05)), float(rng.uniform(4, 13)))
        d = drive(road(), start, comfort=False)
        assert abs(d.y[-1]) < 0.05
        assert abs(d.v[-1] - LIMIT) < 0.3


@pytest.mark.parametrize("speed", [Speed.ACCELERATE, Speed.DECELERATE, Speed.KEEP])
def test_a_forced_speed_is_what_f_k_reads(speed: Speed) -> None:
    scene = road(agent("leader", steady(30.0, 0.0, 6.0)))
    driver = ExpertDriver(scene)
    driver.force = speed
    plan = driver.plan(Simulator(scene).reset(EgoState(5.0, 0.0, 0.0, 7.0), t_s=2.0))
    assert int(f_k_plan(plan.points_T2)[0]) == speed
    driver.reset()
    assert driver.force is None
