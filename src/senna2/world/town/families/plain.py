"""Nothing but the road: curves entered at the limit, and empty streets with turns and starts from rest."""

from __future__ import annotations

import numpy as np

from senna2.types import Direction
from senna2.world.town.actors import CURVE_ACCEL
from senna2.world.town.families.draft import Draft, Place, draw_kind, draw_limit, draw_section
from senna2.world.town.families.signals import signals

APPROACH_BRAKE = 1.3  # m/s², what a start before a bend leaves room for


def curve_place(rng: np.random.Generator) -> Place:
    section = draw_section(rng)
    kind = draw_kind(rng, bend_right=0.32, bend_left=0.40, curved=0.28)
    return Place(kind, draw_limit(rng), section, lane=int(rng.integers(section.forward)))


def curve(c: Draft) -> None:
    """A bend or a curve entered as fast as it allows, sometimes behind somebody."""
    rng = c.rng
    c.v0 = min(c.v0, bend_speed(c))
    if rng.random() < 0.35:
        kind, look = c.vehicle()
        gap = 6.0 + c.v0 * rng.uniform(1.4, 2.4)
        c.add(kind, look, c.on_lane(c.ahead_s(gap, kind, look), c.v0, c.d))


def bend_speed(c: Draft) -> float:
    """The speed from which braking before the first tight curve is comfortable, m/s."""
    ahead = (c.path.s_P > 0) & (c.path.s_P < 80)
    s, kappa = c.path.s_P[ahead], np.maximum(np.abs(c.path.kappa_P[ahead]), 1e-4)
    return float(np.sqrt(CURVE_ACCEL / kappa + 2 * APPROACH_BRAKE * np.maximum(s - 6.0, 0.0)).min())


def empty_place(rng: np.random.Generator) -> Place:
    kind = draw_kind(
        rng, straight=0.1, curved=0.16, bend_right=0.1, bend_left=0.14,
        cross=0.22, tee_right=0.06, tee_left=0.11, tee_end=0.11,
    )  # fmt: skip
    section = draw_section(rng)
    turns = {
        "cross": (Direction.STRAIGHT, Direction.TURN_LEFT, Direction.TURN_LEFT, Direction.TURN_RIGHT),
        "tee_right": (Direction.STRAIGHT, Direction.TURN_RIGHT),
        "tee_left": (Direction.STRAIGHT, Direction.TURN_LEFT, Direction.TURN_LEFT),
        "tee_end": (Direction.TURN_LEFT, Direction.TURN_LEFT, Direction.TURN_RIGHT),
    }.get(kind, (Direction.STRAIGHT,))
    turn = turns[int(rng.integers(len(turns)))]
    lane = int(rng.integers(section.forward))
    if turn != Direction.STRAIGHT:
        lane = 0 if turn == Direction.TURN_LEFT else section.forward - 1
    lights = kind in ("cross", "tee_left") and bool(rng.random() < 0.5)
    return Place(kind, draw_limit(rng), section, lane=lane, turn=turn, lights=lights)


def empty_road(c: Draft) -> None:
    """Nobody ahead on the ego's way: lane keeping, curves, turns, speed limits, starting from rest; a light perhaps."""
    if c.place.lights:
        red_first = c.rng.random() < 0.5
        green_from = c.rng.uniform(6.5, 8.5) if red_first else -1.0
        c.signals = signals(c.roads, green_from, 99.0, float(c.t_T[-1]))
    elif c.rng.random() < 0.35:
        c.v0 = 0.0 if c.rng.random() < 0.6 else c.v0 * 0.4
    c.v0 = min(c.v0, bend_speed(c))
