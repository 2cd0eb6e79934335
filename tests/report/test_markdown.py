"""The published page holds every table, claim and figure; rows that were not measured are left out."""

import dataclasses
import re

from senna2.evaluate.closed_loop import closed_loop
from senna2.evaluate.consistency import consistency
from senna2.evaluate.open_loop import open_loop
from senna2.evaluate.results import assemble, compare
from senna2.recipes.claims import NAMES, claims
from senna2.report.figures import overview_figure
from senna2.report.markdown import results_page
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
        assert f"| `{name}` |" in page
    assert page.count("not held: not measured") == len(NAMES)
    assert "2.0 core-hours" in page
    assert "![Every row at a glance](figures/figure-1.svg)" in page
    assert "| `senna@long` |" in page
    assert "| `senna2@1vlm` |" not in page  # was not measured


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
