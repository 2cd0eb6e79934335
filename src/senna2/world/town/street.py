"""The look of the roads of a clip as one cloud: carriageways with their markings, and all that stands beside them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy.spatial import cKDTree

from senna2.types import Array
from senna2.world.gaussians import GaussianCloud
from senna2.world.town.houses import add_ends, add_houses
from senna2.world.town.junction_look import add_box, add_zebra
from senna2.world.town.kerbside import add_kerbside, light_pools
from senna2.world.town.layout import Layout, Strip, lay, steps
from senna2.world.town.look import WHITE, YELLOW, Look
from senna2.world.town.network import Roads
from senna2.world.town.roads import CYCLE, GUTTER, LANE, Street
from senna2.world.town.surfaces import SurfaceBuilder

MARK = 0.13  # m, half width of a marking: twice the real one, so that it survives at 168 × 56 [ours]
STOP = 0.27  # m, half width of a stop line
DASH, PERIOD = 3.6, 8.4  # m
SOLID_BEFORE_STOP = 14.0  # m in which lanes must not be changed
FINE, COARSE = 0.8, 1.8  # m, tiles along the street
UNDERLAY = 1.05  # m, tiles of the layer beneath; larger ones beside a camera would veil its image


def build_roads(roads: Roads, look: Look, rng: np.random.Generator) -> GaussianCloud:
    """The background cloud of a clip: 30 to 60 thousand gaussians, fine near where the ego may drive.

    Sorted along the streets, so that neighbours in space are neighbours in memory. Equal roads, looks and generators
    give equal clouds.
    """
    layout, b = Layout.of(roads), SurfaceBuilder(rng)
    for strip in layout.strips:
        _carriageway(b, layout, strip, look)
    add_box(b, layout, look)
    lamps = add_kerbside(b, layout, look, rng)
    add_houses(b, layout, look, rng)
    add_ends(b, layout, look, rng)
    raw = b.cloud()
    rgb = light_pools(raw, lamps, look) * np.array(look.tint)
    order = np.argsort(_along(roads, raw.means_N3), kind="stable")
    return GaussianCloud.from_rgb(
        *(a[order] for a in (raw.means_N3, raw.scales_N3, raw.quats_N4, raw.opacities_N, rgb))
    )


def _along(roads: Roads, means_N3: Array) -> Array:
    """(N,) number of the nearest 8 m of a street, in the order in which these are passed."""
    streets = [s for s in (roads.main, roads.side) if s is not None]
    pieces = np.concatenate([s.line.xy_P2[::16] for s in streets])
    return cKDTree(pieces).query(means_N3[:, :2])[1]


def _carriageway(b: SurfaceBuilder, layout: Layout, strip: Strip, look: Look) -> None:
    street, line = strip.street, strip.street.line
    cuts = [strip.s0, strip.s1, *(s for zebra in strip.zebras for s in zebra)]
    cuts += [s + side * STOP for s, _ in strip.stops for side in (-1, 1)]
    for begin, end, fine in layout.runs(line, strip.s0, strip.s1, layout.fine):
        inside = [c for c in cuts if begin + 0.01 < c < end - 0.01]
        edges = np.unique(np.round([begin, *inside, end], 3))
        for s0, s1 in pairwise(edges):
            if any(a - 0.01 < s0 and s1 < c + 0.01 for a, c in strip.zebras):
                add_zebra(b, street, s0, s1, look)
                continue
            s_S = steps(s0, s1, FINE if fine else COARSE)
            lay(b, line, s_S, _columns(street, s_S, fine), _paint(strip, look), jitter=0.01, overlap=0.53)
    for begin, end, fine in layout.runs(line, strip.s0 - 0.3, strip.s1 + 0.3, layout.fine):
        cell = UNDERLAY if fine else 2.0
        s_S = steps(begin, end, cell)
        right, left = (street.kerb(side, s_S)[:, None] for side in (-1, 1))
        d_SD = np.linspace(0, 1, max(2, round((right[0, 0] + left[0, 0]) / cell)) + 1) * (left + right) - right
        lay(b, line, s_S, d_SD, look.road, z=-0.2, jitter=0.0)


def _columns(street: Street, s_S: Array, fine: bool) -> Array:
    """(S, D) edges of the columns: as wide as the markings where there are any, coarser in between. Where a lane
    ends, its columns narrow with it."""
    sides = []
    for sense in (1, -1):
        n, kerb = street.section.lanes(sense), street.section.kerb(sense)
        marks = [(k * LANE - MARK, k * LANE + MARK) for k in range(1, n + 1)]
        marks = [(0.11, 0.29) if fine else (0.0, 0.29), *marks, (kerb - 0.02, kerb)]
        edges: list[float] = [0.0]
        for (_, low), (high, _) in pairwise(marks):
            soft = 0.2 if fine and high - low > 1.5 else 0.0  # a narrow column beside a marking keeps it crisp
            n_between = max(1, round((high - low - 2 * soft) / (0.75 if fine else 1.15)))
            edges += [low, *np.linspace(low + soft, high - soft, n_between + 1), high]
        half = np.unique(np.round([0.0, marks[0][0], *edges, kerb], 4))
        half_SD = np.broadcast_to(half, (len(s_S), len(half)))
        if street.drop is not None and sense > 0:
            inner = (n - 1) * LANE + MARK
            share = (street.kerb(-1, s_S)[:, None] - inner) / (kerb - inner)
            half_SD = np.where(half_SD > inner, inner + (half_SD - inner) * share, half_SD)
        sides.append(-half_SD[:, :0:-1] if sense > 0 else half_SD)
    return np.concatenate(sides, 1)


def _paint(strip: Strip, look: Look) -> Callable[[Array, Array], Array]:
    """Colour of a carriageway at (s, d)."""
    street, section = strip.street, strip.street.section
    yellow = YELLOW if look.yellow else WHITE
    double = section.forward + section.oncoming > 2

    def colour(s: Array, d: Array) -> Array:
        a, forward = np.abs(d), d < 0
        to_kerb = np.where(forward, street.kerb(-1, s), street.kerb(1, s)) - a
        worn = np.where(np.abs(np.mod(a, LANE) - LANE / 2) < 0.6, 0.94, 1.0)  # tyre tracks
        rgb = look.road * worn[:, None]
        outer = GUTTER
        if section.cycle:
            outer += CYCLE
            rgb[to_kerb < outer] = look.cycle_path
        rgb = look.wet(rgb, s, d)
        free = np.ones(len(s), bool)
        for begin, end in strip.bare:
            free &= (s < begin) | (s > end)
        dash = np.mod(s, PERIOD) < DASH
        solid = np.zeros(len(s), bool)  # before stop lines; of the line between the senses on both sides
        for at, sense in strip.stops:
            before = (at - s) * sense
            near = (before > 0) & (before < SOLID_BEFORE_STOP)
            dash |= (forward == (sense > 0)) & near
            solid |= near
        lane_line = np.abs(np.mod(a + LANE / 2, LANE) - LANE / 2) < MARK
        rgb[lane_line & free & dash & (a > LANE / 2) & (to_kerb > outer + LANE / 2)] = WHITE
        rgb[(np.abs(to_kerb - outer) < MARK) & free] = WHITE
        middle = (a > 0.11) & (a < 0.29) if double else (a < 0.2) & (dash | solid)
        rgb[middle & free] = yellow
        for at, sense in strip.stops:
            rgb[(np.abs(s - at) < STOP) & (forward == (sense > 0)) & (a > 0.1) & (to_kerb > GUTTER)] = WHITE
        return rgb

    return colour
