"""Oriented boxes, time to collision, fault of a contact, lanes and drivable areas.

A box is (…, 5): x, y of its CENTRE, yaw, length, width, in metres and radians. An ego pose (…, 3) is the rear
axle. Sets are closed: boxes that only touch overlap. A box with a NaN (an absent agent) touches nothing. The
loops are numba kernels over flat arrays; numpy broadcasts around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, inf, pi, sin

import numba
import numpy as np
import shapely

from senna2.types import Array, InputError, VehicleShape

STAND_SPEED = 0.05  # m/s; at or below it a car stands
AHEAD = pi / 6  # rad; nuPlan's bound of "ahead of the ego"
BEHIND = 150 * pi / 180  # rad; beyond it an agent is behind


@dataclass(frozen=True)
class ContactVerdict:
    """`kind` is one of front, rear, lateral, stopped_ego, stopped_agent, static.

    `lateral_undecided`: a lateral contact on a map without complete lanes, hence counted as nobody's fault.
    """

    kind: str
    at_fault: bool
    lateral_undecided: bool = False


# --- boxes -----------------------------------------------------------------------------------------------


def box_of(pose_3: Array, shape: VehicleShape) -> Array:
    """Rear-axle poses (…, 3) → boxes (…, 5) of that vehicle."""
    pose = np.asarray(pose_3, np.float64)
    box = np.empty((*pose.shape[:-1], 5))
    box[..., 0] = pose[..., 0] + shape.centre_offset * np.cos(pose[..., 2])
    box[..., 1] = pose[..., 1] + shape.centre_offset * np.sin(pose[..., 2])
    box[..., 2] = pose[..., 2]
    box[..., 3:] = (shape.length, shape.width)
    return box


def corners(boxes_5: Array) -> Array:
    """Boxes (…, 5) → corners (…, 4, 2): front-left, front-right, rear-right, rear-left."""
    box = np.asarray(boxes_5, np.float64)
    along = np.stack([np.cos(box[..., 2]), np.sin(box[..., 2])], -1) * (box[..., 3:4] / 2)
    left = np.stack([-np.sin(box[..., 2]), np.cos(box[..., 2])], -1) * (box[..., 4:5] / 2)
    centre = box[..., :2]
    return np.stack([centre + along + left, centre + along - left, centre - along - left, centre - along + left], -2)


def overlap(a_5: Array, b_5: Array) -> Array:
    """Whether boxes meet, by separating axes: (…, 5) × (…, 5) → bool of the broadcast shape."""
    a, b = np.broadcast_arrays(np.asarray(a_5, np.float64), np.asarray(b_5, np.float64))
    flat = _overlap_many(np.ascontiguousarray(a).reshape(-1, 5), np.ascontiguousarray(b).reshape(-1, 5))
    return flat.reshape(a.shape[:-1])


def hits_segments(boxes_5: Array, segments_S4: Array) -> Array:
    """Whether boxes (N, 5) meet segments (S, 4: x0, y0, x1, y1): (N, S) bool. NaN rows (padding) never do."""
    boxes = np.ascontiguousarray(boxes_5, np.float64).reshape(-1, 5)
    segments = np.ascontiguousarray(segments_S4, np.float64).reshape(-1, 4)
    return _hits_many(boxes, segments)


def bearing(pose_3: Array, points_2: Array) -> Array:
    """Angle in [0, π] between the heading at a rear axle (…, 3) and the line to points (…, 2)."""
    pose, point = np.asarray(pose_3, np.float64), np.asarray(points_2, np.float64)
    dx, dy = point[..., 0] - pose[..., 0], point[..., 1] - pose[..., 1]
    c, s = np.cos(pose[..., 2]), np.sin(pose[..., 2])
    return np.abs(np.arctan2(c * dy - s * dx, c * dx + s * dy))


# --- safety ----------------------------------------------------------------------------------------------


def ttc(
    ego_pose_3: Array,
    ego_v: float,
    shape: VehicleShape,
    boxes_A5: Array,
    v_A: Array,
    *,
    all_around: bool,
    stand_speed: float = STAND_SPEED,
    horizon_s: float = 5.0,
    step_s: float = 0.1,
) -> Array:
    """Time to collision with each agent, (A,) s, inf where there is none.

    The smallest τ = step_s·k, k = 0, 1 … up to the horizon, at which ego and agent overlap when each keeps
    its speed and heading. Agents ahead (±30° from the rear axle to the box's centre) count; with `all_around`
    (the ego is in several lanes, off the lanes or in a junction) every agent not behind (150°). None counts
    while the ego stands.
    """
    boxes = np.ascontiguousarray(boxes_A5, np.float64).reshape(-1, 5)
    pose = np.asarray(ego_pose_3, np.float64)
    if ego_v <= stand_speed or len(boxes) == 0:
        return np.full(len(boxes), inf)
    counts = bearing(pose, boxes[:, :2]) <= (BEHIND if all_around else AHEAD)
    steps = round(horizon_s / step_s)
    v = np.ascontiguousarray(np.broadcast_to(np.asarray(v_A, np.float64), len(boxes)))
    return _ttc_many(box_of(pose, shape), float(ego_v), boxes, v, counts, step_s, steps)


def judge_contact(
    ego_pose_3: Array,
    ego_v: float,
    shape: VehicleShape,
    box_5: Array,
    agent_v: float,
    *,
    is_static: bool,
    several_lanes: bool | None,
    off_drivable: bool | None,
    stand_speed: float = STAND_SPEED,
) -> ContactVerdict:
    """Kind and fault of the first contact with an agent (nuPlan's collision types).

    Poses are those of the overlap, speeds those before it. None for `several_lanes` or `off_drivable`: the
    map does not say. Without complete lanes a lateral contact is no fault, whatever the drivable area says.
    """
    if ego_v <= stand_speed:
        return ContactVerdict("stopped_ego", False)
    if is_static:
        return ContactVerdict("static", True)
    if agent_v <= stand_speed:
        return ContactVerdict("stopped_agent", True)
    box = np.asarray(box_5, np.float64)
    if bearing(ego_pose_3, box[:2]) > BEHIND:
        return ContactVerdict("rear", False)
    front_edge = corners(box_of(ego_pose_3, shape))[:2].reshape(1, 4)
    if hits_segments(box[None], front_edge)[0, 0]:
        return ContactVerdict("front", True)
    if several_lanes is None:
        return ContactVerdict("lateral", False, lateral_undecided=True)
    return ContactVerdict("lateral", bool(several_lanes or off_drivable))


# --- maps ------------------------------------------------------------------------------------------------


class LaneAreas:
    """The lanes of a clip as areas, built once and asked every frame.

    polygons: (Q, 2) rings, open or closed. joined: (lane, successor) index pairs, end to end. junction: one
    flag a lane.
    """

    def __init__(self, polygons: Sequence[Array], joined: Sequence[tuple[int, int]], junction: Sequence[bool]) -> None:
        self._tree = shapely.STRtree(_polygons(polygons, "lane"))
        if len(junction) != len(polygons):
            raise InputError(f"lanes: {len(junction)} junction flags for {len(polygons)} polygons")
        self._junction = np.asarray(junction, bool)
        self._next: dict[int, list[int]] = {}
        for lane, successor in joined:
            if not (0 <= lane < len(polygons) and 0 <= successor < len(polygons)):
                raise InputError(f"lanes: joined pair ({lane}, {successor}) names no polygon (0…{len(polygons) - 1})")
            self._next.setdefault(lane, []).append(successor)

    def several_lanes(self, corners_42: Array) -> bool:
        """Whether the four corners (4, 2) are not all in one lane, or in lanes that follow one another.

        A corner outside every lane makes it True. Siblings after a fork are two lanes: only a chain counts
        as one.
        """
        held = self._corners_by_lane(corners_42)
        full = (1 << len(corners_42)) - 1
        return not any(self._chain_holds(lane, held, held[lane], full, 3) for lane in held)

    def off_lanes(self, corners_42: Array) -> bool:
        """Whether a corner is in no lane."""
        seen = 0
        for bits in self._corners_by_lane(corners_42).values():
            seen |= bits
        return seen != (1 << len(corners_42)) - 1

    def in_junction(self, point_2: Array) -> bool:
        """Whether a point (2,) is in a lane of a junction."""
        lanes = self._tree.query(shapely.Point(point_2[0], point_2[1]), predicate="intersects")
        return bool(self._junction[lanes].any())

    def _corners_by_lane(self, corners_42: Array) -> dict[int, int]:
        """Lane → bit set of the corners in it."""
        corner, lane = self._tree.query(shapely.points(corners_42), predicate="intersects")
        held: dict[int, int] = {}
        for c, i in zip(corner.tolist(), lane.tolist(), strict=True):
            held[i] = held.get(i, 0) | (1 << c)
        return held

    def _chain_holds(self, lane: int, held: dict[int, int], bits: int, full: int, more: int) -> bool:
        if bits == full:
            return True
        # A few lanes further are enough for a bus over short junction pieces, and bound the search in a loop.
        return more > 0 and any(
            self._chain_holds(after, held, bits | held.get(after, 0), full, more - 1)
            for after in self._next.get(lane, ())
        )


class DrivableArea:
    """The union of (Q, 2) rings, open or closed; at least one."""

    def __init__(self, polygons: Sequence[Array]) -> None:
        if len(polygons) == 0:
            raise InputError("drivable area: no polygon; a map that does not know it has no DrivableArea")
        self._area = shapely.union_all(_polygons(polygons, "drivable area"))
        shapely.prepare(self._area)

    def outside_m(self, corners_42: Array) -> float:
        """Largest distance of a corner (4, 2) outside the area, m; 0 if all are inside."""
        points = shapely.points(np.asarray(corners_42, np.float64))
        out = points[~shapely.intersects(self._area, points)]
        return float(shapely.distance(self._area, out).max()) if len(out) else 0.0


class Lines:
    """Polylines (P, 2) that must not be touched, or only be watched: kerbs, barriers, dividers."""

    def __init__(self, polylines: Sequence[Array]) -> None:
        pieces = [np.zeros((0, 4))]
        for i, line in enumerate(polylines):
            points = np.asarray(line, np.float64)
            if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2 or not np.isfinite(points).all():
                raise InputError(f"line {i}: shape {points.shape}; needs (at least 2, 2) finite points")
            pieces.append(np.hstack([points[:-1], points[1:]]))
        self.segments_S4 = np.concatenate(pieces)

    def hit(self, box_5: Array) -> bool:
        """Whether a box (5,) meets any line."""
        return bool(_hits_any(np.ascontiguousarray(box_5, np.float64), self.segments_S4))

    def near(self, point_2: Array, radius: float) -> Array:
        """Segments (S, 4) within `radius` m of a point (2,), the nearest first."""
        seg = self.segments_S4
        start, step = seg[:, :2], seg[:, 2:] - seg[:, :2]
        rel = np.asarray(point_2, np.float64) - start
        along = np.clip((rel * step).sum(1) / np.maximum((step * step).sum(1), 1e-18), 0, 1)
        gap = np.hypot(*(rel - along[:, None] * step).T)
        order = np.argsort(gap, kind="stable")
        return seg[order[gap[order] <= radius]]


def _polygons(rings: Sequence[Array], what: str) -> Array:
    areas = []
    for i, ring in enumerate(rings):
        points = np.asarray(ring, np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
            raise InputError(f"{what} polygon {i}: shape {points.shape}; needs (at least 3, 2) finite points")
        areas.append(shapely.make_valid(shapely.Polygon(points)))  # maps do hold rings that cross themselves
    return np.array(areas, dtype=object)


# --- kernels ---------------------------------------------------------------------------------------------


@numba.njit(cache=True)
def _overlap(ax, ay, ac, as_, al, aw, bx, by, bc, bs, bl, bw):
    """Boxes by centre, cos and sin of yaw, half length, half width. `not (gap <= reach)`: NaN separates."""
    dx, dy = bx - ax, by - ay
    c, s = abs(ac * bc + as_ * bs), abs(ac * bs - as_ * bc)
    if not (abs(ac * dx + as_ * dy) <= al + bl * c + bw * s):
        return False
    if not (abs(ac * dy - as_ * dx) <= aw + bl * s + bw * c):
        return False
    if not (abs(bc * dx + bs * dy) <= bl + al * c + aw * s):
        return False
    return abs(bc * dy - bs * dx) <= bw + al * s + aw * c


@numba.njit(cache=True)
def _overlap_many(a, b):
    out = np.empty(len(a), np.bool_)
    for i in range(len(a)):
        p, q = a[i], b[i]
        out[i] = _overlap(
            p[0], p[1], cos(p[2]), sin(p[2]), p[3] / 2, p[4] / 2,
            q[0], q[1], cos(q[2]), sin(q[2]), q[3] / 2, q[4] / 2,
        )  # fmt: skip
    return out


@numba.njit(cache=True)
def _hits(box, c, s, seg):
    """A segment is a box of no width: axes of the box, or the segment's normal, separate the two."""
    mx, my = (seg[0] + seg[2]) / 2 - box[0], (seg[1] + seg[3]) / 2 - box[1]
    hx, hy = (seg[2] - seg[0]) / 2, (seg[3] - seg[1]) / 2
    u, v = c * mx + s * my, c * my - s * mx  # middle and half step in the box's axes
    p, q = c * hx + s * hy, c * hy - s * hx
    half_l, half_w = box[3] / 2, box[4] / 2
    if not (abs(u) <= half_l + abs(p)) or not (abs(v) <= half_w + abs(q)):
        return False
    return abs(u * q - v * p) <= half_l * abs(q) + half_w * abs(p)


@numba.njit(cache=True)
def _hits_many(boxes, segments):
    out = np.empty((len(boxes), len(segments)), np.bool_)
    for i in range(len(boxes)):
        c, s = cos(boxes[i, 2]), sin(boxes[i, 2])
        for j in range(len(segments)):
            out[i, j] = _hits(boxes[i], c, s, segments[j])
    return out


@numba.njit(cache=True)
def _hits_any(box, segments):
    c, s = cos(box[2]), sin(box[2])
    for j in range(len(segments)):  # noqa: SIM110 (numba has no generators)
        if _hits(box, c, s, segments[j]):
            return True
    return False


@numba.njit(cache=True)
def _ttc_many(ego, ego_v, boxes, v, counts, step_s, steps):
    out = np.full(len(boxes), np.inf)
    ec, es, el, ew = cos(ego[2]), sin(ego[2]), ego[3] / 2, ego[4] / 2
    for i in range(len(boxes)):
        if not counts[i]:
            continue
        c, s, half_l, half_w = cos(boxes[i, 2]), sin(boxes[i, 2]), boxes[i, 3] / 2, boxes[i, 4] / 2
        for k in range(steps + 1):
            t = k * step_s  # integer k: summing 0.1 would drift past the horizon
            if _overlap(
                ego[0] + ego_v * t * ec, ego[1] + ego_v * t * es, ec, es, el, ew,
                boxes[i, 0] + v[i] * t * c, boxes[i, 1] + v[i] * t * s, c, s, half_l, half_w,
            ):  # fmt: skip
                out[i] = t
                break
    return out
