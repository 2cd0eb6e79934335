"""Actions other than plans."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from senna2.frames import points_to_ego
from senna2.types import PLAN_DT, PLAN_STEPS, Array, EgoState, InputError, VehicleShape
from senna2.world.env.driving import DrivingEnv
from senna2.world.vehicle import VehicleLimits, bicycle_substep

SUBSTEP_S = 0.02  # of the unrolling: an arc at the simulator's own step


def unroll(ego: EgoState, accel: float, steer: float, shape: VehicleShape, limits: VehicleLimits) -> Array:
    """(30, 2) points in the ego frame: where the bicycle goes under one command, lags and limits included."""
    state, points, substeps = ego, np.empty((PLAN_STEPS, 2)), round(PLAN_DT / SUBSTEP_S)
    for k in range(PLAN_STEPS):
        for _ in range(substeps):
            state = bicycle_substep(state, accel, steer, PLAN_DT / substeps, shape, limits)
        points[k] = state.x, state.y
    return points_to_ego(points, np.array([ego.x, ego.y, ego.yaw]))


class AccelSteerAction(gymnasium.ActionWrapper[dict[str, Any], Array, Array]):
    """Acceleration (m/s²) and front wheel angle (rad) instead of a plan.

    The command is unrolled by the simulator's bicycle into the plan that it would drive; the tracker finds the command
    in it again, so that everything behind (limits, lags, replanning) is as for any plan. Needs a `DrivingEnv` inside.
    """

    def __init__(self, env: gymnasium.Env[dict[str, Any], Array]) -> None:
        super().__init__(env)
        base = env.unwrapped
        if not isinstance(base, DrivingEnv):
            raise InputError(f"AccelSteerAction: wraps a DrivingEnv, not {type(base).__name__}")
        self._base, limits = base, base.config.limits
        low, high = [limits.min_accel, -limits.max_steer], [limits.max_accel, limits.max_steer]
        self.action_space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))

    def action(self, action: Array) -> Array:
        accel, steer = (float(v) for v in action)
        if not np.isfinite([accel, steer]).all():
            raise InputError("AccelSteerAction: action must be finite")
        plan = unroll(self._base.ego, accel, steer, self._base.shape, self._base.config.limits)
        return plan.astype(np.float32)
