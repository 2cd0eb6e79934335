"""Somebody in front: following and stop, hard braking, a queue that stops and goes."""

from __future__ import annotations

import math

import numpy as np

from senna2.world.town.actors import Ahead, braking, size_of
from senna2.world.town.families.draft import Draft, Place, draw_kind, draw_limit, draw_section


def _anywhere(rng: np.random.Generator) -> Place:
    kind = draw_kind(
        rng, straight=0.36, curved=0.28, bend_right=0.08, bend_left=0.08, cross=0.12, tee_right=0.04, tee_left=0.04
    )
    section = draw_section(rng)
    return Place(kind, draw_limit(rng), section, lane=int(rng.integers(section.forward)))


def following_place(rng: np.random.Generator) -> Place:
    return _anywhere(rng)


def following_and_stop(c: Draft) -> None:
    """A leader brakes, mostly to a stop; sometimes it drives on."""
    rng = c.rng
    kind, look = c.vehicle(large=1.5)
    speed = c.v0 * rng.uniform(0.97, 1.02)
    gap = unhurried_gap(c) * rng.uniform(1.0, 1.35)
    begin, brake = rng.uniform(1.8, 3.2), rng.uniform(2.2, 4.5)
    drawn = rng.random()  # to a stop, nearly, or only a little slower
    low = 0.0 if drawn < 0.76 else rng.uniform(1.5, 3.0) if drawn < 0.88 else 0.75 * speed
    resume = begin + speed / brake + rng.uniform(1.5, 3.5) if rng.random() < 0.3 else math.inf
    c.add(
        kind,
        look,
        c.on_lane(c.ahead_s(gap, kind, look), speed, c.d, braking(speed, begin, low, brake, resume)),
        key=True,
    )


def unhurried_gap(c: Draft) -> float:
    """The shortest gap, m, behind which a careful driver at the leader's speed does nothing yet: so that what it does
    later can be laid to what the leader does."""
    return 1.1 * (3.5 + 1.2 * c.v0)


def hard_braking_place(rng: np.random.Generator) -> Place:
    kind = draw_kind(rng, straight=0.5, curved=0.4, cross=0.1)
    section = draw_section(rng)
    return Place(kind, draw_limit(rng, 11.1, 13.9), section, lane=int(rng.integers(section.forward)))


def hard_braking(c: Draft) -> None:
    """The leader, ahead at the ego's speed, brakes as hard as it can."""
    rng = c.rng
    kind, look = c.vehicle(large=0.8)
    gap = unhurried_gap(c) * rng.uniform(1.0, 1.15)
    begin, brake = rng.uniform(1.8, 3.6), rng.uniform(5.0, 8.0)
    drawn = rng.random()  # to a stop, nearly, or only a stab at the brake
    low = 0.0 if drawn < 0.72 else rng.uniform(1.0, 3.0) if drawn < 0.88 else 0.7 * c.v0
    resume = begin + (c.v0 - low) / brake + rng.uniform(0.5, 3.0) if rng.random() < 0.3 or drawn > 0.88 else math.inf
    wish = braking(c.v0, begin, low, brake, resume)
    c.add(kind, look, c.on_lane(c.ahead_s(gap, kind, look), c.v0, c.d, wish), key=True)


def dense_place(rng: np.random.Generator) -> Place:
    section = draw_section(rng)
    kind = draw_kind(rng, straight=0.5, curved=0.3, cross=0.2)
    return Place(kind, draw_limit(rng), section, lane=int(rng.integers(section.forward)))


def dense_following(c: Draft) -> None:
    """The tail of a queue: it stops, goes and stops again; beside it another one."""
    rng = c.rng
    pace, period = max(c.v0, 2.0), rng.uniform(8.0, 11.0)
    phase = rng.uniform(0, period)
    for k in range(c.section.forward):
        own = k == c.place.lane
        if not own and abs(k - c.place.lane) > 1:
            continue
        shift = phase if own else rng.uniform(0, period)

        def wish(t: float, shift: float = shift) -> tuple[float, float]:
            return (0.0, 2.2) if (t + shift) % period > 0.45 * period else (pace * 1.15, 2.0)

        count = int(rng.integers(3, 6))
        drawn = [c.vehicle(large=1.3) for _ in range(count)]
        lengths = [size_of(*v)[0] for v in drawn]
        # From the tail forward: bumper gaps of slow traffic.
        tail = c.ahead_s(rng.uniform(3.5, 5.0) + 0.9 * c.v0, *drawn[0]) if own else rng.uniform(-4, 12)
        places = [tail]
        for i in range(1, count):
            places.append(places[-1] + (lengths[i - 1] + lengths[i]) / 2 + 2.8 + 0.9 * c.v0)
        ahead: Ahead | None = None
        for i in reversed(range(count)):
            motion = c.on_lane(places[i], c.v0, c.lane_d(k), wish if ahead is None else None, ahead=ahead)
            if ahead is not None:
                motion = c.on_lane(places[i], c.v0, c.lane_d(k), lambda t: (c.limit, 2.5), ahead=ahead)
            if own:
                c.add(*drawn[i], motion, key=i == 0)
            else:
                c.try_add(*drawn[i], motion, margin=0.5)
            half_next = lengths[i - 1] / 2 if i else 0.0
            ahead = Ahead(motion, lengths[i] / 2 + half_next)
