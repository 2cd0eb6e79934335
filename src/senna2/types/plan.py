"""Where the ego is and where it wants to go: states, trajectories, plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from senna2.types.base import PLAN_DT, PLAN_STEPS, Array, check_finite, check_shape, require
from senna2.types.decisions import Decision


@dataclass(frozen=True)
class EgoState:
    """Ego pose in the world (rear axle) and motion. m, rad, m/s, m/s²; `steer` is the front wheel angle."""

    x: float
    y: float
    yaw: float
    v: float
    a: float = 0.0
    steer: float = 0.0

    def validate(self) -> Self:
        for f in dataclasses.fields(self):
            check_finite(getattr(self, f.name), f"EgoState.{f.name}")
        require(self.v >= 0, "EgoState.v", "must not be negative")
        return self

    def as_array(self) -> Array:
        return np.array([self.x, self.y, self.yaw, self.v, self.a, self.steer])

    @classmethod
    def fake(cls) -> Self:
        return cls(0.0, 0.0, 0.0, 8.0)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Points (T, 2) in a named frame at a fixed step. A plan's first point is one `dt` after now."""

    points_T2: Array
    dt: float
    yaw_T: Array | None = None

    def validate(self) -> Self:
        check_shape(self.points_T2, (None, 2), "Trajectory.points_T2")
        require(len(self.points_T2) >= 1, "Trajectory.points_T2", "holds no point; a plan needs at least one")
        check_finite(self.points_T2, "Trajectory.points_T2")
        check_finite(self.dt, "Trajectory.dt")
        require(self.dt > 0, "Trajectory.dt", "must be positive")
        if self.yaw_T is not None:
            check_shape(self.yaw_T, (len(self.points_T2),), "Trajectory.yaw_T")
            check_finite(self.yaw_T, "Trajectory.yaw_T")
        return self

    def first(self, points: int) -> Self:
        """Its first `points` points."""
        yaw = None if self.yaw_T is None else self.yaw_T[:points]
        return dataclasses.replace(self, points_T2=self.points_T2[:points], yaw_T=yaw)

    @classmethod
    def fake(cls, v: float = 8.0) -> Self:
        x = v * PLAN_DT * np.arange(1, PLAN_STEPS + 1)
        return cls(np.stack([x, np.zeros_like(x)], 1), PLAN_DT)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a policy returns: where it goes, what was decided, and how old that decision is.

    `vlm_decision` is what the VLM said, `decision` what the planner was given (they differ when one is forced).
    """

    trajectory: Trajectory
    decision: Decision | None = None
    vlm_decision: Decision | None = None
    decision_age_s: float = 0.0
    speed_probs_4: Array | None = None

    def validate(self) -> Self:
        self.trajectory.validate()
        for decision in (self.decision, self.vlm_decision):
            if decision is not None:
                decision.validate()
        check_finite(self.decision_age_s, "Plan.decision_age_s")
        if self.speed_probs_4 is not None:
            check_shape(self.speed_probs_4, (4,), "Plan.speed_probs_4")
            check_finite(self.speed_probs_4, "Plan.speed_probs_4")
        return self

    @classmethod
    def fake(cls) -> Self:
        return cls(Trajectory.fake(), Decision.fake(), Decision.fake())


@dataclass(frozen=True, eq=False)
class Plans:
    """Plans of N samples stacked. speed_N, direction_N: the decision given to the planner (-1: none)."""

    points_NT2: Array
    speed_N: Array
    direction_N: Array
    vlm_speed_N: Array
    vlm_direction_N: Array

    def __len__(self) -> int:
        return len(self.points_NT2)

    def validate(self) -> Self:
        n = len(self)
        check_shape(self.points_NT2, (n, PLAN_STEPS, 2), "Plans.points_NT2")
        check_finite(self.points_NT2, "Plans.points_NT2")
        for name in ("speed_N", "direction_N", "vlm_speed_N", "vlm_direction_N"):
            check_shape(getattr(self, name), (n,), f"Plans.{name}")
        return self

    @classmethod
    def stack(cls, plans: Sequence[Plan]) -> Self:
        def column(decision: str, part: str) -> Array:
            given = [getattr(p, decision) for p in plans]
            return np.array([-1 if d is None else int(getattr(d, part)) for d in given], np.int8)

        return cls(
            np.stack([p.trajectory.points_T2 for p in plans]).astype(np.float32),
            column("decision", "speed"),
            column("decision", "direction"),
            column("vlm_decision", "speed"),
            column("vlm_decision", "direction"),
        )

    @classmethod
    def fake(cls, n: int = 4) -> Self:
        return cls.stack([Plan.fake()] * n)
