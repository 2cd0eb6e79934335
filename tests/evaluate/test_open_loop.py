"""Displacement in closed form, one kind a trajectory, what is left out, laws."""

import dataclasses

import numpy as np
import pytest

from senna2.evaluate.open_loop import open_loop, plan_poses
from senna2.frames import yaw_from_steps
from senna2.types import MAX_AGENTS, AgentClass, InputError, Plans, Samples, VehicleShape

SHAPE = VehicleShape()


def replay(samples: Samples) -> Plans:
    n = len(samples)
    none = np.full(n, -1, np.int8)
    return Plans(samples.future_NT3[..., :2].copy(), none, none, none, none)


def moved(plans: Plans, dx=0.0, dy=0.0) -> Plans:
    return dataclasses.replace(plans, points_NT2=plans.points_NT2 + np.array([dx, dy], np.float32))


def fake(n=6) -> Samples:
    """Straight drives beside a kerb at y = 6 with an agent 20 m ahead that goes on; far enough not to be met."""
    s = Samples.fake(n)
    agents = s.agent_futures_NAT3.copy()
    agents[:, 0, :, 0] += 100
    return dataclasses.replace(s, agent_futures_NAT3=agents)


def with_agent(s: Samples, index, pose, agent_class=AgentClass.CAR) -> Samples:
    """Samples in which one more agent stands at a pose."""
    agents, boxes, classes = s.agent_futures_NAT3.copy(), s.boxes_NA6.copy(), s.classes_NA.copy()
    agents[index, 1] = pose
    boxes[index, 1] = (*pose, 4.5, 1.8, 0)
    classes[index, 1] = agent_class
    return dataclasses.replace(s, agent_futures_NAT3=agents, boxes_NA6=boxes, classes_NA=classes)


def values(got):
    return {k: v.value for k, v in got.items()}


def test_replaying_the_recording_is_perfect():
    got = values(open_loop(fake(), replay(fake()), SHAPE))
    assert got == {"fde_m": 0, "ade_m": 0, "cr": 0, "dcr": 0, "scr": 0}


def test_errors_in_closed_form():
    s = fake()
    plans = replay(s)
    grow = 0.1 * np.arange(1, 31, dtype=np.float32)  # 0.1 m a step sideways
    points = plans.points_NT2.copy()
    points[..., 1] -= grow
    got = open_loop(s, dataclasses.replace(plans, points_NT2=points), SHAPE)
    assert got["fde_m"].value == pytest.approx(3.0, abs=1e-5)
    assert got["ade_m"].value == pytest.approx(grow.mean(), abs=1e-5)
    assert got["fde_m"].n == 6


def test_seeds_average():
    s = fake()
    got = open_loop(s, {0: moved(replay(s), dx=1), 1: moved(replay(s), dx=3)}, SHAPE)
    assert got["ade_m"].value == pytest.approx(2.0, abs=1e-5)
    assert got["ade_m"].per_seed == pytest.approx([1.0, 3.0], abs=1e-5)


def test_one_kind_a_trajectory_dynamic_first():
    # An agent beside the road at y = 5, kerb at y = 6; a plan that swerves to y = 5 meets both.
    s = with_agent(fake(), [0], (22.0, 5.0, 0.0))
    swerve = replay(s)
    points = swerve.points_NT2.copy()
    points[:2, 8:, 1] = 5.2
    got = values(open_loop(s, dataclasses.replace(swerve, points_NT2=points), SHAPE))
    assert got["dcr"] == pytest.approx(100 / 6)  # sample 0: both, hence dynamic
    assert got["scr"] == pytest.approx(100 / 6)  # sample 1: the kerb
    assert got["cr"] == pytest.approx(got["dcr"] + got["scr"])


def test_a_static_box_is_a_static_collision():
    # Beside the recorded path, so that the recording passes and the moved plan does not.
    s = with_agent(fake(), slice(None), (10.0, -2.0, 0.0), AgentClass.STATIC)
    got = values(open_loop(s, moved(replay(s), dy=-1.0), SHAPE))
    assert got["scr"] == 100.0
    assert got["dcr"] == 0.0


def test_without_kerbs_static_is_null_and_cr_says_agents_only():
    s = dataclasses.replace(fake(), has_kerbs_N=np.zeros(6, bool))
    got = open_loop(s, moved(replay(s), dy=5.5), SHAPE)  # would stand on the kerb
    assert got["scr"].value is None
    assert got["cr"].value == 0
    assert "agents only" in got["cr"].note


def test_recorded_collisions_and_short_futures_are_left_out_and_counted():
    s = with_agent(fake(), [2], (8.0, 0.0, 0.0))
    future = s.future_NT3.copy()
    future[4, 20:] = np.nan
    s = dataclasses.replace(s, future_NT3=future)
    plans = replay(s)
    plans = dataclasses.replace(plans, points_NT2=np.nan_to_num(plans.points_NT2))
    got = open_loop(s, plans, SHAPE)
    assert got["fde_m"].n == 5
    assert got["cr"].n == 4
    assert got["cr"].value == 0
    assert "1 samples with an incomplete future" in got["fde_m"].note
    assert "1 samples in which the recorded ego collides" in got["cr"].note


def test_a_departed_agent_hits_nobody():
    s = with_agent(fake(), slice(None), (10.0, -2.0, 0.0))
    agents = s.agent_futures_NAT3.copy()
    agents[:, 1, 1:] = np.nan
    s = dataclasses.replace(s, agent_futures_NAT3=agents)
    assert open_loop(s, moved(replay(s), dy=-1.0), SHAPE)["cr"].value == 0


def test_mirroring_changes_no_metric():
    s = with_agent(fake(), [0, 3], (22.0, 5.0, 0.3))
    plans = moved(replay(s), dy=4.6)
    flip3 = np.array([1, -1, -1], np.float32)
    mirrored = dataclasses.replace(
        s,
        future_NT3=s.future_NT3 * flip3,
        agent_futures_NAT3=s.agent_futures_NAT3 * flip3,
        kerbs_NS4=s.kerbs_NS4 * np.array([1, -1, 1, -1], np.float32),
    )
    other = dataclasses.replace(plans, points_NT2=plans.points_NT2 * flip3[:2])
    a, b = values(open_loop(s, plans, SHAPE)), values(open_loop(mirrored, other, SHAPE))
    assert a == pytest.approx(b)
    assert a["cr"] > 0


def test_yaw_of_many_plans_is_that_of_one():
    rng = np.random.default_rng(0)
    points = rng.normal(scale=0.05, size=(20, 30, 2)).cumsum(1)
    points[3] = 0.0  # standing
    for one, pose in zip(points, plan_poses(points), strict=True):
        assert pose[:, 2] == pytest.approx(yaw_from_steps(one))


def test_agents_fill_every_slot():
    assert fake().agent_futures_NAT3.shape[1] == MAX_AGENTS


def test_each_clip_is_judged_with_its_own_body():
    """Beside an agent at 2.0 m (1.8 m wide): a 1.9 m wide ego passes, one of 2.6 m does not."""
    narrow, wide = dataclasses.replace(SHAPE, width=1.9), dataclasses.replace(SHAPE, width=2.6)
    s = with_agent(fake(4), slice(None), (8.0, 2.0, 0.0))
    # The recorded ego keeps away from it, or the sample would be left out.
    future = s.future_NT3.copy()
    future[:, :, 1] = -3.0 * np.linspace(0, 1, future.shape[1]) ** 0.25
    s = dataclasses.replace(s, future_NT3=future, clips=("a", "b"), families=("x", "x"),
                            clip_N=np.array([0, 0, 1, 1], np.int32))  # fmt: skip
    points = np.zeros_like(future[..., :2])
    points[..., 0] = future[..., 0]
    plans = dataclasses.replace(replay(s), points_NT2=points)
    assert values(open_loop(s, plans, narrow))["dcr"] == 0
    assert values(open_loop(s, plans, wide))["dcr"] == 100
    assert values(open_loop(s, plans, {"a": narrow, "b": wide}))["dcr"] == 50
    with pytest.raises(InputError, match="clip 'b'"):
        open_loop(s, plans, {"a": narrow})
