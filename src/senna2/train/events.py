"""What RAD rewards in a drive (arXiv 2502.13144, section 3.4): four events, −1 on the transition into each; at the
first of them the episode ends.

Legend: F live frames, E poses of the expert.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from senna2.frames import wrap
from senna2.types import Array, Rollout

EVENTS = ("dynamic", "static", "position", "heading")
NEVER = 1_000_000  # a frame that no drive reaches
DEVIATION_M, HEADING_RAD, HEADING_FROM_M = 2.0, math.radians(40), 0.2
ONWARD_M, ONWARD_STEP_M = 60.0, 0.5  # further than anybody gets ahead of the expert within a clip


@dataclass(frozen=True, eq=False)
class Episode:
    """The live frames of a drive: those in which a plan was made before anything happened.

    rewards_F4: by `EVENTS`, of the transition that leaves each frame. ended: an event ended it; else it was only cut.
    ahead: what was hit was ahead of the ego (of a dynamic collision). steer: +1 where steering left would have been
    right, −1 right, 0 unknown: back by the heading where that was the event, else by the side on which the ego was of
    the expert at the event [ours: RAD's release looks at the yaw error of every frame].
    """

    rewards_F4: Array
    ended: bool
    ahead: bool
    steer: int

    def __len__(self) -> int:
        return len(self.rewards_F4)


def episode(rollout: Rollout, expert_pose_E3: Array, counted: Sequence[str] = EVENTS) -> Episode:
    """expert_pose_E3: the expert's whole drive of that clip in the world. Its path goes on straight where the drive
    ends: a car that is further along has not left it [ours]. counted: the events that are rewarded and end it."""
    ego = rollout.ego_F6[:, :3]
    expert_pose_E3 = np.concatenate([expert_pose_E3, _onward(expert_pose_E3[-1])])
    gap_FE = np.hypot(ego[:, None, 0] - expert_pose_E3[None, :, 0], ego[:, None, 1] - expert_pose_E3[None, :, 1])
    near = gap_FE.argmin(1)
    deviation = gap_FE[np.arange(len(ego)), near]
    turned = np.asarray(wrap(ego[:, 2] - expert_pose_E3[near, 2]))
    first = {
        "dynamic": _first_contact(rollout, static=False),
        "static": min(_first_contact(rollout, static=True), _first(rollout.off_road_F)),
        "position": _first(deviation > DEVIATION_M),
        "heading": _first((np.abs(turned) > HEADING_RAD) & (deviation > HEADING_FROM_M)),
    }
    first = {name: frame if name in counted else NEVER for name, frame in first.items()}
    at = min(first.values())
    live = min(at, len(rollout) - 1)  # the last frame has no transition
    rewards = np.zeros((live, len(EVENTS)))
    ended = at < len(rollout) and live > 0
    if ended:
        rewards[live - 1] = [-1.0 if first[name] == at else 0.0 for name in EVENTS]
    f = min(at, len(rollout) - 1)
    by_heading = first["heading"] == at and first["position"] > at
    steer = _steer(ego[f], expert_pose_E3[near[f]], float(turned[f]), by_heading=by_heading)
    return Episode(rewards, ended, _hit_ahead(rollout, f), steer)


def ends(episodes: Sequence[Episode]) -> dict[str, float]:
    """Which share of episodes each event ended."""
    shares = np.mean([(e.rewards_F4 < 0).any(0) for e in episodes], 0)
    return {f"ends_{name}": float(share) for name, share in zip(EVENTS, shares, strict=True)}


def _onward(pose_3: Array) -> Array:
    """Poses straight on from this one."""
    way = np.arange(ONWARD_STEP_M, ONWARD_M, ONWARD_STEP_M)
    ahead = np.outer(way, [math.cos(pose_3[2]), math.sin(pose_3[2]), 0.0])
    return np.asarray(pose_3) + ahead


def _first(mask_F: Array | None) -> int:
    """The first frame of which it is true."""
    return NEVER if mask_F is None or not np.any(mask_F) else int(np.argmax(mask_F))


def _first_contact(rollout: Rollout, *, static: bool) -> int:
    """The first frame at or after the first contact with a kerb or with somebody."""
    times = [c.t_s for c in rollout.contacts if (c.agent_class < 0) == static]
    return _first(rollout.t_F >= min(times) - 1e-6) if times else NEVER


def _hit_ahead(rollout: Rollout, frame: int) -> bool:
    """Whether the one hit first is ahead of the ego's middle; with nobody hit, it does not matter."""
    hits = [c for c in rollout.contacts if c.agent_class >= 0]
    if not hits:
        return True
    agent = rollout.agent_ids.index(min(hits, key=lambda c: c.t_s).agent_id)
    x, y, yaw = rollout.ego_F6[frame, :3]
    box = rollout.boxes_FA6[frame, agent]
    along = (box[0] - x) * math.cos(yaw) + (box[1] - y) * math.sin(yaw)
    return not bool(along < rollout.ego_shape.centre_offset)


def _steer(ego_3: Array, expert_3: Array, turned: float, *, by_heading: bool) -> int:
    """Back towards the expert: by the side on which the ego is, or by its heading, also where it is on the path."""
    dx, dy = ego_3[:2] - expert_3[:2]
    left = -math.sin(expert_3[2]) * dx + math.cos(expert_3[2]) * dy
    return -int(np.sign(turned if by_heading or abs(left) <= HEADING_FROM_M else left))
