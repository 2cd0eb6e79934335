"""The stage-3 losses: their signs, what they move, and which frames they see."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from senna2.model.batch import Batch
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.train.frames import RolloutFrames, flags, select_frames
from senna2.train.loop import Optim
from senna2.train.stage1 import unguided
from senna2.train.stage3 import LowLevel, Stage3, disagreement_nll, frozen_copy, l_eff, l_safe
from senna2.types import Contact, Observation, Rig, Rollout, Samples


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


@pytest.fixture(scope="module")
def straight_driver():
    """A state planner whose basis knows curves and which has learned to drive straight on; and its samples."""
    torch.set_num_threads(1)
    samples = Samples.fake(24, Rig.fake(), seed=3)
    samples = dataclasses.replace(samples, index_N=np.arange(24, dtype=np.int64))
    bent = samples.future_NT3.copy()
    side = np.linspace(-1, 1, 24)[:, None]
    bent[..., 1] = side * np.linspace(0, 1.5, 30) ** 2  # so that the lateral modes have their real size
    policy = DualSystem(PolicyConfig(obs="state", adapter="none", dim=32, blocks=2), Rig.fake(), seed=0)
    policy.fit_basis(dataclasses.replace(samples, future_NT3=bent))
    optimiser = torch.optim.AdamW(policy.parameters(), 3e-3)
    batch = Batch.from_samples(samples)
    for step in range(150):
        optimiser.param_groups[0]["lr"] = 1.5e-3 * (1 + math.cos(math.pi * step / 150))  # settled, so: truly straight
        tokens = policy.encode(batch)
        loss = policy.planning_loss(tokens, unguided(policy, 24), batch, seed=0, step=step).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return policy, samples


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
    loss.backward()
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
