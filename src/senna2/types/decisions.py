"""Meta-actions: the classes a VLM says, a planner is told, and f_K reads off a trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from senna2.types.base import require


class Speed(IntEnum):
    """Longitudinal half of a meta-action. UNKNOWN is a mask, never a class."""

    ACCELERATE = 0
    DECELERATE = 1
    KEEP = 2
    STOP = 3
    UNKNOWN = -1


class Direction(IntEnum):
    """Lateral half of a meta-action, and the vocabulary of navigation commands."""

    STRAIGHT = 0
    TURN_LEFT = 1
    TURN_RIGHT = 2
    CHANGE_LEFT = 3
    CHANGE_RIGHT = 4
    UNKNOWN = -1


class Path(IntEnum):
    """Direction folded to what f_K can tell from a trajectory."""

    STRAIGHT = 0
    LEFT = 1
    RIGHT = 2


@dataclass(frozen=True)
class Decision:
    """A meta-action: speed × direction (paper: 4 × 5 = 20 combinations)."""

    speed: Speed
    direction: Direction

    def validate(self) -> Self:
        require(isinstance(self.speed, Speed), "Decision.speed", f"{self.speed!r} is no Speed")
        require(isinstance(self.direction, Direction), "Decision.direction", f"{self.direction!r} is no Direction")
        return self

    @classmethod
    def fake(cls) -> Self:
        return cls(Speed.KEEP, Direction.STRAIGHT)
