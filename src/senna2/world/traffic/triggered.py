"""Triggered traffic: agents with a `Trigger` run their script's clock so that they arrive at the point of conflict
together with the ego's front, however fast it comes. All others replay their logs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from senna2.types import Array, EgoState
from senna2.world.route import Route
from senna2.world.scene import Scene
from senna2.world.traffic.base import AgentsState, frozen
from senna2.world.traffic.replay import ReplayTraffic, boxes_at, lights_at

SLOWEST, FASTEST = 0.4, 1.8  # rate of a script's clock
RATE_CHANGE = 1.5  # 1/s: nobody jumps
STANDS = 0.5  # m/s: an ego that stands has no time of arrival; it is waited for
WAIT_S = 4.0  # at most, together
COMMIT_S = 1.5  # [ours] of its script before the meeting an agent goes on as it does: it is no mirror of a braking ego


@dataclass(frozen=True)
class Meeting:
    """Agent `a` is at route position `position_m` when its clock shows `arrives_s`."""

    a: int
    position_m: float
    arrives_s: float


class TriggeredTraffic:
    """Traffic "triggered". Memory: clock_M s, rate_M and waited_M s of each agent with a trigger."""

    def __init__(self, scene: Scene, dt: float, frames: int) -> None:
        self.scene, self.dt = scene, dt
        self.replay = ReplayTraffic(scene.tracks, dt, frames)
        self.ids, self.classes_A = self.replay.ids, self.replay.classes_A
        self._route = Route(scene.route_P2, scene.expert.pose_E3[0, :2])
        self._front = scene.meta.ego_shape.front
        self.meetings = [
            Meeting(a, self._route.locate(np.array([t.trigger.x, t.trigger.y])), t.trigger.arrives_s)
            for a, t in enumerate(scene.tracks)
            if t.trigger is not None
        ]

    def initial(self, step: int, ego: EgoState) -> AgentsState:
        now = self.replay.initial(step, ego)
        count = len(self.meetings)
        memory = {
            "clock_M": frozen(np.full(count, step * self.dt)),
            "rate_M": frozen(np.ones(count)),
            "waited_M": frozen(np.zeros(count)),
        }
        return AgentsState(step, now.boxes_A6, now.lights_A, memory)

    def advance(self, agents: AgentsState, ego_before: EgoState) -> AgentsState:
        then = agents.step + 1
        boxes_A6, lights_A = self.replay.boxes_KA6[then].copy(), self.replay.lights_KA[then].copy()
        clock, rate, waited = (agents.memory[n].copy() for n in ("clock_M", "rate_M", "waited_M"))
        progress = self._route.locate(np.array([ego_before.x, ego_before.y])) + self._front
        for m, meeting in enumerate(self.meetings):
            wanted = self._rate(meeting, clock[m], rate[m], waited[m], progress, ego_before.v)
            if wanted == 0.0:
                waited[m] += self.dt
            old = rate[m]
            rate[m] += np.clip(wanted - old, -RATE_CHANGE * self.dt, RATE_CHANGE * self.dt)
            clock[m] += 0.5 * (old + rate[m]) * self.dt
            boxes_A6[meeting.a], lights_A[meeting.a] = self._at(meeting.a, clock[m], rate[m])
        memory = {"clock_M": frozen(clock), "rate_M": frozen(rate), "waited_M": frozen(waited)}
        return AgentsState(then, frozen(boxes_A6), frozen(lights_A), memory)

    def _rate(self, meeting: Meeting, clock_s: float, rate: float, waited_s: float, front_m: float, v: float) -> float:
        """Rate at which the clock should run now."""
        way, left_s = meeting.position_m - front_m, meeting.arrives_s - clock_s
        if left_s <= 0 or way <= 0:
            return 1.0
        if left_s <= COMMIT_S:
            return max(rate, SLOWEST)
        if v < STANDS:
            return 0.0 if waited_s < WAIT_S else 1.0
        return float(np.clip(left_s * v / way, SLOWEST, FASTEST))

    def _at(self, a: int, clock_s: float, rate: float) -> tuple[Array, int]:
        """Box and lights of a track at its own time; absent beyond its ends."""
        track = self.scene.tracks[a]
        if not track.t_T[0] - 1e-6 <= clock_s <= track.t_T[-1] + 1e-6:
            return np.full(6, np.nan), 0
        t = np.array([clock_s])
        box = boxes_at(track, t)[0]
        box[5] *= rate
        return box, int(lights_at(track, t)[0])


def triggered(scene: Scene, dt: float, frames: int) -> TriggeredTraffic:
    """Traffic "triggered"."""
    return TriggeredTraffic(scene, dt, frames)
