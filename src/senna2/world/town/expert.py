"""The privileged expert: it knows the true futures of all agents and drives as one would like to be driven.

Speed is IDM-like (expert_kernel); who is followed and who crosses is decided per frame (expert_others). Lane changes
are judged by what can be seen now (expert_gaps) and given up while that is still possible.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np

from senna2.decisions import LATERAL, YAW_CHANGE
from senna2.frames import points_to_ego, wrap
from senna2.types import PLAN_DT, PLAN_STEPS, Array, Direction, EgoState, Speed, Trajectory
from senna2.world.scene import Scene
from senna2.world.town.expert_gaps import Mover, gap_is_safe, speed_to_gap
from senna2.world.town.expert_kernel import CROSS, SKIP, WALL_BRAKE, YIELD_GAP, look_ahead, project_onto
from senna2.world.town.expert_others import ROOM_TO_PULL_OUT, Others, Parked, windows
from senna2.world.town.expert_route import LATERAL_ACCEL, DrivingLine, stops_along
from senna2.world.town.instructions import instruction_of

__all__ = ["LATERAL_ACCEL", "ExpertDriver"]

CHANGE_S = 3.6  # s, duration of a lane change
NO_RETURN = 0.55  # share of a lane change after which it is carried through
RETURN_ACCEL, MOST_RETURN_ACCEL = 1.7, 2.5  # m/s² sideways with which a lane change is broken off
ABORT_SHARE = 0.5  # a change under way is given up when less than this share of the accepted room is left
DONE_M = 0.5  # m from the goal lane's middle
RETRY_S = 2.0  # s back in the lane before the next attempt
WALL_M = 16.0  # m before the end of a lane: nearer one cannot leave it at an ordinary angle
TURN_KAPPA = 1 / 60  # 1/m: tighter than this is a turn, wider is a road that bends
TURN_SIGHT = 40.0  # m before a turn at which the navigation announces it
COMMAND_SIGHT = 8.0  # m before the route departs at which the lane change is announced
BYPASS_SIGHT_M = 80.0  # m before a parked car at which the way around it is looked at
BYPASS_LATERAL = 1.8  # m/s²
MOST_WAIT_S = 10.0  # s that the wait behind a parked car is planned ahead
BIAS_ROOM = 0.6  # m that a wish to keep left or right leaves beside others
FORCED = {Speed.ACCELERATE: 1.3, Speed.DECELERATE: -1.5, Speed.KEEP: 0.0, Speed.STOP: -2.5}  # m/s²
_LOOK = 14  # plan points that f_K sees


class TimedEgo(Protocol):
    """The part of a simulator state that the expert reads."""

    @property
    def t_s(self) -> float: ...

    @property
    def ego(self) -> EgoState: ...


class Change(NamedTuple):
    """A lane change under way: lateral start and goal, m; start time and duration, s; lateral rate and acceleration
    at its start."""

    from_d: float
    goal_d: float
    begin_s: float
    duration: float
    rate: float = 0.0
    accel: float = 0.0


class ExpertDriver:
    """Plans 3 s ahead from any state of a generated clip. `force` holds a speed change for counterfactual branches.

    After `plan`, `direction` (five classes) and `navigation` annotate that instant, `maneuver_done` says whether no
    commanded lane change is open. Stateful only in its lane change and bypass; `reset` forgets them. `instruction`:
    what the passenger says. Raises `InputError` if no lane of the clip's map holds the route's start, or for an
    unknown instruction.
    """

    def __init__(self, scene: Scene, instruction: str = "") -> None:
        self.scene = scene
        self.instruction = instruction_of(instruction)
        shape = scene.meta.ego_shape
        self._body = (shape.front, shape.rear_overhang, shape.width / 2)
        self.path = DrivingLine.of(scene, shape.width / 2)
        self.line = self.path.line
        self._goal_d = self.path.goal_d
        self._wished_P = self.path.wished_speed(self.instruction.speed_factor)
        self._ds = float(self.line.s_P[1] - self.line.s_P[0])
        self.others = Others.along(scene, self.line)
        passages = {d: self.others.passages(d, self._body) for d in {0.0, self._goal_d}}
        self._windows = {d: windows(p, self._body) for d, p in passages.items()}
        self._kind_KA = self.others.kind_KA.copy()
        for passage in (p for several in passages.values() for p in several):
            self._kind_KA[passage.frames, passage.agent] = CROSS
        self._parked = self.others.parked(shape.width / 2)
        self._stop_L, self._light_KL = stops_along(scene, self.line, len(self.others.s_KA))
        self._wall_s = self.path.end_s - WALL_M
        self.force: Speed | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the lane change in progress, the bypass and any forced speed."""
        self.force = None
        self.direction = self.navigation = Direction.STRAIGHT
        self._change: Change | None = None
        self._retry_s = -math.inf
        self._bypass: tuple[Parked, Array] | None = None
        self._free_at_s = 0.0  # when the way around the parked car was last seen to become free
        self.maneuver_done = not self._goal_d

    def plan(self, state: TimedEgo) -> Trajectory:
        """A smooth trajectory of 30 points at 0.1 s in the ego frame, from any state (also beside the lane's middle,
        at any speed or heading error)."""
        ego, t_s = state.ego, state.t_s
        s, d, d_rate = self._where(ego)
        k = round(t_s / self.scene.meta.dt)
        v_cap = self._decide_change(s, d, d_rate, ego.v, t_s, k)
        gap_A, bump_5, wait_14, v_swerve = self._decide_bypass(s, d, ego.v, k)
        change = self._change or Change(0.0, 0.0, 0.0, 1.0)
        under_way = change.goal_d == self._goal_d and (self._change is not None or not self._goal_d)
        wall_s = math.inf if under_way else self._wall_s
        forced = math.nan if self.force is None else FORCED.get(self.force, math.nan)
        o = self.others
        rolled = look_ahead(
            (s, d, ego.v, ego.a, d_rate), tuple(change), bump_5, self._lane_bias(s, ego.v, k, change.goal_d),
            (self.instruction.headway_s, min(v_cap, v_swerve), wall_s), t_s, PLAN_DT, PLAN_STEPS, k, forced,
            float(self.line.s_P[0]), self._ds, self._wished_P, self.line.kappa_P, self._body,
            o.s_KA, o.d_KA, o.v_KA, o.hs_KA, o.hd_KA, self._kind_KA, gap_A, o.people_A,
            np.concatenate([self._windows[change.goal_d], wait_14]), self._stop_L, self._light_KL,
        )  # fmt: skip
        self.direction, self.navigation = self._annotate(s, d, float(rolled[_LOOK - 1, 0]), change)
        self.maneuver_done = not self._goal_d or abs(d - self._goal_d) <= DONE_M
        points = self.line.world(rolled[:, 0], rolled[:, 1])[:, :2]
        return Trajectory(points_to_ego(points, np.array([ego.x, ego.y, ego.yaw])), PLAN_DT)

    def _where(self, ego: EgoState) -> tuple[float, float, float]:
        s, d = (float(x) for x in project_onto(np.array([[ego.x, ego.y]]), self.line.xy_P2, self.line.s_P)[0])
        error = float(wrap(ego.yaw - self.line.world(s, 0.0)[2]))
        return s, d, ego.v * math.sin(error)

    # --- lane changes ------------------------------------------------------------------------------------

    def _decide_change(self, s: float, d: float, d_rate: float, v: float, t_s: float, k: int) -> float:
        """Begin the commanded lane change when there is a gap, give it up when there no longer is one. Returns the
        speed (m/s) that brings the ego to its gap; inf for any."""
        goal = self._goal_d
        if not goal:
            return math.inf
        share = d / goal
        change = self._change
        if change is not None:
            over = t_s >= change.begin_s + change.duration
            if change.goal_d != goal and over:
                self._change, self._retry_s = None, t_s + RETRY_S
            elif change.goal_d == goal and not over and share < NO_RETURN and self.force is None:
                left = change.begin_s + change.duration - t_s
                if not self._is_safe(s, d, v, k, left, ABORT_SHARE):
                    # Late, it takes more to stay out of the other lane.
                    room = max(NO_RETURN * abs(goal) - abs(d), 0.1)
                    turn = -min(max(RETURN_ACCEL, d_rate**2 / (2 * room)), MOST_RETURN_ACCEL) * math.tanh(2 * d_rate)
                    self._change = Change(d, 0.0, t_s, 2.6 + 1.8 * max(share, 0.0), d_rate, turn)
            return math.inf
        if share > 0.75:  # entered after the change: keep the new lane
            self._change = Change(goal, goal, t_s, 1.0)
        elif share > 0.35:  # entered in its middle: bring it to its end
            self._change = Change(d, goal, t_s, CHANGE_S * (1 - 0.6 * share), d_rate)
        elif s >= self.path.command_s and t_s >= self._retry_s:
            duration = CHANGE_S + 0.25 * max(5.0 - v, 0.0)
            stuck = self._wall_s - s - self._body[0] < 6.0
            if (v > 1.0 or stuck) and self._is_safe(s, d, v, k, duration, 1.0):
                self._change = Change(d, goal, t_s, duration, d_rate)
        if self._change is None and s >= self.path.command_s:
            time_left = (self._wall_s - s - self._body[0]) / max(v, 1.0) - v / (2 * WALL_BRAKE)
            return speed_to_gap(self.others.seen(k), self._mover(s, d, v), time_left)
        return math.inf

    def _mover(self, s: float, d: float, v: float) -> Mover:
        wish = float(np.interp(s + 2 * v, self.line.s_P, self._wished_P))
        return Mover(s, d, v, wish, self._body, self._goal_d)

    def _is_safe(self, s: float, d: float, v: float, k: int, duration: float, share: float) -> bool:
        return gap_is_safe(self.others.seen(k), self._mover(s, d, v), duration, share)

    # --- parked cars -------------------------------------------------------------------------------------

    def _decide_bypass(self, s: float, d: float, v: float, k: int) -> tuple[Array, Array, Array, float]:
        """Standing gaps to the agents (SKIP for parked cars that are or will be passed), the swerve around these, a
        window in which to wait before them, and the speed (m/s) at which the swerve is comfortable."""
        gap_A, bump_5, wait_14, v_swerve = self.others.standing_gap_A, np.zeros(5), np.zeros((0, 4)), math.inf
        if not self._parked:
            return gap_A, bump_5, wait_14, v_swerve
        if self._bypass is not None and s > self._bypass[1][3]:
            self._bypass = None
        gap_A = gap_A.copy()
        for parked in self._parked:
            gap_A[list(parked.agents)] = ROOM_TO_PULL_OUT
        if self._bypass is None or s < self._bypass[1][0]:  # none begun: look at the next
            ahead = [p for p in self._parked if 0.0 < p.low - s < BYPASS_SIGHT_M or p.low <= s < p.high]
            self._bypass = None
            if ahead:
                bump, wait_s = self._way_around(ahead[0], s, d, v, k)
                if bump is not None:
                    self._bypass = (ahead[0], bump)
                elif math.isfinite(wait_s):
                    gap_A[list(ahead[0].agents)] = SKIP
                    low = ahead[0].low - ROOM_TO_PULL_OUT + YIELD_GAP
                    wait_14 = np.array([[k, k + wait_s / self.others.dt, low, ahead[0].high]])
        if self._bypass is not None:
            gap_A[list(self._bypass[0].agents)] = SKIP
            bump_5 = self._bypass[1]
            begin, reached, back, over, d_by = (float(x) for x in bump_5)
            length = reached - begin if s < reached else over - back
            v_swerve = length / _swerve_time(d_by) if s > begin - 2 * v else math.inf
        return gap_A, bump_5, wait_14, v_swerve

    def _way_around(self, parked: Parked, s: float, d: float, v: float, k: int) -> tuple[Array | None, float]:
        """The swerve past a row of parked cars if nobody comes, else how long to wait, s (inf: there is no room)."""
        front, rear, half_width = self._body
        d_by = parked.d_by
        right, left = self.path.room(parked.low - 5, parked.high + 5)
        reached, back = parked.low - front - 1.0, parked.high + rear + 1.0
        top = max(float(np.interp(parked.low, self.line.s_P, self._wished_P)), v)
        begin = max(reached - max(12.0, max(v, 3.0) * _swerve_time(d_by)), s)
        over = back + max(12.0, min(top, 9.0) * _swerve_time(d_by))
        if d / d_by > 0.5:  # entered beside its lane, on the way around: go on
            return np.array([s - 4.0, s + 4.0 * (1 - min(d / d_by, 0.99)), max(back, s + 5.0), over + 5.0, d_by]), 0.0
        if (left if d_by > 0 else right) < abs(d_by) + half_width + 0.3 or reached - s < 4.0:
            return None, math.inf
        # Who goes ahead in the own lane is followed, not met; who is behind there stays behind.
        now = min(k, len(self.others.d_KA) - 1)
        same = (np.abs(self.others.d_KA[now]) < 1.0) & (self.others.v_KA[now] > 0.5)
        skip = {*parked.agents, *(int(a) for a in np.flatnonzero(same))}
        aside = (0.7 * begin + 0.3 * reached, 0.3 * back + 0.7 * over)  # where it is out of its lane
        likely = max(self._free_at_s - k * self.others.dt, 0.0)  # seldom anything else: saves the search
        for wait_s in (0.0, likely, *np.arange(0.5, MOST_WAIT_S, 0.5)):
            s_T = _approach(s, v, top, reached - 6.0, float(wait_s))
            there = np.flatnonzero((s_T > aside[0]) & (s_T < aside[1]))
            low, high = s_T[there] - rear - 1.5, s_T[there] + front + 3.0 + 0.4 * top
            if len(there) == 0 or self.others.is_free(d_by, half_width, k + int(there[0]), low, high, skip):
                self._free_at_s = k * self.others.dt + float(wait_s)
                return (np.array([begin, reached, back, over, d_by]), 0.0) if wait_s == 0 else (None, float(wait_s))
        return None, MOST_WAIT_S

    # --- the passenger's wish ----------------------------------------------------------------------------

    def _lane_bias(self, s: float, v: float, k: int, lane_d: float) -> float:
        """The offset within the lane that the passenger asked for, as far as it leaves room beside others; it builds
        up over some two seconds; before bends and junctions it is taken back."""
        asked = self.instruction.lane_bias_m
        if not asked:
            return 0.0
        allowed = asked
        near = (self.line.s_P > s - 5) & (self.line.s_P < s + max(20.0, 3 * v))
        if near.any() and np.abs(self.line.kappa_P[near]).max() > TURN_KAPPA:
            allowed = 0.0
        side = math.copysign(1.0, asked)
        seen = self.others.seen(k)
        ahead = (seen.s + seen.hs > s - 5) & (seen.s - seen.hs < s + max(30.0, 4 * v))
        beside = side * (seen.d - lane_d) - seen.hd - self._body[2]
        room = beside[ahead & (beside > 0)]
        if len(room):
            allowed = side * min(abs(allowed), max(float(room.min()) - BIAS_ROOM, 0.0))
        return allowed

    # --- annotation --------------------------------------------------------------------------------------

    def _annotate(self, s: float, d: float, s_later: float, change: Change) -> tuple[Direction, Direction]:
        """What a human annotator would say of this frame, and what the navigation announces.

        Turning is the road's own departure, by f_K's thresholds, over the 1.4 s that f_K looks at.
        """
        direction = navigation = Direction.STRAIGHT
        here = self.line.world(s, 0.0)
        along = self.line.world(np.linspace(s, s_later, 8)[1:], 0.0)
        aside = points_to_ego(along[:, :2], here)[:, 1]
        side = float(aside[np.abs(aside).argmax()])
        pace = (s_later - s) / (_LOOK * PLAN_DT)
        least = [y for above, y in LATERAL if pace >= above][-1]
        turns = np.abs(wrap(along[:, 2] - here[2])).max() > YAW_CHANGE
        if turns and abs(side) > least:
            direction = Direction.TURN_LEFT if side > 0 else Direction.TURN_RIGHT
        kappa = self.line.kappa_P[(self.line.s_P > s) & (self.line.s_P < s + TURN_SIGHT)]
        if len(kappa) and np.abs(kappa).max() > TURN_KAPPA:
            left = kappa[np.abs(kappa).argmax()] > 0
            navigation = Direction.TURN_LEFT if left else Direction.TURN_RIGHT
        if self._bypass is not None and abs(self._bypass[1][4]) > 1.0:
            begin, reached, back, over, height = (float(x) for x in self._bypass[1])
            if begin < s < reached or back < s < over:
                out = (s < reached) == (height > 0)
                direction = Direction.CHANGE_LEFT if out else Direction.CHANGE_RIGHT
        if self._goal_d and abs(d - self._goal_d) > DONE_M and s >= self.path.command_s - COMMAND_SIGHT:
            navigation = Direction.CHANGE_LEFT if self._goal_d > 0 else Direction.CHANGE_RIGHT
            if self._change is not None:
                direction = Direction.CHANGE_LEFT if change.goal_d > d else Direction.CHANGE_RIGHT
        return direction, navigation


def _approach(s: float, v: float, top: float, gate: float, wait_s: float) -> Array:
    """(T,) places over the next 14 s of somebody who goes at 1 m/s² up to `top`, but is at `gate` no sooner than
    after `wait_s`, and goes on from there at the speed that this leaves."""
    t = PLAN_DT * np.arange(140)

    def free(s0: float, v0: float, t: Array) -> Array:
        rise = np.clip(t, 0.0, max(top - v0, 0.0))
        return s0 + v0 * rise + 0.5 * rise**2 + max(top, v0) * np.maximum(t - max(top - v0, 0.0), 0.0)

    way = gate - s
    plain = free(s, v, t)
    if way <= 0 or wait_s == 0.0:
        return plain if wait_s == 0.0 else np.where(t < wait_s, s, free(s, 0.0, np.maximum(t - wait_s, 0.0)))
    then_v = min(max(2 * way / wait_s - v, 0.0), top)
    slowed = np.minimum(s + np.minimum(v, way / wait_s + 0.5) * t, gate)
    held = np.where(t < wait_s, slowed, free(gate, then_v, np.maximum(t - wait_s, 0.0)))
    return np.minimum(plain, held)


def _swerve_time(height: float) -> float:
    """s for a quintic swerve of that height, m, at `BYPASS_LATERAL`."""
    return math.sqrt(5.77 * abs(height) / BYPASS_LATERAL)
