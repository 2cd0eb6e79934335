"""Compiled loops of reactive traffic: who is in whose way, and how hard to brake for it.

An agent keeps a corridor along its path free, as wide as its body and a margin. Everybody else is projected on the
path: who is in the corridor now is a leader; so is who will be in it within HORIZON_S at constant velocity, there and
not earlier than this agent has passed.
"""

from __future__ import annotations

from math import cos, hypot, inf, sin, sqrt

import numpy as np

from senna2.compiled import njit

HORIZON_S = 3.0
TAU_S = 0.25  # step of the look at crossing actors
MARGIN_M, NARROW_M = 0.3, 0.05  # beside the body, for who moves and who stands
STANDS = 0.1  # m/s
AHEAD_M = 90.0
HARDEST = -8.0  # m/s², the ego's own limit
PASSED_S = 0.7  # an agent that is through this long before the other comes need not wait for it
FACING = 0.35  # cosine: beyond about 70° from the path an actor crosses it

# rows of a parameter array (A, 7)
V0, HEADWAY, GAP, ACCEL, BRAKE, LENGTH, WIDTH = range(7)


@njit()
def idm_accel(v, v0, gap, lead_v, headway, min_gap, accel, brake):
    """IDM (Treiber, Hennecke, Helbing 2000); gap inf: a free road."""
    free = accel * (1 - (v / v0) ** 4)
    if gap == inf:
        return max(free, -brake)
    wanted = min_gap + max(v * headway + v * (v - lead_v) / (2 * sqrt(accel * brake)), 0.0)
    return max(max(free, -brake) - accel * (wanted / max(gap, 0.1)) ** 2, HARDEST)


@njit()
def nearest_node(xy, first, last, x, y, stride):
    """The node nearest to a point among those from `first` to `last` - 1: coarsely, then finely."""
    best, at = inf, first
    for i in range(first, last, stride):
        gap = (xy[i, 0] - x) ** 2 + (xy[i, 1] - y) ** 2
        if gap < best:
            best, at = gap, i
    for i in range(max(at - stride, first), min(at + stride + 1, last)):
        gap = (xy[i, 0] - x) ** 2 + (xy[i, 1] - y) ** 2
        if gap < best:
            best, at = gap, i
    return at


@njit()
def walk_node(xy, first, last, x, y, at):
    """The nearest node from a near one: downhill."""
    best = (xy[at, 0] - x) ** 2 + (xy[at, 1] - y) ** 2
    for step in (1, -1):
        while first <= at + step < last:
            gap = (xy[at + step, 0] - x) ** 2 + (xy[at + step, 1] - y) ** 2
            if gap >= best:
                break
            best, at = gap, at + step
    return at


@njit()
def project(xy, at, nodes, before, ds, x, y):
    """(s, d) and the unit direction of the path, from the nearest node."""
    i = min(max(at, 1), nodes - 2)
    dx, dy = xy[i + 1, 0] - xy[i - 1, 0], xy[i + 1, 1] - xy[i - 1, 1]
    size = max(hypot(dx, dy), 1e-9)
    ux, uy = dx / size, dy / size
    rx, ry = x - xy[at, 0], y - xy[at, 1]
    return at * ds - before + rx * ux + ry * uy, ux * ry - uy * rx, ux, uy


@njit()
def interaction(me, boxes, xy, nodes, before, ds, s, v, low, high, p, crossing):
    """Hardest IDM acceleration (m/s², inf none) of agent `me` for all others, if it were on this path at s with speed v
    and kept the corridor from `low` to `high` m of the path's left free. `boxes` (N, 6): all, the ego last.

    The corridor is without margins; they are added here, and hardly any beside who stands: logs pass parked cars
    closely, and nobody who waits moves aside for a car held up by centimetres."""
    worst = inf
    front = s + p[LENGTH] / 2
    start = max(int((s + before) / ds) - 4, 0)
    stop = min(start + int((AHEAD_M) / ds), nodes)
    if stop - start < 4:
        return worst
    for j in range(len(boxes)):
        b = boxes[j]
        if j == me or b[0] != b[0]:
            continue
        reach = AHEAD_M + b[5] * HORIZON_S
        if abs(b[0] - boxes[me, 0]) > reach or abs(b[1] - boxes[me, 1]) > reach:
            continue
        hc, hs = cos(b[2]), sin(b[2])
        at = nearest_node(xy, start, stop, b[0], b[1], 8)
        margin = MARGIN_M if b[5] >= STANDS else NARROW_M
        t = 0.0
        while t <= HORIZON_S + 1e-9:
            x, y = b[0] + b[5] * t * hc, b[1] + b[5] * t * hs
            if t > 0:
                at = walk_node(xy, start, stop, x, y, at)
            s_j, d_j, ux, uy = project(xy, at, nodes, before, ds, x, y)
            along, across = hc * ux + hs * uy, abs(ux * hs - uy * hc)
            half_s = 0.5 * (abs(along) * b[3] + across * b[4])
            half_d = 0.5 * (across * b[3] + abs(along) * b[4])
            # A box at an angle fills its bounds only in part: what is not yet there does not stand in the way.
            if (
                d_j + half_d > low - margin
                and d_j - half_d < high + margin
                and s_j - half_s > s
                and start < at < stop - 1
            ):
                gap = s_j - half_s - front
                lead_v = b[5] * along
                if t > 0:
                    mine = max(gap, 0.0) / max(v, 0.5)
                    passed = mine + (p[LENGTH] + 2 * half_s) / max(v, 0.5) + PASSED_S
                    if abs(along) < FACING:
                        first_is_me = mine < t - 1e-9 if j < len(boxes) - 1 else passed < t
                        if first_is_me:
                            break
                    elif along < 0:
                        break  # oncoming traffic that will leave its side later is not foreseen
                a = idm_accel(v, p[V0], gap, max(lead_v, 0.0), p[HEADWAY], p[GAP], p[ACCEL], p[BRAKE])
                worst = min(worst, a)
                break
            if not crossing or b[5] < 0.3 or (t == 0 and along >= FACING and (s_j - half_s <= s or at == start)):
                break  # who follows is no leader
            t += TAU_S
    return worst


@njit()
def interactions(boxes, active, crossing, xy, nodes, before, ds, path, s, v, d, p):
    """(A,) of every active agent on its own path; a corridor reaches from where the body is (d) to the path itself."""
    out = np.full(len(path), np.inf)
    for i in range(len(path)):
        if active[i]:
            half = p[i, WIDTH] / 2
            q = path[i]
            out[i] = interaction(
                i, boxes, xy[q], nodes[q], before, ds, s[i], v[i], min(d[i], 0.0) - half, max(d[i], 0.0) + half,
                p[i], crossing[i],
            )  # fmt: skip
    return out
