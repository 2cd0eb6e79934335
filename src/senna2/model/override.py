"""Decisions given in place of the VLM's: one for a whole rollout (the paper's Figure 4), or a callback's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from senna2.types import Array, Decision, Direction, InputError, Observation, Speed

# decide(observation, what the VLM said or None) -> decision, or None to leave it alone
Decide = Callable[[Observation, Decision | None], Decision | None]
Forced = Decision | Decide | None


def given_decision(forced: Forced, observation: Observation, said: Decision | None) -> tuple[Decision | None, bool]:
    """The decision for the planner, what is forced, else the VLM's; and whether it is the VLM's own. Raises
    `InputError` if a callback returns anything but a `Decision` or None."""
    told = forced(observation, said) if callable(forced) else forced
    if told is not None and not isinstance(told, Decision):
        raise InputError(f"decide: returned {told!r}; return a senna2.types.Decision, or None for the VLM's own")
    return merged(said, told), leaves_alone(told)


def leaves_alone(forced: Decision | None) -> bool:
    """Whether nothing is forced. [ours] What is forced comes without the VLM's hidden state, even where the VLM would
    have said the same: the state argues for its own decision, and plans under several forced ones are to differ by
    these alone."""
    return forced is None or (forced.speed == Speed.UNKNOWN and forced.direction == Direction.UNKNOWN)


def merged(said: Decision | None, forced: Decision | None) -> Decision | None:
    """Forced parts win, UNKNOWN parts stay the VLM's."""
    if forced is None:
        return said
    own = said or Decision(Speed.UNKNOWN, Direction.UNKNOWN)
    speed = own.speed if forced.speed == Speed.UNKNOWN else forced.speed
    return Decision(speed, own.direction if forced.direction == Direction.UNKNOWN else forced.direction)


def decisions(speed_B: Any, direction_B: Any) -> list[Decision]:
    pairs = zip(torch.as_tensor(speed_B).tolist(), torch.as_tensor(direction_B).tolist(), strict=True)
    return [Decision(Speed(s), Direction(d)) for s, d in pairs]


def columns(given: Sequence[Decision | None]) -> tuple[Array, Array]:
    """Speed (B,) and direction (B,), -1 for none."""
    speed = np.array([-1 if d is None else int(d.speed) for d in given], np.int64)
    direction = np.array([-1 if d is None else int(d.direction) for d in given], np.int64)
    return speed, direction
