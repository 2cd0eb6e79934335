"""Scenario families: parameterised scripts over random streets, speeds, gaps and looks → complete clips.

Agents are time-scripted; conflicts are timed to the ego's nominal speed, so that a driver who just goes on collides.
A clip whose expert collides or leaves the road is drawn again from the next sub-seed.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from senna2.types import AgentClass, Array, Direction, EgoState, InputError, Rig, VehicleShape, require
from senna2.world.scene import INDICATOR_LEFT, INDICATOR_RIGHT, Expert, Scene, SceneMeta
from senna2.world.sim import Simulator
from senna2.world.town.actors import (
    LOOKS,
    Actor,
    clash,
    cross,
    draw_vehicle,
    drive,
    size_of,
    slide,
    stand,
    steady,
)  # fmt: skip
from senna2.world.town.expert import ExpertDriver
from senna2.world.town.roads import KERB, LANE, LANE_OFFSETS, Street
from senna2.world.town.street import FACADE, Look, build_street, is_bend

SPLITS = ("train", "tune", "val", "test", "showcase")
LIMITS = (8.3, 11.1, 13.9)  # m/s: 30, 40, 50 km/h
DT = 0.1
DURATION_S = 10.0
BEYOND_S = 4.0  # agents go on after the clip's end, so that the expert's last plans know their futures
ATTEMPTS = 12


@dataclass
class Draft:
    """A clip while it is being written: the street, the ego's start, the actors so far."""

    rng: np.random.Generator
    street: Street
    look: Look
    lane: str  # "right" or "left"
    v0: float
    t_T: Array
    shape: VehicleShape = field(default_factory=VehicleShape)
    actors: list[Actor] = field(default_factory=list)
    goal_lane: str | None = None
    command_s: float = 0.0
    quiet_s: float | None = None  # keep parked cars away from here

    @property
    def d(self) -> float:
        return LANE_OFFSETS[self.lane]

    def try_add(self, actor: Actor, margin: float = 1.5) -> bool:
        """Add background traffic unless it would meet somebody or starts on the ego."""
        (l, w, _), m = actor.size, actor.motion
        on_ego = abs(m.s_T[0] - 1.4) < 2.3 + l / 2 + 4 and abs(m.d_T[0] - self.d) < 0.95 + w / 2 + 0.5
        if on_ego or any(clash(actor, other, margin) for other in self.actors):
            return False
        self.actors.append(actor)
        return True

    def nominal_s(self) -> Array:
        """Where the ego's rear axle would be over time on an empty road."""
        limit = self.street.speed_limit
        return drive(self.street, self.t_T, 0.0, self.v0, self.d, steady(limit)).s_T


def _following_and_stop(c: Draft) -> None:
    """A leader brakes, mostly to a stop; sometimes it drives on."""
    rng = c.rng
    kind, look = draw_vehicle(rng, large=1.5)
    speed = c.v0 * rng.uniform(0.85, 1.0)
    gap = 3.5 + 1.2 * c.v0 * rng.uniform(0.8, 1.4)
    begin, brake = rng.uniform(1.5, 4.0), rng.uniform(2.0, 5.0)
    low = 0.0 if rng.random() < 0.75 else 2.0
    resume = begin + speed / brake + rng.uniform(1.2, 3.0) if rng.random() < 0.4 else math.inf

    def wish(t: float) -> tuple[float, float]:
        return (speed, 2.0) if t < begin or t > resume else (low, brake)

    s0 = c.shape.front + gap + size_of(kind, look)[0] / 2
    c.actors.append(Actor(kind, look, drive(c.street, c.t_T, s0, speed, c.d, wish)))


def _cut_in(c: Draft) -> None:
    """A faster neighbour moves over close in front of the ego and slows down."""
    rng = c.rng
    other = "left" if c.lane == "right" else "right"
    kind, look = draw_vehicle(rng)
    begin, duration = rng.uniform(1.2, 3.5), rng.uniform(1.6, 3.0)
    gap, before = rng.uniform(4.0, 11.0), c.v0 * rng.uniform(0.95, 1.12)
    after, brake = max(c.v0 - rng.uniform(3.0, 5.5), 1.5), rng.uniform(1.5, 3.0)
    d_T = slide(c.t_T, LANE_OFFSETS[other], c.d, begin, duration)
    length = size_of(kind, look)[0]
    s0 = c.v0 * begin + c.shape.front + gap + length / 2 - before * begin

    def wish(t: float) -> tuple[float, float]:
        return (before, 2.0) if t < begin + 0.4 else (after, brake)

    motion = drive(c.street, c.t_T, s0, before, d_T, wish)
    on = (c.t_T > begin - 1.2) & (c.t_T < begin + duration)
    side = INDICATOR_RIGHT if c.d < LANE_OFFSETS[other] else INDICATOR_LEFT
    lights = (motion.lights_T | np.where(on, side, 0)).astype(np.int8)
    c.actors.append(Actor(kind, look, dataclasses.replace(motion, lights_T=lights)))


def _empty_road(c: Draft) -> None:
    """Nobody ahead on the ego's side: lane keeping, curves, speed limits, starting from rest."""


def _crossing(c: Draft, kind: AgentClass, speed: float, far_side: float) -> None:
    """Somebody crosses so as to be in front of the ego's bumper at its nominal speed."""
    rng = c.rng
    if is_bend(c.street):  # behind the bend, as at a junction
        assert c.street.bend_s is not None
        s = c.street.bend_s[1] + rng.uniform(4, 12)
        when = float(np.interp(s - 2.0, c.nominal_s(), c.t_T))
    else:
        when = rng.uniform(3.0, 5.5)
        s = c.v0 * when + 2.0
    c.quiet_s = s
    side = 1.0 if rng.random() < far_side else -1.0
    if abs(c.d - side * (FACADE - 1.2)) / speed > when + 4.0:
        side = -side
    motion = cross(c.t_T, s, side * (FACADE - 1.2), -side * (FACADE - 1.2), speed, when, c.d)
    c.actors.append(Actor(kind, int(rng.integers(LOOKS)), motion, facing=-side * math.pi / 2))


def _crossing_cyclist(c: Draft) -> None:
    _crossing(c, AgentClass.CYCLIST, c.rng.uniform(2.5, 4.5), far_side=0.5)


def _crossing_pedestrian(c: Draft) -> None:
    _crossing(c, AgentClass.PEDESTRIAN, c.rng.uniform(1.2, 2.0), far_side=0.15 if c.lane == "right" else 0.5)


def _slow_leader(c: Draft) -> None:
    """A slow leader, the command to change to the left lane, and often somebody there to wait for."""
    rng = c.rng
    c.lane, c.goal_lane, c.command_s = "right", "left", rng.uniform(2.0, 12.0)
    kind, look = draw_vehicle(rng, large=2.0)
    speed = rng.uniform(2.5, 4.5)
    # Room to brake comfortably behind it: whether the other lane is free shows only later.
    gap = 6.0 + c.v0 * rng.uniform(0.5, 1.2) + max(c.v0 - speed, 0.0) ** 2 / (2 * rng.uniform(1.6, 2.4))
    s0 = c.shape.front + gap + size_of(kind, look)[0] / 2
    c.actors.append(Actor(kind, look, drive(c.street, c.t_T, s0, speed, c.d, steady(speed))))
    if rng.random() < 0.6:
        kind, look = draw_vehicle(rng)
        pace = c.v0 * rng.uniform(1.05, 1.3)
        motion = drive(c.street, c.t_T, rng.uniform(-16, -4), pace, LANE_OFFSETS["left"], steady(pace))
        c.try_add(Actor(kind, look, motion))


@dataclass(frozen=True)
class Family:
    """write: adds the actors that make the scenario. kinds: weights of straight, curved, right, left streets.
    speed: range of the start speed over the limit. lanes: where the ego may start."""

    write: Callable[[Draft], None]
    kinds: tuple[float, float, float, float]
    speed: tuple[float, float]
    lanes: tuple[str, ...] = ("right", "left")


_FAMILIES: dict[str, Family] = {
    "following_and_stop": Family(_following_and_stop, (0.5, 0.3, 0.12, 0.08), (0.7, 1.0)),
    "cut_in": Family(_cut_in, (0.65, 0.35, 0.0, 0.0), (0.85, 1.0)),
    "empty_road": Family(_empty_road, (0.25, 0.25, 0.3, 0.2), (0.0, 1.05)),
    "crossing_cyclist": Family(_crossing_cyclist, (0.45, 0.25, 0.2, 0.1), (0.85, 1.0)),
    "crossing_pedestrian": Family(_crossing_pedestrian, (0.5, 0.3, 0.12, 0.08), (0.85, 1.0)),
    "slow_leader_lane_change": Family(_slow_leader, (0.7, 0.3, 0.0, 0.0), (0.75, 1.0), ("right",)),
}
FAMILIES: tuple[str, ...] = tuple(_FAMILIES)


def scene_seed(split: str, family: str, i: int) -> int:
    """The seed of clip `i` of a family in a split; no two are equal. Raises `InputError` for unknown names."""
    _check(split, family)
    require(0 <= i < 10_000, "scene_seed: i", f"{i} is not in 0…9999")
    return (SPLITS.index(split) + 1) * 1_000_000 + FAMILIES.index(family) * 10_000 + i


def split_scenes(split: str, count: int) -> list[tuple[str, int]]:
    """(family, seed) of the first `count` clips of a split, families in turn."""
    n = len(FAMILIES)
    return [(FAMILIES[i % n], scene_seed(split, FAMILIES[i % n], i // n)) for i in range(count)]


def make_scene(family: str, seed: int, split: str = "train") -> Scene:
    """A validated clip with the expert's log, determined by (family, seed, split).

    Raises `InputError` for unknown names, and if no attempt gave a clip that the expert passes.
    """
    _check(split, family)
    for attempt in range(ATTEMPTS):
        key = [zlib.crc32(family.encode()), SPLITS.index(split), int(seed), attempt]
        scene = _demonstrated(_draft_scene(family, seed, split, np.random.default_rng(key)))
        if scene is not None:
            return scene.validate(scene.meta.name)
    raise InputError(f"family {family}, seed {seed}: the expert failed in {ATTEMPTS} attempts; take another seed")


def _check(split: str, family: str) -> None:
    if family not in _FAMILIES:
        raise InputError(f"family '{family}' is unknown; there are {', '.join(FAMILIES)}")
    if split not in SPLITS:
        raise InputError(f"split '{split}' is unknown; there are {', '.join(SPLITS)}")


def _draft_scene(family: str, seed: int, split: str, rng: np.random.Generator) -> Scene:
    """The clip without its expert (a standing placeholder stands in, with the clip's times)."""
    recipe = _FAMILIES[family]
    limit = float(rng.choice(LIMITS))
    kind = str(rng.choice(("straight", "curved", "right", "left"), p=recipe.kinds))
    street, look = Street.draw(rng, kind, limit), Look.draw(rng)
    t_T = DT * np.arange(round((DURATION_S + BEYOND_S) / DT) + 1)
    v0 = limit * rng.uniform(*recipe.speed)
    if is_bend(street):
        v0 = min(v0, 11.0)  # enough room to brake before the bend
    c = Draft(rng, street, look, str(rng.choice(recipe.lanes)), v0, t_T)
    recipe.write(c)
    _background_traffic(c, others_ahead=family in ("empty_road", "following_and_stop"))
    route = _route(c)
    frames = round(DURATION_S / DT) + 1
    start = street.line.world(0.0, c.d)
    straight = np.full(frames, Direction.STRAIGHT, np.int8)
    expert = Expert(DT * np.arange(frames), np.tile(start, (frames, 1)), np.full(frames, c.v0), straight, straight)
    assets = {name: cloud for actor in c.actors for name, cloud in actor.clouds().items()}
    return Scene(
        meta=SceneMeta(f"{split}-{family}-{seed}", family, split, int(seed), DT, ego_shape=c.shape),
        background=build_street(street, look, rng),
        assets=assets,
        tracks=tuple(a.track(street, f"{i:02d}_{a.agent_class.name.lower()}") for i, a in enumerate(c.actors)),
        map=street.map(),
        rig=Rig.default(),
        expert=expert,
        route_P2=route,
        speed_limit_P=np.full(len(route), limit),
    )


def _route(c: Draft) -> Array:
    """The lane's middle; where a lane change is commanded, over to the goal lane within 35 m of the command."""
    s = c.street.line.s_P[::2]
    d = np.full(len(s), c.d)
    if c.goal_lane is not None:
        d = slide(s, c.d, LANE_OFFSETS[c.goal_lane], c.command_s, 35.0)
    return c.street.line.world(s, d)[:, :2]


def _background_traffic(c: Draft, others_ahead: bool) -> None:
    """Oncoming and parked cars, people on the pavement, sometimes a neighbour: what must not be reacted to."""
    rng, street = c.rng, c.street
    for _ in range(int(rng.integers(0, 4))):
        kind, look = draw_vehicle(rng)
        pace, d = street.speed_limit * rng.uniform(0.75, 1.0), LANE * rng.choice([0.5, 1.5])
        motion = drive(street, c.t_T, rng.uniform(25, 170), pace, d, steady(pace), sense=-1)
        if not _meets_in_bend(c, motion.s_T):
            c.try_add(Actor(kind, look, motion, facing=math.pi))
    if others_ahead and rng.random() < 0.45:
        kind, look = draw_vehicle(rng)
        other = LANE_OFFSETS["left" if c.lane == "right" else "right"]
        pace = street.speed_limit * rng.uniform(0.7, 1.0)
        c.try_add(Actor(kind, look, drive(street, c.t_T, rng.uniform(-20, 35), pace, other, steady(pace))))
    if c.look.parking:
        for _ in range(int(rng.integers(2, 7))):
            side, s = rng.choice([-1, 1]), rng.uniform(-25, 110)
            in_bend = is_bend(street) and street.bend_s is not None and street.bend_s[0] - 6 < s < street.bend_s[1] + 30
            if not in_bend and (c.quiet_s is None or abs(s - c.quiet_s) > 9.0):
                facing = 0.0 if side < 0 else math.pi
                look = int(rng.integers(LOOKS))
                c.try_add(Actor(AgentClass.CAR, look, stand(c.t_T, s, side * (KERB + 1.2)), facing), margin=0.8)
    for _ in range(int(rng.integers(0, 3))):
        side, sense, pace = rng.choice([-1, 1]), int(rng.choice([-1, 1])), rng.uniform(0.9, 1.5)
        motion = drive(street, c.t_T, rng.uniform(5, 90), pace, side * (FACADE - 0.8), steady(pace), sense=sense)
        motion = dataclasses.replace(motion, lights_T=np.zeros_like(motion.lights_T))
        c.try_add(Actor(AgentClass.PEDESTRIAN, int(rng.integers(LOOKS)), motion), margin=0.4)


def _meets_in_bend(c: Draft, s_T: Array) -> bool:
    """Whether the ego would meet an oncoming vehicle while its heading sweeps over the other lanes: by constant
    velocity (time to collision) every such meeting reads as a crash, though nobody is at risk."""
    if not is_bend(c.street) or c.street.bend_s is None:
        return False
    ego_s = c.nominal_s()
    turning = (ego_s > c.street.bend_s[0] - 6) & (ego_s < c.street.bend_s[1])
    return bool((turning & (s_T > ego_s) & (s_T < ego_s + 45)).any())


def _demonstrated(scene: Scene) -> Scene | None:
    """The clip with the log of its expert in the simulator, or None if the expert fails in it (contact, off the
    road, a commanded lane change not finished)."""
    simulator, driver = Simulator(scene), ExpertDriver(scene)
    x, y, yaw = (float(v) for v in scene.expert.pose_E3[0])
    state = simulator.reset(EgoState(x, y, yaw, float(scene.expert.v_E[0])))
    if state.ignored_ids:
        return None
    pose, v, direction, navigation = [], [], [], []
    while True:
        plan = driver.plan(state)
        e = state.ego
        pose.append((e.x, e.y, e.yaw))
        v.append(e.v)
        direction.append(driver.direction)
        navigation.append(driver.navigation)
        if state.done:
            break
        state = simulator.step(state, plan)
        if state.contacts or state.off_road:
            return None
    changes = (Direction.CHANGE_LEFT, Direction.CHANGE_RIGHT)
    if navigation[-1] in changes or state.straddling:
        return None  # a commanded lane change that is not finished in time demonstrates nothing
    expert = Expert(
        scene.expert.t_E, np.array(pose), np.array(v), np.array(direction, np.int8), np.array(navigation, np.int8)
    )
    return dataclasses.replace(scene, expert=expert)
