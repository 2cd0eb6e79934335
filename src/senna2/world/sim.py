"""The closed loop: a pure `step` over a frozen state. A state can be kept and driven on any number of times."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from senna2.geometry import box_of
from senna2.types import (
    Array,
    ClipMeta,
    Contact,
    Direction,
    EgoState,
    InputError,
    Observation,
    Trajectory,
    require,
)  # fmt: skip
from senna2.world.judge import MapJudge, find_contacts, frame_ttc, overlapping, pose_of
from senna2.world.lqr import LqrTracker
from senna2.world.render.base import Renderer
from senna2.world.route import Route
from senna2.world.scene import Scene
from senna2.world.sensors import CameraSensor, Moment, StateSensor
from senna2.world.traffic import AgentsState, make_traffic
from senna2.world.vehicle import PlanTracker, Tracker, VehicleLimits, follow_exactly, path_under_plan, yaw_rate

VEHICLES = ("bicycle", "perfect")
TRACKERS: Mapping[str, PlanTracker] = {"pursuit": Tracker(), "lqr": LqrTracker()}


@dataclass(frozen=True)
class SimConfig:
    """dt: frame, s. substep_s: integration and contact tests. vehicle: "bicycle" (tracked) or "perfect" (follows the
    plan's poses exactly: recorded egos). traffic: by name. tracker: of the bicycle, one of `TRACKERS`."""

    dt: float = 0.1
    substep_s: float = 0.02
    vehicle: str = "bicycle"
    traffic: str = "replay"
    limits: VehicleLimits = field(default_factory=VehicleLimits)
    tracker: str = "pursuit"

    @property
    def substeps(self) -> int:
        return max(1, math.ceil(self.dt / self.substep_s - 1e-9))

    def validate(self) -> SimConfig:
        require(self.dt > 0, "SimConfig.dt", "must be positive")
        require(0 < self.substep_s <= self.dt, "SimConfig.substep_s", "must lie in (0, dt]")
        require(self.vehicle in VEHICLES, "SimConfig.vehicle", f"'{self.vehicle}' is unknown; there are {VEHICLES}")
        require(self.tracker in TRACKERS, "SimConfig.tracker", f"'{self.tracker}' is unknown; {sorted(TRACKERS)}")
        self.limits.validate()
        return self


DEFAULT_CONFIG = SimConfig()


@dataclass(frozen=True)
class SimState:
    """The world at frame `step` (t_s = step·dt).

    agents: all others, where they are now. contacts: all since the start. touched_ids: agents already met,
    ignored_ids: those that overlapped the ego at the start; neither is judged again. done: an at-fault or static
    contact, or the clip's end. ttc_s: inf none.
    off_road, straddling: None where the map does not know. progress_m: along the route from the expert's start.
    past: (agents, ego) of earlier frames, oldest first, as far back as the cameras remember.
    """

    step: int
    t_s: float
    ego: EgoState
    agents: AgentsState
    contacts: tuple[Contact, ...]
    touched_ids: frozenset[str]
    ignored_ids: frozenset[str]
    done: bool
    ttc_s: float
    off_road: bool | None
    straddling: bool | None
    progress_m: float
    past: tuple[Moment, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the clip ended by an at-fault or static contact."""
        return any(ends_clip(c) for c in self.contacts)


def ends_clip(contact: Contact) -> bool:
    return contact.at_fault or contact.kind == "static"


class Simulator:
    """One clip, driven. Raises `InputError` for a clip or a configuration that cannot be driven."""

    def __init__(self, scene: Scene, config: SimConfig = DEFAULT_CONFIG, renderer: Renderer | None = None) -> None:
        self.scene, self.config = scene, config.validate()
        self.shape = scene.meta.ego_shape
        self.last_step = math.floor(scene.duration_s / config.dt + 1e-6)
        require(self.last_step >= 1, f"clip {scene.meta.name}: expert.t_E", f"lasts under one frame ({config.dt} s)")
        self.traffic = make_traffic(config.traffic, scene, config.dt, self.last_step + 1)
        self.judge = MapJudge(scene)
        self.route = Route(scene.route_P2, scene.expert.pose_E3[0, :2])
        self.expert_progress_E = self.route.track(scene.expert.pose_E3)
        self._expert_along_E = np.maximum.accumulate(self.expert_progress_E)
        self._cameras = CameraSensor(scene, config.dt, renderer)
        self._state_sensor = StateSensor(scene, self.route, self.judge)

    def reset(self, start: EgoState | None = None, t_s: float = 0.0) -> SimState:
        """The state at `t_s` (a whole number of frames) with the ego at `start`, by default where the expert is then.

        Raises `InputError` if `t_s` is off the grid or leaves no frame to drive.
        """
        step = round(t_s / self.config.dt)
        require(abs(step * self.config.dt - t_s) < 1e-6, "reset: t_s", f"{t_s} s is no multiple of {self.config.dt} s")
        require(0 <= step < self.last_step, "reset: t_s", f"{t_s} s leaves nothing of {self.scene.duration_s:.1f} s")
        ego = (self._expert_state(t_s) if start is None else start).validate()
        agents = self.traffic.initial(step, ego)
        touching = overlapping(box_of(pose_of(ego), self.shape), agents.boxes_A6)
        ignored = frozenset(self.traffic.ids[a] for a in np.flatnonzero(touching))
        return self._frame(ego, agents, (), frozenset(), ignored, None, (), met_agent=False)

    def step(self, state: SimState, trajectory: Trajectory) -> SimState:
        """One frame on, the ego following `trajectory` (in the ego frame of `state`, first point one of its dt ahead).

        Pure: the same state and trajectory give the same result. Raises `InputError` for a plan that is not finite
        or a state that is done.
        """
        if state.done:
            raise InputError(f"clip {self.scene.meta.name}: is over at {state.t_s:.1f} s; reset before stepping on")
        trajectory.validate()
        config = self.config
        if config.vehicle == "perfect":
            states = follow_exactly(state.ego, trajectory, config.dt, config.substeps, self.shape, config.limits)
            path_N6 = np.stack([state.ego.as_array(), *(s.as_array() for s in states)])
        else:
            tracker = TRACKERS[config.tracker]
            path_N6 = path_under_plan(
                state.ego, trajectory, config.dt, config.substeps, self.shape, config.limits, tracker
            )
        agents = self.traffic.advance(state.agents, state.ego)
        skipped_A = self._known(state.touched_ids, state.ignored_ids)
        new = find_contacts(self.judge, self.traffic, state.agents, agents, config.dt, path_N6, self.shape, skipped_A)
        met = frozenset(c.agent_id for c in new if c.agent_class >= 0)
        memory = self._cameras.memory_frames
        past = (*state.past, (state.agents.seen, state.ego))[-memory:] if memory else ()
        return self._frame(
            EgoState(*path_N6[-1].tolist()), agents, state.contacts + tuple(new), state.touched_ids | met,
            state.ignored_ids, state.progress_m, past, met_agent=bool(met),
        )  # fmt: skip

    def observe(self, state: SimState, *, images: bool, state_obs: bool = True) -> Observation:
        """What a policy sees at `state`: rendered frames (uint8, oldest first) and / or boxes, lanes and route."""
        ego = state.ego
        motion = np.array([ego.v, ego.a, yaw_rate(ego, self.shape), ego.steer], np.float32)
        return Observation(
            t_s=state.t_s,
            motion_4=motion,
            navigation=self.navigation(state.progress_m),
            speed_limit=self.speed_limit(state.progress_m),
            images=self._cameras.look((state.agents.seen, ego), state.past) if images else {},
            state=self._state_sensor.look(ego, state.progress_m, state.agents.boxes_A6, self.traffic.classes_A,
                                          state.t_s) if state_obs else None,
        )  # fmt: skip

    def navigation(self, progress_m: float) -> Direction:
        """The command at a route position: that of the expert's pose there (by position, not time: an ego that
        stopped early must still be told to turn at the junction). Where the expert stood, its last one."""
        along = self._expert_along_E
        i = int(np.searchsorted(along, progress_m + 1e-6, side="right")) - 1
        i = min(max(i, 0), len(along) - 1)
        if i + 1 < len(along) and along[i + 1] - progress_m < progress_m - along[i]:
            i += 1
        return Direction(int(self.scene.expert.navigation_E[i]))

    def speed_limit(self, progress_m: float) -> float:
        """m/s at a route position, NaN unknown."""
        return self.route.value_at(progress_m, self.scene.speed_limit_P)

    def meta(self, start: EgoState | None = None) -> ClipMeta:
        """What a policy is told at reset; `start` is where the ego starts if not where the expert does."""
        expert = self.scene.expert
        return ClipMeta(
            self.config.dt, self.scene.rig, self.shape, self.scene.duration_s, expert.t_E, expert.pose_E3,
            start or expert.start(),
        )  # fmt: skip

    def _expert_state(self, t_s: float) -> EgoState:
        expert = self.scene.expert
        if t_s == 0:
            return expert.start()
        yaw = np.interp(t_s, expert.t_E, np.unwrap(expert.pose_E3[:, 2]))
        x, y = (float(np.interp(t_s, expert.t_E, expert.pose_E3[:, k])) for k in (0, 1))
        return EgoState(x, y, math.remainder(float(yaw), 2 * math.pi), float(np.interp(t_s, expert.t_E, expert.v_E)))

    def _known(self, touched: frozenset[str], ignored: frozenset[str]) -> Array:
        """(A,) agents that are not judged again."""
        if not touched and not ignored:
            return np.zeros(len(self.traffic.ids), bool)
        return np.array([i in touched or i in ignored for i in self.traffic.ids], bool)

    def _frame(
        self, ego: EgoState, agents: AgentsState, contacts: tuple[Contact, ...], touched: frozenset[str],
        ignored: frozenset[str], progress_before: float | None, past: tuple[Moment, ...], *, met_agent: bool,
    ) -> SimState:  # fmt: skip
        """Judge a frame: everything of a state that follows from where the ego is."""
        box = box_of(pose_of(ego), self.shape)
        counted_A = ~self._known(touched, ignored)
        ttc_s = 0.0 if met_agent else frame_ttc(self.judge, ego, self.shape, agents.boxes_A6, counted_A)
        return SimState(
            step=agents.step,
            t_s=agents.step * self.config.dt,
            ego=ego,
            agents=agents,
            contacts=contacts,
            touched_ids=touched,
            ignored_ids=ignored,
            done=agents.step >= self.last_step or any(ends_clip(c) for c in contacts),
            ttc_s=ttc_s,
            off_road=self.judge.off_road(box),
            straddling=self.judge.straddling(box),
            progress_m=self.route.locate(np.array([ego.x, ego.y]), progress_before),
            past=past,
        )


def with_vehicle(config: SimConfig, vehicle: str) -> SimConfig:
    """The same configuration with another vehicle mode."""
    return dataclasses.replace(config, vehicle=vehicle)
