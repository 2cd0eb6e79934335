"""Street geometry: a reference line with curvature, its lanes, kerbs and drivable area (a complete `LaneMap`).

Positions along a street are (s, d): metres along the reference line, and to its left. The reference line is the
middle of the road; lanes of the ego's sense lie at d < 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from senna2.frames import along_polyline, project_to_polyline, wrap
from senna2.types import Array
from senna2.world.scene import Lane, LaneMap

LANE = 3.5  # m, lane width
GUTTER = 0.4  # m between the outer lane and the kerb; counted to the outer lane
KERB = 2 * LANE + GUTTER
LANE_OFFSETS = {"right": -1.5 * LANE, "left": -0.5 * LANE, "oncoming_left": 0.5 * LANE, "oncoming_right": 1.5 * LANE}
S_START, S_END = -40.0, 235.0  # the ego starts near s = 0
STEP = 0.5  # m between points of the reference line
BEND_RADIUS = 22.0  # m, reference line of a 90° bend
BENDS = ("right", "left")
KINDS = ("straight", "curved", *BENDS)


@dataclass(frozen=True, eq=False)
class ReferenceLine:
    """A smooth polyline: arc length s_P, points, unwrapped heading and curvature (1/m, left positive)."""

    s_P: Array
    xy_P2: Array
    yaw_P: Array
    kappa_P: Array

    @classmethod
    def from_curvature(cls, s_P: Array, kappa_P: Array) -> Self:
        """Integrates curvature; s = 0 lies at the origin with heading 0."""
        ds = np.diff(s_P)
        yaw = np.concatenate([[0.0], np.cumsum(ds * (kappa_P[1:] + kappa_P[:-1]) / 2)])
        yaw -= np.interp(0.0, s_P, yaw)
        middle = (yaw[1:] + yaw[:-1]) / 2
        xy = np.zeros((len(s_P), 2))
        xy[1:] = np.cumsum(np.stack([ds * np.cos(middle), ds * np.sin(middle)], 1), 0)
        xy -= [np.interp(0.0, s_P, xy[:, 0]), np.interp(0.0, s_P, xy[:, 1])]
        return cls(s_P, xy, yaw, kappa_P)

    @classmethod
    def from_polyline(cls, line_P2: Array) -> Self:
        """Heading and curvature by differences; the polyline should be sampled every metre or finer."""
        s = along_polyline(line_P2)
        tangent = np.gradient(line_P2, s, axis=0)
        yaw = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
        return cls(s, np.asarray(line_P2, np.float64), yaw, np.gradient(yaw, s))

    def world(self, s: Array | float, d: Array | float) -> Array:
        """Poses (…, 3): x, y and the line's heading at arc lengths s and offsets d; straight beyond the ends."""
        s = np.asarray(s, np.float64)
        inside = np.clip(s, self.s_P[0], self.s_P[-1])
        yaw = np.interp(inside, self.s_P, self.yaw_P)
        x = np.interp(inside, self.s_P, self.xy_P2[:, 0]) + (s - inside) * np.cos(yaw) - np.sin(yaw) * d
        y = np.interp(inside, self.s_P, self.xy_P2[:, 1]) + (s - inside) * np.sin(yaw) + np.cos(yaw) * d
        return np.stack([x, y, wrap(yaw)], -1)

    def project(self, points_N2: Array) -> tuple[Array, Array]:
        """(s, d) of world points, each (N,)."""
        s, d = project_to_polyline(points_N2, self.xy_P2)
        return s + self.s_P[0], d

    def kappa(self, s: Array | float) -> Array:
        return np.interp(s, self.s_P, self.kappa_P)

    def offset(self, d: float) -> Array:
        """The parallel polyline (P, 2) at lateral offset d."""
        return self.world(self.s_P, d)[:, :2]


@dataclass(frozen=True, eq=False)
class Street:
    """A 2+2 lane street. bend_s: where the 90° bend (or the curve) begins and ends, None on a straight street."""

    kind: str
    line: ReferenceLine
    speed_limit: float
    bend_s: tuple[float, float] | None

    @classmethod
    def draw(cls, rng: np.random.Generator, kind: str, speed_limit: float) -> Self:
        """Random geometry: where the curve begins, its radius, to which side it goes."""
        s = np.arange(S_START, S_END + STEP / 2, STEP)
        if kind == "straight":
            return cls(kind, ReferenceLine.from_curvature(s, np.zeros_like(s)), speed_limit, None)
        if kind == "curved":
            radius = rng.uniform(120, 350) * rng.choice([-1, 1])
            begin, ramp, length = rng.uniform(-20, 30), 20.0, rng.uniform(90, 150)
        else:
            radius = BEND_RADIUS * (-1 if kind == "right" else 1)
            begin, ramp = rng.uniform(26, 48), 7.0
            length = np.pi / 2 * BEND_RADIUS + ramp  # a trapezium whose area is a quarter turn
        up = np.clip((s - begin) / ramp, 0, 1)
        down = np.clip((begin + length - s) / ramp, 0, 1)
        return cls(
            kind, ReferenceLine.from_curvature(s, np.minimum(up, down) / radius), speed_limit, (begin, begin + length)
        )

    def map(self) -> LaneMap:
        """Lanes (outer lanes reach to the kerb, so every drivable metre is in one), dividers, kerbs, drivable area."""
        line, half = self.line, LANE / 2

        def lane(name: str, other: str, d: float, low: float, high: float, side: str) -> Lane:
            sense = 1 if d < 0 else -1
            ring = np.concatenate([line.offset(low)[::2], line.offset(high)[::2][::-1]])
            left, right = (other, None) if side == "right" else (None, other)
            centre = line.offset(d)[::2][::sense].copy()
            return Lane(name, centre, ring, self.speed_limit, left=left, right=right)

        lanes = (
            lane("right", "left", -1.5 * LANE, -KERB, -2 * half, "right"),
            lane("left", "right", -0.5 * LANE, -2 * half, 0.0, "left"),
            lane("oncoming_left", "oncoming_right", 0.5 * LANE, 0.0, 2 * half, "left"),
            lane("oncoming_right", "oncoming_left", 1.5 * LANE, 2 * half, KERB, "right"),
        )
        kerbs = (line.offset(-KERB)[::2], line.offset(KERB)[::2])
        return LaneMap(
            lanes=lanes,
            dividers=(line.offset(-LANE)[::2], line.offset(LANE)[::2]),
            centre_lines=(line.offset(0.0)[::2],),
            kerbs=kerbs,
            drivable=(np.concatenate([kerbs[0], kerbs[1][::-1]]),),
            drivable_known=True,
            lanes_complete=True,
        )
