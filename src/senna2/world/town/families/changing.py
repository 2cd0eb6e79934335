"""Commanded lane changes: past a slow leader, one that has to be given up, where the lane ends; past a parked car."""

from __future__ import annotations

import math

import numpy as np

from senna2.types import AgentClass
from senna2.world.town.actors import size_of, stand
from senna2.world.town.families.draft import INDICATE_S, Draft, Place, draw_kind, draw_limit, draw_section
from senna2.world.town.roads import Section

ROUTE_SHOWS_M = 4.0  # m after the command until the told route has visibly left the lane


def lane_change_place(rng: np.random.Generator) -> Place:
    section = draw_section(rng, (2, 3))
    lane = int(rng.integers(section.forward))
    goal = int(rng.choice([k for k in (lane - 1, lane + 1) if 0 <= k < section.forward]))
    return Place(draw_kind(rng, straight=0.7, curved=0.3), draw_limit(rng), section, lane=lane, goal=goal)


def lane_change(c: Draft) -> None:
    """A slow leader, the command to change to the left or right lane, and mostly somebody there to wait for."""
    rng = c.rng
    assert c.place.goal is not None
    c.busy = (c.place.goal,)
    c.command_s = c.v0 * rng.uniform(1.5, 2.2)
    kind, look = c.vehicle(large=2.0)
    speed = min(rng.uniform(2.5, 4.5), 0.6 * c.v0)
    # Room to brake comfortably behind it: whether the other lane is free shows only later.
    closing = c.v0 - speed
    gap = 4.0 + 1.2 * c.v0 + c.v0 * closing / 3.6 + closing * rng.uniform(1.6, 2.6)
    leader = c.on_lane(c.ahead_s(gap, kind, look), speed, c.d)
    somebody = rng.random() < 0.8
    c.add(kind, look, leader, key=not somebody)
    if not somebody:
        return
    kind, look = c.vehicle() if rng.random() < 0.85 else c.pick(AgentClass.MOTORCYCLE)
    pace = c.v0 * rng.uniform(1.0, 1.25)
    meet = (c.command_s + 16.0) / c.v0  # when a blind changer is half over
    back = rng.uniform(-4.0, 2.0)
    s0 = c.shape.centre_offset + back + (c.v0 - pace) * meet
    motion = c.on_lane(s0, pace, c.goal_d)
    c.add(kind, look, motion, key=True, meets=(float(np.interp(meet, c.t_T, motion.s_T)), meet))
    if rng.random() < 0.4:  # and another one behind it, further back
        kind, look = c.vehicle()
        c.try_add(kind, look, c.on_lane(s0 - rng.uniform(38, 55), pace, c.goal_d))


def aborted_place(rng: np.random.Generator) -> Place:
    if rng.random() < 0.6:  # three lanes: the goal is the middle one
        section = Section(3, int(rng.integers(2, 4)), bool(rng.random() < 0.2))
        lane = int(rng.choice([0, 2]))
        goal = 1
    else:
        section = Section(2, int(rng.integers(1, 3)), bool(rng.random() < 0.2))
        lane = int(rng.integers(2))
        goal = 1 - lane
    kind = draw_kind(rng, straight=0.8, curved=0.2)
    return Place(kind, draw_limit(rng, 11.1, 13.9), section, lane=lane, goal=goal)


def aborted_lane_change(c: Draft) -> None:
    """The goal lane looks free; then somebody from the third lane moves into it, or comes up fast from behind."""
    rng = c.rng
    assert c.place.goal is not None
    c.busy = tuple(range(c.section.forward))
    c.command_s = rng.uniform(1.6, 2.4) * c.v0
    kind, look = c.vehicle(large=1.5)
    speed = c.v0 * rng.uniform(0.7, 0.85)
    c.add(kind, look, c.on_lane(c.ahead_s(10.0 + 1.8 * c.v0, kind, look), speed, c.d))
    begins = (c.command_s + ROUTE_SHOWS_M) / c.v0  # the ego's change, if the goal lane looks free
    third = 2 - c.place.lane
    if c.section.forward == 3:
        kind, look = c.vehicle(large=0.6)
        moves = begins + rng.uniform(0.9, 1.3) + INDICATE_S  # by when the ego is on its way, its indicator comes on
        pace = c.v0 * rng.uniform(0.97, 1.04)
        meet = moves + 1.2
        s0 = c.shape.centre_offset + rng.uniform(-1.0, 3.0) + (c.v0 - pace) * meet
        motion = c.shifting(s0, pace, c.lane_d(third), c.goal_d, moves, rng.uniform(2.2, 2.8))
    else:
        kind, look = c.vehicle(large=0.3)
        fast = c.limit * rng.uniform(1.2, 1.35)
        meet = begins + rng.uniform(2.7, 3.3)
        slow_until = begins - rng.uniform(0.1, 0.4)

        def wish(t: float) -> tuple[float, float]:
            return (c.v0, 2.0) if t < slow_until else (fast, 2.0)

        trial = c.on_lane(0.0, c.v0, c.goal_d, wish, accel=4.0)
        s0 = c.v0 * meet - 4.0 - float(np.interp(meet, c.t_T, trial.s_T))
        motion = c.on_lane(s0, c.v0, c.goal_d, wish, accel=4.0)
    c.add(kind, look, motion, key=True, meets=(float(np.interp(meet, c.t_T, motion.s_T)), meet))


def merge_place(rng: np.random.Generator) -> Place:
    section = draw_section(rng, (2, 3), cycle=0.0)
    lane = section.forward - 1
    return Place("merge", draw_limit(rng, 8.3, 11.1), section, lane=lane, goal=lane - 1)


def merge(c: Draft) -> None:
    """The ego's lane ends; on the lane beside it somebody is where a blind changer would go."""
    rng = c.rng
    assert c.place.goal is not None
    assert c.roads.main.drop is not None
    c.busy = (c.place.goal,)
    c.command_s = max(c.roads.main.drop.s_from - rng.uniform(46.0, 54.0), 1.6 * c.v0)
    meet = (c.command_s + 17.0) / c.v0
    pace = c.v0 * rng.uniform(1.0, 1.15)
    kind, look = c.vehicle()
    s0 = c.shape.centre_offset + rng.uniform(-3.0, 3.0) + (c.v0 - pace) * meet
    motion = c.on_lane(s0, pace, c.goal_d)
    c.add(kind, look, motion, key=True, meets=(float(np.interp(meet, c.t_T, motion.s_T)), meet))
    kind, look = c.vehicle()
    if rng.random() < 0.5:
        c.add(kind, look, c.on_lane(s0 + rng.uniform(16, 30), pace, c.goal_d))
    if rng.random() < 0.5:
        kind, look = c.vehicle()
        c.add(kind, look, c.on_lane(s0 - rng.uniform(42, 55), pace * 0.97, c.goal_d))


def parked_place(rng: np.random.Generator) -> Place:
    kind = draw_kind(rng, straight=0.7, curved=0.3)
    return Place(kind, draw_limit(rng, 8.3, 11.1), Section(1, 1, False), lane=0)


def parked_car_bypass(c: Draft) -> None:
    """A car stands partly in the only lane; oncoming traffic has the other half."""
    rng = c.rng
    kind, look = c.pick(AgentClass.CAR)
    _, w, _ = size_of(kind, look)
    at = c.v0 * rng.uniform(8.4, 9.0) + 6.0
    d = -(rng.uniform(2.54, 2.6) + w / 2)  # two wheels on the pavement; it leaves too little for a lorry and the ego
    c.quiet_m.append((at - 30.0, at + 30.0))
    c.add(kind, look, stand(c.line, c.t_T, at, d), key=True)
    c.oncoming = False
    kind, look = c.pick(AgentClass.TRUCK, AgentClass.BUS)
    pace = c.limit * rng.uniform(0.7, 0.9)
    when = (at - 4.0) / c.v0 - rng.uniform(2.9, 3.5)
    s0 = at + pace * when
    motion = c.against(s0, pace)
    c.add(kind, look, motion, key=True, facing=math.pi, meets=(at, when))
    if rng.random() < 0.4:
        kind, look = c.vehicle()
        c.try_add(kind, look, c.against(s0 + rng.uniform(14, 22), pace), facing=math.pi)
