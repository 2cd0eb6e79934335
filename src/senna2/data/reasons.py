"""Why the expert decided as it did, as far as the truth of a sample shows it."""

from __future__ import annotations

from math import isfinite
from typing import Protocol

from senna2.instructions import wish_of
from senna2.types import Decision, Direction, Speed

BRAKE = 1.5  # m/s², how a calm driver brakes for a light or a leader
MARGIN_M = 10.0
GAP_S = 2.5  # a leader farther away in time is no reason
NEAR_LIMIT = 1.5  # m/s
FASTER = 0.5  # m/s

CLAUSES = (
    "Because the light ahead is red or amber, {0:.0f} m away",
    "Because a {1} {0:.0f} m ahead comes into the ego's path",
    "Because the {1} {0:.0f} m ahead stands",
    "Because the {1} {0:.0f} m ahead is slower",
    "Because the {1} ahead is only {0:.0f} m away",
    "Because the route turns",
    "Because the ego is faster than the limit",
    "Because the {1} {0:.0f} m ahead pulls away",
    "Because the path is free and the ego is under the limit",
    "Because the {1} {0:.0f} m ahead keeps the same speed",
    "Because the path is free and the ego is near the limit",
    "Because the passenger asked to {1}",
)
LIGHT, ENTERS, STANDS, SLOWER, NEAR, TURNS, TOO_FAST, LEAVES, FREE, SAME, AT_LIMIT, ASKED = CLAUSES
SIDES = {
    Direction.TURN_LEFT: "; the route turns left",
    Direction.TURN_RIGHT: "; the route turns right",
    Direction.CHANGE_LEFT: "; the route changes to the left lane",
    Direction.CHANGE_RIGHT: "; the route changes to the right lane",
}


class Seen(Protocol):
    """What a reason needs of an agent."""

    @property
    def name(self) -> str: ...

    @property
    def distance_m(self) -> float: ...

    @property
    def speed(self) -> float: ...


def reason(
    decision: Decision, *, v: float, limit: float, navigation: Direction, red_m: float | None, lead: Seen | None,
    crossing: Seen | None, said: str = "",
) -> str | None:  # fmt: skip
    """A sentence, or None where nothing that is known explains the decision.

    v, limit: m/s (NaN: unknown). red_m: distance to the stop line of a red or amber light. crossing: a pedestrian,
    cyclist or motorcycle that comes into the ego's path. A change of direction is explained by the route alone.
    said: the passenger's words; they explain what the road does not.
    """
    clause = {
        Speed.STOP: _slow, Speed.DECELERATE: _slow, Speed.ACCELERATE: _fast, Speed.KEEP: _keep,
    }[decision.speed](decision, v, limit, red_m, lead, crossing)  # fmt: skip
    if clause is None and decision.direction == Direction.STRAIGHT:
        clause = _asked(decision.speed, v, limit, lead, said)
    if clause is None:
        return None
    if decision.direction == Direction.STRAIGHT:
        return f"{clause}."
    if navigation != decision.direction:
        return None  # a choice of the driver's own, e.g. round an obstacle: the sample does not say why
    if clause == TURNS:
        return f"{clause} {'left' if navigation == Direction.TURN_LEFT else 'right'}."
    return f"{clause}{SIDES[decision.direction]}."


def _slow(
    decision: Decision, v: float, limit: float, red_m: float | None, lead: Seen | None, crossing: Seen | None
) -> str | None:
    reach = v * v / (2 * BRAKE) + MARGIN_M
    if red_m is not None and red_m < reach and (lead is None or red_m < lead.distance_m):
        return LIGHT.format(red_m)
    if crossing is not None and crossing.distance_m < reach:
        return ENTERS.format(crossing.distance_m, crossing.name)
    if lead is not None and lead.distance_m < max(reach, GAP_S * v):
        how = (lead.distance_m, lead.name)
        if lead.speed < FASTER:
            return STANDS.format(*how)
        if lead.speed < v - FASTER:
            return SLOWER.format(*how)
        if decision.speed == Speed.DECELERATE and lead.distance_m < v + MARGIN_M:
            return NEAR.format(*how)
    if decision.speed == Speed.DECELERATE:
        if isfinite(limit) and v > limit + FASTER:
            return TOO_FAST
        if decision.direction in (Direction.TURN_LEFT, Direction.TURN_RIGHT):
            return TURNS
    return None


def _fast(
    decision: Decision, v: float, limit: float, red_m: float | None, lead: Seen | None, crossing: Seen | None
) -> str | None:
    if lead is not None and lead.distance_m < GAP_S * v + MARGIN_M:
        return LEAVES.format(lead.distance_m, lead.name) if lead.speed > v + FASTER else None
    if red_m is None and crossing is None and isfinite(limit) and v < limit - FASTER:
        return FREE
    return None


def _keep(
    decision: Decision, v: float, limit: float, red_m: float | None, lead: Seen | None, crossing: Seen | None
) -> str | None:
    if lead is not None and lead.distance_m < GAP_S * v + MARGIN_M:
        return SAME.format(lead.distance_m, lead.name) if abs(lead.speed - v) < 2 * FASTER else None
    if red_m is None and crossing is None and isfinite(limit) and abs(v - limit) < NEAR_LIMIT:
        return AT_LIMIT
    return None


def _asked(speed: Speed, v: float, limit: float, lead: Seen | None, said: str) -> str | None:
    """A wish for another speed: while it is being met, and once it is met, away from the limit on an open road."""
    wish = wish_of(said)
    if wish is None or wish.asks not in ("faster", "slower"):
        return None
    sign = 1 if wish.asks == "faster" else -1
    under_way = speed == (Speed.ACCELERATE if sign > 0 else Speed.DECELERATE)
    met = speed == Speed.KEEP and lead is None and isfinite(limit) and sign * (v - limit) > FASTER
    return ASKED.format(0, wish.kind) if under_way or met else None
