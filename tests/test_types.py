"""Every type makes a valid `fake()`, and `validate()` names the field of what is wrong."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

import senna2.types
from senna2.types import (
    Camera,
    ClipMeta,
    Contact,
    Decision,
    Direction,
    EgoState,
    InputError,
    Observation,
    Plan,
    Plans,
    Rig,
    Rollout,
    Samples,
    Speed,
    StateObservation,
    Trajectory,
    VehicleShape,
    meant,
)

TYPES = [
    Camera, ClipMeta, Contact, Decision, EgoState, Observation, Plan, Plans, Rig, Rollout, Samples, StateObservation,
    Trajectory, VehicleShape,
]  # fmt: skip


def test_the_list_above_is_complete():
    found = {t for t in vars(senna2.types).values() if dataclasses.is_dataclass(t)}
    assert found == set(TYPES)


def test_every_public_name_is_exported():
    assert sorted(senna2.types.__all__) == sorted(set(senna2.types.__all__))
    assert all(hasattr(senna2.types, name) for name in senna2.types.__all__)


@pytest.mark.parametrize("kind", TYPES)
def test_fake_is_valid_and_frozen(kind):
    value = kind.fake()
    assert value.validate() is value
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)


def _array_fields(kind: Any) -> list[tuple[Any, str]]:
    value = kind.fake()
    return [(kind, f.name) for f in dataclasses.fields(kind) if isinstance(getattr(value, f.name), np.ndarray)]


ARRAYS = [pair for kind in TYPES for pair in _array_fields(kind)]
# Free in length, they set the number of rows: what is then refused is the field beside them.
LEADS = {
    ("Trajectory", "points_T2"): "Trajectory",
    ("ClipMeta", "expert_t_E"): "expert_pose_E3",
    ("Rollout", "expert_E4"): "Rollout.expert_E4",
    ("Rollout", "t_F"): "Rollout",
}


@pytest.mark.parametrize(("kind", "name"), ARRAYS, ids=lambda v: getattr(v, "__name__", v))
def test_a_wrong_shape_is_refused_by_name(kind, name):
    value = kind.fake()
    bad = dataclasses.replace(value, **{name: np.zeros((2, 7, 9), np.float32)})
    with pytest.raises(InputError, match=LEADS.get((kind.__name__, name), name)):
        bad.validate()


FINITE = [
    (Camera, "cam_to_ego_44"), (Trajectory, "points_T2"), (Observation, "motion_4"), (Plans, "points_NT2"),
    (Samples, "motion_N4"), (Samples, "boxes_NA6"), (Samples, "lanes_NLP2"), (Samples, "future_NT3"),
    (StateObservation, "boxes_A6"), (StateObservation, "lanes_LP2"), (Rollout, "ego_F6"), (Rollout, "progress_F"),
    (Rollout, "ttc_F"), (ClipMeta, "expert_pose_E3"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), FINITE, ids=lambda v: getattr(v, "__name__", v))
def test_nan_is_refused_by_name(kind, name):
    value = kind.fake()
    array = getattr(value, name).copy()
    array[(0,) * array.ndim] = np.nan
    with pytest.raises(InputError, match=name):
        dataclasses.replace(value, **{name: array}).validate()


@pytest.mark.parametrize("name", ["x", "y", "yaw", "v", "a", "steer"])
def test_an_ego_state_is_finite(name):
    with pytest.raises(InputError, match=f"EgoState.{name}"):
        dataclasses.replace(EgoState.fake(), **{name: math.nan}).validate()


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (dataclasses.replace(EgoState.fake(), v=-1.0), "EgoState.v"),
        (VehicleShape(length=-1.0), "VehicleShape.length"),
        (VehicleShape(width=math.nan), "VehicleShape.width"),
        (VehicleShape(rear_overhang=9.0), "VehicleShape.rear_overhang"),
        (dataclasses.replace(Camera.fake(), fx=math.nan), r"Camera\[front\]"),
        (dataclasses.replace(Camera.fake(), history_s=(0.0, 0.4)), "history_s"),
        (dataclasses.replace(Camera.fake(), history_s=()), "history_s"),
        (dataclasses.replace(Camera.fake(), cam_to_ego_44=2 * np.eye(4)), "orthonormal"),
        (Rig((dataclasses.replace(Camera.fake(), name="back"),)), "front"),
        (Rig((Camera.fake(), Camera.fake())), "repeat"),
        (Trajectory(np.zeros((30, 2)), 0.0), "Trajectory.dt"),
        (Trajectory(np.zeros((0, 2)), 0.1), "Trajectory.points_T2"),
        (Decision(7, Direction.STRAIGHT), "Decision.speed"),  # type: ignore[arg-type]
        (dataclasses.replace(Contact.fake(), kind="kiss"), "Contact.kind"),
        (dataclasses.replace(Rollout.fake(), contacts=(dataclasses.replace(Contact.fake(), t_s=math.nan),)), "t_s"),
        (dataclasses.replace(Samples.fake(), instruction_N=("",)), "instruction_N"),
        (dataclasses.replace(Samples.fake(), families=()), "families"),
        (dataclasses.replace(Samples.fake(), clip_N=np.full(4, 3, np.int32)), "clip_N"),
        (dataclasses.replace(Samples.fake(), images={"front": np.zeros((4, 1, 16, 32, 3))}), r"images\[front\].*uint8"),
        (dataclasses.replace(Plan.fake(), speed_probs_4=np.full(4, np.nan)), "speed_probs_4"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_other_faults_are_refused_by_name(bad, named):
    with pytest.raises(InputError, match=named):
        bad.validate()


def test_a_rig_without_that_camera_names_those_it_has():
    with pytest.raises(InputError, match=r"'left'.*front"):
        Rig.fake()["left"]


def test_the_default_rig_looks_four_ways():
    rig = Rig.default().validate()
    forward = {c.name: c.cam_to_ego_44[:3, 2].round(6).tolist() for c in rig.cameras}
    assert forward == {"front": [1, 0, 0], "left": [0, 1, 0], "right": [0, -1, 0], "rear": [-1, 0, 0]}
    front = rig["front"]
    assert (front.width % 28, front.height % 28) == (0, 0)  # whole visual tokens
    assert math.degrees(2 * math.atan(front.width / 2 / front.fx)) == pytest.approx(80)


def test_stacked_plans_keep_decisions_apart():
    plan = Plan(Trajectory.fake(), Decision(Speed.STOP, Direction.TURN_LEFT), Decision.fake())
    plans = Plans.stack([plan, Plan(Trajectory.fake(3.0))]).validate()
    assert plans.speed_N.tolist() == [Speed.STOP, -1]
    assert plans.direction_N.tolist() == [Direction.TURN_LEFT, -1]
    assert plans.vlm_speed_N.tolist() == [Speed.KEEP, -1]
    np.testing.assert_allclose(plans.points_NT2[1, :, 0], 0.3 * np.arange(1, 31), rtol=1e-6)


def _same(a: Samples, b: Samples) -> None:
    for f in dataclasses.fields(Samples):
        left, right = getattr(a, f.name), getattr(b, f.name)
        if f.name == "images":
            assert left.keys() == right.keys()
            for name in left:
                np.testing.assert_array_equal(left[name], right[name])
        elif isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right


@pytest.mark.parametrize("index", [slice(1, 4), np.array([4, 0, 0])], ids=["slice", "array"])
def test_take_takes_every_field(index):
    samples = dataclasses.replace(Samples.fake(6), instruction_N=tuple("abcdef"))
    taken = samples.take(index).validate()
    rows = np.arange(6)[index]
    assert taken.instruction_N == tuple("abcdef"[i] for i in rows)
    np.testing.assert_array_equal(taken.index_N, rows)
    np.testing.assert_array_equal(taken.future_NT3, samples.future_NT3[rows])
    np.testing.assert_array_equal(taken.images["front"], samples.images["front"][rows])


def test_take_and_concatenate_are_inverse():
    samples = Samples.fake(5)
    _same(Samples.concatenate([samples.take(slice(0, 2)), samples.take(slice(2, 5))]).validate(), samples)


def test_concatenate_merges_clips_by_name():
    def of(clips: tuple[str, ...], clip_n: list[int]) -> Samples:
        base = Samples.fake(len(clip_n))
        families = tuple(f"family of {c}" for c in clips)
        return dataclasses.replace(base, clips=clips, families=families, clip_N=np.array(clip_n, np.int32))

    both = Samples.concatenate([of(("a", "b"), [0, 1, 1]), of(("c", "b"), [0, 1])]).validate()
    assert [both.clips[i] for i in both.clip_N] == ["a", "b", "b", "c", "b"]
    assert both.families == tuple(f"family of {c}" for c in both.clips)


def test_concatenate_refuses_what_cannot_be_joined():
    with pytest.raises(InputError, match="nothing"):
        Samples.concatenate([])
    with pytest.raises(InputError, match="cameras"):
        Samples.concatenate([Samples.fake(2), dataclasses.replace(Samples.fake(2), images={})])


def test_samples_of_observations_without_state_hold_no_agents():
    seen = Observation.fake()
    blind = dataclasses.replace(seen, state=None)
    both = Samples.from_observations([seen, blind]).validate()
    assert (both.classes_NA[0] >= 0).any()
    assert not (both.classes_NA[1] >= 0).any()
    assert np.isnan(both.boxes_NA6[1]).all()
    np.testing.assert_array_equal(both.images["front"][1], seen.images["front"])


@pytest.mark.parametrize(
    ("name", "end"), [("resluts", "; did you mean 'results'?"), ("senna3", "; did you mean 'senna2'?"), ("xyz", "")]
)
def test_an_unknown_name_is_answered_with_the_one_that_was_meant(name, end):
    assert meant(name, ["results", "senna2", "smoke"]) == end
