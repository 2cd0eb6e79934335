"""Pictures of the environment show the present, and states that do not fit are refused by name."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from senna2.types import Array, InputError, Trajectory
from senna2.world.env import DrivingEnv, driving
from senna2.world.scene import Light, Scene, Signal
from senna2.world.sim import SimConfig, SimState, Simulator
from senna2.world.state_arrays import FIXED, MEMORY, state_from_arrays, state_to_arrays

RED = (235, 60, 50)  # of birdview


def test_the_plan_is_drawn_where_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan straight on to 24 m, turned left at its end; 0.5 s and 4 m later that end is 20 m ahead."""
    drawn: list[Trajectory | None] = []
    view = driving.bird_view
    monkeypatch.setattr(driving, "bird_view", lambda *a, **kw: drawn.append(a[4]) or view(*a, **kw))
    env = DrivingEnv(Scene.fake(), vehicle="perfect", plan_every=5, render_mode="rgb_array")
    env.reset(seed=0)
    env.render()
    points = Trajectory.fake(8.0).points_T2.copy()
    points[20:, 1] = 0.3 * np.arange(1, 11)
    env.step(points)
    picture = env.render()
    kept = pickle.loads(pickle.dumps(env.get_state()))
    env.step(points)
    env.set_state(kept)
    again = env.render()
    assert picture is not None
    assert again is not None
    assert picture.tobytes() == again.tobytes()
    assert drawn[0] is None
    for plan in drawn[1:]:
        assert plan is not None
        np.testing.assert_allclose(plan.points_T2, points[5:] - [4.0, 0.0], atol=1e-9)


def test_a_plan_that_is_over_is_not_drawn() -> None:
    """Frames of 0.5 s: after six of them nothing is left of 3 s."""
    config = SimConfig(dt=0.5)
    env = DrivingEnv(Scene.fake(), config=config, plan_every=6, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(Trajectory.fake(8.0).points_T2)
    assert env.render() is not None


def test_a_picture_shows_the_colours_of_lights() -> None:
    line = np.array([(12.0, -1.75), (12.0, 1.75)])
    times, states = np.array([0.0, 0.5]), np.array([Light.RED, Light.GREEN])
    signal = Signal("s", "car", np.array([12.0, -3.0, 0.0]), line, ("right",), times, states)
    env = DrivingEnv(dataclasses.replace(Scene.fake(v=0.0), signals=(signal,)), plan_every=6, render_mode="rgb_array")
    env.reset(seed=0)

    def is_red(picture: Array | None) -> bool:
        return picture is not None and bool((picture == RED).all(-1).any())

    assert is_red(env.render())
    env.step(np.zeros((30, 2)))
    assert not is_red(env.render())


def test_pictures_come_as_often_as_steps() -> None:
    assert DrivingEnv.metadata["render_fps"] == DrivingEnv(Scene.fake()).metadata["render_fps"] == 10
    assert DrivingEnv(Scene.fake(), plan_every=5).metadata["render_fps"] == pytest.approx(2)
    assert DrivingEnv(Scene.fake(), config=SimConfig(dt=0.05)).metadata["render_fps"] == pytest.approx(20)
    assert DrivingEnv.metadata["render_fps"] == 10


# --- states that do not fit


def lorry() -> Scene:
    scene = Scene.fake()
    return dataclasses.replace(scene, tracks=(dataclasses.replace(scene.tracks[0], length=9.0),))


def late_state() -> SimState:
    return Simulator(Scene.fake(frames=90)).reset(t_s=7.0)


@pytest.mark.parametrize(("state", "says"), [
    (lambda: Simulator(Scene.fake(), SimConfig(traffic="idm")).reset(), r"remembers \['a_A'.*SimConfig\.traffic"),
    (late_state, r"frame 70.*59.*another clip"),
    (lambda: Simulator(lorry()).reset(), r"agent leader is 9\.00 × 1\.80 m, .*4\.50 × 1\.80 m; .*another clip"),
])  # fmt: skip
def test_a_state_that_does_not_fit_is_refused(state: object, says: str) -> None:
    assert callable(state)
    env, saved = DrivingEnv(Scene.fake()), state()
    with pytest.raises(InputError, match=rf"reset option 'state'.*{says}"):
        env.reset(options={"scene": 0, "state": saved})
    arrays = state_to_arrays(saved)
    with pytest.raises(InputError, match=rf"state of clip fake.*{says}"):
        state_from_arrays(Simulator(Scene.fake()), arrays)


def test_a_size_is_compared_only_of_agents_that_are_there() -> None:
    scene = Scene.fake()
    short = dataclasses.replace(
        scene.tracks[0], **{n: getattr(scene.tracks[0], n)[:20] for n in ("t_T", "pose_T3", "v_T", "lights_T")}
    )
    gone = dataclasses.replace(scene, tracks=(short,))
    state = Simulator(gone).reset(t_s=3.0)
    assert np.isnan(state.agents.boxes_A6).all()
    DrivingEnv(gone).reset(options={"scene": 0, "state": state})


def test_every_array_of_a_state_is_needed() -> None:
    sim = Simulator(Scene.fake(), SimConfig(traffic="idm"))
    arrays = state_to_arrays(sim.reset())
    assert {name for name in arrays if not name.startswith(MEMORY)} == FIXED
    for name in FIXED:
        with pytest.raises(InputError, match=rf"'{name}'.*missing"):
            state_from_arrays(sim, {k: v for k, v in arrays.items() if k != name})
