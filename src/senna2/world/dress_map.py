"""The map of a dressed recording: what is near the recorded path, and only what the recording's map vouches for.

Legend: F frames, P points of a line, Q corners of a polygon (open ring), N things.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import shapely

from senna2.frames import along_polyline, sample_polyline
from senna2.geometry import box_of
from senna2.types import Array, Direction
from senna2.world.importers.log import LoggedLane, RecordedLog
from senna2.world.judge import drivable_union, holds_boxes
from senna2.world.scene import Lane, LaneMap

REACH = 120.0  # m around the route that a clip keeps of the map
HALF_LANE = 1.75  # m, half width of a lane the map gives without its area [ours]
KERB_IN_LANE = 0.3  # m: a boundary that runs deeper inside a lane than this is where the map ends, not a kerb
COMPLETE_WITHIN = 8.0  # m around the path in which lanes must cover the drivable area …
COMPLETE_SHARE = 0.95  # … to this share, for lateral fault and straddling to be judged [ours]


def build_map(log: RecordedLog, route_P2: Array) -> LaneMap:
    """The log's map near the route as a `LaneMap`.

    The drivable area counts as known if the map declares one and it holds the recorded ego's whole box in every frame
    (EVALUATION.md, Static collision); its outer boundary then is the kerb.
    """
    near = shapely.LineString(route_P2).buffer(REACH)
    kept = [lane for lane in log.lanes if shapely.LineString(lane.centre_P2).intersects(near)]
    kinds = {lane.id: lane.kind for lane in kept}
    lanes = tuple(_lane(lane, kinds) for lane in kept)
    area = drivable_area(log)
    known = area is not None and holds_boxes(area, box_of(log.ego_pose_F3, log.ego_shape))
    kerbs = _kerbs(area, lanes, near) if area is not None and known else ()
    return LaneMap(
        lanes=lanes,
        dividers=_cut(log.dividers, near),
        centre_lines=_cut(log.centre_lines, near),
        kerbs=kerbs,
        drivable=tuple(log.drivable or ()) if known else (),
        crossings=tuple(c for c in log.crossings if len(c) >= 3 and shapely.Polygon(c).intersects(near)),
        drivable_known=known,
        lanes_complete=area is not None and known and _covers(lanes, area, log),
    )


def drivable_area(log: RecordedLog) -> shapely.Geometry | None:
    """The union of the drivable polygons the map declares; None without any."""
    return drivable_union(log.drivable) if log.drivable else None


def lane_polygon(lane: LoggedLane | Lane) -> Array:
    """The lane's area (Q, 2); a strip of `HALF_LANE` to both sides where the map has only the centre line."""
    if lane.polygon_Q2 is not None:
        return lane.polygon_Q2
    strip = shapely.LineString(lane.centre_P2).buffer(HALF_LANE, cap_style="flat", quad_segs=2)
    if strip.geom_type != "Polygon":  # a line that crosses itself
        strip = max(strip.geoms, key=lambda part: part.area)
    return np.asarray(strip.exterior.coords)[:-1]


def _lane(lane: LoggedLane, kinds: Mapping[str, str]) -> Lane:
    """`kinds`: of the lanes that are kept. A neighbour is one to change to, so only one of the same kind counts."""
    left, right = (n if n is not None and kinds.get(n) == lane.kind else None for n in (lane.left, lane.right))
    return Lane(
        lane.id, lane.centre_P2, lane_polygon(lane), lane.speed_limit, tuple(s for s in lane.successors if s in kinds),
        left, right, lane.in_junction, lane.kind,
    )  # fmt: skip


def _cut(lines: tuple[Array, ...], near: shapely.Geometry) -> tuple[Array, ...]:
    return tuple(part for line in lines for part in line_parts(shapely.LineString(line).intersection(near)))


def line_parts(geometry: shapely.Geometry, shortest: float = 0.5) -> list[Array]:
    """The polylines (P, 2) of a geometry, without crumbs."""
    parts = shapely.get_parts(shapely.line_merge(geometry) if geometry.geom_type == "MultiLineString" else geometry)
    return [
        np.asarray(p.coords)[:, :2]
        for p in parts
        if p.geom_type in ("LineString", "LinearRing") and p.length > shortest
    ]


def _kerbs(area: shapely.Geometry, lanes: tuple[Lane, ...], near: shapely.Geometry) -> tuple[Array, ...]:
    """The area's boundary, without the cuts across the road where the recorded map ends: no lane runs over a kerb."""
    rings = [shapely.make_valid(shapely.Polygon(lane.polygon_Q2)) for lane in lanes]
    inside = shapely.union_all(rings).buffer(-KERB_IN_LANE)
    ends = shapely.union_all([_prolonged(lane, ring) for lane, ring in zip(lanes, rings, strict=True)])
    crossed = inside.union(ends).buffer(KERB_IN_LANE + 0.05).buffer(-KERB_IN_LANE - 0.05)  # no crumbs between two lanes
    return tuple(line_parts(area.boundary.intersection(near).difference(crossed)))


def _prolonged(lane: Lane, ring: shapely.Geometry) -> shapely.Geometry:
    """The lane's strip, a little narrower, and longer by half a metre: it crosses a boundary flush with its end."""
    length = max(float(along_polyline(lane.centre_P2)[-1]), 0.1)
    half = max(ring.area / length / 2 - KERB_IN_LANE, 0.2)
    line = sample_polyline(lane.centre_P2, np.array([-0.5, length + 0.5]))[0]
    line = np.concatenate([line[:1], lane.centre_P2, line[1:]])
    return shapely.LineString(line).buffer(half, cap_style="flat")


def _covers(lanes: tuple[Lane, ...], area: shapely.Geometry, log: RecordedLog) -> bool:
    around = _path(log).buffer(COMPLETE_WITHIN).intersection(area)
    in_lanes = shapely.union_all([shapely.make_valid(shapely.Polygon(lane.polygon_Q2)) for lane in lanes])
    return bool(in_lanes.intersection(around).area >= COMPLETE_SHARE * around.area)


def _path(log: RecordedLog) -> shapely.Geometry:
    return shapely.LineString(log.ego_pose_F3[:, :2])


def limits_along(lane_map: LaneMap, route_P2: Array) -> Array:
    """Speed limit (P,) in m/s at the route's points: the lowest of the lanes there; NaN where no lane says."""
    limit_P = np.full(len(route_P2), np.nan)
    points = shapely.points(route_P2)
    for lane in lane_map.lanes:
        if np.isfinite(lane.speed_limit):
            inside = shapely.contains(shapely.make_valid(shapely.Polygon(lane.polygon_Q2)), points)
            limit_P[inside] = np.fmin(limit_P[inside], lane.speed_limit)
    return limit_P


def lane_changes(log: RecordedLog, ahead: int) -> Array:
    """`Direction` (F,) of lane changes that complete within `ahead` frames, STRAIGHT elsewhere.

    Known only where the map names neighbours: the ego is then in a lane beside the one it would have followed.
    """
    out = np.full(log.frames, int(Direction.STRAIGHT))
    lanes = {lane.id: lane for lane in log.lanes}
    if not any(lane.left or lane.right for lane in log.lanes):
        return out
    in_lane_F = [_lane_at(pose, log.lanes) for pose in log.ego_pose_F3]
    for i in range(log.frames):
        here, later = in_lane_F[i], in_lane_F[min(i + ahead, log.frames - 1)]
        if here is None or later is None or lanes[here].in_junction:
            continue
        chain = _followed(here, lanes)
        if later in chain:
            continue
        if later in {lanes[c].left for c in chain}:
            out[i] = Direction.CHANGE_LEFT
        elif later in {lanes[c].right for c in chain}:
            out[i] = Direction.CHANGE_RIGHT
    return out


def _lane_at(pose_3: Array, lanes: tuple[LoggedLane, ...], agree_rad: float = 0.6) -> str | None:
    """The car lane under the rear axle that runs the ego's way; the one whose sense agrees best."""
    best, found = agree_rad, None
    point = shapely.Point(pose_3[:2])
    for lane in lanes:
        if lane.kind != "car":
            continue
        ring = lane_polygon(lane)
        if not ((ring.min(0) <= pose_3[:2]).all() and (ring.max(0) >= pose_3[:2]).all()):
            continue
        if shapely.make_valid(shapely.Polygon(ring)).contains(point):
            nearest = int(np.argmin(np.hypot(*(lane.centre_P2 - pose_3[:2]).T)))
            i = min(nearest, len(lane.centre_P2) - 2)
            dx, dy = lane.centre_P2[i + 1] - lane.centre_P2[i]
            off = abs(float(np.angle(np.exp(1j * (np.arctan2(dy, dx) - pose_3[2])))))
            if off < best:
                best, found = off, lane.id
    return found


def _followed(lane_id: str, lanes: dict[str, LoggedLane], reach: float = 60.0) -> set[str]:
    """The lane and those that follow it within `reach` metres."""
    found: set[str] = set()
    open_ = [(lane_id, 0.0)]
    while open_:
        name, driven = open_.pop()
        if name in found or name not in lanes:
            continue
        found.add(name)
        end = driven + float(along_polyline(lanes[name].centre_P2)[-1])
        if end < reach:
            open_ += [(s, end) for s in lanes[name].successors]
    return found
