"""Pedestrians and cyclists before the ego's lane: they step on it if the gap is long enough, else wait at its edge."""

from __future__ import annotations

import math

import numpy as np

from senna2.types import Array, EgoState, VehicleShape
from senna2.world.route import Route
from senna2.world.traffic.kernel import LENGTH
from senna2.world.traffic.paths import BEFORE_M, BEYOND_M, DS, Paths

LANE_HALF_M = 1.75
SPARE_S = 1.0  # the ego may come this long after they have left its lane
LOOK_M = 1.5  # they decide this far before the edge, plus what they need to stop
STANDING = 0.5  # m/s: an ego that creeps lets them pass
BRAKE = 1.5  # m/s²


class Kerbs:
    """Where the paths of `agents` first enter and then leave the lane of the ego's route."""

    def __init__(self, paths: Paths, agents: Array, parameters_A7: Array, route: Route, shape: VehicleShape) -> None:
        self._route, self._shape = route, shape
        self._length_A = parameters_A7[:, LENGTH] if len(parameters_A7) else np.zeros(0)
        self._most_A = parameters_A7[:, 0]
        self._rows: list[tuple[int, float, float, float]] = []  # agent, s in, s out, route position
        for a in agents:
            last = int(paths.nodes_Q[a] - round(BEYOND_M / DS))
            s = -BEFORE_M + DS * np.arange(len(paths.xy_QP2[a]))
            on = np.zeros(len(s), bool)
            position = np.zeros(len(s))
            for i in range(round(BEFORE_M / DS), last):
                point = paths.xy_QP2[a, i]
                position[i] = route.locate(point)
                on[i] = float(np.hypot(*(route.at(position[i : i + 1])[0] - point))) < LANE_HALF_M
            inside = np.flatnonzero(on)
            if len(inside) and inside[0] > round(BEFORE_M / DS):  # who begins on the lane has no edge to wait at
                leaves = inside[np.flatnonzero(np.diff(inside) > 1)][:1] if (np.diff(inside) > 1).any() else inside[-1:]
                middle = int((inside[0] + leaves[0]) // 2)
                self._rows.append((int(a), float(s[inside[0]]), float(s[leaves[0]]), float(position[middle])))

    def next(self, s_A: Array, v_A: Array, ego: EgoState) -> Array:
        """(A,) position at which to wait now, inf where there is none."""
        out = np.full(len(s_A), math.inf)
        if not self._rows or ego.v < STANDING:
            return out
        ego_s = self._route.locate(np.array([ego.x, ego.y]))
        for a, s_in, s_out, position in self._rows:
            half = self._length_A[a] / 2
            front = s_A[a] + half
            if front > s_in + 0.3 or s_in - front > LOOK_M + 0.5 * v_A[a] ** 2 / BRAKE:
                continue  # on the lane already, or still far from it
            if ego_s - self._shape.rear_overhang > position + 1.0:
                continue  # it has passed
            arrives_s = max(position - ego_s - self._shape.front, 0.0) / ego.v
            crosses_s = (s_out + half - s_A[a]) / max(self._most_A[a], 0.8)
            if arrives_s < crosses_s + SPARE_S:
                out[a] = s_in
        return out
