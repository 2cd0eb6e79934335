"""IDM traffic that also changes lanes where the map has neighbours: MOBIL (Kesting, Treiber, Helbing 2007)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from senna2.types import AgentClass, Array
from senna2.world.scene import INDICATOR_LEFT, INDICATOR_RIGHT, Lane, Scene
from senna2.world.traffic.base import AgentsState
from senna2.world.traffic.idm import CAR_IDM, FREE_SPEED, IdmTraffic, Motion
from senna2.world.traffic.kernel import V0, idm_accel, interaction, nearest_node, project
from senna2.world.traffic.paths import BEFORE_M, BEYOND_M, DS, lane_part

POLITENESS, THRESHOLD, SAFE_BRAKE = 0.25, 0.2, 3.0  # -, m/s², m/s²
CHANGE_S, COOLDOWN_S = 3.0, 4.0  # the second from the start of a change to that of the next
LONG_AGO = -1_000_000  # a frame
ON_LANE_M, SAME_WAY_RAD = 1.2, 0.35  # an agent is on a lane whose middle is this near, and so parallel
SAME_BEND_RAD = 0.25  # the agent's own path and the neighbour lane turn alike over BEND_SIGHT_M
BEND_SIGHT_M = 50.0
SLOWEST = 2.0  # m/s
ROOM_M = 50.0  # nobody begins a change near another who is changing: two would choose the same gap
LANE_LEFT_M = 20.0  # of the new lane, after the change
LEAST_GAP_M = 1.0
CHANGERS = (AgentClass.CAR, AgentClass.VAN, AgentClass.TRUCK, AgentClass.BUS, AgentClass.MOTORCYCLE)


class MobilTraffic(IdmTraffic):
    """Traffic "mobil". After a change an agent keeps to the middle of its new lane. Memory: also changed_A, the frame
    at which the last change began, and from_A, metres beside the new lane at that moment (left positive)."""

    def _more_paths(self) -> list[tuple[Array, Array, Array, Array]]:
        lanes = {lane.id: lane for lane in self.scene.map.lanes if lane.kind == "car"}
        self._lanes = [lane for lane in lanes.values() if not lane.in_junction]
        self._first = len(self.ids)  # index of the first lane's path
        self._index = {lane.id: self._first + n for n, lane in enumerate(self._lanes)}
        parts = [lane_part(_chain(lane, lanes)) for lane in self._lanes]
        self._lane_m = [float(p[0][-1]) for p in parts]
        self._able_A = self.moving_A & np.isin(self.classes_A, CHANGERS)
        return parts

    def _first_memory(self, step: int) -> dict[str, Array]:
        count = len(self.ids)
        return {"changed_A": np.full(count, LONG_AGO, np.int64), "from_A": np.zeros(count)}

    def _choose_paths(
        self, motion: Motion, agents: AgentsState, boxes_N6: Array, active_A: Array
    ) -> tuple[Motion, dict[str, Array]]:
        step, changed, beside = agents.step, agents.memory["changed_A"].copy(), agents.memory["from_A"].copy()
        path, s = motion.path_A.copy(), motion.s_A.copy()
        for a in np.flatnonzero(active_A & self._able_A & (motion.v_A > SLOWEST)):
            busy = (step - changed) * self.dt < CHANGE_S
            if (step - changed[a]) * self.dt < COOLDOWN_S or self._crowded(int(a), boxes_N6, busy):
                continue
            found = self._better_lane(int(a), dataclasses.replace(motion, path_A=path, s_A=s), boxes_N6)
            if found is not None:
                path[a], s[a], beside[a] = found
                changed[a] = step
        share = np.clip((step + 1 - changed) * self.dt / CHANGE_S, 0, 1)
        d = beside * (1 - share**3 * (10 - 15 * share + 6 * share**2))  # quintic: no jump of speed or acceleration
        extra = {"changed_A": changed, "from_A": beside}
        return dataclasses.replace(motion, path_A=path, s_A=s, d_A=d), extra

    def _poses(self, motion: Motion, extra: Mapping[str, Array], then: int) -> Array:
        poses = super()._poses(motion, extra, then)
        share = np.clip((then - extra["changed_A"]) * self.dt / CHANGE_S, 0, 1)
        drift = -extra["from_A"] * 30 * share**2 * (1 - share) ** 2 / CHANGE_S  # of the quintic, m/s
        poses[:, 2] += np.arctan2(drift, np.maximum(motion.v_A, 1.0))
        return poses

    def _lights(self, motion: Motion, extra: Mapping[str, Array], then: int) -> Array:
        lights = super()._lights(motion, extra, then)
        changes = (then - extra["changed_A"]) * self.dt < CHANGE_S
        side = np.where(extra["from_A"] < 0, INDICATOR_LEFT, INDICATOR_RIGHT)
        return np.where(changes, lights & ~(INDICATOR_LEFT | INDICATOR_RIGHT) | side, lights).astype(np.int8)

    # --- the decision ---------------------------------------------------------------------------------

    def _crowded(self, a: int, boxes_N6: Array, busy_A: Array) -> bool:
        gap = np.hypot(*(boxes_N6[:-1, :2] - boxes_N6[a, :2]).T)
        return bool((busy_A & (gap < ROOM_M)).any())

    def _better_lane(self, a: int, motion: Motion, boxes_N6: Array) -> tuple[int, float, float] | None:
        """(path, s, d) of the neighbour lane with the greatest benefit, None if no change is worth it and safe."""
        here = self._lane_under(boxes_N6[a])
        if here is None:
            return None
        before = self._would(a, int(motion.path_A[a]), float(motion.s_A[a]), float(motion.v_A[a]), boxes_N6)
        best, choice = THRESHOLD, None
        for side in (here.left, here.right):
            if side is None or side not in self._index:
                continue
            path = self._index[side]
            s, d = self._on(path, boxes_N6[a, :2])
            if not self._leads_the_same_way(a, motion, path, s):
                continue
            gain = self._gain(a, path, s, float(motion.v_A[a]), before, boxes_N6)
            if gain is not None and gain > best:
                best, choice = gain, (path, s, d)
        return choice

    def _lane_under(self, box_6: Array) -> Lane | None:
        nearest, found = ON_LANE_M, None
        for lane in self._lanes:
            path = self._index[lane.id]
            s, d = self._on(path, box_6[:2])
            if not 0 <= s <= self._lane_m[path - self._first] or abs(d) >= nearest:
                continue
            yaw = self.paths.poses(np.array([path]), np.array([s]), np.zeros(1))[0, 2]
            if abs(math.remainder(box_6[2] - yaw, 2 * math.pi)) < SAME_WAY_RAD:
                nearest, found = abs(d), lane
        return found

    def _on(self, path: int, point_2: Array) -> tuple[float, float]:
        xy, nodes = self.paths.xy_QP2[path], int(self.paths.nodes_Q[path])
        at = nearest_node(xy, 0, nodes, point_2[0], point_2[1], 8)
        s, d, _, _ = project(xy, at, nodes, BEFORE_M, DS, point_2[0], point_2[1])
        return float(s), float(d)

    def _leads_the_same_way(self, a: int, motion: Motion, path: int, s: float) -> bool:
        if self._lane_m[path - self._first] - s < CHANGE_S * motion.v_A[a] + LANE_LEFT_M:
            return False  # it ends too soon
        two = np.array([motion.path_A[a], path])
        bends = [
            self.paths.poses(two, np.array([motion.s_A[a], s]) + way, np.zeros(2))[:, 2] for way in (0, BEND_SIGHT_M)
        ]
        turn = bends[1] - bends[0]
        return abs(math.remainder(turn[1] - turn[0], 2 * math.pi)) < SAME_BEND_RAD

    def _would(self, a: int, path: int, s: float, v: float, boxes_N6: Array) -> float:
        """Acceleration of box `a` (the last is the ego) on a path."""
        p = self._parameters_of(a, boxes_N6)
        half = p[6] / 2
        xy, nodes = self.paths.xy_QP2[path], self.paths.nodes_Q[path]
        free = idm_accel(v, p[V0], math.inf, 0.0, *p[1:5])
        return min(free, interaction(a, boxes_N6, xy, nodes, BEFORE_M, DS, s, v, -half, half, p, False))

    def _parameters_of(self, a: int, boxes_N6: Array) -> Array:
        if a < len(self.ids):
            return self.parameters_A7[a]
        ego = boxes_N6[-1]
        return np.array([max(FREE_SPEED * ego[5], 5.0), *CAR_IDM, ego[3], ego[4]])

    def _gain(self, a: int, path: int, s: float, v: float, before: float, boxes_N6: Array) -> float | None:
        """MOBIL's left side: own benefit and, by politeness, that of the followers; None if it is not safe."""
        after = self._would(a, path, s, v, boxes_N6)
        if after < -SAFE_BRAKE:
            return None
        others = 0.0
        left = self._lane_under(boxes_N6[a])
        for lane, joins in ((path, True), (None if left is None else self._index[left.id], False)):
            behind = None if lane is None else self._follower(a, lane, boxes_N6)
            if lane is None or behind is None:
                continue
            j, s_j, gap = behind
            p, v_j = self._parameters_of(j, boxes_N6), float(boxes_N6[j, 5])
            without = boxes_N6.copy()
            without[a, 0] = np.nan
            alone = self._would(j, lane, s_j, v_j, without)
            with_me = min(idm_accel(v_j, p[V0], gap, v, *p[1:5]), alone)
            if joins and (gap < LEAST_GAP_M or with_me < -SAFE_BRAKE):
                return None
            others += (with_me - alone) * (1 if joins else -1)
        return after - before + POLITENESS * others

    def _follower(self, a: int, path: int, boxes_N6: Array) -> tuple[int, float, float] | None:
        """The nearest box behind or beside agent `a` on a lane, its position and its gap to `a`."""
        s, half = self._on(path, boxes_N6[a, :2])[0], boxes_N6[a, 3:5] / 2
        best: tuple[int, float, float] | None = None
        for j in range(len(boxes_N6)):
            if j == a or not np.isfinite(boxes_N6[j, 0]):
                continue
            s_j, d_j = self._on(path, boxes_N6[j, :2])
            on_lane = abs(d_j) < boxes_N6[j, 4] / 2 + half[1] + 0.3
            half_j = float(boxes_N6[j, 3]) / 2
            # Up to where it would be a leader: a long one is beside `a` even if its middle is before a's front.
            if on_lane and s_j <= s + max(half[0], half_j) and (best is None or s_j > best[1]):
                best = (j, s_j, s - half[0] - s_j - half_j)
        return best


def _chain(lane: Lane, lanes: Mapping[str, Lane]) -> Array:
    """A lane's middle with that of the lanes straight on after it."""
    line, last = [np.asarray(lane.centre_P2, np.float64)], lane
    for _ in range(4):
        following = [lanes[n] for n in last.successors if n in lanes]
        if not following or sum(float(np.hypot(*np.diff(part, axis=0).T).sum()) for part in line) > BEYOND_M:
            break
        last = min(following, key=lambda after: abs(_turn(after.centre_P2)))
        line.append(np.asarray(last.centre_P2, np.float64))
    return np.concatenate(line)


def _turn(line_P2: Array) -> float:
    step = np.diff(np.asarray(line_P2, np.float64), axis=0)
    return math.remainder(math.atan2(step[-1, 1], step[-1, 0]) - math.atan2(step[0, 1], step[0, 0]), 2 * math.pi)


def mobil(scene: Scene, dt: float, frames: int) -> MobilTraffic:
    """Traffic "mobil"."""
    return MobilTraffic(scene, dt, frames)
