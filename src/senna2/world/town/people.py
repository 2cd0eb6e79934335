"""Pedestrians, riders and static obstacles as gaussians, in shares of the given box so that they scale to any size.

Box frame: origin at the bottom centre, x forward, z up. Riders and pedestrians have two leg poses, to be alternated.
"""

from __future__ import annotations

import numpy as np

from senna2.types import Array
from senna2.world.gaussians import GaussianCloud
from senna2.world.town.surfaces import SurfaceBuilder
from senna2.world.town.vehicles import AMBER, AMBER_OFF, HEAD, PAINTS, TAIL, TAIL_BRAKING, TYRE, VARIANTS

Point = tuple[float, float, float]
SHIRTS = np.array(
    [
        (0.90, 0.60, 0.10),
        (0.20, 0.30, 0.75),
        (0.80, 0.18, 0.18),
        (0.85, 0.85, 0.88),
        (0.20, 0.55, 0.30),
        (0.55, 0.20, 0.55),
    ]
)
TROUSERS = np.array([(0.10, 0.10, 0.17), (0.52, 0.45, 0.34), (0.20, 0.28, 0.52)])  # none as grey as asphalt
SKIN = np.array([(0.85, 0.65, 0.50), (0.55, 0.38, 0.26), (0.92, 0.74, 0.62)])
HAIR = np.array([(0.10, 0.08, 0.07), (0.30, 0.18, 0.10), (0.62, 0.48, 0.24), (0.55, 0.55, 0.56)])


def _limb(b: SurfaceBuilder, a: Point, c: Point, radius: float, colour: Array | Point, n: int = 4) -> None:
    """A limb from a to c as a row of blobs (no rotated ellipsoids: rows of blobs bend where a limb bends)."""
    way = np.subtract(c, a)
    t = (np.arange(n) + 0.5)[:, None] / n
    reach = max(radius, 0.45 * float(np.linalg.norm(way)) / n)
    b.add(a + t * way, (reach if abs(way[0]) > radius else radius, radius, reach), colour)


def pedestrian(length: float, width: float, height: float, rng: np.random.Generator) -> dict[str, GaussianCloud]:
    """Head, torso, two arms, two legs; "" and ".step" swing opposite legs forward."""
    shirt, trousers, skin, hair = (p[rng.integers(len(p))] for p in (SHIRTS, TROUSERS, SKIN, HAIR))
    h, w = height, max(width, 0.4)
    out = {}
    for suffix, swing in (("", 1.0), (".step", -1.0)):
        b = SurfaceBuilder(rng)
        b.add((0, 0, 0.05), (0.22, 0.20, 0.01), (0.06, 0.06, 0.07), opacity=0.5)
        for side in (-1, 1):
            stride = side * swing * min(0.42 * max(length, 0.5), 0.32)
            hip, foot = (0, side * 0.15 * w, 0.48 * h), (stride, side * 0.15 * w, 0.05 * h)
            _limb(b, hip, foot, 0.050 * h, trousers, n=5)
            b.add((stride + 0.06, side * 0.15 * w, 0.03 * h), (0.08, 0.045, 0.03), TYRE)
            hand = (-0.8 * stride, side * 0.40 * w, 0.50 * h)
            _limb(b, (0, side * 0.36 * w, 0.80 * h), hand, 0.032 * h, shirt * 0.75)
            b.add(hand, (0.03 * h, 0.025 * h, 0.03 * h), skin)
        b.add([(0, 0, z * h) for z in (0.53, 0.62, 0.71, 0.78)], (0.068 * h, 0.19 * w, 0.050 * h), shirt)
        b.add((0.02, 0, 0.915 * h), (0.050 * h, 0.046 * h, 0.058 * h), skin)
        b.add((-0.035, 0, 0.945 * h), (0.050 * h, 0.050 * h, 0.040 * h), hair)
        out[suffix] = b.cloud()
    return out


def _wheel_ring(b: SurfaceBuilder, x: float, radius: float, thickness: float) -> None:
    angle = np.linspace(0, 2 * np.pi, 15)[:-1]
    ring = np.stack([x + 0.88 * radius * np.cos(angle), 0 * angle, radius + 0.88 * radius * np.sin(angle)], 1)
    b.add(ring, (0.18 * radius, thickness, 0.18 * radius), TYRE, opacity=0.92)


def _rider(
    b: SurfaceBuilder, l: float, h: float, shirt: Array, trousers: Array, helmet: Array, saddle_z: float
) -> None:
    spine = np.linspace((-0.09 * l, 0, saddle_z + 0.08 * h), (0.03 * l, 0, saddle_z + 0.26 * h), 4)
    b.add(spine, (0.09, 0.135, 0.045 * h), shirt)
    for side in (-1, 1):
        _limb(
            b,
            (0.03 * l, 0.19 * side, saddle_z + 0.30 * h),
            (0.25 * l, 0.2 * side, saddle_z + 0.12 * h),
            0.05,
            shirt * 0.9,
        )
    b.add((0.07 * l, 0, 0.93 * h), (0.09, 0.08, 0.045 * h), helmet)
    b.add((0.09 * l, 0, 0.885 * h), (0.06, 0.06, 0.03 * h), SKIN[0])


def _bicycle(b: SurfaceBuilder, l: float, radius: float, saddle: float, frame: Array) -> None:
    b.add((0, 0, 0.05), (0.3 * l, 0.16, 0.01), (0.06, 0.06, 0.07), opacity=0.45)
    for x in (-0.5 * l + radius, 0.5 * l - radius):
        _wheel_ring(b, x, radius, 0.03)
    rear, bottom, seat, bar = (
        (-0.3 * l, 0, radius),
        (-0.05 * l, 0, radius),
        (-0.12 * l, 0, saddle),
        (0.23 * l, 0, saddle + 0.03),
    )
    for a, c in ((rear, bottom), (bottom, seat), (bottom, bar), (seat, bar), (bar, (0.3 * l, 0, radius))):
        _limb(b, a, c, 0.035, frame, n=5)


def bicycle(length: float, width: float, height: float, rng: np.random.Generator) -> dict[str, GaussianCloud]:
    """A bicycle nobody rides, as recordings hold them parked; its box is lower than a rider's."""
    b = SurfaceBuilder(rng)
    radius = min(0.20 * length, 0.36 * height)
    _bicycle(b, length, radius, min(0.92 * height, 1.0), rng.uniform(0.1, 0.7, 3))
    return {"": b.cloud()}


def cyclist(length: float, width: float, height: float, rng: np.random.Generator) -> dict[str, GaussianCloud]:
    """A bicycle with two dark wheel rings, a leaning rider in a bright shirt and a helmet; legs alternate."""
    shirt, trousers = SHIRTS[rng.integers(len(SHIRTS))], TROUSERS[rng.integers(len(TROUSERS))]
    helmet = np.array((0.92, 0.92, 0.92) if shirt.min() < 0.5 else (0.85, 0.15, 0.12))
    frame, l, h = rng.uniform(0.1, 0.7, 3), length, height
    radius, saddle = min(0.20 * l, 0.21 * h), 0.52 * h
    out = {}
    for suffix, swing in (("", 1.0), (".step", -1.0)):
        b = SurfaceBuilder(rng)
        _bicycle(b, l, radius, saddle, frame)
        for side in (-1, 1):
            knee = (0.06 * l, 0.11 * side, saddle - (0.02 if side * swing > 0 else 0.14) * h)
            pedal = (-0.05 * l + 0.06 * side * swing, 0.11 * side, radius + 0.05 * h * side * swing)
            _limb(b, (-0.1 * l, 0.1 * side, saddle + 0.04 * h), knee, 0.07, trousers, n=3)
            _limb(b, knee, pedal, 0.055, trousers, n=3)
        _rider(b, l, h, shirt, trousers, helmet, saddle)
        out[suffix] = b.cloud()
    return out


def motorcycle(length: float, width: float, height: float, rng: np.random.Generator) -> dict[str, GaussianCloud]:
    """A motorcycle with its rider, head and tail lamp; brake and indicator variants."""
    shirt, paint = np.array((0.13, 0.13, 0.15)), PAINTS[rng.choice((0, 1, 2, 4, 6, 7))]  # leathers, bright machine
    l, h = length, height
    radius, saddle = 0.155 * l, 0.50 * h
    out = {}
    for suffix in VARIANTS:
        b = SurfaceBuilder(rng)
        b.add((0, 0, 0.06), (0.3 * l, 0.22, 0.01), (0.05, 0.05, 0.06), opacity=0.5)
        for x in (-0.5 * l + radius, 0.5 * l - radius):
            _wheel_ring(b, x, radius, 0.07)
            b.add((x, 0, radius), (0.4 * radius, 0.05, 0.4 * radius), (0.35, 0.35, 0.36))
        b.add(
            ((0.0, 0, 0.30 * h), (0.12 * l, 0, 0.42 * h), (-0.15 * l, 0, 0.42 * h)), (0.14 * l, 0.14, 0.09 * h), paint
        )
        b.add((-0.32 * l, 0, 0.47 * h), (0.10 * l, 0.12, 0.05 * h), paint)  # tail
        b.add(((0.24 * l, 0, 0.50 * h),), (0.07, 0.20, 0.09 * h), paint * 0.9)
        for side in (-1, 1):
            _limb(b, (-0.1 * l, 0.17 * side, saddle), (0.08 * l, 0.2 * side, 0.36 * h), 0.08, TROUSERS[0], n=3)
            _limb(b, (0.08 * l, 0.2 * side, 0.36 * h), (-0.03 * l, 0.2 * side, 0.14 * h), 0.07, TROUSERS[0], n=3)
            on = suffix == (".left" if side > 0 else ".right")
            for x in (-0.45, 0.42):
                b.add((x * l, 0.22 * side, 0.48 * h), (0.08,) * 3 if on else (0.03,) * 3, AMBER if on else AMBER_OFF)
        braking = suffix == ".brake"
        b.add(
            (-0.47 * l, 0, 0.46 * h),
            (0.03, 0.17, 0.10) if braking else (0.03, 0.10, 0.06),
            TAIL_BRAKING if braking else TAIL,
        )
        b.add((0.40 * l, 0, 0.50 * h), (0.03, 0.10, 0.09), HEAD)
        _rider(b, l, h, shirt, TROUSERS[0], paint, saddle)
        out[suffix] = b.cloud()
    return out


def static(length: float, width: float, height: float, rng: np.random.Generator) -> dict[str, GaussianCloud]:
    """A traffic cone where the box is small, else a barrier with red and white stripes."""
    b = SurfaceBuilder(rng)
    if max(length, width) < 0.8 and height < 1.3:
        for k, z in enumerate((np.arange(6) + 0.5) / 6):
            r = 0.30 * max(length, width) * (1.05 - z)
            colour = (0.95, 0.95, 0.93) if k in (2, 4) else (0.95, 0.38, 0.08)
            b.add((0, 0, z * height), (r, r, 0.075 * height), colour)
        b.add((0, 0, 0.04), (0.28 * length, 0.28 * width, 0.02), (0.15, 0.14, 0.14))
        return {"": b.cloud()}

    def stripes(p: Array) -> Array:
        band = np.mod(p[:, :1] + p[:, 1:2] + p[:, 2:], 0.8) < 0.4
        return np.where(band, (0.85, 0.12, 0.10), (0.92, 0.92, 0.90))

    cell = float(np.clip(min(height, max(length, width)) / 5, 0.12, 0.4))
    b.box((0, 0, 0.0), (length, width, height), cell, stripes)
    return {"": b.cloud()}
