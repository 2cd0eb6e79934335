"""The paths on which reactive agents move: each agent's logged way, and lanes, as evenly spaced nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from senna2.frames import along_polyline
from senna2.types import Array

DS = 0.5  # m between nodes: 3 mm of sagitta in a bend of 10 m
BEFORE_M, BEYOND_M = 10.0, 120.0  # a path goes straight on beyond its ends
STEP_M = 0.02  # a standing agent's jitter is no way
PARKED_M = 1.0  # who moves less than this in its whole log is parked
STANDING = 0.1  # m/s
STAND_FRAMES = 3  # a stop is at least this long


@dataclass(frozen=True, eq=False)
class Paths:
    """Q paths: node i of path q lies at s = BEFORE_M·(-1) + i·DS of it. Rows are padded with their last node.

    xy_QP2 m, yaw_QP rad (unwrapped), v2_QP squared speed at which the log drove there (inf: none), nodes_Q.
    """

    xy_QP2: Array
    yaw_QP: Array
    v2_QP: Array
    nodes_Q: Array

    @classmethod
    def of(cls, parts: Sequence[tuple[Array, Array, Array, Array]]) -> Self:
        """From (s_P, xy_P2, yaw_P, v2_P) of each path, s increasing from 0."""
        rows = [_prolonged(*part) for part in parts]
        longest = max((len(r[0]) for r in rows), default=2)
        xy, yaw = np.zeros((len(rows), longest, 2)), np.zeros((len(rows), longest))
        v2 = np.full((len(rows), longest), np.inf)
        for q, (points, angles, squares) in enumerate(rows):
            xy[q], yaw[q], v2[q] = points[-1], angles[-1], squares[-1]
            xy[q, : len(points)], yaw[q, : len(points)], v2[q, : len(points)] = points, angles, squares
        return cls(xy, yaw, v2, np.array([len(r[0]) for r in rows], np.int64))

    def poses(self, path_N: Array, s_N: Array, d_N: Array) -> Array:
        """(N, 3) poses at positions along paths, `d_N` m to their left."""
        at = np.clip((s_N + BEFORE_M) / DS, 0, self.nodes_Q[path_N] - 1.001)
        i = at.astype(np.int64)
        u = (at - i)[:, None]
        xy = (1 - u) * self.xy_QP2[path_N, i] + u * self.xy_QP2[path_N, i + 1]
        yaw = (1 - u[:, 0]) * self.yaw_QP[path_N, i] + u[:, 0] * self.yaw_QP[path_N, i + 1]
        step = self.xy_QP2[path_N, i + 1] - self.xy_QP2[path_N, i]
        left = np.stack([-step[:, 1], step[:, 0]], 1) / np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-9)[:, None]
        return np.column_stack([xy + d_N[:, None] * left, yaw])


@dataclass(frozen=True, eq=False)
class LoggedWay:
    """One agent's log as a path. s_K: position at each frame of the clip (NaN absent). stops_M2: positions at which it
    stood and the time at which it went on (inf: never)."""

    s_K: Array
    part: tuple[Array, Array, Array, Array]
    stops_M2: Array
    parked: bool
    v_most: float
    a_most: float

    @classmethod
    def of(cls, boxes_K6: Array, dt: float) -> Self:
        """From the boxes at every frame, NaN where absent (one stretch of presence)."""
        here = np.flatnonzero(np.isfinite(boxes_K6[:, 0]))
        s_K = np.full(len(boxes_K6), np.nan)
        if len(here) == 0:
            blank = (np.array([0.0, 1.0]), np.array([[0.0, 0.0], [1.0, 0.0]]), np.zeros(2), np.zeros(2))
            return cls(s_K, blank, np.zeros((0, 2)), True, 0.0, 0.0)
        rows = boxes_K6[here]
        kept = [0]
        for n in range(1, len(rows)):
            if np.hypot(*(rows[n, :2] - rows[kept[-1], :2])) >= STEP_M:
                kept.append(n)
        s_kept = along_polyline(rows[kept, :2]) if len(kept) > 1 else np.zeros(1)
        last = np.searchsorted(kept, np.arange(len(rows)), side="right") - 1
        s_K[here] = s_kept[last] + np.hypot(*(rows[:, :2] - rows[np.asarray(kept)[last], :2]).T)
        speed = np.abs(rows[:, 5])
        stops = _stops(speed, s_K[here], here * dt)
        if len(kept) == 1:  # stands all the time: any path will do
            kept, s_kept = [0, 0], np.array([0.0, 1.0])
            xy = rows[0, :2] + np.outer(s_kept, (np.cos(rows[0, 2]), np.sin(rows[0, 2])))
        else:
            xy = rows[kept, :2]
        yaw = np.unwrap(rows[kept, 2])
        half_second = max(round(0.5 / dt), 1)
        gains = speed[half_second:] - speed[:-half_second]
        a_most = float(gains.max()) / (half_second * dt) if len(gains) else 0.0
        parked = bool(s_kept[-1] < PARKED_M or len(here) < 2) or bool(np.nanmax(s_K) < PARKED_M)
        return cls(s_K, (s_kept, xy, yaw, speed[kept] ** 2), stops, parked, float(speed.max()), a_most)


def lane_part(line_P2: Array) -> tuple[Array, Array, Array, Array]:
    """A lane's middle line as a path without speeds."""
    line = np.asarray(line_P2, np.float64)
    line = line[np.concatenate([[True], np.hypot(*np.diff(line, axis=0).T) > STEP_M])]
    step = np.diff(line, axis=0)
    heading = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
    middle = np.concatenate([heading[:1], 0.5 * (heading[:-1] + heading[1:]), heading[-1:]])
    return along_polyline(line), line, middle, np.full(len(line), np.inf)


def _stops(speed_N: Array, s_N: Array, t_N: Array) -> Array:
    rows, n = [], 0
    while n < len(speed_N):
        end = n
        while end < len(speed_N) and speed_N[end] < STANDING:
            end += 1
        if end - n >= STAND_FRAMES:
            rows.append((s_N[n], np.inf if end == len(speed_N) else t_N[end - 1]))
        n = max(end, n + 1)
    return np.array(rows).reshape(-1, 2)


def _prolonged(s_P: Array, xy_P2: Array, yaw_P: Array, v2_P: Array) -> tuple[Array, Array, Array]:
    """Nodes every DS from -BEFORE_M to the end and BEYOND_M more, straight on at both ends."""
    s = np.arange(-BEFORE_M, s_P[-1] + BEYOND_M, DS)
    first = _direction(xy_P2)
    last = -_direction(xy_P2[::-1])
    xy = np.stack([np.interp(s, s_P, xy_P2[:, k]) for k in range(2)], 1)
    xy += np.minimum(s, 0.0)[:, None] * first + np.maximum(s - s_P[-1], 0.0)[:, None] * last
    return xy, np.interp(s, s_P, yaw_P), np.interp(s, s_P, v2_P)


def _direction(xy_P2: Array) -> Array:
    """Unit vector from the first point over at least half a metre: a single short step is noise."""
    gap = np.hypot(*(xy_P2 - xy_P2[0]).T)
    to = int(np.argmax(gap >= 0.5)) or len(gap) - 1
    return (xy_P2[to] - xy_P2[0]) / max(float(gap[to]), 1e-9)
