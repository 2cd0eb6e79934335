"""Lanes, drivable areas and lines of a map, built once and asked every frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from senna2.geometry.kernels import farthest_outside, held_by, hits_any
from senna2.types import Array, InputError


class LaneAreas:
    """The lanes of a clip as areas, built once and asked every frame.

    polygons: (Q, 2) rings, open or closed. joined: (lane, successor) index pairs, end to end. junction: one
    flag a lane.
    """

    def __init__(self, polygons: Sequence[Array], joined: Sequence[tuple[int, int]], junction: Sequence[bool]) -> None:
        areas = _polygons(polygons, "lane")
        rings = [_edges(area) for area in areas]
        self._edges_E4 = np.concatenate([np.zeros((0, 4)), *rings])
        self._first_L = np.concatenate([[0], np.cumsum([len(r) for r in rings], dtype=np.int64)])
        self._bounds_L4 = shapely.bounds(areas).reshape(-1, 4)
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

    def in_junction(self, point_2: Array) -> bool:
        """Whether a point (2,) is in a lane of a junction."""
        return bool(self._junction[self._held(np.asarray(point_2)[None]) > 0].any())

    def watches_all_around(self, corners_42: Array, point_2: Array) -> bool:
        """Whether an ego of these corners and rear axle is in several lanes, off the lanes or in a junction. A corner
        off the lanes is in no chain of them, so `several_lanes` knows it too."""
        return self.several_lanes(corners_42) or self.in_junction(point_2)

    def _corners_by_lane(self, corners_42: Array) -> dict[int, int]:
        """Lane → bit set of the corners in it."""
        held_L = self._held(corners_42)
        return {int(lane): int(held_L[lane]) for lane in held_L.nonzero()[0]}

    def _held(self, points_N2: Array) -> Array:
        points = np.ascontiguousarray(points_N2, np.float64)
        return held_by(points, self._edges_E4, self._first_L, self._bounds_L4)

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
        self._edges_E4 = _edges(shapely.union_all(_polygons(polygons, "drivable area")))

    def outside_m(self, corners_42: Array) -> float:
        """Largest distance of a corner (4, 2) outside the area, m; 0 if all are inside."""
        return farthest_outside(np.ascontiguousarray(corners_42, np.float64), self._edges_E4)


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
        return bool(hits_any(np.ascontiguousarray(box_5, np.float64), self.segments_S4))


def _polygons(rings: Sequence[Array], what: str) -> Array:
    areas = []
    for i, ring in enumerate(rings):
        points = np.asarray(ring, np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
            raise InputError(f"{what} polygon {i}: shape {points.shape}; needs (at least 3, 2) finite points")
        areas.append(shapely.make_valid(shapely.Polygon(points)))  # maps do hold rings that cross themselves
    return np.array(areas, dtype=object)


def _edges(area: shapely.Geometry) -> Array:
    """(E, 4) edges x0, y0, x1, y1 of all rings of a valid area; what points and lines it holds (of rings without
    width) run there and back, so that a ray meets them an even number of times."""
    edges = [np.zeros((0, 4))]
    for part in shapely.get_parts(shapely.get_parts(area)):  # a collection may hold a multi-polygon
        hollow = part.geom_type != "Polygon"
        for ring in (part,) if hollow else (part.exterior, *part.interiors):
            points = shapely.get_coordinates(ring)
            points = np.concatenate([points, points[::-1]]) if hollow else points
            edges.append(np.hstack([points[:-1], points[1:]]))
    return np.concatenate(edges)
