"""Demonstrations of one generated clip: counts, determinism, and labels that hold."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter

import numpy as np
import pytest
from shapely import LineString, Point

from senna2 import demonstrations
from senna2.data.store import SampleStore
from senna2.decisions import f_k_plan
from senna2.demonstrations import WISH_FRAMES, Drives, Replay, collect, demonstrate, replay
from senna2.displaced import Displacement, displaced
from senna2.frames import points_to_ego
from senna2.train.staleness import drives
from senna2.types import PLAN_DT, PLAN_STEPS, Contact, EgoState, InputError, Rig, Samples, Speed
from senna2.world.clip import save_clip
from senna2.world.scene import Scene
from senna2.world.sim import Simulator
from senna2.world.town.expert import ExpertDriver
from senna2.world.town.families import make_scene, scene_seed
from senna2.world.town.instructions import INSTRUCTIONS, instruction_of

STATE = Drives(drives=2, every=10, branch_every=20, images=False, seed=3)


@functools.cache
def clip() -> Scene:
    return make_scene("following_and_stop", scene_seed("train", "following_and_stop", 0), "train")


@functools.cache
def made() -> tuple[Samples, Counter[str]]:
    samples, counts = demonstrate(clip(), STATE)
    assert samples is not None
    return samples.validate(), counts


def test_counts_say_what_became_of_every_drive_and_branch():
    samples, counts = made()
    frames = len(clip().expert.t_E)
    starts = len(range(0, frames - PLAN_STEPS, STATE.every))
    told = np.array([bool(said) for said in samples.instruction_N])
    natural = (~samples.counterfactual_N & ~told).sum()
    assert natural == (STATE.drives - counts["drives with a contact, dropped"]) * starts
    branches = sum(n for name, n in counts.items() if name.startswith("branches"))
    assert branches == 3 * len(range(0, frames - PLAN_STEPS, STATE.branch_every))
    assert counts["branches kept"] == samples.counterfactual_N.sum() > 0
    assert counts["samples"] == len(samples)


def test_counterfactual_labels_hold():
    samples, _ = made()
    forced = samples.take(np.flatnonzero(samples.counterfactual_N))
    np.testing.assert_array_equal(forced.speed_N, f_k_plan(forced.future_NT3[..., :2].astype(float))[0])
    assert set(forced.speed_N.tolist()) <= {Speed.ACCELERATE, Speed.DECELERATE, Speed.KEEP}
    assert len(set(forced.speed_N.tolist())) > 1
    assert (forced.frame_N % STATE.branch_every == 0).all()
    assert (forced.frame_N > 0).any()


def test_a_branch_begins_as_the_natural_drive_and_then_differs():
    samples, _ = made()
    row = int(np.flatnonzero(samples.counterfactual_N & (samples.frame_N > 0))[0])
    same = (samples.frame_N == samples.frame_N[row]) & ~samples.counterfactual_N
    natural = int(np.flatnonzero(same)[0])  # the natural drive comes first
    np.testing.assert_array_equal(samples.motion_N4[row], samples.motion_N4[natural])
    np.testing.assert_array_equal(samples.boxes_NA6[row], samples.boxes_NA6[natural])


def test_perturbed_drives_start_elsewhere():
    samples, _ = made()
    starts = samples.take(np.flatnonzero((samples.frame_N == 0) & ~samples.counterfactual_N))
    assert len(starts) == STATE.drives + 1  # the last one is driven as a passenger asked
    assert not np.array_equal(starts.route_NR2[0], starts.route_NR2[1])


def test_the_same_seed_gives_the_same_samples_and_another_does_not():
    samples, counts = made()
    again, counts_again = demonstrate(clip(), STATE)
    other, _ = demonstrate(clip(), dataclasses.replace(STATE, seed=4, branch_every=0))
    assert counts == counts_again
    for name in ("motion_N4", "future_NT3", "boxes_NA6", "speed_N", "agent_futures_NAT3"):
        np.testing.assert_array_equal(getattr(samples, name), getattr(again, name))
    first, second = (s.take(np.flatnonzero((s.frame_N == 0) & ~s.counterfactual_N)) for s in (samples, other))
    np.testing.assert_array_equal(first.motion_N4[0], second.motion_N4[0])  # the natural drive is never perturbed
    assert not np.array_equal(first.route_NR2[1], second.route_NR2[1])


@pytest.mark.parametrize(
    ("name", "value", "counted"),
    [
        ("LEAST_BRANCH_TTC_S", np.inf, "branches dropped: TTC"),
        ("f_k_plan", lambda points: (np.full(len(points), -1),), "branches dropped: did not reach the label"),
    ],
)
def test_dropped_branches_are_counted(monkeypatch, name, value, counted):
    monkeypatch.setattr(demonstrations, name, value)
    samples, counts = demonstrate(clip(), dataclasses.replace(STATE, drives=1, branch_every=40, instructed=0))
    assert counts[counted] > 0
    assert samples.counterfactual_N.sum() == counts["branches kept"] < 3 * 2


def test_a_branch_begins_at_a_sample_or_the_settings_are_refused():
    with pytest.raises(InputError, match=r"branch_every 15: must be a multiple of clips\.every"):
        demonstrate(clip(), dataclasses.replace(STATE, branch_every=15))


# ---------------------------------------------------------------- a passenger speaks

TOLD = dataclasses.replace(STATE, drives=1, every=5, branch_every=0, instructed=12)


@functools.cache
def told() -> tuple[Samples, Counter[str]]:
    scene = make_scene("empty_road", scene_seed("train", "empty_road", 3), "train")
    samples, counts = demonstrate(scene, TOLD)
    assert samples is not None
    return samples.validate(), counts


def test_instructed_drives_carry_their_words_and_are_counted():
    samples, counts = told()
    said = np.array(samples.instruction_N)
    assert counts["instructed drives kept"] == TOLD.instructed  # an empty road
    assert counts["samples with an instruction"] == (said != "").sum() > 0
    assert (said != "").sum() <= TOLD.instructed * (WISH_FRAMES // TOLD.every + 1)
    kinds = {instruction_of(text).kind for text in set(said.tolist()) - {""}}
    assert len(kinds) == len(INSTRUCTIONS)
    assert len(set(said.tolist())) > len(kinds) + 1  # in several words
    assert not samples.counterfactual_N.any()
    assert (samples.frame_N % TOLD.every == 0).all()


def test_a_passenger_speaks_at_the_start_or_later():
    """Each drive is stored frame by frame: where the frames do not grow, another begins, with other words."""
    samples, _ = told()
    begins = np.flatnonzero(np.diff(samples.frame_N) <= 0) + 1
    assert len(begins) == TOLD.instructed
    assert {"later" if samples.frame_N[i] else "start" for i in begins} == {"later", "start"}
    natural = samples.take(slice(0, int(begins[0])))
    for a, b in zip(begins, [*begins[1:], len(samples)], strict=True):
        assert len(set(samples.instruction_N[a:b])) == 1
        assert 0 < b - a <= WISH_FRAMES // TOLD.every + 1
    later = [int(i) for i in begins if samples.frame_N[i]]
    for i in later:  # the frame is the natural drive's own; what follows is not
        same = int(np.flatnonzero(natural.frame_N == samples.frame_N[i])[0])
        np.testing.assert_array_equal(samples.motion_N4[i], natural.motion_N4[same])
        np.testing.assert_array_equal(samples.route_NR2[i], natural.route_NR2[same])


def test_the_expert_obeys_in_the_direction_asked():
    """Against the natural drive from the very same frame: end speed and lateral offset at 3 s. Where there is no room
    beside somebody it stays as it was."""
    samples, _ = told()
    first = int(np.flatnonzero(np.array(samples.instruction_N) != "")[0])
    natural = samples.take(slice(0, first))
    changes: dict[str, list[float]] = {}
    for i in range(first, len(samples)):
        same = np.flatnonzero(natural.frame_N == samples.frame_N[i])
        if not len(same) or not np.array_equal(natural.motion_N4[same[0]], samples.motion_N4[i]):
            continue
        a, b = samples.future_NT3[i], natural.future_NT3[same[0]]
        dv = (np.hypot(*(a[-1] - a[-2])[:2]) - np.hypot(*(b[-1] - b[-2])[:2])) / PLAN_DT
        dy = a[-1, 1] - b[-1, 1]
        kind = instruction_of(samples.instruction_N[i]).kind
        change = {"hurry up": dv, "slow down": -dv, "keep left": dy, "keep right": -dy}[kind]
        changes.setdefault(kind, []).append(float(change))
    assert len(changes) >= 3
    for kind, values in changes.items():
        assert min(values) > -0.05, kind
        assert max(values) > 0.1, kind


def test_an_instructed_drive_with_a_contact_is_dropped_and_counted(monkeypatch):
    drive = demonstrations._drive

    def crash(*arguments, said="", **more):
        states, observations, directions = drive(*arguments, said=said, **more)
        if said:
            states[-1] = dataclasses.replace(states[-1], contacts=("somebody",))
        return states, observations, directions

    monkeypatch.setattr(demonstrations, "_drive", crash)
    samples, counts = demonstrate(clip(), dataclasses.replace(STATE, drives=1, branch_every=0, instructed=2))
    assert counts["instructed drives dropped: contact"] == 2
    assert counts["instructed drives kept"] == 0
    assert not any(samples.instruction_N)


def test_instructed_drives_leave_the_others_as_they_were():
    samples, _ = made()
    without, _ = demonstrate(clip(), dataclasses.replace(STATE, instructed=0))
    np.testing.assert_array_equal(without.motion_N4, samples.motion_N4[: len(without)])
    np.testing.assert_array_equal(without.future_NT3, samples.future_NT3[: len(without)])
    assert len(samples) > len(without)
    assert not any(without.instruction_N)


BACK = dataclasses.replace(STATE, drives=1, every=10, branch_every=0, instructed=0, recover_every=10)


def test_recoveries_come_beside_what_else_is_shown():
    natural, _ = demonstrate(clip(), dataclasses.replace(BACK, recover_every=0))
    samples, counts = demonstrate(clip(), BACK)
    back = samples.validate().take(np.arange(len(natural), len(samples)))
    assert counts["recoveries kept"] > 0
    assert counts["recoveries kept"] + counts["recoveries dropped: contact"] == len(natural)
    assert len(back) >= counts["recoveries kept"]
    assert not back.counterfactual_N.any()
    assert not any(back.instruction_N)
    np.testing.assert_array_equal(samples.future_NT3[: len(natural)], natural.future_NT3)  # others stay as they were


def test_the_expert_finds_back_from_a_displaced_state():
    """Its own path, which is straight in this clip, is nearer after 3 s than at the start."""
    simulator, driver, rng = Simulator(clip()), ExpertDriver(clip()), np.random.default_rng(0)
    path = LineString(clip().expert.pose_E3[:, :2])
    off = []
    for t in np.arange(0.0, 4.0, 0.5):
        state = displaced(simulator, simulator.reset(t_s=t), Displacement(speed_share=(0.8, 1.2)), rng)
        assert state is not None
        begin = path.distance(Point(state.ego.x, state.ego.y))
        driver.reset()
        for _ in range(PLAN_STEPS):
            state = state if state.done else simulator.step(state, driver.plan(state))
        if not state.contacts:  # else `demonstrate` drops it
            off.append((begin, path.distance(Point(state.ego.x, state.ego.y))))
    assert len(off) >= 5
    before, after = np.mean(off, 0)
    assert before > 0.2
    assert after < 0.3 * before


def test_drives_are_told_apart_with_recoveries():
    """Every recovery is a drive of its own: the VLM's earlier answers must not come from another one."""
    samples, counts = demonstrate(clip(), dataclasses.replace(BACK, instructed=2, branch_every=20))
    number = drives(samples)
    first = np.flatnonzero(np.diff(number, prepend=-1))
    assert len(first) == 1 + counts["instructed drives kept"] + counts["recoveries kept"]


def test_a_displaced_state_moves_its_memory_along():
    simulator = Simulator(clip())
    state = simulator.reset(t_s=2.0)
    driver = ExpertDriver(clip())
    for _ in range(6):
        state = simulator.step(state, driver.plan(state))
    assert state.past
    same = displaced(simulator, state, Displacement(0.0, 0.0, (1.0, 1.0), 0.0), np.random.default_rng(0))
    assert same.ego == state.ego
    for (_, now), (_, before) in zip(same.past, state.past, strict=True):
        np.testing.assert_allclose(now.as_array(), before.as_array(), atol=1e-9)
    aside = displaced(simulator, state, Displacement(0.4, 0.2, (0.5, 0.5), 0.0), np.random.default_rng(1))
    assert aside.ego.v == pytest.approx(0.5 * state.ego.v)
    for (_, now), (_, before) in zip(aside.past, state.past, strict=True):
        moved = points_to_ego(np.array([[now.x, now.y]]), _pose(aside.ego))
        was = points_to_ego(np.array([[before.x, before.y]]), _pose(state.ego))
        np.testing.assert_allclose(moved, 0.5 * was, atol=1e-9)  # half as fast, seen from the ego the same way back
    off = Displacement(0.0, 0.0, (1.0, 1.0), 0.0)
    assert displaced(simulator, state, dataclasses.replace(off, offset_m=1e3), np.random.default_rng(0)) is None


def _pose(ego: EgoState) -> np.ndarray:
    return np.array([ego.x, ego.y, ego.yaw])


def test_replay_is_the_recorded_drive():
    samples, counts = replay(clip(), Replay(every=20, images=False))
    samples.validate()
    frames = len(clip().expert.t_E)
    assert samples.frame_N.tolist() == list(range(0, frames - PLAN_STEPS, 20))
    assert counts == Counter(samples=len(samples), frames=frames)
    np.testing.assert_allclose(samples.motion_N4[:, 0], clip().expert.v_E[samples.frame_N], atol=0.05)
    assert samples.direction_N.tolist() == clip().expert.direction_E[samples.frame_N].tolist()


def test_collect_writes_parts_with_images_keeps_them_and_counts(tmp_path):
    small = Rig(tuple(dataclasses.replace(c, width=14, height=14, cx=7, cy=5, fx=8, fy=8) for c in clip().rig.cameras))
    folder = tmp_path / "clips" / "one"
    save_clip(dataclasses.replace(clip(), rig=small), folder)
    how = dataclasses.replace(STATE, drives=1, branch_every=0, instructed=0, every=30, images=True)
    counts = collect([folder], tmp_path / "samples", how, workers=0, label="test")
    store = SampleStore(tmp_path / "samples")
    samples = store.take(np.arange(len(store))).validate()
    assert counts["samples"] == len(store) > 0
    assert {n: i.shape[1:] for n, i in samples.images.items()} == {
        c.name: (len(c.history_s), 14, 14, 3) for c in small.cameras
    }
    assert all(image.std() > 5 for image in samples.images.values())
    again = collect([folder], tmp_path / "samples", how, workers=0, label="test")
    assert again == Counter(kept_from_before=1)


def test_a_recording_that_touches_something_at_once_leaves_no_samples_and_is_counted(tmp_path, monkeypatch):
    folder = tmp_path / "brushes"
    save_clip(Scene.fake(frames=60), folder)
    driven = demonstrations.drive
    monkeypatch.setattr(
        demonstrations, "drive", lambda *a, **k: dataclasses.replace(driven(*a, **k), contacts=(Contact.fake(),))
    )
    monkeypatch.setattr(demonstrations, "samples_from_drive", lambda **_: None)
    counts = collect([folder], tmp_path / "samples", Replay(images=False), workers=0, label="test")
    assert counts["clips without samples"] == 1
    assert not (tmp_path / "samples" / "brushes").exists()


def test_a_clip_shorter_than_a_plan_is_named(tmp_path):
    folder = tmp_path / "short"
    save_clip(Scene.fake(frames=20), folder)
    with pytest.raises(InputError, match=r"short: is shorter than the 3 s"):
        collect([folder], tmp_path / "samples", Replay(images=False), workers=0, label="test")
    assert not (tmp_path / "samples" / "short").exists()
