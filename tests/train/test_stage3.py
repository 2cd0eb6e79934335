"""The stage-3 losses: their signs, what they move, and which frames they see."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from senna2.model.batch import Batch
from senna2.train.distributed import Ranks
from senna2.train.frames import RolloutFrames, flags, save_frames, select_frames
from senna2.train.guards import DrivingGuards, off
from senna2.train.levels import HighLevel, LowLevel, Stage3, Together, frozen_copy
from senna2.train.loop import Optim
from senna2.train.losses import disagreement_nll, l_eff, l_safe
from senna2.train.stage1 import vlm_of
from senna2.train.stage3 import run_3
from senna2.types import Contact, Observation, Rollout


def straight(v: float = 8.0) -> torch.Tensor:
    x = v * 0.1 * torch.arange(1.0, 31.0)
    return torch.stack([x, torch.zeros_like(x)], -1)[None].requires_grad_()


def test_gradient_signs_on_a_straight_plan():
    tau = straight()
    l_safe(tau).sum().backward()
    assert (tau.grad[0, 0] == 0).all()
    assert (tau.grad[0, 1:, 0] > 0).all()  # descending pulls every later point back
    tau = straight()
    l_eff(tau).sum().backward()
    assert (tau.grad[0, -1] == 0).all()
    assert (tau.grad[0, :-1, 0] < 0).all()
    assert (tau.grad[0, :, 1] == 0).all()


def test_a_standing_plan_has_no_gradient():
    """Parking is absorbing: neither loss moves a plan whose points coincide."""
    for loss in (l_safe, l_eff):
        tau = torch.zeros(1, 30, 2, requires_grad=True)
        loss(tau).sum().backward()
        assert (tau.grad == 0).all()


@pytest.mark.parametrize(("risky", "sign"), [(True, -1), (False, 1)])
def test_one_step_shortens_or_lengthens_straight_plans(risky, sign, straight_driver):
    """One flagged batch of straight plans, one gradient step: the end point moves along, hardly aside."""
    policy, samples = copy.deepcopy(straight_driver[0]), straight_driver[1]
    n = len(samples)
    none = np.full(n, -1, np.int8)
    frames = RolloutFrames(samples, np.full(n, risky), np.full(n, not risky), none, none)
    config = Stage3(Optim(1, n, 1e-3), Optim(1, n, 1e-3), lambda_anchor=0.0, lambda_eff=1.0)
    stage = LowLevel(policy, frozen_copy(policy), frames, config, seed=0)
    index = np.arange(n)
    tensors = Batch.from_samples(samples)

    def plans() -> torch.Tensor:
        with torch.no_grad():
            return stage.plan(policy, index, tensors, 0)

    before = plans()
    assert before[..., 1].abs().max() < 0.25  # straight, as far as 150 steps teach it
    loss, _ = stage.loss(stage.load(index), 0, n)
    sum(loss.values()).backward()
    torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-5, weight_decay=0).step()
    moved = (plans() - before)[:, -1]
    assert (sign * moved[:, 0] > 0).all()
    assert moved[:, 1].abs().sum() < 0.01 * moved[:, 0].abs().sum()


def test_frames_end_at_the_first_contact_and_lie_on_the_grid():
    r = Rollout.fake(frames=20)
    r = dataclasses.replace(
        r,
        ttc_F=np.where(np.arange(20) >= 8, 1.0, np.inf),
        contacts=(Contact(1.3, "a", 0, False, "rear", 5.0),),
        observations=tuple(Observation.fake() if i % 4 == 0 else None for i in range(20)),
    )
    frames = select_frames([r], 4, 3.0, 0.8, 2.0)
    assert len(frames.samples) == 4  # frames 0, 4, 8, 12; 13 is the contact
    assert frames.safe_N.tolist() == [False, False, True, True]


def test_slow_needs_speed_and_distance_behind_the_expert_and_no_danger():
    r = Rollout.fake(frames=60, v=8.0)
    slow = dataclasses.replace(
        r, ego_F6=np.where(np.arange(6) == 3, 4.0, r.ego_F6), progress_F=4.0 * r.t_F, speed_limit_F=np.full(60, np.nan)
    )
    _, safe, behind = flags(slow, 3.0, 0.8, 2.0)
    assert not safe.any()
    assert not behind[:5].any()  # not yet 2 m behind
    assert behind[10:].all()
    capped = dataclasses.replace(slow, speed_limit_F=np.full(60, 4.5))
    assert not flags(capped, 3.0, 0.8, 2.0)[2].any()  # the limit explains the speed
    risky = dataclasses.replace(slow, ttc_F=np.full(60, 2.0))
    assert not flags(risky, 3.0, 0.8, 2.0)[2].any()


def test_high_level_loss_is_the_marginal_of_the_disagreeing_half():
    logits = torch.randn(1, 20)
    logp = logits.log_softmax(1)
    table = logp.exp().view(4, 5)
    best = int(logp.argmax())
    said_speed, said_direction = best // 5, best % 5
    other = (said_speed + 1) % 4
    path = {0: 0, 1: 1, 2: 2, 3: 1, 4: 2}[said_direction]
    nll, wrong = disagreement_nll(logp, torch.tensor([other]), torch.tensor([path]))
    assert wrong.item()
    assert nll.item() == pytest.approx(-np.log(table[other].sum().item()), rel=1e-4)
    agree, wrong = disagreement_nll(logp, torch.tensor([said_speed]), torch.tensor([path]))
    assert not wrong.item()
    assert agree.item() == 0
    unknown, wrong = disagreement_nll(logp, torch.tensor([-1]), torch.tensor([path]))
    assert not wrong.item()
    assert unknown.item() == 0


def test_a_lane_change_is_judged_on_speed_alone():
    logp = torch.full((1, 20), -10.0)
    logp[0, 2 * 5 + 3] = 0.0  # KEEP SPEED, CHANGE LANE LEFT
    nll, wrong = disagreement_nll(logp.log_softmax(1), torch.tensor([2]), torch.tensor([0]))
    assert not wrong.item()
    assert nll.item() == 0


def test_features_that_argue_for_another_decision_than_the_rollouts_are_taken_away(make_policy, store):
    """The rollout's decision may be of an earlier tick than the features of its frame."""
    policy = make_policy()
    said = policy.ask(store.states)
    speed, direction = said.speed_B.numpy().copy(), said.direction_B.numpy()
    speed[1::2] = (speed[1::2] + 1) % 4
    none = np.zeros(len(store), bool)
    frames = RolloutFrames(store.states, ~none, none, speed, direction)
    stage = LowLevel(policy, frozen_copy(policy), frames, dataclasses.replace(_settings(), lambda_anchor=0.0), 0)
    given = []
    policy.adapter.register_forward_pre_hook(lambda _m, args: given.append(args))
    index = np.array([4, 5, 6, 7])
    stage.plan(policy, index, Batch.from_samples(store.states.take(index)), 0)
    hidden, told, _, keep = given[0]
    assert keep.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(told, speed[index])
    torch.testing.assert_close(hidden, said.hidden_BD[index])


def _settings() -> Stage3:
    return Stage3(Optim(steps=2, batch=8, lr=1e-4), Optim(steps=2, batch=4, lr=1e-4))


def _thirds(store) -> RolloutFrames:
    """A third risky, a third slow, a third neither; no decision was given."""
    kind, none = np.arange(len(store)) % 3, np.full(len(store), -1, np.int8)
    return RolloutFrames(store.states, kind == 0, kind == 1, none, none)


def test_lora_is_untouched_by_the_planners_losses_and_the_planner_by_the_vlms(make_policy, store):
    policy = make_policy()
    vlm_of(policy).add_lora()
    frames, anchor = _thirds(store), frozen_copy(policy)
    low = LowLevel(policy, anchor, frames, _settings(), 0)
    assert not any(n.startswith("vlm.") for n in low.named_parameters())
    both = Together(policy, anchor, frames, dataclasses.replace(_settings(), together=True), 0)
    loss, values = both.loss(both.load(np.arange(12)), 0, 12)
    assert values.keys() == {"safe", "slow", "anchor", "high", "disagree"}
    assert loss["safe"].item() > 0
    assert loss["slow"].item() > 0
    assert loss["high"].item() > 0  # a fresh planner keeps its speed, a fresh VLM says the same to all
    named = both.named_parameters()
    for term, own in (("safe", "planner."), ("slow", "planner."), ("high", "vlm.")):
        found = torch.autograd.grad(loss[term], list(named.values()), retain_graph=True, allow_unused=True)
        touched = {n for n, g in zip(named, found, strict=True) if g is not None and bool(g.abs().sum() > 0)}
        assert touched
        assert all(n.startswith("vlm.") == (own == "vlm.") for n in touched), term
    assert loss["anchor"].item() == 0.0  # nothing has moved yet


def test_forced_decisions_hold_the_policy_on_frames_without_a_flag(make_policy, store):
    policy, frames = make_policy(), _thirds(store)
    stage = LowLevel(policy, frozen_copy(policy), frames, dataclasses.replace(_settings(), forced_share=1.0), 0)
    index = np.arange(len(store))
    tensors = Batch.from_samples(frames.samples)
    forced = stage.forced(index, 3)
    assert {-1} < set(forced.tolist()) <= {-1, 0, 1, 2, 3}
    assert (forced[stage.unflagged] >= 0).all()
    assert set(forced[stage.flagged].tolist()) == {-1}
    # what is held is the plan under that speed, without the features that argue for the VLM's own
    told = dataclasses.replace(frames, speed_N=np.where(forced >= 0, forced, frames.speed_N).astype(np.int8))
    deaf = dataclasses.replace(stage.heard, agrees_N=torch.as_tensor(forced < 0) & stage.heard.agrees_N)
    unforced = dataclasses.replace(_settings(), forced_share=0.0)
    by_hand = LowLevel(policy, stage.anchor, told, unforced, 0, deaf)
    with torch.no_grad():  # a decision counts, and the policy has moved
        for p in (*policy.adapter.parameters(), *policy.planner.parameters()):
            p += 0.1 * torch.randn(p.shape)
    assert torch.equal(stage.plan(policy, index, tensors, 3, forced), by_hand.plan(policy, index, tensors, 3))
    (loss, _), (same, _), (other, _) = (
        s.loss((index, frames.samples), 3, len(index))
        for s in (stage, by_hand, LowLevel(policy, stage.anchor, frames, unforced, 0, stage.heard))
    )
    assert loss["anchor"].item() == same["anchor"].item() != other["anchor"].item()
    assert (
        dataclasses.replace(stage.config, together=True).effective().forced_share == 0
    )  # L_high judges the same plans


def test_the_vlm_learns_on_flagged_frames_or_on_all(make_policy, store):
    policy = make_policy()
    vlm_of(policy).add_lora()
    frames = _thirds(store)
    flagged = HighLevel(policy, frames, dataclasses.replace(_settings(), high_on="flagged"), 0)
    every = HighLevel(policy, frames, _settings(), 0)
    assert set(flagged.draw(0, 100).tolist()) == set(flagged.flagged.tolist()) < set(range(len(store)))
    assert set(every.draw(0, 100).tolist()) == set(range(len(store)))
    literal = dataclasses.replace(_settings(), high_on="all", faithful=True).effective()
    assert literal.high_on == "flagged"


def test_both_levels_in_one_step_learn_together(make_policy, store, tmp_path):
    """The printed loss: one training, L_high + β L_low, with the gradient norm of every term in the log."""
    policy = make_policy()
    save_frames(tmp_path / "round-0", _thirds(store))
    before = {n: p.detach().clone() for n, p in policy.named_parameters() if n.startswith("planner.")}
    config = dataclasses.replace(_settings(), faithful=True, guards=off(DrivingGuards()))
    log = run_3(policy, lambda *_: [], config, tmp_path, seed=0, ranks=Ranks(), resume=True)
    assert {f"grad_norm_{t}" for t in ("safe", "slow", "anchor", "high")} <= log[0].keys()
    assert [p.name for p in (tmp_path / "round-0").iterdir() if p.is_dir()].count("low") == 0
    assert any(not torch.equal(p, before[n]) for n, p in policy.named_parameters() if n in before)
    assert any(bool(p.abs().sum() > 0) for n, p in policy.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize(("risky", "accel"), [(True, -1.5), (False, 1.0)])
def test_retimed_plans_arrive_where_they_should_and_stay_there(risky, accel, straight_driver):
    """Unlike the literal losses, whose pull never ends."""
    policy, samples = copy.deepcopy(straight_driver[0]), straight_driver[1]
    all_N, none = np.full(24, True), np.full(24, -1, np.int8)
    frames = RolloutFrames(samples, all_N & risky, all_N & (not risky), none, none)
    config = Stage3(Optim(1, 24, 1e-3), Optim(1, 24, 1e-3), low_mode="retime", lambda_eff=1.0, lambda_anchor=0.0)
    stage = LowLevel(policy, frozen_copy(policy), frames, config, 0)
    index, tensors = np.arange(24), Batch.from_samples(samples)
    held = stage.plan(stage.anchor, index, tensors, 0)
    loss, _ = stage.loss(stage.load(index), 0, 24)
    by_hand = 0.5 * accel * (0.1 * torch.arange(1, 31)) ** 2  # m from the plan, which is nearly straight
    assert loss["safe" if risky else "slow"].item() == pytest.approx(float((by_hand**2).sum()), rel=0.05)
    optimiser = torch.optim.AdamW(stage.named_parameters().values(), 1e-3, weight_decay=0)
    for step in range(60):
        optimiser.param_groups[0]["lr"] = 5e-4 * (1 + math.cos(math.pi * step / 60))
        optimiser.zero_grad()
        sum(stage.loss(stage.load(index), step, 24)[0].values()).backward()
        optimiser.step()
    with torch.no_grad():
        moved = (stage.plan(policy, index, tensors, 0) - held)[:, -1, 0].mean().item()
    assert moved == pytest.approx(4.5 * accel, rel=0.1)


def test_the_letter_judges_a_lane_change_by_its_side_too():
    logp = torch.full((1, 20), -10.0)
    logp[0, 2 * 5 + 3] = 0.0  # KEEP SPEED, CHANGE LANE LEFT; the plan is straight
    nll, wrong = disagreement_nll(logp.log_softmax(1), torch.tensor([2]), torch.tensor([0]), lane_change_by_speed=False)
    assert wrong.item()
    assert nll.item() > 5
