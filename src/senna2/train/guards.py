"""Collapses that are known, and limits that stop a stage which runs into one [ours].

A limit of None switches its guard off; `off(guards)` all of them. `after`: steps before the first look, since a network
that has hardly learned looks like one that has collapsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from senna2.train.diagnostics import SPEED_CLASSES
from senna2.train.loop import GuardTripped


@dataclass(frozen=True)
class VlmGuards:
    """Stage 1a. most_one_class: share of one speed among the VLM's decisions. least_drop: by how much its accuracy
    falls when the images are shuffled among the samples."""

    after: int = 300
    most_one_class: float | None = 0.95
    least_drop: float | None = 0.02


@dataclass(frozen=True)
class AlignmentGuards:
    """Stage 2. least_consistent: share of plans that agree with their decision (also looked at in the last step)."""

    after: int = 50
    most_one_class: float | None = 0.95
    least_consistent: float | None = 0.02


@dataclass(frozen=True)
class DrivingGuards:
    """Stage 3. While it trains, on frames without a flag: least_length, most_length, the plans' length over those of
    the start; most_cross_track_m, how far they leave the paths of those; most_one_class as in stage 1a. After a round,
    on the tuning clips: least_progress over that before the stage; most_parked and most_off_road, share of clips by
    which the policy may be worse than before."""

    after: int = 10
    least_length: float | None = 0.6
    most_length: float | None = 1.5
    most_cross_track_m: float | None = 1.0
    most_one_class: float | None = 0.95
    least_progress: float | None = 0.9
    most_parked: float | None = 0.05
    most_off_road: float | None = 0.05


Guards = TypeVar("Guards", VlmGuards, AlignmentGuards, DrivingGuards)
MARGIN = 0.1  # a class may exceed the share that it has by right, however large that is, by so much


def off(guards: Guards) -> Guards:
    """The same with every limit switched off."""
    none: dict[str, Any] = {f.name: None for f in fields(guards) if f.name != "after"}
    return replace(guards, **none)


def at_least(limit: float | None, value: float, guard: str, what: str, advice: str) -> None:
    """Raise `GuardTripped` if the value is under the limit, or no number."""
    if limit is not None and not value >= limit:
        raise GuardTripped(guard, value, limit, what, advice)


def at_most(limit: float | None, value: float, guard: str, what: str, advice: str) -> None:
    """Raise `GuardTripped` if the value is over the limit, or no number."""
    if limit is not None and not value <= limit:
        raise GuardTripped(guard, value, limit, what, advice)


def not_one_class(limit: float | None, said: Mapping[str, float], right: Mapping[str, float], advice: str) -> None:
    """Raise `GuardTripped` if nearly all decisions are of one speed class without good reason.

    said, right: shares by the names of `SPEED_CLASSES`, of the decisions and of what they should be.
    """
    if limit is None:
        return
    name = max(SPEED_CLASSES, key=lambda c: said.get(c, 0.0))
    fair = max(limit, right.get(name, 0.0) + MARGIN)
    at_most(
        fair, said.get(name, 0.0), f"always {name.upper()}", f"the share of {name.upper()} among the decisions", advice
    )


@dataclass(frozen=True)
class Verdict:
    """What the judge found on tuning clips. `fine` False takes the round back and ends the stage. `measured`: numbers
    for the log."""

    fine: bool
    reason: str
    measured: Mapping[str, float] | None = None


def judge_driving(before: Mapping[str, float], after: Mapping[str, float], guards: DrivingGuards) -> Verdict:
    """Compare what `diagnostics.driving` says of the same clips before the stage and after a round."""
    advice = "take a smaller lr, fewer steps or a larger lambda_anchor"
    try:
        least = None if guards.least_progress is None else guards.least_progress * before["progress"]
        at_least(least, after["progress"], "parked", "progress on the tuning clips, over the expert's,", advice)
        for name, share in (("parked", guards.most_parked), ("off_road", guards.most_off_road)):
            limit = None if share is None else before[name] + share
            what = f"the share of tuning clips that are {name.replace('_', ' ')}"
            at_most(limit, after[name], "parked" if name == "parked" else "run away", what, advice)
    except GuardTripped as trip:
        return Verdict(False, str(trip), after)
    return Verdict(True, "within every limit", after)
