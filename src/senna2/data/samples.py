"""A drive with observations → training and open-loop samples, everything in the ego frame of its own instant."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import shapely

from senna2.decisions import f_k_plan
from senna2.frames import points_to_ego, poses_to_ego
from senna2.types import MAX_AGENTS, MAX_KERBS, PLAN_STEPS, Array, InputError, Observation, Samples

KERB_RADIUS = 60.0  # m: farther than a plan of 3 s reaches
KERB_TOLERANCE = 0.05  # m a simplified kerb may leave its line: far under a box's size, and 64 segments suffice


def samples_from_drive(
    *,
    clip: str,
    family: str,
    observations: Sequence[Observation | None],
    pose_F3: Array,
    boxes_FA6: Array,
    direction_F: Array,
    kerbs: Sequence[Array] | None,
    counterfactual: bool = False,
    first_index: int = 0,
    frames: Sequence[int] | None = None,
) -> Samples | None:
    """One sample a frame that has an observation and PLAN_STEPS frames after it; None if there is none.

    pose_F3: rear axle in the world, one every 0.1 s. boxes_FA6: all agents in the world (NaN when absent).
    direction_F: annotated `Direction`. kerbs: polylines in the world, None if the map does not know them.
    """
    if not (len(observations) == len(pose_F3) == len(boxes_FA6) == len(direction_F)):
        raise InputError(f"clip {clip}: observations, poses, boxes and annotations differ in length")
    last = len(pose_F3) - PLAN_STEPS
    chosen = [i for i in (range(last) if frames is None else frames) if i < last and observations[i] is not None]
    if not chosen:
        return None
    seen = [o for i in chosen if (o := observations[i]) is not None]
    base = Samples.from_observations(seen)
    future = np.stack([poses_to_ego(pose_F3[i + 1 : i + 1 + PLAN_STEPS], pose_F3[i]) for i in chosen])
    speed, _ = f_k_plan(future[..., :2])
    agents = np.stack([_agent_futures(boxes_FA6, pose_F3[i], i, o) for i, o in zip(chosen, seen, strict=True)])
    segments = None if kerbs is None else _segments(kerbs)
    n = len(chosen)
    samples = dataclasses.replace(
        base,
        future_NT3=future.astype(np.float32),
        speed_N=np.asarray(speed, np.int8),
        direction_N=np.asarray(direction_F, np.int8)[chosen],
        counterfactual_N=np.full(n, counterfactual),
        agent_futures_NAT3=agents.astype(np.float32),
        has_kerbs_N=np.full(n, segments is not None),
        frame_N=np.array(chosen, np.int32),
        index_N=first_index + np.arange(n, dtype=np.int64),
        clips=(clip,),
        families=(family,),
    )
    if segments is None:
        return samples
    return dataclasses.replace(samples, kerbs_NS4=np.stack([_near(segments, pose_F3[i]) for i in chosen]))


def _agent_futures(boxes_FA6: Array, pose_3: Array, frame: int, observation: Observation) -> Array:
    """(MAX_AGENTS, T + 1, 3) poses of the boxes in the observation's own order, in its ego frame."""
    out = np.full((MAX_AGENTS, PLAN_STEPS + 1, 3), np.nan)
    if observation.state is None:
        return out
    window = boxes_FA6[frame : frame + PLAN_STEPS + 1, :, :3]
    poses = np.stack([poses_to_ego(window[:, a], pose_3) for a in range(window.shape[1])]) if window.shape[1] else None
    for row in np.flatnonzero(observation.state.classes_A >= 0):
        assert poses is not None
        gap = np.hypot(*(poses[:, 0, :2] - observation.state.boxes_A6[row, :2]).T)
        agent = int(np.nanargmin(gap))
        if gap[agent] > 0.05:
            raise InputError(f"frame {frame}: box {row} of the observation is not among the recorded boxes")
        out[row] = poses[agent]
    return out


def _segments(kerbs: Sequence[Array]) -> Array:
    """Polylines → (S, 4) segments of their simplified lines."""
    parts = [np.zeros((0, 4))]
    for line in kerbs:
        p = np.asarray(shapely.LineString(line).simplify(KERB_TOLERANCE).coords)
        parts.append(np.hstack([p[:-1], p[1:]]))
    return np.concatenate(parts)


def _near(segments_S4: Array, pose_3: Array) -> Array:
    """The nearest MAX_KERBS segments in the ego frame, NaN-padded (MAX_KERBS, 4) float32."""
    out = np.full((MAX_KERBS, 4), np.nan, np.float32)
    a = points_to_ego(segments_S4[:, :2], pose_3)
    b = points_to_ego(segments_S4[:, 2:], pose_3)
    along = np.clip(-(a * (b - a)).sum(1) / np.maximum(((b - a) ** 2).sum(1), 1e-9), 0, 1)
    distance = np.hypot(*(a + along[:, None] * (b - a)).T)
    order = np.argsort(distance)[:MAX_KERBS]
    order = order[distance[order] < KERB_RADIUS]
    out[: len(order)] = np.hstack([a, b])[order]
    return out
