"""Lane changes: which gap, whether it is safe, judged by constant velocities of what can be seen now.

A human cannot know what the others will do; nor may this. (The look ahead, which brakes, does know.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from senna2.types import Array
from senna2.world.scene import INDICATOR_LEFT, INDICATOR_RIGHT
from senna2.world.town.expert_others import Seen

HEADWAY_S, LEAST_GAP = 1.2, 6.0  # after the change, to the front and to the rear
FOLLOWER_BRAKE = 2.0  # m/s²: more nobody behind shall need
LANE_WIDTH = 3.5
SPEED_RANGE = 3.0  # m/s faster or slower than the gap, to come abreast of it
HORIZON_S, STEP_S = 7.0, 0.25
PACE = 1.0  # m/s², the ego's own change of speed while it changes lane


@dataclass(frozen=True)
class Mover:
    """The ego as it wants to change: place, speed, speed it would take there, body, where the goal lane is."""

    s: float
    d: float
    v: float
    v_wish: float
    body: tuple[float, float, float]
    goal_d: float


def in_goal_lane(seen: Seen, ego: Mover) -> Array:
    """(A,) whether an agent is in the goal lane, is moving into it, or shows by its indicator that it will."""
    half_width = ego.body[2]
    reach = seen.hd + half_width + 0.3
    now = np.abs(seen.d - ego.goal_d) < reach
    drift = np.where(np.abs(seen.d_rate) > 0.25, np.clip(2.5 * seen.d_rate, -LANE_WIDTH, LANE_WIDTH), 0.0)
    side = np.where(seen.lights & INDICATOR_LEFT, 1.0, 0.0) - np.where(seen.lights & INDICATOR_RIGHT, 1.0, 0.0)
    from_beyond = np.abs(seen.d - ego.goal_d) < 1.4 * LANE_WIDTH
    low, high = np.minimum(seen.d, seen.d + drift), np.maximum(seen.d, seen.d + drift)
    comes = (drift != 0) & (low < ego.goal_d + reach - 0.5) & (high > ego.goal_d - reach + 0.5)
    signals = (side != 0) & from_beyond & (np.abs(seen.d + side * LANE_WIDTH - ego.goal_d) < 1.0)
    leaves = now & (np.abs(seen.d + drift - ego.goal_d) > reach + 0.5) & (np.abs(seen.d - ego.goal_d) > 1.2)
    return (now & ~leaves) | comes | signals


def gap_is_safe(seen: Seen, ego: Mover, duration: float, share: float = 1.0) -> bool:
    """Whether the change leaves room in front and behind. share < 1 judges a change under way less strictly."""
    a = np.flatnonzero(in_goal_lane(seen, ego))
    if len(a) == 0:
        return True
    front, rear, _ = ego.body
    t = np.arange(0.0, HORIZON_S + 1e-6, STEP_S)[:, None]
    end = min(round(duration / STEP_S), len(t) - 1)
    s, v, hs = seen.s[a], seen.v[a], seen.hs[a]
    # ahead means: whose middle is before ours
    ahead = s > ego.s + 0.5 * (front - rear)
    leader_v = float(v[ahead][np.argmin(s[ahead])]) if ahead.any() else np.inf
    wish = min(ego.v_wish, max(leader_v, 0.0) + 0.5)
    ramp = np.clip(wish - ego.v, -PACE * t, PACE * t)
    ego_v = ego.v + ramp
    ego_s = ego.s + np.concatenate([[[0.0]], np.cumsum((ego_v[1:] + ego_v[:-1]) / 2 * STEP_S, 0)])
    place = s + v * t
    to_front = place - hs - (ego.s + ego.v * t + front)  # it gets faster only as far as those ahead let it
    to_rear = (ego_s - rear) - (place + hs)
    closing = np.maximum(ego.v - v, 0.0)
    front_ok = (to_front > share * (2.0 + 0.8 * closing))[: end + 2].all(0)  # thereafter it follows
    front_ok &= to_front[end] > share * np.maximum(LEAST_GAP, HEADWAY_S * np.minimum(ego.v, v))
    # A follower's IDM wish, whose excess over the gap sets how hard it must brake.
    wish_gap = 2.0 + v + np.maximum(v * (v - ego_v), 0.0) / (2 * np.sqrt(1.5 * 2.0))
    least = wish_gap / np.sqrt(1 + FOLLOWER_BRAKE / 1.5)
    middle = end // 2
    soon = 2 * end  # that hard within twice the change; later, it has time to adapt, but must not be there
    rear_ok = (to_rear[middle:soon] > share * least[middle:soon]).all(0) & (to_rear[0] > share * 3.0)
    rear_ok &= (to_rear > share * 2.0).all(0)
    rear_ok &= to_rear[end] > share * np.maximum(LEAST_GAP, HEADWAY_S * np.minimum(ego_v[end], v))
    return bool(np.where(ahead, front_ok, rear_ok).all())


def speed_to_gap(seen: Seen, ego: Mover, time_left: float = np.inf) -> float:
    """The speed that brings the ego abreast of the gap it can reach soonest; inf where none needs one.

    A gap counts if, between the cars now around it, it leaves `LEAST_GAP` and `HEADWAY_S` on both sides, and if one
    further ahead is reached in `time_left` s.
    """
    front, rear, half_width = ego.body
    a = np.flatnonzero(in_goal_lane(seen, ego) & (np.abs(seen.s - ego.s) < 70.0) & (seen.v > -0.5))
    if len(a) == 0:
        return np.inf
    # Whoever is ahead in the own lane bounds how fast it can get forward.
    own = (np.abs(seen.d - ego.d) < seen.hd + half_width) & (seen.s > ego.s + front)
    fastest = ego.v_wish
    if own.any():
        to_own = seen.s[own] - seen.hs[own] - ego.s - front
        fastest = min(fastest, float((seen.v[own] + np.maximum(to_own - HEADWAY_S * ego.v, 0.0) / 5.0).min()))
    a = a[np.argsort(seen.s[a])]
    s, v, hs = seen.s[a], seen.v[a], seen.hs[a]
    best, wish = np.inf, np.inf
    for i in range(len(a) + 1):
        behind, before = i > 0, i < len(a)
        pace = float(v[i]) if before else float(v[i - 1])
        room = max(LEAST_GAP, HEADWAY_S * min(pace, max(ego.v, pace - SPEED_RANGE)))
        low = float(s[i - 1] + hs[i - 1] + room + rear) if behind else -np.inf
        high = float(s[i] - hs[i] - room - front) if before else np.inf
        if high < low:
            continue
        inset = min(2.0, 0.5 * (high - low))
        way = min(max(ego.s, low + inset), high - inset) - ego.s
        most = min(SPEED_RANGE, fastest - pace) if way > 0 else SPEED_RANGE
        if way > 0 and (most < 0.3 or way / most > time_left):
            continue
        target = pace + (most if way > 0 else -most if way < 0 else 0.0)
        cost = abs(way) / most + abs(target - ego.v) / (1.0 if target > ego.v else 2.0)
        if cost < best:
            best = cost
            approach = min(max(way / 2.0, -SPEED_RANGE), most)
            wish = max(pace + approach, 1.5) if way != 0 or before else np.inf
    return wish
