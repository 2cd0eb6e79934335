"""Cars, vans, trucks and buses as gaussians. Box frame: origin at the bottom centre, x forward, z up; m.

What makes them recognisable at 168 × 56, in this order: silhouette, dark glass, dark wheels, red and white lights.
"""

from __future__ import annotations

from collections.abc import Callable

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
TAIL, TAIL_BRAKING = (0.50, 0.03, 0.03), (1.0, 0.10, 0.06)
HEAD, AMBER, AMBER_OFF = (1.0, 0.97, 0.85), (1.0, 0.58, 0.05), (0.62, 0.36, 0.12)

Body = Callable[[SurfaceBuilder], None]


def with_lights(
    body: SurfaceBuilder, length: float, width: float, tail_z: float, head_z: float
) -> dict[str, GaussianCloud]:
    """Variants "", ".brake", ".left", ".right" of a body with its lamps: equal gaussians, other colours and sizes."""
    out = {}
    shell = body.cloud()
    for suffix in ("", ".brake", ".left", ".right"):
        lamps = SurfaceBuilder()
        braking = suffix == ".brake"
        grow = 1.45 if braking else 1.0
        for side, name in ((1, ".left"), (-1, ".right")):
            y = side * (width / 2 - 0.24)
            lamps.add(
                (-length / 2 - 0.03, y, tail_z), (0.02, 0.14 * grow, 0.085 * grow), TAIL_BRAKING if braking else TAIL
            )
            lamps.add((length / 2 + 0.03, y, head_z), (0.02, 0.15, 0.085), HEAD)
            on = suffix == name
            size = (0.05, 0.11, 0.10) if on else (0.02, 0.05, 0.04)
            for x in (-length / 2 - 0.05, length / 2 + 0.05):
                lamps.add((x, side * (width / 2 - 0.06), tail_z), size, AMBER if on else AMBER_OFF)
        lamps.add((-length / 2 - 0.03, 0, tail_z - 0.12), (0.02, 0.20, 0.05), (0.85, 0.85, 0.80))  # number plate
        high = (0.02, 0.24, 0.045) if braking else (0.02, 0.05, 0.02)  # third brake lamp
        lamps.add((-length / 2 - 0.02, 0, tail_z + 0.16), high, TAIL_BRAKING if braking else TAIL)
        out[suffix] = GaussianCloud.concatenate([shell, lamps.cloud()])
    return out


def shadow(b: SurfaceBuilder, length: float, width: float) -> None:
    """A soft dark patch under the vehicle. It belongs to the vehicle and lies above the road, whose surfels would
    otherwise cover it."""
    for x in np.linspace(-0.4, 0.4, 4) * length:
        b.add((x, 0, 0.07), (0.17 * length, 0.36 * width, 0.01), (0.05, 0.05, 0.06), opacity=0.55)


def _wheels(b: SurfaceBuilder, xs: Array, width: float, radius: float) -> None:
    for x in xs:
        for side in (-1, 1):
            b.add((x, side * width / 2, radius), (radius * 0.60, 0.05, radius * 0.60), TYRE)
            b.add((x, side * (width / 2 + 0.03), radius), (radius * 0.26, 0.02, radius * 0.26), (0.58, 0.58, 0.60))


def _painted(paint: Array, sill: float) -> Callable[[Array], Array]:
    """The body's colour with dark trim below `sill`."""
    return lambda p: np.where((p[:, 2] < sill)[:, None], TRIM, paint)


def car(length: float, width: float, height: float, rng: np.random.Generator) -> dict[str, GaussianCloud]:
    """A saloon, estate or hatchback: lower body, a narrower dark cabin with sloped screens, a painted roof."""
    b = SurfaceBuilder(rng)
    paint = PAINTS[rng.integers(len(PAINTS))]
    cell = 0.24 * (length / 4.5) ** 0.5
    floor, belt = 0.13 * height, 0.58 * height
    shadow(b, length, width)
    b.box((0, 0, floor), (length, width, belt - floor), cell, _painted(paint, 0.24 * height))
    rear = -0.46 * length if rng.random() < 0.45 else -0.36 * length  # hatchback or saloon
    front, rake, tail_rake, inset = 0.22 * length, 0.14 * length, 0.07 * length, 0.06 * width
    half, roof_half, top = width / 2 - inset, width / 2 - 2.0 * inset, height - belt
    for side in (-1, 1):  # side windows lean inwards
        b.rectangle((rear + tail_rake * 0.5, side * half, belt), (front - rear - rake * 0.7, 0, 0),
                    (0, side * (roof_half - half), top), cell, GLASS, thickness=0.02)  # fmt: skip
    b.rectangle((front, -half, belt), (0, 2 * half, 0), (-rake, 0, top), cell, GLASS * 1.4)
    b.rectangle((rear, -half, belt), (0, 2 * half, 0), (tail_rake, 0, top), cell, GLASS * 1.1)
    b.rectangle((rear + tail_rake, -roof_half, height), (front - rake - rear - tail_rake, 0, 0), (0, 2 * roof_half, 0),
                cell, paint * 1.08)  # fmt: skip
    _wheels(b, np.array([-0.30, 0.31]) * length, width, 0.22 * height)
    return with_lights(b, length, width, 0.43 * height, 0.39 * height)


def van(length: float, width: float, height: float, rng: np.random.Generator) -> dict[str, GaussianCloud]:
    """A delivery van: a tall box with a short sloped nose."""
    b = SurfaceBuilder(rng)
    paint = PAINTS[1] if rng.random() < 0.5 else PAINTS[rng.integers(len(PAINTS))]
    cell, floor, belt, nose = 0.30, 0.12 * height, 0.52 * height, 0.18 * length
    shadow(b, length, width)
    b.box(
        (-nose / 2, 0, floor), (length - nose, width, height - floor), cell, _painted(paint, 0.2 * height), faces="rlRt"
    )
    b.box(
        (length / 2 - nose / 2, 0, floor),
        (nose, width, belt - floor),
        cell,
        _painted(paint, 0.2 * height),
        faces="flRt",
    )
    screen = (-0.75 * nose, 0, 0.93 * height - belt)
    b.rectangle((length / 2 - 0.25 * nose, -0.46 * width, belt), (0, 0.92 * width, 0), screen, cell, GLASS * 1.4)
    for side in (-1, 1):  # cab windows; rear windows in the doors
        b.rectangle(
            (length / 2 - 2.0 * nose, side * (width / 2 + 0.03), belt), (nose, 0, 0), (0, 0, 0.35 * height), cell, GLASS
        )
        b.rectangle((-length / 2 - 0.03, side * 0.25 * width - 0.18 * width, 0.58 * height), (0, 0.36 * width, 0),
                    (0, 0, 0.27 * height), cell * 0.8, GLASS * 1.1)  # fmt: skip
    _wheels(b, np.array([-0.31, 0.33]) * length, width, min(0.36, 0.17 * height))
    return with_lights(b, length, width, 0.34 * height, 0.30 * height)


def truck(length: float, width: float, height: float, rng: np.random.Generator) -> dict[str, GaussianCloud]:
    """A lorry: a coloured cab in front, a gap, and a pale cargo box on a dark frame."""
    b = SurfaceBuilder(rng)
    paint = PAINTS[rng.integers(len(PAINTS))]
    load = np.array([0.82, 0.82, 0.80]) if rng.random() < 0.6 else LIVERIES[rng.integers(len(LIVERIES))]
    cell, cab, floor = 0.38, min(2.2, 0.3 * length), 0.22 * height
    cab_height = 0.86 * height
    shadow(b, length, width)
    b.box(
        (length / 2 - cab / 2, 0, 0.12 * height),
        (cab, width, cab_height - 0.12 * height),
        cell,
        _painted(paint, 0.2 * height),
    )
    b.rectangle(
        (length / 2 + 0.04, -0.44 * width, 0.50 * height),
        (0, 0.88 * width, 0),
        (0, 0, 0.28 * height),
        cell,
        GLASS * 1.4,
    )
    for side in (-1, 1):
        b.rectangle((length / 2 - 0.6 * cab, side * (width / 2 + 0.04), 0.50 * height), (0.5 * cab, 0, 0),
                    (0, 0, 0.26 * height), cell, GLASS)  # fmt: skip
    body = length - cab - 0.35
    b.box((-length / 2 + body / 2, 0, floor + 0.12), (body, width, height - floor - 0.12), cell, load)
    b.box(
        (-cab / 2, 0, 0.14 * height), (length - cab, 0.8 * width, floor - 0.10 * height), cell, TRIM * 1.6, faces="rlR"
    )
    _wheels(b, np.array([-0.38, -0.25, 0.36]) * length, width, 0.48)
    return with_lights(b, length, width, 0.19 * height, 0.19 * height)


def bus(length: float, width: float, height: float, rng: np.random.Generator) -> dict[str, GaussianCloud]:
    """A city bus: a long box with a band of windows over a pale stripe."""
    b = SurfaceBuilder(rng)
    paint = LIVERIES[rng.integers(len(LIVERIES))]
    cell, floor = 0.40, 0.11 * height

    def side_colour(p: Array) -> Array:
        z, x = p[:, 2:] / height, p[:, :1]
        window = (z > 0.46) & (z < 0.82) & (np.mod(x, 1.6) > 0.3)
        stripe = (z > 0.36) & (z <= 0.46)
        return np.where(window, GLASS * 1.2, np.where(stripe, (0.95, 0.95, 0.90), paint))

    def end_colour(p: Array) -> Array:
        z = p[:, 2:] / height
        return np.where((z > 0.42) & (z < 0.84) & (np.abs(p[:, 1:2]) < 0.44 * width), GLASS * 1.3, paint)

    shadow(b, length, width)
    size, centre = (length, width, height - floor), (0.0, 0.0, floor)
    b.box(centre, size, cell, side_colour, faces="lR").box(centre, size, cell, end_colour, faces="fr")
    b.box(centre, size, 0.6, (0.88, 0.88, 0.88), faces="t")
    b.add((length / 2 + 0.04, 0, 0.91 * height), (0.02, 0.34 * width, 0.10), (0.95, 0.75, 0.20))  # destination sign
    _wheels(b, np.array([-0.30, 0.32]) * length, width, 0.48)
    return with_lights(b, length, width, 0.27 * height, 0.23 * height)
