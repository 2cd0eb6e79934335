"""Path-locked reactive traffic: every moving agent keeps its logged path and takes its speed from the intelligent
driver model (IDM), from what it meets, and from how fast its log drove there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from senna2.frames import wrap
from senna2.geometry import box_of, overlap
from senna2.types import AgentClass, Array, EgoState
from senna2.world.route import Route
from senna2.world.scene import BRAKE, Scene
from senna2.world.traffic.base import AgentsState, frozen
from senna2.world.traffic.kernel import ACCEL, GAP, HARDEST, HEADWAY, V0, idm_accel, interactions
from senna2.world.traffic.kernel import BRAKE as COMFORT
from senna2.world.traffic.paths import BEFORE_M, DS, LoggedWay, Paths
from senna2.world.traffic.replay import ReplayTraffic
from senna2.world.traffic.signals import StopLines
from senna2.world.traffic.walkers import Kerbs

FREE_SPEED = 1.1  # of the highest logged speed: desired speed where nothing else limits it
BRISK = 3.0  # m/s²: faster no log is taken to start
FOLLOW_S = 0.5  # time constant with which the log's speed profile is tracked
STOP_SIGHT_M = 12.0  # before a stop of the log that is still to come, its profile is tracked down to standing
LEAST_SHARE = 0.3  # of the highest speed: a stop of the log that is over does not hold anybody up again
SOFT = (AgentClass.PEDESTRIAN, AgentClass.CYCLIST)

# headway s, standstill gap m, acceleration and comfortable braking m/s² [ours, of Treiber's tables for city traffic]
CAR_IDM = (1.2, 2.0, 1.5, 2.5)
WALKER_IDM = (0.5, 0.6, 1.2, 2.0)


@dataclass(frozen=True, eq=False)
class Motion:
    """Reactive agents in motion, each an (A,) array: path, position and speed along it, metres to its left, and the
    acceleration of the last step."""

    path_A: Array
    s_A: Array
    v_A: Array
    d_A: Array
    a_A: Array


class IdmTraffic:
    """Traffic "idm". Parked agents (under 1 m of way in the log) stay; all exist while their log does.

    Memory: path_A, s_A, v_A, d_A, a_A (`Motion`), driven_A (the agent has left its recording), here_A (it has appeared:
    an agent whose place is taken when its log begins waits until it is free).
    """

    def __init__(self, scene: Scene, dt: float, frames: int) -> None:
        self.scene, self.dt = scene, dt
        self.replay = ReplayTraffic(scene.tracks, dt, frames)
        self.ids, self.classes_A = self.replay.ids, self.replay.classes_A
        last = max([frames * dt, *(float(t.t_T[-1]) for t in scene.tracks)])
        whole = ReplayTraffic(scene.tracks, dt, math.floor(last / dt + 1e-6) + 1)  # the log may outlast the clip
        self.ways = [LoggedWay.of(whole.boxes_KA6[:, a], dt) for a in range(len(self.ids))]
        here = [np.isfinite(w.s_K) for w in self.ways]
        self._logged_lights = [
            (w.s_K[h], whole.lights_KA[h, a]) for a, (w, h) in enumerate(zip(self.ways, here, strict=True))
        ]
        self.moving_A = np.array([not w.parked for w in self.ways], bool) & (self.classes_A != AgentClass.STATIC)
        self.paths = Paths.of([w.part for w in self.ways] + self._more_paths())
        self.shape = scene.meta.ego_shape
        self._most_A = np.array([max(w.v_most, 0.5) for w in self.ways])
        self._briskest_A = np.array([np.clip(w.a_most, CAR_IDM[2], BRISK) for w in self.ways])
        self.parameters_A7 = self._parameters()
        soft_A = np.isin(self.classes_A, SOFT)
        self._crossing_A = self.classes_A != AgentClass.PEDESTRIAN
        route = Route(scene.route_P2, scene.expert.pose_E3[0, :2])
        self._stop_lines = StopLines(scene, self.paths)
        self._kerbs = Kerbs(self.paths, np.flatnonzero(soft_A & self.moving_A), self.parameters_A7, route, self.shape)
        stops = max((len(w.stops_M2) for w in self.ways), default=0)
        self._stops_AM2 = np.full((len(self.ids), stops, 2), -np.inf)  # (-inf, -inf): a stop that is over
        for a, way in enumerate(self.ways):
            self._stops_AM2[a, : len(way.stops_M2)] = way.stops_M2

    # --- traffic --------------------------------------------------------------------------------------

    def initial(self, step: int, ego: EgoState) -> AgentsState:
        boxes_A6 = self.replay.boxes_KA6[step]
        a = np.arange(len(self.ids))
        s_A = np.nan_to_num(np.array([w.s_K[step] for w in self.ways], np.float64))
        memory = {
            "path_A": a,
            "s_A": s_A,
            "v_A": np.nan_to_num(np.abs(boxes_A6[:, 5])),
            "d_A": np.zeros(len(a)),
            "a_A": np.zeros(len(a)),
            "driven_A": np.zeros(len(a), bool),
            "here_A": np.isfinite(boxes_A6[:, 0]),
        } | self._first_memory(step)
        memory["driven_A"] = self._driven(AgentsState(step, boxes_A6, self.replay.lights_KA[step], memory), ego)
        return AgentsState(step, boxes_A6, self.replay.lights_KA[step], _read_only(memory))

    def advance(self, agents: AgentsState, ego_before: EgoState) -> AgentsState:
        then = agents.step + 1
        log_A6 = self.replay.boxes_KA6[then]
        boxes_N6 = np.vstack([agents.boxes_A6, self._ego_box(ego_before)])
        driven_A = self._driven(agents, ego_before)
        present_A = np.isfinite(agents.boxes_A6[:, 0])
        active_A = driven_A & present_A & np.isfinite(log_A6[:, 0])
        motion = self._motion(agents, active_A)
        motion, extra = self._choose_paths(motion, agents, boxes_N6, active_A)
        a_A = self._acceleration(agents, motion, boxes_N6, active_A, ego_before)
        motion = self._moved(motion, a_A)
        motion = self._blended(motion, agents, driven_A, then)
        boxes_A6, here_A = self._appearing(agents, log_A6, boxes_N6, driven_A)
        lights_A = self.replay.lights_KA[then].copy()
        moved = np.flatnonzero(active_A)
        if len(moved):
            boxes_A6[moved, :3] = self._poses(motion, extra, then)[moved]
            boxes_A6[moved, 2] = wrap(boxes_A6[moved, 2])
            boxes_A6[moved, 5] = motion.v_A[moved]
            lights_A[moved] = self._lights(motion, extra, then)[moved]
        memory = self._remembered(motion, driven_A, active_A, here_A, then) | extra
        return AgentsState(then, frozen(boxes_A6), frozen(lights_A), _read_only(memory))

    # --- what other kinds of traffic change -----------------------------------------------------------

    def _more_paths(self) -> list[tuple[Array, Array, Array, Array]]:
        return []

    def _first_memory(self, step: int) -> dict[str, Array]:
        return {}

    def _driven(self, agents: AgentsState, ego: EgoState) -> Array:
        """(A,) who no longer follows its recording."""
        return self.moving_A

    def _choose_paths(
        self, motion: Motion, agents: AgentsState, boxes_N6: Array, active_A: Array
    ) -> tuple[Motion, dict[str, Array]]:
        return motion, {}

    def _blended(self, motion: Motion, agents: AgentsState, driven_A: Array, then: int) -> Motion:
        return motion

    def _poses(self, motion: Motion, extra: Mapping[str, Array], then: int) -> Array:
        return self.paths.poses(motion.path_A, motion.s_A, motion.d_A)

    def _lights(self, motion: Motion, extra: Mapping[str, Array], then: int) -> Array:
        """Brake lights by what the agent does, indicators where the log had them."""
        lights = np.zeros(len(self.ids), np.int8)
        for a, (s_N, lights_N) in enumerate(self._logged_lights):
            at = int(np.searchsorted(s_N, motion.s_A[a]))
            lights[a] = lights_N[min(at, len(s_N) - 1)] & ~BRAKE if len(s_N) else 0
        return np.where((motion.a_A < -0.4) | (motion.v_A < 0.1), lights | BRAKE, lights).astype(np.int8)

    # --- parts ----------------------------------------------------------------------------------------

    def _parameters(self) -> Array:
        rows = []
        for track, most in zip(self.scene.tracks, self._most_A, strict=True):
            model = WALKER_IDM if track.agent_class == AgentClass.PEDESTRIAN else CAR_IDM
            rows.append((FREE_SPEED * most, *model, track.length, track.width))
        return np.array(rows, np.float64).reshape(-1, 7)

    def _ego_box(self, ego: EgoState) -> Array:
        return np.append(box_of(np.array([ego.x, ego.y, ego.yaw]), self.shape), ego.v)

    def _motion(self, agents: AgentsState, active_A: Array) -> Motion:
        m = agents.memory
        return Motion(m["path_A"], m["s_A"], m["v_A"], m["d_A"], m["a_A"])

    def _acceleration(
        self, agents: AgentsState, motion: Motion, boxes_N6: Array, active_A: Array, ego: EgoState
    ) -> Array:
        """(A,) the least of: the log's profile, the free road, everybody in the way, red lights, the kerb."""
        p, s_A, v_A = self.parameters_A7, motion.s_A, motion.v_A
        t_s = agents.step * self.dt
        free_A = np.where(
            motion.path_A == np.arange(len(s_A)), self._briskest_A, p[:, ACCEL] * (1 - (v_A / p[:, V0]) ** 4)
        )
        a_A = np.minimum(self._profile(motion, t_s), free_A)
        a_A = np.minimum(
            a_A,
            interactions(boxes_N6, active_A, self._crossing_A, self.paths.xy_QP2, self.paths.nodes_Q, BEFORE_M, DS,
                         motion.path_A, s_A, v_A, motion.d_A, p),
        )  # fmt: skip
        lines_A = self._stop_lines.next(motion.path_A, s_A + p[:, 5] / 2, v_A, t_s)
        lines_A = np.minimum(lines_A, self._kerbs.next(s_A, v_A, ego))
        for a in np.flatnonzero(active_A & np.isfinite(lines_A)):
            gap = lines_A[a] - s_A[a] - p[a, 5] / 2 + p[a, GAP] - 0.3  # it stops 0.3 m before the line
            a_A[a] = min(a_A[a], idm_accel(v_A[a], p[a, V0], gap, 0.0, p[a, HEADWAY], p[a, GAP], p[a, ACCEL],
                                           p[a, COMFORT]))  # fmt: skip
        return np.where(active_A, np.maximum(a_A, HARDEST), 0.0)

    def _profile(self, motion: Motion, t_s: float) -> Array:
        """(A,) acceleration that tracks the log's speed by position; inf on paths without one.

        Squared speed is linear in the way between nodes, so that a stop ends at its place. A stop is kept until the
        log drove on; who comes later passes.
        """
        paths, s_A, v_A = self.paths, motion.s_A, motion.v_A
        at = np.clip((s_A + BEFORE_M) / DS, 0, paths.nodes_Q[motion.path_A] - 2)
        i = at.astype(np.int64)
        here, after = paths.v2_QP[motion.path_A, i], paths.v2_QP[motion.path_A, i + 1]
        free = ~np.isfinite(here) | ~np.isfinite(after)
        here, after = np.where(free, 0.0, here), np.where(free, 0.0, after)
        wanted, slope = np.sqrt(here + (at - i) * (after - here)), (after - here) / (2 * DS)
        to_stop = self._stops_AM2[..., 0] - s_A[:, None]
        pending = (t_s < self._stops_AM2[..., 1]) & (to_stop > -1.0) & (to_stop < STOP_SIGHT_M)
        on_log = motion.path_A == np.arange(len(s_A))
        pending &= on_log[:, None]
        waits = (pending & (to_stop < 0.1)).any(1)
        least = np.where(pending.any(1), 0.0, LEAST_SHARE * self._most_A)
        slope = np.where(wanted < least, 0.0, slope)
        wanted = np.where(waits, 0.0, np.maximum(wanted, least))
        a = np.maximum(np.where(waits, 0.0, slope) + (wanted - v_A) / FOLLOW_S, HARDEST)
        return np.where(free, np.inf, a)

    def _moved(self, motion: Motion, a_A: Array) -> Motion:
        """One frame on with constant acceleration; who comes to rest within it stays there."""
        v_new = motion.v_A + a_A * self.dt
        rests = v_new <= 0
        way = np.where(rests, 0.5 * motion.v_A**2 / np.maximum(-a_A, 1e-9), 0.5 * (motion.v_A + v_new) * self.dt)
        way = np.minimum(way, motion.v_A * self.dt + 0.5 * np.maximum(a_A, 0) * self.dt**2)
        return Motion(motion.path_A, motion.s_A + way, np.maximum(v_new, 0.0), motion.d_A, a_A)

    def _appearing(self, agents: AgentsState, log_A6: Array, boxes_N6: Array, driven_A: Array) -> tuple[Array, Array]:
        """The log's boxes, without driven agents that are still to appear where somebody stands now."""
        boxes_A6 = log_A6.copy()
        here_A = agents.memory["here_A"].copy()
        for a in np.flatnonzero(np.isfinite(log_A6[:, 0]) & ~here_A):
            taken = driven_A[a] and bool(overlap(log_A6[a, :5][None], boxes_N6[:, :5]).any())
            if taken:
                boxes_A6[a] = np.nan
            here_A[a] = not taken
        return boxes_A6, here_A

    def _remembered(
        self, motion: Motion, driven_A: Array, active_A: Array, here_A: Array, then: int
    ) -> dict[str, Array]:
        log_s = np.nan_to_num(np.array([w.s_K[then] for w in self.ways], np.float64))
        log_v = np.nan_to_num(np.abs(self.replay.boxes_KA6[then][:, 5]))
        return {
            "path_A": motion.path_A,
            "s_A": np.where(active_A, motion.s_A, log_s),
            "v_A": np.where(active_A, motion.v_A, log_v),
            "d_A": motion.d_A,
            "a_A": np.where(active_A, motion.a_A, 0.0),
            "driven_A": driven_A,
            "here_A": here_A,
        }


def _read_only(memory: Mapping[str, Array]) -> dict[str, Array]:
    for array in memory.values():
        frozen(array)
    return dict(memory)


def idm(scene: Scene, dt: float, frames: int) -> IdmTraffic:
    """Traffic "idm"."""
    return IdmTraffic(scene, dt, frames)
