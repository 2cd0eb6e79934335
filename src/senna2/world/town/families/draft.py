"""A clip while it is being written: the place, the ego's start and way, the actors so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from senna2.types import AgentClass, Array, Direction, VehicleShape
from senna2.world.scene import Signal, Track, Trigger
from senna2.world.town.actors import (
    LOOKS,
    Actor,
    Ahead,
    Motion,
    Wish,
    clash,
    draw_vehicle,
    drive,
    side_lamp,
    size_of,
    slide,
    steady,
)  # fmt: skip
from senna2.world.town.look import Look
from senna2.world.town.network import Roads
from senna2.world.town.roads import ReferenceLine, Section

DT = 0.1
LIMITS = (8.3, 11.1, 13.9)  # m/s: 30, 40, 50 km/h
BEYOND_S = 4.0  # agents go on after the clip's end, so that the expert's last plans know their futures
CHANGE_M = 35.0  # m, length of a commanded lane change on the told route
INDICATE_S = 1.5  # s of indicating before a lane change


@dataclass(frozen=True)
class Place:
    """Where a clip happens and where the ego goes there: the arguments of `Roads.draw`, the ego's lane (0 innermost),
    its turn at the junction, and the lane it is told to change to."""

    kind: str
    limit: float
    section: Section = Section()  # noqa: RUF009  (frozen)
    lane: int = 0
    turn: Direction = Direction.STRAIGHT
    goal: int | None = None
    side_section: Section | None = None
    lights: bool = False
    zebra_s: float | None = None
    junction_s: float | None = None

    def roads(self, rng: np.random.Generator, duration_s: float) -> Roads:
        longer = max(duration_s - 14.0, 0.0) * self.limit
        return Roads.draw(
            rng, self.kind, self.limit, section=self.section, side_section=self.side_section, lights=self.lights,
            zebra_s=self.zebra_s, junction_s=self.junction_s, length_m=235.0 + longer,
        )  # fmt: skip


@dataclass
class Draft:
    """Positions along the street are (s, d) on `line`, the street's middle; `path` is the ego's own way."""

    rng: np.random.Generator
    place: Place
    roads: Roads
    look: Look
    v0: float
    t_T: Array
    shape: VehicleShape = field(default_factory=VehicleShape)
    actors: list[Actor] = field(default_factory=list)
    signals: list[Signal] = field(default_factory=list)
    command_s: float = 0.0
    oncoming: bool = True  # whether background traffic may come on the other side
    quiet_m: list[tuple[float, float]] = field(default_factory=list)  # stretches of `line` without parked cars
    busy: tuple[int, ...] = ()  # lanes of the ego's sense that the script needs for itself, beside the ego's

    @property
    def line(self) -> ReferenceLine:
        return self.roads.main.line

    @property
    def section(self) -> Section:
        return self.place.section

    @property
    def d(self) -> float:
        """The middle of the ego's lane."""
        return self.lane_d(self.place.lane)

    @property
    def goal_d(self) -> float:
        assert self.place.goal is not None
        return self.lane_d(self.place.goal)

    @property
    def limit(self) -> float:
        return self.place.limit

    def lane_d(self, k: int, sense: int = 1) -> float:
        return self.section.offset(k, sense)

    @cached_property
    def path(self) -> ReferenceLine:
        if self.place.goal is not None:  # along the lane even where it ends
            return self.line.parallel(self.d)
        return self.roads.path("main", self.place.lane, self.place.turn)

    @cached_property
    def nominal(self) -> Motion:
        """The ego's rear axle on its path if nobody were there."""
        return drive(self.path, self.t_T, 0.0, self.v0, 0.0, steady(self.limit))

    def arrival(self, s: float) -> float:
        """When the ego's rear axle nominally is at `s` of its path."""
        return float(np.interp(s, self.nominal.s_T, self.t_T))

    def vehicle(self, *, large: float = 1.0) -> tuple[AgentClass, int]:
        return draw_vehicle(self.rng, large=large)

    def pick(self, *values: AgentClass) -> tuple[AgentClass, int]:
        """One of these classes, and an individual of it."""
        return values[int(self.rng.integers(len(values)))], int(self.rng.integers(LOOKS))

    def ahead_s(self, gap: float, kind: AgentClass, look: int) -> float:
        """Where the centre of somebody is whose rear is `gap` m before the ego's front at the start."""
        return self.shape.front + gap + size_of(kind, look)[0] / 2

    def add(
        self, kind: AgentClass, look: int, motion: Motion, *, key: bool = False, facing: float = 0.0,
        meets: tuple[float, float] | None = None,
    ) -> Actor:  # fmt: skip
        """Add an actor of the script. meets: where on its own line, and when, its path conflicts with the ego's."""
        trigger = None
        if meets is not None:
            s, when = meets
            d = float(np.interp(when, motion.t_T, motion.d_T))
            x, y, _ = (float(v) for v in motion.line.world(s, d))
            trigger = Trigger(x, y, float(when))
        actor = Actor(kind, look, motion, facing, trigger, key)
        self.actors.append(actor)
        return actor

    def on_lane(self, s0: float, speed: float, d_T: Array | float, wish: Wish | None = None, *,
                ahead: Ahead | None = None, accel: float = 1.4) -> Motion:  # fmt: skip
        """Along the main street with the ego's sense."""
        return drive(self.line, self.t_T, s0, speed, d_T, wish or steady(speed), ahead=ahead, accel=accel)

    def shifting(self, s0: float, speed: float, d_from: float, d_to: float, begin: float, lasts: float,
                 wish: Wish | None = None) -> Motion:  # fmt: skip
        """Along the main street, changing lane from `begin` on; the indicator is on before."""
        d_T = slide(self.t_T, d_from, d_to, begin, lasts)
        motion = self.on_lane(s0, speed, d_T, wish)
        return motion.signalling(side_lamp(d_from, d_to), begin - INDICATE_S, begin + lasts)

    def against(self, s0: float, speed: float, k: int = 0, wish: Wish | None = None) -> Motion:
        """Against the main street's line, on its `k`-th oncoming lane."""
        return drive(self.line, self.t_T, s0, speed, self.lane_d(k, -1), wish or steady(speed), sense=-1)

    def try_add(self, kind: AgentClass, look: int, motion: Motion, *, facing: float = 0.0, margin: float = 1.5) -> bool:
        """Add background traffic unless it would meet somebody or starts on the ego."""
        actor = Actor(kind, look, motion, facing)
        start = self.path.world(self.shape.centre_offset, 0.0)
        near = np.hypot(*(actor.pose_T3[0, :2] - start[:2])) < 6.0 + actor.size[0] / 2
        if near and abs(motion.line.project(start[None, :2])[1][0] - motion.d_T[0]) < 2.4:
            return False
        if any(clash(actor, other, margin) for other in self.actors):
            return False
        self.actors.append(actor)
        return True

    def route(self) -> Array:
        """(P, 2) the way the ego is told to go: its lane's middle, over to the goal lane where that is commanded."""
        s = self.path.s_P[::2]
        d = np.zeros(len(s))
        if self.place.goal is not None:
            d = slide(s, 0.0, self.goal_d - self.d, self.command_s, CHANGE_M)
        return self.path.world(s, d)[:, :2]

    def tracks(self) -> tuple[Track, ...]:
        """Named by number and class; with a "key_" in front if the ego's decision depends on them."""
        named = []
        for i, actor in enumerate(self.actors):
            name = f"{i:02d}_{actor.agent_class.name.lower()}"
            named.append(actor.track(f"key_{name}" if actor.key else name))
        return tuple(named)


@dataclass(frozen=True)
class Family:
    """place: draws where. write: adds the actors that make the scenario. speed: range of the start speed over the
    limit. neighbours: chance of somebody on another lane of the ego's sense. may_return: a commanded change that was
    begun and given up counts as done. longer_s: how much longer it may last if something is still under way."""

    place: Callable[[np.random.Generator], Place]
    write: Callable[[Draft], None]
    speed: tuple[float, float] = (0.8, 1.0)
    duration_s: float = 10.0
    neighbours: float = 0.0
    may_return: bool = False
    longer_s: float = 0.0


def draw_limit(rng: np.random.Generator, *values: float) -> float:
    return float(rng.choice(values or LIMITS))


def draw_kind(rng: np.random.Generator, **weights: float) -> str:
    """A kind of road by relative weights."""
    p = np.array(list(weights.values()))
    return str(rng.choice(list(weights), p=p / p.sum()))


def draw_section(rng: np.random.Generator, lanes: tuple[int, ...] = (1, 2, 3), cycle: float = 0.25) -> Section:
    """Lanes of the ego's sense from `lanes`, as many or one fewer of the other, a cycle lane by chance."""
    forward = int(rng.choice(lanes))
    oncoming = max(1, forward - int(rng.random() < 0.25))
    return Section(forward, oncoming, bool(rng.random() < cycle))
