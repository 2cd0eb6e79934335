"""From a family and a seed to a complete clip: draw the place, write the script, let the expert drive it.

A clip whose expert collides, leaves the road or does not finish what it was told is drawn again from the next
sub-seed. Three generators (place, script, look) keep apart what a variation may change.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np

from senna2.types import Direction, EgoState, InputError, Rig, meant, require
from senna2.world.gaussians import GaussianCloud
from senna2.world.scene import Expert, Scene, SceneMeta
from senna2.world.sim import Simulator
from senna2.world.town.expert import ExpertDriver
from senna2.world.town.families.background import add_background
from senna2.world.town.families.catalogue import BASE, CORE, FAMILIES, base_of
from senna2.world.town.families.draft import BEYOND_S, DT, Draft
from senna2.world.town.look import Look
from senna2.world.town.signals import make_signal
from senna2.world.town.street import build_roads

SPLITS = ("train", "tune", "val", "test", "showcase")
ATTEMPTS = 12
LONGEST_S = 40.0
STRADDLING_S = 4.0  # longer over a line than this is a failure (EVALUATION.md)
ROAD_ENDS_M = 25.0  # m before its street's end a clip ends, however long it was to last
SETTLED_S = 0.5  # s without anything under way before a clip may end
VARIATIONS = 100  # seeds of the showcase that share a place: the clip and what its variations are chosen from
CHANGES = (Direction.CHANGE_LEFT, Direction.CHANGE_RIGHT)


def scene_seed(split: str, family: str, i: int) -> int:
    """The seed of clip `i` of a family in a split; no two are equal. Raises `InputError` for unknown names."""
    _check(split, family)
    require(0 <= i < 10_000, "scene_seed: i", f"{i} is not in 0…9999")
    return (SPLITS.index(split) + 1) * 1_000_000 + FAMILIES.index(family) * 10_000 + i


def split_scenes(split: str, count: int, families: Sequence[str] = CORE) -> list[tuple[str, int]]:
    """(family, seed) of the first `count` clips of a split, families in turn."""
    n = len(families)
    return [(families[i % n], scene_seed(split, families[i % n], i // n)) for i in range(count)]


def make_scene(family: str, seed: int, split: str = "train", *, duration_s: float | None = None) -> Scene:
    """A validated clip with the expert's log, determined by (family, seed, split, duration).

    duration_s: up to 40 s (less where the ego's street ends before); by default what the family's story needs, 10 to
    15 s. Raises `InputError` for unknown names, and if no attempt gave a clip that the expert passes.
    """
    return make_scene_counted(family, seed, split, duration_s=duration_s)[0]


def make_scene_counted(
    family: str, seed: int, split: str = "train", *, duration_s: float | None = None
) -> tuple[Scene, int]:
    """`make_scene`, and how many attempts were rejected before."""
    _check(split, family)
    known = duration_s is None or DT < duration_s <= LONGEST_S
    require(known, "make_scene: duration_s", f"{duration_s} is not in (0.1, {LONGEST_S:g}] s")
    for attempt in range(ATTEMPTS):
        draft, place_rng = draft_clip(family, seed, split, attempt, duration_s)
        recipe = BASE[base_of(family)[0]]
        least_s = recipe.duration_s if duration_s is None else duration_s
        scene = demonstrated(draft_scene(draft, family, seed, split), least_s, may_return=recipe.may_return)
        if scene is not None:
            scene = dataclasses.replace(scene, background=build_roads(draft.roads, draft.look, place_rng))
            return scene.validate(scene.meta.name), attempt
    raise InputError(f"family {family}, seed {seed}: the expert failed in {ATTEMPTS} attempts; take another seed")


def _check(split: str, family: str) -> None:
    if family not in FAMILIES:
        raise InputError(f"family '{family}' is unknown; there are {', '.join(FAMILIES)}{meant(family, FAMILIES)}")
    if split not in SPLITS:
        raise InputError(f"split '{split}' is unknown; there are {', '.join(SPLITS)}{meant(split, SPLITS)}")


def draft_clip(
    family: str, seed: int, split: str, attempt: int, duration_s: float | None = None
) -> tuple[Draft, np.random.Generator]:
    """The script of one attempt, and the generator of the houses' looks. In the showcase the place stays the same
    over all variations and attempts."""
    base, weather = base_of(family)
    recipe = BASE[base]
    key = [zlib.crc32(family.encode()), SPLITS.index(split)]
    script = [*key, int(seed), attempt]
    place = [*key, int(seed) // VARIATIONS, 0] if split == "showcase" else script
    place_rng, script_rng, look_rng = (
        np.random.default_rng([*k, part]) for part, k in enumerate((place, script, script))
    )
    duration = recipe.duration_s + recipe.longer_s if duration_s is None else duration_s
    t_T = DT * np.arange(round((duration + BEYOND_S) / DT) + 1)
    where = recipe.place(place_rng)
    roads = where.roads(place_rng, duration)
    v0 = where.limit * script_rng.uniform(*recipe.speed)
    c = Draft(script_rng, where, roads, Look.draw(look_rng, weather), v0, t_T)
    recipe.write(c)
    add_background(c, recipe.neighbours)
    return c, place_rng


def draft_scene(c: Draft, family: str, seed: int, split: str) -> Scene:
    """The clip without its background, and with an expert that stands throughout: it has the times, not yet a drive."""
    route = c.route()
    frames = len(c.t_T) - round(BEYOND_S / DT)
    start = c.path.world(0.0, 0.0)
    straight = np.full(frames, Direction.STRAIGHT, np.int8)
    expert = Expert(DT * np.arange(frames), np.tile(start, (frames, 1)), np.full(frames, c.v0), straight, straight)
    assets = {name: cloud for actor in c.actors for name, cloud in actor.clouds().items()}
    if c.signals:
        assets |= {f"signal{state}": cloud for state, cloud in make_signal().items()}
    return Scene(
        meta=SceneMeta(
            f"{split}-{family}-{seed}", family, split, int(seed), DT, weather=c.look.weather, ego_shape=c.shape
        ),
        background=GaussianCloud.fake(),
        assets=assets,
        tracks=c.tracks(),
        map=c.roads.lane_map(),
        rig=Rig.default(),
        expert=expert,
        route_P2=route,
        speed_limit_P=np.full(len(route), c.limit),
        signals=tuple(c.signals),
    )


def demonstrated(scene: Scene, least_s: float, *, may_return: bool = False) -> Scene | None:
    """The clip with the log of its expert in the simulator, or None if the expert fails in it (contact, off the
    road, straddling too long or at the end, a commanded lane change that is not finished; may_return: one begun and
    given up counts as done). The clip ends at `least_s`, or as soon after as nothing is under way."""
    simulator, driver = Simulator(scene), ExpertDriver(scene)
    x, y, yaw = (float(v) for v in scene.expert.pose_E3[0])
    state = simulator.reset(EgoState(x, y, yaw, float(scene.expert.v_E[0])))
    if state.ignored_ids:
        return None
    pose, v, direction, navigation = [], [], [], []
    straddled_s = longest_s = calm_s = 0.0
    while True:
        plan = driver.plan(state)
        e = state.ego
        pose.append((e.x, e.y, e.yaw))
        v.append(e.v)
        direction.append(driver.direction)
        navigation.append(driver.navigation)
        settled = not state.straddling and direction[-1] not in CHANGES
        settled &= driver.maneuver_done or (may_return and has_begun(direction))
        calm_s = calm_s + DT if settled else 0.0
        left_m = float(np.hypot(e.x - scene.route_P2[-1, 0], e.y - scene.route_P2[-1, 1]))
        if state.done or (state.t_s > least_s - DT / 2 and calm_s > SETTLED_S):
            break
        if left_m < ROAD_ENDS_M and settled:
            break
        state = simulator.step(state, plan)
        if state.contacts or state.off_road:
            return None
        straddled_s = straddled_s + DT if state.straddling else 0.0
        longest_s = max(longest_s, straddled_s)
    if state.straddling or longest_s > STRADDLING_S:
        return None
    expert = Expert(
        scene.expert.t_E[: len(pose)],
        np.array(pose),
        np.array(v),
        np.array(direction, np.int8),
        np.array(navigation, np.int8),
    )
    if not (driver.maneuver_done or (may_return and has_begun(direction))):
        return None  # a commanded lane change that is neither finished in time nor given up demonstrates nothing
    return dataclasses.replace(scene, expert=expert)


def has_begun(directions: Sequence[int]) -> bool:
    """Whether a lane change was begun, by the annotation."""
    return any(d in CHANGES for d in directions)
