"""Ratios and orderings of forced plans in closed form."""

import dataclasses

import numpy as np
import pytest

from senna2.evaluate.control import (
    Instructed,
    control,
    instructed_samples,
    nobody_listens,
    relative_speeds,
    without_instruction,
)
from senna2.evaluate.metrics import CONTROL
from senna2.instructions import WISHES
from senna2.types import PLAN_DT, PLAN_STEPS, InputError, Plans, Samples, Speed

T = PLAN_DT * np.arange(1, PLAN_STEPS + 1)


def plans(samples: Samples, factor, dy=0.0) -> Plans:
    """Constant speed of `factor` · v₀, and `dy` m to the left at the end."""
    v = samples.motion_N4[:, 0] * factor
    points = np.zeros((len(samples), PLAN_STEPS, 2), np.float32)
    points[..., 0] = v[:, None] * T
    points[:, -2:, 1] = np.broadcast_to(dy, len(samples))[:, None]  # alone it would lengthen the last step
    none = np.full(len(samples), -1, np.int8)
    return Plans(points, none, none, none, none)


def fake(n=9) -> Samples:
    s = Samples.fake(n)
    return dataclasses.replace(
        s, clip_N=(np.arange(n) % 3).astype(np.int32), clips=("a", "b", "c"), families=("f",) * 3
    )


def forced(s, acc, keep, dec):
    return {Speed.ACCELERATE: plans(s, acc), Speed.KEEP: plans(s, keep), Speed.DECELERATE: plans(s, dec)}


def test_obedient():
    got = control(fake(), forced(fake(), 1.4, 1.0, 0.5))
    assert set(got) == set(CONTROL)
    assert got["ratio_accelerate"].value == pytest.approx(1.4, abs=1e-4)
    assert got["ratio_decelerate"].value == pytest.approx(0.5, abs=1e-4)
    for name in ("auroc_accelerate_keep", "auroc_keep_decelerate", "auroc_accelerate_decelerate"):
        assert got[name].value == 1.0
    assert got["instruction_followed"].value is None


def test_deaf_is_a_tie_and_contrary_is_0():
    s = fake()
    assert control(s, forced(s, 1.0, 1.0, 1.0))["auroc_accelerate_keep"].value == 0.5
    got = control(s, forced(s, 0.5, 1.0, 1.5))
    assert got["auroc_accelerate_decelerate"].value == 0.0


def test_median_and_share_over_frames():
    s = fake()
    factor = np.array([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 0.9])
    got = control(s, {**forced(s, 1, 1.0, 1), Speed.ACCELERATE: plans(s, factor)})
    assert got["ratio_accelerate"].value == pytest.approx(1.3, abs=1e-4)
    assert got["auroc_accelerate_keep"].value == pytest.approx((7 + 0.5) / 9)  # one tie, one wrong


def test_slow_frames_do_not_count():
    s = fake()
    motion = s.motion_N4.copy()
    motion[:4, 0] = 2.9
    slow = dataclasses.replace(s, motion_N4=motion)
    assert control(slow, forced(slow, 1.4, 1.0, 0.5))["ratio_keep"].n == 5
    assert len(relative_speeds(slow, plans(slow, 1.2))) == 5
    motion[:, 0] = 0
    still = dataclasses.replace(s, motion_N4=motion)
    got = control(still, forced(still, 1.4, 1.0, 0.5))
    assert set(got) == set(CONTROL)
    assert all(v.value is None for v in got.values())


def test_seeds():
    s = fake()
    by_seed = {k: {1: plans(s, f), 2: plans(s, f + 0.2)} for k, f in
               ((Speed.ACCELERATE, 1.4), (Speed.KEEP, 1.0), (Speed.DECELERATE, 0.5))}  # fmt: skip
    got = control(s, by_seed)
    assert got["ratio_keep"].per_seed == pytest.approx([1.0, 1.2], abs=1e-4)
    assert got["ratio_keep"].value == pytest.approx(1.1, abs=0.11)


OBEYS = {"faster": (1.2, 0.0), "slower": (0.8, 0.0), "left": (1.0, 0.5), "right": (1.0, -0.5)}  # factor, dy


def followed(samples, changes, without=None):
    """`instruction_followed` of plans that change so (factor of the speed, metres to the left) under each wish."""
    told = {ask: plans(samples, *change) for ask, change in changes.items()}
    instructed = Instructed(told, plans(samples, 1.0) if without is None else without)
    return control(samples, forced(samples, 1, 1, 1), instructed)["instruction_followed"]


def test_who_obeys_has_1_who_ignores_or_does_the_opposite_0():
    s = fake()
    obedient = followed(s, OBEYS)
    assert (obedient.value, obedient.n) == (1.0, 4 * 9)
    assert obedient.note == "faster 1.000, slower 1.000, left 1.000, right 1.000"
    deaf = followed(s, dict.fromkeys(OBEYS, (1.0, 0.0)))  # ties are not followed
    assert deaf.value == 0.0
    contrary = followed(s, {ask: (2 - factor, -dy) for ask, (factor, dy) in OBEYS.items()})
    assert contrary.value == 0.0


@pytest.mark.parametrize("ask", OBEYS)
def test_each_wish_has_its_own_sign_and_quantity(ask):
    s = fake()
    still = dict.fromkeys(OBEYS, (1.0, 0.0))
    assert followed(s, still | {ask: OBEYS[ask]}).value == 0.25
    others = {a: c for a, c in OBEYS.items() if a != ask}
    for other, change in others.items():
        got = followed(s, still | {ask: change}).value
        assert got == 0.0, f"what does for {other} does not for {ask}"


def test_mirrored_wishes_and_plans_come_out_the_same():
    s = fake()
    rng = np.random.default_rng(0)
    dy = {ask: rng.normal(0, 0.3, len(s)) for ask in ("left", "right")}
    still = dict.fromkeys(("faster", "slower"), (1.0, 0.0))
    without = plans(s, 1.0, rng.normal(0, 0.3, len(s)))
    got = followed(s, still | {a: (1.0, d) for a, d in dy.items()}, without)
    mirrored = dataclasses.replace(without, points_NT2=without.points_NT2 * np.float32([1, -1]))
    swapped = {"left": (1.0, -dy["right"]), "right": (1.0, -dy["left"])}
    assert 0 < got.value < 0.5
    assert followed(s, still | swapped, mirrored).value == got.value


def test_the_note_tells_each_wish_and_seeds_are_kept():
    s = fake()
    told = {ask: {1: plans(s, *c), 2: plans(s, 1.0)} for ask, c in OBEYS.items()}
    told["right"] = {1: plans(s, 1.0), 2: plans(s, 1.0)}
    got = control(s, forced(s, 1, 1, 1), Instructed(told, {1: plans(s, 1.0), 2: plans(s, 1.0)}))
    assert got["instruction_followed"].per_seed == [0.75, 0.0]
    assert got["instruction_followed"].value == 0.375
    assert got["instruction_followed"].note == "faster 0.500, slower 0.500, left 0.500, right 0.000"
    with pytest.raises(InputError, match="different seeds"):
        control(s, forced(s, 1, 1, 1), Instructed(told, {1: plans(s, 1.0)}))
    with pytest.raises(InputError, match="no plans under the wish right"):
        followed(s, {ask: c for ask, c in OBEYS.items() if ask != "right"})


def test_only_the_words_differ_between_the_samples_of_a_pair():
    s = dataclasses.replace(fake(), instruction_N=("slow down",) * 9)
    told = instructed_samples(s)
    assert {wish.asks for wish in WISHES} == set(told)
    for wish in WISHES:
        some = told[wish.asks].validate()
        assert set(some.instruction_N) == set(wish.texts)
        assert dataclasses.replace(some, instruction_N=s.instruction_N).index_N is s.index_N  # the same noise
    assert set(without_instruction(s).instruction_N) == {""}


def test_a_policy_without_a_vlm_has_nulls_with_a_note():
    got = nobody_listens()
    assert set(got) == set(CONTROL)
    assert all(v.value is None and v.note == "the policy has no VLM" for v in got.values())


def test_a_missing_decision_is_named():
    s = fake()
    with pytest.raises(InputError, match="decelerate"):
        control(s, {k: v for k, v in forced(s, 1, 1, 1).items() if k != Speed.DECELERATE})
