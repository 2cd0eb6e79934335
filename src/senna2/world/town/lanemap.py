"""The complete `LaneMap` of a street or of two that meet: lanes as areas, lines between them, kerbs, crossings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from senna2.types import Array, Direction
from senna2.world.scene import Lane, LaneMap
from senna2.world.town.junction import ARMS, CORNER, ZEBRA, ZEBRA_AFTER_STOP, Arm, Junction
from senna2.world.town.roads import CYCLE, GUTTER, LANE, ReferenceLine, Street

CENTRE_STEP = 2.0  # m between points of a lane's middle; of lines and areas where the street bends gently
TIGHT_STEP = 1.0  # m where it bends tightly
TIGHT = 1 / 60  # 1/m
ARC_POINTS = 13  # of a kerb's corner: 1.5 cm from the circle


@dataclass
class _Parts:
    """What a map is gathered in."""

    lanes: list[Lane] = field(default_factory=list)
    dividers: list[Array] = field(default_factory=list)
    centre_lines: list[Array] = field(default_factory=list)
    kerbs: list[Array] = field(default_factory=list)
    crossings: list[Array] = field(default_factory=list)
    stop_lines: list[Array] = field(default_factory=list)


def build_lane_map(main: Street, side: Street | None, junction: Junction | None, zebra_s: float | None) -> LaneMap:
    """The map of one street (side and junction None), or of two with their junction. Ids as `Roads.lane_map` says."""
    parts = _Parts()
    if junction is None or side is None:
        s0, s1 = float(main.line.s_P[0]), float(main.line.s_P[-1])
        _add_strip(parts, main, s0, s1, "main_{}in", "main_{}out", {})
        at = _stations(main, s0, s1)
        parts.kerbs += [main.line.world(at, -sense * main.kerb(-sense, at))[:, :2] for sense in (1, -1)]
        ring = np.concatenate([parts.kerbs[0], parts.kerbs[1][::-1]])
    else:
        connectors = list(_connectors(junction, main.speed_limit))
        after: dict[str, tuple[str, ...]] = {}
        for connector in connectors:
            begin = connector.id.split(">")[0]
            after[begin] = (*after.get(begin, ()), connector.id)
        for arm in junction.arm.values():
            street = main if arm.name in ("main", "beyond") else side
            middle = junction.s if street is main else 0.0
            nearest, farthest = middle - arm.sense * arm.edge, middle - arm.sense * arm.reach
            s0, s1 = min(nearest, farthest), max(nearest, farthest)
            towards, away = f"{arm.name}_{{}}in", f"{arm.name}_{{}}out"
            forward, oncoming = (towards, away) if arm.sense > 0 else (away, towards)
            _add_strip(parts, street, s0, s1, forward, oncoming, after)
            near, far = arm.zebra
            across = np.repeat([arm.kerb_in, -arm.kerb_out], 2)
            parts.crossings.append(arm.point(np.array([near, far, far, near]), across))
            parts.stop_lines.append(stop_line(arm))
        parts.lanes += connectors
        parts.kerbs += _junction_kerbs(junction)
        ring = np.concatenate(parts.kerbs)
    if zebra_s is not None:
        _add_zebra(parts, main, zebra_s)
    return LaneMap(
        tuple(parts.lanes), tuple(parts.dividers), tuple(parts.centre_lines), tuple(parts.kerbs), (ring,),
        tuple(parts.crossings), tuple(parts.stop_lines), drivable_known=True, lanes_complete=True,
    )  # fmt: skip


def stop_line(arm: Arm) -> Array:
    """(2, 2): from the street's middle to the gutter, across the lanes towards the junction."""
    return arm.point(arm.stop, np.array([0.0, arm.kerb_in - GUTTER]))


def _stations(street: Street, s0: float, s1: float) -> Array:
    """Where lines along the street need points: its ends, and closely where it bends or a lane narrows."""
    s = np.arange(s0, s1, TIGHT_STEP)
    bends = np.maximum(np.abs(street.line.kappa(s - TIGHT_STEP)), np.abs(street.line.kappa(s + TIGHT_STEP)))
    needed = bends > 1e-9
    if bends.max(initial=0.0) < TIGHT:
        needed[1::2] = False
    ends = [s0, s1]
    if street.drop is not None:
        needed |= (s > street.drop.s_from) & (s < street.drop.s_to)
        ends += [s for s in (street.drop.s_from, street.drop.s_to, street.drop.s_to + 1e-3) if s0 < s < s1]
    return np.unique(np.concatenate([s[needed], ends]))


def _add_strip(
    parts: _Parts, street: Street, s0: float, s1: float, forward: str, oncoming: str, after: dict[str, tuple[str, ...]]
) -> None:
    """The lanes of a street between s0 and s1 and the lines between them. The outermost lane reaches to the kerb, so
    that every drivable metre is in one. forward, oncoming: names, "{}" stands for what a cycle lane is marked by.
    after: successors by lane id."""
    line, n_of = street.line, street.section.lanes
    at = _stations(street, s0, s1)
    step = TIGHT_STEP if np.abs(street.line.kappa(at)).max() > TIGHT else CENTRE_STEP
    middle = np.linspace(s0, s1, int(np.ceil((s1 - s0) / step)) + 1)
    parts.centre_lines.append(line.world(at, 0.0)[:, :2])
    for sense, name in ((1, forward), (-1, oncoming)):
        drop = street.drop if sense > 0 else None
        kerb_T, kerb_M = street.kerb(-sense, at), street.kerb(-sense, middle)
        rim_T = kerb_T - GUTTER - CYCLE if street.section.cycle else kerb_T
        n = n_of(sense)
        ids = [f"{name.format('')}_{k}" for k in range(n)]
        for k, lane_id in enumerate(ids):
            inner_T, outer_T = np.full(len(at), k * LANE), np.full(len(at), (k + 1) * LANE)
            centre_M = np.full(len(middle), (k + 0.5) * LANE)
            on_T, on_M = np.ones(len(at), bool), np.ones(len(middle), bool)
            if k == n - 1:
                outer_T = rim_T
                if drop is not None:
                    on_T, on_M = at <= drop.s_to, middle <= drop.s_to
                    centre_M = (k + (1.0 - drop.closed(middle)) / 2) * LANE
            elif k == n - 2 and drop is not None:
                outer_T = np.where(at > drop.s_to, rim_T, outer_T)
            ring = np.concatenate(
                [line.world(at, -sense * inner_T)[on_T, :2], line.world(at, -sense * outer_T)[on_T, :2][::-1]]
            )
            parts.lanes.append(
                Lane(
                    lane_id, line.world(middle, -sense * centre_M)[on_M, :2][::sense].copy(), ring, street.speed_limit,
                    after.get(lane_id, ()), ids[k - 1] if k > 0 else None, ids[k + 1] if k + 1 < n else None,
                )
            )  # fmt: skip
            if k > 0:
                marked = at <= drop.s_from if drop is not None and k == n - 1 else on_T
                parts.dividers.append(line.world(at, -sense * inner_T)[marked, :2])
        if street.section.cycle:
            lane_id = name.format("cycle_")
            sides = [line.world(at, -sense * d)[:, :2] for d in (rim_T, kerb_T)]
            centre = line.world(middle, -sense * (kerb_M - GUTTER - CYCLE / 2))[::sense, :2].copy()
            # No neighbours: whoever changes lanes must not take a cycle lane for one of his own.
            ring = np.concatenate([sides[0], sides[1][::-1]])
            parts.lanes.append(Lane(lane_id, centre, ring, street.speed_limit, after.get(lane_id, ()), kind="cycle"))
            parts.dividers.append(sides[0])


def _connectors(junction: Junction, speed_limit: float) -> Iterator[Lane]:
    for entry, arm in junction.arm.items():
        for turn in (Direction.STRAIGHT, Direction.TURN_LEFT, Direction.TURN_RIGHT):
            step = CENTRE_STEP if turn == Direction.STRAIGHT else TIGHT_STEP
            for k in junction.lanes(entry, turn):
                _, end, exit_k = junction.link(entry, k, turn)
                line = junction.drive(entry, k, turn, step=step, box_only=True)
                yield _connector(f"{entry}_in_{k}", f"{end.name}_out_{exit_k}", line, LANE, speed_limit, "car")
            if turn == Direction.TURN_LEFT or not junction.lanes(entry, turn):
                continue
            _, end = junction.exit(entry, turn)
            if arm.section.cycle and end.section.cycle:
                line = junction.cycle(entry, turn, step=step, box_only=True)
                yield _connector(f"{entry}_cycle_in", f"{end.name}_cycle_out", line, CYCLE, speed_limit, "cycle")


def _connector(begin: str, end: str, line: ReferenceLine, width: float, speed_limit: float, kind: str) -> Lane:
    ring = np.concatenate([line.offset(width / 2), line.offset(-width / 2)[::-1]])
    return Lane(f"{begin}>{end}", line.xy_P2, ring, speed_limit, (end,), in_junction=True, kind=kind)


def _junction_kerbs(junction: Junction) -> list[Array]:
    """Counter-clockwise, each from an arm's end inwards, round the corner, and outwards along the next arm."""
    kerbs = []
    names = list(junction.arm)
    quarter = np.linspace(0.0, np.pi / 2, ARC_POINTS)
    for i, name in enumerate(names):
        start, end = junction.arm[name], junction.arm[names[(i + 1) % len(names)]]
        points = [start.point(start.reach, start.kerb_in)[None]]
        if (ARMS.index(end.name) - ARMS.index(name)) % 4 == 1:
            points.append(
                start.point(
                    end.kerb_out + CORNER * (1.0 - np.sin(quarter)), start.kerb_in + CORNER * (1.0 - np.cos(quarter))
                )
            )
        points.append(end.point(end.reach, -end.kerb_out)[None])
        kerbs.append(np.concatenate(points))
    return kerbs


def _add_zebra(parts: _Parts, main: Street, zebra_s: float) -> None:
    """A zebra across the main street with a stop line before it for either sense."""
    edges = zebra_s + np.array([-ZEBRA / 2, ZEBRA / 2])
    right = main.line.world(edges, -main.kerb(-1, edges))[:, :2]
    left = main.line.world(edges, main.kerb(1, edges))[:, :2]
    parts.crossings.append(np.concatenate([right, left[::-1]]))
    for sense in (1, -1):
        s = zebra_s - sense * (ZEBRA / 2 + ZEBRA_AFTER_STOP)
        parts.stop_lines.append(
            main.line.world(s, -sense * np.array([0.0, float(main.kerb(-sense, s)) - GUTTER]))[:, :2]
        )
