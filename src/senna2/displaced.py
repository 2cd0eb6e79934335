"""A state of a drive with the ego moved aside, turned and faster or slower, as if it had come there by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from senna2.frames import poses_to_ego, poses_to_world
from senna2.types import EgoState
from senna2.world.judge import pose_of
from senna2.world.sim import SimState, Simulator


@dataclass(frozen=True)
class Displacement:
    """Standard deviations of the sideways offset, m, of the turn, rad, and of what is added to the speed, m/s; the
    range of the factor on the speed, below which nobody drives who lags [ours]."""

    offset_m: float = 0.5
    yaw_rad: float = 0.05
    speed_share: tuple[float, float] = (0.4, 1.15)
    speed_m_s: float = 0.3


def displaced(simulator: Simulator, state: SimState, how: Displacement, rng: np.random.Generator) -> SimState | None:
    """`state` with the ego displaced, its remembered frames moved along with it: the cameras' history shows the motion
    that the ego now has. None where it would touch somebody, or stand off the
    road, from the start."""
    ego = state.ego
    offset, turn = rng.normal(0, how.offset_m), rng.normal(0, how.yaw_rad)
    share, more = rng.uniform(*how.speed_share), rng.normal(0, how.speed_m_s)
    v = max(0.0, ego.v * share + more)
    moved = replace(
        ego, x=ego.x - offset * math.sin(ego.yaw), y=ego.y + offset * math.cos(ego.yaw),
        yaw=math.remainder(ego.yaw + turn, 2 * math.pi), v=v,
    )  # fmt: skip
    start = simulator.reset(moved, state.t_s)
    if start.ignored_ids or start.off_road:
        return None
    stretch = v / ego.v if ego.v > 0.1 else 0.0
    past = tuple((agents, _carried(before, ego, moved, stretch)) for agents, before in state.past)
    return replace(start, past=past)


def _carried(before: EgoState, ego: EgoState, moved: EgoState, stretch: float) -> EgoState:
    """An earlier ego state, carried over by the motion that takes `ego` to `moved`; its distance grows by `stretch`."""
    back_13 = poses_to_ego(pose_of(before)[None], pose_of(ego)) * (stretch, stretch, 1.0)
    x, y, yaw = poses_to_world(back_13, pose_of(moved))[0].tolist()
    return replace(before, x=x, y=y, yaw=yaw)
