"""Between others: somebody cuts in, and the ego cuts into dense traffic."""

from __future__ import annotations

import numpy as np

from senna2.types import AgentClass
from senna2.world.town.actors import size_of
from senna2.world.town.families.draft import Draft, Place, draw_kind, draw_limit, draw_section


def cut_in_place(rng: np.random.Generator) -> Place:
    section = draw_section(rng, (2, 3))
    kind = draw_kind(rng, straight=0.65, curved=0.35)
    return Place(kind, draw_limit(rng), section, lane=int(rng.integers(section.forward)))


def cut_in(c: Draft) -> None:
    """A neighbour indicates, moves over close in front of the ego and slows down."""
    rng = c.rng
    beside = [k for k in (c.place.lane - 1, c.place.lane + 1) if 0 <= k < c.section.forward]
    other = int(rng.choice(beside))
    c.busy = (other,)
    kind, look = c.vehicle(large=0.8)
    begin, lasts = rng.uniform(2.0, 3.8), rng.uniform(1.8, 3.0)
    gap, before = rng.uniform(4.0, 10.0), c.v0 * rng.uniform(0.95, 1.12)
    slower = rng.uniform(3.0, 5.5) if rng.random() < 0.85 else rng.uniform(-1.0, 1.0)
    after, brake = max(c.v0 - slower, 1.0), rng.uniform(1.5, 3.0)
    s0 = c.v0 * begin + c.ahead_s(gap, kind, look) - before * begin

    def wish(t: float) -> tuple[float, float]:
        return (before, 2.0) if t < begin + 0.5 else (after, brake)

    motion = c.shifting(s0, before, c.lane_d(other), c.d, begin, lasts, wish)
    c.add(kind, look, motion, key=True, meets=(float(np.interp(begin, c.t_T, motion.s_T)), begin))


def ego_cut_in_place(rng: np.random.Generator) -> Place:
    section = draw_section(rng, (2, 3))
    lane = int(rng.integers(section.forward))
    goal = int(rng.choice([k for k in (lane - 1, lane + 1) if 0 <= k < section.forward]))
    kind = draw_kind(rng, straight=0.7, curved=0.3)
    return Place(kind, draw_limit(rng, 11.1, 13.9), section, lane=lane, goal=goal)


def ego_cut_in(c: Draft) -> None:
    """A column moves on the goal lane, too close together to change blindly; one gap in it comes past."""
    rng = c.rng
    assert c.place.goal is not None
    c.busy = (c.place.goal,)
    c.command_s = rng.uniform(4.0, 10.0)
    kind, look = c.vehicle()
    # Somebody ahead at the ego's own speed: it has no reason to go faster.
    c.add(kind, look, c.on_lane(c.ahead_s(6.0 + 1.7 * c.v0, kind, look), c.v0, c.d))
    faster = rng.random() < 0.6
    pace = c.v0 + (rng.uniform(1.8, 2.8) if faster else -rng.uniform(1.8, 2.6))
    meet = (c.command_s + 15.0) / c.v0  # a blind changer is half over
    kind, look = c.vehicle(large=0.6)
    length = size_of(kind, look)[0]
    s0 = c.v0 * meet + c.shape.centre_offset + rng.uniform(-2.5, 2.5) - pace * meet
    motion = c.on_lane(s0, pace, c.goal_d)
    c.add(kind, look, motion, key=True, meets=(float(np.interp(meet, c.t_T, motion.s_T)), meet))
    wide = rng.uniform(25.0, 33.0)
    way = -1.0 if faster else 1.0  # the gap lies behind who passes, and in front of who is passed
    for side, first in ((way, wide), (-way, rng.uniform(5.0, 9.0))):
        at, half, gap = s0, length / 2, first
        for _ in range(int(rng.integers(2, 4))):
            kind, look = c.vehicle(large=0.6) if rng.random() < 0.9 else c.pick(AgentClass.MOTORCYCLE)
            its = size_of(kind, look)[0]
            at += side * (half + gap + its / 2)
            c.add(kind, look, c.on_lane(at, pace, c.goal_d))
            half, gap = its / 2, rng.uniform(5.0, 9.0)
