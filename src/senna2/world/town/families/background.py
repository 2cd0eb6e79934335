"""What must not be reacted to: oncoming and parked cars, neighbours, people on the pavement, waiting side traffic."""

from __future__ import annotations

import math

import numpy as np

from senna2.types import AgentClass, Array, Direction, InputError
from senna2.world.scene import Light
from senna2.world.town.actors import LOOKS, drive, stand, steady
from senna2.world.town.families.draft import Draft
from senna2.world.town.kerbside import FACADE

PARKED_BESIDE = 1.2  # m from the kerb to the middle of a parked car
WALK_BESIDE = 1.0  # m from the house fronts


def add_background(c: Draft, neighbours: float) -> None:
    """neighbours: the chance of somebody on another lane of the ego's sense."""
    _oncoming(c)
    _neighbours(c, neighbours)
    _cyclists(c)
    _side_street(c)
    if c.look.parking:
        _parked(c)
    _pedestrians(c)


def _oncoming(c: Draft) -> None:
    """None where the ego turns left across them; they must not come out of nowhere at a street's end."""
    rng, junction = c.rng, c.roads.junction
    if (
        not c.oncoming
        or c.place.turn == Direction.TURN_LEFT
        or (junction is not None and "beyond" not in junction.arms)
    ):
        return
    for _ in range(int(rng.integers(0, 4))):
        kind, look = c.vehicle()
        pace, k = c.limit * rng.uniform(0.75, 1.0), int(rng.integers(c.section.oncoming))
        motion = c.against(rng.uniform(25, 170), pace, k)
        if not _meets_in_bend(c, motion.s_T):
            c.try_add(kind, look, motion, facing=math.pi)


def _meets_in_bend(c: Draft, s_T: Array) -> bool:
    """Whether the ego would meet an oncoming vehicle while its heading sweeps over the other lanes: by constant
    velocity (time to collision) every such meeting reads as a crash, though nobody is at risk."""
    bend = c.roads.main.bend_s
    if bend is None or c.roads.kind == "curved":
        return False
    ego_s = c.nominal.s_T
    turning = (ego_s > bend[0] - 6) & (ego_s < bend[1])
    return bool((turning & (s_T > ego_s) & (s_T < ego_s + 45)).any())


def _neighbours(c: Draft, chance: float) -> None:
    rng = c.rng
    others = [k for k in range(c.section.forward) if k != c.place.lane and k not in c.busy]
    for k in others:
        if rng.random() > chance or c.place.turn != Direction.STRAIGHT:
            continue
        kind, look = c.vehicle()
        pace = c.limit * rng.uniform(0.7, 1.0)
        c.try_add(kind, look, c.on_lane(rng.uniform(-20, 40), pace, c.lane_d(k)))


def _cyclists(c: Draft) -> None:
    """On the cycle lanes; none on the ego's side where it turns across it."""
    rng = c.rng
    if not c.section.cycle:
        return
    if c.place.turn == Direction.STRAIGHT and c.roads.junction is None and rng.random() < 0.5:
        pace = rng.uniform(3.0, 5.0)
        motion = drive(c.line, c.t_T, rng.uniform(8, 60), pace, c.section.cycle_offset(1), steady(pace))
        c.try_add(AgentClass.CYCLIST, int(rng.integers(LOOKS)), motion, margin=0.4)
    if c.roads.junction is None and rng.random() < 0.4:
        pace = rng.uniform(3.0, 5.0)
        motion = drive(c.line, c.t_T, rng.uniform(30, 110), pace, c.section.cycle_offset(-1), steady(pace), sense=-1)
        c.try_add(AgentClass.CYCLIST, int(rng.integers(LOOKS)), motion, facing=math.pi, margin=0.4)


def _side_street(c: Draft) -> None:
    """Somebody waits at the stop line of an arm of the side street, where it has no green light."""
    rng, junction = c.rng, c.roads.junction
    if any(s.lanes[0].split("_")[0] in ("right", "left") and s.at(0.0) != Light.RED for s in c.signals):
        return
    if junction is None or c.roads.side is None or any(a.motion.line not in (c.line, c.path) for a in c.actors):
        return
    for arm in ("right", "left"):
        if arm not in junction.arms or rng.random() > 0.4:
            continue
        kind, look = c.vehicle(large=0.6)
        count = c.roads.side.section.lanes(1 if arm == "right" else -1)
        turn = Direction.TURN_RIGHT if c.roads.kind != "tee_right" or arm == "right" else Direction.STRAIGHT
        try:
            line = c.roads.path(arm, count - 1, turn)
        except InputError:
            continue
        c.try_add(kind, look, stand(line, c.t_T, -rng.uniform(3.2, 5.0) - 1.5, 0.0))


def _parked(c: Draft) -> None:
    rng, junction, bend = c.rng, c.roads.junction, c.roads.main.bend_s
    for _ in range(int(rng.integers(2, 8))):
        side, s = int(rng.choice([-1, 1])), rng.uniform(-25, 110)
        free = not any(low < s < high for low, high in c.quiet_m)
        if bend is not None and c.roads.kind != "curved":
            free &= not bend[0] - 6 < s < bend[1] + 30
        if junction is not None:
            free &= s < junction.entry_s - 14 or s > junction.exit_s + 12
        if c.roads.zebra_s is not None:
            free &= not c.roads.zebra_s - 14 < s < c.roads.zebra_s + 9
        if c.roads.main.drop is not None:
            free &= side > 0
        if free:
            d = side * (float(c.roads.main.kerb(side, s)) + PARKED_BESIDE)
            kind = AgentClass.CAR if rng.random() < 0.85 else AgentClass.VAN
            motion = stand(c.line, c.t_T, s, d)
            c.try_add(kind, int(rng.integers(LOOKS)), motion, facing=0.0 if side < 0 else math.pi, margin=0.8)


def _pedestrians(c: Draft) -> None:
    """On the pavements along the main street, away from the side streets."""
    rng, junction = c.rng, c.roads.junction
    last = float(c.t_T[-1])
    for _ in range(int(rng.integers(0, 4))):
        side, sense, pace = int(rng.choice([-1, 1])), int(rng.choice([-1, 1])), rng.uniform(0.9, 1.5)
        s0 = rng.uniform(5, 90)
        if junction is not None:
            reach = sorted((s0, s0 + sense * pace * last))
            if reach[1] > junction.entry_s - 2 and reach[0] < junction.exit_s + 2:
                continue
        s_T = s0 + sense * pace * c.t_T
        d_T = side * (np.asarray(c.roads.main.kerb(side, s_T)) + FACADE - WALK_BESIDE)
        motion = drive(c.line, c.t_T, s0, pace, d_T, steady(pace), sense=sense)
        c.try_add(AgentClass.PEDESTRIAN, int(rng.integers(LOOKS)), motion, margin=0.4)
