"""Red lights for reactive traffic: where paths run over stop lines, and which of them must be stopped for now."""

from __future__ import annotations

import math

import numpy as np

from senna2.types import Array
from senna2.world.route import Route
from senna2.world.scene import Light, Scene
from senna2.world.traffic.paths import BEFORE_M, BEYOND_M, DS, Paths

AMBER_BRAKE = 3.0  # m/s²: who would have to brake harder than this drives on over amber


class StopLines:
    """Stop lines of a clip's lights along paths."""

    def __init__(self, scene: Scene, paths: Paths) -> None:
        self._scene = scene
        rows: list[tuple[int, int, float]] = []  # path, signal, position
        for q in range(len(paths.nodes_Q)) if scene.signals else ():
            inner = slice(round(BEFORE_M / DS), int(paths.nodes_Q[q] - round(BEYOND_M / DS)))
            line = paths.xy_QP2[q, inner]
            if len(line) < 2:
                continue
            route = Route(line, line[0])
            for n, signal in enumerate(scene.signals):
                s = route.crossing(signal.stop_line_22, float(signal.pose_3[2]))
                if s is not None and 0 <= s <= route.length_m:
                    rows.append((q, n, s))
        self._path = np.array([r[0] for r in rows], np.int64)
        self._signal = np.array([r[1] for r in rows], np.int64)
        self._s = np.array([r[2] for r in rows])

    def next(self, path_A: Array, front_A: Array, v_A: Array, t_s: float) -> Array:
        """(A,) position of the next line to stop at now, inf where there is none."""
        out = np.full(len(path_A), math.inf)
        for q, n, s in zip(self._path, self._signal, self._s, strict=True):
            state = self._scene.signals[int(n)].at(t_s)
            if state == Light.GREEN:
                continue
            ahead = (path_A == q) & (front_A <= s)
            if state == Light.AMBER:
                ahead &= v_A**2 <= 2 * AMBER_BRAKE * np.maximum(s - front_A, 1e-6)
            out = np.where(ahead, np.minimum(out, s), out)
        return out
