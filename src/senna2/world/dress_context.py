"""Sparse scenery beside a recorded street: house fronts, trees and lamps, so that it reads as a street.

None of it is in the recording. It stands off the road and away from every place where a recorded thing stood or went,
has no box, and no metric knows of it. [ours]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

from senna2.frames import along_polyline, sample_polyline
from senna2.types import Array
from senna2.world.dress_map import line_parts
from senna2.world.town.look import SHOP, WALLS, WINDOW
from senna2.world.town.surfaces import SurfaceBuilder, placed, quat_about_z
from senna2.world.town.vegetation import build_tree

if TYPE_CHECKING:
    from senna2.world.dress_surfaces import Ground

SCENERY_WITHIN = 95.0  # m to the route
FRONT = 9.0  # m from the road's edge to the house fronts
TREE_ROW, LAMP_ROW = 2.6, 0.9  # m from the road's edge


def add_context(b: SurfaceBuilder, ground: Ground, rng: np.random.Generator) -> None:
    """House fronts along the street's outline, trees and lamps at its edge."""
    block = ground.road.buffer(6.0).buffer(-6.0)  # small islands and notches are no place for houses
    taken = shapely.union_all([ground.road, ground.lot, ground.used])
    for area in (taken, ground.road):
        shapely.prepare(area)
    for line in _rows(block, FRONT, ground):
        _houses(b, line, taken, ground, rng)
    for line in _rows(block, TREE_ROW, ground):
        for point, yaw in _posts(line, rng, every=13.0):
            if taken.distance(shapely.Point(point)) > 1.2:
                _tree(b, point, yaw, rng)
    for line in _rows(block, LAMP_ROW, ground):
        for point, yaw in _posts(line, rng, every=32.0):
            if taken.distance(shapely.Point(point)) > 0.5:
                _lamp(b, point, yaw)


def _rows(block: shapely.Geometry, offset: float, ground: Ground) -> list[Array]:
    """Lines at an offset outside the street's outline, near the route."""
    outline = block.buffer(offset).simplify(0.4).boundary
    return line_parts(outline.intersection(ground.route.buffer(SCENERY_WITHIN)), shortest=6.0)


def _posts(line_P2: Array, rng: np.random.Generator, every: float) -> list[tuple[Array, float]]:
    s = np.arange(rng.uniform(0, every), along_polyline(line_P2)[-1], every)
    points, yaws = sample_polyline(line_P2, s + rng.uniform(-0.15, 0.15, len(s)) * every)
    return list(zip(points, yaws.tolist(), strict=True))


def _houses(
    b: SurfaceBuilder, line_P2: Array, taken: shapely.Geometry, ground: Ground, rng: np.random.Generator
) -> None:
    """House after house with windows on a grid and shop fronts; a gap where something was recorded."""
    length, s = float(along_polyline(line_P2)[-1]), 0.0
    while s < length - 5.0:
        front = min(float(rng.choice([12.0, 14.4, 16.8])), length - s)
        ends = sample_polyline(line_P2, np.linspace(s, s + front, 6))[0]
        piece = shapely.LineString(ends)
        if not piece.buffer(2.0).intersects(taken):
            _house(b, ends, piece.distance(ground.route), rng)
        s += front + (4.0 if rng.random() < 0.2 else 0.0)


def _house(b: SurfaceBuilder, line_P2: Array, distance: float, rng: np.random.Generator) -> None:
    coarse = float(np.clip(distance / 22.0, 1.0, 2.5))
    height, base = 3.2 + 3.0 * int(rng.integers(2, 5)), WALLS[rng.integers(len(WALLS))] * rng.uniform(0.85, 1.08)
    shops, bay = rng.random() < 0.5, float(rng.uniform(3.6, 6.0))

    def ground_floor(u: Array, z: Array) -> Array:
        glass = (z > 0.5) & (z < 2.5) & (np.mod(u, bay) < (0.78 if shops else 0.28) * bay)
        return np.where(glass[:, None], SHOP, np.where((z >= 2.56)[:, None], base * 0.6, base * 0.95))

    def upper(u: Array, z: Array) -> Array:
        window = (np.abs(np.mod(u, 2.4) - 1.2) < 0.45) & (np.abs(np.mod(z - 3.2, 3.0) - 1.5) < 0.8)
        cornice = z > height - 0.5
        return np.where(window[:, None], WINDOW, np.where(cornice[:, None], base * 0.72, base))

    heading = line_P2[-1] - line_P2[0]
    sun = 0.86 + 0.14 * float(heading[0] / max(float(np.hypot(*heading)), 1e-6))  # one light for the whole street
    rows = int(np.ceil((height - 3.2) / (0.75 * coarse)))
    b.wall(
        line_P2,
        0.0,
        np.linspace(0, 3.2, max(3, round(6 / coarse))),
        0.6 * coarse,
        lambda u, z: sun * ground_floor(u, z),
    )
    b.wall(line_P2, 0.0, np.linspace(3.2, height, rows + 1), 0.8 * coarse, lambda u, z: sun * upper(u, z))
    b.wall(line_P2, -0.5, np.linspace(0, height, round(height / 2.4) + 1), 2.4, base * 0.62 * sun, overlap=0.62)


def _tree(b: SurfaceBuilder, point_2: Array, yaw: float, rng: np.random.Generator) -> None:
    tree = build_tree(rng, rng.uniform(5.0, 7.5), leaves=52)
    b.add_cloud(placed(tree, (point_2[0], point_2[1], yaw)))


def _lamp(b: SurfaceBuilder, point_2: Array, yaw: float) -> None:
    post = np.column_stack([np.tile(point_2, (10, 1)), np.linspace(0.3, 6.0, 10)])
    b.add(post, (0.065, 0.065, 0.33), (0.25, 0.25, 0.27))
    b.add((*point_2, 6.15), (0.12, 0.55, 0.06), (0.80, 0.80, 0.75), quats=quat_about_z(np.asarray(yaw)))
