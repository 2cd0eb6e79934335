"""Memory bank: the VLM runs slower than the planner; the planner reads its last answer (spec section 2, asynchrony)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from senna2.types import Array, Decision, InputError

EPS_S = 1e-6  # sums of 0.1 s steps are not exact


@dataclass(frozen=True, eq=False)
class Thought:
    """One tick of the VLM: its hidden state, the decision decoded from it and P(speed), never mixed between ticks."""

    t_s: float
    hidden_1D: Tensor | None
    decision: Decision
    speed_probs_4: Array | None = None


class Clock(Protocol):
    def __call__(self) -> float: ...


class SimulatedClock:
    """The time of the last observation: results never depend on how fast the machine is."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Bank(Protocol):
    """What the planner reads the VLM through: `MemoryBank`, or for live use `live.ThreadedBank`."""

    period_s: float

    def reset(self) -> None: ...

    def read(self, think: Callable[[], Thought]) -> tuple[Thought | None, float]: ...


def age_of(thought: Thought | None, now_s: float) -> float:
    """Age of a thought, s; 0 for none. Raises `InputError` when the clock ran backwards."""
    age = 0.0 if thought is None else now_s - thought.t_s
    if age < -EPS_S:
        raise InputError(f"memory: the clock went back by {-age:.2f} s; call reset() between rollouts")
    return max(age, 0.0)


class MemoryBank:
    """Holds the last `Thought` and says when the next one is due."""

    def __init__(self, period_s: float, clock: Clock) -> None:
        if not 0 < period_s < math.inf:
            raise InputError(f"memory.period_s: {period_s} must be positive and finite")
        self.period_s, self.clock = period_s, clock
        self._last: Thought | None = None

    def reset(self) -> None:
        self._last = None

    @property
    def due(self) -> bool:
        return self._last is None or self.age_s >= self.period_s - EPS_S

    @property
    def age_s(self) -> float:
        """Age of what is held, s; 0 when nothing is held. Raises `InputError` when the clock ran backwards."""
        return age_of(self._last, self.clock())

    def read(self, think: Callable[[], Thought]) -> tuple[Thought, float]:
        """The current thought and its age in s, calling `think` first when one is due."""
        if self.due:
            self._last = think()
        if self._last is None:  # pragma: no cover - `due` is True without one
            raise InputError("memory: empty")
        return self._last, self.age_s
