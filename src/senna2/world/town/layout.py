"""Where things of a street scene go: strips of carriageway, the junction's area, kerbs, and how finely all is tiled.

Legend: S places along a line, D offsets across it, Z heights, N points or cells, P points of a line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np
import shapely

from senna2.frames import along_polyline
from senna2.types import Array
from senna2.world.scene import LaneMap
from senna2.world.town.junction import STOP_BEFORE_BOX, ZEBRA, ZEBRA_AFTER_STOP
from senna2.world.town.network import Roads
from senna2.world.town.roads import ReferenceLine, Street
from senna2.world.town.surfaces import SurfaceBuilder

FINE_BEHIND = 15.0  # m behind the ego's start that are tiled finely, and everything near them
FINE_AHEAD_S = 11.5  # s at the speed limit that are tiled finely ahead of it: most of a clip
USUAL_LENGTH = 235.0  # m of a street ahead of the ego; longer ones are for longer clips
FINE_ARM = 38.0  # m beyond a junction's centre that are tiled finely
FINE_WITHIN = 21.0  # m from these
QUIET = 4.7  # m without parking bays before and after junctions and zebras: no car is parked nearer
CORNER_TIGHTER = 12.0  # m, radius under which a kerb turns a corner

Colour = Callable[[Array, Array], Array]
Run = tuple[float, float, bool]


@dataclass(frozen=True, eq=False)
class Strip:
    """A piece of street between s0 and s1. zebras: (s, s). stops: (s, sense). bare: without lines between lanes."""

    street: Street
    s0: float
    s1: float
    zebras: tuple[tuple[float, float], ...] = ()
    stops: tuple[tuple[float, int], ...] = ()
    bare: tuple[tuple[float, float], ...] = ()

    def ring(self) -> Array:
        s = np.linspace(self.s0, self.s1, max(2, round((self.s1 - self.s0) / 0.5)))
        right, left = (self.street.line.world(s, side * self.street.kerb(side, s))[:, :2] for side in (-1, 1))
        return np.concatenate([right, left[::-1]])


@dataclass(frozen=True, eq=False)
class Layout:
    """Derived from roads once. kerbs: lines with the pavement on their left."""

    roads: Roads
    lane_map: LaneMap
    strips: tuple[Strip, ...]
    area: shapely.Geometry
    box: shapely.Geometry  # the junction without the arms; empty without one
    kerbs: tuple[ReferenceLine, ...]
    _hushed: shapely.Geometry = field(repr=False)

    @classmethod
    def of(cls, roads: Roads) -> Self:
        lane_map = roads.lane_map()
        area = shapely.union_all([shapely.make_valid(shapely.Polygon(ring)) for ring in lane_map.drivable])
        shapely.prepare(area)
        strips = tuple(_strips(roads))
        box = shapely.Polygon()
        if roads.junction is not None:
            arms = shapely.union_all([shapely.Polygon(strip.ring()).buffer(1e-3) for strip in strips])
            box = area.difference(arms).buffer(-0.05).buffer(0.05)
        kerbs = tuple(_kerb(line, area) for line in lane_map.kerbs)
        hushed = shapely.union_all([box, *(shapely.Polygon(ring) for ring in lane_map.crossings)])
        return cls(roads, lane_map, strips, area, box, kerbs, hushed)

    @cached_property
    def path(self) -> shapely.Geometry:
        """Where the ego may drive, roughly: surfaces near it are tiled finely."""
        main = self.roads.main.line
        ahead = FINE_AHEAD_S * self.roads.speed_limit + max(main.s_P[-1] - USUAL_LENGTH, 0.0)
        last = ahead if self.roads.junction is None else self.roads.junction.s + FINE_ARM
        s = np.arange(-FINE_BEHIND, min(last, main.s_P[-1]) + 0.1, 2.0)
        lines = [shapely.LineString(main.world(s, 0.0)[:, :2])]
        if self.roads.side is not None:
            line = self.roads.side.line
            s = np.clip(np.array([-FINE_ARM, FINE_ARM]), line.s_P[0], line.s_P[-1])
            lines.append(shapely.LineString(line.world(s, 0.0)[:, :2]))
        return shapely.union_all(lines)

    def away(self, points_N2: Array, metres: float) -> Array:
        """(N,) whether points are at least this far from the junction and from every zebra."""
        if self._hushed.is_empty:
            return np.ones(len(points_N2), bool)
        return shapely.distance(shapely.points(points_N2), self._hushed) >= metres

    def bay(self, points_N2: Array) -> Array:
        """(N,) whether there is room for a parking bay at points on a kerb: `QUIET` m from junctions and zebras, and
        not beside a lane that ends."""
        free = self.away(points_N2, QUIET)
        drop = self.roads.main.drop
        if drop is not None:
            s, d = self.roads.main.line.project(points_N2)
            free &= (d > 0) | (s < drop.s_from - 5.0) | (s > drop.s_to + 5.0)
        return free

    def runs(self, line: ReferenceLine, s0: float, s1: float, test: Callable[[Array], Array]) -> list[Run]:
        """[(from, to, result)] along a line: where a test of points (N, 2) → bool gives the same every 2 m."""
        s = np.linspace(s0, s1, max(2, round((s1 - s0) / 2.0)) + 1)
        middle = (s[1:] + s[:-1]) / 2
        result = test(line.world(middle, 0.0)[:, :2])
        cut = np.flatnonzero(np.diff(result)) + 1
        edges = np.concatenate([[0], cut, [len(middle)]])
        return [(float(s[a]), float(s[b]), bool(result[a])) for a, b in pairwise(edges)]

    def fine(self, points_N2: Array) -> Array:
        return shapely.distance(shapely.points(points_N2), self.path) < FINE_WITHIN


def _strips(roads: Roads) -> list[Strip]:
    main = roads.main
    zebras: list[tuple[float, float]] = []
    stops: list[tuple[float, int]] = []
    if roads.zebra_s is not None:
        z, half = roads.zebra_s, ZEBRA / 2
        zebras = [(z - half, z + half)]
        stops = [(z - sense * (half + ZEBRA_AFTER_STOP), sense) for sense in (1, -1)]
    if roads.junction is None or roads.side is None:
        bare = tuple((a - ZEBRA_AFTER_STOP, b + ZEBRA_AFTER_STOP) for a, b in zebras)
        return [Strip(main, float(main.line.s_P[0]), float(main.line.s_P[-1]), tuple(zebras), tuple(stops), bare)]
    out = []
    for arm in roads.junction.arm.values():
        street = main if arm.name in ("main", "beyond") else roads.side
        middle, away = (roads.junction.s if street is main else 0.0), -arm.sense  # away: s grows outwards
        s0, s1 = sorted((middle + away * arm.edge, middle + away * arm.reach))
        z0, z1 = sorted(middle + away * r for r in arm.zebra)
        b0, b1 = sorted((middle + away * arm.edge, middle + away * (arm.edge + STOP_BEFORE_BOX)))
        own = [z for z in zebras if street is main and s0 < z[0] and z[1] < s1]
        own_stops = [stop for stop in stops if street is main and s0 < stop[0] < s1]
        bares = [(b0, b1), *((a - ZEBRA_AFTER_STOP, b + ZEBRA_AFTER_STOP) for a, b in own)]
        stop = (middle + away * arm.stop, arm.sense)
        out.append(Strip(street, s0, s1, ((z0, z1), *own), (stop, *own_stops), tuple(bares)))
    return out


def _kerb(line_P2: Array, area: shapely.Geometry) -> ReferenceLine:
    """A kerb every 0.5 m, its heading smoothed over the corners of the polyline, the road on its right."""
    along = along_polyline(line_P2)
    s = np.linspace(0, along[-1], max(3, round(along[-1] / 0.5)) + 1)
    xy = np.stack([np.interp(s, along, line_P2[:, k]) for k in (0, 1)], 1)
    line = ReferenceLine.from_polyline(xy)
    probe = shapely.points(line.world(line.s_P[1:-1:4], 0.4)[:, :2])
    if shapely.contains(area, probe).mean() > 0.5:
        line = ReferenceLine.from_polyline(xy[::-1].copy())
    pad = np.pad(line.yaw_P, 2, mode="edge")
    yaw = np.convolve(pad, np.ones(5) / 5, mode="valid")
    return ReferenceLine(line.s_P, line.xy_P2, yaw, np.gradient(yaw, line.s_P))


def steps(s0: float, s1: float, spacing: float) -> Array:
    """Edges (S,) from s0 to s1 about `spacing` apart."""
    return np.linspace(s0, s1, max(1, round((s1 - s0) / spacing)) + 1)


def lay(
    b: SurfaceBuilder,
    line: ReferenceLine,
    s_S: Array,
    d_D: Array,
    colour: Colour | Array,
    *,
    z: float = 0.0,
    **kw: float,
) -> None:
    """Flat tiles between the edges s_S along a line and d_D (D,) or (S, D) across it. colour(s_N, d_N) of cells."""
    d_SD = np.broadcast_to(d_D, (len(s_S), np.shape(d_D)[-1]))
    xy = line.world(s_S[:, None], d_SD)[..., :2]
    cells = _cells(s_S[:, None] + 0 * d_SD), _cells(d_SD)
    rgb = colour(*cells) if callable(colour) else colour
    b.sheet(np.concatenate([xy, np.full((*xy.shape[:2], 1), z)], -1), rgb, **kw)


def put_up(
    b: SurfaceBuilder,
    line: ReferenceLine,
    s_S: Array,
    z_Z: Array,
    colour: Colour | Array,
    *,
    d: float = 0.0,
    **kw: float,
) -> None:
    """Upright tiles between the edges s_S along a line and z_Z in height, at offset d. colour(s_N, z_N) of cells."""
    xy = np.repeat(line.world(s_S, d)[:, None, :2], len(z_Z), 1)
    z_SZ = np.broadcast_to(z_Z, xy.shape[:2])
    rgb = colour(_cells(s_S[:, None] + 0 * z_SZ), _cells(z_SZ)) if callable(colour) else colour
    b.sheet(np.concatenate([xy, z_SZ[..., None]], -1), rgb, **kw)


def _cells(v_UV: Array) -> Array:
    return ((v_UV[1:, 1:] + v_UV[:-1, 1:] + v_UV[1:, :-1] + v_UV[:-1, :-1]) / 4).ravel()
