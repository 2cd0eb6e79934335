"""What every kind of traffic takes and gives: where all other road users are at a frame, and how the next follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from senna2.frames import wrap
from senna2.types import Array, EgoState


@dataclass(frozen=True, eq=False)
class AgentsState:
    """Every agent of a clip at frame `step`, in the order of the clip's tracks. Equal when every number is.

    boxes_A6: x, y, yaw of the centre, length, width, speed in the world, NaN when absent. lights_A: bits of
    `Track.lights_T`. memory: what the controllers remember, arrays by name. Arrays must not be written to.
    """

    step: int
    boxes_A6: Array
    lights_A: Array
    memory: Mapping[str, Array] = field(default_factory=dict)

    @cached_property
    def _key(self) -> tuple[int, bytes, bytes]:
        return self.step, self.boxes_A6.tobytes(), self.lights_A.tobytes()

    @property
    def seen(self) -> AgentsState:
        """What others see of it: without the memory."""
        return self if not self.memory else AgentsState(self.step, self.boxes_A6, self.lights_A)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, AgentsState) or self._key != other._key or self.memory.keys() != other.memory.keys():
            return False
        return all(v.tobytes() == other.memory[k].tobytes() for k, v in self.memory.items())


class Traffic(Protocol):
    """Agents of a clip in the order of its tracks. Both calls are pure and leave their arguments alone."""

    @property
    def ids(self) -> tuple[str, ...]: ...

    @property
    def classes_A(self) -> Array: ...

    def initial(self, step: int, ego: EgoState) -> AgentsState:
        """The agents where a drive begins."""

    def advance(self, agents: AgentsState, ego_before: EgoState) -> AgentsState:
        """One frame on. `ego_before` is the ego at the frame of `agents`: nobody knows what it does next."""


def between(now_A6: Array, then_A6: Array, shares_N: Array) -> Array:
    """(N, A, 6) boxes at shares (0…1] of the way from one frame to the next; NaN where an end is missing.

    At share 1 the later frame stands alone, so an agent that appears there is there.
    """
    boxes = now_A6 + shares_N[:, None, None] * (then_A6 - now_A6)
    turn = wrap(then_A6[:, 2] - now_A6[:, 2])
    boxes[..., 2] = now_A6[:, 2] + shares_N[:, None] * turn
    boxes[shares_N == 1.0] = then_A6
    return boxes


def frozen(array: Array) -> Array:
    """The array itself, no longer writeable."""
    array.flags.writeable = False
    return array
