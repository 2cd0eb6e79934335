"""One policy driven through one clip: what happened, and what the policy was told about the clip before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from senna2.types.base import PLAN_STEPS, Array, check_finite, check_shape, require
from senna2.types.decisions import Direction, Speed
from senna2.types.observation import AgentClass, Observation
from senna2.types.plan import EgoState, Trajectory
from senna2.types.rig import Rig, VehicleShape

CONTACT_KINDS = ("front", "rear", "lateral", "stopped_ego", "stopped_agent", "static")


@dataclass(frozen=True)
class Contact:
    """The first touch of the ego with one agent or kerb; `kind` is one of CONTACT_KINDS."""

    t_s: float
    agent_id: str
    agent_class: int  # AgentClass; -1 for a kerb
    at_fault: bool
    kind: str
    ego_v: float
    lateral_undecided: bool = False

    def validate(self) -> Self:
        check_finite(self.t_s, "Contact.t_s")
        check_finite(self.ego_v, "Contact.ego_v")
        require(self.kind in CONTACT_KINDS, "Contact.kind", f"'{self.kind}' is none of {CONTACT_KINDS}")
        return self

    @classmethod
    def fake(cls) -> Self:
        return cls(1.0, "leader", AgentClass.CAR, True, "front", 5.0)


@dataclass(frozen=True, eq=False)
class Rollout:
    """One policy driven through one clip. F frames at `dt`; frame 0 is the start, the last one the end or the contact.

    ego_F6: world x, y, yaw, v, a, steer. plans_FT2: the plan made at that frame, in its ego frame (NaN: none made).
    decision_F2, vlm_decision_F2: (speed, direction), -1 none. ttc_F: s, inf none. progress_F: m along the route.
    off_road_F: None where the map does not say what is drivable. straddle_F: None where it has no complete lanes.
    boxes_FA6: every agent in the world (x, y, yaw, length, width, v; NaN when absent), ids and classes by column.
    expert_E4: t, v, progress along the route, moving distance of the recorded or generated expert over the full clip.
    """

    clip: str
    family: str
    scene_seed: int
    policy: str
    seed: int
    dt: float
    vehicle: str  # "bicycle" or "perfect"
    traffic: str  # "replay", …
    ego_shape: VehicleShape
    t_F: Array
    ego_F6: Array
    plans_FT2: Array
    decision_F2: Array
    vlm_decision_F2: Array
    decision_age_F: Array
    speed_limit_F: Array
    ttc_F: Array
    progress_F: Array
    off_road_F: Array | None
    straddle_F: Array | None
    boxes_FA6: Array
    agent_ids: tuple[str, ...]
    agent_classes_A: Array
    contacts: tuple[Contact, ...]
    ignored_at_start: int
    has_kerbs: bool
    route_length_m: float
    expert_E4: Array
    observations: tuple[Observation | None, ...] = ()

    def __len__(self) -> int:
        return len(self.t_F)

    def validate(self) -> Self:
        f = len(self)
        require(f > 0, "Rollout", "holds no frame")
        check_shape(self.ego_F6, (f, 6), "Rollout.ego_F6")
        check_shape(self.plans_FT2, (f, PLAN_STEPS, 2), "Rollout.plans_FT2")
        check_shape(self.decision_F2, (f, 2), "Rollout.decision_F2")
        check_shape(self.vlm_decision_F2, (f, 2), "Rollout.vlm_decision_F2")
        for name in ("t_F", "decision_age_F", "speed_limit_F", "ttc_F", "progress_F", "off_road_F", "straddle_F"):
            value = getattr(self, name)
            if value is not None:
                check_shape(value, (f,), f"Rollout.{name}")
        check_shape(self.boxes_FA6, (f, len(self.agent_ids), 6), "Rollout.boxes_FA6")
        check_shape(self.expert_E4, (None, 4), "Rollout.expert_E4")
        check_shape(self.agent_classes_A, (len(self.agent_ids),), "Rollout.agent_classes_A")
        for name in ("t_F", "ego_F6", "progress_F"):
            check_finite(getattr(self, name), f"Rollout.{name}")
        require(not bool(np.isnan(self.ttc_F).any()), "Rollout.ttc_F", "must not be NaN (inf: no collision ahead)")
        for contact in self.contacts:
            contact.validate()
        require(len(self.observations) in (0, f), "Rollout.observations", "one a frame, or none at all")
        return self

    @classmethod
    def fake(cls, frames: int = 20, v: float = 8.0) -> Self:
        """A straight drive at constant speed behind a leader of the same speed; the expert drove the same."""
        dt = 0.1
        t = dt * np.arange(frames)
        ego = np.zeros((frames, 6))
        ego[:, 0], ego[:, 3] = v * t, v
        plan = np.broadcast_to(Trajectory.fake(v).points_T2, (frames, PLAN_STEPS, 2)).copy()
        boxes = np.zeros((frames, 1, 6))
        boxes[:, 0, 0] = 25 + v * t
        boxes[:, 0, 3:] = (4.5, 1.8, v)
        decision = np.tile(np.array([Speed.KEEP, Direction.STRAIGHT], np.int8), (frames, 1))
        expert = np.stack([t, np.full(frames, v), v * t, v * t], 1)
        return cls(
            clip="fake", family="empty", scene_seed=0, policy="fake", seed=0, dt=dt, vehicle="bicycle",
            traffic="replay", ego_shape=VehicleShape(), t_F=t, ego_F6=ego, plans_FT2=plan, decision_F2=decision,
            vlm_decision_F2=decision.copy(), decision_age_F=np.zeros(frames), speed_limit_F=np.full(frames, 13.9),
            ttc_F=np.full(frames, np.inf), progress_F=v * t, off_road_F=np.zeros(frames, bool),
            straddle_F=np.zeros(frames, bool), boxes_FA6=boxes, agent_ids=("leader",),
            agent_classes_A=np.array([AgentClass.CAR], np.int8), contacts=(), ignored_at_start=0, has_kerbs=True,
            route_length_m=200.0, expert_E4=expert,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class ClipMeta:
    """What `Policy.reset` is told. The `expert_*` fields are privileged: only the `expert` driver may read them."""

    dt: float
    rig: Rig
    ego_shape: VehicleShape
    duration_s: float
    expert_t_E: Array
    expert_pose_E3: Array  # world x, y, yaw
    start: EgoState

    def validate(self) -> Self:
        require(self.dt > 0, "ClipMeta.dt", "must be positive")
        check_finite(self.duration_s, "ClipMeta.duration_s")
        check_shape(self.expert_pose_E3, (len(self.expert_t_E), 3), "ClipMeta.expert_pose_E3")
        check_finite(self.expert_pose_E3, "ClipMeta.expert_pose_E3")
        self.rig.validate()
        self.ego_shape.validate()
        self.start.validate()
        return self

    @classmethod
    def fake(cls) -> Self:
        t = 0.1 * np.arange(50)
        pose = np.zeros((50, 3))
        pose[:, 0] = 8 * t
        return cls(0.1, Rig.fake(), VehicleShape(), 4.9, t, pose, EgoState.fake())
