"""The Gymnasium environment passes its checker, and its episodes are the simulator's."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from senna2.types import EgoState, InputError, Rig, Trajectory
from senna2.world.clip import save_clip
from senna2.world.env import ENV_ID, AccelSteerAction, ClipLibrary, DrivingEnv
from senna2.world.env.actions import unroll
from senna2.world.scene import LaneMap, Scene
from senna2.world.sim import SimConfig, Simulator


def stopped_ahead() -> Scene:
    return Scene.fake(frames=40, leader_v=0.0, gap=20.0)


@pytest.mark.parametrize("obs", ["state", "images"])
def test_gymnasium_s_checker_has_no_complaint(obs: str) -> None:
    scene = Scene.fake()
    unknown = dataclasses.replace(scene, speed_limit_P=np.full(len(scene.route_P2), np.nan))
    check_env(DrivingEnv([scene, unknown], obs=obs, render_mode="rgb_array"), skip_render_check=True)


@pytest.mark.parametrize("obs", ["state", "images"])
def test_observations_stay_in_their_space_to_the_end(obs: str) -> None:
    env = DrivingEnv(stopped_ahead(), obs=obs)
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    done, steps = False, 0
    while not done:
        action = np.asarray(Trajectory.fake(8.0).points_T2, np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(observation)
        assert np.isfinite(reward)
        done, steps = terminated or truncated, steps + 1
    assert terminated
    assert not truncated
    assert info["reward"]["contact"] == 1.0
    assert reward < -15
    assert info["contacts"][0].agent_id == "leader"
    assert steps < 39


def test_standing_still_is_cut_off_at_the_clip_s_end_and_earns_nothing() -> None:
    env = DrivingEnv(stopped_ahead())
    env.reset(seed=0)
    rewards = []
    for _ in range(39):
        _, reward, terminated, truncated, _ = env.step(np.zeros((30, 2), np.float32))
        assert not terminated
        rewards.append(reward)
    assert truncated
    assert sum(rewards[20:]) == 0


def test_the_route_s_end_terminates() -> None:
    scene = Scene.fake()
    env = DrivingEnv(dataclasses.replace(scene, route_P2=np.array([(-40.0, 0), (12.0, 0)]), speed_limit_P=np.ones(2)))
    env.reset(seed=0)
    for _ in range(15):
        *_, terminated, _, info = env.step(np.asarray(Trajectory.fake(8.0).points_T2, np.float32))
    assert terminated
    assert info["arrived"]


def test_seed_chooses_the_clip_and_options_name_it() -> None:
    scenes = [
        dataclasses.replace(Scene.fake(v=v), meta=dataclasses.replace(Scene.fake().meta, name=f"clip{v}"))
        for v in (2.0, 4.0, 6.0, 8.0)
    ]
    env = DrivingEnv(scenes)
    first = [env.reset(seed=s)[1]["clip"] for s in range(12)]
    assert first == [env.reset(seed=s)[1]["clip"] for s in range(12)]
    assert len(set(first)) > 1
    assert env.reset(options={"scene": 2})[1]["clip"] == "clip6.0"
    with pytest.raises(InputError, match="scene 9"):
        env.reset(options={"scene": 9})


def test_a_state_can_be_driven_on_from() -> None:
    env = DrivingEnv(stopped_ahead())
    env.reset(seed=0)
    action = np.asarray(Trajectory.fake(6.0).points_T2, np.float32)
    for _ in range(5):
        env.step(action)
    saved = env.state
    futures = []
    for _ in range(2):
        env.reset(options={"scene": 0, "state": saved})
        futures.append([env.step(action)[0]["motion"][0] for _ in range(5)])
    assert futures[0] == futures[1]
    assert env.state.step == 10
    assert saved == env.reset(options={"scene": 0, "state": saved})[1].get("state", saved)


def test_what_cannot_be_reset_to_or_driven_says_so() -> None:
    env = DrivingEnv([stopped_ahead(), dataclasses.replace(Scene.fake(), tracks=())])
    env.reset(seed=0, options={"scene": 0})
    with pytest.raises(InputError, match=r"reset option 'secne'.*'scene'"):
        env.reset(options={"secne": 1})
    with pytest.raises(InputError, match="needs 'scene'"):
        env.reset(options={"state": env.state})
    with pytest.raises(InputError, match="has 1 agents, clip fake has 0"):
        env.reset(options={"state": env.state, "scene": 1})
    with pytest.raises(InputError, match=r"action: has shape \(0, 2\), expected \(30, 2\)"):
        env.step(np.zeros((0, 2)))


def test_pictures() -> None:
    scene = Scene.fake()
    env = DrivingEnv(scene, render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture is not None
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) >= 5  # ground, road, kerb, ego, leader
    with_cameras = DrivingEnv(scene, obs="images", render_mode="rgb_array")
    with_cameras.reset(seed=0)
    wide = with_cameras.render()
    assert wide is not None
    assert wide.shape[1] == picture.shape[1] + scene.rig["front"].width
    assert DrivingEnv(scene).render() is None


def test_bad_use() -> None:
    with pytest.raises(InputError, match="obs"):
        DrivingEnv(Scene.fake(), obs="lidar")
    with pytest.raises(InputError, match="render_mode"):
        DrivingEnv(Scene.fake(), render_mode="human")
    with pytest.raises(InputError, match="reset first"):
        DrivingEnv(Scene.fake()).step(np.zeros((30, 2), np.float32))
    with pytest.raises(InputError, match="plan_every"):
        DrivingEnv(Scene.fake(), plan_every=30)
    with pytest.raises(InputError, match="keep"):
        DrivingEnv(Scene.fake(), keep=0)
    with pytest.raises(InputError, match="wraps a DrivingEnv"):
        AccelSteerAction(gymnasium.make("CartPole-v1"))


@pytest.mark.parametrize("obs", ["state", "images"])
def test_gymnasium_makes_it_by_name(obs: str) -> None:
    env = gymnasium.make(ENV_ID, clips=[stopped_ahead(), Scene.fake()], obs=obs, render_mode="rgb_array")
    check_env(env.unwrapped)
    observation, info = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    assert info["clip"] == "fake"


def test_an_import_or_the_module_in_the_name_registers_it() -> None:
    script = """
import gymnasium
from senna2.world.scene import Scene
env = gymnasium.make("senna2.world.env:senna2/Clip-v0", clips=Scene.fake())
env.reset(seed=0)
import sys
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_plan_can_be_driven_for_several_frames() -> None:
    scene = Scene.fake()
    often, seldom = DrivingEnv(scene), DrivingEnv(scene, plan_every=5)
    often.reset(seed=0)
    seldom.reset(seed=0)
    plan = np.asarray(Trajectory.fake(5.0).points_T2, np.float64)
    total = 0.0
    for k in range(5):  # what is left of the plan, in the ego frame of each frame
        x = often.ego.x
        left = plan[k:] - np.array([x, 0.0])
        rest = left[-1] + np.outer(np.arange(1, k + 1), [0.5, 0.0])
        total += often.step(np.concatenate([left, rest]))[1]
    _, reward, terminated, truncated, info = seldom.step(plan)
    assert not terminated
    assert not truncated
    assert info["t_s"] == pytest.approx(0.5)
    np.testing.assert_allclose(seldom.ego.as_array(), often.ego.as_array(), atol=1e-9)
    assert reward == pytest.approx(total)


def test_several_frames_end_where_the_episode_ends() -> None:
    env = DrivingEnv(stopped_ahead(), plan_every=7)
    env.reset(seed=0)
    plan, steps, done = np.asarray(Trajectory.fake(8.0).points_T2), 0, False
    while not done:
        *_, terminated, truncated, info = env.step(plan)
        done, steps = terminated or truncated, steps + 1
    assert terminated
    assert info["reward"]["contact"] == 1.0
    once = DrivingEnv(stopped_ahead())
    once.reset(seed=0)
    assert info["t_s"] < 7 * 0.1 * steps  # inside the last step
    env.reset(seed=0)
    for _ in range(6):
        *_, truncated, info = env.step(np.zeros((30, 2)))
    assert truncated
    assert info["t_s"] == pytest.approx(3.9)


def test_an_instant_can_be_kept_and_come_back_to() -> None:
    scenes = [Scene.fake(v=v) for v in (3.0, 5.0, 7.0)]
    env = DrivingEnv(scenes, keep=1)
    env.reset(seed=5)
    plan = np.asarray(Trajectory.fake(6.0).points_T2, np.float32)
    for _ in range(4):
        env.step(plan)
    kept = pickle.loads(pickle.dumps(env.get_state()))

    def future(of: DrivingEnv) -> list[float]:
        seen = [of.step(plan)[0]["motion"][0] for _ in range(5)]
        return [*seen, *(of.reset()[0]["motion"][0] for _ in range(6))]  # the clips drawn next, too

    first = future(env)
    observation = env.set_state(kept)
    assert observation["motion"][0] == np.float32(kept.sim.ego.v)
    other = DrivingEnv(scenes)
    other.reset(seed=99)
    other.set_state(kept)
    assert first == future(env) == future(other)


def test_steering_constantly_drives_a_circle() -> None:
    scene = dataclasses.replace(Scene.fake(frames=200, v=5.0), map=LaneMap(), tracks=())
    env = AccelSteerAction(DrivingEnv(scene))
    shape, steer = scene.meta.ego_shape, 0.2
    radius = shape.wheelbase / np.tan(steer)
    env.reset(options={"start": EgoState(0.0, 0.0, 0.0, 5.0, 0.0, steer)})
    path = []
    for _ in range(150):
        observation, *_ = env.step(np.array([0.0, steer], np.float32))
        path.append(env.unwrapped.ego.as_array()[:2])
    # The circle through the path by least squares: x² + y² = 2ax + 2by + c.
    points = np.array(path)
    (a, b, c), *_ = np.linalg.lstsq(np.column_stack([2 * points, np.ones(len(points))]), (points**2).sum(1))
    assert np.sqrt(c + a * a + b * b) == pytest.approx(radius, rel=0.015)
    assert (a, b) == (pytest.approx(0.0, abs=0.2), pytest.approx(radius, abs=0.2))
    np.testing.assert_allclose(np.hypot(*(points - [a, b]).T), radius, rtol=0.02)
    # The tracker reads way along chords of the arc, a trifle short: it loses 0.01 m/s² at this angle.
    assert observation["motion"][0] == pytest.approx(5.0, abs=0.25)


def test_an_acceleration_is_driven_as_commanded() -> None:
    env = AccelSteerAction(DrivingEnv(dataclasses.replace(Scene.fake(v=5.0), map=LaneMap(), tracks=())))
    env.reset(seed=0)
    for _ in range(20):
        observation, *_ = env.step(np.array([1.5, 0.0], np.float32))
    assert observation["motion"][0] == pytest.approx(5.0 + 1.5 * 1.9, abs=0.1)  # the lag costs a tenth of a second
    for _ in range(35):
        observation, *_ = env.step(np.array([-4.0, 0.0], np.float32))
    assert observation["motion"][0] == 0
    assert env.action_space.contains(np.array([-4.0, 0.1], np.float32))


def test_what_is_unrolled_starts_where_the_car_looks() -> None:
    base = Scene.fake()
    config = SimConfig()
    still = unroll(EgoState(3.0, 4.0, 1.0, 0.0), -2.0, 0.3, base.meta.ego_shape, config.limits)
    np.testing.assert_allclose(still, 0, atol=1e-12)
    left = unroll(EgoState(3.0, 4.0, 1.0, 6.0), 0.0, 0.2, base.meta.ego_shape, config.limits)
    right = unroll(EgoState(-3.0, 0.0, -2.0, 6.0), 0.0, -0.2, base.meta.ego_shape, config.limits)
    np.testing.assert_allclose(left, right * [1, -1], atol=1e-9)
    assert left[-1, 1] > 1


def test_clips_come_from_folders_and_sets_when_they_are_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (1, 2, 3):
        scene = Scene.fake()
        name = f"clip{seed}"
        save_clip(dataclasses.replace(scene, meta=dataclasses.replace(scene.meta, name=name)), tmp_path / name)
    assert len(ClipLibrary(tmp_path)) == 3
    assert len(ClipLibrary(tmp_path, count=2)) == 2
    assert ClipLibrary([Scene.fake(), tmp_path / "clip2"])[1].meta.name == "clip2"
    read = []
    monkeypatch.setattr("senna2.world.clip.load_clip", lambda folder: read.append(folder) or scene)
    env = DrivingEnv(str(tmp_path), obs="images", keep=2)
    assert read == []  # the rig alone tells the space
    for index in (0, 1, 1, 0, 2, 0, 1):
        env.reset(options={"scene": index})
    assert [p.name for p in read] == ["clip1", "clip2", "clip3", "clip2"]


def test_a_generated_set_is_made_clip_by_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr("senna2.world.town.families.make_scene", lambda *key: made.append(key) or Scene.fake())
    library = ClipLibrary("core/val", count=25)
    assert len(library) == 25
    assert library.rig.names == Rig.default().names
    assert made == []
    assert library[24].meta.name == "fake"
    assert [key[2] for key in made] == ["val"]


@pytest.mark.parametrize(("clips", "says"), [
    ("nowhere", "neither a folder nor a generated set"),
    ("core", "neither a folder nor a generated set"),
    ("town/test", "neither a folder nor a generated set"),
    ("core/exam", "split 'exam' is unknown"),
    ([], "is empty"),
])  # fmt: skip
def test_unknown_clips(clips: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        DrivingEnv(clips)


def test_one_rig_for_all_images() -> None:
    scene = Scene.fake()
    wide = dataclasses.replace(scene.rig["front"], width=64)
    env = DrivingEnv([scene, dataclasses.replace(scene, rig=Rig((wide,)))], obs="images")
    env.reset(options={"scene": 0})
    with pytest.raises(InputError, match="images need one rig"):
        env.reset(options={"scene": 1})


def test_the_simulator_s_settings_reach_it() -> None:
    env = DrivingEnv(Scene.fake(), vehicle="perfect", traffic="replay")
    assert env.config == dataclasses.replace(SimConfig(), vehicle="perfect")
    env.reset(seed=0)
    env.step(np.asarray(Trajectory.fake(3.0).points_T2))
    assert env.ego.x == pytest.approx(0.3)
    with pytest.raises(InputError, match="vehicle"):
        DrivingEnv(Scene.fake(), vehicle="boat")


def test_steps_are_the_simulator_s() -> None:
    scene = Scene.fake()
    env, sim = DrivingEnv(scene), Simulator(scene)
    env.reset(seed=0)
    state, plan = sim.reset(), Trajectory.fake(5.0)
    for _ in range(10):
        env.step(np.asarray(plan.points_T2, np.float64))
        state = sim.step(state, plan)
    assert env.state == state
