"""Driving one clip and many, in this process and in workers, and planning samples."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

from senna2.drivers import ConstantVelocity, Expert, Idm
from senna2.rollouts import clip_seed, drive, drive_many
from senna2.sample_plans import observation_of, plan_samples
from senna2.types import (
    ClipMeta,
    Decision,
    Direction,
    EgoState,
    InputError,
    Observation,
    Plan,
    Plans,
    Rollout,
    Samples,
    Speed,
    Trajectory,
    VehicleShape,
)  # fmt: skip
from senna2.world.scene import Scene


def named(name: str, **how: float) -> Scene:
    scene = Scene.fake(frames=30, **how)  # type: ignore[arg-type]
    return dataclasses.replace(scene, meta=dataclasses.replace(scene.meta, name=name))


class Dice:
    """Drives at a random speed; each clip's own seed decides."""

    needs_images = False

    def reset(self, meta: ClipMeta, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def act(self, observation: Observation) -> Plan:
        return Plan(Trajectory.fake(self.rng.uniform(4, 9)), Decision(Speed.KEEP, Direction.STRAIGHT))


class Faulty(ConstantVelocity):
    def act(self, observation: Observation) -> Plan:
        if observation.t_s > 1.0:
            raise ZeroDivisionError("no more ideas")
        return super().act(observation)


def broken_clip() -> Scene:
    raise InputError("tracks.parquet: column 'yaw' is missing; write the clip again")


def equal(a: Rollout, b: Rollout) -> bool:
    same = [
        np.array_equal(getattr(a, f), getattr(b, f), equal_nan=True)
        for f in ("t_F", "ego_F6", "plans_FT2", "ttc_F", "progress_F", "boxes_FA6", "decision_F2", "expert_E4")
    ]
    return all(same) and a.contacts == b.contacts and a.clip == b.clip


# --- one clip


def test_a_rollout_holds_every_frame() -> None:
    r = drive(Dice(), named("a"), policy_name="dice", seed=3).validate()
    assert len(r) == 30
    assert np.allclose(r.t_F, 0.1 * np.arange(30))
    assert np.isfinite(r.plans_FT2[:-1]).all()
    assert np.isnan(r.plans_FT2[-1]).all()  # nothing is planned once it is over
    assert (r.clip, r.policy, r.seed, r.vehicle, r.traffic) == ("a", "dice", 3, "bicycle", "replay")
    assert r.decision_F2.tolist() == [[Speed.KEEP, Direction.STRAIGHT]] * 30
    assert (r.vlm_decision_F2 == -1).all()
    assert r.boxes_FA6.shape == (30, 1, 6)
    assert np.allclose(r.boxes_FA6[:, 0, 0], 25 + 8 * r.t_F)
    assert r.observations == ()
    assert r.route_length_m == pytest.approx(400.0)


def test_expert_columns_are_time_speed_progress_and_way() -> None:
    scene = named("a")
    pose = scene.expert.pose_E3.copy()
    pose[:, 1] = 0.5 * np.sin(scene.expert.t_E)
    scene = dataclasses.replace(scene, expert=dataclasses.replace(scene.expert, pose_E3=pose))
    r = drive(Expert(), scene, policy_name="expert")
    t, v, along, way = r.expert_E4.T
    assert np.allclose(along, 8 * t, atol=1e-6)
    assert (v == 8).all()
    assert way[-1] > along[-1]
    assert np.allclose(r.progress_F, along, atol=1e-6)
    assert np.abs(r.ego_F6[:, :2] - pose[:, :2]).max() < 1e-9


def test_slower_planning_follows_the_rest_of_the_plan() -> None:
    scene = named("a", v=8.0)
    every = drive(ConstantVelocity(), scene, policy_name="cv")
    rarely = drive(ConstantVelocity(), scene, policy_name="cv", plan_every=5)
    made = np.isfinite(rarely.plans_FT2[:, 0, 0])
    assert np.flatnonzero(made).tolist() == [0, 5, 10, 15, 20, 25]
    assert np.allclose(every.ego_F6, rarely.ego_F6, atol=1e-9)
    assert rarely.decision_age_F[4] == pytest.approx(0.4)
    exact = drive(Expert(), scene, policy_name="expert", plan_every=7)
    assert np.abs(exact.ego_F6[:, :3] - scene.expert.pose_E3).max() < 1e-9


@pytest.mark.parametrize("record", ["none", "state", "images"])
def test_recording_keeps_what_was_asked_for(record: str) -> None:
    r = drive(ConstantVelocity(), named("a"), policy_name="cv", record=record, record_every=10).validate()  # type: ignore[arg-type]
    kept = [i for i, o in enumerate(r.observations) if o is not None]
    assert kept == ([] if record == "none" else [0, 10, 20])
    for i in kept:
        observation = r.observations[i]
        assert observation is not None
        assert observation.t_s == pytest.approx(0.1 * i)
        assert observation.state is not None
        assert set(observation.images) == ({"front"} if record == "images" else set())


def test_another_start() -> None:
    r = drive(ConstantVelocity(), named("a"), policy_name="cv", start=EgoState(5.0, 0.2, 0.0, 6.0))
    assert r.ego_F6[0].tolist() == [5.0, 0.2, 0.0, 6.0, 0.0, 0.0]
    assert r.progress_F[0] == pytest.approx(5.0)


def test_bad_plans_are_named() -> None:
    class Nan(ConstantVelocity):
        def act(self, observation: Observation) -> Plan:
            return Plan(Trajectory(np.full((30, 2), np.nan), 0.1))

    class Short(ConstantVelocity):
        def act(self, observation: Observation) -> Plan:
            return Plan(Trajectory(np.ones((4, 2)), 0.1))

    with pytest.raises(InputError, match=r"policy nan, clip a, 0\.0 s.*finite"):
        drive(Nan(), named("a"), policy_name="nan")
    with pytest.raises(InputError, match="4 points"):
        drive(Short(), named("a"), policy_name="short")


def test_coarse_plans_are_resampled() -> None:
    class Coarse(ConstantVelocity):
        def act(self, observation: Observation) -> Plan:
            return Plan(Trajectory(np.stack([4.0 * np.arange(1, 7), np.zeros(6)], 1), 0.5))

    r = drive(Coarse(), named("a", v=8.0), policy_name="coarse")
    assert np.allclose(r.plans_FT2[0, :, 0], 0.8 * np.arange(1, 31))


# --- many clips


def test_many_clips_come_in_order_and_do_not_depend_on_each_other() -> None:
    scenes = [named(n) for n in "abcd"]
    all_of_them = drive_many(Dice, scenes, workers=0, seed=4)
    backward = drive_many(Dice, scenes[::-1], workers=0, seed=4)
    assert [r.clip for r in all_of_them] == list("abcd")
    assert all(equal(a, b) for a, b in zip(all_of_them, backward[::-1], strict=True))
    assert not equal(all_of_them[0], drive_many(Dice, scenes[:1], workers=0, seed=5)[0])
    assert clip_seed(4, "a") != clip_seed(4, "b")
    assert drive_many(Dice, [], workers=0) == []


def test_workers_give_what_one_process_gives() -> None:
    scenes = [functools.partial(named, n) for n in "abc"]
    here = drive_many(ConstantVelocity, scenes, workers=0, seed=1, policy_name="cv")
    there = drive_many(ConstantVelocity, scenes, workers=2, seed=1, policy_name="cv", progress=False)
    assert all(equal(a, b) for a, b in zip(here, there, strict=True))


def test_registered_names_work() -> None:
    (r,) = drive_many("idm", [named("a")], workers=0)
    assert r.policy == "idm"
    assert equal(r, drive(Idm(), named("a"), policy_name="idm"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_names_its_clip(workers: int) -> None:
    with pytest.raises(RuntimeError, match="clip sunny: ZeroDivisionError: no more ideas"):
        drive_many(Faulty, [named("sunny")], workers=workers)


def test_a_policy_that_cannot_be_made_says_why() -> None:
    for workers in (0, 1):
        with pytest.raises(InputError, match="no_such_policy"):
            drive_many("no_such_policy", [named("a")], workers=workers)


def test_a_bad_clip_stays_a_user_s_error() -> None:
    with pytest.raises(InputError, match="column 'yaw'"):
        drive_many(ConstantVelocity, [broken_clip], workers=0)


# --- samples


class Echo:
    """Without plan_batch: one sample at a time, from its own observation."""

    def reset(self, meta: ClipMeta, seed: int) -> None:
        self.start = meta.start

    def act(self, observation: Observation) -> Plan:
        assert self.start.v == pytest.approx(observation.v)
        return Plan(Trajectory.fake(observation.v))


class Batched(Echo):
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def plan_batch(self, samples: Samples, decision: Decision | None, seed: int) -> Plans:
        self.sizes.append(len(samples))
        return Plans.stack([Plan(Trajectory.fake(v), decision) for v in samples.motion_N4[:, 0]])


def test_samples_are_planned_in_batches_or_one_by_one_alike() -> None:
    samples, batched = Samples.fake(10), Batched()
    one_by_one = plan_samples(Echo(), samples)
    together = plan_samples(batched, samples, batch=4)
    assert batched.sizes == [4, 4, 2]
    assert np.allclose(one_by_one.points_NT2, together.points_NT2, atol=1e-5)
    forced = plan_samples(batched, samples, decision=Decision(Speed.STOP, Direction.TURN_LEFT))
    assert (forced.speed_N == Speed.STOP).all()
    assert (forced.direction_N == Direction.TURN_LEFT).all()
    with pytest.raises(InputError, match="cannot be given a decision"):
        plan_samples(Echo(), samples, decision=Decision.fake())
    with pytest.raises(InputError, match="no sample"):
        plan_samples(Echo(), samples.take(slice(0, 0)))


@pytest.mark.parametrize(("points", "dt"), [(30, 0.2), (60, 0.05), (6, 0.5), (40, 0.1)])
def test_plans_of_another_step_are_brought_to_ours(points: int, dt: float) -> None:
    class Other(Echo):
        def act(self, observation: Observation) -> Plan:
            x = observation.v * dt * np.arange(1, points + 1)
            return Plan(Trajectory(np.stack([x, 0 * x], 1), dt))

    samples = Samples.fake(3)
    assert np.allclose(plan_samples(Other(), samples).points_NT2, plan_samples(Echo(), samples).points_NT2, atol=1e-4)


def test_a_plan_that_is_too_short_is_refused_in_samples_too() -> None:
    class Short(Echo):
        def act(self, observation: Observation) -> Plan:
            return Plan(Trajectory(Trajectory.fake().points_T2, 0.05))

    with pytest.raises(InputError, match=r"plan_samples: sample 0: plan of 15 points at 0\.1 s; 30 are needed"):
        plan_samples(Short(), Samples.fake(2))


def test_a_policy_that_plans_one_by_one_is_told_each_clips_own_body() -> None:
    class Told(Echo):
        def __init__(self) -> None:
            self.lengths: list[float] = []

        def reset(self, meta: ClipMeta, seed: int) -> None:
            super().reset(meta, seed)
            self.lengths.append(meta.ego_shape.length)

    samples = dataclasses.replace(
        Samples.fake(2), clips=("a", "b"), families=("x", "x"), clip_N=np.array([1, 0], np.int32)
    )
    policy = Told()
    plan_samples(policy, samples, shapes={"a": VehicleShape(length=4.1), "b": VehicleShape(length=4.9)})
    assert policy.lengths == [4.9, 4.1]


def test_a_sample_is_the_observation_it_was_made_of() -> None:
    original = Observation.fake()
    again = observation_of(Samples.from_observations([original, original]), 1).validate()
    assert again.v == original.v
    assert again.navigation == original.navigation
    assert np.array_equal(again.images["front"], original.images["front"])
    assert again.state is not None
    assert original.state is not None
    assert np.array_equal(again.state.boxes_A6, original.state.boxes_A6, equal_nan=True)
