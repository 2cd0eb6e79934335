"""How fast the environment is, and what for: steps per second and core, shares, two workers against one, memory.

    python benchmarks/sim.py [--json]

Generated town clips with the default rig, driven along the expert's log by the bicycle. Speeds of one process are CPU
times of its one thread, the least of several repeats (a shared machine only ever adds). Two workers against one is wall
time, since that is the question: repeats take turns, and the best of each counts; look at `load_average` beside it.
Frames that were rendered once are kept by the environment; every repeat starts a millimetre further on, so that none is
found again.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import numba
import numpy as np
from common import SCHEMA, command_line, least_ms, machine, report

from senna2.frames import points_to_ego
from senna2.types import PLAN_DT, PLAN_STEPS, Array
from senna2.world import sim as sim_module
from senna2.world.clip import load_clip, save_clip
from senna2.world.env import DrivingEnv, make_vector
from senna2.world.render.cpu import CpuRenderer
from senna2.world.scene import Scene
from senna2.world.sensors import CameraSensor
from senna2.world.sim import Simulator
from senna2.world.town.families import make_scene

FAMILIES = ("following_and_stop", "right_turn_cyclists", "lane_change", "crossing_pedestrian", "empty_road")
SEED = 7
MS = 1e3
SPINS = 4_000_000
AIMED = 40.0  # rendered steps per second and core
NOTE = (
    "the headline's share is that of a step as fast as this renderer draws it; this one is that of a step of 25 ms, "
    "which is what 5 % of 40 rendered steps per s means. Both are dearer than without images: rendering empties caches"
)


def plan_of(scene: Scene, t_s: float, ego: Array) -> Array:
    """(30, 2) the expert's next three seconds, in the ego frame: what a good driver would ask for."""
    e = scene.expert
    t = t_s + PLAN_DT * np.arange(1, PLAN_STEPS + 1)
    world = np.stack([np.interp(t, e.t_E, e.pose_E3[:, k]) for k in (0, 1)], 1)
    return points_to_ego(world, ego[:3]).astype(np.float32)


def episode(env: DrivingEnv, index: int, scene: Scene, repeat: int) -> tuple[int, float]:
    """(steps, CPU seconds of them) of one clip."""
    start = replace(scene.expert.start(), x=float(scene.expert.pose_E3[0, 0]) + 1e-3 * (repeat + 1))
    _, info = env.reset(options={"scene": index, "start": start})
    steps, spent, done = 0, 0.0, False
    while not done:
        action = plan_of(scene, info["t_s"], info["ego"])
        begin = time.thread_time()
        _, _, terminated, truncated, info = env.step(action)
        spent += time.thread_time() - begin
        done, steps = terminated or truncated, steps + 1
    return steps, spent


def ms_per_step(scenes: list[Scene], repeats: int, **settings: Any) -> tuple[float, int]:
    """(ms of one core, steps a repeat): the least over repeats of each clip, added up."""
    env = DrivingEnv(scenes, keep=len(scenes), **settings)
    steps, spent = 0, 0.0
    for i, scene in enumerate(scenes):
        episode(env, i, scene, repeats)  # to warm up
        runs = [episode(env, i, scene, r) for r in range(repeats)]
        steps += runs[0][0]
        spent += min(s / n for n, s in runs) * runs[0][0]
    return MS * spent / steps, steps


@contextmanager
def timed(spent: dict[str, float], owner: Any, name: str, part: str) -> Iterator[None]:
    """Add the thread's CPU time inside `owner.name` to `spent[part]`."""
    original = getattr(owner, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        begin = time.thread_time()
        try:
            return original(*args, **kwargs)
        finally:
            spent[part] += time.thread_time() - begin

    setattr(owner, name, wrapper)
    try:
        yield
    finally:
        setattr(owner, name, original)


def where_time_goes(scenes: list[Scene], obs: str) -> dict[str, float]:
    """ms a step by part; parts inside others are taken out of them, so that they add up to the step."""
    env, spent, steps, total = DrivingEnv(scenes, obs=obs, keep=len(scenes)), defaultdict[str, float](float), 0, 0.0
    with (
        timed(spent, Simulator, "step", "step"), timed(spent, sim_module, "path_under_plan", "physics"),
        timed(spent, Simulator, "observe", "observe"), timed(spent, CameraSensor, "look", "images"),
        timed(spent, CameraSensor, "instances", "placement"), timed(spent, CpuRenderer, "render", "render"),
    ):  # fmt: skip
        for i, scene in enumerate(scenes):
            episode(env, i, scene, 90)  # to warm up
        spent.clear()
        for i, scene in enumerate(scenes):
            n, s = episode(env, i, scene, 91)
            steps, total = steps + n, total + s
    per = {k: MS * v / steps for k, v in spent.items()}
    whole = MS * total / steps
    parts = {
        "physics (tracker, bicycle)": per["physics"],
        "judgement (contacts, fault, TTC, lanes, road, progress) and traffic": per["step"] - per["physics"],
    }
    if obs == "images":
        parts |= {
            "placement of agents": per["placement"],
            "rendering": per["render"],
            "frames: 8 bit, stacking, caching": per["images"] - per["placement"] - per["render"],
        }
    else:
        parts |= {"state observation": per["observe"]}
    return {**parts, "environment (reward, info, flattening)": whole - sum(parts.values()), "whole step": whole}


class Probe(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Tells how much memory its process holds, MB, and how much CPU time it used, s."""

    def cpu_s(self) -> float:
        return time.process_time()

    def spin(self, turns: int) -> int:
        """Work that needs nothing but a core."""
        return sum(i & 1 for i in range(turns))

    def memory(self) -> dict[str, float]:
        status = Path("/proc/self/status")
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
        return {k: int(lines[v].split()[0]) / 1024 for k, v in (("now", "VmRSS"), ("peak", "VmHWM")) if v in lines}


def vector_run(env: Any, scene: Scene, repeat: int, steps: int) -> float:
    """Wall seconds of `steps` steps of every environment, all in the same clip; planning is not counted."""
    start = replace(scene.expert.start(), x=float(scene.expert.pose_E3[0, 0]) + 1e-3 * (repeat + 1))
    _, info = env.reset(options={"scene": 0, "start": start})
    spent = 0.0
    for _ in range(steps):
        actions = np.stack([plan_of(scene, float(t), ego) for t, ego in zip(info["t_s"], info["ego"], strict=True)])
        begin = time.perf_counter()
        *_, terminated, truncated, info = env.step(actions)
        spent += time.perf_counter() - begin
        if (terminated | truncated).any():
            raise RuntimeError(f"{scene.meta.name}: the drive ended before {steps} steps")
    return spent


def two_workers(scene: Scene, repeats: int, steps: int) -> tuple[list[dict[str, Any]], float]:
    """Rows and the ratio of steps per second, with what starting and holding a worker costs."""
    begin = time.perf_counter()
    one: Any = make_vector([scene], 1, obs="images", wrap=Probe)
    started = time.perf_counter() - begin
    empty = one.call("memory")[0]
    one.reset(seed=0)
    ready = time.perf_counter() - begin
    loaded = one.call("memory")[0]
    two: Any = make_vector([scene], 2, obs="images", wrap=Probe)
    times: dict[int, list[float]] = {1: [], 2: []}
    used: dict[int, float] = {}  # CPU ms a step and worker
    spun: dict[int, list[float]] = {1: [], 2: []}
    for r in range(-1, repeats):  # the first is to warm up
        for env, count in ((one, 1), (two, 2)):
            begin = env.call("cpu_s")[0]
            spent = vector_run(env, scene, r + 1, steps)
            cpu = MS * (env.call("cpu_s")[0] - begin) / steps
            begin = time.perf_counter()
            env.call("spin", SPINS)
            if r >= 0:
                spun[count].append(time.perf_counter() - begin)
                times[count].append(spent)
                used[count] = min(cpu, used.get(count, np.inf))
    driven = one.call("memory")[0]
    one.close()
    two.close()
    rate = {n: n * steps / min(t) for n, t in times.items()}
    each = [2 * a / b for a, b in zip(times[1], times[2], strict=True)]
    rows: list[dict[str, Any]] = [
        {
            "what": "worker processes, with images",
            "workers": n,
            "steps_per_s": rate[n],
            "ms_of_a_worker_s_cpu": used[n],
            "all_s": times[n],
        }
        for n in rate
    ]
    rows += [
        {"what": "two workers over one, pair by pair", "ratios": each, "median": float(np.median(each))},
        {"what": "two processes over one that only count: what the machine gives now",
         "value": 2 * min(spun[1]) / min(spun[2])},
        {"what": "start of one worker, wall s", "until_it_answers": started, "until_its_first_observation": ready},
        {"what": "memory of one worker, MB", "before_a_clip": empty.get("now"), "with_one_clip": loaded.get("now"),
         "after_driving": driven.get("now"), "peak": driven.get("peak")},
    ]  # fmt: skip
    return rows, rate[2] / rate[1]


def clips_and_starts(scenes: list[Scene]) -> list[dict[str, Any]]:
    """Size of a clip folder; CPU seconds to make, read and open a clip, and to import the environment."""
    rows: list[dict[str, Any]] = []
    cold: dict[str, Any] = {"warm_up": 0, "clock": time.process_time}
    with tempfile.TemporaryDirectory() as place:
        for family, scene in zip(FAMILIES, scenes, strict=True):
            folder = Path(place) / family
            save_clip(scene, folder)
            sizes = {p.name: sum(q.stat().st_size for q in ([p] if p.is_file() else p.iterdir())) / 1e6
                     for p in folder.iterdir()}  # fmt: skip
            rows.append({"what": "clip folder, MB", "clip": family, "gaussians": len(scene.background),
                         "duration_s": scene.duration_s, "all": sum(sizes.values()), **sizes})  # fmt: skip
        (reading,) = least_ms([lambda: load_clip(Path(place) / FAMILIES[0])], 3, **cold)
    (making,) = least_ms([lambda: make_scene(FAMILIES[0], SEED, "test")], 2, **cold)
    (opening,) = least_ms([lambda: DrivingEnv(scenes[0]).reset(seed=0)], 3, **cold)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import senna2.world.env"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    importing = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rows.append({"what": "start-up, CPU s", "import": importing, "make_a_clip": making / MS,
                 "read_a_clip": reading / MS, "open_a_clip": opening / MS})  # fmt: skip
    return rows


def measure(repeats: int = 3, steps: int = 60) -> dict[str, Any]:
    before = machine(np, numba, gymnasium)
    scenes = [make_scene(family, SEED, "test") for family in FAMILIES]
    rows: list[dict[str, Any]] = []
    for obs in ("state", "images"):
        ms, count = ms_per_step(scenes, repeats, obs=obs)
        rows.append({"what": "one process", "obs": obs, "ms_per_step": ms, "steps_per_s_core": MS / ms, "steps": count})
    shares = {}
    for obs in ("state", "images"):
        parts = where_time_goes(scenes, obs)
        first, second, *_ = parts.values()
        shares[obs] = (first + second) / parts["whole step"]
        rows.append({"what": "physics, traffic and judgement", "obs": obs, "ms": first + second,
                     "share_of_the_step": shares[obs]})  # fmt: skip
        if obs == "images":
            rows.append({"what": f"the same at exactly {AIMED:.0f} rendered steps per s",
                         "share_of_a_step": (first + second) * AIMED / MS, "note": NOTE})  # fmt: skip
        rows += [{"what": "where the time goes, ms a step", "obs": obs, "part": k, "ms": v} for k, v in parts.items()]
    rows += clips_and_starts(scenes)
    more, ratio = two_workers(scenes[-1], 2 * repeats, steps)
    rows += more
    rendered = next(r["steps_per_s_core"] for r in rows if r["what"] == "one process" and r["obs"] == "images")
    return {
        "schema": SCHEMA,
        "machine": {**before, "load_average_after": machine()["load_average"]},
        "settings": {
            "clips": [s.meta.name for s in scenes], "rig": "default", "repeats": repeats, "steps_per_repeat": steps,
            "statistic": "one process: least CPU time of its thread; workers: best wall time of interleaved repeats",
        },
        "rows": rows,
        "headline": {
            "rendered_steps_per_s_core": {
                "value": rendered, "aim": AIMED, "better": "higher",
                "what": "environment steps per second of one core, default rig rendered (front with two frames, three "
                        "more at half size), generated clips",
            },
            "physics_share": {
                "value": shares["images"], "aim": 0.05, "better": "lower",
                "what": "physics, traffic and judgement as a share of a rendered step",
            },
            "two_workers_over_one": {
                "value": ratio, "aim": 1.8, "better": "higher",
                "what": "steps per second of two worker processes over one, with images, best of interleaved repeats",
            },
        },
    }  # fmt: skip


def row_text(row: dict[str, Any]) -> str:
    told = {k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items() if k != "what"}
    return f"{row['what']:36} " + "  ".join(f"{k} {v}" for k, v in told.items() if not isinstance(v, list))


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    report(measure(args.repeats), args.json, row_text, digits=".3f")


if __name__ == "__main__":
    main()
