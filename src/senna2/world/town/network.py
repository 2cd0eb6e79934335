"""The roads of a clip: the ego's street, perhaps a side street and their junction; paths through them and their map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import shapely

from senna2.types import Array, Direction, InputError, require
from senna2.world.scene import LaneMap
from senna2.world.town.junction import Junction
from senna2.world.town.lanemap import build_lane_map, stop_line
from senna2.world.town.roads import DEFAULT_SECTION, LANE, LaneDrop, ReferenceLine, Section, Street

KINDS = ("straight", "curved", "bend_right", "bend_left", "cross", "tee_right", "tee_left", "tee_end", "merge")
BEHIND = 40.0  # m of the main street behind the ego's start
SIDE_REACH = 80.0  # m of a side street from the junction's centre
STEP = 0.5  # m between points of reference lines and paths
RADII = (120.0, 350.0)  # m, of a curved street
BEND_RADIUS = 22.0  # m, reference line of a 90° bend
TAPER = 35.0  # m over which a lane ends
POST_BESIDE = 0.6  # m from the kerb to a signal's post
PAVEMENT = 3.0  # m of pavement on which a zebra's line begins and ends
MEETING = 0.02  # m: paths nearer than this are one
_ARMS = {
    "cross": ("main", "right", "beyond", "left"), "tee_right": ("main", "right", "beyond"),
    "tee_left": ("main", "beyond", "left"), "tee_end": ("main", "right", "left"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Roads:
    """kind: one of KINDS. side: runs from the ego's right to its left, s = 0 at the junction's centre.

    zebra_s: where a zebra crosses the main street besides those of the junction.
    """

    kind: str
    main: Street
    side: Street | None
    junction: Junction | None
    zebra_s: float | None
    speed_limit: float

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        kind: str,
        speed_limit: float,
        *,
        section: Section = DEFAULT_SECTION,
        side_section: Section | None = None,
        lights: bool = False,
        zebra_s: float | None = None,
        junction_s: float | None = None,
        length_m: float = 235.0,
    ) -> Self:
        """Random geometry: where a curve begins, its radius and side; where the junction lies; where the lane ends.

        speed_limit m/s. side_section: by default one or two lanes a sense, with cycle lanes where main has them.
        junction_s: the junction's centre along main, by default 38…55 m. length_m: of main ahead of the ego, which
        starts at s = 0; on "tee_end" main ends at the junction. Raises `InputError` for an unknown kind, for a merge
        of a single lane, and for lengths that leave no room.
        """
        require(kind in KINDS, "roads.kind", f"'{kind}' is unknown; there are {', '.join(KINDS)}")
        if kind in _ARMS:
            return cls._with_junction(
                rng, kind, speed_limit, section, side_section, lights, zebra_s, junction_s, length_m
            )
        require(not lights, "roads.lights", f"a '{kind}' street has no junction; use one of {', '.join(_ARMS)}")
        bend = drop = None
        s = _grid(-BEHIND, length_m)
        kappa = np.zeros_like(s)
        if kind == "merge":
            require(section.forward >= 2, "section.forward", "a merge needs 2 or 3 lanes, of which one ends")
            begin = float(rng.uniform(45.0, 80.0))
            drop = LaneDrop(begin, begin + TAPER)
        elif kind != "straight":
            if kind == "curved":
                radius, ramp = rng.uniform(*RADII) * rng.choice([-1, 1]), 20.0
                begin, length = float(rng.uniform(-20, 30)), float(rng.uniform(90, 150))
            else:
                radius, ramp = BEND_RADIUS * (1 if kind == "bend_left" else -1), 7.0
                begin = float(rng.uniform(26, 48))
                length = float(np.pi / 2 * BEND_RADIUS + ramp)  # a trapezium whose area is a quarter turn
            bend = (begin, begin + length)
            kappa = np.clip(np.minimum((s - begin) / ramp, (begin + length - s) / ramp), 0, 1) / radius
        main = Street("main", ReferenceLine.from_curvature(s, kappa), section, speed_limit, kind, bend, drop)
        last = (bend or (0.0, drop.s_to if drop else 0.0))[1]
        require(length_m > last + 10.0, "length_m", f"{length_m:.0f} m; this street needs {last + 10.0:.0f}")
        return cls(kind, main, None, None, _checked_zebra(zebra_s, main), speed_limit)

    @classmethod
    def _with_junction(
        cls, rng: np.random.Generator, kind: str, speed_limit: float, section: Section, side_section: Section | None,
        lights: bool, zebra_s: float | None, junction_s: float | None, length_m: float,
    ) -> Self:  # fmt: skip
        centre, lanes = float(rng.uniform(38.0, 55.0)), int(rng.integers(1, 3))
        centre = centre if junction_s is None else float(junction_s)
        side_section = Section(lanes, lanes, section.cycle) if side_section is None else side_section
        arms = _ARMS[kind]
        end = length_m if "beyond" in arms else centre
        straight = _grid(-BEHIND, end)
        main = Street(
            "main", ReferenceLine.from_curvature(straight, np.zeros_like(straight)), section, speed_limit, kind
        )
        reach = [SIDE_REACH if a in arms else 0.0 for a in ("right", "left")]
        line = ReferenceLine.straight(np.array([centre, -reach[0]]), np.array([centre, reach[1]]), STEP, -reach[0])
        side = Street("side", line, side_section, speed_limit, kind)
        junction = Junction.between(main, side, centre, arms, lights)
        zebra = _checked_zebra(zebra_s, main)
        if zebra is not None:
            clear = zebra < junction.stop_s - 4.0 or zebra > junction.exit_s + 9.0
            require(clear, "zebra_s", f"{zebra:.0f} m lies in the junction, whose arms have zebras of their own")
        return cls(kind, main, side, junction, zebra, speed_limit)

    def path(self, entry: str, k: int, turn: Direction = Direction.STRAIGHT) -> ReferenceLine:
        """The middle of lane k (0 innermost) from an arm's end, through the junction and out, every 0.5 m.

        s = 0: from "main" abeam main's s = 0, where the ego starts; from other arms at their stop line, negative
        before. Straight on keeps k, a right turn ends in the exit's outermost car lane, a left turn in its innermost.
        Without a junction "main" and "beyond" (oncoming, s = 0 abeam main's s = 0) go straight on; the lane that ends
        at a merge goes over to its neighbour while it narrows. `InputError` for what does not exist.
        """
        if self.junction is not None:
            return self._from_start(self.junction.drive(entry, k, turn, step=STEP), entry)
        sense = self._sense(entry, turn)
        d = self.main.section.offset(k, sense)
        if sense > 0 and self.main.drop is not None and k == self.main.section.forward - 1:
            return self._shifted(d)
        along = self.main.line.parallel(d)
        return along if sense > 0 else along.reversed()

    def cycle_path(self, entry: str, turn: Direction = Direction.STRAIGHT) -> ReferenceLine:
        """The middle of the cycle lane, as `path`; straight on or to the right."""
        if self.junction is not None:
            return self._from_start(self.junction.cycle(entry, turn, step=STEP), entry)
        sense = self._sense(entry, turn)
        d = self.main.section.cycle_offset(sense)
        if sense > 0 and self.main.drop is not None:
            return self._shifted(d)
        along = self.main.line.parallel(d)
        return along if sense > 0 else along.reversed()

    def zebra_line(self, at: str) -> ReferenceLine:
        """Across an arm on its zebra, or at "zebra_s", from the ego's right to its left pavement (arms "right" and
        "left": from the near one to the far one). s = 0 on the arm's middle line."""
        if at == "zebra_s":
            if self.zebra_s is None:
                raise InputError("zebra_s: these roads have no such crossing; draw them with zebra_s=…")
            s = self.zebra_s
            right, left = (float(self.main.kerb(side, s)) + PAVEMENT for side in (-1, 1))
            ends = self.main.line.world(s, np.array([-right, left]))[:, :2]
            return ReferenceLine.straight(ends[0], ends[1], STEP, -right)
        if self.junction is None or at not in self.junction.arm:
            raise InputError(
                f"zebra '{at}': these roads have {', '.join(self.junction.arms) if self.junction else '-'}"
            )
        arm = self.junction.arm[at]
        r = sum(arm.zebra) / 2
        first, last = arm.kerb_in + PAVEMENT, -arm.kerb_out - PAVEMENT
        if at in ("beyond", "right"):  # there the ego's right, or the near side, lies to the left of those who come in
            first, last = last, first
        return ReferenceLine.straight(arm.point(r, first), arm.point(r, last), STEP, -abs(first))

    def lane_map(self) -> LaneMap:
        """The complete map. Lanes: "{arm}_in_{k}" towards the junction and "{arm}_out_{k}" away from it (without a
        junction "main_in_{k}" forwards, "main_out_{k}" oncoming), "{arm}_cycle_in", "{arm}_cycle_out", and within the
        junction "{from}>{to}". Kerbs leave the streets' ends open; corners have a radius of 7 m."""
        return build_lane_map(self.main, self.side, self.junction, self.zebra_s)

    def signal_heads(self) -> tuple[tuple[str, Array, Array, tuple[str, ...]], ...]:
        """One an arm, empty without lights: id, pose_3 of the post (heading: of the traffic it speaks to), stop line
        (2, 2), ids of the car lanes that end there. The post stands behind the zebra, so that whoever waits at the
        line still sees it [ours]."""
        if self.junction is None or not self.junction.lights:
            return ()
        return tuple(
            (
                f"signal_{name}", np.array([*arm.point(arm.edge, arm.kerb_in + POST_BESIDE), arm.heading_in]),
                stop_line(arm), tuple(f"{name}_in_{k}" for k in range(arm.lanes_in)),
            )
            for name, arm in self.junction.arm.items()
        )  # fmt: skip

    def _sense(self, entry: str, turn: Direction) -> int:
        require(entry in ("main", "beyond"), f"arm '{entry}'", "a street without a junction has 'main' and 'beyond'")
        require(turn == Direction.STRAIGHT, Direction(turn).name, "a street without a junction only goes straight on")
        return 1 if entry == "main" else -1

    def _from_start(self, path: ReferenceLine, entry: str) -> ReferenceLine:
        assert self.junction is not None
        zero = self.junction.stop_s if entry == "main" else 0.0
        return ReferenceLine(path.s_P + zero, path.xy_P2, path.yaw_P, path.kappa_P)

    def _shifted(self, d: float) -> ReferenceLine:
        """A line at offset d that goes a lane to the left where the lane ends."""
        assert self.main.drop is not None
        line = self.main.line
        points = line.world(line.s_P, d + LANE * self.main.drop.closed(line.s_P))[:, :2]
        return ReferenceLine.from_polyline(points, float(line.s_P[0]))


def crossing_point(a: ReferenceLine, b: ReferenceLine) -> tuple[float, float]:
    """(s_a, s_b) of the first place along a where path b crosses or joins it; `InputError` if there is none."""
    line_a, line_b = shapely.LineString(a.xy_P2), shapely.LineString(b.xy_P2)
    met = shapely.get_coordinates(shapely.intersection(line_a, line_b))
    along = shapely.line_locate_point(line_a, shapely.points(met)) if len(met) else np.zeros(0)
    joined = np.flatnonzero(shapely.dwithin(shapely.points(a.xy_P2), line_b, MEETING))
    reached = np.concatenate([along, shapely.line_locate_point(line_a, shapely.points(a.xy_P2[joined[:1]]))])
    if len(reached) == 0:
        raise InputError("crossing_point: the two paths do not cross")
    s = float(reached.min())
    place = shapely.line_interpolate_point(line_a, s)
    return s + float(a.s_P[0]), float(shapely.line_locate_point(line_b, place)) + float(b.s_P[0])


def _grid(begin: float, end: float) -> Array:
    """From begin to end, STEP or a little less apart, with a point at 0."""
    ahead = np.linspace(0.0, end, int(np.ceil(end / STEP - 1e-9)) + 1)
    return np.concatenate([np.arange(begin, -STEP / 2, STEP), ahead])


def _checked_zebra(zebra_s: float | None, main: Street) -> float | None:
    if zebra_s is None:
        return None
    inside = main.line.s_P[0] + 5.0 < zebra_s < main.line.s_P[-1] - 5.0
    require(bool(inside), "zebra_s", f"{zebra_s:.0f} m lies beyond the street")
    return float(zebra_s)
