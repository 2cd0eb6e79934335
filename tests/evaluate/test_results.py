"""The file: complete, finite, repeatable, validated."""

import dataclasses
import json

import numpy as np
import pytest

from senna2.evaluate.closed_loop import clip_row, closed_loop
from senna2.evaluate.consistency import consistency
from senna2.evaluate.control import control
from senna2.evaluate.metrics import BETTER, DEFINITIONS, SUITES
from senna2.evaluate.open_loop import open_loop
from senna2.evaluate.results import CLIP_KEYS, TOP, assemble, compare, validate_results, write_results
from senna2.types import Contact, InputError, Plans, Rollout, Samples, Speed, VehicleShape


def suites(collides: bool):
    s = dataclasses.replace(Samples.fake(6), clip_N=np.arange(6, dtype=np.int32) % 3, clips=("a", "b", "c"),
                            families=("f",) * 3)  # fmt: skip
    p = Plans.fake(6)
    hit = (Contact(1.0, "leader", 0, True, "front", 8.0),) if collides else ()
    name = "senna" if collides else "senna2"
    drives = [dataclasses.replace(Rollout.fake(), clip=c, policy=name, contacts=hit) for c in "abc"]
    forced = dict.fromkeys((Speed.ACCELERATE, Speed.KEEP, Speed.DECELERATE), p)
    return {
        "consistency": consistency(s, p),
        "open_loop": open_loop(s, p, VehicleShape()),
        "closed_loop": closed_loop(drives),
        "control": control(s, forced),
    }, [clip_row(d) for d in drives]


def make():
    (bad, rows_bad), (good, rows_good) = suites(True), suites(False)
    policies = {"senna2": good, "senna": bad}
    return assemble(
        provenance={"command": "senna2 run"},
        recipe={"name": "smoke", "note": "proves the machinery"},
        seeds=[0],
        policies=policies,
        clips=rows_bad + rows_good,
        comparisons=compare(policies, [("senna2", "senna")]),
        timings_s={"eval": 1.0},
    )


def test_it_holds_every_suite_metric_and_clip(tmp_path):
    results = make()
    write_results(tmp_path / "deep" / "results.json", results)
    read = json.loads((tmp_path / "deep" / "results.json").read_text())
    assert read == results
    assert tuple(read) == TOP
    for policy in ("senna2", "senna"):
        for suite, names in SUITES.items():
            assert tuple(read["policies"][policy][suite]) == names
    assert len(read["clips"]) == 6
    assert tuple(read["clips"][0]) == CLIP_KEYS
    assert read["clips"][0]["policy"] == "senna2"
    assert read["clips"][0]["min_ttc_s"] is None  # infinite
    assert set(read["definitions"]) == {"evaluator_version", *DEFINITIONS}


def test_comparison_says_who_is_ahead():
    row = next(c for c in make()["comparisons"] if c["metric"] == "closed_loop.cr")
    assert row["difference"] == -1.0
    assert row["relative"] == -1.0
    assert row["ci95"] == [-1.0, 0.0]  # three clips of three: one in four by chance, so a tie
    assert row["paired_over"] == 3


def test_two_runs_are_identical():
    assert json.dumps(make()) == json.dumps(make())


def test_every_metric_has_a_direction():
    assert set(BETTER) == {f"{s}.{n}" for s, names in SUITES.items() for n in names}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda r: r.pop("clips"), "clips is missing"),
        (lambda r: r.update(schema="x"), "schema"),
        (lambda r: r["policies"]["senna"]["open_loop"].update(fde={}), "open_loop.fde is no metric"),
        (lambda r: r["policies"]["senna"]["open_loop"]["fde_m"].pop("n"), "open_loop.fde_m needs"),
        (lambda r: r["policies"]["senna"]["open_loop"]["fde_m"].update(value=float("inf")), "fde_m.value holds"),
        (lambda r: r["policies"]["senna"]["open_loop"]["fde_m"].update(ci95=[2, 1]), "upside down"),
        (lambda r: r["clips"][0].pop("family"), "family"),
        (lambda r: r["comparisons"][0].pop("ci95"), "comparisons"),
    ],
)
def test_a_broken_file_is_refused_by_field(break_it, message):
    results = make()
    break_it(results)
    with pytest.raises(InputError, match=message):
        validate_results(results)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, make())
    before = path.read_text()
    broken = make()
    broken["seeds"] = [float("nan")]
    with pytest.raises(InputError):
        write_results(path, broken)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
