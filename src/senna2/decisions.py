"""Meta-actions and f_K, the kinematic mapping from a trajectory to a decision (paper, section 3).

One implementation serves numpy and torch: every function works with the module of the array it is given, so
that labels, losses and metrics cannot drift apart, and nothing here imports torch. Sums run in the order of
time, element by element, so that numpy and torch, a batch and a single trajectory take the same rounding.
"""

from __future__ import annotations

import sys
from math import pi
from typing import Any

import numpy as np

from senna2.frames import resample_poses
from senna2.types import PLAN_DT, Array, Decision, Direction, InputError, Path, Speed

AnyArray = Any  # numpy array or torch tensor; results are of the kind of the argument

SPEED_TEXT = ("ACCELERATE", "DECELERATE", "KEEP SPEED", "STOP")
DIRECTION_TEXT = ("GO STRAIGHT", "TURN LEFT", "TURN RIGHT", "CHANGE LANE LEFT", "CHANGE LANE RIGHT")
ALL_DECISIONS = tuple(Decision(s, d) for s in Speed if s >= 0 for d in Direction if d >= 0)  # speed-major

WINDOW = 15  # points: t = 0, 0.1 … 1.4 s
SMOOTHING = 5  # samples of the moving average
RUN = 8  # of 13 accelerations on one side of the threshold, in a row
A_RUN, A_PEAK, A_RMS = 0.3, 0.6, 0.4  # m/s²
V_STOP = 0.5  # m/s
YAW_CHANGE = pi / 36  # rad
MIN_STEP = 0.02  # m; the direction of a shorter step is noise: a parked car must not jitter into turns
A1_EPS = 0.01  # m/s² [ours] an exactly constant start must not be decided by rounding
MAX_GAP_S = 0.25  # s [ours] linear resampling across a wider hole invents a constant speed
# (mean speed above, value): open below, closed above; the first entry holds from 0
KEEP_SCALE = ((0.0, 1.0), (5.0, 1.25), (10.0, 1.5), (20.0, 2.0), (25.0, 2.5))  # s_a
LATERAL = ((0.0, 0.45), (3.0, 0.9), (5.0, 1.5), (10.0, 2.4), (15.0, 3.0))  # s_y, m


def decision_text(decision: Decision) -> str:
    """Answer text: "KEEP SPEED, GO STRAIGHT". Raises `InputError` for UNKNOWN, a mask and no class."""
    if decision.speed < 0 or decision.direction < 0:
        raise InputError(f"decision: {decision} has an UNKNOWN half; UNKNOWN is a mask and has no text")
    return f"{SPEED_TEXT[decision.speed]}, {DIRECTION_TEXT[decision.direction]}"


def parse_decision(text: str) -> Decision:
    """The inverse of `decision_text`; case and spacing do not matter. Raises `InputError` otherwise."""
    halves = [" ".join(half.split()).upper() for half in text.split(",")]
    if len(halves) != 2 or halves[0] not in SPEED_TEXT or halves[1] not in DIRECTION_TEXT:
        raise InputError(
            f"decision: {text!r} is not '<speed>, <direction>' with a speed of {SPEED_TEXT} "
            f"and a direction of {DIRECTION_TEXT}"
        )
    return Decision(Speed(SPEED_TEXT.index(halves[0])), Direction(DIRECTION_TEXT.index(halves[1])))


def coarse(direction: AnyArray) -> AnyArray:
    """Five directions folded to the three of `Path`: turns and lane changes become their side; −1 stays −1.

    Ints, numpy or torch of any shape; the kind and dtype are kept.
    """
    if isinstance(direction, int):
        return int(direction) - 2 if direction > Direction.TURN_RIGHT else int(direction)
    return _namespace(direction).where(direction > int(Direction.TURN_RIGHT), direction - 2, direction)


def f_k(
    points_P2: AnyArray,
    *,
    dt: float = PLAN_DT,
    yaw_0: AnyArray | float | None = 0.0,
    order: str = "standing_first",
    a1_eps: float = A1_EPS,
) -> tuple[AnyArray, AnyArray]:
    """Decision that a trajectory expresses: (speed, path), ints of `Speed` and `Path` in the batch's shape.

    points_P2: (…, ≥15, 2) m, in any frame, the first one the current position; only the first 15 count. World
      coordinates need float64. A trajectory with a NaN among them is (−1, −1).
    yaw_0: heading at the first point in that frame, rad, scalar or (…); 0 for points in the ego frame; None
      takes the direction of the first step of at least 2 cm (a car that never moves is straight anyway).
    order: "standing_first" [ours] tests STOP before KEEP SPEED; "paper" is the printed order, where a parked
      car, whose acceleration is 0, keeps its speed.
    a1_eps: tolerance of the sign of a_1 [ours]; 0 is the paper.
    Speed is UNKNOWN (−1) in the rule's dead bands. Results: numpy int8; torch int64, on the tensor's device.
    Raises `InputError` for fewer points, a step other than 0.1 s, or an unknown order. Source: paper,
    section 3.
    """
    if order not in ("standing_first", "paper"):
        raise InputError(f"f_k: order '{order}' is neither 'standing_first' nor 'paper'")
    if abs(dt - PLAN_DT) > 1e-6:
        raise InputError(f"f_k: defined on steps of {PLAN_DT} s, not {dt}; resample first (frames.resample_plan)")
    xp = _namespace(points_P2)
    points = points_P2.detach().double() if xp is not np else np.asarray(points_P2, np.float64)
    if points.ndim < 2 or points.shape[-1] != 2 or points.shape[-2] < WINDOW:
        raise InputError(f"f_k: shape {tuple(points.shape)}; needs (…, at least {WINDOW}, 2)")
    # Differences before anything else: no large offset of the frame remains.
    steps = points[..., 1:WINDOW, :] - points[..., : WINDOW - 1, :]
    dx, dy = steps[..., 0], steps[..., 1]
    step = xp.sqrt(dx * dx + dy * dy)

    v_raw = step / dt
    v = smooth(v_raw)  # 14 values
    a = smooth((v_raw[..., 1:] - v_raw[..., :-1]) / dt)  # 13 values, from raw speeds: smoothed once
    v_mean = _mean(v)
    speed = _speed(v_mean, a, order, a1_eps)

    forward, left = _along(dx, dy, step, yaw_0)
    # Held directions repeat an earlier one or yaw_0, so only steps that move can set the largest change.
    change = xp.abs(xp.atan2(left, forward))
    yaw_change = xp.amax(xp.where(step >= MIN_STEP, change, xp.zeros_like(change)), axis=-1)
    path = _path(v_mean, yaw_change, xp.cumsum(left, axis=-1))

    known = ~xp.isnan(v_mean)
    speed, path = xp.where(known, speed, -1.0), xp.where(known, path, -1.0)
    return (speed.astype(np.int8), path.astype(np.int8)) if xp is np else (speed.long(), path.long())


def f_k_plan(points_T2: AnyArray, **options: Any) -> tuple[AnyArray, AnyArray]:
    """`f_k` of plans (…, ≥14, 2) in the ego frame, first point 0.1 s from now: the origin goes in front."""
    xp = _namespace(points_T2)
    points = points_T2 if xp is not np else np.asarray(points_T2)
    if points.ndim < 2 or points.shape[-1] != 2 or points.shape[-2] < WINDOW - 1:
        raise InputError(f"f_k_plan: shape {tuple(points.shape)}; needs (…, at least {WINDOW - 1}, 2)")
    origin = xp.zeros_like(points[..., :1, :])
    return f_k(xp.concatenate([origin, points[..., : WINDOW - 1, :]], axis=-2), **options)


def label_recording(
    t_T: Array, poses_T3: Array, dt: float = PLAN_DT, *, order: str = "standing_first"
) -> tuple[Array, Array, Array]:
    """Labels of a recorded drive, one for each instant that has 1.4 s ahead of it: (t_F s, speed_F, path_F).

    t_T: (T,) time stamps, s, increasing; poses_T3: (T, 3) x, y, yaw in one plane frame, float64. Resampled by
    the stamps, never by row (stamps jitter). Windows that reach across a hole of more than 0.25 s are −1 in
    both [ours]. Raises `InputError` for a recording shorter than 1.4 s, a NaN, or stamps that do not
    increase.
    """
    t_T, poses_T3 = np.asarray(t_T, np.float64), np.asarray(poses_T3, np.float64)
    if poses_T3.shape != (len(t_T), 3) or not (np.isfinite(t_T).all() and np.isfinite(poses_T3).all()):
        raise InputError(f"label_recording: poses {poses_T3.shape} at {len(t_T)} times; needs finite (T, 3)")
    since = t_T - t_T[0] if len(t_T) else np.zeros(1)
    count = int(np.floor(since[-1] / dt + 1e-6)) + 1
    frames = count - WINDOW + 1
    if frames < 1:
        raise InputError(f"label_recording: lasts {since[-1]:.2f} s; f_K looks {dt * (WINDOW - 1):.1f} s ahead")
    grid = np.minimum(dt * np.arange(count), since[-1])
    poses = resample_poses(since, poses_T3 - poses_T3[0] * (1, 1, 0), grid)  # about a local origin
    local = poses[:, :2]
    window = np.lib.stride_tricks.sliding_window_view(local, WINDOW, axis=0).transpose(0, 2, 1)
    speed, path = f_k(window, dt=dt, yaw_0=poses[:frames, 2], order=order)
    starts = grid[:frames]
    hole = np.flatnonzero(np.diff(since) > MAX_GAP_S)
    reaches = np.zeros(frames, bool)
    for i in hole:
        reaches |= (starts < since[i + 1] - 1e-6) & (starts + dt * (WINDOW - 1) > since[i] + 1e-6)
    speed[reaches], path[reaches] = -1, -1
    return t_T[0] + starts, speed, path


def consistent(
    plan_speed: AnyArray,
    plan_path: AnyArray,
    speed: AnyArray,
    direction: AnyArray,
    *,
    lane_change_by_speed: bool = True,
) -> AnyArray:
    """C(τ, d) of stage 2: True where f_K(τ) = d. All arguments numpy or torch ints of one shape (…).

    A plan whose f_K is UNKNOWN is inconsistent: a jagged plan must not escape supervision (as printed). With
    `lane_change_by_speed` [ours] a CHANGE LANE decision is judged on speed alone, for f_K calls nearly all
    such plans straight; without it the decision is folded to its side, which is the paper's reading.
    """
    same_path = (plan_path == coarse(direction)) & (plan_path >= 0)
    if lane_change_by_speed:
        same_path = same_path | (direction >= int(Direction.CHANGE_LEFT))
    return (plan_speed == speed) & (plan_speed >= 0) & same_path


def _namespace(x: AnyArray) -> Any:
    """torch for tensors (already imported by whoever made one), numpy for all else."""
    return sys.modules["torch"] if type(x).__module__.partition(".")[0] == "torch" else np


def smooth(x: AnyArray) -> AnyArray:
    """Centred mean of 5 along the last axis; the window shrinks at the ends: zeros would fake a braking."""
    xp, n, half = _namespace(x), x.shape[-1], SMOOTHING // 2
    ends = xp.zeros_like(x[..., :half])
    padded = xp.concatenate([ends, x, ends], axis=-1)
    total = padded[..., :n]
    for k in range(1, SMOOTHING):
        total = total + padded[..., k : k + n]
    used = [min(i + half, n - 1) - max(i - half, 0) + 1 for i in range(n)]
    return xp.stack([total[..., i] / used[i] for i in range(n)], axis=-1)


def _mean(x: AnyArray) -> AnyArray:
    total = x[..., 0]
    for i in range(1, x.shape[-1]):
        total = total + x[..., i]
    return total / x.shape[-1]


def by_speed(v_mean: AnyArray, table: tuple[tuple[float, float], ...]) -> AnyArray:
    """The table's value at each mean speed, m/s."""
    xp = _namespace(v_mean)
    value = xp.full_like(v_mean, table[0][1])
    for above, then in table[1:]:
        value = xp.where(v_mean > above, then, value)
    return value


def _has_run(flags: AnyArray) -> AnyArray:
    """Whether the longest run of True along the last axis is at least RUN (lcs ≥ 8)."""
    starts = flags.shape[-1] - RUN + 1
    run = flags[..., :starts]
    for k in range(1, RUN):
        run = run & flags[..., k : k + starts]
    return run.any(axis=-1)


def _speed(v_mean: AnyArray, a: AnyArray, order: str, a1_eps: float) -> AnyArray:
    xp = _namespace(a)
    strong = xp.sqrt(_mean(a * a)) > A_RMS
    s_a = by_speed(v_mean, KEEP_SCALE)
    accelerates = (a[..., 0] > -a1_eps) & _has_run(a > A_RUN) & (xp.amax(a, axis=-1) > A_PEAK) & strong
    decelerates = (a[..., 0] < a1_eps) & _has_run(a < -A_RUN) & (xp.amin(a, axis=-1) < -A_PEAK) & strong
    keeps = (xp.abs(_mean(a)) < A_RUN * s_a) & (xp.amax(xp.abs(a), axis=-1) < A_PEAK * s_a)
    stands = v_mean < V_STOP
    first = [(Speed.ACCELERATE, accelerates), (Speed.DECELERATE, decelerates)]
    rest = [(Speed.KEEP, keeps), (Speed.STOP, stands)]
    label = xp.full_like(v_mean, float(Speed.UNKNOWN))
    for value, holds in reversed(first + (rest if order == "paper" else rest[::-1])):
        label = xp.where(holds, float(value), label)
    return label


def _along(dx: AnyArray, dy: AnyArray, step: AnyArray, yaw_0: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Steps in the frame of the initial heading: forward and left parts, each (…, 14)."""
    xp = _namespace(dx)
    if yaw_0 is None:
        moves = step >= MIN_STEP
        n = moves.shape[-1]
        index = xp.where(moves, xp.arange(n) if xp is np else xp.arange(n, device=dx.device), n - 1)
        first = xp.amin(index, axis=-1)[..., None]
        take = np.take_along_axis if xp is np else xp.take_along_dim
        cos, sin = take(dx, first, -1), take(dy, first, -1)
        length = xp.sqrt(cos * cos + sin * sin)
        moved = length >= MIN_STEP
        length = xp.where(moved, length, 1.0)
        cos, sin = xp.where(moved, cos / length, 1.0), xp.where(moved, sin / length, 0.0)
    else:
        yaw = xp.zeros_like(dx[..., :1]) + (yaw_0 if isinstance(yaw_0, (int, float)) else yaw_0[..., None])
        cos, sin = xp.cos(yaw), xp.sin(yaw)
    return cos * dx + sin * dy, cos * dy - sin * dx


def _path(v_mean: AnyArray, yaw_change: AnyArray, lateral: AnyArray) -> AnyArray:
    xp = _namespace(lateral)
    s_y = by_speed(v_mean, LATERAL)
    left, right = xp.amax(lateral, axis=-1), -xp.amin(lateral, axis=-1)
    turns = yaw_change > YAW_CHANGE
    # Where both sides qualify the larger excursion wins; a dead heat is straight, so mirroring stays a law
    # [ours].
    label = xp.full_like(v_mean, float(Path.STRAIGHT))
    label = xp.where(turns & (left > s_y) & (left > right), float(Path.LEFT), label)
    return xp.where(turns & (right > s_y) & (right > left), float(Path.RIGHT), label)
