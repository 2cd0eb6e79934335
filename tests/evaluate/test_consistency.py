"""F1 against a hand-worked table and scikit-like definitions; floors; laws."""

import dataclasses

import numpy as np
import pytest

from senna2.decisions import f_k_plan
from senna2.evaluate.consistency import (
    CLASSES,
    STATISTICS,
    average_f1,
    class_f1,
    consistency,
    decision_counts,
)
from senna2.evaluate.metrics import CONSISTENCY
from senna2.types import PLAN_DT, PLAN_STEPS, Direction, InputError, Plans, Samples, Speed

T = PLAN_DT * np.arange(1, PLAN_STEPS + 1)


def straight(v0, a):
    """Points of a straight plan at constant acceleration, standing once it stands."""
    t = np.minimum(T, -v0 / a) if a < 0 else T
    return np.stack([v0 * t + 0.5 * a * t**2, np.zeros_like(T)], 1)


def arc(v, radius):
    angle = v * T / radius
    return np.stack([abs(radius) * np.sin(np.abs(angle)), radius * (1 - np.cos(angle))], 1)


PLAN = {
    "accelerate": straight(8, 2.0), "decelerate": straight(8, -2.5), "keep": straight(8, 0.0),
    "stop": straight(0.1, -1.0), "unknown": straight(8, 0.5), "left": arc(8.0, 20.0), "right": arc(8.0, -20.0),
}  # fmt: skip
SPEED = {"accelerate": Speed.ACCELERATE, "decelerate": Speed.DECELERATE, "keep": Speed.KEEP, "stop": Speed.STOP}


def plans_of(rows):
    """rows of (plan name, speed, direction said)."""
    column = lambda i: np.array([int(r[i]) for r in rows], np.int8)  # noqa: E731
    return Plans(np.stack([PLAN[r[0]] for r in rows]).astype(np.float32), column(1), column(2), column(1), column(2))


def samples_for(n, clips=1):
    s = Samples.fake(n)
    names = tuple(f"c{i}" for i in range(clips))
    return dataclasses.replace(s, clip_N=(np.arange(n) % clips).astype(np.int32), clips=names, families=("f",) * clips)


def test_the_plans_express_what_their_names_say():
    for name, points in PLAN.items():
        speed, path = f_k_plan(points[None])
        assert speed[0] == (SPEED.get(name, Speed.KEEP) if name != "unknown" else Speed.UNKNOWN)
        assert path[0] == {"left": 1, "right": 2}.get(name, 0)


K, A, D, S = Speed.KEEP, Speed.ACCELERATE, Speed.DECELERATE, Speed.STOP
GO, TL, CL, TR = Direction.STRAIGHT, Direction.TURN_LEFT, Direction.CHANGE_LEFT, Direction.TURN_RIGHT
ROWS = [
    ("keep", K, GO), ("keep", K, GO), ("keep", A, GO), ("accelerate", A, GO), ("accelerate", K, GO),
    ("decelerate", D, GO), ("unknown", D, GO), ("left", K, TL), ("left", K, CL), ("keep", K, CL), ("left", K, GO),
]  # fmt: skip
# speed, decision × plan: K: keep 6 (rows 1, 2, 8, 9, 10, 11), acc 1; A: keep 1, acc 1; D: dec 1, UNKNOWN 1.
HAND = {
    "keep": 2 * 6 / (7 + 7), "accelerate": 2 * 1 / (2 + 2), "decelerate": 2 * 1 / (1 + 1),
    # direction: said straight 8: straight 7, left 1; said left 3: left 2, straight 1
    "straight": 2 * 7 / (8 + 8), "left": 2 * 2 / (3 + 3), "left_without_lane_change": 2 * 1 / (1 + 2),
}  # fmt: skip


def test_a_table_worked_by_hand():
    got = consistency(samples_for(len(ROWS), clips=3), plans_of(ROWS))
    assert set(got) == set(CONSISTENCY)
    for name, value in HAND.items():
        assert got[name].value == pytest.approx(value), name
    five = [HAND[c] for c in ("straight", "left", "keep", "accelerate", "decelerate")]
    assert got["avg"].value == pytest.approx(np.mean(five))
    assert "right" in got["avg"].note
    assert "stop" in got["avg"].note
    assert got["stop"].value is None
    assert got["coverage"].value == pytest.approx(10 / 11)
    five[-1] = 2 * 1 / (2 + 1)  # strict: the UNKNOWN plan is a miss of DECELERATE
    assert got["f1_strict"].value == pytest.approx(np.mean(five))


def test_majority_floor_by_hand():
    got = consistency(samples_for(len(ROWS)), plans_of(ROWS))
    # plans: straight 8 of 11; keep 7 of 10 → only these classes score, over the five that occur
    q, r = 8 / 11, 7 / 10
    assert got["floor_majority"].value == pytest.approx((2 * q / (1 + q) + 2 * r / (1 + r)) / 5)


def test_decision_accuracy_and_ceiling():
    s = samples_for(4, clips=2)
    points = [PLAN[n] for n in ("accelerate", "decelerate", "keep", "left")]
    future = np.concatenate([np.stack(points), np.zeros((4, PLAN_STEPS, 1))], -1).astype(np.float32)
    s = dataclasses.replace(
        s,
        future_NT3=future,
        speed_N=np.array([A, D, K, K], np.int8),
        direction_N=np.array([GO, GO, GO, GO], np.int8),
    )
    said = plans_of([("keep", A, GO), ("keep", K, GO), ("keep", K, GO), ("keep", K, TL)])
    got = consistency(s, said)
    assert got["decision_accuracy"].value == pytest.approx(2 / 4)
    assert got["ceiling"].value == pytest.approx(np.mean([2 * 3 / 7, 0, 1, 1, 1]))  # left is never annotated


def test_perfect_agreement_and_a_wrong_decision_agreed_upon():
    rows = [(n, SPEED[n], GO) for n in SPEED] + [("left", K, TL), ("right", K, TR)]
    got = consistency(samples_for(6, clips=2), plans_of(rows))
    assert got["avg"].value == 1.0
    assert got["avg"].note == ""
    assert got["decision_accuracy"].value < 1.0  # the fakes' experts did otherwise


def test_shuffled_decisions_come_out_at_the_shuffled_floor():
    rng = np.random.default_rng(0)
    n = 40_000
    plan_speed, plan_path = rng.choice(4, n, p=[0.2, 0.2, 0.4, 0.2]), rng.choice(3, n, p=[0.8, 0.12, 0.08])
    said_speed = plan_speed.copy()
    said_path = plan_path.copy()
    counts = decision_counts(rng.permutation(said_speed), rng.permutation(said_path), plan_speed, plan_path).sum(0)
    assert average_f1(counts) == pytest.approx(STATISTICS["floor_shuffled"](counts), abs=0.01)
    assert average_f1(counts) == pytest.approx(2 / 7, abs=0.01)  # equal shares: F1 is the share, classes sum to 2


def test_mirroring_the_world_swaps_left_and_right_only():
    mirrored = [
        (
            {"left": "right", "right": "left"}.get(n, n),
            s,
            {TL: TR, CL: Direction.CHANGE_RIGHT}.get(d, d),
        )
        for n, s, d in ROWS
    ]
    a = consistency(samples_for(len(ROWS), 3), plans_of(ROWS))
    b = consistency(samples_for(len(ROWS), 3), plans_of(mirrored))
    swap = {"left": "right", "right": "left"}
    for name in (*CLASSES, "coverage", "floor_shuffled", "floor_majority", "f1_strict", "avg"):
        assert a[name].value == pytest.approx(b[swap.get(name, name)].value), name
    assert a["left_without_lane_change"].value == b["right_without_lane_change"].value


def test_f1_is_symmetric_in_decision_and_plan():
    rng = np.random.default_rng(0)
    a, b, c, d = rng.integers(0, 4, 99), rng.integers(0, 3, 99), rng.integers(0, 4, 99), rng.integers(0, 3, 99)
    one = class_f1(decision_counts(a, b, c, d).sum(0))
    assert one == pytest.approx(class_f1(decision_counts(c, d, a, b).sum(0)))


def test_seeds_may_come_as_mapping_list_or_alone():
    s, p = samples_for(len(ROWS), 3), plans_of(ROWS)
    alone, mapping, several = consistency(s, p), consistency(s, {5: p, 9: p}), consistency(s, [p, p])
    assert alone["avg"].value == mapping["avg"].value == several["avg"].value
    assert mapping["avg"].per_seed == [alone["avg"].value] * 2
    assert mapping["avg"].ci95 == alone["avg"].ci95


def test_a_policy_without_decisions_has_nulls_but_a_ceiling():
    rows = [("keep", -1, -1)] * 4
    got = consistency(samples_for(4), plans_of(rows))
    assert set(got) == set(CONSISTENCY)
    assert got["avg"].value is None
    assert got["ceiling"].value is not None


def test_counterfactual_samples_are_left_out_and_counted():
    s = dataclasses.replace(samples_for(len(ROWS)), counterfactual_N=np.arange(len(ROWS)) == 6)
    got = consistency(s, plans_of(ROWS))
    assert got["coverage"].value == 1.0
    assert "1 counterfactual" in got["avg"].note


def test_wrong_number_of_plans_names_the_seed():
    with pytest.raises(InputError, match="seed 0 has 11 plans for 4"):
        consistency(samples_for(4), plans_of(ROWS))
