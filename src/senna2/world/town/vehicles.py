"""Cars, vans, trucks and buses as gaussians. Box frame: origin at the bottom centre, x forward, z up; m.

What makes them recognisable at 168 × 56, in this order: silhouette, dark glass, dark wheels, red and white lights.
Bodies are sheets of surfels: one along the outline seen from the side, one for each flank. Wheels stand in arches left
open in the flanks, because whatever lies closer behind a surfel than its size is covered by it (sorting by centre).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from senna2.types import Array
from senna2.world.gaussians import GaussianCloud
from senna2.world.town.surfaces import SurfaceBuilder

GLASS = np.array([0.10, 0.12, 0.15])
TYRE = (0.05, 0.05, 0.055)
TRIM = np.array([0.09, 0.09, 0.10])
PAINTS = np.array(
    [
        (0.75, 0.10, 0.10), (0.85, 0.85, 0.87), (0.15, 0.25, 0.60), (0.10, 0.10, 0.11), (0.86, 0.70, 0.12),
        (0.55, 0.57, 0.60), (0.16, 0.40, 0.26), (0.80, 0.42, 0.12), (0.42, 0.14, 0.18), (0.35, 0.55, 0.72),
    ]
)  # fmt: skip
LIVERIES = np.array([(0.80, 0.20, 0.15), (0.20, 0.45, 0.25), (0.88, 0.66, 0.15), (0.20, 0.35, 0.62)])
# Lamps shine (above 1), so that they still do where a dusk sky dims everything; amber stays amber when clipped at 1.
TAIL, TAIL_BRAKING = (0.68, 0.03, 0.03), (2.4, 0.16, 0.10)
HEAD, AMBER, AMBER_OFF = (1.9, 1.8, 1.5), (1.9, 0.85, 0.03), (0.55, 0.30, 0.10)

Profile = Sequence[tuple[float, float]]  # (x, z) from the rear to the front
VARIANTS = ("", ".brake", ".left", ".right")


def with_lights(
    body: SurfaceBuilder, length: float, width: float, tail_z: float, head_z: float
) -> dict[str, GaussianCloud]:
    """Variants "", ".brake", ".left", ".right" of a body with its lamps: equal gaussians, other colours and sizes."""
    out = {}
    shell = body.cloud()
    rear, front = -length / 2 - 0.04, length / 2 + 0.04
    for suffix in VARIANTS:
        lamps = SurfaceBuilder()
        braking = suffix == ".brake"
        tail, grow = (TAIL_BRAKING, 1.35) if braking else (TAIL, 1.0)
        for side, name in ((1, ".left"), (-1, ".right")):
            y = side * (width / 2 - 0.23)
            lamps.add((rear, y, tail_z), (0.02, 0.14 * grow, 0.09 * grow), tail)
            lamps.add((front, y, head_z), (0.02, 0.15, 0.085), HEAD)
            on = suffix == name
            size = (0.05, 0.13, 0.12) if on else (0.02, 0.05, 0.04)
            for x in (rear - 0.02, front + 0.02):
                lamps.add((x, side * (width / 2 - 0.07), tail_z), size, AMBER if on else AMBER_OFF)
        lamps.add((rear, 0, tail_z - 0.14), (0.02, 0.20, 0.05), (0.85, 0.85, 0.80))  # number plate
        high = (0.02, 0.26, 0.05) if braking else (0.02, 0.05, 0.02)  # third brake lamp
        lamps.add((rear + 0.02, 0, tail_z + 0.17), high, tail)
        out[suffix] = GaussianCloud.concatenate([shell, lamps.cloud()])
    return out


def shadow(b: SurfaceBuilder, length: float, width: float) -> None:
    """A soft dark patch under the vehicle. It belongs to the vehicle and lies above the road, whose surfels would
    otherwise cover it."""
    for x in np.linspace(-0.4, 0.4, 4) * length:
        b.add((x, 0, 0.07), (0.17 * length, 0.36 * width, 0.01), (0.05, 0.05, 0.06), opacity=0.55)


def _wheels(b: SurfaceBuilder, xs: Array, width: float, radius: float) -> None:
    """Tyres as rings of dark blobs around pale hubs, and the dark of the arch behind them."""
    angle = np.linspace(0, 2 * np.pi, 9)[:-1]
    for x in xs:
        for side in (-1, 1):
            y = side * (width / 2 - 0.04)
            ring = np.stack(
                [x + 0.72 * radius * np.cos(angle), 0 * angle + y, radius + 0.72 * radius * np.sin(angle)], 1
            )
            b.add(ring, (0.21 * radius, 0.05, 0.21 * radius), TYRE)
            b.add((x, y + side * 0.03, radius), (radius * 0.30, 0.02, radius * 0.30), (0.58, 0.58, 0.60))
            b.add((x, y - side * 0.22, radius), (0.62 * radius, 0.04, 0.55 * radius), TRIM * 0.6)


def _along(profile: Profile, cell: float) -> Array:
    """A profile (P, 2) with points added so that no step is longer than `cell`; its corners stay."""
    points = [np.asarray(profile[:1], np.float64)]
    for a, c in pairwise(profile):
        n = max(1, round(float(np.hypot(c[0] - a[0], c[1] - a[1])) / cell))
        points.append(np.asarray(a) + (np.arange(1, n + 1) / n)[:, None] * np.subtract(c, a))
    return np.concatenate(points)


def _skin(
    b: SurfaceBuilder, profile: Profile, half_width: Callable[[Array], Array], cell: float, colour: Callable | Array
) -> None:
    """The outline seen from the side, swept over the width: rear, deck, screens, roof, bonnet, front in one sheet."""
    xz = _along(profile, cell)
    half = half_width(xz[:, 1])
    across = np.linspace(-1, 1, max(2, round(2 * float(half.max()) / cell)) + 1)
    x, z = (np.repeat(c[:, None], len(across), 1) for c in xz.T)
    b.sheet(np.stack([x, half[:, None] * across, z], -1), colour)


def _flanks(
    b: SurfaceBuilder,
    low: Callable[[Array], Array],
    high: Callable[[Array], Array],
    reach: tuple[float, float],
    half_width: Callable[[Array], Array],
    cell: float,
    colour: Callable,
) -> None:
    """Both sides between two profiles z = low(x) and z = high(x)."""
    x = np.linspace(*reach, max(2, round((reach[1] - reach[0]) / cell)) + 1)
    rows = max(1, round(float(np.max(high(x) - low(x))) / cell))
    t = np.linspace(0, 1, rows + 1)
    z = low(x)[:, None] * (1 - t) + high(x)[:, None] * t
    for side, shade in ((-1, 0.95), (1, 0.80)):  # the sun stands on one side
        sheet = np.stack([np.repeat(x[:, None], rows + 1, 1), side * half_width(z), z], -1)
        b.sheet(sheet, lambda p, k=shade: k * np.asarray(colour(p)))


def _line(profile: Profile) -> Callable[[Array], Array]:
    xs, zs = np.array(profile).T
    return lambda x: np.interp(x, xs, zs)


def _flank_paint(paint: Array, sill: float, xs: Array, radius: float, doors: Sequence[float] = ()) -> Callable:
    """Paint over dark trim below `sill`, with open wheel arches and dark door gaps."""

    def colour(p: Array) -> Array:
        rgb = np.where((p[:, 2] < sill)[:, None], TRIM, paint * (0.92 + 0.12 * (p[:, 2:] > 1.5 * sill)))
        for x in doors:
            rgb[np.abs(p[:, 0] - x) < 0.07] *= 0.7
        in_arch = np.min(np.hypot(p[:, :1] - xs, p[:, 2:] - radius), 1) < 1.12 * radius
        rgb[in_arch] = np.nan
        return rgb

    return colour


def car(length: float, width: float, height: float, rng: np.random.Generator) -> dict[str, GaussianCloud]:
    """A saloon, estate or hatchback: lower body, a narrower dark cabin with sloped screens, a painted roof."""
    b = SurfaceBuilder(rng)
    paint = PAINTS[rng.integers(len(PAINTS))]
    l, w, h = length, width, height
    cell = 0.21 * (l / 4.5) ** 0.5
    shape = int(rng.integers(3))  # saloon, hatchback, estate
    floor, belt = 0.12 * h, 0.60 * h
    tail = ((-0.37 * l, 0.62 * h), (-0.47 * l, 0.62 * h), (-0.49 * l, 0.61 * h))[shape]
    rear_roof = (-0.24 * l, -0.36 * l, -0.43 * l)[shape]
    cowl, front_roof = (0.23 * l, 0.61 * h), 0.07 * l
    shadow(b, l, w)

    def half(z: Array) -> Array:
        return w / 2 * np.interp(z / h, (0.1, 0.3, 0.6, 1.0), (0.94, 1.0, 0.98, 0.76))

    def skin_colour(p: Array) -> Array:
        x, y, z = p[:, 0], np.abs(p[:, 1]), p[:, 2]
        glass = (z > 0.645 * h) & (z < 0.945 * h) & (y < 0.93 * half(z) - 0.04)
        grille = (x > 0.44 * l) & (z > 0.22 * h) & (z < 0.34 * h) & (y < 0.3 * w)
        trim = (z < 0.21 * h) & (np.abs(x) > 0.4 * l)
        shade = np.where(z > 0.95 * h, 1.08, np.where(np.abs(x) > 0.485 * l, 0.88, 1.0))
        rgb = paint * shade[:, None]
        rgb[glass] = np.where((x > 0)[:, None], GLASS * 1.5, GLASS)[glass]
        rgb[grille | trim] = TRIM
        return rgb

    profile = [
        (-0.5 * l, floor), (-0.5 * l, 0.55 * h), tail, (rear_roof, 0.965 * h), (-0.10 * l, h), (front_roof, 0.97 * h),
        cowl, (0.45 * l, 0.51 * h), (0.5 * l, 0.42 * h), (0.5 * l, floor),
    ]  # fmt: skip
    _skin(b, profile, half, cell, skin_colour)
    wheels, radius = np.array([-0.30, 0.31]) * l, 0.22 * h
    shoulder = _line([(-0.5 * l, 0.55 * h), tail, cowl, (0.45 * l, 0.51 * h), (0.5 * l, 0.42 * h)])
    paintwork = _flank_paint(paint, 0.22 * h, wheels, radius, (-0.14 * l, 0.08 * l))
    _flanks(b, lambda x: np.full_like(x, floor), shoulder, (-0.5 * l, 0.5 * l), half, cell, paintwork)
    roof = _line([tail, (rear_roof, 0.95 * h), (-0.10 * l, 0.985 * h), (front_roof, 0.955 * h), cowl])

    def pillars(p: Array) -> Array:
        pillar = (np.abs(p[:, 0] + 0.13 * l) < 0.08) | (p[:, 2] > 0.93 * h)
        return np.where(pillar[:, None], paint, GLASS)

    _flanks(b, lambda x: np.minimum(np.full_like(x, belt), roof(x)), roof, (tail[0], cowl[0]), half, cell, pillars)
    _wheels(b, wheels, w, radius)
    return with_lights(b, l, w, 0.45 * h, 0.40 * h)


def van(length: float, width: float, height: float, rng: np.random.Generator) -> dict[str, GaussianCloud]:
    """A delivery van: a tall box with a short sloped nose."""
    b = SurfaceBuilder(rng)
    paint = PAINTS[1] if rng.random() < 0.5 else PAINTS[rng.integers(len(PAINTS))]
    l, w, h, cell = length, width, height, 0.26
    floor, nose = 0.10 * h, (0.5 * l, 0.44 * h)
    cowl, front_roof = (0.5 * l - 0.10 * l, 0.53 * h), 0.5 * l - 0.24 * l
    shadow(b, l, w)

    def half(z: Array) -> Array:
        return w / 2 * np.interp(z / h, (0.1, 0.5, 1.0), (1.0, 1.0, 0.92))

    def skin_colour(p: Array) -> Array:
        x, y, z = p[:, 0], np.abs(p[:, 1]), p[:, 2]
        screen = (x > front_roof) & (z > 0.56 * h) & (z < 0.93 * h) & (y < 0.9 * half(z))
        rear = (x < -0.49 * l) & (z > 0.56 * h) & (z < 0.86 * h) & (y < 0.86 * half(z)) & (y > 0.09)
        dark = (np.abs(x) > 0.48 * l) & ((z < 0.2 * h) | ((x > 0) & (z > 0.27 * h) & (z < 0.36 * h) & (y < 0.3 * w)))
        rgb = paint * np.where(z > 0.97 * h, 1.06, np.where(np.abs(x) > 0.49 * l, 0.88, 1.0))[:, None]
        rgb[screen], rgb[rear], rgb[dark] = GLASS * 1.5, GLASS * 1.1, TRIM
        return rgb

    _skin(b, [(-0.5 * l, floor), (-0.5 * l, 0.97 * h), (-0.49 * l, h), (front_roof, h), cowl, nose, (0.5 * l, floor)],
          half, cell, skin_colour)  # fmt: skip
    wheels, radius = np.array([-0.31, 0.32]) * l, min(0.36, 0.17 * h)
    body = _flank_paint(paint, 0.18 * h, wheels, radius, (0.02 * l,))

    def side_colour(p: Array) -> Array:
        window = (p[:, 0] > 0.5 * l - 0.33 * l) & (p[:, 2] > 0.55 * h) & (p[:, 2] < 0.84 * h)
        return np.where(window[:, None], GLASS, body(p))

    top = _line([(-0.5 * l, h), (front_roof, h), cowl, nose])
    _flanks(b, lambda x: np.full_like(x, floor), top, (-0.5 * l, 0.5 * l), half, cell, side_colour)
    _wheels(b, wheels, w, radius)
    return with_lights(b, l, w, 0.36 * h, 0.32 * h)


def truck(length: float, width: float, height: float, rng: np.random.Generator) -> dict[str, GaussianCloud]:
    """A lorry: a coloured cab in front, a gap, and a pale cargo box on a dark frame."""
    b = SurfaceBuilder(rng)
    paint = PAINTS[rng.integers(len(PAINTS))]
    load = np.array([0.82, 0.82, 0.80]) if rng.random() < 0.6 else LIVERIES[rng.integers(len(LIVERIES))]
    l, w, h = length, width, height
    cell, cab, floor = 0.36 * max(1.0, l / 9.0) ** 0.5, min(2.2, 0.3 * l), 0.30 * h
    cab_height = 0.86 * h
    shadow(b, l, w)

    def cab_colour(p: Array) -> Array:
        front = (p[:, 0] > 0.5 * l - 0.03) & (np.abs(p[:, 1]) < 0.44 * w)
        side = (p[:, 0] > 0.5 * l - 0.6 * cab) & (p[:, 0] < 0.5 * l - 0.1 * cab)
        window = (front | side) & (p[:, 2] > 0.50 * h) & (p[:, 2] < 0.76 * h)
        grille = front & (p[:, 2] > 0.26 * h) & (p[:, 2] < 0.42 * h)
        rgb = np.where((p[:, 2] < 0.2 * h)[:, None], TRIM, paint)
        rgb[window], rgb[grille] = GLASS * 1.4, TRIM * 1.5
        rgb[(np.abs(p[:, 1]) > 0.45 * w) & (np.hypot(p[:, 0] - 0.36 * l, p[:, 2] - 0.48) < 0.55)] = np.nan  # arch
        return rgb

    b.box((l / 2 - cab / 2, 0, 0.12 * h), (cab, w, cab_height - 0.12 * h), cell * 0.8, cab_colour)
    body = l - cab - 0.35

    def doors(p: Array) -> Array:
        split = np.abs(p[:, 1]) < 0.12
        edge = (np.abs(p[:, 1]) > 0.43 * w) | (p[:, 2] > 0.94 * h) | (p[:, 2] < floor + 0.2)
        return np.where((split | edge)[:, None], load * 0.72, load * 0.95)

    def planks(p: Array) -> Array:
        edge = (p[:, 2] > 0.94 * h) | (p[:, 2] < floor + 0.3)
        return np.where(edge[:, None], load * 0.75, load)

    centre, size = (-l / 2 + body / 2, 0.0, floor), (body, w, h - floor)
    b.box(centre, size, cell, planks, faces="flRt").box(centre, size, cell * 0.75, doors, faces="r")
    b.box((-cab / 2, 0, 0.16 * h), (l - cab, 0.8 * w, floor - 0.14 * h), cell, TRIM * 1.3, faces="rlR")
    _wheels(b, np.array([-0.38, -0.25, 0.36]) * l, w, 0.48)
    return with_lights(b, l, w, 0.21 * h, 0.19 * h)


def bus(length: float, width: float, height: float, rng: np.random.Generator) -> dict[str, GaussianCloud]:
    """A city bus: a long box with a band of windows over a pale stripe, doors on its right, a sign on either end."""
    b = SurfaceBuilder(rng)
    paint = LIVERIES[rng.integers(len(LIVERIES))]
    l, w, h, cell = length, width, height, 0.38 * max(1.0, length / 12.0) ** 0.5
    floor, wheels, radius = 0.10 * h, np.array([-0.30, 0.32]) * l, 0.48

    def side_colour(p: Array) -> Array:
        x, z = p[:, 0], p[:, 2] / h
        door = (p[:, 1] < 0) & (np.min(np.abs(x[:, None] - np.array([0.44, 0.02]) * l), 1) < 0.65) & (z > 0.14)
        window = (z > 0.46) & (z < 0.82) & (np.mod(x, 1.52) > 0.3)
        stripe = (z > 0.36) & (z <= 0.46)
        rgb = np.where(stripe[:, None], (0.95, 0.95, 0.90), paint)
        rgb[window], rgb[door & (z < 0.82)] = GLASS * 1.2, GLASS * 1.7
        rgb[np.min(np.hypot(x[:, None] - wheels, p[:, 2:] - radius), 1) < 1.15 * radius] = np.nan
        return rgb

    def end_colour(p: Array) -> Array:
        z, y = p[:, 2] / h, np.abs(p[:, 1])
        front = p[:, 0] > 0
        window = (z > np.where(front, 0.38, 0.50)) & (z < 0.82) & (y < 0.43 * w)
        sign = (z >= 0.84) & (z < 0.95) & (y < 0.36 * w)
        rgb = np.where(window[:, None], GLASS * 1.3, np.where((z < 0.17)[:, None], TRIM, paint))
        rgb[sign] = (1.35, 1.0, 0.25)  # a lit destination sign
        return rgb

    shadow(b, l, w)
    size, centre = (l, w, h - floor), (0.0, 0.0, floor)
    b.box(centre, size, cell, side_colour, faces="lR").box(centre, size, 0.30, end_colour, faces="fr")
    b.box(centre, size, 0.6, (0.88, 0.88, 0.88), faces="t")
    _wheels(b, wheels, w, radius)
    return with_lights(b, l, w, 0.29 * h, 0.23 * h)
