"""The compiled loops of the state observation: the nearest agents and map lines, in the ego frame."""

from __future__ import annotations

from math import cos, inf, isfinite, pi, sin

import numpy as np

from senna2.compiled import njit


@njit()
def nearest_agents(pose, boxes, classes, out_boxes, out_classes):
    """Fills `out_boxes` (N, 6) and `out_classes` (N,) with agents (A, 6), the nearest first; NaN rows are absent."""
    c, s, x, y = cos(pose[2]), sin(pose[2]), pose[0], pose[1]
    gap = np.empty(len(boxes))
    for a in range(len(boxes)):
        square = (boxes[a, 0] - x) ** 2 + (boxes[a, 1] - y) ** 2
        gap[a] = square if isfinite(square) else inf
    for row in range(min(len(boxes), len(out_boxes))):
        a = int(np.argmin(gap))
        if gap[a] == inf:
            return
        gap[a] = inf
        dx, dy = boxes[a, 0] - x, boxes[a, 1] - y
        out_boxes[row, 0], out_boxes[row, 1] = c * dx + s * dy, -s * dx + c * dy
        out_boxes[row, 2] = -((pose[2] - boxes[a, 2] + pi) % (2 * pi) - pi)
        out_boxes[row, 3], out_boxes[row, 4], out_boxes[row, 5] = boxes[a, 3], boxes[a, 4], boxes[a, 5]
        out_classes[row] = classes[a]


@njit()
def nearest_lines(pose, points, first, last, two_way, on_route, kinds, row, range_m, stride, behind, out, out_kinds):
    """Fills `out` (R, P, 2) and `out_kinds` (R,) from `row` on with lines within `range_m`, the nearest first.

    Line l has the points first[l] … last[l]; P of them are taken, every `stride`-th, `behind` of them before the one
    nearest to the ego; those of a line that is `two_way` (it has no direction of its own) in the ego's sense. Lines all
    `on_route` (a flag a point) are left out.
    """
    c, s, x, y = cos(pose[2]), sin(pose[2]), pose[0], pose[1]
    gap, middle = np.empty(len(first)), np.empty(len(first), np.int64)
    for line in range(len(first)):
        least, best = inf, first[line]
        for i in range(first[line], last[line] + 1):
            square = (points[i, 0] - x) ** 2 + (points[i, 1] - y) ** 2
            if square < least:
                least, best = square, i
        gap[line], middle[line] = least, best
    index = np.empty(out.shape[1], np.int64)
    for _ in range(len(first)):
        line = int(np.argmin(gap))
        if row == len(out) or gap[line] > range_m * range_m:
            return
        gap[line] = inf
        here, before, after = middle[line], max(middle[line] - 1, first[line]), min(middle[line] + 1, last[line])
        along = (points[after, 0] - points[before, 0]) * c + (points[after, 1] - points[before, 1]) * s
        sense = -stride if along < 0 and two_way[line] else stride
        told = True  # by the route already
        for k in range(len(index)):
            index[k] = min(max(here + sense * (k - behind), first[line]), last[line])
            told = told and on_route[index[k]]
        if told:
            continue
        for k in range(len(index)):
            dx, dy = points[index[k], 0] - x, points[index[k], 1] - y
            out[row, k, 0], out[row, k, 1] = c * dx + s * dy, -s * dx + c * dy
        out_kinds[row] = kinds[line]
        row += 1
