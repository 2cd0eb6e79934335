"""Can it be seen? The agents on which the right decision depends show in some view before the expert reacts to them."""

import dataclasses
from functools import cache

import numpy as np
import pytest

from senna2.types import InputError
from senna2.world.scene import Scene
from senna2.world.town.families import CORE, EXTENDED, FAMILIES, make_scene, scene_seed
from senna2.world.visibility import reaction_s, visible_pixels, without

LEAST_PIXELS, BEFORE_S = 8, 1.5
# What matters there is the road or a light; in a queue the one ahead matters from the first frame on.
NOBODY = ("curve", "empty_road", "red_light")
AT_ONCE = ("dense_following",)
BASE = (*CORE, *(f for f in EXTENDED if not f.endswith(("_dusk", "_rain"))))


@cache
def clip(family: str, i: int) -> Scene:
    return make_scene(family, scene_seed("val", family, i), "val")


def script(family: str) -> str:
    return family.removesuffix("_dusk").removesuffix("_rain")


def pixels_before_reaction(scene: Scene) -> tuple[float, int] | None:
    """(when the expert reacts, pixels of the best seen deciding agent 1.5 s before); None if it need not react."""
    keys = {t.id for t in scene.tracks if t.id.startswith("key_")}
    reacts = reaction_s(scene, keys)
    if reacts is None:
        return None
    at = round(max(reacts - BEFORE_S, 0.0), 1)
    return reacts, max(visible_pixels(scene, key, at) for key in keys)


@pytest.mark.parametrize("family", [f for f in BASE if f not in NOBODY])
def test_the_deciding_agent_is_seen_before_the_expert_reacts(family):
    found = pixels_before_reaction(clip(family, 0))
    assert found is not None, f"{family}: the expert drives as if the deciding agents were not there"
    reacts, pixels = found
    assert pixels >= LEAST_PIXELS
    assert reacts >= BEFORE_S or family in AT_ONCE


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in FAMILIES if script(f) not in NOBODY])
def test_so_it_is_in_every_family_whatever_the_weather(family):
    found = [pixels_before_reaction(clip(family, i)) for i in range(1, 7)]
    reactions = [f for f in found if f is not None]  # a leader may drive on, a gap may be there at once
    assert len(reactions) >= 4, found
    assert sum(pixels < LEAST_PIXELS for _, pixels in reactions) <= 1, found
    assert sum(reacts < BEFORE_S for reacts, _ in reactions) <= 2 or family in AT_ONCE, found


def test_only_where_nobody_decides_no_agent_is_named():
    for family in BASE:
        keys = [t.id for t in clip(family, 0).tracks if t.id.startswith("key_")]
        assert bool(keys) == (family not in NOBODY), family


def test_what_is_behind_something_or_far_away_is_not_seen():
    scene = clip("following_and_stop", 0)
    key = next(t for t in scene.tracks if t.id.startswith("key_"))
    near = visible_pixels(scene, key.id, 0.0)
    assert near > LEAST_PIXELS
    shift = dataclasses.replace(key, pose_T3=key.pose_T3 + np.array((400.0, 0.0, 0.0)))
    assert visible_pixels(_with(scene, shift), shift.id, 0.0) == 0
    yaw = key.pose_T3[:, 2]
    behind_houses = key.pose_T3 + 30.0 * np.stack([-np.sin(yaw), np.cos(yaw), 0 * yaw], 1)
    hidden = dataclasses.replace(key, pose_T3=behind_houses)
    assert visible_pixels(_with(scene, hidden), hidden.id, 0.0) == 0


def test_the_expert_does_not_react_to_who_is_not_in_its_way():
    scene = clip("cut_in", 0)
    key = next(t for t in scene.tracks if t.id.startswith("key_"))
    away = dataclasses.replace(key, pose_T3=key.pose_T3 + np.array((0.0, 500.0, 0.0)))
    assert reaction_s(_with(scene, away), {away.id}) is None
    assert reaction_s(scene, {key.id}) is not None


def test_an_agent_that_is_not_there_is_named():
    with pytest.raises(InputError, match="has no tracks"):
        without(clip("cut_in", 0), {"nobody"})


def _with(scene: Scene, changed) -> Scene:
    return dataclasses.replace(scene, tracks=tuple(changed if t.id == changed.id else t for t in scene.tracks))
