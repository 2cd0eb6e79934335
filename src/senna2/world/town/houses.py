"""House fronts along the kerbs, one beside the other, with a corner house wherever a kerb turns a corner.

A front follows its kerb at `FACADE` m, so no house can stand in a street. Walls are tiled in the grid of their windows
(2.4 × 3 m): edges of windows and doors fall on edges of tiles, which keeps them crisp with few tiles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import shapely

from senna2.frames import along_polyline
from senna2.types import Array
from senna2.world.town.kerbside import FACADE
from senna2.world.town.layout import CORNER_TIGHTER, Layout, put_up, steps
from senna2.world.town.look import AWNINGS, SHOP, WALLS, WINDOW, Look
from senna2.world.town.roads import ReferenceLine
from senna2.world.town.surfaces import SurfaceBuilder
from senna2.world.town.vegetation import hedge_rgb

MODULE, STOREY, GROUND = 2.4, 3.0, 3.2  # m: from window to window, from floor to floor, ground floor
GROUND_ROWS = np.array((0.0, 0.5, 0.95, 1.4, 1.9, 2.45, 2.85, GROUND))
COARSE_ROWS = np.array((0.0, 0.5, 1.4, 2.45, GROUND))
AWNING = 1.1  # m, how far an awning reaches over the pavement
DEPTH = 4.5  # m of side wall that is seen through gaps


@dataclass(frozen=True, eq=False)
class House:
    """storeys above the ground floor. style: "sash" (single windows), "band" (rows of glass), "bay" (tall windows)."""

    wall: Array
    trim: Array
    accent: Array
    storeys: int
    style: str
    shop: bool
    awning: bool
    door: int  # module that holds the door

    @classmethod
    def draw(cls, rng: np.random.Generator, modules: int, *, corner: bool = False) -> Self:
        wall = WALLS[rng.integers(len(WALLS))] * rng.uniform(0.88, 1.08)
        trim = np.clip(wall * 1.28, 0, 0.95) if rng.random() < 0.6 else wall * 0.62
        shop = bool(rng.random() < 0.55) or corner
        return cls(
            wall, trim, AWNINGS[rng.integers(len(AWNINGS))], int(rng.integers(3, 5) if corner else rng.integers(1, 5)),
            str(rng.choice(("sash", "band", "bay"), p=(0.55, 0.2, 0.25))), shop, shop and bool(rng.random() < 0.6),
            int(rng.integers(max(modules, 1))),
        )  # fmt: skip

    @property
    def height(self) -> float:
        return GROUND + STOREY * self.storeys + 0.5


def add_houses(b: SurfaceBuilder, layout: Layout, look: Look, rng: np.random.Generator) -> None:
    """Rows of houses along every kerb."""
    for kerb in layout.kerbs:
        front = _front_line(kerb)
        for s0, s1, corner in _plots(front, rng):
            house = House.draw(rng, round((s1 - s0) / MODULE), corner=corner)
            _house(b, layout, front, s0, s1, house, look, rng)
            gap = not corner and s1 - s0 > 9.0 and rng.random() < 0.22
            if gap:
                _gap(b, front, s1 - 2.4, s1, rng)


def _front_line(kerb: ReferenceLine) -> ReferenceLine:
    points = kerb.world(kerb.s_P, FACADE)[:, :2]
    along = along_polyline(points)
    s = np.arange(0, along[-1], 0.5)
    return ReferenceLine.from_polyline(np.stack([np.interp(s, along, points[:, k]) for k in (0, 1)], 1))


def _plots(front: ReferenceLine, rng: np.random.Generator) -> list[tuple[float, float, bool]]:
    """(from, to, at a corner): corner houses first, the rest filled with fronts of whole modules."""
    end = float(front.s_P[-1])
    bends = np.flatnonzero(np.abs(front.kappa_P) > 1 / (CORNER_TIGHTER - FACADE))
    corners = []
    if len(bends):
        for group in np.split(bends, np.flatnonzero(np.diff(bends) > 8) + 1):
            middle = float(front.s_P[group].mean())
            corners.append((max(middle - 9.6, 0.0), min(middle + 9.6, end)))
    plots, at = [], 0.0
    for low, high in [*corners, (end, end)]:
        while low - at > 1.0:
            width = min(float(rng.choice((9.6, 12.0, 14.4, 16.8))), low - at)
            width = low - at if low - at - width < 6.0 else width
            plots.append((at, at + width, False))
            at += width
        if high > low:
            plots.append((low, high, True))
        at = high
    return plots


def _house(
    b: SurfaceBuilder, layout: Layout, front: ReferenceLine, s0: float, s1: float, house: House, look: Look,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    middle = front.world((s0 + s1) / 2, 0.0)
    fine = bool(layout.fine(front.world(np.array((s0, (s0 + s1) / 2, s1)), -FACADE)[:, :2]).any())
    modules = max(1, round((s1 - s0) / MODULE))
    sun = float(look.shade(middle[2] - np.pi / 2))  # the front looks to the right of its line
    columns, rows = (8, GROUND_ROWS) if fine else (2, COARSE_ROWS)
    rgb = _ground_floor(house, modules, columns, rows, look, rng)
    put_up(b, front, np.linspace(s0, s1, modules * columns + 1), rows, _lit(rgb, sun), jitter=0.012)
    for first, last in ((0, 1), (1, house.storeys)) if house.storeys > 1 else ((0, 1),):
        columns, row = (2, 1.5) if not fine else (4, 0.75) if first == 0 else (3, 1.0)
        z_Z = GROUND + np.linspace(STOREY * first, STOREY * last, round(STOREY * (last - first) / row) + 1)
        z_Z = np.append(z_Z, house.height) if last == house.storeys else z_Z
        rgb = _upper(house, modules, columns, len(z_Z) - 1, round(STOREY / row), last - first, look, rng)
        put_up(b, front, np.linspace(s0, s1, modules * columns + 1), z_Z, _lit(rgb, sun), jitter=0.012)
    lining = 1.05 if fine else 2.2  # large surfels beside a camera would veil its image
    z_Z = np.append(steps(0.0, 3.9, lining), steps(3.9, house.height, 1.9 if fine else 2.3)[1:])
    put_up(b, front, steps(s0, s1, lining), z_Z, house.wall * 0.7 * sun, d=0.3)
    if house.awning and fine:
        _awning(b, front, s0, s1, modules, house, sun)
    for s, other in ((s0, 1), (s1, -1)):  # seen through gaps and over lower neighbours
        x, y, yaw = front.world(s + 0.05 * other, 0.0)
        inwards = DEPTH * np.array((-np.sin(yaw), np.cos(yaw), 0.0))
        b.rectangle((x, y, 0.0), inwards, (0, 0, house.height), 1.9, house.wall * 0.66 * sun)


def _lit(rgb_N3: Array, sun: float) -> Array:
    """Sunlight on what reflects; what shines by itself stays as it is."""
    return np.where(rgb_N3.max(1, keepdims=True) > 1.0, rgb_N3, rgb_N3 * sun)


def _grid(modules: int, columns: int, rows: int) -> tuple[Array, Array, Array]:
    """Module, column within the module, and row of every tile, in the order of `put_up`'s cells."""
    column, row = (g.ravel() for g in np.meshgrid(np.arange(modules * columns), np.arange(rows), indexing="ij"))
    return column // columns, column % columns, row


def _central(column: Array, columns: int) -> Array:
    """The columns of a module that hold its window: half of them."""
    return column == 0 if columns == 2 else np.abs((column + 0.5) / columns - 0.5) < 0.26


def _ground_floor(house: House, modules: int, columns: int, rows: Array, look: Look, rng: np.random.Generator) -> Array:
    module, column, row = _grid(modules, columns, len(rows) - 1)
    z = (rows[1:] + rows[:-1])[row] / 2
    rgb = np.broadcast_to(house.wall * 0.95, (len(z), 3)).copy()
    rgb[z < 0.5] = house.wall * 0.6  # plinth
    u, central = (column + 0.5) / columns, _central(column, columns)
    door = (module == house.door % modules) & central & (z < 2.4)
    if house.shop:
        panes = look.pane(SHOP, modules, 0.85, rng)[module]
        glass = (z > 0.5) & (z < 2.4) & (u > 0.15)
        rgb[glass] = panes[glass] * np.where(z < 1.0, 0.8, 1.0)[glass, None]
        rgb[z > 2.45] = house.accent
        rgb[door] = house.accent * 0.55
    else:
        panes = look.pane(WINDOW, modules, 0.55, rng)[module]
        glass = central & (z > 0.9) & (z < 2.4)
        rgb[glass] = panes[glass]
        rgb[(z > 2.8)] = house.trim
        rgb[door] = house.accent * 0.6
    return rgb


def _upper(
    house: House, modules: int, columns: int, rows: int, per_storey: int, storeys: int, look: Look,
    rng: np.random.Generator,
) -> Array:  # fmt: skip
    """Colours of `storeys` upper floors, whose top row, if there is one more, is the cornice."""
    module, column, row = _grid(modules, columns, rows)
    storey, part = row // per_storey, (row % per_storey + 0.5) / per_storey
    central = _central(column, columns)
    panes = look.pane(WINDOW, modules * (storeys + 1), 0.42, rng)[module * (storeys + 1) + storey]
    if house.style == "band":
        glass = (part > 0.2) & (part < 0.72)
    elif house.style == "bay":
        glass = central & (part < 0.72)
    else:
        glass = central & (part > 0.2) & (part < 0.72)
    rgb = np.where(glass[:, None], panes, house.wall)
    if house.style == "sash" and columns >= 4:
        rgb[central & (part < 0.2)] = house.wall * 0.5 + house.trim * 0.5  # sills
    cornice = row >= per_storey * storeys
    rgb[cornice] = house.trim
    return rgb


def _awning(
    b: SurfaceBuilder, front: ReferenceLine, s0: float, s1: float, modules: int, house: House, sun: float
) -> None:
    s_S = np.linspace(s0 + 0.4, s1 - 0.4, modules * 4 + 1)
    line = front.world(s_S[:, None], np.array((0.0, -0.5 * AWNING, -AWNING)))[..., :2]
    z = np.broadcast_to((2.95, 2.75, 2.5), line.shape[:2])
    striped = np.arange(modules * 4) % 2 == 0
    rgb = np.where(striped[:, None], house.accent, (0.90, 0.88, 0.84)) * sun
    b.sheet(np.concatenate([line, z[..., None]], -1), np.repeat(rgb, 2, 0), jitter=0.0)


def _gap(b: SurfaceBuilder, front: ReferenceLine, s0: float, s1: float, rng: np.random.Generator) -> None:
    """A bush before the wall, where houses meet."""
    s_S, z_Z = steps(s0, s1, 0.6), np.array((0.1, 0.7, 1.3, 1.9))
    put_up(b, front, s_S, z_Z, lambda s, z: hedge_rgb(z, rng), d=-0.55, jitter=0.0, thickness=0.15)


def add_ends(b: SurfaceBuilder, layout: Layout, look: Look, rng: np.random.Generator) -> None:
    """House fronts across the open ends: whoever looks along a street never sees the edge of the world."""
    for strip in layout.strips:
        line = strip.street.line
        for s, sense in ((line.s_P[0], -1), (line.s_P[-1], 1)):
            if abs((strip.s0 if sense < 0 else strip.s1) - s) > 1.0 or not _open(layout, strip.street.line, s, sense):
                continue
            reach = [float(strip.street.kerb(side, s)) + FACADE + 2.0 for side in (-1, 1)]
            ends = line.world(s + 0.6 * sense, np.array((-reach[0], reach[1])))[:, :2]
            right, left = ends
            wall = ReferenceLine.straight(right, left, 0.5) if sense < 0 else ReferenceLine.straight(left, right, 0.5)
            house = replace(House.draw(rng, 8), storeys=4, awning=False)
            _house(b, layout, wall, 0.0, float(wall.s_P[-1]), house, look, rng)


def _open(layout: Layout, line: ReferenceLine, s: float, sense: int) -> bool:
    """Whether nothing drivable lies beyond this end."""
    return not bool(shapely.contains_xy(layout.area, *line.world(s + 2.0 * sense, 0.0)[:2]))
