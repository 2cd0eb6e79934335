"""Can it be seen? When the expert reacts to an agent, and how many pixels of it the cameras show before."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from senna2.types import Array, InputError
from senna2.world.render.base import Renderer
from senna2.world.scene import Scene
from senna2.world.sim import Simulator
from senna2.world.town.expert import ExpertDriver

CHANGED = 12  # of 255, in some channel: a pixel that somebody could tell apart
SPEED_REACTION = 0.25  # m/s
SIDE_REACTION = 0.15  # m
OUT_OF_SIGHT = 1e5  # m


def without(scene: Scene, ids: Collection[str]) -> Scene:
    """The clip without some agents. Raises `InputError` for an id that it does not have."""
    missing = set(ids) - {t.id for t in scene.tracks}
    if missing:
        raise InputError(f"clip {scene.meta.name}: has no tracks {sorted(missing)}")
    return dataclasses.replace(scene, tracks=tuple(t for t in scene.tracks if t.id not in ids))


def visible_pixels(scene: Scene, track_id: str, t_s: float, renderer: Renderer | None = None) -> int:
    """Pixels of the newest frames that change if the agent is taken away, in the camera that shows most of it, with
    the ego where the expert is at `t_s`. What stands before it hides it, what it hides does not count for it."""
    frames = []
    # Moved away, not removed: the others must keep their numbers, by which they step and blink.
    for each in (scene, _moved_away(scene, track_id)):
        simulator = Simulator(each, renderer=renderer)
        seen = simulator.observe(simulator.reset(t_s=t_s), images=True, state_obs=False).images
        frames.append({name: image[-1].astype(np.int16) for name, image in seen.items()})
    there, gone = frames
    return max(int((np.abs(there[name] - gone[name]).max(-1) > CHANGED).sum()) for name in there)


def _moved_away(scene: Scene, track_id: str) -> Scene:
    tracks = list(scene.tracks)
    at = [t.id for t in tracks].index(track_id)
    tracks[at] = dataclasses.replace(tracks[at], pose_T3=tracks[at].pose_T3 + np.array((OUT_OF_SIGHT, 0.0, 0.0)))
    return dataclasses.replace(scene, tracks=tuple(tracks))


def reaction_s(scene: Scene, ids: Collection[str]) -> float | None:
    """When the expert first drives otherwise than it would without these agents (speed, place or annotated
    direction); None if it never does."""
    paths = [_drive(each) for each in (scene, without(scene, ids))]
    n = min(len(p) for p in paths)
    a, b = (p[:n] for p in paths)
    side = (b[:, 0] - a[:, 0]) * -np.sin(a[:, 2]) + (b[:, 1] - a[:, 1]) * np.cos(a[:, 2])
    differs = (np.abs(a[:, 3] - b[:, 3]) > SPEED_REACTION) | (np.abs(side) > SIDE_REACTION) | (a[:, 4] != b[:, 4])
    if not differs.any():
        return None
    return float(np.argmax(differs)) * scene.meta.dt


def _drive(scene: Scene) -> Array:
    """(F, 5) x, y, yaw, speed and annotated direction of the expert in the simulator, to the end or a contact."""
    simulator, driver = Simulator(scene), ExpertDriver(scene)
    state, rows = simulator.reset(), []
    while True:
        plan = driver.plan(state)
        e = state.ego
        rows.append((e.x, e.y, e.yaw, e.v, float(driver.direction)))
        if state.done:
            return np.array(rows)
        state = simulator.step(state, plan)
