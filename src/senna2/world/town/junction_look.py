"""The ground of junctions and crossings: asphalt without lines, zebras."""

from __future__ import annotations

import numpy as np
import shapely

from senna2.types import Array, InputError
from senna2.world.town.layout import Layout, lay, steps
from senna2.world.town.look import WHITE, Look
from senna2.world.town.roads import CYCLE, Street
from senna2.world.town.surfaces import THICKNESS, SurfaceBuilder

TILE = 0.72  # m
STRIPE = 0.5  # m, width of a zebra's stripes and of the gaps between them


def add_box(b: SurfaceBuilder, layout: Layout, look: Look) -> None:
    """The junction's area on a square grid (both streets are straight there and meet at right angles)."""
    if layout.box.is_empty:
        return
    junction = layout.roads.junction
    assert junction is not None
    x0, y0, x1, y1 = layout.box.bounds
    for spacing, z, shape in ((TILE, 0.0, layout.box), (1.25, -0.2, layout.box.buffer(0.8))):
        axes = [steps(low, high, spacing) for low, high in ((x0, x1), (y0, y1))]
        middle = [(a[1:] + a[:-1]) / 2 for a in axes]
        cell = [float(a[1] - a[0]) for a in axes]
        grid = np.stack(np.meshgrid(*middle, indexing="ij"), -1).reshape(-1, 2)
        grid = grid[shapely.contains_xy(shape.buffer(0.15), grid[:, 0], grid[:, 1])]
        scales = (0.60 * cell[0], 0.60 * cell[1], THICKNESS)
        rgb = np.broadcast_to(look.road * 0.97, (len(grid), 3)).copy()
        for way in _cycle_ways(layout):
            rgb[shapely.distance(shapely.points(grid), way) < CYCLE / 2 - 0.1] = look.cycle_path
        rgb = look.wet(rgb, grid[:, 0], grid[:, 1])
        b.add(np.column_stack([grid, np.full(len(grid), z)]), scales, rgb, jitter=0.012 if z == 0 else 0.0)


def _cycle_ways(layout: Layout) -> list[shapely.Geometry]:
    """The cycle lanes straight on through the junction: their surface goes on across it."""
    ways = []
    for entry in layout.roads.junction.arms if layout.roads.junction else ():
        try:
            line = layout.roads.cycle_path(entry)
        except InputError:  # no cycle lanes there, or no arm opposite
            continue
        ways.append(shapely.LineString(line.xy_P2))
    return ways


def add_zebra(b: SurfaceBuilder, street: Street, s0: float, s1: float, look: Look) -> None:
    """Stripes along the street from kerb to kerb between s0 and s1."""
    s_S = steps(s0, s1, 0.75)
    right, left = float(street.kerb(-1, (s0 + s1) / 2)), float(street.kerb(1, (s0 + s1) / 2))
    low, high = np.ceil((-right + 0.1 - STRIPE / 2) / STRIPE), np.floor((left - 0.1 - STRIPE / 2) / STRIPE)
    edges = np.concatenate([[-right], STRIPE / 2 + STRIPE * np.arange(low, high + 1), [left]])

    def colour(s: Array, d: Array) -> Array:
        stripe = np.mod(d + STRIPE / 2, 2 * STRIPE) < STRIPE
        return np.where(stripe[:, None], WHITE, look.wet(np.broadcast_to(look.road, (len(s), 3)), s, d))

    lay(b, street.line, s_S, edges, colour, jitter=0.01)
