"""The compiled areas and time to collision against shapely and the general functions."""

from __future__ import annotations

from math import inf, pi

import numpy as np
import pytest
import shapely

from senna2.geometry import AHEAD, DrivableArea, LaneAreas, bearing, corners, least_ttc, ttc
from senna2.types import Array, VehicleShape

CAR = VehicleShape()
EDGE = 1e-9  # m; closer than this the answer is a matter of rounding


def star(rng: np.random.Generator, middle: Array, most: float = 12.0) -> Array:
    """A ring that does not cross itself, of 3 to 12 points."""
    angle = np.sort(rng.uniform(0, 2 * pi, rng.integers(3, 13)))
    return middle + rng.uniform(0.3, most, len(angle))[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def odd_ring(rng: np.random.Generator) -> Array:
    """Rings as maps hold them too: that cross themselves, or are closed, or run back on themselves."""
    ring = rng.uniform(-10, 10, (int(rng.integers(3, 8)), 2))
    return [ring, np.vstack([ring, ring[:1]]), np.vstack([ring[:2], ring[:1]])][int(rng.integers(3))]


@pytest.mark.parametrize("seed", range(40))
def test_distance_outside_is_shapely_s_distance_from_the_union(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rings = [star(rng, rng.uniform(-10, 10, 2)) for _ in range(rng.integers(1, 6))]
    rings += [odd_ring(rng) for _ in range(rng.integers(0, 3))]
    area, union = DrivableArea(rings), shapely.union_all([shapely.make_valid(shapely.Polygon(r)) for r in rings])
    points = rng.uniform(-30, 30, (200, 2))
    found = [area.outside_m(p[None]) for p in points]
    assert np.allclose(found, shapely.distance(union, shapely.points(points)), atol=EDGE)
    assert area.outside_m(points) == max(found)


def test_a_hole_in_the_drivable_area_is_outside() -> None:
    frame = [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float) for x0, y0, x1, y1 in
             ((0, 0, 10, 2), (0, 8, 10, 10), (0, 0, 2, 10), (8, 0, 10, 10))]  # fmt: skip
    area = DrivableArea(frame)
    assert area.outside_m(np.array([(5.0, 5.0)])) == pytest.approx(3.0)
    assert area.outside_m(np.array([(1.0, 5.0), (2.0, 5.0), (10.0, 10.0), (0.0, 3.0)])) == 0


@pytest.mark.parametrize("seed", range(40))
def test_lanes_hold_the_points_that_shapely_says(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    rings = [star(rng, rng.uniform(-10, 10, 2)) for _ in range(8)] + [odd_ring(rng) for _ in range(3)]
    flags = rng.random(len(rings)) < 0.3
    lanes = LaneAreas(rings, [], flags)
    polygons = np.array([shapely.make_valid(shapely.Polygon(r)) for r in rings])
    for _ in range(40):
        four = corners(np.array([*rng.uniform(-12, 12, 2), rng.uniform(-pi, pi), 4.6, 1.9]))
        held_L4 = shapely.intersects(polygons[:, None], shapely.points(four)[None])
        middle = four.mean(0)
        assert lanes.several_lanes(four) == (not held_L4.all(1).any())
        assert lanes.in_junction(middle) == shapely.intersects(polygons[flags], shapely.Point(middle)).any()
        assert lanes.watches_all_around(four, middle) == (
            lanes.several_lanes(four) or not held_L4.any(0).all() or lanes.in_junction(middle)
        )


def test_points_on_an_edge_belong_to_both_neighbours() -> None:
    """On whole numbers there is no rounding: shapely's closed sets, exactly."""
    rng = np.random.default_rng(3)
    rings = [rng.integers(-6, 7, (int(rng.integers(3, 7)), 2)).astype(float) for _ in range(60)]
    polygons = [shapely.Polygon(r) for r in rings]
    rings = [r for r, p in zip(rings, polygons, strict=True) if p.is_valid]
    assert len(rings) > 15
    grid = np.stack(np.meshgrid(np.arange(-7.0, 8), np.arange(-7.0, 8)), -1).reshape(-1, 2)
    for ring in rings:
        lanes, polygon = LaneAreas([ring], [], [True]), shapely.Polygon(ring)
        wanted = shapely.intersects(polygon, shapely.points(grid))
        assert [lanes.in_junction(p) for p in grid] == wanted.tolist()


@pytest.mark.parametrize("seed", range(30))
def test_least_ttc_is_the_least_of_ttc(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        pose, v = np.array([*rng.normal(0, 5, 2), rng.uniform(-pi, pi)]), rng.uniform(0.1, 20)
        n = int(rng.integers(0, 15))
        boxes = np.column_stack([rng.normal(0, 15, (n, 2)), rng.uniform(-pi, pi, n), rng.uniform(0.5, 9, (n, 2)),
                                 rng.uniform(0, 15, n)])  # fmt: skip
        boxes[rng.random(n) < 0.2] = np.nan
        counted = rng.random(n) < 0.8
        here = boxes[counted & np.isfinite(boxes[:, 0])]
        around = ttc(pose, v, CAR, here[:, :5], here[:, 5], all_around=True)
        ahead = ttc(pose, v, CAR, here[:, :5], here[:, 5], all_around=False)
        assert least_ttc(pose, v, CAR, boxes, counted) == (ahead.min(initial=inf), around.min(initial=inf))
        assert np.array_equal(ahead, np.where(bearing(pose, here[:, :2]) <= AHEAD, around, inf))
