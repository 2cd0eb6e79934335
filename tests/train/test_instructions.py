"""A passenger's words reach the planner through the VLM alone, and only stages that ask the VLM learn from them."""

import dataclasses

import numpy as np
import pytest
import torch

from senna2.evaluate.control import control
from senna2.instructions import WISHES
from senna2.model.batch import Batch
from senna2.recipes.instructed import TOLD, UNTOLD, instructed_of, plan_instructed
from senna2.train.loop import Optim
from senna2.train.stage1 import AdapterStage, PlannerStage, Stage1a, Stage1b, Stage1c, VlmStage
from senna2.train.stage2 import OpenLoopAlignment, Stage2
from senna2.types import Decision, Direction, Plans, Speed

OPTIM = Optim(steps=1, batch=4, lr=1e-3)
KEEP = Decision(Speed.KEEP, Direction.STRAIGHT)


def spoken(samples, text="slow down"):
    return dataclasses.replace(samples, instruction_N=(text,) * len(samples))


def listening(policy):
    """A policy whose planner has left adaLN-zero: what the adapter says has a weight."""
    policy.eval()
    with torch.no_grad():
        policy.planner.f_vlm.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
        for p in policy.planner.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return policy


def same(a: Plans, b: Plans) -> bool:
    return np.array_equal(a.points_NT2, b.points_NT2)


def test_no_tensor_of_the_planner_tells_what_was_said(store):
    a, b = (Batch.from_samples(s) for s in (store.states, spoken(store.states)))
    for field in dataclasses.fields(Batch):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if field.name == "images":
            assert all(torch.equal(one[name], other[name]) for name in one)
        else:
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_words_change_a_plan_only_through_the_vlm(make_policy, store):
    some = store.states.take(slice(0, 6))
    policy = listening(make_policy())
    assert not same(policy.plan_batch(some), policy.plan_batch(spoken(some)))  # its hidden state
    by_decision = listening(make_policy(adapter="decision"))
    assert same(by_decision.plan_batch(some, KEEP), by_decision.plan_batch(spoken(some), KEEP))
    policy.vlm = None
    assert same(policy.plan_batch(some), policy.plan_batch(spoken(some)))


def test_1b_leaves_instructed_samples_out_and_the_stages_with_a_vlm_do_not(make_policy, store):
    said = ["slow down" if i % 3 == 0 else "" for i in range(len(store))]
    store.states = dataclasses.replace(store.states, instruction_N=tuple(said))
    told = [i for i, text in enumerate(said) if text]
    pools = {
        "1a": VlmStage(make_policy(), store, Stage1a(OPTIM), 0).pool_N,
        "1b": PlannerStage(make_policy(), store, Stage1b(OPTIM), 0).pool_N,
        "1c": AdapterStage(make_policy(), store, Stage1c(OPTIM), 0).pool_N,
        "2": OpenLoopAlignment(make_policy(), store, Stage2(OPTIM), 0).pool_N,
    }
    assert set(pools["1b"]) == set(range(len(store))) - set(told)
    assert all(set(told) <= set(pools[stage]) for stage in ("1a", "1c", "2"))


@pytest.mark.parametrize(("trained", "expected"), [(False, 0.0), (True, 0.5)])
def test_a_real_policy_is_asked_with_and_without(make_policy, store, trained, expected):
    """A fresh one cannot listen (adaLN-zero): exactly 0. One of random weights changes this way and that."""
    policy = listening(make_policy()) if trained else make_policy().eval()
    some = store.states
    plans = plan_instructed(policy, some, seed=3)
    assert set(plans) == {UNTOLD, *TOLD.values()}
    assert same(plans[UNTOLD], policy.plan_batch(some, seed=3))
    forced = dict.fromkeys((Speed.ACCELERATE, Speed.KEEP, Speed.DECELERATE), plans[UNTOLD])
    got = control(some, forced, instructed_of({3: plans}))["instruction_followed"]
    assert got.n == len(WISHES) * len(some)
    assert got.value == pytest.approx(expected, abs=0.45 if trained else 0)
    assert got.value > 0 if trained else got.value == 0


def test_plans_that_exist_are_not_made_again_unless_somebody_spoke_in_them(make_policy, store):
    policy = listening(make_policy())
    some = store.states.take(slice(0, 4))
    own = policy.plan_batch(store.states, seed=3)
    marked = dataclasses.replace(own, points_NT2=own.points_NT2 + 1)
    assert np.array_equal(plan_instructed(policy, some, seed=3, own=marked)[UNTOLD].points_NT2, marked.points_NT2[:4])
    anew = plan_instructed(policy, spoken(some), seed=3, own=marked)[UNTOLD]
    assert same(anew, policy.plan_batch(some, seed=3))
    assert instructed_of({0: {}, 1: {UNTOLD: own}}) is None
