"""The look of a street: carriageway with its markings, kerbs, pavement, facades, trees and lamps as one cloud."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.spatial import cKDTree

from senna2.types import Array
from senna2.world.gaussians import GaussianCloud
from senna2.world.town.roads import BENDS, KERB, LANE, Street
from senna2.world.town.surfaces import SurfaceBuilder, placed, quat_about_z

FACADE = KERB + 4.2  # m, offset of the house fronts
PARKING = 2.3  # m, width of the parking bay where there is one
MARK = 0.13  # m, half width of a marking: twice the real one, so that it survives at 168 × 56 [ours]
WHITE, YELLOW = (0.93, 0.93, 0.92), (0.92, 0.74, 0.12)
WALLS = np.array(
    [
        (0.66, 0.47, 0.37),
        (0.76, 0.68, 0.57),
        (0.58, 0.60, 0.66),
        (0.70, 0.38, 0.30),
        (0.80, 0.74, 0.62),
        (0.50, 0.53, 0.50),
    ]
)
WINDOW, SHOP = np.array((0.17, 0.20, 0.25)), np.array((0.22, 0.25, 0.30))


@dataclass(frozen=True)
class Look:
    """What differs between streets: light (rgb gain), asphalt grey, parking bay, tree density, yellow centre line."""

    tint: tuple[float, float, float]
    asphalt: float
    parking: bool
    tree_spacing: float
    yellow: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        light = rng.uniform(0.80, 1.12)
        tint = tuple(float(light * g) for g in rng.uniform(0.94, 1.06, 3))
        return cls(
            (tint[0], tint[1], tint[2]), float(rng.uniform(0.22, 0.32)), bool(rng.random() < 0.5),
            float(rng.uniform(11, 18)), bool(rng.random() < 0.6),
        )  # fmt: skip


def build_street(street: Street, look: Look, rng: np.random.Generator) -> GaussianCloud:
    """The background cloud of a clip, sorted along the street so that neighbours in space are neighbours in memory."""
    b = SurfaceBuilder(rng)
    _carriageway(b, street, look)
    _sides(b, street, look)
    for side in (-1, 1):
        _houses(b, street, rng, side)
        _trees(b, street, look, rng, side)
        _lamps(b, street, side)
    _ends(b, street)
    raw = b.cloud()
    _, nearest = cKDTree(street.line.xy_P2[::16]).query(raw.means_N3[:, :2])  # pieces of 8 m: enough to sort by
    order = np.argsort(nearest, kind="stable")
    rgb = np.clip(raw.rgb_N3 * np.array(look.tint), 0, 1)
    return GaussianCloud.from_rgb(
        raw.means_N3[order], raw.scales_N3[order], raw.quats_N4[order], raw.opacities_N[order], rgb[order]
    )


def _carriageway(b: SurfaceBuilder, street: Street, look: Look) -> None:
    """Columns as wide as the markings where there are any, coarser in between."""
    bounds: list[float] = []
    for mark in (0.0, LANE, 2 * LANE):
        bounds += [mark - MARK, mark + MARK, mark - MARK - 0.3, mark + MARK + 0.3]
    for low in (0.0, LANE):
        bounds += list(np.linspace(low + MARK + 0.3, low + LANE - MARK - 0.3, 5))
    half = np.unique(np.round([h for h in bounds if 0 < h < KERB - 0.05], 4))
    edges = np.concatenate([[-KERB], -half[::-1], half, [KERB]])
    grey = np.array((look.asphalt, look.asphalt, look.asphalt + 0.02))

    def colour(s: Array, d: Array) -> Array:
        a = np.abs(d)
        worn = np.where(np.abs(np.mod(a, LANE) - LANE / 2) < 0.6, 0.94, 1.0)  # tyre tracks
        rgb = grey * worn[:, None]
        dash = np.mod(s, 8.0) < 3.6
        rgb[(np.abs(a - LANE) < MARK) & dash] = WHITE
        rgb[np.abs(a - 2 * LANE) < MARK] = WHITE
        rgb[a < MARK] = YELLOW if look.yellow else WHITE
        return rgb

    line = street.line.xy_P2
    b.ribbon(line, edges, 0.6, colour)
    b.ribbon(line, np.linspace(-KERB, KERB, 9), 1.8, grey, z=-0.25, overlap=0.62, jitter=0)


def _sides(b: SurfaceBuilder, street: Street, look: Look) -> None:
    """Kerb stones, a parking bay where there is one, pavement, and the ground behind the houses."""
    line = street.line.xy_P2
    paving, stone = (0.55, 0.51, 0.47), (0.68, 0.68, 0.66)
    inner = KERB + PARKING if look.parking else KERB
    for side in (-1, 1):

        def edges(*offsets: float, side: int = side) -> list[float]:
            return sorted(side * o for o in offsets)

        if look.parking:
            b.ribbon(line, edges(KERB, KERB + 0.3), 0.8, stone, z=0.02)
            b.ribbon(
                line, edges(KERB + 0.3, KERB + 1.0, KERB + 1.7, inner), 0.9, (0.40, 0.38, 0.38), z=0.02, jitter=0.03
            )
        b.wall(line, side * inner, (0.0, 0.15), 0.8, (0.52, 0.52, 0.50))
        b.ribbon(line, edges(inner, inner + 0.35), 0.8, stone, z=0.15)
        b.ribbon(
            line, edges(*np.linspace(inner + 0.35, FACADE, 3 if look.parking else 5)), 0.9, paving, z=0.15, jitter=0.03
        )
        b.ribbon(line, edges(KERB, KERB + 2.1, FACADE), 1.8, (0.52, 0.49, 0.46), z=-0.15, overlap=0.62, jitter=0)
        b.ribbon(line, edges(*np.linspace(FACADE, 32, 6)), 4.0, (0.42, 0.44, 0.38), z=-0.3, overlap=0.62)


def _houses(b: SurfaceBuilder, street: Street, rng: np.random.Generator, side: int) -> None:
    """House after house with windows on a grid, shop fronts, a cornice, and gaps through which one sees side walls."""
    line = street.line
    length = line.s_P[-1] - line.s_P[0]
    s = 0.0
    while s < length - 8:
        front = min(float(rng.choice([12.0, 14.4, 16.8, 19.2])), length - s)
        storeys = int(rng.integers(2, 5))
        height, base = 3.2 + 3.0 * storeys, WALLS[rng.integers(len(WALLS))] * rng.uniform(0.88, 1.08)
        begin, shops, bay = s, rng.random() < 0.6, rng.uniform(3.6, 6.0)

        def ground(
            u: Array, z: Array, begin: float = begin, base: Array = base, shops: bool = shops, bay: float = bay
        ) -> Array:
            glass = (z > 0.5) & (z < 2.5) & (np.mod(u - begin, bay) < (0.78 if shops else 0.28) * bay)
            sill = z >= 2.56
            return np.where(glass[:, None], SHOP, np.where(sill[:, None], base * 0.6, base * (1.0 if shops else 0.9)))

        def upper(u: Array, z: Array, begin: float = begin, base: Array = base, height: float = height) -> Array:
            window = (
                (np.mod(u - begin, 2.4) > 0.8)
                & (np.mod(u - begin, 2.4) < 1.6)
                & (np.abs(np.mod(z - 3.2, 3.0) - 1.5) < 0.76)
            )
            cornice = z > height - 0.5
            return np.where(window[:, None], WINDOW, np.where(cornice[:, None], base * 0.72, base))

        span = (s, s + front)
        rows = np.concatenate([np.arange(3.2, height - 0.1, 0.75), [height]])
        sun = 1.0 if side > 0 else 0.82  # one side of the street lies in the shade
        b.wall(
            line.xy_P2,
            side * FACADE,
            np.linspace(0.0, 3.2, 6),
            0.6,
            lambda u, z, g=ground, k=sun: k * g(u, z),
            s_range=span,
        )
        b.wall(line.xy_P2, side * FACADE, rows, 0.8, lambda u, z, g=upper, k=sun: k * g(u, z), s_range=span)
        b.wall(line.xy_P2, side * (FACADE + 0.5), np.linspace(0, height, round(height / 2) + 1), 2.0, base * 0.7 * sun,
               s_range=span, overlap=0.62)  # fmt: skip
        gap = 3.5 if rng.random() < 0.3 else 0.0
        for edge in (s, s + front):
            pose = line.world(line.s_P[0] + edge, side * FACADE)
            inwards = side * 7.0 * np.array([-np.sin(pose[2]), np.cos(pose[2]), 0])
            if gap or edge == s:
                b.rectangle((pose[0], pose[1], 0), inwards, (0, 0, height), 1.4, base * 0.62)
        s += front + gap


def _trees(b: SurfaceBuilder, street: Street, look: Look, rng: np.random.Generator, side: int) -> None:
    d = KERB + (PARKING + 0.7 if look.parking else 1.3)
    s = street.line.s_P[0] + rng.uniform(0, look.tree_spacing)
    while s < street.line.s_P[-1]:
        tree = build_tree(rng, rng.uniform(5.0, 7.0), leaves=56)
        b.add_cloud(placed(tree, street.line.world(s, side * d), 0.15))
        s += look.tree_spacing * rng.uniform(0.85, 1.2)


def build_tree(rng: np.random.Generator, height: float, *, leaves: int) -> GaussianCloud:
    """A tree of `height` m about the origin: a shell of leaf blobs, lighter on top, over a trunk."""
    shell = rng.normal(size=(leaves, 3))
    shell /= np.linalg.norm(shell, axis=1, keepdims=True)
    shell *= rng.uniform(0.4, 1, (leaves, 1)) ** 0.5 * (1.6, 1.6, 0.28 * height)
    leaf = np.array([0.16, 0.38, 0.12]) * rng.uniform(0.85, 1.2) + rng.normal(0, 0.02, 3)
    rgb = leaf * (0.78 + 0.35 * shell[:, 2:] / (0.28 * height)) + rng.normal(0, 0.03, (leaves, 1))
    tree = SurfaceBuilder(rng)
    sizes = rng.uniform(0.30, 0.52, leaves)[:, None] * (1, 1, 0.8)
    tree.add(shell + np.array((0, 0, 0.68 * height)), sizes, rgb, opacity=0.82)
    tree.add([(0, 0, z) for z in np.linspace(0.4, 0.45 * height, 4)], (0.13, 0.13, 0.4), (0.30, 0.22, 0.15))
    return tree.cloud()


def _lamps(b: SurfaceBuilder, street: Street, side: int) -> None:
    for s in np.arange(street.line.s_P[0] + 5, street.line.s_P[-1], 25.0) + (12.5 if side > 0 else 0.0):
        foot = street.line.world(s, side * (KERB + 0.5))
        head = street.line.world(s, side * (KERB - 0.4))
        post = np.column_stack([np.tile(foot[:2], (10, 1)), np.linspace(0.3, 6.0, 10)])
        b.add(post, (0.065, 0.065, 0.33), (0.25, 0.25, 0.27))
        b.add((head[0], head[1], 6.15), (0.12, 0.55, 0.06), (0.80, 0.80, 0.75), quats=quat_about_z(foot[2]))


def _ends(b: SurfaceBuilder, street: Street) -> None:
    """House fronts across both ends: whoever looks along the street never sees the edge of the world."""
    for s, begin in ((street.line.s_P[0] - 0.5, True), (street.line.s_P[-1] + 0.5, False)):
        left, right = street.line.world(s, FACADE + 6), street.line.world(s, -FACADE - 6)
        origin = np.array([right[0], right[1], 0.0])
        across = np.array([*(left - right)[:2], 0.0])

        def colour(p: Array, origin: Array = origin, shade: float = 0.9 if begin else 1.0) -> Array:
            u = np.hypot(*(p - origin)[:, :2].T)
            window = (np.mod(u, 2.7) < 1.0) & (np.mod(p[:, 2], 3.0) > 1.2)
            return np.where(window[:, None], WINDOW, WALLS[1] * shade)

        b.rectangle(origin, across, (0, 0, 10.0), 0.9, colour)


def is_bend(street: Street) -> bool:
    """Whether the street has a 90° bend (where the ego turns, in the words of a navigation)."""
    return street.kind in BENDS
