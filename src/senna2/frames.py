"""Rigid frames in the plane and in space, angles, resampling. Pure numpy, any batch shape."""

from __future__ import annotations

import numpy as np

from senna2.types import Array, InputError


def wrap(angle: Array) -> Array:
    """Angles folded to (-π, π]. Any shape, rad."""
    return -((-np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi)


def points_to_world(points_in_ego: Array, pose_in_world: Array) -> Array:
    """(…, P, 2) points of a frame whose (…, 3) pose (x, y, yaw) is given → world."""
    pose = np.asarray(pose_in_world, np.float64)[..., None, :]
    c, s = np.cos(pose[..., 2]), np.sin(pose[..., 2])
    x, y = points_in_ego[..., 0], points_in_ego[..., 1]
    return np.stack([pose[..., 0] + c * x - s * y, pose[..., 1] + s * x + c * y], -1)


def points_to_ego(points_in_world: Array, pose_in_world: Array) -> Array:
    """(…, P, 2) world points → the frame with pose (…, 3)."""
    pose = np.asarray(pose_in_world, np.float64)[..., None, :]
    c, s = np.cos(pose[..., 2]), np.sin(pose[..., 2])
    dx, dy = points_in_world[..., 0] - pose[..., 0], points_in_world[..., 1] - pose[..., 1]
    return np.stack([c * dx + s * dy, -s * dx + c * dy], -1)


def poses_to_world(poses_in_ego: Array, pose_in_world: Array) -> Array:
    """(…, P, 3) poses (x, y, yaw) of a frame → world."""
    yaw = wrap(poses_in_ego[..., 2] + np.asarray(pose_in_world)[..., None, 2])
    return np.concatenate([points_to_world(poses_in_ego[..., :2], pose_in_world), yaw[..., None]], -1)


def poses_to_ego(poses_in_world: Array, pose_in_world: Array) -> Array:
    """(…, P, 3) world poses → the frame with pose (…, 3)."""
    yaw = wrap(poses_in_world[..., 2] - np.asarray(pose_in_world)[..., None, 2])
    return np.concatenate([points_to_ego(poses_in_world[..., :2], pose_in_world), yaw[..., None]], -1)


def pose_to_matrix(pose_3: Array, z: float = 0.0) -> Array:
    """(3,) x, y, yaw at height z → (4, 4) homogeneous transform."""
    c, s = np.cos(pose_3[2]), np.sin(pose_3[2])
    m = np.eye(4)
    m[:2, :2] = ((c, -s), (s, c))
    m[:3, 3] = (pose_3[0], pose_3[1], z)
    return m


def yaw_from_steps(points_T2: Array, yaw_0: float = 0.0, min_step: float = 0.02) -> Array:
    """Yaw (T,) of plan points whose predecessor is the origin: the direction of each step, held while a step is
    under `min_step` m (a standing car must not jitter into turns), starting with `yaw_0`. EVALUATION.md, Poses."""
    steps = np.diff(points_T2, axis=0, prepend=np.zeros((1, 2)))
    yaw = np.empty(len(points_T2))
    last = yaw_0
    for i, (dx, dy) in enumerate(steps):
        if np.hypot(dx, dy) >= min_step:
            last = float(np.arctan2(dy, dx))
        yaw[i] = last
    return yaw


def resample_poses(t_T: Array, poses_T3: Array, t_new: Array) -> Array:
    """Linear in x, y and unwrapped yaw by time stamps, float64 about a local origin. (T, 3) → (len(t_new), 3).

    Raises `InputError` for stamps that do not increase or for times outside the recording.
    """
    t_T = np.asarray(t_T, np.float64)
    if len(t_T) < 2 or not (np.diff(t_T) > 0).all():
        raise InputError("resample: time stamps must be at least two and strictly increasing")
    if t_new[0] < t_T[0] - 1e-6 or t_new[-1] > t_T[-1] + 1e-6:
        raise InputError(f"resample: times {t_new[0]:.2f}…{t_new[-1]:.2f} s lie outside {t_T[0]:.2f}…{t_T[-1]:.2f} s")
    origin = np.asarray(poses_T3[0, :2], np.float64)
    x = np.interp(t_new, t_T, poses_T3[:, 0] - origin[0]) + origin[0]
    y = np.interp(t_new, t_T, poses_T3[:, 1] - origin[1]) + origin[1]
    yaw = wrap(np.interp(t_new, t_T, np.unwrap(poses_T3[:, 2])))
    return np.stack([x, y, yaw], -1)


def resample_plan(points_T2: Array, dt: float, new_dt: float, v_0: float) -> Array:
    """A coarse plan → points every `new_dt` s by a cubic spline clamped to the current speed along x.

    Linear resampling makes the first acceleration zero, hence ACCELERATE unreachable (EVALUATION.md, Resampling).
    """
    t = dt * np.arange(len(points_T2) + 1)
    points = np.vstack([np.zeros((1, 2)), points_T2])
    end = (points[-1] - points[-2]) / dt
    from scipy.interpolate import CubicSpline  # a third of a second and 40 MB, for plans that are not at 10 Hz

    spline = CubicSpline(t, points, bc_type=((1, np.array([v_0, 0.0])), (1, end)))
    return spline(np.arange(1, round(t[-1] / new_dt) + 1) * new_dt)


def along_polyline(line_P2: Array) -> Array:
    """Arc length (P,) of each point of a polyline, m."""
    return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line_P2, axis=0).T))])


def project_to_polyline(points_N2: Array, line_P2: Array) -> tuple[Array, Array]:
    """Nearest position on a polyline: (arc length (N,), signed distance to it (N,), left positive).

    Beyond an end the distance is that to the end point, so its magnitude is shapely's everywhere.
    """
    points = np.atleast_2d(points_N2)
    start, step = line_P2[:-1], np.diff(line_P2, axis=0)
    length = np.maximum(np.hypot(*step.T), 1e-9)
    unit = step / length[:, None]
    rel = points[:, None] - start[None]
    along = np.clip((rel * unit).sum(-1), 0, length)
    gap = rel - along[..., None] * unit
    best = np.argmin((gap**2).sum(-1), 1)
    i = np.arange(len(points))
    cross = unit[best, 0] * rel[i, best, 1] - unit[best, 1] * rel[i, best, 0]
    offset = np.where(cross < 0, -1.0, 1.0) * np.hypot(*gap[i, best].T)  # not np.sign: 0 straight beyond an end
    return along_polyline(line_P2)[best] + along[i, best], offset


def sample_polyline(line_P2: Array, s: Array) -> tuple[Array, Array]:
    """Points (…, 2) and headings (…) at arc lengths `s`; beyond the ends the end segments are prolonged."""
    knots = along_polyline(line_P2)
    s = np.asarray(s, np.float64)
    i = np.clip(np.searchsorted(knots, s, side="right") - 1, 0, len(line_P2) - 2)
    step = line_P2[i + 1] - line_P2[i]
    length = np.maximum(np.hypot(step[..., 0], step[..., 1]), 1e-9)
    point = line_P2[i] + step * ((s - knots[i]) / length)[..., None]
    return point, np.arctan2(step[..., 1], step[..., 0])
