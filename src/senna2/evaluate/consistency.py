"""Does the plan do what the VLM decided? F1 between VLM decision and f_K(plan). Paper Table 1; EVALUATION,
Decisions.

Legend: N samples, C clips, S seeds, K counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from senna2.decisions import coarse, f_k_plan
from senna2.evaluate.metrics import CONSISTENCY, MetricValue
from senna2.evaluate.stats import Sums, measure, missing, ratio
from senna2.types import Array, Direction, InputError, Plans, Samples

PATH_CLASSES = ("straight", "left", "right")  # rows of Path
SPEED_CLASSES = ("accelerate", "decelerate", "keep", "stop")  # rows of Speed
CLASSES = ("straight", "left", "right", "keep", "accelerate", "decelerate", "stop")  # the paper's columns

# What one sample adds to: decision × plan tables of direction, of direction without CHANGE LANE, of speed
# (last # column: the plan is UNKNOWN).
_PATH, _PATH_NO_CHANGE, _SPEED = slice(0, 9), slice(9, 18), slice(18, 38)
COUNTS = 38

PlansBySeed = Plans | Sequence[Plans] | Mapping[int, Plans]


def by_seed(plans: PlansBySeed, n: int) -> dict[int, Plans]:
    """One seed's plans, a list of several or a mapping → mapping; each checked against the number of
    samples."""
    if isinstance(plans, Plans):
        plans = {0: plans}
    elif not isinstance(plans, Mapping):
        plans = dict(enumerate(plans))
    for seed, one in plans.items():
        if len(one) != n:
            raise InputError(f"evaluate: seed {seed} has {len(one)} plans for {n} samples; plan every sample once")
    if not plans:
        raise InputError("evaluate: no plans; give those of at least one seed")
    return dict(plans)


def recorded(samples: Samples) -> tuple[Array, str]:
    """(N,) mask of samples whose expert was not forced, and a note on the others."""
    keep = ~samples.counterfactual_N.astype(bool)
    left_out = int((~keep).sum())
    return keep, f"{left_out} counterfactual samples left out" if left_out else ""


def decision_counts(speed_N: Array, direction_N: Array, plan_speed_N: Array, plan_path_N: Array) -> Array:
    """(N, K) contributions to the decision × plan tables. -1 anywhere masks that part of the sample."""
    n = len(speed_N)
    out = np.zeros((n, COUNTS))
    path_N = np.asarray(coarse(np.asarray(direction_N, int)))
    plan_path_N, plan_speed_N = np.asarray(plan_path_N, int), np.asarray(plan_speed_N, int)
    rows = np.flatnonzero((path_N >= 0) & (plan_path_N >= 0))
    cell = 3 * path_N[rows] + plan_path_N[rows]
    out[rows, cell] = 1
    change = np.isin(direction_N, (Direction.CHANGE_LEFT, Direction.CHANGE_RIGHT))[rows]
    out[rows[~change], 9 + cell[~change]] = 1
    speed_N = np.asarray(speed_N, int)
    rows = np.flatnonzero(speed_N >= 0)
    column = np.where(plan_speed_N[rows] < 0, 4, plan_speed_N[rows])
    out[rows, 18 + 5 * speed_N[rows] + column] = 1
    return out


def per_clip(values_NK: Array, clip_N: Array, clips: int) -> Array:
    """Sum the samples of each clip: (N, K) → (C, K)."""
    out = np.zeros((clips, values_NK.shape[1]))
    np.add.at(out, clip_N, values_NK)
    return out


def _tables(counts: Array, lane_changes: bool = True) -> tuple[Array, Array]:
    path = counts[..., _PATH if lane_changes else _PATH_NO_CHANGE]
    return path.reshape(*counts.shape[:-1], 3, 3), counts[..., _SPEED].reshape(*counts.shape[:-1], 4, 5)


def f1(table: Array, strict: bool = False) -> Array:
    """(…, R, R or R + 1) decision × plan counts → (…, R) F1; NaN where the class occurs on neither side.

    A further column holds UNKNOWN plans: masked, or with `strict` misses of their decision's class.
    """
    r = table.shape[-2]
    known = table[..., :r]
    decided = (table if strict else known).sum(-1)
    planned = known.sum(-2)
    hits = np.diagonal(known, axis1=-2, axis2=-1)
    total = decided + planned
    return np.divide(2 * hits, total, out=np.full(total.shape, np.nan), where=total > 0)


def class_f1(counts: Array, *, strict: bool = False, lane_changes: bool = True) -> Array:
    """(…, K) → (…, 7) F1 in the order of `CLASSES`."""
    path, speed = _tables(counts, lane_changes)
    scores = dict(zip(PATH_CLASSES, np.moveaxis(f1(path), -1, 0), strict=True))
    scores |= dict(zip(SPEED_CLASSES, np.moveaxis(f1(speed, strict), -1, 0), strict=True))
    return np.stack([scores[c] for c in CLASSES], -1)


def _mean_of_present(scores: Array) -> Array:
    present = np.isfinite(scores)
    number = present.sum(-1)
    total = np.where(present, scores, 0).sum(-1)
    return np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0)


def average_f1(counts: Array) -> Array:
    """The plain mean over the classes that occur on either side."""
    return _mean_of_present(class_f1(counts))


def _floor(counts: Array, shuffled: bool) -> Array:
    """F1 of decisions that know nothing of the plan, over the classes `avg` has: 2pq/(p + q), p the share of
    the class among the decisions (of the constant guess: 1 or 0) and q among the plans."""
    scores = []
    for table in _tables(counts):
        known = table[..., : table.shape[-2]]
        total = np.maximum(known.sum((-2, -1)), 1)[..., None]
        q = known.sum(-2) / total
        occurs = (known.sum(-1) + known.sum(-2)) > 0
        if shuffled:
            p = known.sum(-1) / total
        else:
            p = (np.arange(q.shape[-1]) == np.argmax(q, -1)[..., None]).astype(float)
        both = p + q
        score = np.divide(2 * p * q, both, out=np.zeros(both.shape), where=both > 0)
        scores.append(np.where(occurs, score, np.nan))
    return _mean_of_present(np.concatenate(scores, -1))


def _class(counts: Array, i: int, lane_changes: bool) -> Array:
    return class_f1(counts, lane_changes=lane_changes)[..., i]


def _column(i: int, *, lane_changes: bool = True) -> Callable[[Array], Array]:
    return partial(_class, i=i, lane_changes=lane_changes)  # not a lambda: results come back from worker processes


def _strict(counts: Array) -> Array:
    return _mean_of_present(class_f1(counts, strict=True))


def _coverage(counts: Array) -> Array:
    _, speed = _tables(counts)
    return ratio(np.stack([speed[..., :4].sum((-2, -1)), speed.sum((-2, -1))], -1))


STATISTICS: dict[str, Callable[[Array], Array]] = {
    **{name: _column(i) for i, name in enumerate(CLASSES)},
    "avg": average_f1,
    "f1_strict": _strict,
    "coverage": _coverage,
    "floor_majority": partial(_floor, shuffled=False),
    "floor_shuffled": partial(_floor, shuffled=True),
    "left_without_lane_change": _column(1, lane_changes=False),
    "right_without_lane_change": _column(2, lane_changes=False),
}


def left_out_note(counts: Array) -> str:
    """Names the classes that occur on neither side."""
    absent = [c for c, score in zip(CLASSES, class_f1(counts), strict=True) if not np.isfinite(score)]
    return f"without {', '.join(absent)}: on neither side" if absent else ""


def consistency(samples: Samples, plans: PlansBySeed) -> dict[str, MetricValue]:
    """The consistency suite: every name of `metrics.CONSISTENCY`. `plans`: of one seed, or by seed.

    A policy that states no decision has null throughout, but for the ceiling, which is the samples' own.
    """
    seeds = by_seed(plans, len(samples))
    keep, note = recorded(samples)
    clip_N, clips = samples.clip_N[keep], samples.clips
    out = {"ceiling": _ceiling(samples, keep, note)}
    tables, agreement = [], []
    for one in seeds.values():
        speed_N, direction_N = one.vlm_speed_N[keep].astype(int), one.vlm_direction_N[keep].astype(int)
        plan_speed_N, plan_path_N = f_k_plan(one.points_NT2[keep])
        tables.append(per_clip(decision_counts(speed_N, direction_N, plan_speed_N, plan_path_N), clip_N, len(clips)))
        truth_speed_N, truth_direction_N = samples.speed_N[keep], samples.direction_N[keep]
        known = (speed_N >= 0) & (direction_N >= 0) & (truth_speed_N >= 0) & (truth_direction_N >= 0)
        right = known & (speed_N == truth_speed_N) & (direction_N == truth_direction_N)
        agreement.append(per_clip(np.stack([right, known], 1).astype(float), clip_N, len(clips)))
    if not any(t.any() for t in tables):
        return {
            name: out.get(name) or missing("states no decision", len(seeds))
            for name in (*STATISTICS, "decision_accuracy", "ceiling")
        }
    used = np.flatnonzero(np.stack(tables).sum((0, 2)) > 0)
    names = tuple(clips[c] for c in used)
    counts_SCK = np.stack(tables)[:, used]
    n = int(keep.sum())
    absent = left_out_note(counts_SCK.sum((0, 1)))
    averaged = ("avg", "f1_strict", "floor_majority", "floor_shuffled")
    for name, statistic in STATISTICS.items():
        units = Sums(names, tuple(seeds), counts_SCK, statistic)
        value = measure(units, n, "; ".join(s for s in (note, absent if name in averaged else "") if s))
        # The units stay: another training seed may have the class.
        out[name] = value if value.value is not None else replace(value, n=0, note="class on neither side")
    right_SCK = np.stack(agreement)[:, used]
    out["decision_accuracy"] = measure(Sums(names, tuple(seeds), right_SCK), int(right_SCK[0, :, 1].sum()), note)
    return out


def nobody_decides(seeds: int = 1) -> dict[str, MetricValue]:
    """The suite of a policy without a VLM."""
    return {name: missing("the policy takes no decision", seeds) for name in CONSISTENCY}


def _ceiling(samples: Samples, keep: Array, note: str) -> MetricValue:
    """The expert's annotation against f_K of the expert's own trajectory."""
    future_NT2 = samples.future_NT3[..., :2]
    whole = keep & np.isfinite(future_NT2[:, :14]).all((1, 2))
    if not whole.any():
        return missing("no sample has a future of 1.4 s")
    plan_speed_N, plan_path_N = f_k_plan(future_NT2[whole])
    counts = decision_counts(samples.speed_N[whole], samples.direction_N[whole], plan_speed_N, plan_path_N)
    table_CK = per_clip(counts, samples.clip_N[whole], len(samples.clips))
    used = np.flatnonzero(table_CK.sum(1) > 0)
    if len(used) == 0:
        return missing("no sample is annotated")
    units = Sums(tuple(samples.clips[c] for c in used), (0,), table_CK[None, used], average_f1)
    absent = left_out_note(table_CK.sum(0))
    value = measure(units, int(whole.sum()), "; ".join(s for s in (note, absent) if s))
    return MetricValue(value.value, value.ci95, value.n, [], value.note, units)
