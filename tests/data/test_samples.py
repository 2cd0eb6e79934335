"""A drive becomes samples in the ego frame of each instant: closed forms and world-frame recomputation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import shapely

from senna2.data.samples import KERB_RADIUS, samples_from_drive
from senna2.decisions import f_k_plan
from senna2.drivers import ConstantVelocity, Expert
from senna2.evaluate.open_loop import open_loop
from senna2.frames import poses_to_ego
from senna2.rollouts import drive
from senna2.types import PLAN_STEPS, InputError, Plans, Samples, Speed, VehicleShape
from senna2.world.scene import Scene

FRAMES = 45


@pytest.fixture(scope="module")
def driven():
    """The expert of a small scene, observed in every second frame."""
    scene = Scene.fake(frames=FRAMES)
    return scene, drive(Expert(), scene, policy_name="expert", record="state", record_every=2)


def _samples(scene, rollout, **changes) -> Samples | None:
    given = {
        "clip": "c",
        "family": "f",
        "observations": rollout.observations,
        "pose_F3": rollout.ego_F6[:, :3],
        "boxes_FA6": rollout.boxes_FA6,
        "direction_F": np.arange(len(rollout)) % 3,
        "kerbs": scene.map.kerbs,
    }
    return samples_from_drive(**{**given, **changes})


@pytest.fixture(scope="module")
def samples(driven) -> Samples:
    return _samples(*driven).validate()


def test_every_observed_frame_with_a_whole_future_is_a_sample(driven, samples):
    _, rollout = driven
    wanted = [i for i in range(len(rollout) - PLAN_STEPS) if rollout.observations[i] is not None]
    assert samples.frame_N.tolist() == wanted
    assert len(wanted) > 3
    assert samples.direction_N.tolist() == [i % 3 for i in wanted]
    assert (samples.clips, samples.families) == (("c",), ("f",))
    assert not samples.counterfactual_N.any()


def test_futures_are_what_was_driven(driven, samples):
    _, rollout = driven
    for row, frame in enumerate(samples.frame_N):
        pose = rollout.ego_F6[frame, :3]
        wanted = poses_to_ego(rollout.ego_F6[frame + 1 : frame + 31, :3], pose)
        np.testing.assert_allclose(samples.future_NT3[row], wanted, atol=1e-4)


def test_labels_are_f_k_of_the_future(samples):
    np.testing.assert_array_equal(samples.speed_N, f_k_plan(samples.future_NT3[..., :2].astype(float))[0])
    assert (samples.speed_N == Speed.KEEP).all()  # the fake scene's expert drives at constant speed


def test_agent_futures_match_the_observed_boxes_and_the_recording(driven, samples):
    _, rollout = driven
    used = samples.classes_NA >= 0
    assert used.any()
    np.testing.assert_allclose(samples.agent_futures_NAT3[used][:, 0, :2], samples.boxes_NA6[used][:, :2], atol=1e-3)
    assert np.isnan(samples.agent_futures_NAT3[~used]).all()
    row, column = np.argwhere(used)[0]
    frame = samples.frame_N[row]
    world = rollout.boxes_FA6[frame : frame + 31, 0, :3]
    np.testing.assert_allclose(
        samples.agent_futures_NAT3[row, column], poses_to_ego(world, rollout.ego_F6[frame, :3]), atol=1e-3
    )


def test_a_box_that_was_never_recorded_is_an_error(driven):
    scene, rollout = driven
    with pytest.raises(InputError, match="not among the recorded boxes"):
        _samples(scene, rollout, boxes_FA6=rollout.boxes_FA6 + 1.0)


def test_an_agent_that_leaves_has_no_pose_from_then_on(driven):
    scene, rollout = driven
    boxes = rollout.boxes_FA6.copy()
    boxes[10:, 0] = np.nan
    first = _samples(scene, rollout, boxes_FA6=boxes, frames=[0])
    gone = np.isnan(first.agent_futures_NAT3[0, 0, :, 0])
    np.testing.assert_array_equal(gone, np.arange(31) >= 10)


def test_the_truth_has_no_error_and_no_collision(samples):
    none = np.full(len(samples), -1, np.int8)
    plans = Plans(samples.future_NT3[..., :2], none, none, none, none)
    values = open_loop(samples, plans, VehicleShape())
    assert values["fde_m"].value == 0
    assert values["ade_m"].value == 0
    assert values["cr"].value == 0


def test_a_constant_speed_drive_is_what_constant_velocity_plans(samples):
    plans = ConstantVelocity().plan_batch(samples)
    assert open_loop(samples, plans, VehicleShape())["fde_m"].value < 0.05


def test_kerb_segments_are_the_near_ones_in_the_ego_frame(driven):
    scene, rollout = driven
    t = np.linspace(-50, 300, 800)
    wavy = np.column_stack([t, 6 + 0.5 * np.sin(t / 7)])
    far = np.array([[0.0, 500.0], [10.0, 500.0]])
    samples = _samples(scene, rollout, kerbs=[wavy, far])
    assert samples.has_kerbs_N.all()
    for row, frame in enumerate(samples.frame_N):
        segments = samples.kerbs_NS4[row]
        segments = segments[np.isfinite(segments[:, 0])]
        assert len(segments) > 5
        pose = rollout.ego_F6[frame, :3]
        c, s = np.cos(pose[2]), np.sin(pose[2])
        matrix = [c, s, -s, c, *(np.array([[c, s], [-s, c]]) @ -pose[:2])]
        line = shapely.affinity.affine_transform(shapely.LineString(wavy), matrix)
        ours = shapely.MultiLineString([s.reshape(2, 2) for s in segments])
        near = shapely.box(-30, -30, 30, 30)
        assert shapely.hausdorff_distance(shapely.intersection(line, near), shapely.intersection(ours, near)) < 0.3
        assert ours.distance(shapely.Point(0, 0)) == pytest.approx(line.distance(shapely.Point(0, 0)), abs=0.06)
        assert all(shapely.LineString(g).distance(shapely.Point(0, 0)) < KERB_RADIUS for g in ours.geoms)


def test_a_map_without_kerbs_differs_from_no_kerb_near(driven):
    scene, rollout = driven
    unknown, none = _samples(scene, rollout, kerbs=None), _samples(scene, rollout, kerbs=[])
    assert not unknown.has_kerbs_N.any()
    assert none.has_kerbs_N.all()
    assert np.isnan(unknown.kerbs_NS4).all()
    assert np.isnan(none.kerbs_NS4).all()


def test_a_short_or_unobserved_drive_has_no_samples(driven):
    scene, rollout = driven
    assert _samples(scene, rollout, observations=[None] * len(rollout)) is None
    short = slice(0, PLAN_STEPS)
    assert (
        _samples(
            scene, rollout, observations=rollout.observations[short], pose_F3=rollout.ego_F6[short, :3],
            boxes_FA6=rollout.boxes_FA6[short], direction_F=np.zeros(PLAN_STEPS),
        )
        is None
    )  # fmt: skip


def test_columns_of_different_length_are_refused(driven):
    with pytest.raises(InputError, match="differ in length"):
        _samples(*driven, direction_F=np.zeros(3))


def test_the_ego_frame_hides_where_in_the_world_it_is(driven):
    """Shift and turn the whole drive: the same samples."""
    scene, rollout = driven
    angle, shift = 0.6, np.array([4e5, -3e5])
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]])

    def moved(rows: np.ndarray) -> np.ndarray:
        out = rows.copy()
        out[..., :2] = rows[..., :2] @ turn.T + shift
        out[..., 2] += angle
        return out

    kerbs = [np.asarray(k) @ turn.T + shift for k in scene.map.kerbs]
    changes = {"pose_F3": moved(rollout.ego_F6[:, :3]), "boxes_FA6": moved(rollout.boxes_FA6), "kerbs": kerbs}
    here, there = _samples(scene, rollout), _samples(scene, rollout, **changes)
    for f in dataclasses.fields(Samples):
        left, right = getattr(here, f.name), getattr(there, f.name)
        if isinstance(left, np.ndarray) and f.name != "kerbs_NS4":  # equally near segments may swap
            np.testing.assert_allclose(left.astype(float), right.astype(float), atol=1e-4)
