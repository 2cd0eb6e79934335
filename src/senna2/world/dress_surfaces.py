"""The ground of a dressed recording as gaussians: road, markings, crossings, kerbs, and what lies beside the road.

Level of detail follows the distance to the route, so that a recorded map of any size ends up near 10⁵ gaussians.
Markings are the colour of base surfels along the painted line, never a layer on top, which a depth sort by centre would
bury.

Legend: N cells, P points of a line, Q corners of a polygon.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import shapely
from scipy.spatial import cKDTree

from senna2.frames import along_polyline, sample_polyline
from senna2.geometry import corners
from senna2.types import AgentClass, Array
from senna2.world.dress_context import add_context
from senna2.world.dress_map import drivable_area, lane_polygon, line_parts
from senna2.world.gaussians import GaussianCloud
from senna2.world.importers.log import RecordedLog, moved
from senna2.world.scene import LaneMap
from senna2.world.town.surfaces import SurfaceBuilder

CELLS = (6.4, 3.2, 1.6, 0.8, 0.4)  # m, cell sizes from far to near
SPLIT_WITHIN = (140.0, 70.0, 28.0, 9.0)  # m to the route: a cell nearer than this becomes four smaller ones
GROUND_REACH = 260.0  # m, how far the ground goes: beyond it is the horizon
MARK = 0.13  # m, half width of a marking: twice the real one, so that it survives at 168 × 56
BAND = 0.40  # m, half width of the strip of asphalt that carries a marking
MARKED_WITHIN, STONED_WITHIN = 80.0, 110.0  # m to the route within which markings, kerb stones are drawn
PAVEMENT = 3.5  # m of pavement beside the road
LOT_MARGIN = 1.0  # m of lot around a thing that is parked off the road
LOT_GAP = 5.0  # m: parked things less than twice this apart stand on one lot [ours]
KERB_HEIGHT = 0.15

ASPHALT, LOT = (0.27, 0.27, 0.29), (0.36, 0.35, 0.35)
PAVING, SOIL = (0.55, 0.51, 0.47), (0.41, 0.44, 0.36)
STONE, KERB_FACE = (0.68, 0.68, 0.66), (0.52, 0.52, 0.50)
WHITE, YELLOW = (0.93, 0.93, 0.92), (0.92, 0.74, 0.12)


@dataclass(frozen=True, eq=False)
class Ground:
    """Areas of a clip: the road, where recorded things stood or went (`used`), and the route they are seen from."""

    route: shapely.Geometry
    road: shapely.Geometry
    lot: shapely.Geometry
    used: shapely.Geometry

    @classmethod
    def of(cls, log: RecordedLog, lane_map: LaneMap, route_P2: Array) -> Self:
        """The road is what the map calls drivable; failing that what its closed edges enclose, its lanes, and the
        ground that the ego and moving vehicles were recorded on (lanes leave gaps at junctions). [ours]"""
        route = shapely.LineString(route_P2)
        near = route.buffer(GROUND_REACH)
        corridors, used = [route.buffer(2.5)], [route.buffer(8.0)]
        parked: list[shapely.Geometry] = []
        for t in log.tracks:
            path = _path(t.pose_F3[t.valid_F, :2])
            used.append(path.buffer(max(t.length, t.width) / 2 + 1.5))
            if t.agent_class > AgentClass.MOTORCYCLE:
                continue
            if moved(t.pose_F3, t.valid_F):
                corridors.append(path.buffer(t.width / 2 + 0.6))
            else:
                box_5 = np.array([*np.median(t.pose_F3[t.valid_F], axis=0), t.length, t.width])
                parked.append(shapely.Polygon(corners(box_5)).buffer(LOT_MARGIN))
        parts = [shapely.make_valid(shapely.Polygon(lane_polygon(lane))) for lane in lane_map.lanes]
        area = drivable_area(log)
        parts.append(_enclosed(log.edges) if area is None else area)
        road = shapely.union_all([*parts, *corridors]).buffer(0.3).buffer(-0.3).intersection(near)
        shapely.prepare(road)
        beside = [box for box in parked if not road.contains(box.centroid)]  # at the kerb is no lot
        lot = shapely.union_all(beside).buffer(LOT_GAP).buffer(-LOT_GAP)
        return cls(route, road, lot, shapely.union_all(used))


def background(log: RecordedLog, lane_map: LaneMap, route_P2: Array, seed: int) -> GaussianCloud:
    """The clip's standing world, seen from near the route; the same for the same log."""
    rng = np.random.default_rng(seed)
    ground = Ground.of(log, lane_map, route_P2)
    b = SurfaceBuilder(rng)
    edges = lane_map.kerbs if lane_map.drivable_known else log.edges
    yellow, white = lane_map.centre_lines, lane_map.dividers
    lines = [*_strips(white, ground, MARKED_WITHIN), *_strips(yellow, ground, MARKED_WITHIN)]
    zebras = [c for c in lane_map.crossings if shapely.Polygon(c).distance(ground.route) < STONED_WITHIN]
    _cells(b, ground, lines, zebras)
    for line in _strips(white, ground, MARKED_WITHIN):
        _mark(b, line, ground, WHITE, dashed=True)
    for line in _strips(yellow, ground, MARKED_WITHIN):
        _mark(b, line, ground, YELLOW, dashed=False)
    for crossing in zebras:
        _zebra(b, crossing, ground)
    for line in _strips(edges, ground, STONED_WITHIN):
        _edge(b, line, ground, raised=lane_map.drivable_known)
    add_context(b, ground, rng)
    return _sorted_along(b.cloud(), route_P2)


def _path(xy_T2: Array) -> shapely.Geometry:
    return shapely.LineString(xy_T2) if len(xy_T2) > 1 else shapely.Point(xy_T2[0])


def _enclosed(edges: tuple[Array, ...]) -> shapely.Geometry:
    """What closed edge lines enclose; a ring inside another is an island."""
    rings = [e for e in edges if len(e) > 3 and np.allclose(e[0], e[-1])]
    area = shapely.Polygon()
    for ring in rings:
        area = area.symmetric_difference(shapely.make_valid(shapely.Polygon(ring)))
    return area


def _cells(b: SurfaceBuilder, ground: Ground, lines: list[Array], zebras: list[Array]) -> None:
    """Square cells that get finer towards the route, coloured by what is there, and an underlay that stops leaks."""
    cells = _grid(ground, CELLS[0], GROUND_REACH)
    banded = shapely.union_all([shapely.LineString(line).buffer(BAND, cap_style="flat") for line in lines])
    striped = shapely.union_all([shapely.Polygon(c) for c in zebras])
    paved = ground.road.buffer(PAVEMENT)
    for area in (banded, striped, ground.road, paved, ground.lot):
        shapely.prepare(area)
    for level, size in enumerate(CELLS):
        split = np.zeros(len(cells), bool)
        if level < len(SPLIT_WITHIN):
            split = shapely.distance(shapely.points(cells), ground.route) < SPLIT_WITHIN[level] + size * 0.7
        kept = cells[~split]
        x, y = kept.T
        kept = kept[~(shapely.contains_xy(banded, x, y) | shapely.contains_xy(striped, x, y))] if len(kept) else kept
        if len(kept):
            _lay(b, kept, size, ground, paved)
        quarter = size / 4 * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])
        cells = (cells[split][:, None] + quarter).reshape(-1, 2)
    under = _grid(ground, 3.2, reach=60.0)
    b.add(np.column_stack([under, np.full(len(under), -0.3)]), (2.0, 2.0, 0.02), (0.30, 0.30, 0.30))


def _grid(ground: Ground, size: float, reach: float) -> Array:
    low, high = (np.array(v) for v in (ground.route.bounds[:2], ground.route.bounds[2:]))
    axes = [np.arange(a - reach, z + reach, size) for a, z in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    return points[shapely.distance(shapely.points(points), ground.route) < reach]


def _lay(b: SurfaceBuilder, cells: Array, size: float, ground: Ground, paved: shapely.Geometry) -> None:
    x, y = cells.T
    road, lot, beside = (shapely.contains_xy(area, x, y) for area in (ground.road, ground.lot, paved))
    rgb = np.select(
        [road[:, None], lot[:, None], beside[:, None]],
        [np.array(ASPHALT), np.array(LOT), np.array(PAVING)],
        np.array(SOIL),
    )
    b.add(np.column_stack([cells, np.zeros(len(cells))]), (0.58 * size, 0.58 * size, 0.012), rgb, jitter=0.012)


def _strips(lines: tuple[Array, ...], ground: Ground, within: float) -> list[Array]:
    """Lines within reach of the route, as pieces of at most 25 m so that each has one level of detail."""
    reach = ground.route.buffer(within)
    pieces = []
    for line in lines:
        for part in line_parts(shapely.LineString(line).intersection(reach)):
            length = along_polyline(part)[-1]
            cuts = np.linspace(0.0, length, int(np.ceil(length / 25.0)) + 1)
            for a, z in pairwise(cuts):
                pieces.append(_piece(part, a, z))
    return pieces


def _piece(line_P2: Array, begin: float, end: float) -> Array:
    s = along_polyline(line_P2)
    inner = line_P2[(s > begin + 1e-3) & (s < end - 1e-3)]
    ends = sample_polyline(line_P2, np.array([begin, end]))[0]
    return np.concatenate([ends[:1], inner, ends[1:]])


def _coarseness(line_P2: Array, ground: Ground) -> float:
    """1 near the route, growing with the distance."""
    return float(np.clip(shapely.LineString(line_P2).distance(ground.route) / 14.0, 1.0, 5.0))


def _mark(b: SurfaceBuilder, line_P2: Array, ground: Ground, rgb: tuple[float, float, float], *, dashed: bool) -> None:
    """A painted line with the asphalt beside it: three columns, the middle one exactly the paint."""
    coarse = _coarseness(line_P2, ground)
    overhang = BAND + 0.2  # cells are cut by their centres; asphalt over asphalt does not show

    def colour(s: Array, d: Array) -> Array:
        on = np.abs(d) < MARK
        if dashed:
            on &= np.mod(s, 6.25) < 3.0
        return np.where(on[:, None], rgb, ASPHALT)

    b.ribbon(line_P2, (-overhang, -MARK, MARK, overhang), 0.5 * coarse, colour)


def _zebra(b: SurfaceBuilder, crossing_Q2: Array, ground: Ground) -> None:
    """Bars across the walking direction, which is the long side of the crossing's smallest rectangle."""
    area = shapely.Polygon(crossing_Q2)
    box = np.asarray(shapely.minimum_rotated_rectangle(area).exterior.coords)
    sides = np.diff(box[:3], axis=0)
    along = sides[np.argmax(np.hypot(*sides.T))]
    along = along / max(float(np.hypot(*along)), 1e-6)
    size = 0.3 * float(np.clip(area.distance(ground.route) / 14.0, 1.0, 3.0))

    def colour(points_N2: Array) -> Array:
        bar = np.mod((points_N2 - box[0]) @ along, 1.2) < 0.6
        return np.where(bar[:, None], WHITE, ASPHALT)

    b.polygon(crossing_Q2, size, colour, yaw=float(np.arctan2(along[1], along[0])))


def _edge(b: SurfaceBuilder, line_P2: Array, ground: Ground, *, raised: bool) -> None:
    """Kerb stones along the road's edge; they stand up only where the map vouches for what is drivable."""
    coarse = _coarseness(line_P2, ground)
    height = KERB_HEIGHT if raised else 0.0
    b.ribbon(line_P2, (-0.16, 0.16), 0.7 * coarse, STONE, z=height, jitter=0.02)
    if raised:
        b.wall(line_P2, 0.0, (0.0, height), 0.7 * coarse, KERB_FACE)


def _sorted_along(cloud: GaussianCloud, route_P2: Array) -> GaussianCloud:
    """Neighbours in space become neighbours in memory."""
    order = np.argsort(cKDTree(route_P2).query(cloud.means_N3[:, :2])[1], kind="stable")
    return GaussianCloud(
        *(a[order] for a in (cloud.means_N3, cloud.scales_N3, cloud.quats_N4, cloud.opacities_N, cloud.sh_NK3))
    )
