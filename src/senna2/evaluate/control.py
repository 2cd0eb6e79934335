"""Does the planner obey a decision that is forced on it? Relative speed ratio and orderings. EVALUATION,
Control.

Legend: N samples, M frames with v₀ ≥ 3 m/s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from senna2.evaluate.consistency import PlansBySeed, by_seed, per_clip, recorded
from senna2.evaluate.metrics import MetricValue
from senna2.evaluate.stats import Frames, Sums, measure, missing
from senna2.types import PLAN_DT, Array, InputError, Plans, Samples, Speed

MIN_V0 = 3.0  # m/s; below it a ratio of speeds says nothing
TIE = 1e-6  # m/s or m: equal but for rounding
NAMES = {Speed.ACCELERATE: "accelerate", Speed.KEEP: "keep", Speed.DECELERATE: "decelerate"}

Ask = Literal["faster", "slower", "left", "right"]


@dataclass(frozen=True, eq=False)
class Instructed:
    """Plans of the same samples and noise with and without a user's instruction. asked[i]: what sample i's
    text asks; an empty string leaves the sample out."""

    with_instruction: PlansBySeed
    without: PlansBySeed
    asked: tuple[Ask | Literal[""], ...]


def speed_at_end(plans: Plans) -> Array:
    """(N,) planned speed at 3 s, m/s: the length of the last step over its time."""
    points = plans.points_NT2.astype(np.float64)
    return np.linalg.norm(points[:, -1] - points[:, -2], axis=-1) / PLAN_DT


def fast_enough(samples: Samples) -> Array:
    """Indices (M,) of the frames the control metrics look at."""
    return np.flatnonzero(recorded(samples)[0] & (samples.motion_N4[:, 0] >= MIN_V0))


def relative_speeds(samples: Samples, plans: Plans) -> Array:
    """(M,) planned speed at 3 s over v₀, on frames with v₀ ≥ 3 m/s (the project page's relative speed
    ratio)."""
    frames = fast_enough(samples)
    return speed_at_end(plans)[frames] / samples.motion_N4[frames, 0].astype(np.float64)


def control(
    samples: Samples, plans_by_speed: Mapping[Speed, PlansBySeed], plans_instructed: Instructed | None = None
) -> dict[str, MetricValue]:
    """The control suite: every name of `metrics.CONTROL`. `plans_by_speed`: plans of the same samples and
    noise under ACCELERATE, KEEP and DECELERATE, of one seed or by seed. Raises `InputError` if one is missing
    or seeds differ."""
    absent = [name for speed, name in NAMES.items() if speed not in plans_by_speed]
    if absent:
        raise InputError(f"control: no plans under forced {', '.join(absent)}; give accelerate, keep and decelerate")
    forced = {speed: by_seed(plans_by_speed[speed], len(samples)) for speed in NAMES}
    seeds = tuple(forced[Speed.KEEP])
    if any(tuple(f) != seeds for f in forced.values()):
        raise InputError("control: the forced decisions have different seeds; they are compared seed by seed")
    frames = fast_enough(samples)
    if len(frames) == 0:
        out = {f"ratio_{n}": missing("no frame with v₀ ≥ 3 m/s", len(seeds)) for n in NAMES.values()}
        out |= {f"auroc_{NAMES[a]}_{NAMES[b]}": missing("no frame with v₀ ≥ 3 m/s", len(seeds)) for a, b in PAIRS}
    else:
        out = _forced(samples, forced, seeds, frames)
    out["instruction_followed"] = _followed(samples, plans_instructed)
    return out


PAIRS = (
    (Speed.ACCELERATE, Speed.KEEP), (Speed.KEEP, Speed.DECELERATE), (Speed.ACCELERATE, Speed.DECELERATE),
)  # fmt: skip


def _forced(
    samples: Samples, forced: Mapping[Speed, Mapping[int, Plans]], seeds: tuple[int, ...], frames: Array
) -> dict[str, MetricValue]:
    used, clip_M = np.unique(samples.clip_N[frames], return_inverse=True)
    clips = tuple(samples.clips[c] for c in used)
    v0_M = samples.motion_N4[frames, 0].astype(np.float64)
    speeds = {s: np.stack([speed_at_end(plans[seed])[frames] for seed in seeds]) for s, plans in forced.items()}
    out = {}
    for speed, name in NAMES.items():
        units = Frames(
            clips,
            seeds,
            (speeds[speed] / v0_M).ravel(),
            np.tile(clip_M, len(seeds)),
            np.repeat(np.array(seeds), len(frames)),
        )
        out[f"ratio_{name}"] = measure(units, len(frames))
    for a, b in PAIRS:
        tables = []
        for first, second in zip(speeds[a], speeds[b], strict=True):
            gap = first - second
            right = np.where(np.abs(gap) <= TIE, 0.5, (gap > 0).astype(float))
            tables.append(per_clip(np.stack([right, np.ones(len(right))], 1), clip_M, len(clips)))
        units_ab = Sums(clips, seeds, np.stack(tables))
        out[f"auroc_{NAMES[a]}_{NAMES[b]}"] = measure(units_ab, len(frames))
    return out


def _followed(samples: Samples, instructed: Instructed | None) -> MetricValue:
    if instructed is None:
        return missing("no instruction was given")
    n = len(samples)
    if len(instructed.asked) != n:
        raise InputError(f"control: {len(instructed.asked)} instructions for {n} samples; one a sample, '' for none")
    told, plain = by_seed(instructed.with_instruction, n), by_seed(instructed.without, n)
    if tuple(told) != tuple(plain):
        raise InputError("control: plans with and without instruction have different seeds")
    asked = np.array(instructed.asked, dtype=object)
    frames = np.intersect1d(fast_enough(samples), np.flatnonzero(asked != ""))
    if len(frames) == 0:
        return missing("no frame with v₀ ≥ 3 m/s has an instruction", len(told))
    sign = np.array([{"faster": 1, "slower": -1, "left": 1, "right": -1}[a] for a in asked[frames]])
    by_speed = np.isin(asked[frames], ("faster", "slower"))
    used, clip_M = np.unique(samples.clip_N[frames], return_inverse=True)
    tables = []
    for seed, plans in told.items():
        dv = (speed_at_end(plans) - speed_at_end(plain[seed]))[frames]
        dy = (plans.points_NT2[:, -1, 1].astype(np.float64) - plain[seed].points_NT2[:, -1, 1])[frames]
        followed = sign * np.where(by_speed, dv, dy) > TIE
        tables.append(per_clip(np.stack([followed, np.ones(len(frames))], 1).astype(float), clip_M, len(used)))
    units = Sums(tuple(samples.clips[c] for c in used), tuple(told), np.stack(tables))
    return measure(units, len(frames))
