"""results.json, schema `senna2.results/1`: the one file that holds a run's numbers
(docs/evaluation.md)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from senna2.evaluate.metrics import DEFINITIONS, EVALUATOR_VERSION, SUITES, MetricValue, finite
from senna2.evaluate.stats import paired_difference
from senna2.files import write_json
from senna2.types import InputError

SCHEMA = "senna2.results/1"
TOP = (
    "schema", "provenance", "recipe", "seeds", "definitions", "timings_s", "policies", "comparisons", "clips",
)  # fmt: skip
CLIP_KEYS = (
    "policy", "seed", "clip", "scene_seed", "family", "collided", "at_fault", "rear_ended", "off_road",
    "parked", "straddled", "finished", "min_ttc_s", "progress_m", "video",
)  # fmt: skip
COMPARISON_KEYS = ("metric", "a", "b", "difference", "relative", "ci95", "paired_over", "per_seed")

Suites = Mapping[str, Mapping[str, MetricValue]]

# What two policies are compared on unless the caller says otherwise.
COMPARED = (
    "consistency.avg", "consistency.decision_accuracy", "open_loop.fde_m", "open_loop.ade_m",
    "open_loop.cr", "closed_loop.cr", "closed_loop.af_cr", "closed_loop.safety_1",
    "closed_loop.safety_2", "closed_loop.progress_ratio", "closed_loop.finished",
    "closed_loop.consistency_avg", "control.auroc_accelerate_decelerate",
)  # fmt: skip


def compare(
    policies: Mapping[str, Suites], pairs: Iterable[tuple[str, str]], metrics: Sequence[str] = COMPARED
) -> list[dict[str, Any]]:
    """Entries of `comparisons`: for each pair (a, b) and each "suite.metric" that both have, a − b on the
    same clips."""
    out = []
    for a, b in pairs:
        for metric in metrics:
            suite, name = metric.split(".", 1)
            of_a, of_b = policies[a].get(suite, {}).get(name), policies[b].get(suite, {}).get(name)
            if of_a is None or of_b is None or of_a.value is None or of_b.value is None:
                continue
            pair = paired_difference(of_a, of_b)
            out.append({"metric": metric, "a": a, "b": b} | {k: _jsonable(v) for k, v in pair.items()})
    return out


def assemble(
    *,
    provenance: Mapping[str, Any],
    recipe: Mapping[str, Any],
    seeds: Sequence[int],
    policies: Mapping[str, Suites],
    clips: Sequence[Mapping[str, Any]] = (),
    comparisons: Sequence[Mapping[str, Any]] = (),
    timings_s: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The object of results.json, validated. `recipe` holds its name, its whole configuration and an optional
    `note`.

    Metrics come in the order of the contract, policies in the caller's, clips sorted by policy, seed and
    name.
    """
    order = {name: i for i, name in enumerate(policies)}
    rows = sorted(clips, key=lambda r: (order.get(r["policy"], len(order)), r["policy"], r["seed"], r["clip"]))
    return validate_results(
        {
            "schema": SCHEMA,
            "provenance": _jsonable(provenance),
            "recipe": _jsonable(recipe),
            "seeds": [int(s) for s in seeds],
            "definitions": {"evaluator_version": EVALUATOR_VERSION} | DEFINITIONS,
            "timings_s": {k: round(float(v), 3) for k, v in (timings_s or {}).items()},
            "policies": {
                policy: {
                    suite: {n: suites[suite][n].to_json() for n in names if n in suites[suite]}
                    for suite, names in SUITES.items()
                    if suite in suites
                }
                for policy, suites in policies.items()
            },
            "comparisons": [{k: _jsonable(c[k]) for k in COMPARISON_KEYS} for c in comparisons],
            "clips": [{k: _jsonable(row[k]) for k in CLIP_KEYS} for row in rows],
        }
    )


def write_results(path: Path | str, results: Mapping[str, Any]) -> None:
    """Validate, then write beside and rename."""
    write_json(Path(path), validate_results(dict(results)))


def validate_results(results: dict[str, Any]) -> dict[str, Any]:
    """The same object, or `InputError` naming the first field that breaks the schema."""
    _need(results.get("schema") == SCHEMA, "schema", f"is {results.get('schema')!r}, expected '{SCHEMA}'")
    for key in TOP:
        _need(key in results, key, "is missing")
    _need("evaluator_version" in results["definitions"], "definitions", "lacks evaluator_version")
    for policy, suites in results["policies"].items():
        for suite, metrics in suites.items():
            _need(suite in SUITES, f"policies.{policy}.{suite}", f"is no suite of {tuple(SUITES)}")
            for name, value in metrics.items():
                where = f"policies.{policy}.{suite}.{name}"
                _need(name in SUITES[suite], where, "is no metric of this suite")
                _check_metric(where, value)
    for i, row in enumerate(results["comparisons"]):
        _need(set(row) >= set(COMPARISON_KEYS), f"comparisons[{i}]", f"needs {COMPARISON_KEYS}")
    for i, row in enumerate(results["clips"]):
        _need(set(row) >= set(CLIP_KEYS), f"clips[{i}]", f"lacks {sorted(set(CLIP_KEYS) - set(row))}")
    _all_finite(results, "")
    return results


def _check_metric(where: str, value: Mapping[str, Any]) -> None:
    _need(set(value) - {"note"} == {"value", "ci95", "n", "per_seed"}, where, "needs value, ci95, n, per_seed")
    number, ci = value["value"], value["ci95"]
    _need(number is None or isinstance(number, (int, float)), where, "value must be a number or null")
    _need(isinstance(value["n"], int) and value["n"] >= 0, where, "n must be a count")
    _need(isinstance(value["per_seed"], list), where, "per_seed must be a list")
    if ci is not None:
        _need(len(ci) == 2 and number is not None, where, "ci95 must be [lo, hi] of a value that exists")
        _need(None in ci or ci[0] <= ci[1], where, f"ci95 {ci} is upside down")


def _need(condition: bool, where: str, what: str) -> None:
    if not condition:
        raise InputError(f"results.json: {where} {what}")


def _all_finite(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _all_finite(item, f"{where}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _all_finite(item, f"{where}[{i}]")
    elif isinstance(value, float):
        _need(math.isfinite(value), where.lstrip("."), "holds NaN or infinity; write null")


def _jsonable(value: Any) -> Any:
    """Plain JSON: tuples to lists, numpy scalars to numbers, paths to text, NaN and infinity to null."""
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float):
        return finite(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
