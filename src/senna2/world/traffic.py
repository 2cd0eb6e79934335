"""Other road users: where each is at every frame of the simulator's clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from senna2.frames import wrap
from senna2.types import Array, InputError
from senna2.world.scene import Scene, Track

TIME_SLACK_S = 1e-6


class ReplayTraffic:
    """Every agent at its recorded pose; an agent exists from its first to its last time stamp.

    boxes_KA6: x, y, yaw of the centre, length, width, speed in the world at frame k (t = k·dt), NaN when absent.
    lights_KA: bits of `Track.lights_T`. Frames run from 0 to `frames - 1`.
    """

    def __init__(self, tracks: Sequence[Track], dt: float, frames: int) -> None:
        self.ids = tuple(t.id for t in tracks)
        self.classes_A = np.array([t.agent_class for t in tracks], np.int8).reshape(len(tracks))
        self.boxes_KA6 = np.full((frames, len(tracks), 6), np.nan)
        self.lights_KA = np.zeros((frames, len(tracks)), np.int8)
        t_K = dt * np.arange(frames)
        for a, track in enumerate(tracks):
            here = (t_K >= track.t_T[0] - TIME_SLACK_S) & (t_K <= track.t_T[-1] + TIME_SLACK_S)
            self.boxes_KA6[here, a] = _boxes_at(track, t_K[here])
            nearest = np.clip(np.searchsorted(track.t_T, t_K[here] + TIME_SLACK_S, side="right") - 1, 0, None)
            self.lights_KA[here, a] = track.lights_T[nearest]


def _boxes_at(track: Track, t_N: Array) -> Array:
    pose, t = np.asarray(track.pose_T3, np.float64), np.asarray(track.t_T, np.float64)
    origin = pose[0, :2]  # far-away map origins must not cost digits
    x = np.interp(t_N, t, pose[:, 0] - origin[0]) + origin[0]
    y = np.interp(t_N, t, pose[:, 1] - origin[1]) + origin[1]
    yaw = wrap(np.interp(t_N, t, np.unwrap(pose[:, 2])))
    v = np.interp(t_N, t, track.v_T)
    return np.stack([x, y, yaw, np.full_like(x, track.length), np.full_like(x, track.width), v], -1)


def make_traffic(kind: str, scene: Scene, dt: float, frames: int) -> ReplayTraffic:
    """Traffic by the name in `SimConfig.traffic`; `InputError` for another."""
    if kind == "replay":
        return ReplayTraffic(scene.tracks, dt, frames)
    raise InputError(f"SimConfig.traffic: '{kind}' is unknown; there is 'replay'")


def between(now_A6: Array, then_A6: Array, shares_N: Array) -> Array:
    """(N, A, 6) boxes at shares (0…1] of the way from one frame to the next; NaN where an end is missing.

    At share 1 the later frame stands alone, so an agent that appears there is there.
    """
    boxes = now_A6 + shares_N[:, None, None] * (then_A6 - now_A6)
    turn = wrap(then_A6[:, 2] - now_A6[:, 2])
    boxes[..., 2] = now_A6[:, 2] + shares_N[:, None] * turn
    boxes[shares_N == 1.0] = then_A6
    return boxes
