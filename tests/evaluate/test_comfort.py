"""Comfort series against nuPlan's published cases and closed forms."""

import json
from pathlib import Path

import numpy as np
import pytest

from senna2.evaluate.comfort import is_comfortable, jerk, smooth_acceleration, yaw_acceleration, yaw_rate

CASES = Path(__file__).resolve().parents[3] / "shared" / "data" / "nuplan_metric_cases"
COMMON = CASES / "planning__metrics__evaluation_metrics__common"


def load(name):
    path = COMMON / name / f"{name}.json"
    if not path.exists():
        pytest.skip("nuPlan's metric cases are not here")
    case = json.loads(path.read_text())
    states = [case["ego"], *case["ego_future_states"]]
    return case, states, case["expected"]["statistics"]


def check(series, expected_series, statistics):
    assert np.round(series, 2) == pytest.approx(expected_series, abs=0.011)
    got = {
        "MAX": series.max(), "MIN": series.min(), "MEAN": series.mean(),
        "P90": np.percentile(np.abs(series), 90, method="nearest"),
    }  # fmt: skip
    for name, value in statistics:
        if name in got:
            assert got[name] == pytest.approx(value, abs=0.011), name


@pytest.mark.parametrize("name", ["ego_acceleration", "ego_lon_acceleration", "ego_jerk", "ego_lon_jerk"])
def test_nuplan_acceleration_and_jerk(name):
    case, states, statistics = load(name)
    a = np.array([s["acceleration"][0] for s in states])
    series = jerk(a, 1.0) if "jerk" in name else smooth_acceleration(a)
    check(series, case["expected"]["time_series"]["values"], statistics)


@pytest.mark.parametrize(("name", "function"), [("ego_yaw_rate", yaw_rate), ("ego_yaw_acceleration", yaw_acceleration)])
def test_nuplan_yaw(name, function):
    case, states, statistics = load(name)
    series = function(np.array([s["pose"][2] for s in states]), 1.0)
    check(series, case["expected"]["time_series"]["values"], statistics)


def test_nuplan_mean_speed_and_distance_to_the_expert():
    _, states, statistics = load("ego_mean_speed")
    assert np.mean([np.hypot(*s["velocity"]) for s in states]) == pytest.approx(statistics[0][1])
    case, states, statistics = load("ego_expert_l2_error")
    distance = np.array(
        [
            np.hypot(*np.subtract(a["pose"][:2], b["pose"][:2]))
            for a, b in zip(states, case["expert_ego_states"], strict=True)
        ]
    )
    got = {"MAX": distance.max(), "MEAN": distance.mean(), "P90": np.percentile(distance, 90, method="nearest")}
    assert got == pytest.approx(dict(statistics), abs=0.01)


T = 0.1 * np.arange(100)


def test_calm_drives_are_comfortable():
    assert is_comfortable(np.full(100, 8.0), np.zeros(100), 0.1)
    assert is_comfortable(8 + 1.0 * T, np.zeros(100), 0.1)
    assert is_comfortable(np.full(100, 8.0), 0.2 * T, 0.1)  # 1.6 m/s² sideways


@pytest.mark.parametrize(
    ("v", "yaw"),
    [
        (8 + 2.6 * T, np.zeros(100)),  # accelerates too hard
        (60 - 4.5 * T, np.zeros(100)),  # brakes too hard
        (np.full(100, 15.0), 0.4 * T),  # 6 m/s² sideways
        (np.full(100, 1.0), 1.2 * T),  # spins
        (30 + np.where(T < 5, 2.3 * T, 11.5 - 4 * (T - 5)), np.zeros(100)),  # from full gas to full brake at once
        (np.full(100, 1.0), 0.15 * np.sin(4.5 * T)),  # wriggles
    ],
)
def test_each_limit_can_be_broken(v, yaw):
    assert is_comfortable(v, yaw, 0.1) is False


def test_turning_the_world_by_any_angle_changes_nothing():
    for turn in (3.0, -3.1):
        yaw = (0.2 * T + turn + np.pi) % (2 * np.pi) - np.pi  # wraps on the way
        assert is_comfortable(np.full(100, 8.0), yaw, 0.1)


def test_too_short_to_judge():
    assert is_comfortable(np.full(3, 8.0), np.zeros(3), 0.1) is None
    assert is_comfortable(np.full(5, 8.0), np.zeros(5), 0.1) is True
