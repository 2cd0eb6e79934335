"""The Gymnasium environment passes its checker, and its episodes are the simulator's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from senna2.types import InputError, Trajectory
from senna2.world.env import DrivingEnv
from senna2.world.scene import Scene
from senna2.world.sim import Simulator


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
    with pytest.raises(InputError, match="empty"):
        DrivingEnv([])


def test_steps_are_the_simulator_s() -> None:
    scene = Scene.fake()
    env, sim = DrivingEnv(scene), Simulator(scene)
    env.reset(seed=0)
    state, plan = sim.reset(), Trajectory.fake(5.0)
    for _ in range(10):
        env.step(np.asarray(plan.points_T2, np.float64))
        state = sim.step(state, plan)
    assert env.state == state
