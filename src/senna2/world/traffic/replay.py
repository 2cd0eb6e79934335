"""Log replay: every agent at its recorded pose, whatever the ego does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from senna2.frames import wrap
from senna2.types import Array, EgoState
from senna2.world.scene import Scene, Track
from senna2.world.traffic.base import AgentsState, frozen

TIME_SLACK_S = 1e-6


class ReplayTraffic:
    """Every agent at its recorded pose; an agent exists from its first to its last time stamp.

    boxes_KA6: x, y, yaw of the centre, length, width, speed in the world at frame k (t = k·dt), NaN when absent.
    lights_KA: bits of `Track.lights_T`. Frames run from 0 to `frames - 1`; both are read only.
    """

    def __init__(self, tracks: Sequence[Track], dt: float, frames: int) -> None:
        self.ids = tuple(t.id for t in tracks)
        self.classes_A = np.array([t.agent_class for t in tracks], np.int8).reshape(len(tracks))
        self.boxes_KA6 = np.full((frames, len(tracks), 6), np.nan)
        self.lights_KA = np.zeros((frames, len(tracks)), np.int8)
        t_K = dt * np.arange(frames)
        for a, track in enumerate(tracks):
            here = (t_K >= track.t_T[0] - TIME_SLACK_S) & (t_K <= track.t_T[-1] + TIME_SLACK_S)
            self.boxes_KA6[here, a] = boxes_at(track, t_K[here])
            self.lights_KA[here, a] = lights_at(track, t_K[here])
        frozen(self.boxes_KA6)
        frozen(self.lights_KA)
        self._states = [AgentsState(k, self.boxes_KA6[k], self.lights_KA[k]) for k in range(frames)]  # views

    def initial(self, step: int, ego: EgoState) -> AgentsState:
        return self._states[step]

    def advance(self, agents: AgentsState, ego_before: EgoState) -> AgentsState:
        return self._states[agents.step + 1]


def boxes_at(track: Track, t_N: Array) -> Array:
    """(N, 6) boxes of a track at times of its clock; beyond its ends it stands still."""
    pose, t = np.asarray(track.pose_T3, np.float64), np.asarray(track.t_T, np.float64)
    origin = pose[0, :2]  # far-away map origins must not cost digits
    x = np.interp(t_N, t, pose[:, 0] - origin[0]) + origin[0]
    y = np.interp(t_N, t, pose[:, 1] - origin[1]) + origin[1]
    yaw = wrap(np.interp(t_N, t, np.unwrap(pose[:, 2])))
    v = np.interp(t_N, t, track.v_T)
    return np.stack([x, y, yaw, np.full_like(x, track.length), np.full_like(x, track.width), v], -1)


def lights_at(track: Track, t_N: Array) -> Array:
    """(N,) light bits of a track at times of its clock."""
    nearest = np.clip(np.searchsorted(track.t_T, t_N + TIME_SLACK_S, side="right") - 1, 0, None)
    return track.lights_T[nearest]


def replay(scene: Scene, dt: float, frames: int) -> ReplayTraffic:
    """Traffic "replay", the default."""
    return ReplayTraffic(scene.tracks, dt, frames)
