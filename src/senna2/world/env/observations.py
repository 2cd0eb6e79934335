"""An `Observation` as Gymnasium wants it: a dict of finite arrays of fixed shape, and the spaces they lie in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from senna2.types import (
    LANE_POINTS,
    MAX_AGENTS,
    MAX_LANES,
    ROUTE_POINTS,
    AgentClass,
    Array,
    Direction,
    LaneKind,
    Observation,
    Rig,
)  # fmt: skip

FAR = 1000.0  # bound of every length, angle and speed in an observation; spaces must be finite


def observation_space(obs: str, rig: Rig | None) -> spaces.Dict:
    """The space of `flat_observation`: of "state", or of the images of `rig`."""
    common: dict[str, spaces.Space[Any]] = {
        "motion": _box(4),
        "navigation": spaces.Discrete(len(Direction)),
        "speed_limit": _box(1),
        "speed_limit_known": spaces.MultiBinary(1),
    }
    if obs == "images":
        assert rig is not None
        shapes = {c.name: (len(c.history_s), c.height, c.width, 3) for c in rig.cameras}
        return spaces.Dict(common | {f"camera_{n}": spaces.Box(0, 255, s, np.uint8) for n, s in shapes.items()})
    return spaces.Dict(
        common
        | {
            "agents": _box(MAX_AGENTS, 6),
            "agent_classes": spaces.Box(0, len(AgentClass) - 1, (MAX_AGENTS,), np.int8),
            "agents_mask": spaces.MultiBinary(MAX_AGENTS),
            "lanes": _box(MAX_LANES, LANE_POINTS, 2),
            "lane_kinds": spaces.Box(0, len(LaneKind) - 1, (MAX_LANES,), np.int8),
            "lanes_mask": spaces.MultiBinary(MAX_LANES),
            "route": _box(ROUTE_POINTS, 2),
        }
    )


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


def _box(*shape: int) -> spaces.Box:
    return spaces.Box(-FAR, FAR, shape, np.float32)


def _finite(values: Array) -> Array:
    out = np.array(values, np.float32)
    out[np.isnan(out)] = 0.0
    np.minimum(out, FAR, out=out)  # several times as fast as np.clip of np.nan_to_num on arrays this small
    return np.maximum(out, -FAR, out=out)
