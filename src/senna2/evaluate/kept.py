"""Suites on disk, and suites of several training seeds joined: what each clip contributes to each metric.

From these few numbers a clip every table, interval and comparison can be computed again, without plans or drives; so
seeds that were trained and measured on different days or machines come together in one table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from senna2.arrays import load_arrays, save_arrays
from senna2.evaluate.consistency import STATISTICS, average_f1
from senna2.evaluate.metrics import SUITES, MetricValue
from senna2.evaluate.results import Suites
from senna2.evaluate.stats import ANY_SEED, Frames, Sums, Units, measure, ratio
from senna2.types import Array, InputError

SCHEMA = "senna2.suites/1"
AGAIN = "delete it and measure again"


def statistic_of(suite: str, metric: str) -> Callable[[Array], Array]:
    """What makes this metric of its summed counts."""
    if (suite, metric) in (("consistency", "ceiling"), ("closed_loop", "consistency_avg")):
        return average_f1
    return STATISTICS.get(metric, ratio) if suite == "consistency" else ratio


# --- joining ------------------------------------------------------------------------------------------


def joined(parts: Sequence[Suites]) -> dict[str, dict[str, MetricValue]]:
    """The suites of one policy measured seed by seed as if all seeds had been measured together.

    All parts must be of the same clips. Raises `InputError` for a seed that occurs twice.
    """
    out: dict[str, dict[str, MetricValue]] = {}
    for suite in (s for s in SUITES if any(s in part for part in parts)):
        having = [part[suite] for part in parts if suite in part]
        out[suite] = {m: _joined([s[m] for s in having], f"{suite}.{m}") for m in having[0]}
    return out


def untrained(suites: Suites) -> dict[str, dict[str, MetricValue]]:
    """The suites of a policy that no training seed changes."""
    return {suite: {m: of_any_seed(v) for m, v in values.items()} for suite, values in suites.items()}


def _joined(values: Sequence[MetricValue], where: str) -> MetricValue:
    first = values[0]
    if where == "consistency.ceiling":  # the samples' own, whatever was trained
        return of_any_seed(first)
    if len(values) == 1:
        return first
    told = [v for v in values if v.value is not None] or values  # why one seed has none is no note on the others
    note = " / ".join(dict.fromkeys(v.note for v in told if v.note))
    if all(v.units is None for v in values):
        return MetricValue(None, None, first.n, [s for v in values for s in v.per_seed], note)
    units = [v.units for v in values if v.units is not None]
    # Frames of drives are counted over all seeds, samples once.
    n = sum(v.n for v in values) if where == "closed_loop.consistency_avg" else max(v.n for v in values)
    return measure(join_units(units, where), n, note)


def of_any_seed(value: MetricValue) -> MetricValue:
    """The same value, said to be of `ANY_SEED`: it goes with every training seed when policies are compared."""
    units = value.units
    if isinstance(units, Sums):
        return replace(value, units=replace(units, seeds=(ANY_SEED,)))
    if isinstance(units, Frames):
        seed_M = np.full_like(units.seed_M, ANY_SEED)
        return replace(value, units=replace(units, seeds=(ANY_SEED,), seed_M=seed_M))
    return value


def join_units(units: Sequence[Units], where: str) -> Units:
    """Seeds side by side. A clip that one of them lacks contributes nothing there: it had nothing to count."""
    seeds = tuple(s for u in units for s in u.seeds)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{where}: training seeds {seeds} occur twice; give each seed once")
    clips = tuple(dict.fromkeys(c for u in units for c in u.clips))
    place = {c: i for i, c in enumerate(clips)}
    one = units[0]
    if isinstance(one, Sums):
        counts = np.zeros((len(seeds), len(clips), one.counts_SCK.shape[2]))
        row = 0
        for u in units:
            assert isinstance(u, Sums)
            counts[row : row + len(u.seeds), [place[c] for c in u.clips]] = u.counts_SCK
            row += len(u.seeds)
        return Sums(clips, seeds, counts, one.statistic, one.is_share, one.scale)
    frames = [u for u in units if isinstance(u, Frames)]
    clip_M = [np.array([place[c] for c in u.clips], int)[u.clip_M] for u in frames]
    return Frames(
        clips, seeds, np.concatenate([u.values_M for u in frames]), np.concatenate(clip_M),
        np.concatenate([u.seed_M for u in frames]), frames[0].is_share, frames[0].scale,
    )  # fmt: skip


# --- on disk ------------------------------------------------------------------------------------------


def save_suites(path: Path, policies: Mapping[str, Suites], **more: Any) -> None:
    """One compressed npz, written beside and renamed; `more` goes into it as JSON. Equal arrays are stored once."""
    arrays: dict[str, Array] = {}

    def kept(array: Array) -> str:
        array = np.ascontiguousarray(array)
        name = hashlib.sha256(array.tobytes() + repr((array.shape, array.dtype.str)).encode()).hexdigest()[:12]
        arrays[name] = array
        return name

    lists: list[list[str]] = []
    table = {
        policy: {s: {m: _described(v, kept, lists) for m, v in metrics.items()} for s, metrics in suites.items()}
        for policy, suites in policies.items()
    }
    meta = {"schema": SCHEMA, "policies": table, "clips": lists, **more}
    save_arrays(path, arrays, meta)


def _described(value: MetricValue, kept: Callable[[Array], str], lists: list[list[str]]) -> dict[str, Any]:
    plain: dict[str, Any] = {"n": value.n, "note": value.note}
    units = value.units
    if units is None:
        return {**plain, "seeds": len(value.per_seed)}
    if list(units.clips) not in lists:
        lists.append(list(units.clips))
    plain |= {"clips": lists.index(list(units.clips)), "seeds": list(units.seeds), "is_share": units.is_share,
              "scale": units.scale}  # fmt: skip
    if isinstance(units, Sums):
        return {**plain, "counts": kept(units.counts_SCK)}
    assert isinstance(units, Frames)
    return {**plain, "values": kept(units.values_M), "clip": kept(units.clip_M), "seed": kept(units.seed_M)}


def load_suites(path: Path) -> tuple[dict[str, dict[str, dict[str, MetricValue]]], dict[str, Any]]:
    """(policies → suites, what else was stored). Raises `InputError` naming a file that is not one of `save_suites`."""
    arrays, meta = load_arrays(path, SCHEMA, AGAIN)
    try:
        lists = [tuple(names) for names in meta.pop("clips")]
        policies = {
            policy: {
                s: {m: _restored(s, m, v, arrays, lists) for m, v in metrics.items()} for s, metrics in suites.items()
            }
            for policy, suites in meta.pop("policies").items()
        }
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: is no file of measured suites ({error!r}); {AGAIN}") from error
    return policies, meta


def _restored(
    suite: str, metric: str, kept: Mapping[str, Any], arrays: Mapping[str, Array], lists: Sequence[tuple[str, ...]]
) -> MetricValue:
    if "clips" not in kept:
        return MetricValue(None, None, kept["n"], [None] * kept["seeds"], kept["note"])
    clips, seeds = lists[kept["clips"]], tuple(kept["seeds"])
    units: Units
    if "counts" in kept:
        counts = arrays[kept["counts"]]
        units = Sums(clips, seeds, counts, statistic_of(suite, metric), kept["is_share"], kept["scale"])
    else:
        values, clip, seed = (arrays[kept[k]] for k in ("values", "clip", "seed"))
        units = Frames(clips, seeds, values, clip, seed, kept["is_share"], kept["scale"])
    value = measure(units, kept["n"], kept["note"])
    if (suite, metric) == ("consistency", "ceiling"):
        return replace(value, per_seed=[])
    return value
