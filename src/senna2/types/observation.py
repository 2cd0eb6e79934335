"""What a policy sees at one instant: images, motion, and the privileged state of `obs="state"`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

import numpy as np

from senna2.types.base import (
    LANE_POINTS,
    MAX_AGENTS,
    MAX_LANES,
    ROUTE_POINTS,
    ROUTE_SPACING,
    Array,
    check_finite,
    check_shape,
    require,
)
from senna2.types.decisions import Direction
from senna2.types.rig import Rig


class AgentClass(IntEnum):
    CAR = 0
    VAN = 1
    TRUCK = 2
    BUS = 3
    MOTORCYCLE = 4
    CYCLIST = 5
    PEDESTRIAN = 6
    STATIC = 7  # cones, barriers, trailers at rest: a box that never moves by itself


class LaneKind(IntEnum):
    """Kinds of the polylines of an observation."""

    ROUTE_LANE = 0  # centre line of the lane the ego's route follows
    LANE = 1  # any other centre line
    DIVIDER = 2
    KERB = 3
    RED_STOP_LINE = 4  # a stop line whose light is red or amber now


@dataclass(frozen=True, eq=False)
class StateObservation:
    """Privileged state around the ego, in the ego frame, nearest first, padded (`obs="state"`).

    boxes_A6: x, y, yaw of the box's centre, length, width, speed. lanes_LP2 with kinds of `LaneKind`.
    """

    boxes_A6: Array
    classes_A: Array
    lanes_LP2: Array
    lane_kinds_L: Array
    route_R2: Array

    def validate(self) -> Self:
        check_shape(self.boxes_A6, (MAX_AGENTS, 6), "StateObservation.boxes_A6")
        check_shape(self.classes_A, (MAX_AGENTS,), "StateObservation.classes_A")
        check_shape(self.lanes_LP2, (MAX_LANES, LANE_POINTS, 2), "StateObservation.lanes_LP2")
        check_shape(self.lane_kinds_L, (MAX_LANES,), "StateObservation.lane_kinds_L")
        check_shape(self.route_R2, (ROUTE_POINTS, 2), "StateObservation.route_R2")
        check_finite(self.boxes_A6[self.classes_A >= 0], "StateObservation.boxes_A6 (rows in use)")
        check_finite(self.lanes_LP2[self.lane_kinds_L >= 0], "StateObservation.lanes_LP2 (rows in use)")
        return self

    @classmethod
    def fake(cls) -> Self:
        boxes = np.full((MAX_AGENTS, 6), np.nan, np.float32)
        boxes[0] = (20, 0, 0, 4.5, 1.8, 6)
        classes = np.full(MAX_AGENTS, -1, np.int8)
        classes[0] = AgentClass.CAR
        lanes = np.full((MAX_LANES, LANE_POINTS, 2), np.nan, np.float32)
        lanes[0, :, 0], lanes[0, :, 1] = np.linspace(0, 45, LANE_POINTS), 0.0
        kinds = np.full(MAX_LANES, -1, np.int8)
        kinds[0] = LaneKind.ROUTE_LANE
        route = np.zeros((ROUTE_POINTS, 2), np.float32)
        route[:, 0] = ROUTE_SPACING * np.arange(1, ROUTE_POINTS + 1)
        return cls(boxes, classes, lanes, kinds, route)


@dataclass(frozen=True, eq=False)
class Observation:
    """What a policy sees at one instant; no world pose and no clip name (a driver must not know where it is tested).

    motion_4: v, a, yaw rate, steer. `images[name]` is (K, H, W, 3) uint8, oldest first. `speed_limit` NaN if unknown.
    """

    t_s: float
    motion_4: Array
    navigation: Direction
    speed_limit: float
    instruction: str = ""
    images: Mapping[str, Array] = field(default_factory=dict)
    state: StateObservation | None = None

    @property
    def v(self) -> float:
        return float(self.motion_4[0])

    def validate(self) -> Self:
        check_shape(self.motion_4, (4,), "Observation.motion_4")
        check_finite(self.motion_4, "Observation.motion_4")
        for name, image in self.images.items():
            check_shape(image, (None, None, None, 3), f"Observation.images[{name}]")
            require(image.dtype == np.uint8, f"Observation.images[{name}]", f"dtype {image.dtype}, expected uint8")
        if self.state is not None:
            self.state.validate()
        return self

    @classmethod
    def fake(cls, rig: Rig | None = None, seed: int = 0) -> Self:
        rng = np.random.default_rng(seed)
        rig = rig or Rig.fake()
        images = {c.name: rng.integers(0, 256, (len(c.history_s), c.height, c.width, 3), np.uint8) for c in rig.cameras}
        motion = np.array([8.0, 0.0, 0.0, 0.0], np.float32)
        return cls(0.0, motion, Direction.STRAIGHT, 13.9, "", images, StateObservation.fake())
