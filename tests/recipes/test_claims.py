"""Claims from constructed results: held, not held, not measured, guards broken; and the evidence they rest on."""

import copy
import json

import numpy as np
import pytest

from senna2.evaluate.metrics import MetricValue
from senna2.evaluate.stats import ANY_SEED, Sums, measure, paired, paired_difference
from senna2.recipes.claims import NAMES, claims, evidence, validate_claims
from senna2.types import InputError


def _metric(value, ci=None):
    return {"value": value, "ci95": ci, "n": 480, "per_seed": [value] * 3}


def good() -> dict:
    """Results under which every claim is held."""
    drive = {"progress_ratio": _metric(0.97), "parked": _metric(0.01), "off_road": _metric(0.02)}
    say = {"decision_accuracy": _metric(0.8), "coverage": _metric(0.9)}
    control = {f"auroc_{p}": _metric(0.95, [0.93, 0.97]) for p in
               ("accelerate_keep", "keep_decelerate", "accelerate_decelerate")}  # fmt: skip
    policies = {
        name: {"closed_loop": {**drive, "af_cr": _metric(0.1)}, "consistency": {**say}, "control": {**control}}
        for name in ("senna", "senna@long", "senna2@1", "senna2@2", "senna2")
    }
    policies["senna2 showcase"] = {"closed_loop": {"finished": _metric(0.93, [0.9, 0.95])}}

    def proof(value, low, high):
        return {"value": value, "ci95": [low, high], "n": 480, "n_seeds": 3, "per_seed": [value] * 3}

    found = {
        "imitation_fde_over_cv": proof(0.5, 0.45, 0.55), "imitation_af_cr_over_cv": proof(0.2, 0.15, 0.25),
        "consistency_gap_reduction": proof(0.4, 0.2, 0.5), "fde_vs_senna": proof(-0.05, -0.1, 0.01),
        "fde_stage_2": proof(0.02, 0.0, 0.03), "fde_stage_3": proof(0.08, 0.05, 0.1),
        "af_cr_reduction_vs_senna": proof(0.5, 0.3, 0.6), "stage2_gap_reduction": proof(0.25, 0.1, 0.3),
        "stage2_over_prolonged": proof(0.1, 0.02, 0.2), "stage3_af_cr_reduction": proof(0.4, 0.2, 0.5),
        "least_class_share": {"value": 0.7, "ci95": None, "n": 5000, "n_seeds": 3, "per_seed": []},
        **{f"adapter_f1_over_{k}": proof(0.02, -0.01, 0.04) for k in ("decision", "vlm", "none")},
        **{f"adapter_fde_over_{k}": proof(-0.02, -0.04, 0.01) for k in ("decision", "vlm", "none")},
        **{f"control_{p}_over_senna": proof(0.05, 0.02, 0.08) for p in
           ("accelerate_keep", "keep_decelerate", "accelerate_decelerate")},
    }  # fmt: skip
    return {"provenance": {"command": "senna2 run --recipe results", "commit": "abc"}, "policies": policies,
            "evidence": found}  # fmt: skip


def _claim(results, name, **more):
    return claims(results, **more)["claims"][name]


def test_all_are_held_where_all_is_well():
    found = claims(good())
    assert tuple(found["claims"]) == NAMES
    assert {n: c["cause"] for n, c in found["claims"].items() if not c["held"]} == {}
    one = found["claims"]["af_cr_reduction_vs_senna"]
    assert (one["value"], one["ci95"], one["aim"], one["better"]) == (0.5, [0.3, 0.6], 0.2, "higher")
    assert (one["n_seeds"], one["n"], one["command"], one["commit"]) == (3, 480, "senna2 run --recipe results", "abc")
    assert one["guards"]["progress"] == {"value": 0.97, "limit": pytest.approx(0.873), "held": True}
    json.dumps(found, allow_nan=False)


def test_nothing_measured():
    empty = {"provenance": {}, "policies": {}}
    for claim in claims(empty)["claims"].values():
        assert (claim["value"], claim["held"], claim["cause"], claim["n_seeds"]) == (None, False, "not measured", 0)


# What is changed in the results, the claim that falls by it, and a part of its cause.
BREAKS = [
    ("imitation_fde_over_cv", {"value": 0.66}, "value 0.660 is not at most 0.65"),
    ("imitation_fde_over_cv", {"ci95": [0.5, 1.0]}, "is not wholly below 1"),
    ("imitation_af_cr_over_cv", {"value": 0.5}, "is not under 0.5"),
    ("consistency_gap_reduction", {"value": 0.338}, "is not at least 0.339"),
    ("consistency_gap_reduction", {"ci95": [0.0, 0.5]}, "is not wholly above 0"),
    ("consistency_gap_reduction", {"ci95": None}, "no interval"),
    ("fde_vs_senna", {"value": 0.05, "ci95": [0.01, 0.1]}, "is wholly above 0"),
    ("af_cr_reduction_vs_senna", {"value": 0.19}, "is not at least 0.2"),
    ("af_cr_reduction_vs_senna", {"n_seeds": 2}, "2 of the 3 training seeds"),
    ("stage2_gap_reduction", {"value": 0.1}, "is not at least 0.2"),
    ("stage2_over_prolonged", {"value": 0.0}, "is not over 0"),
    ("stage3_af_cr_reduction", {"ci95": [-0.1, 0.5]}, "is not wholly above 0"),
]


@pytest.mark.parametrize(("name", "change", "cause"), BREAKS)
def test_a_value_or_interval_can_fail(name, change, cause):
    results = good()
    results["evidence"][name] |= change
    claim = _claim(results, name)
    assert not claim["held"]
    assert cause in claim["cause"]


GUARDS = [
    ("consistency_gap_reduction", "senna2", "consistency", "decision_accuracy", 0.75, "guard decision_accuracy"),
    ("consistency_gap_reduction", "senna2", "consistency", "coverage", 0.84, "guard coverage is broken"),
    ("consistency_gap_reduction", "senna", "consistency", "coverage", 0.93, "guard coverage_apart_from_senna"),
    ("imitation_af_cr_over_cv", "senna2@1", "closed_loop", "af_cr", 0.04, "guard clips_hard_enough"),
    ("af_cr_reduction_vs_senna", "senna2", "closed_loop", "progress_ratio", 0.8, "guard progress"),
    ("af_cr_reduction_vs_senna", "senna2", "closed_loop", "parked", 0.06, "guard parked"),
    ("af_cr_reduction_vs_senna", "senna@long", "closed_loop", "off_road", 0.01, "guard off_road"),
    ("stage3_af_cr_reduction", "senna2@2", "closed_loop", "off_road", 0.01, "guard off_road"),
    ("control_keep_decelerate", "senna2", "control", "auroc_keep_decelerate", 0.89, "value 0.890 is not at least 0.9"),
]


@pytest.mark.parametrize(("name", "policy", "suite", "metric", "value", "cause"), GUARDS)
def test_a_guard_can_break(name, policy, suite, metric, value, cause):
    results = copy.deepcopy(good())
    results["policies"][policy][suite][metric] = _metric(value, [value, value])
    claim = _claim(results, name)
    assert not claim["held"]
    assert cause in claim["cause"]


def test_a_guard_that_was_not_measured_is_broken():
    results = good()
    del results["policies"]["senna"]
    claim = _claim(results, "af_cr_reduction_vs_senna")
    assert not claim["held"]
    assert "guard progress is broken: not measured" in claim["cause"]
    assert claim["guards"]["progress"]["limit"] is None


def test_a_neglected_class_and_a_stage_that_worsens_fde_break_guards():
    results = good()
    results["evidence"]["least_class_share"]["value"] = 0.4
    results["evidence"]["fde_stage_3"]["value"] = 0.11
    assert "least_class_share" in _claim(results, "consistency_gap_reduction")["cause"]
    assert "stage_3_worse_by" in _claim(results, "fde_vs_senna")["cause"]


def test_both_tokens_may_tie_but_not_lose():
    results = good()
    results["evidence"]["adapter_f1_over_vlm"] |= {"value": -0.01, "ci95": [-0.03, 0.01]}
    tied = _claim(results, "adapter_both")
    assert tied["held"]
    assert tied["value"] == -0.01
    results["evidence"]["adapter_f1_over_vlm"] |= {"ci95": [-0.03, -0.001]}
    assert not _claim(results, "adapter_both")["held"]
    results = good()
    results["evidence"]["adapter_fde_over_none"] |= {"value": 0.05, "ci95": [0.01, 0.09]}
    assert "fde_over_none_lower" in _claim(results, "adapter_both")["cause"]


def test_each_seed_must_finish_the_showcase():
    results = good()
    results["policies"]["senna2 showcase"]["closed_loop"]["finished"]["per_seed"] = [0.97, 0.95, 0.89]
    claim = _claim(results, "showcase_finished")
    assert (claim["value"], claim["held"]) == (0.89, False)


def test_control_must_be_above_senna():
    results = good()
    results["evidence"]["control_accelerate_keep_over_senna"]["ci95"] = [-0.01, 0.08]
    assert "above_senna_by_at_least" in _claim(results, "control_accelerate_keep")["cause"]


def test_a_cause_in_words_is_added_only_where_it_belongs():
    results = good()
    results["evidence"]["stage2_gap_reduction"]["value"] = 0.1
    found = claims(results, {"stage2_gap_reduction": "too few steps", "fde_vs_senna": "unused"})["claims"]
    assert found["stage2_gap_reduction"]["cause"] == "value 0.100 is not at least 0.2; too few steps"
    assert found["fde_vs_senna"]["cause"] is None


def test_the_schema_is_checked():
    found = claims(good())
    found["claims"]["fde_vs_senna"]["cause"] = "why"
    with pytest.raises(InputError, match=r"fde_vs_senna must be held, or name a cause"):
        validate_claims(found)
    with pytest.raises(InputError, match="expected"):
        validate_claims({"schema": "senna2.claims/1", "claims": {}})


# --- evidence -----------------------------------------------------------------------------------------------


def _units(values_SC, seeds=None) -> MetricValue:
    """A mean over clips of given values a seed."""
    values = np.asarray(values_SC, float)
    seeds = tuple(range(len(values))) if seeds is None else tuple(seeds)
    clips = tuple(f"c{i}" for i in range(values.shape[1]))
    return measure(Sums(clips, seeds, np.stack([values, np.ones_like(values)], -1), is_share=False), len(clips))


def _study(seed=0) -> dict:
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.4, 0.6, (1, 40))
    noise = rng.normal(0, 0.002, (3, 40))
    f1 = {"senna@long": base - 0.1, "senna2@1": base - 0.1, "senna2@1long": base - 0.09, "senna2@2": base - 0.05,
          "senna2": base - 0.02}  # fmt: skip
    return {name: {"consistency": {"avg": _units(v + noise), "ceiling": _units(base + 0.1, (ANY_SEED,))},
                   "open_loop": {"fde_m": _units(v + 1 + noise)}} for name, v in f1.items()}  # fmt: skip


def test_gap_reductions_come_out_at_what_was_put_in():
    found = evidence(_study())
    assert found["consistency_gap_reduction"]["value"] == pytest.approx(1 - 0.12 / 0.2, abs=0.01)
    assert found["stage2_gap_reduction"]["value"] == pytest.approx(0.25, abs=0.01)
    assert found["stage2_over_prolonged"]["value"] == pytest.approx(0.05 / 0.2 - 0.01 / 0.2, abs=0.01)
    low, high = found["stage2_gap_reduction"]["ci95"]
    assert 0.2 < low < 0.25 < high < 0.3
    assert found["stage2_gap_reduction"]["n"] == 40
    assert found["stage2_gap_reduction"]["n_seeds"] == 3
    assert "af_cr_reduction_vs_senna" not in found  # no closed loop was measured


def test_pairing_takes_out_what_clips_have_in_common():
    """The clips differ far more than the policies do; paired, the interval is narrow all the same."""
    study = _study()
    value, ci, n, seeds, own = paired([study[p]["open_loop"]["fde_m"] for p in ("senna2@2", "senna2@1")], np.subtract)
    assert own == pytest.approx([0.05] * 3, abs=1e-3)
    assert value == pytest.approx(0.05, abs=1e-3)
    assert ci is not None
    assert ci[1] - ci[0] < 0.01
    assert (n, seeds) == (40, 3)


def test_pairing_uses_common_seeds_alone():
    """Seed 0 is bad for everybody: a policy that was not trained with it has no advantage from that."""
    both = _units([[5.0, 5.0], [1.0, 2.0]], (0, 1))
    second = _units([[2.0, 3.0]], (1,))
    assert paired([second, both], np.subtract)[::3] == (pytest.approx(1.0), 1)
    assert paired_difference(second, both)["difference"] == pytest.approx(1.0)
    assert paired_difference(second, both)["per_seed"] == pytest.approx([1.0])
    assert paired([both, _units([[4.0, 4.5]], (ANY_SEED,))], np.subtract)[::3] == (pytest.approx(-1.0), 2)
    elsewhere = _units([[2.0, 3.0]], (7,))
    assert paired([elsewhere, both], np.subtract) == (None, None, 0, 0, [])
    assert paired_difference(elsewhere, both)["paired_over"] == 0


def test_pairing_uses_common_clips_alone():
    a, b = _units([[1.0, 2.0, 3.0]]), _units([[0.0, 5.0]])
    assert paired([a, b], np.subtract)[::2] == (pytest.approx(-1.0), 2, pytest.approx([-1.0]))
    with pytest.raises(InputError, match="no units"):
        paired([a, MetricValue(1.0)], np.subtract)


def test_nothing_over_nothing_is_no_number():
    zero = {"closed_loop": {"af_cr": _units([[0.0, 0.0]])}}
    found = evidence({"senna2": zero, "senna@long": zero})
    assert found["af_cr_reduction_vs_senna"]["value"] is None
