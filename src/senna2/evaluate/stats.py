"""Intervals: bootstrap over clips, Clopper–Pearson near the edges, paired differences. EVALUATION, Statistics.

Legend: B bootstrap draws, C clips, S seeds, K counts a metric is made of, M frames.

A metric is kept as what each clip contributes to it, so that resampling clips is a matrix product: one code
for means, shares and F1 (`Sums`) and one for medians (`Frames`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from scipy.stats import beta

from senna2.evaluate.metrics import MetricValue
from senna2.types import Array, InputError

DRAWS = 2000
LEVEL = 0.95
RARE = 5  # clips: with fewer that count, draws of clips say too little about a share [ours]
SIGNED = 6  # clips: where two shares differ on fewer, no exact sign test at 5 % tells them apart
ANY_SEED = -1  # of what no training seed changes: baselines that learn nothing, the ceiling of the labels


class Units(Protocol):
    """What a metric is made of, clip by clip."""

    @property
    def clips(self) -> tuple[str, ...]: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def is_share(self) -> bool: ...
    @property
    def scale(self) -> float: ...
    def at(self, weights_BC: Array, seed: int | None = None) -> Array:
        """The metric (B,) when clip c counts weights_BC[b, c] times; NaN where it does not exist."""
        ...

    def only(self, clips: Sequence[str]) -> Self:
        """The same metric on these clips, in this order."""
        ...

    def of(self, seeds: Sequence[int]) -> Self:
        """The same metric of these seeds alone."""
        ...


def ratio(counts: Array) -> Array:
    """(…, 2) sum and number → mean; NaN without any."""
    total, number = counts[..., 0], counts[..., 1]
    return np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0)


@dataclass(frozen=True, eq=False)
class Sums:
    """counts_SCK add up over clips; `statistic` maps (…, K) sums to (…) values. NaN rows: the seed has not
    this clip."""

    clips: tuple[str, ...]
    seeds: tuple[int, ...]
    counts_SCK: Array
    statistic: Callable[[Array], Array] = ratio
    is_share: bool = True
    scale: float = 1.0

    def at(self, weights_BC: Array, seed: int | None = None) -> Array:
        if seed is None:
            known = np.isfinite(self.counts_SCK)
            total = np.where(known, self.counts_SCK, 0).sum(0)
            counts_CK = total / np.maximum(known.sum(0), 1)  # seeds are averaged per clip
        else:
            counts_CK = np.nan_to_num(self.counts_SCK[self.seeds.index(seed)])
        return self.scale * self.statistic(weights_BC @ counts_CK)

    def only(self, clips: Sequence[str]) -> Self:
        index = [self.clips.index(c) for c in clips]
        return replace(self, clips=tuple(clips), counts_SCK=self.counts_SCK[:, index])

    def of(self, seeds: Sequence[int]) -> Self:
        index = [self.seeds.index(s) for s in seeds]
        return replace(self, seeds=tuple(seeds), counts_SCK=self.counts_SCK[index])


@dataclass(frozen=True, eq=False)
class Frames:
    """A median over the frames of all clips; frames are drawn with their clip."""

    clips: tuple[str, ...]
    seeds: tuple[int, ...]
    values_M: Array
    clip_M: Array
    seed_M: Array
    is_share: bool = False
    scale: float = 1.0

    def at(self, weights_BC: Array, seed: int | None = None) -> Array:
        keep = np.ones(len(self.values_M), bool) if seed is None else self.seed_M == seed
        values, clip = self.values_M[keep], self.clip_M[keep]
        if len(values) == 0:
            return np.full(len(weights_BC), np.nan)
        order = np.argsort(values, kind="stable")
        values, clip = values[order], clip[order]
        return self.scale * np.array([_weighted_median(values, w[clip]) for w in weights_BC])

    def only(self, clips: Sequence[str]) -> Self:
        new = {self.clips.index(c): i for i, c in enumerate(clips)}
        keep = np.isin(self.clip_M, list(new))
        clip = np.array([new[c] for c in self.clip_M[keep]], int)
        return replace(self, clips=tuple(clips), values_M=self.values_M[keep], clip_M=clip, seed_M=self.seed_M[keep])

    def of(self, seeds: Sequence[int]) -> Self:
        keep = np.isin(self.seed_M, list(seeds))
        return replace(self, seeds=tuple(seeds), values_M=self.values_M[keep], clip_M=self.clip_M[keep],
                       seed_M=self.seed_M[keep])  # fmt: skip


def _weighted_median(sorted_values: Array, weights: Array) -> float:
    total = weights.cumsum()
    if total[-1] <= 0:
        return float("nan")
    half = total[-1] / 2
    low, high = np.searchsorted(total, half, "left"), np.searchsorted(total, half, "right")
    return float((sorted_values[low] + sorted_values[min(high, len(sorted_values) - 1)]) / 2)


def clip_weights(clips: int, draws: int = DRAWS) -> Array:
    """(B, C): how often each clip is drawn. A fixed generator: the same clips give the same interval every
    time."""
    rng = np.random.default_rng((20260311, clips))
    return rng.multinomial(clips, np.full(clips, 1 / clips), size=draws).astype(np.float64)


def clopper_pearson(successes: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of a share; between whole counts that of the beta distribution which joins them.

    Raises `InputError` unless 0 ≤ successes ≤ n and n > 0.
    """
    if not (n > 0 and 0 <= successes <= n):
        raise InputError(f"clopper_pearson: {successes} of {n} is no count")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(beta.ppf(1 - tail, successes + 1, n - successes))
    return low, high


def _percentiles(values_B: Array, level: float = LEVEL) -> tuple[float, float] | None:
    values = values_B[np.isfinite(values_B)]
    if len(values) == 0:
        return None
    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def bootstrap(units: Units, draws: int = DRAWS) -> tuple[float, float] | None:
    """95 % percentile interval over clips; None for fewer than two clips or a metric that does not exist."""
    n = len(units.clips)
    if n < 2:
        return None
    return _percentiles(units.at(clip_weights(n, draws)))


def interval(units: Units) -> tuple[float, float] | None:
    """The interval that is printed: Clopper–Pearson where a share is 0 or 1, or where fewer than `RARE` clips keep it
    from being that (their bootstrap jumps and is too narrow), else the bootstrap.

    The count is that of clips, not of samples: samples of one clip are no independent trials [ours].
    """
    n = len(units.clips)
    if n == 0:
        return None
    value = units.at(np.ones((1, n)))[0] / units.scale
    if units.is_share:
        own = units.at(np.eye(n)) / units.scale
        own = own[np.isfinite(own)]
        if min((own > 1e-12).sum(), (own < 1 - 1e-12).sum()) < RARE:
            low, high = clopper_pearson(min(max(float(value), 0.0), 1.0) * len(own), len(own))
            return low * units.scale, high * units.scale
    return bootstrap(units)


def measure(units: Units, n: int, note: str = "") -> MetricValue:
    """Value, interval and each seed's own value. A value that does not exist is None."""
    one = np.ones((1, len(units.clips)))
    value = float(units.at(one)[0])
    if not np.isfinite(value):
        return MetricValue(None, None, n, [None] * len(units.seeds), note, units)
    own = [float(units.at(one, s)[0]) for s in units.seeds]
    per_seed = [v if np.isfinite(v) else None for v in own]
    return MetricValue(value, interval(units), n, per_seed, note, units)


def missing(note: str, seeds: int = 0) -> MetricValue:
    """A metric that does not exist here, and why."""
    return MetricValue(None, None, 0, [None] * seeds, note)


def alike(units: Sequence[Units]) -> list[Units]:
    """The same metrics on the clips and of the training seeds that all have: a seed that one policy lacks says nothing
    about the difference of two. `ANY_SEED` goes with every seed. Empty where they share no clip or no seed."""
    others = [set(u.clips) for u in units[1:]]
    clips = [c for c in units[0].clips if all(c in o for o in others)]
    seeded = [u for u in units if ANY_SEED not in u.seeds]
    seeds = [s for s in seeded[0].seeds if all(s in u.seeds for u in seeded)] if seeded else [ANY_SEED]
    if not clips or not seeds:
        return []
    return [(u if ANY_SEED in u.seeds else u.of(seeds)).only(clips) for u in units]


def paired_difference(a: MetricValue, b: MetricValue) -> dict[str, Any]:
    """a − b on the clips and of the training seeds that both have, clips drawn in pairs. Where two shares differ on
    fewer than `SIGNED` clips the interval is prolonged to 0: draws of so few are too sure [ours].

    Returns difference, relative (over |b|, None if b is 0), ci95, paired_over (the number of clips) and per_seed (each
    training seed's own difference; empty where nothing was trained); None where either does not exist.
    """
    nothing: dict[str, Any] = {"difference": None, "relative": None, "ci95": None, "paired_over": 0, "per_seed": []}
    if a.units is None or b.units is None or a.value is None or b.value is None:
        return nothing
    same = alike([a.units, b.units])
    if not same:
        return nothing
    difference, ci = _with_interval(same, np.subtract)
    if difference is None:
        return nothing
    if ci is not None and _differing(*same) < SIGNED:
        ci = min(ci[0], 0.0), max(ci[1], 0.0)
    clips = len(same[1].clips)
    of_b = float(same[1].at(np.ones((1, clips)))[0])
    relative = difference / abs(of_b) if of_b != 0 else None
    return {"difference": difference, "relative": relative, "ci95": ci, "paired_over": clips,
            "per_seed": _by_seed(same, np.subtract)}  # fmt: skip


def _differing(a: Units, b: Units) -> float:
    """Clips on which two shares differ; without end for what is no share."""
    if not (a.is_share and b.is_share):
        return np.inf
    each = np.eye(len(a.clips))
    return float((np.abs(a.at(each) - b.at(each)) > 1e-12 * a.scale).sum())  # NaN on both: neither is measured there


class Paired(NamedTuple):
    """A quantity made of several metrics: `n` clips and `n_seeds` training seeds that all of them have."""

    value: float | None
    ci95: tuple[float, float] | None
    n: int
    n_seeds: int
    per_seed: list[float | None]


def paired(values: Sequence[MetricValue], of: Callable[..., Array]) -> Paired:
    """`of(*values)` on the clips and of the training seeds that all have, with its interval: clips are drawn once for
    all of them. Its value is None where it does not exist.

    Raises `InputError` for a metric that does not say what it was made of.
    """
    units = [v.units for v in values if v.units is not None]
    if len(units) < len(values) or not units:
        raise InputError("paired: a metric has no units, so that its clips cannot be drawn again")
    same = alike(units)
    if not same:
        return Paired(None, None, 0, 0, [])
    seeds = max(len(u.seeds) for u in same)
    return Paired(*_with_interval(same, of), len(same[0].clips), seeds, _by_seed(same, of))


def _by_seed(same: Sequence[Units], of: Callable[..., Array]) -> list[float | None]:
    """`of` the units of one training seed after the other; what was not trained goes with each."""
    one = np.ones((1, len(same[0].clips)))
    seeds = next((u.seeds for u in same if ANY_SEED not in u.seeds), ())
    own = [float(of(*(u.at(one, ANY_SEED if ANY_SEED in u.seeds else s) for u in same))[0]) for s in seeds]
    return [v if np.isfinite(v) else None for v in own]


def _with_interval(same: Sequence[Units], of: Callable[..., Array]) -> tuple[float | None, tuple[float, float] | None]:
    """`of` the units, which share their clips, and its interval (None for fewer than two clips); None, None where it
    does not exist."""
    clips = len(same[0].clips)
    value = float(of(*(u.at(np.ones((1, clips))) for u in same))[0])
    if not np.isfinite(value):
        return None, None
    if clips < 2:
        return value, None
    weights = clip_weights(clips)
    return value, _percentiles(of(*(u.at(weights) for u in same)))
