"""The polyline an ego is told to follow, and positions along it."""

from __future__ import annotations

import numpy as np

from senna2.compiled import njit
from senna2.frames import along_polyline
from senna2.types import Array, require

NEAR_M = 40.0  # how far from its last position an ego is looked for
PROLONGED_M = 300.0  # a route goes straight on beyond its ends, so that progress does not stop at them
SAME_WAY = 0.5  # cosine: within 60 degrees


class Route:
    """The told polyline and positions along it; 0 is where the expert starts, so that clips compare.

    Raises `InputError` for one without length.
    """

    def __init__(self, route_P2: Array, start_2: Array) -> None:
        line = np.asarray(route_P2, np.float64)
        given_s_P = along_polyline(line)
        keep = np.concatenate([[True], np.hypot(*np.diff(line, axis=0).T) > 1e-6])
        self._line_P2 = line = line[keep]
        require(len(line) >= 2, "route", "needs two points apart; give the polyline to be driven")
        first, last = line[1] - line[0], line[-1] - line[-2]
        before = line[0] - first / np.hypot(*first) * PROLONGED_M
        after = line[-1] + last / np.hypot(*last) * PROLONGED_M
        self._long_P2 = np.vstack([before, line, after])
        self._s_P = along_polyline(self._long_P2)
        self._step = np.diff(self._long_P2, axis=0)
        self._length = np.hypot(*self._step.T)
        self._zero = 0.0
        self._zero = self.locate(start_2)
        self.point_s_P = given_s_P + PROLONGED_M - self._zero  # position of each given point
        self.length_m = float(self._s_P[-2]) - self._zero  # from the expert's start to the route's end

    def locate(self, point_2: Array, near_m: float | None = None) -> float:
        """Position along the route, m. `near_m`: the position a moment ago; only ±`NEAR_M` about it are searched, so a
        route that crosses itself does not make the ego jump."""
        near = np.nan if near_m is None else near_m + self._zero
        x, y = float(point_2[0]), float(point_2[1])
        return float(_nearest(x, y, near, self._long_P2, self._s_P, self._step, self._length)) - self._zero

    def at(self, position_N: Array) -> Array:
        """(N, 2) points at positions, beyond the ends straight on."""
        s = np.asarray(position_N, np.float64) + self._zero
        return _points_at(s, self._long_P2, self._s_P, self._step, self._length)

    def crossing(self, line_22: Array, heading: float, reach_m: float = 0.0) -> float | None:
        """Where the route runs over a stop line (its two ends), m; None if it passes more than `reach_m` beside it, or
        in another direction than the traffic of that `heading` (rad), for which the line is."""
        a, b = np.asarray(line_22, np.float64)
        s = self.locate(0.5 * (a + b))
        point, ahead = self.at(np.array([s - 0.5, s + 0.5]))
        along = (ahead - point) / np.hypot(*(ahead - point))
        left = np.array([-along[1], along[0]])
        d = sorted((float((a - point) @ left), float((b - point) @ left)))
        same_way = along[0] * np.cos(heading) + along[1] * np.sin(heading) > SAME_WAY
        return s if same_way and d[0] <= reach_m and d[1] >= -reach_m else None

    def value_at(self, position: float, value_P: Array) -> float:
        """A value given per point of the scene's route, at a position: that of the last point passed."""
        i = int(np.searchsorted(self.point_s_P, position + 1e-6, side="right")) - 1
        return float(value_P[min(max(i, 0), len(value_P) - 1)])

    def track(self, pose_N3: Array) -> Array:
        """(N,) positions of a driven path, followed pose by pose."""
        positions: list[float] = []
        for point in np.asarray(pose_N3)[:, :2]:
            positions.append(self.locate(point, positions[-1] if positions else None))
        return np.array(positions)


@njit()
def _nearest(x, y, near, line, s_line, step, length):
    """Arc length of the point of a polyline nearest to (x, y); near NaN: everywhere, else about that arc length."""
    first, last = 0, len(step)
    if not np.isnan(near):
        first = max(int(np.searchsorted(s_line, near - NEAR_M)) - 1, 0)
        last = max(min(int(np.searchsorted(s_line, near + NEAR_M)), last), first + 1)
    least, best = np.inf, 0.0
    for i in range(first, last):
        rx, ry = x - line[i, 0], y - line[i, 1]
        along = min(max((rx * step[i, 0] + ry * step[i, 1]) / length[i], 0.0), length[i])
        gx, gy = rx - along * step[i, 0] / length[i], ry - along * step[i, 1] / length[i]
        gap = gx * gx + gy * gy
        if gap < least:
            least, best = gap, s_line[i] + along
    return best


@njit()
def _points_at(s, line, s_line, step, length):
    out = np.empty((len(s), 2))
    for k in range(len(s)):
        i = min(max(int(np.searchsorted(s_line, s[k], side="right")) - 1, 0), len(step) - 1)
        u = (s[k] - s_line[i]) / length[i]
        out[k, 0], out[k, 1] = line[i, 0] + step[i, 0] * u, line[i, 1] + step[i, 1] * u
    return out
