"""Many environments at once: the same episodes in processes as in a row, no torch in them, and clear deaths."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from senna2.types import InputError, Trajectory
from senna2.world.env import AccelSteerAction, DrivingEnv, WorkerDied, make_vector
from senna2.world.scene import Scene


class Telling(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Tells about its process, and fails when told to."""

    def modules(self) -> dict[str, Any]:
        threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
        return {"torch": "torch" in sys.modules, "pid": os.getpid(), "threads": threads}

    def fail(self) -> None:
        raise ValueError("as told")

    def refuse(self) -> None:
        raise InputError("clip 7: is bad")


def scenes() -> list[Scene]:
    def named(v: float, frames: int) -> Scene:
        scene = Scene.fake(v=v, frames=frames, leader_v=3.0, gap=20.0)
        return dataclasses.replace(scene, meta=dataclasses.replace(scene.meta, name=f"{v}"))

    return [named(3.0, 12), named(6.0, 15), named(8.0, 18)]


def plans(n: int) -> np.ndarray:
    return np.stack([Trajectory.fake(7.0 + i).points_T2 for i in range(n)]).astype(np.float32)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray) and a.dtype == object:
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.array_equal(a, b))


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Any, Any]]:
    """Two environments of images in processes, and the same two in a row; both take next clips at once."""
    both = [make_vector(scenes(), 2, obs="images", autoreset="same_step", workers=w, wrap=Telling)
            for w in (True, False)]  # fmt: skip
    yield both[0], both[1]
    for env in both:
        env.close()


def test_processes_and_a_row_give_the_same_episodes(pair: tuple[Any, Any]) -> None:
    apart, row = pair
    first, again = apart.reset(seed=11), row.reset(seed=11)
    assert equal(first[0], again[0])
    assert equal(first[1], again[1])
    ends = 0
    for _ in range(30):
        a, b = apart.step(plans(2)), row.step(plans(2))
        for x, y in zip(a[:4], b[:4], strict=True):
            assert equal(x, y)
        assert equal(a[4], b[4])
        ends += int((a[2] | a[3]).sum())
    assert ends >= 3  # clips of 12 to 18 frames


def test_how_an_episode_ended_is_kept_as_it_was(pair: tuple[Any, Any]) -> None:
    """Same-step resets overwrite the batch; the last observation must not change with it (Gymnasium#1680)."""
    apart, _ = pair
    single = [DrivingEnv(scenes(), obs="images") for _ in range(2)]
    apart.reset(seed=4)
    for i, env in enumerate(single):
        env.reset(seed=4 + i)
    kept: list[tuple[Any, Any]] = []
    running = [True, True]
    for _ in range(25):
        _, _, terminated, truncated, info = apart.step(plans(2))
        for i in np.flatnonzero(running):
            alone = single[i].step(plans(2)[i])
            if terminated[i] or truncated[i]:
                running[i] = False
                assert (bool(terminated[i]), bool(truncated[i])) == alone[2:4]
                kept.append((info["final_obs"][i], alone[0]))
    assert len(kept) == 2
    for final, alone in kept:
        assert final.keys() == alone.keys()
        assert all(np.array_equal(final[k], alone[k]) for k in alone)


def test_returned_batches_are_copies(pair: tuple[Any, Any]) -> None:
    for env in pair:
        first, _ = env.reset(seed=1)
        before = {k: v.copy() for k, v in first.items()}
        for _ in range(3):
            env.step(plans(2))
        assert equal(first, before)


def test_workers_have_no_torch_and_one_thread(pair: tuple[Any, Any]) -> None:
    apart, _ = pair
    told = apart.call("modules")
    assert [t["torch"] for t in told] == [False, False]
    assert len({t["pid"] for t in told} | {os.getpid()}) == 3
    assert all(t["threads"] == {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"} for t in told)


def test_the_callers_script_is_not_run_again(tmp_path: Path) -> None:
    """A training script imports torch, and may have no `__main__` guard."""
    (tmp_path / "torch.py").write_text("")  # costs no seconds, counts the same
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, torch\n"
        "print('script')\n"
        "from senna2.world.env import make_vector\n"
        "from senna2.world.scene import Scene\n"
        "import gymnasium\n"
        "class Asks(gymnasium.Wrapper):\n"
        "    def torch(self):\n"
        "        import sys\n"
        "        return 'torch' in sys.modules\n"
        "env = make_vector(Scene.fake(), 1, wrap=Asks)\n"
        "env.reset(seed=0)\n"
        "print(env.call('torch'))\n"
        "env.close()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["script", "(False,)"]


def test_a_dead_worker_is_named() -> None:
    env = make_vector(Scene.fake(), 2, wrap=Telling)
    env.reset(seed=0)
    victim = env.call("modules")[1]["pid"]
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(WorkerDied, match=r"worker process 1 \(exit code -9\) died.*memory"):
        env.step(plans(2))
    assert env.closed
    env.close()  # nothing left to do, nothing to hang on


@pytest.mark.parametrize(("call", "error", "says"), [
    ("fail", ValueError, "as told"), ("refuse", InputError, "environment 0: clip 7: is bad"),
])  # fmt: skip
def test_an_error_inside_is_raised_as_it_is(call: str, error: type[Exception], says: str) -> None:
    env = make_vector(Scene.fake(), 1, wrap=Telling)
    with pytest.raises(error, match=says):
        env.call(call)
    env.close()


def test_finished_environments_wait_for_their_reset() -> None:
    env = make_vector(scenes(), 2, workers=False)
    env.reset(seed=11)
    done = np.zeros(2, bool)
    while not done.any():
        observation, _, terminated, truncated, _ = env.step(plans(2))
        done = terminated | truncated
    assert not done.all()
    other = int(np.flatnonzero(~done)[0])
    before = observation["motion"][other].copy()
    with pytest.raises(AssertionError):  # Gymnasium's own; worker processes raise the simulator's InputError
        env.step(plans(2))
    after, _ = env.reset(options={"reset_mask": done})
    env.step(plans(2))
    assert not np.array_equal(before, after["motion"][1 - other])


def test_bad_use() -> None:
    with pytest.raises(InputError, match="num_envs"):
        make_vector(Scene.fake(), 0)
    with pytest.raises(InputError, match="autoreset"):
        make_vector(Scene.fake(), 1, autoreset="next_step")
    with pytest.raises(InputError, match="neither a folder"):
        make_vector("nowhere", 2)


def test_other_actions_can_be_wrapped_in() -> None:
    env = make_vector(Scene.fake(), 2, workers=False, wrap=AccelSteerAction, plan_every=2)
    env.reset(seed=0)
    observation, *_ = env.step(np.array([(1.0, 0.0), (-2.0, 0.0)], np.float32))
    assert observation["motion"][0, 0] > 8 > observation["motion"][1, 0]
