"""Other road users as the expert sees them: along its line, over all frames of the clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from senna2.frames import wrap
from senna2.geometry import corners
from senna2.types import AgentClass, Array
from senna2.world.scene import Scene
from senna2.world.town.expert_kernel import ABSENT, CROSS, FOLLOW, STANDING_GAP, project_onto
from senna2.world.town.roads import ReferenceLine
from senna2.world.traffic import ReplayTraffic

PEOPLE = (AgentClass.PEDESTRIAN, AgentClass.CYCLIST)
ALONG = math.radians(50.0)  # heading error below which somebody on the line is followed
MARGIN = 0.5  # m beside the ego's body in which a crossing agent is in its way
SLANT = 20  # frames that somebody who crosses may run along the path as it enters or leaves it
SAMPLES = 9  # points along each side of a box
CLEARANCE = 0.8  # m beside a car that is passed
ROOM_TO_PULL_OUT = 10.0  # m to stand behind a parked car
ASIDE_OF_MIDDLE = 0.6  # m off the lane's middle from which on a car that never moves is parked, not queueing


@dataclass(frozen=True, eq=False)
class Seen:
    """Agents at one instant as a human would know them: place and speed along and across the line, half extents,
    lights. (A,) each; absent and crossing agents are left out."""

    s: Array
    d: Array
    v: Array
    d_rate: Array
    hs: Array
    hd: Array
    lights: Array


@dataclass(frozen=True, eq=False)
class Passage:
    """One agent's way across the path: its frames, and the part s from … to of the path that is in its way."""

    agent: int
    frames: Array
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Parked:
    """A row of parked cars that reach into the lane: where along it, the offset that clears them, who they are."""

    low: float
    high: float
    d_by: float
    agents: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Others:
    """Agents along the ego's line at the clip's frames (K, A): centre s and d, speeds along and across, half extents
    along and across, kind (absent, to be followed, crossing) and lights."""

    line: ReferenceLine
    dt: float
    boxes_KA6: Array
    s_KA: Array
    d_KA: Array
    v_KA: Array
    d_rate_KA: Array
    hs_KA: Array
    hd_KA: Array
    kind_KA: Array
    lights_KA: Array
    people_A: Array

    @classmethod
    def along(cls, scene: Scene, line: ReferenceLine) -> Others:
        last = max([scene.duration_s, *(float(t.t_T[-1]) for t in scene.tracks)])
        traffic = ReplayTraffic(scene.tracks, scene.meta.dt, round(last / scene.meta.dt) + 1)
        boxes = np.asarray(traffic.boxes_KA6, np.float64)
        shape = boxes.shape[:2]
        s, d, error = (np.full(shape, np.nan) for _ in range(3))
        here = np.isfinite(boxes[..., 0])
        if here.any():
            s[here], d[here] = project_onto(boxes[here][:, :2], line.xy_P2, line.s_P).T
            error[here] = wrap(boxes[here][:, 2] - line.world(s[here], 0.0)[..., 2])
        c, n = np.abs(np.cos(error)), np.abs(np.sin(error))
        half_l, half_w = boxes[..., 3] / 2, boxes[..., 4] / 2
        classes = np.array([int(t.agent_class) for t in scene.tracks], np.int64).reshape(shape[1])
        people = np.isin(classes, [int(p) for p in PEOPLE])
        # Who stands along the road either way is passed or queued behind; people on foot may turn any moment.
        stands = (boxes[..., 5] < 0.3) & (np.abs(np.sin(error)) < math.sin(ALONG)) & (classes != AgentClass.PEDESTRIAN)
        along = (np.abs(error) < ALONG) | stands
        kind = np.where(here, np.where(along, FOLLOW, CROSS), ABSENT).astype(np.int64)
        d_rate = np.nan_to_num(boxes[..., 5] * np.sin(error))
        speed = np.nan_to_num(boxes[..., 5] * np.cos(error))
        fill = [np.nan_to_num(x) for x in (s, d)]
        half_s, half_d = np.nan_to_num(c * half_l + n * half_w), np.nan_to_num(n * half_l + c * half_w)
        s_KA, d_KA = fill
        return cls(
            line=line, dt=scene.meta.dt, boxes_KA6=boxes, s_KA=s_KA, d_KA=d_KA, v_KA=speed, d_rate_KA=d_rate,
            hs_KA=half_s, hd_KA=half_d, kind_KA=kind, lights_KA=traffic.lights_KA, people_A=people,
        )  # fmt: skip

    def seen(self, k: int) -> Seen:
        k = min(k, len(self.s_KA) - 1)
        a = np.flatnonzero(self.kind_KA[k] == FOLLOW)
        s, d, v = self.s_KA[k, a], self.d_KA[k, a], self.v_KA[k, a]
        return Seen(s, d, v, self.d_rate_KA[k, a], self.hs_KA[k, a], self.hd_KA[k, a], self.lights_KA[k, a])

    def passages(self, lane_d: float, body: tuple[float, float, float]) -> list[Passage]:
        """Each time somebody goes across the path at `lane_d`; several an agent, where it comes back.

        A passage begins and ends where the agent enters and leaves the path, even if it runs along it for a moment
        there (a cyclist beside a car that turns right); who was ahead and turns off, or turns in and goes ahead, is
        followed as long as it goes along.
        """
        front, _, half_width = body
        near = (self.kind_KA != ABSENT) & (np.abs(self.d_KA - lane_d) < self.hd_KA + half_width + 4.0)
        found: list[Passage] = []
        for a in np.flatnonzero((near & (self.kind_KA == CROSS)).any(0)):
            frames = np.flatnonzero(near[:, a])
            points = _outline(self.boxes_KA6[frames, a, :5])
            sd = project_onto(points.reshape(-1, 2), self.line.xy_P2, self.line.s_P).reshape(*points.shape)
            # In a bend the front swings out beyond the path of the rear axle.
            swing = self.line.kappa(sd[..., 0] - front) * front**2 / 2
            beside = sd[..., 1] - lane_d
            on = (beside < half_width + MARGIN + np.maximum(-swing, 0)) & (
                beside > -half_width - MARGIN - np.maximum(swing, 0)
            )
            inside = np.flatnonzero(on.any(1))
            for run in np.split(inside, np.flatnonzero(np.diff(frames[inside]) > 3) + 1):
                across = np.flatnonzero(self.kind_KA[frames[run], a] == CROSS)
                if len(across) == 0:
                    continue
                entered = across[0] <= SLANT and frames[run[0]] > 0
                left = len(run) - 1 - across[-1] <= SLANT and frames[run[-1]] + 1 < len(self.kind_KA)
                run = run[0 if entered else across[0] : len(run) if left else across[-1] + 1]
                s = np.where(on[run], sd[run, :, 0], np.nan)
                found.append(Passage(int(a), frames[run], float(np.nanmin(s)), float(np.nanmax(s))))
        return found

    def parked(self, half_width: float) -> tuple[Parked, ...]:
        """Rows of vehicles that never move and reach into the lane without standing in its middle."""
        rows: list[Parked] = []
        here = self.kind_KA != ABSENT
        moves = ((self.boxes_KA6[..., 5] > 0.1) & here).any(0)
        still = here.all(0) & ~moves & ~self.people_A & (self.kind_KA[0] == FOLLOW)
        for a in sorted(np.flatnonzero(still), key=lambda j: float(self.s_KA[0, j])):
            s, d, hs, hd = (float(x[0, a]) for x in (self.s_KA, self.d_KA, self.hs_KA, self.hd_KA))
            side = -1.0 if d < 0 else 1.0
            d_by = d - side * (hd + half_width + CLEARANCE)
            if abs(d) < ASIDE_OF_MIDDLE or -side * d_by < 0.2:
                continue
            before = rows[-1] if rows else None
            if before is not None and s - hs - before.high < 25.0 and before.d_by * d_by > 0:
                far = max(before.d_by, d_by, key=abs)
                rows[-1] = Parked(before.low, max(before.high, s + hs), far, (*before.agents, int(a)))
            else:
                rows.append(Parked(s - hs, s + hs, d_by, (int(a),)))
        return tuple(rows)

    def is_free(
        self, lane_d: float, half_width: float, first: int, low_F: Array, high_F: Array, skip: set[int]
    ) -> bool:
        """Whether nobody is, at frames `first` + 0, 1 … , within low … high along the line and beside `lane_d`."""
        k = np.minimum(first + np.arange(len(low_F)), len(self.s_KA) - 1)
        beside = np.abs(self.d_KA[k] - lane_d) < self.hd_KA[k] + half_width + 0.4
        s, hs = self.s_KA[k], self.hs_KA[k]
        toward = np.maximum(-self.v_KA[k], 0.0)  # somebody oncoming must be a second away
        met = (s - hs - toward < high_F[:, None]) & (s + hs > low_F[:, None])
        met &= beside & (self.kind_KA[k] != ABSENT)
        met[:, list(skip)] = False
        return not met.any()

    @cached_property
    def standing_gap_A(self) -> Array:
        return np.full(self.s_KA.shape[1], STANDING_GAP)


def windows(passages: list[Passage], body: tuple[float, float, float]) -> Array:
    """(W, 4) first and last frame of each passage, and its s from … to.

    Waiting in front of one crossing must not block another: where the standing place for one lies in the way of
    somebody else about that time, the ego waits before both.
    """
    front, rear, _ = body
    rows = [[float(p.frames[0]), float(p.frames[-1]), p.low, p.high] for p in passages]
    keep_clear = front + rear + 2.0
    for _ in range(3):
        for w in rows:
            for other in rows:
                blocks = other[2] < w[2] - 0.1 and other[3] > w[2] - keep_clear
                if blocks and other[0] < w[1] + 10 and other[1] > w[0] - 30:
                    w[2] = other[2]
    return np.array(rows, np.float64).reshape(-1, 4)


def _outline(boxes_5: Array) -> Array:
    """(…, Q, 2) points around boxes, dense enough that none slips through a lane's corridor."""
    c = corners(boxes_5)
    ring = np.concatenate([c, c[..., :1, :]], -2)
    u = np.linspace(0, 1, SAMPLES)[:-1, None]
    sides = [ring[..., i : i + 1, :] * (1 - u) + ring[..., i + 1 : i + 2, :] * u for i in range(4)]
    return np.concatenate(sides, -2)
