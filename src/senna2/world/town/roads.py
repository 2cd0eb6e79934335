"""Street geometry: a reference line with curvature, a cross-section of lanes, and both together as a street.

Positions along a street are (s, d): metres along the reference line, and to its left. The reference line is the
border between the two senses of travel; traffic keeps right, so lanes along the line lie at d < 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np

from senna2.frames import along_polyline, project_to_polyline, wrap
from senna2.types import Array, require

LANE = 3.5  # m, width of a car lane
CYCLE = 1.8  # m, width of a cycle lane
GUTTER = 0.4  # m between the outermost lane and the kerb; counted to the outermost lane
MAX_LANES_A_SENSE = 3


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
    def from_polyline(cls, line_P2: Array, s0: float = 0.0) -> Self:
        """Heading and curvature by differences; sample every metre or finer. s0: arc length of the first point."""
        s = along_polyline(line_P2) + s0
        tangent = np.gradient(line_P2, s, axis=0)
        yaw = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
        return cls(s, np.asarray(line_P2, np.float64), yaw, np.gradient(yaw, s))

    @classmethod
    def straight(cls, from_2: Array, to_2: Array, step: float, s0: float = 0.0) -> Self:
        """The straight line between two points (2,), at most `step` m from point to point."""
        length = float(np.hypot(*(to_2 - from_2)))
        share = np.linspace(0.0, 1.0, max(int(np.ceil(length / step - 1e-9)), 1) + 1)
        yaw = float(np.arctan2(to_2[1] - from_2[1], to_2[0] - from_2[0]))
        xy = from_2 + share[:, None] * (to_2 - from_2)
        return cls(s0 + share * length, xy, np.full(len(share), yaw), np.zeros(len(share)))

    def world(self, s: Array | float, d: Array | float) -> Array:
        """Poses (…, 3): x, y and the line's heading at arc lengths s and offsets d; straight beyond the ends."""
        s = np.asarray(s, np.float64)
        inside = np.clip(s, self.s_P[0], self.s_P[-1])
        yaw = np.interp(inside, self.s_P, self.yaw_P)
        x = np.interp(inside, self.s_P, self.xy_P2[:, 0]) + (s - inside) * np.cos(yaw) - np.sin(yaw) * d
        y = np.interp(inside, self.s_P, self.xy_P2[:, 1]) + (s - inside) * np.sin(yaw) + np.cos(yaw) * d
        return np.stack([x, y, np.broadcast_to(wrap(yaw), np.shape(x))], -1)

    def project(self, points_N2: Array) -> tuple[Array, Array]:
        """(s, d) of world points, each (N,)."""
        s, d = project_to_polyline(points_N2, self.xy_P2)
        return s + self.s_P[0], d

    def kappa(self, s: Array | float) -> Array:
        return np.interp(s, self.s_P, self.kappa_P)

    def offset(self, d: float) -> Array:
        """The parallel polyline (P, 2) at lateral offset d."""
        return self.world(self.s_P, d)[:, :2]

    def parallel(self, d: float) -> Self:
        """The parallel line at lateral offset d with its own arc length; s = 0 stays abeam of this line's s = 0."""
        stretch = 1.0 - self.kappa_P * d
        s = np.concatenate([[0.0], np.cumsum(np.diff(self.s_P) * (stretch[1:] + stretch[:-1]) / 2)])
        s -= np.interp(0.0, self.s_P, s)
        return type(self)(s, self.offset(d), self.yaw_P, self.kappa_P / stretch)

    def reversed(self) -> Self:
        """The same line driven the other way; s = 0 stays where it is."""
        return type(self)(
            -self.s_P[::-1], self.xy_P2[::-1].copy(), self.yaw_P[::-1] + np.pi, -self.kappa_P[::-1]
        )  # fmt: skip


RAMP = 0.5  # of a turn's radius: how long its curvature rises, and falls again [ours]


@lru_cache(maxsize=1)
def _unit_turn() -> tuple[Array, Array, Array, Array]:
    """A left quarter turn of radius 1 from the origin along x: arc length, points, heading, curvature."""
    end = np.pi / 2 + RAMP  # a trapezium of curvature whose area is a quarter turn
    ramp = np.linspace(0.0, RAMP, 251)
    s = np.concatenate([ramp, np.linspace(RAMP, end - RAMP, 401)[1:-1], end - ramp[::-1]])
    kappa = np.clip(np.minimum(s, end - s) / RAMP, 0.0, 1.0)
    line = ReferenceLine.from_curvature(s, kappa)
    return s, line.xy_P2, line.yaw_P, kappa


def turn_tangent(radius: float) -> float:
    """Metres from where a quarter turn of this smallest radius begins to where its two straights would meet."""
    return float(radius * _unit_turn()[1][-1, 0])


def turn_shift(radius: float) -> float:
    """How much further than `radius` the centre of the turn's arc lies from each straight, m (the ramps' price)."""
    s, xy, yaw, _ = _unit_turn()
    middle = len(s) // 2
    return float(radius * (xy[middle, 1] + np.cos(yaw[middle]) - 1.0))


def quarter_turn(
    start_3: Array, before: float, radius: float, side: int, after: float, step: float, s0: float
) -> ReferenceLine:
    """Straight for `before` m, a quarter turn to the left (side 1) or right (-1), straight for `after` m.

    start_3: pose (x, y, yaw) at arc length s0. step: at most that many metres between points.
    """
    u, xy, yaw, kappa = _unit_turn()
    bent = radius * u[-1]
    length = before + bent + after
    s = np.linspace(0.0, length, max(int(np.ceil(length / step - 1e-9)), 1) + 1)
    at = np.clip((s - before) / radius, 0.0, u[-1])
    x = radius * np.interp(at, u, xy[:, 0]) + np.minimum(s, before)
    y = radius * np.interp(at, u, xy[:, 1]) + np.clip(s - before - bent, 0.0, None)
    c, sn = np.cos(start_3[2]), np.sin(start_3[2])
    world = np.stack([start_3[0] + c * x - sn * side * y, start_3[1] + sn * x + c * side * y], -1)
    inside = (s > before) & (s < before + bent)
    return ReferenceLine(
        s0 + s, world, start_3[2] + side * np.interp(at, u, yaw),
        np.where(inside, side * np.interp(at, u, kappa) / radius, 0.0),
    )  # fmt: skip


def ease(share: Array | float) -> Array:
    """0 → 1 with slope and curvature zero at both ends (the quintic), clamped outside [0, 1]."""
    u = np.clip(share, 0.0, 1.0)
    return np.asarray(u * u * u * (u * (6.0 * u - 15.0) + 10.0))


@dataclass(frozen=True)
class Section:
    """Lanes a sense (1…3), and whether both senses have a cycle lane beside the kerb."""

    forward: int = 2
    oncoming: int = 2
    cycle: bool = False

    def __post_init__(self) -> None:
        for name, lanes in (("forward", self.forward), ("oncoming", self.oncoming)):
            fits = 1 <= lanes <= MAX_LANES_A_SENSE
            require(fits, f"Section.{name}", f"{lanes} lanes; a street has 1 to {MAX_LANES_A_SENSE} a sense")

    def lanes(self, sense: int = 1) -> int:
        return self.forward if sense > 0 else self.oncoming

    def kerb(self, sense: int = 1) -> float:
        """Distance of the kerb on the side of that sense from the reference line, m."""
        return self.lanes(sense) * LANE + (CYCLE if self.cycle else 0.0) + GUTTER

    @property
    def kerb_right(self) -> float:
        return self.kerb(1)

    @property
    def kerb_left(self) -> float:
        return self.kerb(-1)

    def offset(self, k: int, sense: int = 1) -> float:
        """d of the middle of lane k, counted from the street's middle (0 is the innermost)."""
        require(0 <= k < self.lanes(sense), f"lane {k}", f"the street has lanes 0 to {self.lanes(sense) - 1} there")
        return -sense * (k + 0.5) * LANE

    def cycle_offset(self, sense: int = 1) -> float:
        """d of the middle of the cycle lane."""
        require(self.cycle, "cycle lane", "this street has none; draw it with Section(cycle=True)")
        return -sense * (self.lanes(sense) * LANE + CYCLE / 2)


DEFAULT_SECTION = Section()


@dataclass(frozen=True)
class LaneDrop:
    """The outermost forward lane narrows to nothing between s_from and s_to."""

    s_from: float
    s_to: float

    def closed(self, s: Array | float) -> Array:
        """The share of the lane's width that is gone at s, 0…1."""
        return ease((np.asarray(s, np.float64) - self.s_from) / (self.s_to - self.s_from))


@dataclass(frozen=True, eq=False)
class Street:
    """A street: name ("main" or "side"), reference line, lanes. bend_s: where its curve or bend begins and ends.

    drop: where its outermost forward lane ends (a merge), or None.
    """

    name: str
    line: ReferenceLine
    section: Section
    speed_limit: float
    kind: str
    bend_s: tuple[float, float] | None = None
    drop: LaneDrop | None = None

    def kerb(self, side: int, s: Array | float) -> Array:
        """Distance of the right (side -1) or left (1) kerb from the line at s, m; moves in where a lane ends."""
        wide = np.full(np.shape(s), self.section.kerb(-side))
        return wide - LANE * self.drop.closed(s) if side < 0 and self.drop is not None else wide
