"""The map, the route over it, and the lights beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import shapely

from senna2.frames import along_polyline, project_to_polyline, sample_polyline, wrap
from senna2.types import Array
from senna2.world.check.findings import Finding, error, real_or_wrong, warning
from senna2.world.scene import LANE_KINDS, Lane, Light, Scene

LIMIT_MAX = 45.0  # m/s, 162 km/h: beyond it a limit is km/h
GAP_M = 3.0  # between a lane and its successor
OFF_M = 0.3  # as the judge's: the route further outside is off the road
AGAINST_RAD = 2 * np.pi / 3
AROUND_M = 45  # on the wrong side and back again: round something that stands in the way
AHEAD_M = 60.0  # of the route beyond the drive, which policies see


def check_shapes(scene: Scene) -> Iterator[Finding]:
    """Lines and areas that are some: what every later check rests on."""
    for lane in scene.map.lanes:
        finite = np.isfinite(lane.centre_P2).all() and np.isfinite(lane.polygon_Q2).all()
        if len(lane.centre_P2) < 2 or len(lane.polygon_Q2) < 3 or not finite:
            at = f"map: lane {lane.id}"
            yield error(at, "centre or polygon is too short or holds NaN", "give at least 2 and 3 finite points")
    for signal in scene.signals:
        if not np.isin(signal.state_T, [int(s) for s in Light]).all():
            yield error(f"signal {signal.id}: state", "holds an unknown state", "use RED, AMBER, GREEN")
        if (np.diff(signal.t_T) <= 0).any():
            yield error(f"signal {signal.id}: t", "does not increase", "sort the rows by time, each time once")
    length = float(along_polyline(np.asarray(scene.route_P2, np.float64))[-1])
    if length < 1.0:
        yield error("route", f"is {length:.2f} m long", "give the polyline to be driven")


def check_map(scene: Scene) -> Iterator[Finding]:
    lanes = {lane.id: lane for lane in scene.map.lanes}
    for name, times in Counter(lane.id for lane in scene.map.lanes).items():
        if times > 1:
            yield error(f"map: lane {name}", f"is there {times} times", "give each lane an id of its own")
    for lane in scene.map.lanes:
        yield from _lane(lane, lanes)
    for i, limit in enumerate(scene.speed_limit_P):
        if np.isfinite(limit) and not 0 < limit <= LIMIT_MAX:
            yield error("route: speed_limit", f"is {limit:g} m/s at point {i}", "limits are m/s; null if unknown")
            break
    if scene.map.drivable_known and not scene.map.drivable:
        yield error("map: drivable", "is declared known, yet there is no polygon", "add polygons, or declare unknown")


def _lane(lane: Lane, lanes: dict[str, Lane]) -> Iterator[Finding]:
    at = f"map: lane {lane.id}"
    if lane.kind not in LANE_KINDS:
        yield error(f"{at}: kind", f"'{lane.kind}' is unknown", f"use one of {', '.join(LANE_KINDS)}")
    if np.isfinite(lane.speed_limit) and not 0 < lane.speed_limit <= LIMIT_MAX:
        yield error(f"{at}: speed_limit", f"is {lane.speed_limit:g} m/s", "limits are m/s; null if unknown")
    for field, names in (("successors", lane.successors), ("left", (lane.left,)), ("right", (lane.right,))):
        unknown = [n for n in names if n is not None and n not in lanes]
        if unknown:
            yield error(f"{at}: {field}", f"names {unknown}, which is no lane of the map", "name lanes that exist")
    for after in (lanes[n] for n in lane.successors if n in lanes):
        gap = float(np.hypot(*(after.centre_P2[0] - lane.centre_P2[-1])))
        if gap > GAP_M:
            yield warning(f"{at}: successors", f"'{after.id}' begins {gap:.1f} m from its end", "join the lanes")
    area = shapely.make_valid(shapely.Polygon(lane.polygon_Q2))
    if area.area < 0.5:
        yield warning(f"{at}: polygon", f"covers {area.area:.2f} m²", "give the lane its area")
    elif float(shapely.distance(area, shapely.points(lane.centre_P2)).mean()) > 1.0:
        yield warning(f"{at}: polygon", "does not hold the lane's centre line", "check that both are of one lane")


def check_signals(scene: Scene) -> Iterator[Finding]:
    lanes = {lane.id for lane in scene.map.lanes}
    for signal in scene.signals:
        at = f"signal {signal.id}"
        unknown = [n for n in signal.lanes if n not in lanes]
        if unknown:
            yield error(f"{at}: lanes", f"names {unknown}, which is no lane of the map", "name lanes that exist")
        dark = [s.name for s in Light if f"{signal.asset}.{s.name.lower()}" not in scene.assets]
        if dark:
            yield warning(f"{at}: asset", f"'{signal.asset}' has no lamp for {', '.join(dark)}", "add the variants")


def check_route(scene: Scene) -> Iterator[Finding]:
    """On the road and with the lanes as far as the expert drives; beyond that, as far as a policy sees, a warning."""
    line = np.asarray(scene.route_P2, np.float64)
    length = float(along_polyline(line)[-1])
    driven_s, _ = project_to_polyline(scene.expert.pose_E3[:, :2], line)
    first, last = float(driven_s.min()), float(driven_s.max())
    s_N = np.arange(first, min(last + AHEAD_M, length) + 0.5, 1.0).clip(max=length)
    points, heading = sample_polyline(line, s_N)
    if scene.map.drivable_known and scene.map.drivable:
        area = shapely.union_all([shapely.make_valid(shapely.Polygon(p)) for p in scene.map.drivable])
        off_N = shapely.distance(area, shapely.points(points))
        yield from _off_road(scene, points, off_N, s_N <= last)
    yield from _against(scene, points, heading, s_N <= last)


def _off_road(scene: Scene, points_N2: Array, off_N: Array, driven_N: Array) -> Iterator[Finding]:
    for of, tell in ((driven_N, real_or_wrong), (~driven_N, lambda _, *told: warning(*told))):
        bad = np.flatnonzero((off_N > OFF_M) & of)
        if len(bad):
            x, y = points_N2[bad[0]]
            what = f"is off the drivable area for {len(bad)} m, first at ({x:.1f}, {y:.1f})"
            yield tell(scene, "route", what, "lead it over the road, or complete map.drivable")
            return


def _against(scene: Scene, points_N2: Array, heading_N: Array, driven_N: Array) -> Iterator[Finding]:
    """A point is against the traffic if it lies in lanes, and every one of them runs the other way."""
    inside, against = np.zeros(len(points_N2), bool), np.ones(len(points_N2), bool)
    spots = shapely.points(points_N2)
    for lane in scene.map.lanes:
        area = shapely.make_valid(shapely.Polygon(lane.polygon_Q2))
        here = shapely.contains(area, spots)
        if not here.any():
            continue
        line = np.asarray(lane.centre_P2, np.float64)
        s, _ = project_to_polyline(points_N2[here], line)
        _, runs = sample_polyline(line, s)
        inside |= here
        against[here] &= np.abs(wrap(runs - heading_N[here])) > AGAINST_RAD
    wrong = inside & against
    edges = np.flatnonzero(np.diff(np.concatenate([[0], wrong.astype(int), [0]])))
    for first, end in edges.reshape(-1, 2):  # metres, since the points are one apart
        around = first > 0 and end < len(wrong) and end - first <= AROUND_M
        if driven_N[first] and end - first >= 3 and not around:
            x, y = points_N2[first]
            what = f"runs against the lanes for {end - first} m from ({x:.1f}, {y:.1f})"
            yield real_or_wrong(scene, "route", what, "turn it, or the lanes' centre lines, round")
            return
