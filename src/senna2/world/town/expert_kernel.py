"""The expert's look ahead, compiled: its own motion along a line among agents whose futures it knows.

IDM-like (Treiber 2000; the free and the interaction term are taken apart, so that following at v ≪ v₀ keeps the
full desired gap [ours]). Positions are (s, d) along and beside the line; grids K are frames, A agents, W windows
(when and where crossing agents are on the path), L stop lines of traffic lights.
"""

from __future__ import annotations

import math

import numpy as np

from senna2.compiled import njit

ACCEL, BRAKE, STANDING_GAP = 1.5, 2.2, 3.5
FLOOR = -7.0  # m/s², emergency
JERK_UP, JERK_DOWN, JERK_EMERGENCY, JERK_FORCED = 2.5, 5.0, 15.0, 6.0
LATERAL_RATE = 1.25  # rad/s of the critically damped return to the lane's middle
ANTICIPATED_FLOOR = -3.5  # for agents that will be on the path in 1.5 s but are not yet
ANTICIPATION_S = 1.5
YIELD_GAP, STOP_LINE_GAP = 2.0, 1.5  # m to stand before a crossing path, before a stop line
WALL_BRAKE = 1.8  # m/s²: before the end of a lane one brakes late, a gap may still come
YIELD_HORIZON_S = 2.9  # enough to stop at 2.4 m/s² from 50 km/h; earlier, a pedestrian is a few pixels [ours]
AMBER_BRAKE, RED_BRAKE = 3.0, 6.0  # m/s²: harder than this nobody stops for amber, for red
ASIDE, ASIDE_SPEED = 1.0, 4.0  # m of room beside people, and the speed where there is less
ABSENT, FOLLOW, CROSS = 0, 1, 2  # kinds of an agent at a frame
SKIP = -1.0  # in gap_A: not followed (it is being passed)


@njit()
def _interaction(gap: float, v: float, leader_v: float, standing_gap: float, headway: float) -> float:
    wish = v * headway + v * (v - leader_v) / (2 * math.sqrt(ACCEL * BRAKE))
    wish = standing_gap + max(0.0, wish)
    closing = max(v - max(leader_v, 0.0), 0.0)
    # [ours] IDM brakes for a gap it need not fear: one that is short but does not shrink (somebody just cut in), and
    # a late but sufficient one. Never more than half as much again as the kinematic need, beside a gentle rest.
    need = closing * closing / (2 * max(gap - 1.0, 0.3))
    return max(ACCEL * (1 - (wish / max(gap, 0.1)) ** 2), -0.6 * BRAKE - 1.5 * need)


@njit()
def _free(v: float, v_wish: float) -> float:
    if v > v_wish:
        return max(-BRAKE, -1.2 * (v - v_wish))
    return ACCEL * (1 - (v / max(v_wish, 0.1)) ** 4)


@njit()
def _stop_at(way: float, v: float, gap: float, late: float = 1.0) -> float:
    """Braking evenly to stand `gap` before something `way` ahead, from when `late` m/s² are needed. IDM would creep up
    to it for seconds [ours]."""
    room = way - gap
    if room < 0.2 or (v < 0.6 and room < 1.2):
        return -0.6 - v * v / (2 * max(room + 0.5 * gap, 0.2))
    need = v * v / (2 * room)
    if need < late:
        return ACCEL * (1 - need / late)
    return -1.05 * need * min((need - late) / 0.5, 1.0)


@njit()
def _course(t: float, change_6: tuple) -> tuple[float, float, float]:
    """Offset, rate and acceleration of a lane change: the quintic from its first state to rest at the goal."""
    p, goal, begin, duration, rate, accel = change_6
    t = t - begin
    if t <= 0.0:
        return p, 0.0, 0.0
    if t >= duration:
        return goal, 0.0, 0.0
    span, r, a = goal - p, rate * duration, accel * duration * duration
    u = t / duration
    c3, c4, c5 = 10 * span - 6 * r - 1.5 * a, -15 * span + 8 * r + 1.5 * a, 6 * span - 3 * r - 0.5 * a
    offset = p + u * (r + u * (0.5 * a + u * (c3 + u * (c4 + u * c5))))
    slope = r + u * (a + u * (3 * c3 + u * (4 * c4 + u * 5 * c5)))
    bend = a + u * (6 * c3 + u * (12 * c4 + u * 20 * c5))
    return offset, slope / duration, bend / (duration * duration)


@njit()
def _leaders(k, t, dt, s, v, d, change_6, headway, body_3, s_KA, d_KA, v_KA, hs_KA, hd_KA, kind_KA, gap_A, people_A):
    """Strongest braking for agents on the path now, or in 1.5 s, and caution beside people with little room."""
    front, rear, half_width = body_3
    goal_d = change_6[1]
    worst = 1e9
    soon = min(k + round(ANTICIPATION_S / dt), s_KA.shape[0] - 1)
    for j in range(s_KA.shape[1]):
        if kind_KA[k, j] == ABSENT or gap_A[j] == SKIP:
            continue
        here = s_KA[k, j]
        off = abs(d_KA[k, j] - d) - hd_KA[k, j] - half_width
        # a parked car on the far side of a wide corridor is passed, whatever its nose
        now = kind_KA[k, j] == FOLLOW and off < 0.25 and here > s + front - 2.0
        beside = people_A[j] and not now and off < ASIDE and here + hs_KA[k, j] > s - rear
        if beside and (kind_KA[k, j] == FOLLOW or abs(v_KA[k, j]) < 0.3):
            way = max(here - hs_KA[k, j] - (s + front), 0.0)
            slow = max(ASIDE_SPEED, v_KA[k, j] + 1.0)
            worst = min(worst, _free(v, math.sqrt(slow * slow + 2 * 1.2 * way)))
        later = False
        if not now and kind_KA[soon, j] == FOLLOW:
            reach = hd_KA[soon, j] + half_width + 0.15
            later = abs(d_KA[soon, j] - d) < reach or abs(d_KA[soon, j] - goal_d) < reach
            here = s_KA[soon, j] - v_KA[soon, j] * (soon - k) * dt  # where it would come from if it came along
            later = later and here > s + front - 2.0 and v_KA[soon, j] > -0.5
        if now:
            gap = here - hs_KA[k, j] - (s + front)
            if goal_d != change_6[0] and abs(d_KA[k, j] - goal_d) > hd_KA[k, j] + half_width + 0.4:
                # Somebody in the lane that is being left: will we have left it when we get there?
                reach_s = 0.7 * gap / max(v - v_KA[k, j], 1.0)
                lag = d - _course(t, change_6)[0]
                then = _course(t + reach_s, change_6)[0] + lag
                if gap > 2.0 and abs(d_KA[k, j] - then) > hd_KA[k, j] + half_width + 0.3:
                    continue
            worst = min(worst, _interaction(gap, v, v_KA[k, j], gap_A[j], headway))
        elif later:
            gap = max(here - hs_KA[soon, j] - (s + front), 1.0)
            a = _interaction(gap, v, v_KA[soon, j], gap_A[j], headway)
            worst = min(worst, max(a, ANTICIPATED_FLOOR))
    return worst


@njit()
def _crossings(k, dt, s, v, v_wish, front, rear, window_W4):
    """Braking for paths that cross ours: pass before, arrive behind, or wait in front."""
    worst = 1e9
    for w in range(window_W4.shape[0]):
        enters, leaves = (window_W4[w, 0] - k) * dt, (window_W4[w, 1] - k) * dt
        low, high = window_W4[w, 2], window_W4[w, 3]
        if leaves < -0.1 or enters > YIELD_HORIZON_S or s - rear > high + 0.3:
            continue
        way = low - 1.0 - (s + front)
        if way < -0.8 and enters > 0.0:
            continue  # already in the conflict and first: clear it
        # Before it? At a pace that is easily kept: 1 m/s², up to the speed wished for here.
        out = high + 0.8 - (s - rear)
        top = max(v_wish, v)
        t_top = top - v
        d_top = v * t_top + 0.5 * t_top * t_top
        clear = -v + math.sqrt(v * v + 2 * out) if out < d_top else t_top + (out - d_top) / max(top, 0.5)
        if clear < enters - 0.5:
            continue
        stop = _stop_at(low - (s + front), v, YIELD_GAP)
        rest = leaves + 0.4
        if way > 0.0 and rest > 0.05 and (v > 1.0 or rest < 1.2):
            # Behind it: the constant (de)celeration that brings us there as it leaves.
            need = -v * v / (2 * way) if v * rest > 2 * way else 2 * (way - v * rest) / (rest * rest)
            stop = max(stop, need)
        worst = min(worst, stop)
    return worst


@njit()
def _lights(k, s, v, front, stop_L, light_KL):
    """Braking for stop lines under red and amber (0, 1; 2 is green)."""
    worst = 1e9
    for j in range(stop_L.shape[0]):
        way = stop_L[j] - (s + front)
        light = light_KL[min(k, light_KL.shape[0] - 1), j]
        if light == 2 or way < -0.5:
            continue
        need = v * v / (2 * max(way - 0.3, 0.05))
        if need > (AMBER_BRAKE if light == 1 else RED_BRAKE):
            continue  # too late: going on is the lesser evil
        worst = min(worst, _stop_at(way, v, STOP_LINE_GAP))
    return worst


@njit()
def _quintic(u: float) -> tuple[float, float, float]:
    u = min(max(u, 0.0), 1.0)
    return u**3 * (10 - 15 * u + 6 * u * u), 30 * u * u * (1 - u) ** 2, 60 * u * (1 - u) * (1 - 2 * u)


@njit()
def look_ahead(
    state_5, change_6, bump_5, bias, wish_3, t_s, dt, steps, k0, forced_a, line_s0, line_ds, limit_P, kappa_P, body_3,
    s_KA, d_KA, v_KA, hs_KA, hd_KA, kind_KA, gap_A, people_A, window_W4, stop_L, light_KL,
):  # fmt: skip
    """(steps, 4) s, d, v, a at t_s + dt … from state_5 (s, d, v, a, d') of the rear axle.

    change_6: lateral start and goal, start time and duration of a lane change (goal = start: keep the lane), lateral
    rate and acceleration at its start.
    bump_5: a swerve by place: s where it begins, is reached, ends to hold, is over; its height (0: none).
    bias: lateral, m. wish_3: headway s, speed cap m/s, s of a wall to stop at (inf none).
    forced_a: NaN for free driving, else the acceleration to hold whatever is ahead. limit_P: wished speed along the
    line. body_3: rear axle to front, to rear, half width. gap_A: standing gap to each agent, or SKIP.
    """
    s, d, v, a, d_rate = state_5
    headway, v_cap, wall_s = wish_3
    front, rear, _ = body_3
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
            v_wish = min(limit_P[at], v_cap)
            wish = _free(v, v_wish)
            if k >= 0:
                wish = min(
                    wish,
                    _leaders(k, t_s + i * dt, dt, s, v, d, change_6, headway, body_3,
                             s_KA, d_KA, v_KA, hs_KA, hd_KA, kind_KA, gap_A, people_A),
                )  # fmt: skip
            wish = min(wish, _crossings(k0 + i, dt, s, v, v_wish, front, rear, window_W4))
            wish = min(wish, _lights(k0 + i, s, v, front, stop_L, light_KL))
            if wall_s < 1e8:
                wish = min(wish, _stop_at(wall_s - (s + front), v, YIELD_GAP, WALL_BRAKE))
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

        target, target_rate, target_accel = _course(t_s + (i + 1) * dt, change_6)
        target += bias
        if bump_5[4] != 0.0:
            for side in range(2):
                length = bump_5[2 * side + 1] - bump_5[2 * side]
                height = bump_5[4] if side == 0 else -bump_5[4]
                p, q, r = _quintic((s - bump_5[2 * side]) / length)
                target += height * p
                target_rate += height * q * v_mean / length
                target_accel += height * r * (v_mean / length) ** 2
        d_rate += dt * (target_accel + 2 * LATERAL_RATE * (target_rate - d_rate) + LATERAL_RATE**2 * (target - d))
        most = 0.35 * v_mean
        d_rate = min(max(d_rate, -most), most)
        d += d_rate * dt
        at = min(max(int((s - line_s0) / line_ds), 0), kappa_P.shape[0] - 1)
        s += math.sqrt(max(v_mean * v_mean - d_rate * d_rate, 0.0)) * dt / max(1 - d * kappa_P[at], 0.3)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = s, d, v, a
    return out


@njit()
def project_onto(points_N2, line_P2, line_s_P):
    """(N, 2) s and d of points beside a polyline, which goes on straight beyond both ends."""
    n, last = points_N2.shape[0], line_P2.shape[0] - 2
    out = np.empty((n, 2))
    for i in range(n):
        best = 1e18
        for p in range(last + 1):
            ux, uy = line_P2[p + 1, 0] - line_P2[p, 0], line_P2[p + 1, 1] - line_P2[p, 1]
            length = math.sqrt(ux * ux + uy * uy)
            ux, uy = ux / length, uy / length
            rx, ry = points_N2[i, 0] - line_P2[p, 0], points_N2[i, 1] - line_P2[p, 1]
            along = rx * ux + ry * uy
            inside = along
            if p > 0 or along > 0:
                inside = max(inside, 0.0)
            if p < last or along < length:
                inside = min(inside, length)
            gx, gy = rx - inside * ux, ry - inside * uy
            gap = gx * gx + gy * gy
            # the end segments go on, but must not capture what lies far off to one side of the line's middle
            if (p == 0 and along < 0) or (p == last and along > length):
                gap += 1e-6
            if gap < best:
                best = gap
                out[i, 0] = line_s_P[p] + inside
                side = ux * ry - uy * rx
                out[i, 1] = math.sqrt(gx * gx + gy * gy) * (1.0 if side >= 0 else -1.0)
    return out
