"""Does the planner obey a decision that is forced on it, and the words of a passenger? Relative speed ratio and
orderings. EVALUATION, Control.

Legend: N samples, M frames with v₀ ≥ 3 m/s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from senna2.evaluate.consistency import PlansBySeed, by_seed, per_clip, recorded
from senna2.evaluate.metrics import CONTROL, MetricValue
from senna2.evaluate.stats import Frames, Sums, measure, missing
from senna2.instructions import WISHES, Ask
from senna2.types import PLAN_DT, Array, InputError, Plans, Samples, Speed

MIN_V0 = 3.0  # m/s; below it a ratio of speeds says nothing
TIE = 1e-6  # m/s or m: equal but for rounding
NAMES = {Speed.ACCELERATE: "accelerate", Speed.KEEP: "keep", Speed.DECELERATE: "decelerate"}


@dataclass(frozen=True, eq=False)
class Instructed:
    """Plans of all samples, of the same noise, with and without a passenger's words; `told` by what these ask."""

    told: Mapping[Ask, PlansBySeed]
    without: PlansBySeed


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
    noise under ACCELERATE, KEEP and DECELERATE, of one seed or by seed; `plans_instructed`: under a passenger's
    words. Raises `InputError` if a decision or a wish is missing or seeds differ."""
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


def instructed_samples(samples: Samples) -> dict[Ask, Samples]:
    """The same samples under each wish. Frame, motion and `index_N`, hence noise, stay; only the text differs, and
    goes round the sentences that mean the wish."""
    n = len(samples)
    return {
        wish.asks: replace(samples, instruction_N=tuple(wish.texts[i % len(wish.texts)] for i in range(n)))
        for wish in WISHES
    }


def without_instruction(samples: Samples) -> Samples:
    """The same samples with nobody speaking."""
    return replace(samples, instruction_N=("",) * len(samples))


def nobody_listens(seeds: int = 1) -> dict[str, MetricValue]:
    """The control suite of a policy without a VLM: it takes no decision and reads no words."""
    return {name: missing("the policy has no VLM", seeds) for name in CONTROL}


def _followed(samples: Samples, instructed: Instructed | None) -> MetricValue:
    """Share over frames and wishes on which the plan changes as asked; a tie is not followed. The note tells the share
    of each wish."""
    if instructed is None:
        return missing("no instruction was given")
    n = len(samples)
    absent = [wish.asks for wish in WISHES if wish.asks not in instructed.told]
    if absent:
        raise InputError(f"control: no plans under the wish {', '.join(absent)}; give one for each of WISHES")
    told, plain = {ask: by_seed(plans, n) for ask, plans in instructed.told.items()}, by_seed(instructed.without, n)
    if any(tuple(plans) != tuple(plain) for plans in told.values()):
        raise InputError("control: plans with and without instruction have different seeds")
    frames = fast_enough(samples)
    if len(frames) == 0:
        return missing("no frame with v₀ ≥ 3 m/s", len(plain))
    used, clip_M = np.unique(samples.clip_N[frames], return_inverse=True)
    followed = {
        ask: np.stack([_changes_as_asked(ask, plans[seed], plain[seed])[frames] for seed in plain])
        for ask, plans in told.items()
    }  # (seeds, M) each
    counts_SM2 = np.stack([sum(followed.values()), np.full((len(plain), len(frames)), len(told))], -1)
    tables = [per_clip(counts_M2.astype(float), clip_M, len(used)) for counts_M2 in counts_SM2]
    units = Sums(tuple(samples.clips[c] for c in used), tuple(plain), np.stack(tables))
    note = ", ".join(f"{ask} {share.mean():.3f}" for ask, share in followed.items())
    return replace(measure(units, len(frames) * len(told)), note=note)


def _changes_as_asked(ask: Ask, told: Plans, plain: Plans) -> Array:
    """(N,) bool: at 3 s the plan is faster or slower, or farther to the left or right in the frame of its start."""
    if ask in ("faster", "slower"):
        change = speed_at_end(told) - speed_at_end(plain)
    else:
        change = told.points_NT2[:, -1, 1].astype(np.float64) - plain.points_NT2[:, -1, 1]
    return (change if ask in ("faster", "left") else -change) > TIE
