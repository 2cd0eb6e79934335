"""A junction of two streets at right angles: its arms, how large its box is, which lanes it links, by which turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from senna2.types import Array, Direction, InputError, require
from senna2.world.town.roads import (
    CYCLE,
    GUTTER,
    LANE,
    ReferenceLine,
    Section,
    Street,
    quarter_turn,
    turn_shift,
    turn_tangent,
)

ARMS = ("main", "right", "beyond", "left")  # counter-clockwise, as the ego on "main" names them
CORNER = 7.0  # m, radius of a kerb's corner [ours]
LEFT_RADII = (12.0, 16.0)  # m, smallest and largest radius of a left turn from the innermost lane
ZEBRA = 3.0  # m, width of a zebra crossing
ZEBRA_AFTER_STOP = 1.0  # m from the stop line to the zebra
BOX_AFTER_ZEBRA = 0.5  # m from the zebra to the junction's box
STOP_BEFORE_BOX = BOX_AFTER_ZEBRA + ZEBRA + ZEBRA_AFTER_STOP
_STEPS = {Direction.TURN_RIGHT: 1, Direction.STRAIGHT: 2, Direction.TURN_LEFT: 3}


@dataclass(frozen=True, eq=False)
class Arm:
    """One arm. Positions are (r, q): metres outwards from the junction's centre, and to the right of those who come in.

    sense: in which the traffic towards the junction runs on its street. edge: where the junction's box ends. reach:
    where the arm ends.
    """

    name: str
    centre_2: Array
    outward_2: Array
    section: Section
    sense: int
    edge: float
    reach: float

    @property
    def lanes_in(self) -> int:
        return self.section.lanes(self.sense)

    @property
    def lanes_out(self) -> int:
        return self.section.lanes(-self.sense)

    @property
    def kerb_in(self) -> float:
        return self.section.kerb(self.sense)

    @property
    def kerb_out(self) -> float:
        return self.section.kerb(-self.sense)

    @property
    def stop(self) -> float:
        """r of the stop line."""
        return self.edge + STOP_BEFORE_BOX

    @property
    def zebra(self) -> tuple[float, float]:
        """r where the zebra begins and ends, outwards."""
        return self.edge + BOX_AFTER_ZEBRA, self.edge + BOX_AFTER_ZEBRA + ZEBRA

    def point(self, r: Array | float, q: Array | float) -> Array:
        """World points (…, 2)."""
        r, q = np.asarray(r, np.float64)[..., None], np.asarray(q, np.float64)[..., None]
        right_2 = np.array([-self.outward_2[1], self.outward_2[0]])
        return self.centre_2 + r * self.outward_2 + q * right_2

    @property
    def heading_in(self) -> float:
        return float(np.arctan2(0.0 - self.outward_2[1], 0.0 - self.outward_2[0]))


@dataclass(frozen=True, eq=False)
class Junction:
    """s: its centre along main; its box reaches from entry_s to exit_s; the ego's stop line lies at stop_s.

    Every arm has a zebra and a stop line; lights: whether signals stand there.
    """

    s: float
    entry_s: float
    exit_s: float
    stop_s: float
    lights: bool
    arm: dict[str, Arm]

    @property
    def arms(self) -> tuple[str, ...]:
        """Which of "main", "right", "beyond", "left" exist, counter-clockwise."""
        return tuple(self.arm)

    @classmethod
    def between(cls, main: Street, side: Street, s: float, arms: tuple[str, ...], lights: bool) -> Self:
        """The junction of a main street, straight about s, with a side street whose s = 0 lies there."""
        x, y, yaw = (float(c) for c in main.line.world(s, 0.0))
        sense = {"main": 1, "beyond": -1, "right": 1, "left": -1}
        angle = {"main": np.pi, "right": -np.pi / 2, "beyond": 0.0, "left": np.pi / 2}
        reach = {
            "main": s - main.line.s_P[0], "beyond": main.line.s_P[-1] - s,
            "right": -side.line.s_P[0], "left": side.line.s_P[-1],
        }  # fmt: skip
        arm = {}
        for name in (a for a in ARMS if a in arms):
            street = main if name in ("main", "beyond") else side
            outward = np.round(np.array([np.cos(yaw + angle[name]), np.sin(yaw + angle[name])]), 12)
            arm[name] = Arm(name, np.array([x, y]), outward, street.section, sense[name], 0.0, float(reach[name]))
        edge = _box(arm)
        arm = {
            n: Arm(n, a.centre_2, a.outward_2, a.section, a.sense, edge[n], a.reach) for n, a in arm.items()
        }  # fmt: skip
        for n, a in arm.items():
            room = a.reach - a.stop
            require(room > 5.0, "junction_s", f"leaves {room:.0f} m of arm '{n}' before its stop line; it needs 5")
        exit_s = s + edge.get("beyond", side.section.kerb_right)
        return cls(s, s - edge["main"], exit_s, s - arm["main"].stop, lights, arm)

    def lanes(self, entry: str, turn: Direction) -> range:
        """The lanes of an arm that may turn so; none where an arm is missing.

        Only the outermost turns right. Only the innermost turns left; where there is no straight on, all but the
        outermost do, beside one another.
        """
        if entry not in self.arm or turn not in _STEPS or _after(entry, turn) not in self.arm:
            return range(0)
        n = self.arm[entry].lanes_in
        if turn == Direction.STRAIGHT:
            return range(n)
        if turn == Direction.TURN_RIGHT:
            return range(n - 1, n)
        return range(1 if _after(entry, Direction.STRAIGHT) in self.arm else max(n - 1, 1))

    def link(self, entry: str, k: int, turn: Direction) -> tuple[Arm, Arm, int]:
        """The arm of entry, the arm of exit and the exit's lane. `InputError` for what does not exist.

        Right turns end in the exit's outermost lane, left turns in its innermost (or beside one another).
        """
        start, end = self.exit(entry, turn)
        may = self.lanes(entry, turn)
        require(k in may, f"lane {k} of arm '{entry}'", f"{Direction(turn).name} is for lanes {list(may)}")
        if turn == Direction.STRAIGHT:
            return start, end, k
        return start, end, end.lanes_out - 1 if turn == Direction.TURN_RIGHT else min(k, end.lanes_out - 1)

    def exit(self, entry: str, turn: Direction) -> tuple[Arm, Arm]:
        """The arm of entry and the one that this turn leads to."""
        if entry not in self.arm:
            raise InputError(f"arm '{entry}': this junction has {', '.join(self.arm)}")
        if turn not in _STEPS:
            raise InputError(f"turn {turn!r}: use STRAIGHT, TURN_LEFT or TURN_RIGHT")
        name = _after(entry, turn)
        if name not in self.arm:
            raise InputError(f"{Direction(turn).name} from '{entry}': this junction has no arm '{name}'")
        return self.arm[entry], self.arm[name]

    def drive(self, entry: str, k: int, turn: Direction, *, step: float, box_only: bool = False) -> ReferenceLine:
        """The middle of the car lane through the junction, from the arm's end to the other arm's (box_only: only
        within the box). s = 0 at the stop line of the arm of entry."""
        start, end, exit_k = self.link(entry, k, turn)
        return self._line(start, (k + 0.5) * LANE, end, (exit_k + 0.5) * LANE, turn, step, box_only)

    def cycle(self, entry: str, turn: Direction, *, step: float, box_only: bool = False) -> ReferenceLine:
        """As `drive`, of the cycle lane; straight on or to the right."""
        start, end = self.exit(entry, turn)
        require(turn != Direction.TURN_LEFT, "cycle path", "turns left from no cycle lane; use STRAIGHT or TURN_RIGHT")
        for a in (start, end):
            require(a.section.cycle, f"arm '{a.name}'", "has no cycle lane")
        beside = GUTTER + CYCLE / 2
        return self._line(start, start.kerb_in - beside, end, end.kerb_out - beside, turn, step, box_only)

    def _line(
        self, start: Arm, q_in: float, end: Arm, q_out: float, turn: Direction, step: float, box_only: bool
    ) -> ReferenceLine:
        begin, finish = (start.edge, end.edge) if box_only else (start.reach, end.reach)
        s0 = start.stop - begin
        if turn == Direction.STRAIGHT:
            return ReferenceLine.straight(start.point(begin, q_in), end.point(finish, -q_out), step, s0)
        if turn == Direction.TURN_RIGHT:
            side, radius = -1, _right_radius(start, q_in, end, q_out)
            tangent = turn_tangent(radius)
            turn_r, end_r = q_out + tangent, q_in + tangent
        else:
            room = min(start.edge + q_out, end.edge + q_in) / turn_tangent(1.0)
            side, radius = 1, min(room, LEFT_RADII[1] + q_out - LANE / 2)
            tangent = turn_tangent(radius)
            turn_r, end_r = tangent - q_out, tangent - q_in
        pose = np.array([*start.point(begin, q_in), start.heading_in])
        return quarter_turn(pose, begin - turn_r, radius, side, finish - end_r, step, s0)


def _after(entry: str, turn: Direction) -> str:
    return ARMS[(ARMS.index(entry) + _STEPS[turn]) % 4]


def _right_radius(start: Arm, q_in: float, end: Arm, q_out: float) -> float:
    """So that the turn runs about the centre of the kerb's corner, as far from it as the two lanes on average."""
    about = CORNER + (start.kerb_in - q_in + end.kerb_out - q_out) / 2
    return about / (1.0 + turn_shift(1.0))


def _box(arm: dict[str, Arm]) -> dict[str, float]:
    """How far the box reaches into each arm: all turns, kerbs' corners included, happen within it."""
    edge = dict.fromkeys(arm, 0.0)
    for name, start in arm.items():
        right, left = _after(name, Direction.TURN_RIGHT), _after(name, Direction.TURN_LEFT)
        if right in arm:
            end = arm[right]
            q_in, q_out = (start.lanes_in - 0.5) * LANE, (end.lanes_out - 0.5) * LANE
            tangent = turn_tangent(_right_radius(start, q_in, end, q_out))
            edge[name] = max(edge[name], q_out + tangent, end.kerb_out + CORNER)
            edge[right] = max(edge[right], q_in + tangent, start.kerb_in + CORNER)
        if left in arm:
            tangent = turn_tangent(LEFT_RADII[0]) - LANE / 2  # both innermost lanes lie half a lane beyond the middle
            edge[name], edge[left] = max(edge[name], tangent), max(edge[left], tangent)
    return edge
