"""The values that pass between rooms: numpy, immutable, each with `validate()` and `fake()`.

Legend of shape suffixes: N samples, F frames, A agents, L polylines, P points of a polyline, R route points,
T plan steps, K image history, S kerb segments, V views. Padded rows of float arrays are NaN, of class arrays -1.
Units are SI and radians; x forward, y left, z up; the ego's origin is its rear axle on the ground.
"""

from __future__ import annotations

from senna2.types.base import (
    LANE_POINTS,
    MAX_AGENTS,
    MAX_KERBS,
    MAX_LANES,
    PLAN_DT,
    PLAN_STEPS,
    ROUTE_POINTS,
    ROUTE_SPACING,
    Array,
    InputError,
    check_finite,
    check_shape,
    meant,
    require,
)
from senna2.types.decisions import Decision, Direction, Path, Speed
from senna2.types.observation import AgentClass, LaneKind, Observation, StateObservation
from senna2.types.plan import EgoState, Plan, Plans, Trajectory
from senna2.types.rig import Camera, Rig, VehicleShape
from senna2.types.rollout import CONTACT_KINDS, ClipMeta, Contact, Rollout
from senna2.types.samples import Samples

__all__ = [
    "CONTACT_KINDS",
    "LANE_POINTS",
    "MAX_AGENTS",
    "MAX_KERBS",
    "MAX_LANES",
    "PLAN_DT",
    "PLAN_STEPS",
    "ROUTE_POINTS",
    "ROUTE_SPACING",
    "AgentClass",
    "Array",
    "Camera",
    "ClipMeta",
    "Contact",
    "Decision",
    "Direction",
    "EgoState",
    "InputError",
    "LaneKind",
    "Observation",
    "Path",
    "Plan",
    "Plans",
    "Rig",
    "Rollout",
    "Samples",
    "Speed",
    "StateObservation",
    "Trajectory",
    "VehicleShape",
    "check_finite",
    "check_shape",
    "meant",
    "require",
]
