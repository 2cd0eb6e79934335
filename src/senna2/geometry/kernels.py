"""The compiled loops of geometry, over flat float64 arrays."""

from __future__ import annotations

from math import atan2, cos, inf, isfinite, sin, sqrt

import numpy as np

from senna2.compiled import njit


@njit()
def _overlap(ax, ay, ac, as_, al, aw, bx, by, bc, bs, bl, bw):
    """Boxes by centre, cos and sin of yaw, half length, half width. `not (gap <= reach)`: NaN separates."""
    dx, dy = bx - ax, by - ay
    c, s = abs(ac * bc + as_ * bs), abs(ac * bs - as_ * bc)
    if not (abs(ac * dx + as_ * dy) <= al + bl * c + bw * s):
        return False
    if not (abs(ac * dy - as_ * dx) <= aw + bl * s + bw * c):
        return False
    if not (abs(bc * dx + bs * dy) <= bl + al * c + aw * s):
        return False
    return abs(bc * dy - bs * dx) <= bw + al * s + aw * c


@njit()
def overlap_many(a, b):
    out = np.empty(len(a), np.bool_)
    for i in range(len(a)):
        p, q = a[i], b[i]
        reach = 0.5 * (p[3] + p[4] + q[3] + q[4])  # half diagonals are shorter
        if not (abs(q[0] - p[0]) <= reach and abs(q[1] - p[1]) <= reach):
            out[i] = False
            continue
        out[i] = _overlap(
            p[0], p[1], cos(p[2]), sin(p[2]), p[3] / 2, p[4] / 2,
            q[0], q[1], cos(q[2]), sin(q[2]), q[3] / 2, q[4] / 2,
        )  # fmt: skip
    return out


@njit()
def overlap_one(p, others):
    out = np.empty(len(others), np.bool_)
    c, s, half_l, half_w = cos(p[2]), sin(p[2]), p[3] / 2, p[4] / 2
    for i in range(len(others)):
        q = others[i]
        reach = half_l + half_w + 0.5 * (q[3] + q[4])
        if not (abs(q[0] - p[0]) <= reach and abs(q[1] - p[1]) <= reach):
            out[i] = False
            continue
        out[i] = _overlap(p[0], p[1], c, s, half_l, half_w, q[0], q[1], cos(q[2]), sin(q[2]), q[3] / 2, q[4] / 2)
    return out


@njit()
def _hits(box, c, s, seg):
    """A segment is a box of no width: axes of the box, or the segment's normal, separate the two."""
    mx, my = (seg[0] + seg[2]) / 2 - box[0], (seg[1] + seg[3]) / 2 - box[1]
    hx, hy = (seg[2] - seg[0]) / 2, (seg[3] - seg[1]) / 2
    u, v = c * mx + s * my, c * my - s * mx  # middle and half step in the box's axes
    p, q = c * hx + s * hy, c * hy - s * hx
    half_l, half_w = box[3] / 2, box[4] / 2
    if not (abs(u) <= half_l + abs(p)) or not (abs(v) <= half_w + abs(q)):
        return False
    return abs(u * q - v * p) <= half_l * abs(q) + half_w * abs(p)


@njit()
def box_corners(box):
    """(4, 2) front-left, front-right, rear-right, rear-left."""
    c, s, half_l, half_w = cos(box[2]), sin(box[2]), box[3] / 2, box[4] / 2
    out = np.empty((4, 2))
    for k in range(4):
        u, v = half_l if k < 2 else -half_l, half_w if k in (0, 3) else -half_w
        out[k, 0], out[k, 1] = box[0] + c * u - s * v, box[1] + s * u + c * v
    return out


@njit()
def hits_many(boxes, segments):
    out = np.empty((len(boxes), len(segments)), np.bool_)
    for i in range(len(boxes)):
        c, s = cos(boxes[i, 2]), sin(boxes[i, 2])
        for j in range(len(segments)):
            out[i, j] = _hits(boxes[i], c, s, segments[j])
    return out


@njit()
def hits_any(box, segments):
    c, s = cos(box[2]), sin(box[2])
    for j in range(len(segments)):  # noqa: SIM110 (numba has no generators)
        if _hits(box, c, s, segments[j]):
            return True
    return False


@njit()
def _pair_ttc(ego, ec, es, ego_v, box, v, step_s, steps):
    """First k·step_s, k up to `steps`, at which two boxes overlap, each at constant velocity; inf if there is none."""
    el, ew, half_l, half_w = ego[3] / 2, ego[4] / 2, box[3] / 2, box[4] / 2
    c, s = cos(box[2]), sin(box[2])
    dx, dy = box[0] - ego[0], box[1] - ego[1]
    wx, wy = v * c - ego_v * ec, v * s - ego_v * es
    reach = el + ew + half_l + half_w + 1e-6
    closing, speed2 = -(dx * wx + dy * wy), wx * wx + wy * wy
    nearest = min(max(closing / speed2, 0.0), steps * step_s) if speed2 > 1e-12 else 0.0
    if not ((dx + nearest * wx) ** 2 + (dy + nearest * wy) ** 2 <= reach * reach):
        return inf  # their circles never meet
    first = 0
    if speed2 > 1e-12 and dx * dx + dy * dy > reach * reach:
        # they meet first where |d + w t| = reach; a step of slack for rounding
        root = closing * closing - speed2 * (dx * dx + dy * dy - reach * reach)
        first = max(int((closing - sqrt(max(root, 0.0))) / speed2 / step_s) - 1, 0)
    for k in range(first, steps + 1):
        t = k * step_s  # integer k: summing 0.1 would drift past the horizon
        if _overlap(
            ego[0] + ego_v * t * ec, ego[1] + ego_v * t * es, ec, es, el, ew,
            box[0] + v * t * c, box[1] + v * t * s, c, s, half_l, half_w,
        ):  # fmt: skip
            return t
    return inf


@njit()
def ttc_many(ego, ego_v, boxes, v, counts, step_s, steps):
    out = np.full(len(boxes), np.inf)
    ec, es = cos(ego[2]), sin(ego[2])
    for i in range(len(boxes)):
        if counts[i]:
            out[i] = _pair_ttc(ego, ec, es, ego_v, boxes[i], v[i], step_s, steps)
    return out


@njit()
def ttc_nearest(pose, ego, ego_v, boxes, counts, ahead, behind, step_s, steps):
    """(smallest over the agents ahead, smallest over those not behind). Boxes (A, 6) with the speed, NaN absent."""
    in_front, around = inf, inf
    c, s = cos(pose[2]), sin(pose[2])
    for i in range(len(boxes)):
        if not counts[i] or not isfinite(boxes[i, 0]):
            continue
        dx, dy = boxes[i, 0] - pose[0], boxes[i, 1] - pose[1]
        bearing = abs(atan2(c * dy - s * dx, c * dx + s * dy))
        if bearing <= behind:
            t = _pair_ttc(ego, c, s, ego_v, boxes[i], boxes[i, 5], step_s, steps)
            around = min(around, t)
            if bearing <= ahead:
                in_front = min(in_front, t)
    return in_front, around


@njit()
def ttc_along(plan, ego, speed, plan_dt, boxes, v, bound, stand_speed, step_s, steps):
    out = np.full(len(plan), np.inf)
    moved = boxes.copy()
    counts = np.empty(len(boxes), np.bool_)
    for t in range(len(plan)):
        if speed[t] <= stand_speed:
            continue
        c, s = cos(plan[t, 2]), sin(plan[t, 2])
        for i in range(len(boxes)):
            way = v[i] * plan_dt * (t + 1)
            moved[i, 0] = boxes[i, 0] + way * cos(boxes[i, 2])
            moved[i, 1] = boxes[i, 1] + way * sin(boxes[i, 2])
            dx, dy = moved[i, 0] - plan[t, 0], moved[i, 1] - plan[t, 1]
            counts[i] = abs(atan2(c * dy - s * dx, c * dx + s * dy)) <= bound
        found = ttc_many(ego[t], speed[t], moved, v, counts, step_s, steps)
        for i in range(len(found)):
            out[t] = min(out[t], found[i])
    return out


@njit()
def _inside(x, y, edges, first, last):
    """Whether a point lies within the rings of edges `first` … `last` - 1 (even-odd) or on one of them."""
    odd = False
    for e in range(first, last):
        x0, y0, x1, y1 = edges[e, 0], edges[e, 1], edges[e, 2], edges[e, 3]
        if (y0 > y and y1 > y) or (y0 < y and y1 < y) or (x0 < x and x1 < x):
            continue  # it passes above, below or behind
        side = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
        if side == 0 and min(x0, x1) <= x <= max(x0, x1):
            return True
        if (y0 > y) != (y1 > y) and (side > 0) == (y1 > y0):
            odd = not odd
    return odd


@njit()
def held_by(points, edges, first, bounds):
    """(L,) per area the bit set of the points within it. Area l: edges first[l] … first[l + 1] - 1, bounds (L, 4)."""
    held = np.zeros(len(bounds), np.int64)
    for area in range(len(bounds)):
        low_x, low_y, high_x, high_y = bounds[area, 0], bounds[area, 1], bounds[area, 2], bounds[area, 3]
        for k in range(len(points)):
            x, y = points[k, 0], points[k, 1]
            if low_x <= x <= high_x and low_y <= y <= high_y and _inside(x, y, edges, first[area], first[area + 1]):
                held[area] |= 1 << k
    return held


@njit()
def farthest_outside(points, edges):
    """Largest distance of a point from the area of these edges, 0 within."""
    worst = 0.0
    for k in range(len(points)):
        x, y = points[k, 0], points[k, 1]
        if _inside(x, y, edges, 0, len(edges)):
            continue
        least = inf
        for e in range(len(edges)):
            sx, sy, rx, ry = edges[e, 2] - edges[e, 0], edges[e, 3] - edges[e, 1], x - edges[e, 0], y - edges[e, 1]
            along = min(max((rx * sx + ry * sy) / max(sx * sx + sy * sy, 1e-18), 0.0), 1.0)
            gx, gy = rx - along * sx, ry - along * sy
            least = min(least, gx * gx + gy * gy)
        worst = max(worst, sqrt(least))
    return worst
