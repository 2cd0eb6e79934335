"""Somebody crosses the street: pedestrians, one of them from behind a bus, and cyclists."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from senna2.types import AgentClass
from senna2.world.town.actors import LOOKS, Motion, cross, size_of, stand
from senna2.world.town.families.draft import Draft, Place, draw_kind, draw_limit, draw_section
from senna2.world.town.roads import Section

CLOTHES = (0, 2, 3, 4, 5, 7, 8, 9, 11, 12, 15)  # individuals that can be told from a street at 40 m [ours]
BEFORE_KERB = 0.9  # m beyond the kerb where somebody waits who wants to cross


def pedestrian_place(rng: np.random.Generator) -> Place:
    section = draw_section(rng, (1, 2, 3))
    zebra = float(rng.uniform(36.0, 39.0)) if rng.random() < 0.55 else None
    kind = draw_kind(rng, straight=0.6, curved=0.4)
    return Place(kind, 8.3, section, lane=int(rng.integers(section.forward)), zebra_s=zebra)


def crossing_pedestrian(c: Draft) -> None:
    """A pedestrian, on a zebra crossing or not, walks so as to be in front of the ego at its nominal speed."""
    rng = c.rng
    speed = rng.uniform(1.3, 2.0)
    # Mostly in front of who just goes on; sometimes it is across just before. Time enough to see it first: it is on
    # the ego's way for some 2.4 m before.
    early = rng.uniform(1.6, 2.4) if c.place.zebra_s is None and rng.random() < 0.2 else 0.0
    time_to = max(rng.uniform(5.8, 6.1), 4.7 + 2.4 / speed) + early
    if c.place.zebra_s is not None:
        s = c.place.zebra_s + rng.uniform(-0.8, 0.8)
        c.v0 = min(max((s - 2.0) / time_to, 0.6 * c.limit), 0.95 * c.limit)
    else:
        s = c.v0 * time_to + 2.0
    when = (s - rng.uniform(1.0, 3.0)) / c.v0 - early
    crossing(c, AgentClass.PEDESTRIAN, speed, s, when, far=0.4)
    if rng.random() < 0.3:  # somebody walks along with them
        first = c.actors[0].motion
        d_T = first.d_T - math.copysign(rng.uniform(0.7, 1.2), first.d_T[-1] - first.d_T[0])
        beside = dataclasses.replace(first, s_T=first.s_T + rng.uniform(0.7, 1.0), d_T=d_T)
        c.add(AgentClass.PEDESTRIAN, int(rng.choice(CLOTHES)), beside, key=True, facing=c.actors[0].facing)


def cyclist_place(rng: np.random.Generator) -> Place:
    section = draw_section(rng, (1, 2, 3))
    kind = draw_kind(rng, straight=0.6, curved=0.4)
    return Place(kind, draw_limit(rng, 8.3, 11.1), section, lane=int(rng.integers(section.forward)))


def crossing_cyclist(c: Draft) -> None:
    """A cyclist crosses the street so as to be in front of the ego at its nominal speed."""
    rng = c.rng
    c.v0 = min(c.v0, 8.0)
    s = c.v0 * rng.uniform(6.2, 6.6) + 2.0
    crossing(c, AgentClass.CYCLIST, rng.uniform(2.2, 3.8), s, (s - 2.0) / c.v0, far=0.5)


def crossing(c: Draft, kind: AgentClass, speed: float, s: float, when: float, far: float) -> None:
    """Across the main street at `s` so as to be on the ego's lane at `when`; from the left with chance `far`."""
    rng = c.rng
    c.quiet_m.append((s - 34.0, s + 8.0))  # who waits to cross must be seen
    c.look = dataclasses.replace(c.look, clear=(*c.look.clear, (s - 22.0, s + 2.0)))
    side = 1.0 if rng.random() < far else -1.0
    c.oncoming = side < 0
    edge = {1.0: c.section.kerb_left + BEFORE_KERB, -1.0: -c.section.kerb_right - BEFORE_KERB}
    motion = cross(c.line, c.t_T, s, edge[side], edge[-side], speed, when, c.d)
    look = int(rng.choice(CLOTHES if kind == AgentClass.PEDESTRIAN else LOOKS))
    c.add(kind, look, motion, key=True, facing=-side * math.pi / 2, meets=(s, when))


def behind_bus_place(rng: np.random.Generator) -> Place:
    section = Section(2, int(rng.integers(1, 3)), False)
    return Place(draw_kind(rng, straight=0.7, curved=0.3), 8.3, section, lane=0)


def pedestrian_behind_bus(c: Draft) -> None:
    """A bus stands at the kerb; from before it a pedestrian steps out, looks, and goes on across."""
    rng = c.rng
    bus, look = c.pick(AgentClass.BUS)
    l, w, _ = size_of(bus, look)
    s = c.v0 * rng.uniform(6.3, 6.8) + 2.0
    bus_d = -c.section.kerb_right + w / 2 + 0.25
    c.quiet_m.append((s - l - 12.0, s + 12.0))
    c.busy = (1,)
    c.add(bus, look, stand(c.line, c.t_T, s - l / 2 - rng.uniform(0.7, 1.3), bus_d))
    speed, when = rng.uniform(1.3, 1.9), (s - 2.0) / c.v0
    steps_out = rng.uniform(-0.3, 0.0)  # s, when it appears beside the bus
    hidden, shown = -c.section.kerb_right - BEFORE_KERB, bus_d + w / 2 + 0.6
    onwards = when - (c.d - shown) / speed
    d_T = np.interp(
        c.t_T,
        [steps_out - 1.5, steps_out, steps_out + 0.5, onwards, when, when + (c.section.kerb_left + 1 - c.d) / speed],
        [hidden, shown - 0.5, shown, shown, c.d, c.section.kerb_left + 1],
    )
    motion = Motion(c.line, c.t_T, np.full(len(c.t_T), s), d_T, np.zeros(len(c.t_T), np.int8))
    c.add(AgentClass.PEDESTRIAN, int(rng.choice(CLOTHES)), motion, key=True, facing=math.pi / 2, meets=(s, when))
