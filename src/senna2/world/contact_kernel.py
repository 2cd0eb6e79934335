"""The compiled loop of `judge.find_contacts`: who touches the ego between two frames, and when."""

from __future__ import annotations

from math import ceil, cos, hypot, inf, isfinite, pi, sin

import numpy as np

from senna2.compiled import njit
from senna2.geometry.kernels import _hits, _overlap

APPROACH_M = 0.25  # most that ego and agent may approach between two contact tests


@njit()
def sweep(path, now, then, ignored, offset, length, width, reach, kerbs):
    """Boxes of the ego and of the agents that come near it, tested together at M moments.

    path (N + 1, 3+): rear-axle poses from one frame to the next. now, then (A, 6): the agents at both. ignored (A,):
    agents left out. offset: rear axle to the box's middle; reach: to its farthest corner. kerbs (S, 4): segments.
    Moments are N equal parts of the frame, parted further where ego and an agent approach by more than `APPROACH_M`.
    Returns whether anything touches, the agents near, and at each moment the ego's poses (M, 3), the agents' boxes
    (M, near, 6), whether they touch (M, near) and whether the ego touches a kerb (M,).
    """
    near = _near(path, now, then, ignored, reach)
    parts = len(path) - 1
    finer = _refinement(path, now, then, near, parts)
    moments = parts * finer
    poses, boxes = np.empty((moments, 3)), np.empty((moments, len(near), 6))
    touch, kerb, touched = np.zeros((moments, len(near)), np.bool_), np.zeros(moments, np.bool_), False
    yaw = _unwrapped(path)
    low_x, high_x, low_y, high_y = inf, -inf, inf, -inf
    for k in range(len(path)):
        low_x, high_x = min(low_x, path[k, 0] - reach), max(high_x, path[k, 0] + reach)
        low_y, high_y = min(low_y, path[k, 1] - reach), max(high_y, path[k, 1] + reach)
    ego = np.empty(5)
    ego[3], ego[4] = length, width
    for m in range(moments):
        part, u = (m + 1) // finer, ((m + 1) % finer) / finer
        onward = min(part + 1, parts)
        x = path[part, 0] + u * (path[onward, 0] - path[part, 0])
        y = path[part, 1] + u * (path[onward, 1] - path[part, 1])
        poses[m, 0], poses[m, 1], poses[m, 2] = x, y, yaw[part] + u * (yaw[onward] - yaw[part])
        c, s = cos(poses[m, 2]), sin(poses[m, 2])
        ego[0], ego[1], ego[2] = x + offset * c, y + offset * s, poses[m, 2]
        for j in range(len(near)):
            box = boxes[m, j]
            _between(now, then, near[j], (m + 1) / moments, box)
            touch[m, j] = _overlap(
                ego[0], ego[1], c, s, length / 2, width / 2,
                box[0], box[1], cos(box[2]), sin(box[2]), box[3] / 2, box[4] / 2,
            )  # fmt: skip
            touched |= touch[m, j]
        for k in range(len(kerbs)):
            line = kerbs[k]
            if (
                min(line[0], line[2]) <= high_x and max(line[0], line[2]) >= low_x
                and min(line[1], line[3]) <= high_y and max(line[1], line[3]) >= low_y
                and _hits(ego, c, s, line)
            ):  # fmt: skip
                kerb[m] = touched = True
                break
    return touched, near, poses, boxes, touch, kerb


@njit()
def _near(path, now, then, ignored, reach):
    """Agents that could touch the ego within this step, by circles around boxes and what all of them move."""
    near, n, ego_moved = np.empty(len(now), np.int64), 0, 0.0
    for k in range(len(path)):
        ego_moved = max(ego_moved, hypot(path[k, 0] - path[0, 0], path[k, 1] - path[0, 1]))
    for a in range(len(now)):
        here = then[a] if isfinite(then[a, 0]) else now[a]
        moved = hypot(then[a, 0] - now[a, 0], then[a, 1] - now[a, 1])
        moved = moved if isfinite(moved) else 0.0
        gap, size = hypot(here[0] - path[0, 0], here[1] - path[0, 1]), 0.5 * hypot(here[3], here[4])
        if not ignored[a] and gap <= reach + ego_moved + size + moved:  # NaN (absent): no
            near[n] = a
            n += 1
    return near[:n]


@njit()
def _refinement(path, now, then, near, parts):
    """Into how many pieces each part of the frame is parted."""
    ego_x, ego_y, most = path[parts, 0] - path[0, 0], path[parts, 1] - path[0, 1], 0.0
    for a in near:
        approach = hypot(then[a, 0] - now[a, 0] - ego_x, then[a, 1] - now[a, 1] - ego_y)
        most = max(most, approach if isfinite(approach) else 0.0)
    return max(1, ceil(most / parts / APPROACH_M - 1e-9))


@njit()
def _between(now, then, a, share, out):
    """As `traffic.base.between`: at share 1 the later frame stands alone, so an agent that appears there is there."""
    for k in range(6):  # element by element: array expressions take seconds to compile
        change = then[a, k] - now[a, k]
        if k == 2:
            change = -((pi - change) % (2 * pi) - pi)
        out[k] = then[a, k] if share == 1.0 else now[a, k] + share * change


@njit()
def _unwrapped(path):
    """(N,) the yaw of a path without its jumps by 2π."""
    yaw, turns = np.empty(len(path)), 0.0
    for k in range(len(path)):
        turn = path[k, 2] - path[max(k - 1, 0), 2]
        if abs(turn) > pi:
            turns -= 2 * pi * round(turn / (2 * pi))
        yaw[k] = path[k, 2] + turns
    return yaw
