"""The compiled loops of `vehicle`: the bicycle's integration, and what the pursuit tracker makes of a plan.

A state is x, y, yaw, v, a, steer. Limits are `VehicleLimits` as an array, in the order of its fields. Every formula is
even or odd in y, and sums run point by point: a mirrored plan gives exactly mirrored numbers.
"""

from __future__ import annotations

from math import atan, cos, exp, pi, sin, sqrt, tan

import numpy as np

from senna2.compiled import njit

MAX_STEER, STEER_RATE, MIN_ACCEL, MAX_ACCEL, JERK, GRIP, ACCEL_LAG, STEER_LAG = range(8)
STANDING_M = 0.3  # a plan whose points span less than this gives no direction to steer for
AHEAD_M = 0.05  # a plan's points further back are not steered for
LOOKS = 8  # points of the look-ahead


@njit()
def remainder(angle):
    """`math.remainder(angle, 2π)`, which numba does not know: exactly folded to [-π, π]."""
    rest = np.fmod(angle, 2 * pi)
    if rest > pi:
        return rest - 2 * pi
    return rest + 2 * pi if rest < -pi else rest


@njit()
def bicycle(state, accel, steer, dt, steps, wheelbase, limits):
    """(steps + 1, 6): the state, and after each of the steps of `dt` s under constant commands."""
    path = np.empty((steps + 1, 6))
    for k in range(6):
        path[0, k] = state[k]
    accel = min(max(accel, limits[MIN_ACCEL]), limits[MAX_ACCEL])
    steer = min(max(steer, -limits[MAX_STEER]), limits[MAX_STEER])
    accel_share, jerk = 1 - exp(-dt / limits[ACCEL_LAG]), limits[JERK] * dt
    steer_share, rate = 1 - exp(-dt / limits[STEER_LAG]), limits[STEER_RATE] * dt
    for k in range(steps):
        before, after = path[k], path[k + 1]
        yaw, old_v, old_a, old_steer = before[2], before[3], before[4], before[5]
        a = old_a + min(max((accel - old_a) * accel_share, -jerk), jerk)
        new_steer = old_steer + min(max((steer - old_steer) * steer_share, -rate), rate)
        v = old_v + a * dt
        if v <= 0:
            way = 0.0 if a >= 0 else 0.5 * old_v**2 / -a  # comes to rest within the step
            v, a = 0.0, max(a, 0.0)
        else:
            way = 0.5 * (old_v + v) * dt
        turn = way * tan(0.5 * (old_steer + new_steer)) / wheelbase
        heading = yaw + 0.5 * turn  # midpoint rule: exact to second order on an arc
        after[0], after[1] = before[0] + way * cos(heading), before[1] + way * sin(heading)
        after[2] = remainder(yaw + turn)
        after[3], after[4], after[5] = v, a, new_steer
    return path


@njit()
def a_second(points, dt):
    """Index of the point a second ahead, or the last."""
    return min(max(round(1.0 / dt) - 1, 0), len(points) - 1)


@njit()
def stands(points, dt, v, hold_m):
    i = a_second(points, dt)
    first, last = max(i - 2, 0), min(i + 3, len(points))
    way = 0.0
    for k in range(first, last):
        way += points[k, 0]
    return v < 1.0 and way / (last - first) < hold_m


@njit()
def way_along(points, dt):
    way = np.zeros(len(points))
    if points[a_second(points, dt), 0] < points[0, 0] - 0.02:
        return way
    last, x, y, gone, most, first = len(points) - 1, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(last + 1):
        after, before = min(k + 2, last), max(k - 3, 0)
        cx, cy = points[after, 0] - points[before, 0], points[after, 1] - points[before, 1]
        size = sqrt(cx * cx + cy * cy)
        ux, uy = (cx / size, cy / size) if size > 0.03 else (1.0, 0.0)
        step = (points[k, 0] - x) * ux + (points[k, 1] - y) * uy
        x, y = points[k, 0], points[k, 1]
        if k == 0:
            first = step
        else:
            gone += step
            most = max(most, gone)
        way[k] = first + most
    return way


@njit()
def pursue(state, points, dt, wheelbase, limits, preview_s, lookahead_s, min_lookahead_m, hold_m, hold_accel):
    """(acceleration, steering) of the pursuit tracker."""
    accel = hold_accel
    if not stands(points, dt, state[3], hold_m):
        accel = _accel(state[3], state[4], way_along(points, dt), dt, limits, preview_s)
    reach = max(min_lookahead_m, lookahead_s * state[3])
    return accel, _steer(state[3], state[5], points, reach, wheelbase, limits)


@njit()
def _accel(v, a, way, dt, limits, preview_s):
    n = min(max(round(preview_s / dt), 2), len(way))
    tau, fitted, norm = limits[ACCEL_LAG], 0.0, 0.0
    for k in range(n):
        t = dt * (k + 1)
        kept = tau * t - tau**2 * (1 - exp(-t / tau))  # way the present acceleration makes while it fades
        gain = 0.5 * t**2 - kept
        fitted += gain * (way[k] - v * t - a * kept)
        norm += gain * gain
    return min(max(fitted / norm, limits[MIN_ACCEL]), limits[MAX_ACCEL])


@njit()
def _steer(v, steer, points, reach, wheelbase, limits):
    line, way, n = _steering_line(points, reach)
    if n == 0:
        return steer  # a standing plan has no direction: leave the wheel
    lag = max(v, 0.5) * limits[STEER_LAG]  # m driven while the wheel follows
    now = tan(steer) / wheelbase
    fitted, norm, i = 0.0, 0.0, 0
    for k in range(LOOKS):
        s = reach * (0.3 + 0.7 * k / (LOOKS - 1))
        while i < n - 2 and s >= way[i + 1]:
            i += 1
        u = min((s - way[i]) / (way[i + 1] - way[i]), 1.0)
        x, y = line[i, 0] + u * (line[i + 1, 0] - line[i, 0]), line[i, 1] + u * (line[i + 1, 1] - line[i, 1])
        square = max(x * x + y * y, 1e-6)
        curvature = 2 * y / square  # of the circle through the point, tangent to the car
        share = 1 - 2 * (lag * s - lag**2 * (1 - exp(-s / lag))) / (s * s)  # of the bend made by the command
        weight = square * square * share  # least squares in y = ½ κ s²
        fitted += weight * (curvature - now * (1 - share))
        norm += weight * share
    grip = limits[GRIP] / max(v, 1.0) ** 2
    wanted = min(max(fitted / norm, -grip), grip)
    return min(max(atan(wanted * wheelbase), -limits[MAX_STEER]), limits[MAX_STEER])


@njit()
def _steering_line(points, reach):
    """The plan ahead of the car as a polyline from it, its arc length, at least `reach` long, and how many points
    it has; none if the plan does not move."""
    line, way, n, total = np.zeros((len(points) + 2, 2)), np.zeros(len(points) + 2), 1, 0.0
    first, last = 0, len(points) - 1
    while first <= last and not points[first, 0] > AHEAD_M:
        first += 1
    span_x, span_y = points[last, 0] - points[0, 0], points[last, 1] - points[0, 1]
    if first > last or sqrt(span_x * span_x + span_y * span_y) < STANDING_M:
        return line, way, 0
    x, y = 0.0, 0.0
    for k in range(first, last + 1):
        dx, dy = points[k, 0] - x, points[k, 1] - y
        x, y = points[k, 0], points[k, 1]
        step = sqrt(dx * dx + dy * dy)
        total += step
        if step > 1e-6:
            line[n, 0], line[n, 1], way[n] = x, y, total
            n += 1
    if way[n - 1] < reach:
        back = n - 1
        while back > 0 and way[back] >= way[n - 1] - 1.0:  # a single short step is noise
            back -= 1
        dx, dy = line[n - 1, 0] - line[back, 0], line[n - 1, 1] - line[back, 1]
        size, more = max(sqrt(dx * dx + dy * dy), 1e-9), reach - way[n - 1] + 0.1
        line[n, 0], line[n, 1] = line[n - 1, 0] + dx / size * more, line[n - 1, 1] + dy / size * more
        way[n] = reach + 0.1
        n += 1
    return line, way, n
