"""Every known collapse, provoked on policies that train in seconds: the stage stops, says so, keeps what was good."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch

from senna2.train.diagnostics import SPEED_CLASSES
from senna2.train.distributed import Ranks
from senna2.train.frames import RolloutFrames, save_frames
from senna2.train.guards import (
    AlignmentGuards,
    DrivingGuards,
    Verdict,
    VlmGuards,
    at_least,
    judge_driving,
    not_one_class,
    off,
)
from senna2.train.levels import HighLevel, LowLevel, frozen_copy
from senna2.train.loop import GuardTripped, Optim, train
from senna2.train.stage1 import Stage1a, VlmStage, run_1a
from senna2.train.stage2 import Stage2, run_2
from senna2.train.stage3 import Stage3, run_3

IDLE = Optim(steps=4, batch=4, lr=1e-9, checkpoint_every=2, log_every=1)
HERE = {"seed": 5, "ranks": Ranks(), "resume": False}


def _weights(policy):
    return {n: p.detach().clone() for n, p in policy.named_parameters()}


# --- the VLM: an untrained one says the same to everything, and does not look -----------------------


@pytest.mark.parametrize(
    ("guards", "says"),
    [
        (VlmGuards(after=1, least_drop=None), r"stage 1a, step 3: guard 'always \w+': .* is 1, the limit 0.95; raise"),
        (VlmGuards(after=1, most_one_class=None, least_drop=0.2), r"guard 'VLM ignores the image': .*limit 0.2; train"),
    ],
)
def test_a_vlm_that_says_one_thing_or_does_not_look_stops_stage_1a(guards, says, make_policy, store, tmp_path):
    config = Stage1a(IDLE, health_samples=12, guards=guards)
    with pytest.raises(GuardTripped, match=says) as trip:
        run_1a(make_policy(), store, config, tmp_path, **HERE)
    assert "the state after step 2 is kept in" in str(trip.value)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-0000002"]
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 3  # the row that shows it is in the log


@pytest.mark.parametrize("guards", [off(VlmGuards(after=1)), VlmGuards(after=1000)])
def test_guards_can_be_switched_off_and_wait(guards, make_policy, store, tmp_path):
    log = run_1a(make_policy(), store, Stage1a(IDLE, health_samples=12, guards=guards), tmp_path, **HERE)
    health = json.loads((tmp_path / "health.json").read_text())
    assert health.items() <= log[-1].items()
    said = [v for n, v in health.items() if n.startswith("says_")]
    assert sorted(said) == [0.0, 0.0, 0.0, 1.0]
    recall = [v for n, v in health.items() if n.startswith("recall_") and n.split("_", 1)[1] in SPEED_CLASSES]
    assert sorted(recall) == [0.0, 0.0, 1.0]
    assert abs(health["drop_when_shuffled"]) < 0.2


def test_a_healthy_vlm_passes(make_policy, store):
    stage = VlmStage(make_policy(), store, Stage1a(IDLE, guards=VlmGuards(after=1)), 0)
    even = {f"{what}_{c}": 0.25 for what in ("says", "expert") for c in ("accelerate", "decelerate", "keep", "stop")}
    stage.guard({**even, "drop_when_shuffled": 0.3}, 10)
    mostly = even | {"says_keep": 0.97, "expert_keep": 0.93}  # the road may well ask for nothing else
    stage.guard({**mostly, "drop_when_shuffled": 0.03}, 10)


def test_one_class_is_fair_where_it_is_right():
    not_one_class(0.95, {"stop": 0.96}, {"stop": 0.9}, "")
    with pytest.raises(GuardTripped, match="always STOP"):
        not_one_class(0.95, {"stop": 0.96}, {"stop": 0.2}, "")
    not_one_class(None, {"stop": 1.0}, {}, "")
    with pytest.raises(GuardTripped):
        at_least(0.5, float("nan"), "g", "what", "")  # what is no number passes no limit


# --- stage 2 ------------------------------------------------------------------------------------------


def test_a_vlm_that_says_one_thing_stops_stage_2(make_policy, store, tmp_path):
    guards = AlignmentGuards(after=1, least_consistent=None)
    with pytest.raises(GuardTripped, match=r"stage 2, step 0: guard 'always \w+'"):
        run_2(make_policy(), store, Stage2(IDLE, guards=guards), tmp_path, **HERE)


def test_plans_that_agree_with_nothing_stop_stage_2(make_policy, store, tmp_path):
    policy = make_policy(basis="points")
    torch.nn.init.normal_(list(policy.planner.parameters())[-1], std=1.0)  # jagged plans, UNKNOWN to f_K
    torch.nn.init.normal_(list(policy.planner.parameters())[-2], std=1.0)
    guards = AlignmentGuards(after=1000, most_one_class=None)  # even so the last step is looked at
    with pytest.raises(GuardTripped, match=r"step 3: guard 'plans agree with nothing': .* is 0, the limit 0.02"):
        run_2(policy, store, Stage2(IDLE, guards=guards), tmp_path, **HERE)


# --- stage 3 ------------------------------------------------------------------------------------------


def _frames(samples, risky: bool) -> RolloutFrames:
    """Every third frame without a flag, the others all risky or all slow."""
    n = len(samples)
    flagged, none = np.arange(n) % 3 > 0, np.full(n, -1, np.int8)
    return RolloutFrames(samples, flagged & risky, flagged & (not risky), none, none)


def _run_3(policy, samples, risky, tmp_path, *, lr=2e-3, faithful=True, judge=None, guards=None):
    save_frames(tmp_path / "round-0", _frames(samples, risky))
    low = Optim(steps=24, batch=8, lr=lr, log_every=4)
    config = Stage3(low, low, faithful=faithful, guards=guards or DrivingGuards())
    more = {**HERE, "resume": True}
    return run_3(policy, lambda *_: pytest.fail("frames are there"), config, tmp_path, judge=judge, **more)


@pytest.mark.parametrize(("risky", "guard"), [(True, "parked"), (False, "run away")])
def test_the_literal_loss_parks_or_runs_away_and_the_round_is_taken_back(
    risky, guard, straight_driver, tmp_path, capsys
):
    policy, samples = copy.deepcopy(straight_driver[0]), straight_driver[1]
    before = _weights(policy)
    log = _run_3(policy, samples, risky, tmp_path)
    assert log[-1]["fine"] == 0.0
    stopped = json.loads((tmp_path / "stopped.json").read_text())
    assert stopped["guard"] == guard
    said = capsys.readouterr().out
    assert f"stage 3: round 0 is taken back, the stage ends: stage 3-low, step {stopped['message'].split()[3]}" in said
    assert "take a smaller lr, fewer steps or a larger lambda_anchor" in said
    assert all(torch.equal(p, before[n]) for n, p in policy.named_parameters())
    rows = [json.loads(line) for line in (tmp_path / "round-0" / "low" / "log.jsonl").read_text().splitlines()]
    lengths = [row["length_ratio"] for row in rows]
    assert lengths[-1] < 0.6 if risky else lengths[-1] > 1.5
    assert {"grad_norm_safe", "grad_norm_slow", "grad_norm_anchor", "cross_track_m", "flagged_length_ratio",
            "parked"} <= rows[-1].keys()  # fmt: skip
    assert (rows[0]["grad_norm_safe"] > 0, rows[0]["grad_norm_slow"] > 0) == (risky, not risky)
    assert rows[0]["grad_norm_anchor"] == 0


def test_without_guards_the_same_run_goes_on_to_the_end(straight_driver, tmp_path):
    policy = copy.deepcopy(straight_driver[0])
    log = _run_3(policy, straight_driver[1], True, tmp_path, guards=off(DrivingGuards()))
    assert log[-1]["fine"] == 1.0
    assert log[-1]["after_length_ratio"] < 0.6
    assert not (tmp_path / "stopped.json").exists()


def test_the_anchor_holds_what_the_literal_loss_parks(straight_driver, tmp_path):
    """A third of the frames holds, two thirds pull: the flagged plans become shorter, the others hardly."""
    policy = copy.deepcopy(straight_driver[0])
    log = _run_3(policy, straight_driver[1], True, tmp_path, lr=1e-4, faithful=False)
    assert log[-1]["fine"] == 1.0
    assert log[-1]["after_flagged_length_ratio"] < log[-1]["after_length_ratio"] + 0.02
    assert log[-1]["after_cross_track_m"] < 0.5
    row = json.loads((tmp_path / "log.jsonl").read_text())
    assert (row["round"], row["frames"]) == (0.0, 24.0)
    assert row["flagged"] == row["risky"] == pytest.approx(2 / 3)


def test_a_round_that_the_judge_rejects_is_taken_back(straight_driver, tmp_path):
    policy = copy.deepcopy(straight_driver[0])
    before = _weights(policy)
    log = _run_3(
        policy, straight_driver[1], True, tmp_path, lr=1e-5, judge=lambda *_: Verdict(False, "no", {"progress": 0.1})
    )
    assert (log[-1]["fine"], log[-1]["tune_progress"]) == (0.0, 0.1)
    assert json.loads((tmp_path / "stopped.json").read_text())["message"] == "no"
    assert all(torch.equal(p, before[n]) for n, p in policy.named_parameters())


BEFORE = {"progress": 0.9, "parked": 0.0, "off_road": 0.1}


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (BEFORE, "within every limit"),
        (BEFORE | {"progress": 0.5}, "guard 'parked': progress"),
        (BEFORE | {"parked": 0.3}, "guard 'parked': the share of tuning clips that are parked is 0.3, the limit 0.05"),
        (BEFORE | {"off_road": 0.4}, "guard 'run away': the share of tuning clips that are off road is 0.4, the limit"),
    ],
)
def test_the_judge_compares_with_the_start(after, reason):
    verdict = judge_driving(BEFORE, after, DrivingGuards())
    assert verdict.fine == (after == BEFORE)
    assert reason in verdict.reason
    assert judge_driving(BEFORE, after, off(DrivingGuards())).fine


def test_a_plan_that_leaves_its_path_and_a_vlm_that_brakes_everywhere_are_stopped(make_policy, store, straight_driver):
    policy, samples = straight_driver
    none = np.full(len(samples), -1, np.int8)
    calm = np.zeros(len(samples), bool)
    low = LowLevel(policy, frozen_copy(policy), RolloutFrames(samples, ~calm, calm, none, none),
                   Stage3(IDLE, IDLE, lambda_anchor=0.0), 0)  # fmt: skip
    with pytest.raises(GuardTripped, match=r"'leaves its path': .* is 1.2, the limit 1;.*retime"):
        low.guard({"length_ratio": 1.0, "cross_track_m": 1.2}, 20)
    system = make_policy()
    high = HighLevel(system, RolloutFrames(store.states, calm, calm, none, none), Stage3(IDLE, IDLE), 0)
    said = {"said_keep": 0.6, "said_decelerate": 0.4}
    high.guard({"says_keep": 0.5, "says_decelerate": 0.5, **said}, 20)
    with pytest.raises(GuardTripped, match="always DECELERATE"):
        high.guard({"says_keep": 0.0, "says_decelerate": 1.0, **said}, 20)


def test_a_worker_process_hands_a_tripped_guard_on():
    trip = GuardTripped("too far", 1.0, 0.5, "the step", "stop earlier")
    trip.args = (f"stage 1a, step 3: {trip}; nothing is saved",)
    again = pickle.loads(pickle.dumps(trip))
    assert str(again) == str(trip)
    assert (type(again), again.guard, again.value, again.limit) == (GuardTripped, "too far", 1.0, 0.5)


def test_a_stage_that_trips_has_the_weights_of_its_last_state(tmp_path):
    """The loop itself: what was learned after the last good state is dropped."""
    from test_loop import OPTIM, Line

    class Fragile(Line):
        def guard(self, row, step):
            if step >= 6:
                raise GuardTripped("too far", 1.0, 0.5, "the step", "stop earlier")

    whole, broken, kept = Line(), Fragile(), []
    train(whole, OPTIM, tmp_path / "whole", on_step=lambda _: kept.append(whole.w.detach().clone()))
    with pytest.raises(GuardTripped, match="the state after step 4 is kept"):
        train(broken, OPTIM, tmp_path / "broken")
    assert torch.equal(broken.w, kept[3])
