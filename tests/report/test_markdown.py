"""The published page holds every table, claim and figure; rows that were not measured are left out."""

import dataclasses
import re

import numpy as np

from senna2.evaluate.closed_loop import closed_loop
from senna2.evaluate.consistency import consistency
from senna2.evaluate.open_loop import open_loop
from senna2.evaluate.results import assemble, compare
from senna2.recipes.claims import NAMES, claims
from senna2.report.markdown import results_page
from senna2.report.media import Figure
from senna2.report.overview import overview_figure, scale_of
from senna2.report.tables import fewer_clips, suite_table
from senna2.types import Plans, Rig, Rollout, Samples, VehicleShape


def _results():
    samples = Samples.fake(12, Rig.fake())
    plans = {s: Plans.fake(12) for s in (0, 1)}
    suites = {}
    for name in ("constant_velocity", "senna@long", "senna2@1", "senna2"):
        rollouts = [dataclasses.replace(Rollout.fake(), policy=name, seed=s, clip=c) for s in (0, 1) for c in "ab"]
        suites[name] = {"open_loop": open_loop(samples, plans, VehicleShape()), "closed_loop": closed_loop(rollouts),
                        "consistency": consistency(samples, plans)}  # fmt: skip
    return assemble(
        provenance={"command": "senna2 run --recipe results", "commit": "abc", "time": "now", "cores": 2},
        recipe={"name": "results", "note": "A note."}, seeds=[0, 1], policies=suites, timings_s={"a": 7200.0},
        comparisons=compare(suites, [("senna2", "senna@long")]),
    )  # fmt: skip


def test_the_page_holds_tables_claims_and_figures():
    results = _results()
    figure = overview_figure(results)
    page = results_page(results, claims(results), {"figures/figure-1.svg": figure})
    for title in ("Table 1", "Table 2", "Table 3", "Table 4", "Table 5", "Claims", "Comparisons", figure.title):
        assert re.search(rf"^## {title}", page, re.M), title
    for name in NAMES:
        assert f"| `{name}`<br>" in page
    assert page.count("not held: not measured") == len(NAMES)
    assert "2.0 core-hours" in page
    assert "![Every row at a glance](figures/figure-1.svg)" in page
    assert "| `senna@long` |" in page
    assert "| `senna2@1vlm` |" not in page  # was not measured


def test_who_drove_fewer_clips_is_not_the_best():
    results = _results()
    measured = {"constant_velocity": (0.3, 2), "senna@long": (0.2, 2), "senna2@1": (0.0, 1), "senna2": (0.1, 2)}
    for name, (value, n) in measured.items():
        for metric in ("af_cr", "cr"):
            results["policies"][name]["closed_loop"][metric] |= {"value": value, "n": n}
    assert fewer_clips(results) == {"senna2@1": 1}
    best = re.findall(r"<td class=best.*?<b>(.*?)</b>", suite_table(results, "closed_loop"))
    assert "0.100" in best
    assert "0.000" not in best[:2]


def test_every_row_of_a_table_has_its_columns():
    page = results_page(_results(), claims(_results()), {})
    tables = [t.splitlines() for t in re.findall(r"(?:^\|.*\n?)+", page, re.M)]
    assert len(tables) >= 7
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
        assert len(widths) == 1, table[0]


def test_the_overview_shows_rows_that_have_something():
    svg = overview_figure(_results()).svg
    assert "senna@long" in svg
    assert svg.startswith("<svg")
    assert overview_figure(_results()).svg == svg  # byte for byte


def test_a_cause_stands_below_the_claims_and_not_in_their_table():
    page = results_page(_results(), claims(_results()), {})
    below = page.split("## Claims")[1].split("## Table 1")[0]
    for name in NAMES:
        assert f"\n* `{name}` not held: not measured" in below
        assert "not measured" not in next(line for line in below.splitlines() if line.startswith(f"| `{name}`<br>"))


def test_a_note_says_what_it_is_about():
    results = _results()
    for policy in ("senna2@1", "senna2"):
        for name in ("cr", "af_cr"):
            results["policies"][policy]["closed_loop"][name]["note"] = "seen from above"
    results["policies"]["senna2"]["consistency"]["avg"]["note"] = "rare"
    page = results_page(results, claims(results), {})
    assert "\n* `senna2@1`, `senna2`, CR, AF-CR: seen from above" in page.split("## Table 3")[1].split("## Table 4")[0]
    assert "\n* `senna2`, avg: rare" in page.split("## Table 1")[1].split("## Table 2")[0]


def test_rows_of_fewer_clips_or_training_seeds_are_named():
    results = _results()
    assert "of the" not in results_page(results, claims(results), {}).split("## Table 3")[1].split("## Table 4")[0]
    results["policies"]["senna2"]["closed_loop"]["af_cr"] |= {"n": 1, "per_seed": [0.1]}
    results["policies"]["constant_velocity"]["closed_loop"]["af_cr"]["per_seed"] = [0.1]  # nothing is trained there
    table = results_page(results, claims(results), {}).split("## Table 3")[1].split("## Table 4")[0]
    assert "\n* `senna2`: closed loop over 1 of the 2 clips; beside the others only under Comparisons" in table
    assert "\n* `senna2`: not all of the training seeds yet" in table


def test_the_figure_of_all_rows_stands_first_and_the_comparisons_last():
    results = _results()
    figures = {f"{name}.svg": Figure(name, "", "<svg/>") for name in ("first", "second")}
    page = results_page(results, claims(results), figures)
    places = [page.index(f"## {title}") for title in ("first", "Claims", "Table 1", "second", "Comparisons")]
    assert places == sorted(places)


def test_one_driver_far_off_does_not_set_the_scale():
    values = np.array([1.5, 1.55, 1.6, 1.45, 4.1])
    low, high = scale_of(values, np.stack([values - 0.1, values + 0.2], 1))
    assert 1.2 < low < 1.35
    assert 1.8 < high < 2
    for value in (0.5, 0.0):
        low, high = scale_of(np.full(3, value), np.full((3, 2), value))
        assert low < value < high


def test_what_lies_beyond_the_scale_is_named():
    results = _results()
    for policy, value in zip(results["policies"], (4.125, 1.5, 1.55, 1.6), strict=True):
        results["policies"][policy]["open_loop"]["fde_m"] |= {"value": value, "ci95": None, "per_seed": [value]}
    assert "4.12 →" in overview_figure(results).svg


def test_a_table_of_systems_stands_once_one_of_them_is_measured():
    results = _results()
    titles = ("Systems · open loop", "Systems · closed loop", "Stage 3 and what may stand in its place")

    def shown():
        page = results_page(results, claims(results), {})
        return [title for title in titles if f"## {title}" in page]

    assert shown() == []
    results["policies"]["senna2@retime"] = results["policies"]["senna2"]
    assert shown() == [titles[2]]
    results["policies"]["vad"] = results["policies"]["senna2"]
    assert shown() == [*titles]
