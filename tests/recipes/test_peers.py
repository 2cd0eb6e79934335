"""The systems that Senna-2 is compared with: equal budgets, the shared encoder, rows that stand beside the study's."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from senna2.model.policy import DualSystem, PolicyConfig
from senna2.model.vlm.qwen import DrivingVLM
from senna2.recipes.arms import (
    ARMS,
    ASK_S,
    DIT_STEP_S,
    PEER_ARMS,
    PEERS,
    ROUND_S,
    STEP_OVER_DIT,
    TRAINERS,
    arm_recipe,
    stage_config,
)
from senna2.recipes.costs import behind, learned_from, with_minutes
from senna2.recipes.own_drives import DRIVEN, drives_a_round
from senna2.recipes.results import baselines, baselines_tiny, results
from senna2.recipes.rows import Kept
from senna2.recipes.stages import with_planner
from senna2.recipes.study import COSTS, FULL, SYSTEMS, measured_by, plan_study
from senna2.recipes.study_jobs import telling
from senna2.recipes.study_report import unmeasured
from senna2.recipes.systems import systems_page
from senna2.report.markdown import OF_SYSTEMS
from senna2.report.markdown import SYSTEMS as SHOWN_SYSTEMS
from senna2.report.media import Figure
from senna2.types import InputError, Rig, Samples

SMALL = {"dim": 32, "blocks": 1, "heads": 2, "channels": (8, 8, 16, 16), "agent_queries": 4, "map_queries": 4}


def test_both_recipes_plan_one_queue_and_measure_different_rows(tmp_path):
    ours, peers = plan_study(results(), tmp_path), plan_study(baselines(), tmp_path)
    assert ours.keys == peers.keys
    mine, theirs = set(measured_by(results(), ours)), set(measured_by(baselines(), peers))
    assert not mine & theirs
    assert theirs == {f"rows/{seed}/{name}" for seed in (0, 1, 2) for name in (*PEERS, *TRAINERS)}
    assert {f"rows/0/{name}" for name in FULL} <= mine
    driven = [j for n, j in peers.jobs.items() if n.startswith("drives/1/vad/")]
    assert sum(len(j.settings["clips"]) for j in driven) == baselines().clips.test


def test_what_is_kept_is_not_measured_again(tmp_path):
    study = baselines_tiny()
    queue, kept = plan_study(study, tmp_path), Kept(tmp_path / "docs")
    every = unmeasured(study, queue, kept)
    assert every == [*measured_by(study, queue), *(f"weighed/{name}" for name in PEERS), COSTS]
    (tmp_path / "row.npz").write_bytes(b"a row")
    kept.keep("rows/0/vad", queue.keys["rows/0/vad"], tmp_path / "row.npz", {})
    assert unmeasured(study, queue, kept) == [n for n in every if n != "rows/0/vad"]


def test_a_new_revision_of_an_arm_is_trained_and_measured_again(tmp_path, monkeypatch):
    study = baselines_tiny()
    before = plan_study(study, tmp_path).keys
    monkeypatch.setitem(ARMS, "vadv2", dataclasses.replace(ARMS["vadv2"], revision=2))
    after = plan_study(study, tmp_path).keys
    changed = {n for n in before if before[n] != after[n]}
    assert {"train/0/vadv2", "plans/0/vadv2", "drives/0/vadv2/0", "rows/0/vadv2", "weighed/vadv2"} <= changed
    assert {n.split("/")[2] for n in changed if n.count("/") >= 2} == {"vadv2"}


@pytest.mark.parametrize("name", PEERS)
def test_budgets_are_senna2s_to_five_percent(name):
    """Minutes of one core after stage 1b, by the benchmark's ratios and the study's own throughput."""
    arm, study = PEER_ARMS[name], baselines()
    spent = study.peer_s - study.deciding_s if arm.vlm else 0.0  # 1a's share
    for own in (n for n in behind(name) if n in PEER_ARMS):
        recipe = arm_recipe(study, 0, own)
        stage = ARMS[own].stage
        if stage in DRIVEN:
            how = stage_config(recipe, stage)
            spent += how.rounds * drives_a_round(how) * ROUND_S[stage]
        else:
            step_s = DIT_STEP_S * STEP_OVER_DIT[arm.planner] + (ASK_S if arm.vlm else 0.0)
            spent += stage_config(recipe, ARMS[own].stage).optim.steps * step_s
    assert spent == pytest.approx(study.peer_s, rel=0.05)
    assert arm_recipe(study, 0, name).policy.planner == arm.planner
    assert ("1a" in behind(name)) == (arm.adapter == "decision")


def test_samples_and_minutes_are_counted_along_the_arms():
    study = results()
    assert behind("senna2") == ["1b", "1a", "senna2@1", "senna2@2", "senna2"]
    own = learned_from(study, "senna2")
    three = study.stage3
    planner = [study.stage1b, study.stage1c, study.stage2]
    wanted = sum(s.optim.steps * s.optim.batch for s in planner) + three.rounds * three.low.steps * three.low.batch
    assert own["planner_samples"] == wanted
    assert own["drives"] == study.clips.rollout
    assert learned_from(study, "vad")["vlm_samples"] == 0
    seconds = {f"train/0/{arm}": 60.0 for arm in behind("senna_vadv2")} | {"train/1/1b": 60.0}
    cost = with_minutes({"senna_vadv2": {"parameters": 1}}, seconds, {}, (0, 1))["senna_vadv2"]
    assert cost == {"parameters": 1, "minutes": [3.0]}  # seed 1 is not whole
    own = {"rows/0/senna_vadv2": {"train/0/1b": 120.0}}  # that row rests on another training of 1b
    assert with_minutes({"senna_vadv2": {}}, seconds, own, (0, 1))["senna_vadv2"] == {"minutes": [4.0]}


def test_another_planner_begins_on_the_shared_encoder():
    source = DualSystem(PolicyConfig(**SMALL), Rig.fake(), vlm=DrivingVLM.tiny(), seed=3)
    source.fit_planner(Samples.fake(24, Rig.fake()))
    other = with_planner(source, dataclasses.replace(source.config, planner="vad", adapter="decision"), seed=5)
    assert (other.config.planner, other.config.adapter) == ("vad", "decision")
    assert other.vlm is source.vlm
    for part in ("encoder", "perception"):
        for (name, a), (_, b) in zip(source.part(part).named_parameters(), other.part(part).named_parameters(),
                                     strict=True):  # fmt: skip
            torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
            assert a is not b
    with pytest.raises(InputError, match="not fitted"):
        other.plan_batch(Samples.fake(2, Rig.fake()))
    other.fit_planner(Samples.fake(24, Rig.fake()))
    assert np.isfinite(other.plan_batch(Samples.fake(2, Rig.fake())).points_NT2).all()


def test_a_planner_that_extends_the_one_before_keeps_it():
    source = DualSystem(PolicyConfig(adapter="none", **SMALL), Rig.fake(), seed=3)
    source.fit_planner(Samples.fake(24, Rig.fake()))
    torch.nn.init.normal_(source.planner.out.weight)
    other = with_planner(source, dataclasses.replace(source.config, planner="rad2", adapter="none"), seed=5)
    for name, p in source.planner.named_parameters():
        torch.testing.assert_close(other.planner.get_parameter(name), p, rtol=0, atol=0, msg=name)
    samples = Samples.fake(2, Rig.fake())
    assert np.isfinite(other.plan_batch(samples).points_NT2).all()


def test_the_planner_of_senna2_can_begin_anew_like_the_others():
    assert PEER_ARMS["dit"].anew
    assert [name for name, arm in ARMS.items() if arm.anew] == ["dit"]
    source = DualSystem(PolicyConfig(adapter="none", **SMALL), Rig.fake(), seed=3)
    source.fit_planner(Samples.fake(24, Rig.fake()))
    torch.nn.init.normal_(source.planner.out.weight)
    other = with_planner(source, source.config, seed=5, anew=True)
    assert not other.planner.is_fitted
    assert not other.planner.out.weight.any()
    for part in ("encoder", "perception"):
        for a, b in zip(source.part(part).parameters(), other.part(part).parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_each_system_has_a_page_with_source_deviations_and_its_figure():
    drawn = {"weighed-vad": Figure("What vad weighs", "A caption.", "<svg></svg>")}
    drawn["figure-A1-senna2"] = Figure("Drives of senna2", "Forced.", "<svg></svg>")
    page = systems_page(drawn)
    sections = {s.split("\n", 1)[0]: s for s in page.split("\n## ")[1:]}
    assert list(sections) == [*PEERS, "senna", "senna2"]
    for name, text in sections.items():
        if name in PEERS and ARMS[name].vlm:
            assert f"the planner is `{ARMS[name].planner}`" in text
        else:
            assert "iffers from the original" in text, name
            assert re.search(r"\d{4}\.\d{5}|PAMI", text), name
        assert "Legend" not in text
    assert "![What vad weighs](figures/weighed-vad.svg)\n\nA caption." in sections["vad"]
    assert "![Drives of senna2](figures/figure-A1-senna2.svg)\n\nForced." in sections["senna2"]
    assert "adapter `decision`" in sections["senna"]
    assert "L_safe" in sections["senna2"]
    for name in ("genad", "senna"):
        assert "figures/" not in sections[name]


def test_telling_samples_turn_brake_and_change_lane():
    samples = Samples.fake(9, Rig.fake())
    future, direction = samples.future_NT3.copy(), samples.direction_N.copy()
    future[4, :, 2] = np.linspace(0, 1.2, 30)
    future[5, 25:, 0] = future[5, 24, 0]  # stands at its end
    future[[1, 7], :, 1] = np.array([[1.0], [3.2]]) * np.linspace(0, 1, 30)
    direction[[1, 7]] = 3
    made = dataclasses.replace(samples, future_NT3=future, direction_N=direction, frame_N=np.arange(9, dtype=np.int32))
    assert telling(made).frame_N.tolist() == [4, 5, 7]


def test_every_system_has_its_line():
    assert set(SYSTEMS) - set(TRAINERS) <= set(SHOWN_SYSTEMS)
    assert set(TRAINERS) <= {row for table in OF_SYSTEMS for row in table[2]}
    assert set(PEERS) < set(PEER_ARMS) <= set(ARMS)
    assert dataclasses.replace(baselines(), name="results", table="results") == results()
