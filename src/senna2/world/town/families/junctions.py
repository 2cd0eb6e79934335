"""At junctions: turning right across a cycle lane, oncoming left turns, red lights."""

from __future__ import annotations

import math

import numpy as np

from senna2.types import AgentClass, Direction
from senna2.world.scene import INDICATOR_LEFT, INDICATOR_RIGHT
from senna2.world.town.actors import LOOKS, Ahead, drive, size_of, steady
from senna2.world.town.families.draft import Draft, Place, draw_kind, draw_limit, draw_section
from senna2.world.town.families.signals import AMBER_S, CLEAR_S, signals
from senna2.world.town.network import crossing_point
from senna2.world.town.roads import ReferenceLine, Section


def right_turn_place(rng: np.random.Generator) -> Place:
    section = Section(int(rng.integers(1, 4)), int(rng.integers(1, 3)), True)
    kind = draw_kind(rng, cross=0.65, tee_right=0.35)
    side = Section(int(rng.integers(1, 3)), int(rng.integers(1, 3)), bool(rng.random() < 0.5))
    return Place(kind, draw_limit(rng, 8.3, 11.1), section, lane=section.forward - 1, turn=Direction.TURN_RIGHT,
                 side_section=side, lights=bool(rng.random() < 0.5), junction_s=float(rng.uniform(63, 70)))  # fmt: skip


def right_turn_cyclists(c: Draft) -> None:
    """Cyclists go straight on, on the cycle lane to the right of the ego that turns right."""
    rng = c.rng
    junction = c.roads.junction
    assert junction is not None
    if c.place.lights:
        c.signals = signals(c.roads, -1.0, 99.0, float(c.t_T[-1]))
    lane = c.roads.cycle_path("main")
    ours, theirs = crossing_point(c.path, lane)
    when = c.arrival(ours - c.shape.front + rng.uniform(1.0, 4.0))
    pace, apart = rng.uniform(4.0, 5.5), rng.uniform(3.5, 7.0)
    count = int(rng.choice([1, 2], p=[0.6, 0.4]))
    for i in range(count):
        motion = drive(lane, c.t_T, theirs - pace * when - i * apart, pace, rng.uniform(-0.2, 0.2), steady(pace))
        passes = when + i * apart / pace
        c.add(AgentClass.CYCLIST, int(rng.integers(LOOKS)), motion, key=True, meets=(theirs, passes))
    if rng.random() < 0.4:
        _one_before(c, ours, free_s=when + (count - 1) * apart / pace + rng.uniform(0.5, 1.2))
    elif "beyond" in junction.arms and rng.random() < 0.85:  # straight on a queue stands
        kind, look = c.vehicle(large=1.5)
        tail = junction.exit_s + rng.uniform(1.0, 5.0) + size_of(kind, look)[0] / 2
        c.try_add(kind, look, c.on_lane(tail, 0.0, c.d))


def _one_before(c: Draft, cycle_lane_s: float, free_s: float) -> None:
    """Somebody before the ego turns right as well, and lets the cyclists pass until `free_s`."""
    rng = c.rng
    kind, look = c.pick(AgentClass.CAR, AgentClass.CAR, AgentClass.VAN)
    s0 = c.ahead_s(4.0 + c.v0 * rng.uniform(1.35, 1.6), kind, look)
    rolling = drive(c.path, c.t_T, s0, c.v0, 0.0, steady(c.limit))
    left_T = cycle_lane_s - 1.6 - size_of(kind, look)[0] / 2 - rolling.s_T  # until its front is before the cycle lane
    brakes = float(c.t_T[np.argmax(left_T < rolling.v_T**2 / (2 * 2.2) + 0.3 * rolling.v_T)])

    def wish(t: float) -> tuple[float, float]:
        return (0.0, 2.2) if brakes <= t < free_s else (c.limit, 2.0)

    motion = drive(c.path, c.t_T, s0, c.v0, 0.0, wish)
    c.add(kind, look, motion.signalling(INDICATOR_RIGHT, 0.0, float(c.t_T[-1])), key=True)


def oncoming_left_place(rng: np.random.Generator) -> Place:
    ego_turns = rng.random() < 0.4
    section = draw_section(rng, (1, 2), cycle=0.3)
    kind = "cross" if ego_turns else draw_kind(rng, cross=0.6, tee_right=0.4)
    turn = Direction.TURN_LEFT if ego_turns else Direction.STRAIGHT
    lane = 0 if ego_turns else int(rng.integers(section.forward))
    return Place(kind, draw_limit(rng, 8.3, 11.1), section, lane=lane, turn=turn, lights=bool(rng.random() < 0.4),
                 junction_s=float(rng.uniform(59, 66)))  # fmt: skip


def oncoming_left_turn(c: Draft) -> None:
    """An oncoming car turns left across the ego's way without waiting; or the ego turns left, and has to wait."""
    rng = c.rng
    if c.place.lights:
        c.signals = signals(c.roads, -1.0, 99.0, float(c.t_T[-1]))
    kind, look = c.pick(AgentClass.CAR, AgentClass.CAR, AgentClass.VAN, AgentClass.TRUCK)
    if c.place.turn == Direction.TURN_LEFT:
        k = int(rng.integers(c.section.oncoming))
        theirs_line = c.roads.path("beyond", k, Direction.STRAIGHT)
        pace = c.limit * rng.uniform(0.6, 0.75)
        wish = steady(pace)
        lamp = 0
    else:
        theirs_line = c.roads.path("beyond", 0, Direction.TURN_LEFT)
        pace = c.limit * rng.uniform(0.5, 0.65)
        wish = steady(pace)
        lamp = INDICATOR_LEFT
    ours, theirs = crossing_point(c.path, theirs_line)
    when = c.arrival(ours - 1.5)
    trial = drive(theirs_line, c.t_T, theirs - 60.0, pace, 0.0, wish)
    # As it slows for its turn, the way it needs until then is that of a trial, set back.
    reaches = float(np.interp(theirs, trial.s_T, c.t_T))
    s0 = theirs - 60.0 + pace * (reaches - when)
    motion = drive(theirs_line, c.t_T, s0, pace, 0.0, wish)
    if lamp:
        motion = motion.signalling(lamp, 0.0, when + 3.0)
    c.add(kind, look, motion, key=True, meets=(theirs, when))
    if c.place.turn == Direction.TURN_LEFT and rng.random() < 0.5:
        other, its = c.vehicle()
        c.try_add(other, its, drive(theirs_line, c.t_T, s0 - rng.uniform(16, 24), pace, 0.0, wish))


def red_light_place(rng: np.random.Generator) -> Place:
    section = draw_section(rng)
    lane, junction_s = int(rng.integers(section.forward)), float(rng.uniform(48, 55))
    return Place("cross", draw_limit(rng), section, lane=lane, lights=True, junction_s=junction_s)


def red_light(c: Draft) -> None:
    """The light is red as the ego comes; across, traffic moves. Sometimes it turns green in time to drive on."""
    rng = c.rng
    last = float(c.t_T[-1])
    turns_green = rng.random() < 0.55
    c.signals = signals(c.roads, rng.uniform(7.0, 9.0) if turns_green else None, 99.0, last)
    side, junction = c.roads.side, c.roads.junction
    assert side is not None
    assert junction is not None
    until = float(c.signals[0].t_T[-1]) - CLEAR_S - AMBER_S if turns_green else last
    for arm, sense in (("right", 1), ("left", -1)):
        for k in range(side.section.lanes(sense)):
            _across(c, c.roads.path(arm, k, Direction.STRAIGHT), until)
    if rng.random() < 0.4:  # somebody waits at the line already
        kind, look = c.vehicle()
        stop = junction.stop_s - 1.5 - size_of(kind, look)[0] / 2
        green = float(c.signals[0].t_T[-1]) if turns_green else math.inf

        def wish(t: float) -> tuple[float, float]:
            return (0.0, 4.0) if t < green + 0.8 else (c.limit, 2.0)

        c.add(kind, look, c.on_lane(stop, 0.0, c.d, wish))


def _across(c: Draft, line: ReferenceLine, until: float) -> None:
    """A few vehicles one behind the other, as many as pass the stop line before `until`, s."""
    rng = c.rng
    pace, at, before = c.limit * rng.uniform(0.7, 0.9), rng.uniform(-10.0, 4.0), None
    for _ in range(int(rng.integers(1, 4))):
        kind, look = c.vehicle()
        half = size_of(kind, look)[0] / 2
        motion = drive(line, c.t_T, at - half, pace, 0.0, steady(pace), ahead=before)
        if float(np.interp(6.0, motion.s_T, c.t_T)) < until:
            c.try_add(kind, look, motion, margin=0.8)
        before = Ahead(motion, half + 3.0)
        at -= 2 * half + rng.uniform(9.0, 22.0)
