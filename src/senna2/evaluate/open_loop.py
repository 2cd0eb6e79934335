"""Plan against recording: displacement and collision. Paper Table 2; EVALUATION, Open loop.

Legend: N samples, M of them, T plan steps, A agents, S kerb segments.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from senna2.evaluate.consistency import PlansBySeed, by_seed, per_clip, recorded
from senna2.evaluate.metrics import OPEN_LOOP, MetricValue
from senna2.evaluate.stats import Sums, measure, missing
from senna2.geometry import box_of, hits_segments, overlap
from senna2.types import AgentClass, Array, InputError, Samples, VehicleShape

MIN_STEP = 0.02  # m; shorter steps keep the yaw (EVALUATION, Poses)
FAR = 1e6  # m; where an absent agent is put, so that no test can meet it
CHUNK = 256  # samples a time: bounds the memory of sample × step × agent boxes

Shapes = VehicleShape | Mapping[str, VehicleShape]  # the ego's body, or one a clip by the clip's name


def step_yaws(points_NT2: Array, yaw_0: float = 0.0) -> Array:
    """`frames.yaw_from_steps` for many plans at once: (N, T, 2) → (N, T)."""
    steps = np.diff(points_NT2, axis=1, prepend=np.zeros((len(points_NT2), 1, 2)))
    yaw = np.arctan2(steps[..., 1], steps[..., 0])
    long_enough = np.hypot(steps[..., 0], steps[..., 1]) >= MIN_STEP
    last = np.full(len(points_NT2), yaw_0)
    for t in range(points_NT2.shape[1]):
        last = np.where(long_enough[:, t], yaw[:, t], last)
        yaw[:, t] = last
    return yaw


def plan_poses(points_NT2: Array) -> Array:
    """(N, T, 2) plan points → (N, T, 3) poses, yaw from the steps."""
    points = np.asarray(points_NT2, np.float64)
    return np.concatenate([points, step_yaws(points)[..., None]], -1)


def _agent_boxes(samples: Samples, chosen: Array) -> Array:
    """(M, A, T + 1, 5) boxes of the recorded futures; absent ones are far away."""
    future = samples.agent_futures_NAT3[chosen].astype(np.float64)
    size = samples.boxes_NA6[chosen][:, :, None, 3:5].astype(np.float64)
    boxes = np.concatenate([future, np.broadcast_to(size, (*future.shape[:-1], 2))], -1)
    absent = ~np.isfinite(boxes).all(-1) | (samples.classes_NA[chosen] < 0)[..., None]
    boxes[absent] = (FAR, FAR, 0.0, 1.0, 1.0)
    return boxes


def _ego_boxes(samples: Samples, poses_MT3: Array, shape: Shapes, chosen: Array) -> Array:
    """(M, T, 5) boxes of rear-axle poses, each with the body of its own clip: recordings come from several cars."""
    poses_MT3 = np.asarray(poses_MT3, np.float64)
    if isinstance(shape, VehicleShape):
        return box_of(poses_MT3, shape)
    out = np.empty((*poses_MT3.shape[:2], 5))
    clip_M = samples.clip_N[chosen]
    for clip in np.unique(clip_M):
        name = samples.clips[clip]
        if name not in shape:
            raise InputError(f"open_loop: no vehicle shape for clip '{name}'; there are those of {sorted(shape)}")
        out[clip_M == clip] = box_of(poses_MT3[clip_M == clip], shape[name])
    return out


def collisions(samples: Samples, poses_NT3: Array, shape: Shapes, chosen: Array, *, now: bool) -> Array:
    """(M, 3) bool of the samples `chosen`: meets a moving-class agent, a static box, a kerb.

    poses_NT3 are those of the chosen samples at 0.1 s steps from 0.1 s, or from 0 s with `now`.
    """
    hit = np.zeros((len(chosen), 3), bool)
    first = 0 if now else 1
    for start in range(0, len(chosen), CHUNK):
        part = chosen[start : start + CHUNK]
        ego = _ego_boxes(samples, poses_NT3[start : start + CHUNK], shape, part)  # (m, T, 5)
        agents = _agent_boxes(samples, part)[:, :, first : first + ego.shape[1]]
        meets = np.asarray(overlap(ego[:, None], agents)).any(-1)  # (m, A)
        static = samples.classes_NA[part] == AgentClass.STATIC
        hit[start : start + CHUNK, 0] = (meets & ~static).any(1)
        hit[start : start + CHUNK, 1] = (meets & static).any(1)
        for i, n in enumerate(part):
            kerbs = samples.kerbs_NS4[n]
            kerbs = kerbs[np.isfinite(kerbs).all(1)].astype(np.float64)
            if len(kerbs):
                hit[start + i, 2] = bool(np.asarray(hits_segments(ego[i], kerbs)).any())
    return hit


def _recorded_ego_collides(samples: Samples, shape: Shapes, chosen: Array) -> Array:
    """(M,) the recorded ego itself meets an agent or a kerb within the horizon, 0 s included."""
    future = samples.future_NT3[chosen].astype(np.float64)
    poses = np.concatenate([np.zeros((len(chosen), 1, 3)), future], 1)
    return np.any(collisions(samples, poses, shape, chosen, now=True), axis=1)


def no_plans(why: str, seeds: int = 1) -> dict[str, MetricValue]:
    """The open-loop suite of a policy whose plans are not to be compared."""
    return {name: missing(why, seeds) for name in OPEN_LOOP}


def open_loop(samples: Samples, plans: PlansBySeed, shape: Shapes) -> dict[str, MetricValue]:
    """The open-loop suite: fde_m, ade_m in m; cr, dcr, scr in %. `plans`: of one seed, or by seed.

    Raises `InputError` for no sample with a whole future, or a clip that `shape` leaves out.
    """
    seeds = by_seed(plans, len(samples))
    keep, note = recorded(samples)
    whole = keep & np.isfinite(samples.future_NT3).all((1, 2))
    complete = np.flatnonzero(whole)
    short = int(keep.sum()) - len(complete)
    notes = [note] if note else []
    notes += [f"{short} samples with an incomplete future left out"] if short else []
    if len(complete) == 0:
        raise InputError("open_loop: no sample has a whole future of 3 s; record longer clips")
    judged = complete[~_recorded_ego_collides(samples, shape, complete)]
    hurt = len(complete) - len(judged)
    rate_notes = notes + ([f"{hurt} samples in which the recorded ego collides left out"] if hurt else [])

    future_MT2 = samples.future_NT3[complete][..., :2].astype(np.float64)
    clip_M, clips = samples.clip_N[complete], len(samples.clips)
    used = np.unique(clip_M)
    names = tuple(samples.clips[c] for c in used)
    tables: dict[str, list[Array]] = {name: [] for name in ("fde_m", "ade_m", "cr", "dcr", "scr")}
    has_kerbs_M = samples.has_kerbs_N[judged].astype(bool)
    for one in seeds.values():
        error_MT = np.linalg.norm(one.points_NT2[complete].astype(np.float64) - future_MT2, axis=-1)
        hit_M3 = collisions(samples, plan_poses(one.points_NT2[judged]), shape, judged, now=False)
        dynamic = hit_M3[:, 0]
        static = ~dynamic & (hit_M3[:, 1] | (hit_M3[:, 2] & has_kerbs_M))  # one kind a trajectory, dynamic first
        values = {"fde_m": error_MT[:, -1], "ade_m": error_MT.mean(1)}
        for name, value in values.items():
            pair = np.stack([value, np.ones(len(value))], 1)
            tables[name].append(per_clip(pair, clip_M, clips)[used])
        # Where the map has no kerbs a static rate would be a guess: those samples count agents only.
        for name, value, valid in (
            ("cr", dynamic | static, np.ones_like(dynamic)),
            ("dcr", dynamic, np.ones_like(dynamic)),
            ("scr", static & has_kerbs_M, has_kerbs_M),
        ):
            pair = np.stack([value, valid], 1).astype(float)
            tables[name].append(per_clip(pair, samples.clip_N[judged], clips)[used])

    out = {}
    without = int((~has_kerbs_M).sum())
    for name, parts in tables.items():
        is_rate = name in ("cr", "dcr", "scr")
        units = Sums(names, tuple(seeds), np.stack(parts), is_share=is_rate, scale=100.0 if is_rate else 1.0)
        words = list(rate_notes if is_rate else notes)
        n = len(judged) if is_rate else len(complete)
        if name == "scr":
            n -= without
            if n == 0:
                out[name] = missing("the maps know no kerbs" if len(judged) else "no sample to judge", len(seeds))
                continue
        if without and name == "cr":
            words.append("agents only" if without == len(judged) else f"agents only in {without} samples without kerbs")
        if without and name == "scr":
            words.append(f"{without} samples without kerbs left out")
        out[name] = measure(units, n, "; ".join(words))
    return out
