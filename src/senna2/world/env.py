"""The simulator as a Gymnasium environment: an action is a plan, a step is one frame of 0.1 s."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from senna2.types import (
    LANE_POINTS,
    MAX_AGENTS,
    MAX_LANES,
    PLAN_DT,
    PLAN_STEPS,
    ROUTE_POINTS,
    Array,
    InputError,
    LaneKind,
    Observation,
    Trajectory,
    require,
)
from senna2.world.birdview import bird_view
from senna2.world.render.base import Renderer
from senna2.world.scene import Scene
from senna2.world.sim import DEFAULT_CONFIG, SimConfig, SimState, Simulator

FAR = 1000.0  # bound of every length, angle and speed in an observation; spaces must be finite
PLAN_REACH_M = 150.0
REWARD_WEIGHTS = {"progress": 1.0, "contact": -20.0, "off_road": -10.0, "close": -0.5, "harsh": -0.1}


class DrivingEnv(gymnasium.Env[dict[str, Any], Array]):
    """One clip an episode, taken from `scenes` by the episode's generator or by `options={"scene": index}`.

    obs "state": motion (4,) v, a, yaw rate, steer; navigation; speed_limit (1,) and speed_limit_known; agents (24, 6)
    with agent_classes and agents_mask; lanes (12, 10, 2) with lane_kinds and lanes_mask; route (20, 2). Padding is 0
    and masked. obs "images": motion, navigation, speed_limit, speed_limit_known and one `camera_<name>` (K, H, W, 3).
    action: (30, 2) plan points in the ego frame, 0.1 s apart. reward: a weighted sum of `info["reward"]`'s parts.
    terminated: at-fault or static contact, off the road, or the route's end. truncated: the clip's end.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]

    def __init__(
        self,
        scenes: Scene | Sequence[Scene],
        *,
        obs: str = "state",
        config: SimConfig = DEFAULT_CONFIG,
        renderer: Renderer | None = None,
        render_mode: str | None = None,
    ) -> None:
        require(obs in ("state", "images"), "DrivingEnv: obs", f"'{obs}' is unknown; there are 'state', 'images'")
        require(render_mode in (None, "rgb_array"), "DrivingEnv: render_mode", f"'{render_mode}' is not 'rgb_array'")
        self.scenes = (scenes,) if isinstance(scenes, Scene) else tuple(scenes)
        require(len(self.scenes) > 0, "DrivingEnv: scenes", "is empty")
        self.obs, self.render_mode = obs, render_mode
        self._config, self._renderer = config, renderer
        self._sims: dict[int, Simulator] = {}
        self._sim: Simulator | None = None
        self._state: SimState | None = None
        self._plan: Trajectory | None = None
        self.action_space = spaces.Box(-PLAN_REACH_M, PLAN_REACH_M, (PLAN_STEPS, 2), np.float32)
        self.observation_space = spaces.Dict(self._spaces())

    # --- gymnasium ------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options: scene (index), start (EgoState), t_s, state (a `SimState` of that scene, to drive on from)."""
        super().reset(seed=seed)
        options = options or {}
        index = int(options.get("scene", self.np_random.integers(len(self.scenes))))
        if not 0 <= index < len(self.scenes):
            raise InputError(f"DrivingEnv: scene {index} does not exist; there are {len(self.scenes)}")
        if index not in self._sims:
            self._sims[index] = Simulator(self.scenes[index], self._config, self._renderer)
        self._sim, self._plan = self._sims[index], None
        saved = options.get("state")
        self._state = saved if saved is not None else self._sim.reset(options.get("start"), options.get("t_s", 0.0))
        return self._observe(), self._info(self._state)

    def step(self, action: Array) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        sim, before = self._running()
        self._plan = Trajectory(np.asarray(action, np.float64), PLAN_DT)
        state = self._state = sim.step(before, self._plan)
        parts = self._reward(before, state)
        reward = float(sum(REWARD_WEIGHTS[name] * value for name, value in parts.items()))
        arrived = state.progress_m >= sim.route.length_m
        terminated = bool(state.failed or state.off_road or arrived)
        truncated = bool(state.step >= sim.last_step and not terminated)
        info = self._info(state) | {"reward": parts, "arrived": arrived}
        return self._observe(), reward, terminated, truncated, info

    def render(self) -> Array | None:
        """Bird's-eye view, beside the cameras where observations are images."""
        if self.render_mode is None:
            return None
        sim, state = self._running()
        boxes = sim.boxes(state.step)
        top = bird_view(sim.scene, state.ego, boxes, sim.traffic.classes_A, self._plan)
        if self.obs == "state":
            return top
        newest = [v[-1] for v in sim.observe(state, images=True, state_obs=False).images.values()]
        return _mosaic([top, *newest])

    @property
    def state(self) -> SimState:
        """The state now; give it back by `reset(options={"scene": i, "state": s})`, any number of times."""
        return self._running()[1]

    # --- parts ----------------------------------------------------------------------------------------

    def _running(self) -> tuple[Simulator, SimState]:
        if self._sim is None or self._state is None:
            raise InputError("DrivingEnv: call reset first")
        return self._sim, self._state

    def _reward(self, before: SimState, state: SimState) -> dict[str, float]:
        """Progress m of this step, and flags: at-fault contact, off the road, TTC under 1 s, harsh acceleration."""
        return {
            "progress": state.progress_m - before.progress_m,
            "contact": float(state.failed),
            "off_road": float(bool(state.off_road)),
            "close": float(state.ttc_s < 1.0),
            "harsh": float(abs(state.ego.a) > 4.0),
        }

    def _info(self, state: SimState) -> dict[str, Any]:
        sim = self._running()[0]
        return {
            "clip": sim.scene.meta.name,
            "t_s": state.t_s,
            "ego": state.ego.as_array(),
            "boxes": np.nan_to_num(sim.boxes(state.step)),
            "ttc_s": state.ttc_s if math.isfinite(state.ttc_s) else None,
            "progress_m": state.progress_m,
            "contacts": state.contacts,
            "off_road": state.off_road,
            "straddling": state.straddling,
        }

    def _spaces(self) -> dict[str, spaces.Space[Any]]:
        def box(*shape: int) -> spaces.Box:
            return spaces.Box(-FAR, FAR, shape, np.float32)

        common: dict[str, spaces.Space[Any]] = {
            "motion": box(4),
            "navigation": spaces.Discrete(5),
            "speed_limit": box(1),
            "speed_limit_known": spaces.MultiBinary(1),
        }
        if self.obs == "images":
            rig = self.scenes[0].rig
            if any(scene.rig.names != rig.names for scene in self.scenes):
                raise InputError("DrivingEnv: the clips' rigs differ; images need one rig")
            for camera in rig.cameras:
                shape = (len(camera.history_s), camera.height, camera.width, 3)
                common[f"camera_{camera.name}"] = spaces.Box(0, 255, shape, np.uint8)
            return common
        return common | {
            "agents": box(MAX_AGENTS, 6),
            "agent_classes": spaces.Box(0, 7, (MAX_AGENTS,), np.int8),
            "agents_mask": spaces.MultiBinary(MAX_AGENTS),
            "lanes": box(MAX_LANES, LANE_POINTS, 2),
            "lane_kinds": spaces.Box(0, len(LaneKind) - 1, (MAX_LANES,), np.int8),
            "lanes_mask": spaces.MultiBinary(MAX_LANES),
            "route": box(ROUTE_POINTS, 2),
        }

    def _observe(self) -> dict[str, Any]:
        sim, state = self._running()
        wants_images = self.obs == "images"
        return flat_observation(sim.observe(state, images=wants_images, state_obs=not wants_images))


def flat_observation(observation: Observation) -> dict[str, Any]:
    """An `Observation` as a dict of finite arrays of fixed shape: NaN becomes 0, a mask says what counts."""
    known = math.isfinite(observation.speed_limit)
    result: dict[str, Any] = {
        "motion": _finite(observation.motion_4),
        "navigation": np.int64(max(int(observation.navigation), 0)),
        "speed_limit": np.array([observation.speed_limit if known else 0.0], np.float32),
        "speed_limit_known": np.array([known], np.int8),
    }
    for name, image in observation.images.items():
        result[f"camera_{name}"] = image
    if observation.state is not None:
        s = observation.state
        result |= {
            "agents": _finite(s.boxes_A6),
            "agent_classes": np.maximum(s.classes_A, 0).astype(np.int8),
            "agents_mask": (s.classes_A >= 0).astype(np.int8),
            "lanes": _finite(s.lanes_LP2),
            "lane_kinds": np.maximum(s.lane_kinds_L, 0).astype(np.int8),
            "lanes_mask": (s.lane_kinds_L >= 0).astype(np.int8),
            "route": _finite(s.route_R2),
        }
    return result


def _finite(values: Array) -> Array:
    return np.clip(np.nan_to_num(values), -FAR, FAR).astype(np.float32)


def _mosaic(pictures: Sequence[Array]) -> Array:
    """Pictures side by side, top aligned, on black."""
    height, width = max(p.shape[0] for p in pictures), sum(p.shape[1] for p in pictures)
    sheet = np.zeros((height, width, 3), np.uint8)
    x = 0
    for p in pictures:
        sheet[: p.shape[0], x : x + p.shape[1]] = p
        x += p.shape[1]
    return sheet
