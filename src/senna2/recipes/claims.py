"""The claims: results → claims.json, schema `senna2.claims/1`. Pure functions; limits are issue-given and stand here.

`evidence` computes, from what metrics are made of clip by clip, the relative quantities with their paired bootstrap
intervals; it is stored in results.json, so that `claims` needs nothing but that file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from senna2.evaluate.metrics import MetricValue, finite
from senna2.evaluate.results import Suites
from senna2.evaluate.stats import paired
from senna2.types import Array, InputError

SCHEMA = "senna2.claims/1"
LEAST_SEEDS = 3
NOT_MEASURED = "not measured"
ADAPTERS = {"decision": "senna", "vlm": "senna2@1vlm", "none": "senna2@1none"}  # Table 4's other rows
PAIRS = ("accelerate_keep", "keep_decelerate", "accelerate_decelerate")

Policies = Mapping[str, Suites]
Json = Mapping[str, Any]


# --- evidence: relative quantities, paired over clips ---------------------------------------------------


@dataclass(frozen=True)
class Quantity:
    """`of(values)` of the metrics named ("policy|suite.metric"), all on the same clips."""

    metrics: tuple[str, ...]
    of: Callable[..., Array]


def _over(a: Array, b: Array) -> Array:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


def _relative(a: Array, b: Array) -> Array:
    return _over(a, b) - 1


def _less(a: Array, b: Array) -> Array:
    """Share by which a is less than b."""
    return 1 - _over(a, b)


def _gap_reduction(ceiling: Array, a: Array, b: Array) -> Array:
    """Share by which a is nearer to the ceiling than b."""
    return 1 - _over(ceiling - a, ceiling - b)


def _more(ceiling: Array, a: Array, b: Array, control: Array) -> Array:
    return _gap_reduction(ceiling, a, b) - _gap_reduction(ceiling, control, b)


def _consistency(*policies: str) -> tuple[str, ...]:
    return (f"{policies[0]}|consistency.ceiling", *(f"{p}|consistency.avg" for p in policies))


def _both(metric: str, a: str, b: str) -> tuple[str, str]:
    return f"{a}|{metric}", f"{b}|{metric}"


QUANTITIES: dict[str, Quantity] = {
    "imitation_fde_over_cv": Quantity(_both("open_loop.fde_m", "senna2@1", "constant_velocity"), _over),
    "imitation_af_cr_over_cv": Quantity(_both("closed_loop.af_cr", "senna2@1", "constant_velocity"), _over),
    "consistency_gap_reduction": Quantity(_consistency("senna2", "senna@long"), _gap_reduction),
    "fde_vs_senna": Quantity(_both("open_loop.fde_m", "senna2@1", "senna"), _relative),
    "fde_stage_2": Quantity(_both("open_loop.fde_m", "senna2@2", "senna2@1"), _relative),
    "fde_stage_3": Quantity(_both("open_loop.fde_m", "senna2", "senna2@1"), _relative),
    "af_cr_reduction_vs_senna": Quantity(_both("closed_loop.af_cr", "senna2", "senna@long"), _less),
    "stage2_gap_reduction": Quantity(_consistency("senna2@2", "senna2@1"), _gap_reduction),
    "stage2_over_prolonged": Quantity(_consistency("senna2@2", "senna2@1", "senna2@1long"), _more),
    "stage3_af_cr_reduction": Quantity(_both("closed_loop.af_cr", "senna2", "senna2@2"), _less),
    **{f"adapter_f1_over_{k}": Quantity(_both("consistency.avg", "senna2@1", v), np.subtract)
       for k, v in ADAPTERS.items()},
    **{f"adapter_fde_over_{k}": Quantity(_both("open_loop.fde_m", "senna2@1", v), _relative)
       for k, v in ADAPTERS.items()},
    **{f"control_{p}_over_senna": Quantity(_both(f"control.auroc_{p}", "senna2", "senna"), np.subtract)
       for p in PAIRS},
}  # fmt: skip


def evidence(policies: Policies) -> dict[str, Any]:
    """Every quantity whose metrics exist: value, ci95 (paired bootstrap over clips), n (clips), n_seeds, per_seed."""
    found = {}
    for name, quantity in QUANTITIES.items():
        values = [_metric(policies, where) for where in quantity.metrics]
        if any(v is None or v.value is None or v.units is None for v in values):
            continue
        known = [v for v in values if v is not None]
        whole = paired(known, quantity.of)
        ci = None if whole.ci95 is None else [finite(c) for c in whole.ci95]
        found[name] = {**whole._asdict(), "value": finite(whole.value), "ci95": ci}
    return found


def _metric(policies: Policies, where: str) -> MetricValue | None:
    policy, metric = where.split("|")
    suite, name = metric.split(".", 1)
    return policies.get(policy, {}).get(suite, {}).get(name)


# --- claims: results.json alone --------------------------------------------------------------------------


@dataclass(frozen=True)
class Guard:
    """Something that must hold beside the value: `value` on the right side of `limit`."""

    value: float | None
    limit: float | None
    at_least: bool = True

    @property
    def held(self) -> bool:
        if self.value is None or self.limit is None:
            return False
        return self.value >= self.limit - 1e-9 if self.at_least else self.value <= self.limit + 1e-9

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "limit": self.limit, "held": self.held}


@dataclass(frozen=True)
class Claim:
    """One row of the table, before it is judged. `interval`: what the interval must show beside the value:
    "above" or "below" (`beyond`, wholly), "not_above" (not wholly above it), or "" (nothing)."""

    value: float | None
    aim: float
    better: str
    ci95: Sequence[float | None] | None = None
    interval: str = ""
    beyond: float = 0.0
    strict: bool = False  # the value must be better than the aim, not equal to it
    guards: Mapping[str, Guard] = field(default_factory=dict)
    n_seeds: int = 0
    n: int = 0
    per_seed: Sequence[float | None] = ()


def claims(results: Json, causes: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The object of claims.json. `causes`: why a claim is not held, in words, by name; what the numbers show is said
    anyway. A claim whose rows are missing has value null, is not held, and says "not measured"."""
    commit = results["provenance"].get("commit")
    command = results.get("recipe", {}).get("command") or results["provenance"].get("command")
    out = {name: {**_judged(claim, (causes or {}).get(name)), "command": command, "commit": commit}
           for name, claim in _claims(_Reader(results)).items()}  # fmt: skip
    return validate_claims({"schema": SCHEMA, "claims": out})


class _Reader:
    """Numbers of results.json; None for what is not there."""

    def __init__(self, results: Json) -> None:
        self.policies, self.evidence = results["policies"], results.get("evidence", {})

    def value(self, policy: str, metric: str) -> float | None:
        suite, name = metric.split(".", 1)
        found = self.policies.get(policy, {}).get(suite, {}).get(name)
        return None if found is None else found["value"]

    def of(self, policy: str, metric: str) -> Json:
        suite, name = metric.split(".", 1)
        nothing: dict[str, Any] = {"value": None, "ci95": None, "n": 0, "per_seed": []}
        return self.policies.get(policy, {}).get(suite, {}).get(name) or nothing

    def proof(self, name: str) -> dict[str, Any]:
        found = self.evidence.get(name)
        if found is None:
            return {"value": None, "ci95": None, "n": 0, "n_seeds": 0, "per_seed": ()}
        return {k: found[k] for k in ("value", "ci95", "n", "n_seeds", "per_seed")}

    def shifted(self, policy: str, metric: str, by: float, factor: float = 1.0) -> float | None:
        value = self.value(policy, metric)
        return None if value is None else factor * value + by


def _claims(r: _Reader) -> dict[str, Claim]:
    rows = {
        "imitation_fde_over_cv": Claim(
            aim=0.65, better="lower", interval="below", beyond=1.0, **r.proof("imitation_fde_over_cv")
        ),
        "imitation_af_cr_over_cv": Claim(
            aim=0.5, better="lower", strict=True, interval="below", beyond=1.0, **r.proof("imitation_af_cr_over_cv"),
            guards={"clips_hard_enough_af_cr": Guard(r.value("senna2@1", "closed_loop.af_cr"), 0.05)},
        ),
        "consistency_gap_reduction": Claim(
            aim=0.339, better="higher", interval="above", **r.proof("consistency_gap_reduction"),
            guards=_consistency_guards(r),
        ),
        "fde_vs_senna": Claim(
            aim=0.0, better="lower", interval="not_above", **r.proof("fde_vs_senna"),
            guards={f"stage_{k}_worse_by": Guard(r.proof(f"fde_stage_{k}")["value"], 0.10, at_least=False)
                    for k in (2, 3)},
        ),
        "af_cr_reduction_vs_senna": Claim(
            aim=0.20, better="higher", interval="above", **r.proof("af_cr_reduction_vs_senna"),
            guards=_driving_guards(r, "senna@long"),
        ),
        "stage2_gap_reduction": Claim(
            aim=0.20, better="higher", interval="above", **r.proof("stage2_gap_reduction")
        ),
        "stage2_over_prolonged": Claim(
            aim=0.0, better="higher", strict=True, interval="above", **r.proof("stage2_over_prolonged")
        ),
        "stage3_af_cr_reduction": Claim(
            aim=0.20, better="higher", interval="above", **r.proof("stage3_af_cr_reduction"),
            guards=_driving_guards(r, "senna2@2"),
        ),
        "adapter_both": _adapter(r),
    }  # fmt: skip
    for pair in PAIRS:
        own, over = r.of("senna2", f"control.auroc_{pair}"), r.proof(f"control_{pair}_over_senna")
        above = None if over["ci95"] is None else over["ci95"][0]
        rows[f"control_{pair}"] = Claim(
            own["value"], 0.9, "higher", own["ci95"], n=own["n"], n_seeds=_count(own), per_seed=own["per_seed"],
            guards={"above_senna_by_at_least": Guard(above, 0.0)},
        )  # fmt: skip
    shown = r.of("senna2 showcase", "closed_loop.finished")
    seeds = [v for v in shown["per_seed"] if v is not None]
    # In every training seed: the value is the worst one, to which the interval of their mean does not belong
    rows["showcase_finished"] = Claim(
        min(seeds, default=None), 0.9, "higher", n=shown["n"], n_seeds=len(seeds), per_seed=shown["per_seed"]
    )
    return rows


def _count(metric: Json) -> int:
    return len([v for v in metric["per_seed"] if v is not None])


def _consistency_guards(r: _Reader) -> dict[str, Guard]:
    accuracy, coverage = "consistency.decision_accuracy", "consistency.coverage"
    own = r.value("senna2", coverage)
    senna = r.value("senna", coverage)
    apart = None if own is None or senna is None else round(abs(own - senna), 6)
    return {
        "decision_accuracy": Guard(r.value("senna2", accuracy), r.shifted("senna2@1", accuracy, -0.04)),
        "coverage": Guard(own, 0.85),
        "coverage_apart_from_senna": Guard(apart, 0.02, at_least=False),
        "least_class_share": Guard(r.proof("least_class_share")["value"], 0.5),
    }


def _driving_guards(r: _Reader, against: str) -> dict[str, Guard]:
    progress = "closed_loop.progress_ratio"
    return {
        "progress": Guard(r.value("senna2", progress), r.shifted("senna", progress, 0.0, 0.9)),
        "parked": Guard(r.value("senna2", "closed_loop.parked"), 0.05, at_least=False),
        "off_road": Guard(
            r.value("senna2", "closed_loop.off_road"), r.value(against, "closed_loop.off_road"), at_least=False
        ),
    }


def _adapter(r: _Reader) -> Claim:
    """Both tokens against each other kind: the value is the smallest advantage in F1. Ties are allowed and said: held
    unless one of them is better beyond its interval, in F1 or in FDE."""
    f1 = {k: r.proof(f"adapter_f1_over_{k}") for k in ADAPTERS}
    fde = {k: r.proof(f"adapter_fde_over_{k}") for k in ADAPTERS}
    if any(p["value"] is None for p in (*f1.values(), *fde.values())):
        return Claim(None, 0.0, "higher")
    least = min(f1.values(), key=lambda p: p["value"])
    seeds = min(p["n_seeds"] for p in (*f1.values(), *fde.values()))
    guards = {f"f1_over_{k}_upper": Guard(_end(p, 1), 0.0) for k, p in f1.items()}
    guards |= {f"fde_over_{k}_lower": Guard(_end(p, 0), 0.0, at_least=False) for k, p in fde.items()}
    return Claim(aim=0.0, better="higher", interval="not_below", guards=guards, **{**least, "n_seeds": seeds})


def _end(proof: Json, which: int) -> float | None:
    return None if proof["ci95"] is None else proof["ci95"][which]


def _judged(claim: Claim, cause: str | None) -> dict[str, Any]:
    why = _why_not(claim)
    own = cause if why and claim.value is not None else None
    return {
        "value": claim.value, "ci95": None if claim.ci95 is None else list(claim.ci95), "aim": claim.aim,
        "better": claim.better, "held": not why, "guards": {k: g.to_json() for k, g in claim.guards.items()},
        "cause": "; ".join([*why, *([own] if own else [])]) or None, "n_seeds": claim.n_seeds, "n": claim.n,
        "per_seed": list(claim.per_seed),
    }  # fmt: skip


def _why_not(claim: Claim) -> list[str]:
    """What the numbers say against the claim, in words; empty if it is held."""
    if claim.value is None:
        return [NOT_MEASURED]
    why = []
    sense = 1 if claim.better == "higher" else -1
    gain = sense * (claim.value - claim.aim)
    # "Not worse" and "no other is better" are decided by the interval: a tie on the wrong side of 0 is a tie.
    by_interval = claim.interval.startswith("not_")
    if not by_interval and (gain <= 0 if claim.strict else gain < -1e-9):
        side = "over" if sense > 0 else "under"
        wanted = side if claim.strict else f"at {'least' if sense > 0 else 'most'}"
        why.append(f"value {claim.value:.3f} is not {wanted} {claim.aim:g}")
    if claim.interval:
        why += _interval_says(claim)
    why += [f"guard {name} is broken: {_words(g)}" for name, g in claim.guards.items() if not g.held]
    if claim.n_seeds < LEAST_SEEDS:
        why.append(f"{claim.n_seeds} of the {LEAST_SEEDS} training seeds that are needed")
    return why


def _interval_says(claim: Claim) -> list[str]:
    if claim.ci95 is None or claim.ci95[0] is None or claim.ci95[1] is None:
        return ["there is no interval"]
    low, high = float(claim.ci95[0]), float(claim.ci95[1])
    fine = {"above": low > claim.beyond, "below": high < claim.beyond, "not_above": low <= claim.beyond,
            "not_below": high >= claim.beyond}[claim.interval]  # fmt: skip
    wanted = {"above": "is not wholly above", "below": "is not wholly below", "not_above": "is wholly above",
              "not_below": "is wholly below"}[claim.interval]  # fmt: skip
    return [] if fine else [f"interval [{low:.3f}, {high:.3f}] {wanted} {claim.beyond:g}"]


def _words(guard: Guard) -> str:
    if guard.value is None or guard.limit is None:
        return NOT_MEASURED
    return f"{guard.value:.3f} against {'at least' if guard.at_least else 'at most'} {guard.limit:.3f}"


FIELDS = ("value", "ci95", "aim", "better", "held", "guards", "cause", "n_seeds", "n", "per_seed", "command", "commit")
NAMES = (
    "imitation_fde_over_cv", "imitation_af_cr_over_cv", "consistency_gap_reduction", "fde_vs_senna",
    "af_cr_reduction_vs_senna", "stage2_gap_reduction", "stage2_over_prolonged", "stage3_af_cr_reduction",
    "adapter_both", "control_accelerate_keep", "control_keep_decelerate", "control_accelerate_decelerate",
    "showcase_finished",
)  # fmt: skip


def validate_claims(found: dict[str, Any]) -> dict[str, Any]:
    """The same object, or `InputError` naming what breaks the schema."""
    if found.get("schema") != SCHEMA or tuple(found.get("claims", {})) != NAMES:
        raise InputError(f"claims.json: schema '{SCHEMA}' with the claims {NAMES} is expected")
    for name, claim in found["claims"].items():
        if tuple(claim) != FIELDS:
            raise InputError(f"claims.json: claims.{name} has {tuple(claim)}, expected {FIELDS}")
        if claim["held"] is not (claim["cause"] is None):
            raise InputError(f"claims.json: claims.{name} must be held, or name a cause")
        if claim["held"] and not all(g["held"] for g in claim["guards"].values()):
            raise InputError(f"claims.json: claims.{name} is held, but a guard is broken")
    return found
