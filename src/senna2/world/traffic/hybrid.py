"""Hybrid traffic: each agent replays its log until the ego has left its own or is about to be hit, then reacts."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from senna2.frames import wrap
from senna2.geometry import STAND_SPEED, box_of, pair_ttc
from senna2.types import Array, EgoState
from senna2.world.scene import Scene
from senna2.world.traffic.base import AgentsState
from senna2.world.traffic.idm import IdmTraffic, Motion

DEPARTED_M = 2.0
TTC_S = 3.0
BLEND_S = 0.5


class HybridTraffic(IdmTraffic):
    """Traffic "hybrid". An agent leaves its recording, for good and over 0.5 s, when the ego is over 2 m from where it
    was recorded, or when both, at constant velocity, would meet within 3 s with the ego ahead of the agent (who is
    about to be hit from behind cannot help it: a leader that brakes goes on braking). Memory: also since_A, the frame
    at which that began, -1 not yet."""

    def __init__(self, scene: Scene, dt: float, frames: int) -> None:
        super().__init__(scene, dt, frames)
        t_K, expert = dt * np.arange(frames), scene.expert
        self._logged_ego_K2 = np.stack([np.interp(t_K, expert.t_E, expert.pose_E3[:, k]) for k in range(2)], 1)

    def _first_memory(self, step: int) -> dict[str, Array]:
        return {"since_A": np.full(len(self.ids), -1, np.int64)}

    def _driven(self, agents: AgentsState, ego: EgoState) -> Array:
        x, y = self._logged_ego_K2[agents.step]
        before = agents.memory["driven_A"]
        if math.hypot(ego.x - x, ego.y - y) > DEPARTED_M:
            return self.moving_A
        waiting = np.flatnonzero(self.moving_A & ~before & np.isfinite(agents.boxes_A6[:, 0]))
        driven = before.copy()
        if len(waiting):
            boxes = agents.boxes_A6[waiting]
            box = box_of(np.array([ego.x, ego.y, ego.yaw]), self.shape)
            to_ego = np.arctan2(box[1] - boxes[:, 1], box[0] - boxes[:, 0])
            ahead = (np.abs(wrap(to_ego - boxes[:, 2])) < np.pi / 2) & (boxes[:, 5] > STAND_SPEED)
            near = pair_ttc(box, ego.v, boxes[:, :5], boxes[:, 5], horizon_s=TTC_S) < TTC_S
            driven[waiting] = ahead & near
        return driven

    def _choose_paths(
        self, motion: Motion, agents: AgentsState, boxes_N6: Array, active_A: Array
    ) -> tuple[Motion, dict[str, Array]]:
        since = agents.memory["since_A"]
        return motion, {"since_A": np.where(active_A & (since < 0), agents.step, since)}

    def _blended(self, motion: Motion, agents: AgentsState, driven_A: Array, then: int) -> Motion:
        since = agents.memory["since_A"]
        since = np.where(since < 0, agents.step, since)
        share = np.clip((then - since) * self.dt / BLEND_S, 0, 1)
        log_s = np.array([w.s_K[then] for w in self.ways], np.float64).reshape(len(share))
        log_v = np.abs(self.replay.boxes_KA6[then][:, 5])
        fades = (share < 1) & np.isfinite(log_s)
        s = np.where(fades, (1 - share) * np.nan_to_num(log_s) + share * motion.s_A, motion.s_A)
        v = np.where(fades, (1 - share) * np.nan_to_num(log_v) + share * motion.v_A, motion.v_A)
        return dataclasses.replace(motion, s_A=np.maximum(s, agents.memory["s_A"]), v_A=v)


def hybrid(scene: Scene, dt: float, frames: int) -> HybridTraffic:
    """Traffic "hybrid"."""
    return HybridTraffic(scene, dt, frames)
