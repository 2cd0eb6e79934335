"""Frames, polylines and resampling against their inverses, closed forms and shapely."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from senna2.decisions import f_k_plan
from senna2.frames import (
    along_polyline,
    points_to_ego,
    points_to_world,
    pose_to_matrix,
    poses_to_ego,
    poses_to_world,
    project_to_polyline,
    resample_plan,
    resample_poses,
    sample_polyline,
    wrap,
    yaw_from_steps,
)
from senna2.types import InputError, Speed

coordinate = st.floats(-1e3, 1e3)
pose = st.tuples(coordinate, coordinate, st.floats(-10, 10)).map(np.array)


@given(st.floats(-50, 50))
def test_wrap_folds_into_the_half_open_turn(angle):
    folded = float(wrap(np.array(angle)))
    assert -np.pi < folded <= np.pi + 1e-12
    assert np.exp(1j * folded) == pytest.approx(np.exp(1j * angle), abs=1e-9)


def test_wrap_keeps_pi_positive():
    assert wrap(np.array([np.pi, -np.pi])).tolist() == [np.pi, np.pi]


@settings(max_examples=50)
@given(pose, st.integers(0, 2**32 - 1))
def test_ego_and_world_are_inverse(frame, seed):
    poses = np.random.default_rng(seed).normal(0, 30, (5, 3))
    poses[:, 2] = wrap(poses[:, 2])
    np.testing.assert_allclose(points_to_ego(points_to_world(poses[:, :2], frame), frame), poses[:, :2], atol=1e-8)
    back = poses_to_ego(poses_to_world(poses, frame), frame)
    np.testing.assert_allclose(back[:, :2], poses[:, :2], atol=1e-8)
    np.testing.assert_allclose(wrap(back[:, 2] - poses[:, 2]), 0, atol=1e-9)


@given(pose)
def test_points_to_world_is_the_homogeneous_transform(frame):
    points = np.array([[1.0, 2.0], [-3.0, 0.5]])
    padded = np.concatenate([points, np.zeros((2, 1)), np.ones((2, 1))], 1)
    wanted = (pose_to_matrix(frame) @ padded.T).T[:, :2]
    np.testing.assert_allclose(points_to_world(points, frame), wanted, atol=1e-8)


def test_frames_work_on_batches():
    rng = np.random.default_rng(0)
    frames, points = rng.normal(size=(4, 3)), rng.normal(size=(4, 6, 2))
    batch = points_to_ego(points, frames)
    for i in range(4):
        np.testing.assert_allclose(batch[i], points_to_ego(points[i], frames[i]))


def test_one_metre_ahead_and_left_have_the_signs_of_the_convention():
    frame = np.array([10.0, 5.0, np.pi / 2])  # heading north
    np.testing.assert_allclose(points_to_ego(np.array([[10.0, 6.0], [9.0, 5.0]]), frame), [[1, 0], [0, 1]], atol=1e-12)


def test_yaw_of_steps_is_held_where_the_car_stands():
    points = np.array([[1.0, 0.0], [1.0, 1.0], [1.005, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(yaw_from_steps(points), [0, np.pi / 2, np.pi / 2, np.pi / 2], atol=1e-12)
    np.testing.assert_allclose(yaw_from_steps(np.zeros((3, 2)), yaw_0=0.3), 0.3)


WINDING = np.array([[0.0, 0.0], [10.0, 0.0], [15.0, 5.0], [15.0, 20.0], [5.0, 22.0]])


def test_projection_agrees_with_shapely():
    rng = np.random.default_rng(1)
    points = rng.uniform(-10, 30, (300, 2))
    line = shapely.LineString(WINDING)
    s, offset = project_to_polyline(points, WINDING)
    at = shapely.points(points)
    np.testing.assert_allclose(np.abs(offset), shapely.distance(line, at), atol=1e-9)
    nearest = shapely.line_interpolate_point(line, s)
    np.testing.assert_allclose(shapely.distance(nearest, at), np.abs(offset), atol=1e-9)


def test_projection_is_left_positive_and_whole_beyond_the_ends():
    line = np.array([[0.0, 0.0], [10.0, 0.0]])
    s, offset = project_to_polyline(np.array([[4.0, 2.0], [4.0, -2.0], [13.0, 0.0], [-4.0, 0.0]]), line)
    np.testing.assert_allclose(s, [4, 4, 10, 0])
    np.testing.assert_allclose(offset, [2, -2, 3, 4])


def test_sampling_a_polyline_inverts_projection():
    s = np.linspace(0.1, along_polyline(WINDING)[-1] - 0.1, 57)
    points, heading = sample_polyline(WINDING, s)
    back, offset = project_to_polyline(points, WINDING)
    np.testing.assert_allclose(back, s, atol=1e-9)
    np.testing.assert_allclose(offset, 0, atol=1e-9)
    np.testing.assert_allclose(heading[0], 0)
    assert shapely.LineString(WINDING).length == pytest.approx(along_polyline(WINDING)[-1])


def test_sampling_prolongs_the_end_segments():
    points, heading = sample_polyline(np.array([[0.0, 0.0], [0.0, 2.0]]), np.array([-1.0, 5.0]))
    np.testing.assert_allclose(points, [[0, -1], [0, 5]], atol=1e-12)
    np.testing.assert_allclose(heading, np.pi / 2)


def test_resampling_at_the_own_stamps_changes_nothing_even_far_from_the_origin():
    rng = np.random.default_rng(2)
    t = np.cumsum(rng.uniform(0.05, 0.15, 40))
    poses = np.column_stack([4e6 + np.cumsum(rng.normal(0, 1, 40)), 5e6 + rng.normal(0, 1, 40), rng.uniform(-3, 3, 40)])
    back = resample_poses(t, poses, t)
    np.testing.assert_allclose(back[:, :2], poses[:, :2], atol=1e-8)
    np.testing.assert_allclose(wrap(back[:, 2] - poses[:, 2]), 0, atol=1e-9)


def test_resampling_is_exact_for_constant_velocity_and_turn_rate_with_uneven_stamps():
    t = np.array([0.0, 0.07, 0.2, 0.31, 0.52, 1.0])
    law = lambda t: np.column_stack([8 * t, -2 * t, wrap(3.0 + 0.9 * t)])  # noqa: E731 - crosses π
    new = np.linspace(0, 1, 11)
    found = resample_poses(t, law(t), new)
    np.testing.assert_allclose(found[:, :2], law(new)[:, :2], atol=1e-12)
    np.testing.assert_allclose(wrap(found[:, 2] - law(new)[:, 2]), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("t", "new", "what"),
    [([0.0, 0.1, 0.1], [0.0], "increasing"), ([0.0], [0.0], "two"), ([0.0, 1.0, 2.0], [0.5, 2.5], "outside")],
)
def test_resampling_refuses_bad_stamps(t, new, what):
    with pytest.raises(InputError, match=what):
        resample_poses(np.array(t), np.zeros((len(t), 3)), np.array(new))


def _accelerating(v: float, a: float, dt: float) -> np.ndarray:
    t = dt * np.arange(1, round(3.0 / dt) + 1)
    return np.column_stack([v * t + 0.5 * a * t**2, 0 * t])


@pytest.mark.parametrize("dt", [0.5, 0.25])
@pytest.mark.parametrize(("a", "wanted"), [(1.5, Speed.ACCELERATE), (-1.5, Speed.DECELERATE), (0.0, Speed.KEEP)])
def test_a_resampled_coarse_plan_keeps_its_label(dt, a, wanted):
    fine = resample_plan(_accelerating(8.0, a, dt), dt, 0.1, 8.0)
    assert fine.shape == (30, 2)
    assert int(f_k_plan(fine)[0]) == wanted


def test_the_first_acceleration_survives_unlike_by_linear_resampling():
    """f_K asks for the sign of the first acceleration; the linear one of a coarse plan is 0 whatever the plan does."""
    coarse = _accelerating(8.0, 1.5, 0.5)
    t = 0.1 * np.arange(31)
    linear = np.interp(t, 0.5 * np.arange(7), np.concatenate([[0.0], coarse[:, 0]]))
    spline = np.concatenate([[0.0], resample_plan(coarse, 0.5, 0.1, 8.0)[:, 0]])
    assert np.diff(linear, 2)[0] / 0.1**2 == pytest.approx(0.0, abs=1e-9)
    assert np.diff(spline, 2)[0] / 0.1**2 == pytest.approx(1.5, abs=0.05)


def test_resample_plan_passes_through_its_points():
    coarse = _accelerating(5.0, 0.7, 0.5)
    np.testing.assert_allclose(resample_plan(coarse, 0.5, 0.1, 5.0)[4::5], coarse, atol=1e-9)
