"""The simulator as a Gymnasium environment: an action is a plan, driven for one frame of 0.1 s or several."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from senna2.types import PLAN_DT, PLAN_STEPS, Array, EgoState, InputError, Trajectory, VehicleShape, require
from senna2.world.birdview import bird_view, mosaic
from senna2.world.env.library import ClipLibrary, Clips
from senna2.world.env.observations import flat_observation, observation_space
from senna2.world.render.base import Renderer
from senna2.world.sim import DEFAULT_CONFIG, SimConfig, SimState, Simulator
from senna2.world.state_arrays import require_fits
from senna2.world.vehicle import shift_plan

ENV_ID = "senna2/Clip-v0"
PLAN_REACH_M = 150.0
KEPT_CLIPS = 4  # simulators kept ready; one of a town clip holds some 10 MB
RESET = {"scene", "start", "t_s", "state", "reset_mask"}  # the last one is a vector environment's own
REWARD_WEIGHTS = {"progress": 1.0, "contact": -20.0, "off_road": -10.0, "close": -0.5, "harsh": -0.1}


@dataclass(frozen=True, eq=False)
class EnvState:
    """Everything an episode goes on from: which clip, the simulator's state, the plan last driven with where and when
    (s) it was made (for pictures), and the generator that draws the next clips. Plain data, can be pickled."""

    clip: int
    sim: SimState
    plan: tuple[Trajectory, EgoState, float] | None
    rng: Mapping[str, Any]


class DrivingEnv(gymnasium.Env[dict[str, Any], Array]):
    """One clip an episode, drawn by the episode's generator or named by `options={"scene": index}`.

    clips, count: what to play, see `ClipLibrary`; generated and stored clips are made or read when they are played,
    `keep` of them stay ready. config: the simulator's; traffic, vehicle and tracker replace its fields. plan_every:
    frames an action is driven before the next is asked for (planning at 10 Hz / plan_every).
    obs "state": motion (4,) v, a, yaw rate, steer; navigation; speed_limit (1,) and speed_limit_known; agents (24, 6)
    with agent_classes and agents_mask; lanes (12, 10, 2) with lane_kinds and lanes_mask; route (20, 2). Padding is 0
    and masked. obs "images": motion, navigation, speed_limit, speed_limit_known and one `camera_<name>` (K, H, W, 3).
    action: (30, 2) plan points in the ego frame, 0.1 s apart. reward: a weighted sum of `info["reward"]`'s parts.
    terminated: at-fault or static contact, off the road, or the route's end. truncated: the clip's end.
    Raises `InputError` for unknown names, clips that cannot be read, and clips whose rigs differ (images only).
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        clips: Clips,
        *,
        count: int | None = None,
        obs: str = "state",
        config: SimConfig = DEFAULT_CONFIG,
        traffic: str | None = None,
        vehicle: str | None = None,
        tracker: str | None = None,
        plan_every: int = 1,
        renderer: Renderer | None = None,
        render_mode: str | None = None,
        keep: int = KEPT_CLIPS,
    ) -> None:
        require(obs in ("state", "images"), "DrivingEnv: obs", f"'{obs}' is unknown; there are 'state', 'images'")
        require(render_mode in (None, "rgb_array"), "DrivingEnv: render_mode", f"'{render_mode}' is not 'rgb_array'")
        require(1 <= plan_every < PLAN_STEPS, "DrivingEnv: plan_every", f"{plan_every} is not in 1…{PLAN_STEPS - 1}")
        require(keep >= 1, "DrivingEnv: keep", f"{keep} must be at least 1")
        self.clips = ClipLibrary(clips, count)
        self.obs, self.render_mode, self.plan_every = obs, render_mode, plan_every
        changes: dict[str, Any] = {"traffic": traffic, "vehicle": vehicle, "tracker": tracker}
        self.config = dataclasses.replace(config, **{k: v for k, v in changes.items() if v is not None}).validate()
        self.metadata = {**self.metadata, "render_fps": 1 / (self.config.dt * plan_every)}  # one picture a step
        self._renderer, self._keep = renderer, keep
        self._sims: OrderedDict[int, Simulator] = OrderedDict()
        self._clip = -1
        self._sim: Simulator | None = None
        self._state: SimState | None = None
        self._planned: tuple[Trajectory, EgoState, float] | None = None
        self.action_space = spaces.Box(-PLAN_REACH_M, PLAN_REACH_M, (PLAN_STEPS, 2), np.float32)
        self.observation_space = observation_space(obs, self.clips.rig if obs == "images" else None)

    # --- gymnasium ------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options: scene (index), start (EgoState), t_s, state (a `SimState` of that scene, to drive on from).

        Raises `InputError` for another option, for a state without its scene, and for one that does not fit it.
        """
        super().reset(seed=seed)
        options = options or {}
        for name in options:
            require(name in RESET, f"DrivingEnv: reset option '{name}'", f"is unknown; there are {sorted(RESET)}")
        stated = "state" not in options or "scene" in options
        require(stated, "DrivingEnv: reset option 'state'", "needs 'scene', the clip it was taken in")
        self._play(int(options.get("scene", self.np_random.integers(len(self.clips)))))
        assert self._sim is not None
        saved: SimState | None = options.get("state")
        if saved is not None:
            require_fits(self._sim, saved.agents, saved.ego, "DrivingEnv: reset option 'state'")
        self._state = saved if saved is not None else self._sim.reset(options.get("start"), options.get("t_s", 0.0))
        return self._observe(), self._info(self._state)

    def step(self, action: Array) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        sim, state = self._running()
        shape, wanted = np.shape(action), (PLAN_STEPS, 2)
        require(shape == wanted, "DrivingEnv: action", f"has shape {shape}, expected {wanted}")
        begin, ends = state, False
        whole = Trajectory(np.asarray(action, np.float64), PLAN_DT)
        self._planned = whole, begin.ego, begin.t_s
        parts = dict.fromkeys(REWARD_WEIGHTS, 0.0)
        for _ in range(self.plan_every):
            before = state
            plan = shift_plan(whole, begin.ego, before.ego, before.t_s - begin.t_s)
            state = self._state = sim.step(before, plan)
            for name, value in _reward(before, state).items():
                parts[name] += value
            ends = bool(state.failed or state.off_road or state.progress_m >= sim.route.length_m)
            if ends or state.done:
                break
        reward = float(sum(REWARD_WEIGHTS[name] * value for name, value in parts.items()))
        truncated = bool(state.step >= sim.last_step and not ends)
        info = self._info(state) | {"reward": parts, "arrived": state.progress_m >= sim.route.length_m}
        return self._observe(), reward, ends, truncated, info

    def render(self) -> Array | None:
        """Bird's-eye view, beside the cameras where observations are images."""
        if self.render_mode is None:
            return None
        sim, state = self._running()
        boxes, classes = state.agents.boxes_A6, sim.traffic.classes_A
        top = bird_view(sim.scene, state.ego, boxes, classes, self._plan_left(state), t_s=state.t_s)
        if self.obs == "state":
            return top
        newest = [v[-1] for v in sim.observe(state, images=True, state_obs=False).images.values()]
        return mosaic([top, *newest])

    # --- states ---------------------------------------------------------------------------------------

    @property
    def state(self) -> SimState:
        """The state now; give it back by `reset(options={"scene": i, "state": s})`, any number of times."""
        return self._running()[1]

    @property
    def ego(self) -> EgoState:
        """The ego now, in the world."""
        return self.state.ego

    @property
    def shape(self) -> VehicleShape:
        """The ego's size in the clip that is driven."""
        return self._running()[0].shape

    def get_state(self) -> EnvState:
        """The instant now, to come back to any number of times by `set_state`, here or in another environment over
        the same clips."""
        return EnvState(self._clip, self._running()[1], self._planned, self.np_random.bit_generator.state)

    def set_state(self, state: EnvState) -> dict[str, Any]:
        """Go back to an instant; returns its observation. From here on everything happens as it did from there."""
        self._play(state.clip)
        self._state, self._planned = state.sim, state.plan
        self.np_random.bit_generator.state = state.rng
        return self._observe()

    # --- parts ----------------------------------------------------------------------------------------

    def _play(self, index: int) -> None:
        """Make clip `index` the one that is driven; the clips played last stay ready."""
        if index not in self._sims:
            scene = self.clips[index]
            if self.obs == "images" and observation_space("images", scene.rig) != self.observation_space:
                raise InputError(f"DrivingEnv: clip {scene.meta.name}: its rig differs from the first clip's; "
                                 "images need one rig")  # fmt: skip
            self._sims[index] = Simulator(scene, self.config, self._renderer)
        self._sims.move_to_end(index)
        while len(self._sims) > self._keep:
            self._sims.popitem(last=False)
        self._clip, self._sim, self._planned = index, self._sims[index], None

    def _running(self) -> tuple[Simulator, SimState]:
        if self._sim is None or self._state is None:
            raise InputError("DrivingEnv: call reset first")
        return self._sim, self._state

    def _plan_left(self, state: SimState) -> Trajectory | None:
        """What is left of the plan last driven, in the present ego frame."""
        if self._planned is None:
            return None
        plan, made_at, made_s = self._planned
        gone_s = state.t_s - made_s
        over = gone_s > plan.dt * (len(plan.points_T2) - 1) + 1e-6
        return None if over else shift_plan(plan, made_at, state.ego, gone_s)

    def _info(self, state: SimState) -> dict[str, Any]:
        """boxes: (6,) rows of the agents in the world, zeros where absent; ttc_s inf where there is none. One type a
        field whatever the clip, so that vector environments can stack them."""
        sim, boxes = self._running()[0], state.agents.boxes_A6
        return {
            "clip": sim.scene.meta.name,
            "t_s": state.t_s,
            "ego": state.ego.as_array(),
            "boxes": tuple(np.where(np.isnan(boxes), 0.0, boxes)),  # a tuple: clips differ in how many agents they have
            "ttc_s": state.ttc_s,
            "progress_m": state.progress_m,
            "contacts": state.contacts,
            "off_road": bool(state.off_road),
            "off_road_known": state.off_road is not None,
            "straddling": bool(state.straddling),
            "straddling_known": state.straddling is not None,
        }

    def _observe(self) -> dict[str, Any]:
        sim, state = self._running()
        wants_images = self.obs == "images"
        return flat_observation(sim.observe(state, images=wants_images, state_obs=not wants_images))


def _reward(before: SimState, state: SimState) -> dict[str, float]:
    """Progress m of this frame, and flags: at-fault contact, off the road, TTC under 1 s, harsh acceleration."""
    return {
        "progress": state.progress_m - before.progress_m,
        "contact": float(state.failed),
        "off_road": float(bool(state.off_road)),
        "close": float(state.ttc_s < 1.0),
        "harsh": float(abs(state.ego.a) > 4.0),
    }
