"""The expert's look ahead, compiled: its own motion along a line among agents whose futures it knows.

IDM-like (Treiber 2000; the free and the interaction term are taken apart, so that following at v ≪ v₀ keeps the
full desired gap [ours]). Positions are (s, d) along and beside the line; grids K are frames, A agents, W windows.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

ACCEL, BRAKE, HEADWAY_S, STANDING_GAP = 1.5, 2.2, 1.2, 3.5
FLOOR = -7.0  # m/s², emergency
JERK_UP, JERK_DOWN, JERK_EMERGENCY, JERK_FORCED = 2.5, 5.0, 15.0, 6.0
LATERAL_RATE = 1.25  # rad/s of the critically damped return to the lane's middle
ANTICIPATED_FLOOR = -3.5  # for agents that will be on the path in 1.5 s but are not yet
ANTICIPATION = 15  # frames
YIELD_GAP = 2.0  # m to stand before a crossing path
YIELD_HORIZON_S = 5.0


@nb.njit(cache=True)
def _interaction(gap: float, v: float, leader_v: float, standing_gap: float) -> float:
    wish = v * HEADWAY_S + v * (v - leader_v) / (2 * math.sqrt(ACCEL * BRAKE))
    wish = standing_gap + max(0.0, wish)
    closing = max(v - max(leader_v, 0.0), 0.0)
    # [ours] A gap that is short but does not shrink (somebody just cut in) calls for no emergency: no more than a
    # comfortable braking, plus twice the kinematic need.
    need = closing * closing / (2 * max(gap - 1.0, 0.3))
    return max(ACCEL * (1 - (wish / max(gap, 0.1)) ** 2), -BRAKE - 2 * need)


@nb.njit(cache=True)
def _free(v: float, v_wish: float) -> float:
    if v > v_wish:
        return max(-BRAKE, -1.2 * (v - v_wish))
    return ACCEL * (1 - (v / max(v_wish, 0.1)) ** 4)


@nb.njit(cache=True)
def _leaders(k, s, v, d, goal_d, front, half_width, s_KA, d_KA, v_KA, hs_KA, hd_KA, follow_A):
    """Strongest braking for agents on the path now, or in 1.5 s."""
    worst = 1e9
    soon = min(k + ANTICIPATION, s_KA.shape[0] - 1)
    for j in range(s_KA.shape[1]):
        if not follow_A[j] or s_KA[k, j] != s_KA[k, j] or s_KA[k, j] < s + front - 2.0:
            continue
        now = abs(d_KA[k, j] - d) < hd_KA[k, j] + half_width + 0.25
        reach = hd_KA[soon, j] + half_width + 0.15  # NaN (gone by then) compares false
        later = abs(d_KA[soon, j] - d) < reach or abs(d_KA[soon, j] - goal_d) < reach
        if not (now or later):
            continue
        gap = s_KA[k, j] - hs_KA[k, j] - (s + front)
        if now:
            a = _interaction(gap, v, v_KA[k, j], STANDING_GAP)
        else:
            a = max(_interaction(max(gap, 1.0), v, v_KA[k, j], STANDING_GAP), ANTICIPATED_FLOOR)
        worst = min(worst, a)
    return worst


@nb.njit(cache=True)
def _crossings(k, dt, s, v, front, rear, window_W4):
    """Braking for paths that cross ours: pass before, pass behind, or wait in front."""
    worst = 1e9
    for w in range(window_W4.shape[0]):
        enters, leaves = (window_W4[w, 0] - k) * dt, (window_W4[w, 1] - k) * dt
        low, high = window_W4[w, 2], window_W4[w, 3]
        if leaves < -0.2 or enters > YIELD_HORIZON_S or s - rear > high + 0.3:
            continue
        way = low - 0.8 - (s + front)
        if way < -0.6 and enters > 0.0:
            continue  # already in the conflict and first: clear it
        clear = (high + 0.8 - (s - rear)) / max(v, 0.5)
        if clear < enters - 0.4:
            continue
        eager = 0.8  # m/s²: it will not go slower than now
        arrival = (-v + math.sqrt(v * v + 2 * eager * max(way, 0.0))) / eager
        if arrival > leaves + 0.3:
            continue
        worst = min(worst, _interaction(low - (s + front), v, 0.0, YIELD_GAP))
    return worst


@nb.njit(cache=True)
def look_ahead(
    state_5, change_4, t_s, dt, steps, k0, forced_a, line_s0, line_ds, limit_P, kappa_P, body_3,
    s_KA, d_KA, v_KA, hs_KA, hd_KA, follow_A, window_W4,
):  # fmt: skip
    """(steps, 4) s, d, v, a at t_s + dt … from state_5 (s, d, v, a, d') of the rear axle.

    change_4: lateral start and goal, start time and duration of a lane change (goal = start: keep the lane).
    forced_a: NaN for free driving, else the acceleration to hold whatever is ahead. limit_P: wished speed along the
    line. body_3: rear axle to front, to rear, half width.
    """
    s, d, v, a, d_rate = state_5
    begin_d, goal_d, begin_t, duration = change_4
    front, rear, half_width = body_3
    forced = forced_a == forced_a
    out = np.empty((steps, 4))
    last = s_KA.shape[0] - 1
    for i in range(steps):
        k = min(k0 + i, last)
        if forced:
            wish, up, down = forced_a, JERK_FORCED, JERK_FORCED
        else:
            ahead = (s + 0.5 * v - line_s0) / line_ds
            at = min(max(int(ahead), 0), limit_P.shape[0] - 1)
            wish = _free(v, limit_P[at])
            wish = min(wish, _leaders(k, s, v, d, goal_d, front, half_width, s_KA, d_KA, v_KA, hs_KA, hd_KA, follow_A))
            wish = min(wish, _crossings(k, dt, s, v, front, rear, window_W4))
            wish = max(wish, FLOOR)
            up, down = JERK_UP, (JERK_DOWN if wish > -3.5 else JERK_EMERGENCY)
            if a < -0.5:
                up = JERK_EMERGENCY if a < -3.0 else 2 * JERK_DOWN  # releasing a brake is quick
        a += min(max(wish - a, -down * dt), up * dt)
        v_new = v + a * dt
        if v_new <= 0.0:
            v_new, a = 0.0, max(a, 0.0) if v > 0 else 0.0
        v_mean = 0.5 * (v + v_new)
        v = v_new

        u = min(max((t_s + (i + 1) * dt - begin_t) / duration, 0.0), 1.0)
        span = goal_d - begin_d
        target = begin_d + span * u**3 * (10 - 15 * u + 6 * u * u)
        target_rate = span * 30 * u * u * (1 - u) ** 2 / duration
        target_accel = span * 60 * u * (1 - u) * (1 - 2 * u) / duration**2
        d_rate += dt * (target_accel + 2 * LATERAL_RATE * (target_rate - d_rate) + LATERAL_RATE**2 * (target - d))
        most = 0.35 * v_mean
        d_rate = min(max(d_rate, -most), most)
        d += d_rate * dt
        at = min(max(int((s - line_s0) / line_ds), 0), kappa_P.shape[0] - 1)
        s += math.sqrt(max(v_mean * v_mean - d_rate * d_rate, 0.0)) * dt / max(1 - d * kappa_P[at], 0.3)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = s, d, v, a
    return out
