"""Ratios and orderings of forced plans in closed form."""

import dataclasses

import numpy as np
import pytest

from senna2.evaluate.control import Instructed, control, relative_speeds
from senna2.evaluate.metrics import CONTROL
from senna2.types import PLAN_DT, PLAN_STEPS, InputError, Plans, Samples, Speed

T = PLAN_DT * np.arange(1, PLAN_STEPS + 1)


def plans(samples: Samples, factor, dy=0.0) -> Plans:
    """Constant speed of `factor` · v₀, and `dy` m to the left at the end."""
    v = samples.motion_N4[:, 0] * factor
    points = np.zeros((len(samples), PLAN_STEPS, 2), np.float32)
    points[..., 0] = v[:, None] * T
    points[:, -1, 1] = dy
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


def test_instructions():
    s = fake(4)
    told = plans(s, np.array([1.2, 1.2, 1.0, 1.0]), np.array([0, 0, 1.0, 1.0]))
    got = control(s, forced(s, 1, 1, 1), Instructed(told, plans(s, 1.0), ("faster", "slower", "left", "right")))
    assert got["instruction_followed"].value == 0.5
    assert got["instruction_followed"].n == 4
    got = control(s, forced(s, 1, 1, 1), Instructed(told, plans(s, 1.0), ("faster", "", "", "")))
    assert got["instruction_followed"].value == 1.0
    same = Instructed(plans(s, 1.0), plans(s, 1.0), ("faster",) * 4)
    assert control(s, forced(s, 1, 1, 1), same)["instruction_followed"].value == 0.0


def test_a_missing_decision_is_named():
    s = fake()
    with pytest.raises(InputError, match="decelerate"):
        control(s, {k: v for k, v in forced(s, 1, 1, 1).items() if k != Speed.DECELERATE})
