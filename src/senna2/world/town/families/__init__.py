"""Scenario families: parameterised scripts over random streets, speeds, gaps and looks → complete clips.

Agents are scripted over time; conflicts are timed to the ego's nominal speed, so that a driver who just goes on, or who
makes a commanded change without looking, fails in most clips.
"""

from senna2.world.town.families.catalogue import CORE, EXTENDED, FAMILIES, RISKY, SETS
from senna2.world.town.families.make import SPLITS, make_scene, make_scene_counted, scene_seed, split_scenes
from senna2.world.town.families.showcase import SHOWCASE

__all__ = [
    "CORE", "EXTENDED", "FAMILIES", "RISKY", "SETS", "SHOWCASE", "SPLITS",
    "make_scene", "make_scene_counted", "scene_seed", "split_scenes",
]  # fmt: skip
