"""Scenario families: what happens in them, how hard they are, splits and showcase. Scripts are judged as drafts; only
where the expert matters is a clip driven. Legend: T frames of a track."""

from functools import cache

import numpy as np
import pytest

from senna2.drivers import Expert, Idm, Naive
from senna2.evaluate.closed_loop import judge
from senna2.geometry import overlap
from senna2.rollouts import Policy, drive
from senna2.types import AgentClass, Array, Direction, InputError
from senna2.world.scene import BRAKE, INDICATOR_LEFT, INDICATOR_RIGHT, Light, Scene
from senna2.world.town.actors import Actor, Ahead, Motion, braking, clash, cross, side_lamp, slide, stand, steady
from senna2.world.town.actors import drive as drive_along
from senna2.world.town.families import (
    CORE,
    EXTENDED,
    FAMILIES,
    RISKY,
    SETS,
    SHOWCASE,
    SPLITS,
    make_scene,
    make_scene_counted,
    scene_seed,
    split_scenes,
)
from senna2.world.town.families.catalogue import BASE
from senna2.world.town.families.draft import INDICATE_S, Draft
from senna2.world.town.families.make import demonstrated, draft_clip, draft_scene
from senna2.world.town.network import KINDS
from senna2.world.town.roads import ReferenceLine

T_T = 0.1 * np.arange(141)
LINE = ReferenceLine.straight(np.zeros(2), np.array([300.0, 0.0]), 0.5)
WITH_CHANGE = ("ego_cut_in", "lane_change", "aborted_lane_change", "merge")
VEHICLES = AgentClass.MOTORCYCLE  # and all classes below


@cache
def draft(family: str, i: int, split: str = "tune") -> Draft:
    return draft_clip(family, scene_seed(split, family, i), split, 0)[0]


@cache
def driven(family: str, i: int, split: str = "tune") -> tuple[Scene, Draft]:
    """A clip with its expert but without its houses, which only cameras see."""
    seed = scene_seed(split, family, i)
    for attempt in range(6):
        c, _ = draft_clip(family, seed, split, attempt)
        base = BASE[family]
        scene = demonstrated(draft_scene(c, family, seed, split), base.duration_s, may_return=base.may_return)
        if scene is not None:
            return scene, c
    raise AssertionError(f"{family} {seed}: the expert fails")


def fails(policy: Policy, scene: Scene) -> bool:
    o = judge(drive(policy, scene, policy_name="x"))
    return bool(o.collided or o.off_road or o.straddled)


def keys(c: Draft) -> list[Actor]:
    return [a for a in c.actors if a.key]


# ---------------------------------------------------------------- actors


def test_a_vehicle_brakes_as_told_and_shows_it() -> None:
    motion = drive_along(LINE, T_T, 10.0, 10.0, 0.0, braking(10.0, 2.0, 0.0, 4.0))
    assert motion.v_T[15] == pytest.approx(10.0, abs=0.01)
    assert motion.v_T[-1] == 0.0
    lasts = 10.0 / 4.0
    assert motion.s_T[-1] == pytest.approx(10 + 20 + 10 * lasts / 2, abs=6.0)  # and a little for the foot's way
    lit = (motion.lights_T & BRAKE) > 0
    assert not lit[:19].any()
    assert lit[24:].all()  # while it brakes, and while it stands


def test_a_follower_keeps_its_distance_and_never_touches() -> None:
    leader = drive_along(LINE, T_T, 30.0, 10.0, 0.0, braking(10.0, 2.0, 0.0, 5.0))
    follower = drive_along(LINE, T_T, 10.0, 10.0, 0.0, steady(10.0), ahead=Ahead(leader, 4.5))
    gap = leader.s_T - follower.s_T - 4.5
    assert gap.min() > 0.5
    assert follower.v_T[-1] < 0.2


def test_against_the_line_it_faces_the_other_way_and_indicators_have_a_side() -> None:
    motion = drive_along(LINE, T_T, 100.0, 8.0, 1.75, steady(8.0), sense=-1)
    pose = motion.poses(np.pi)
    assert np.abs(pose[:, 2]) == pytest.approx(np.pi)
    assert pose[-1, 0] < pose[0, 0] - 100
    assert side_lamp(-1.75, -5.25) == INDICATOR_RIGHT
    assert side_lamp(1.75, 5.25, sense=-1) == INDICATOR_RIGHT


def test_who_crosses_is_where_and_when_the_script_says() -> None:
    motion = cross(LINE, T_T, 50.0, 8.0, -8.0, 2.0, 6.0, -1.75)
    assert np.interp(6.0, T_T, motion.d_T) == pytest.approx(-1.75)
    assert np.abs(np.gradient(motion.d_T, 0.1)).max() == pytest.approx(2.0)
    assert motion.d_T[0] == 8.0
    path = slide(T_T, 0.0, 3.5, 2.0, 3.0)
    assert (path[T_T <= 2.0] == 0).all()
    assert path[T_T >= 5.0] == pytest.approx(3.5)


@pytest.mark.parametrize(("beside", "meets"), [(0.0, True), (1.7, True), (3.5, False)])
def test_boxes_clash_in_the_world_whatever_their_lines(beside: float, meets: bool) -> None:
    one = Actor(AgentClass.CAR, 0, drive_along(LINE, T_T, 0.0, 10.0, 0.0, steady(10.0)))
    other_line = ReferenceLine.straight(np.array([0.0, beside]), np.array([300.0, beside]), 0.5)
    standing: Motion = stand(other_line, T_T, 60.0, 0.0)
    assert clash(one, Actor(AgentClass.CAR, 1, standing), 0.2) == meets


# ---------------------------------------------------------------- names, seeds, sets


def test_the_sets_hold_what_they_should() -> None:
    assert len(CORE) == 10
    assert set(SETS["core"]) | set(SETS["extended"]) == set(FAMILIES)
    assert len(FAMILIES) == len(set(FAMILIES)) == 37
    assert set(RISKY) == set(CORE) - {"empty_road"}
    assert {f"{name}_{weather}" for name in CORE for weather in ("dusk", "rain")} < set(EXTENDED)


def test_seeds_never_repeat_and_bad_names_are_told() -> None:
    seeds = [scene_seed(split, family, i) for split in SPLITS for family in FAMILIES for i in (0, 1, 9_999)]
    assert len(set(seeds)) == len(seeds)
    assert split_scenes("test", 12)[:10] == [(f, scene_seed("test", f, 0)) for f in CORE]
    assert split_scenes("val", 3, ("curve", "merge"))[2] == ("curve", scene_seed("val", "curve", 1))
    with pytest.raises(InputError, match="family 'loop' is unknown; there are following_and_stop"):
        make_scene("loop", 0)
    with pytest.raises(InputError, match="split 'dev' is unknown"):
        make_scene("cut_in", 0, "dev")
    with pytest.raises(InputError, match="duration_s"):
        make_scene("cut_in", 0, duration_s=90.0)


def test_a_clip_is_determined_by_family_split_and_seed() -> None:
    a, b = (make_scene("crossing_cyclist", 11, "train") for _ in range(2))
    np.testing.assert_array_equal(a.background.means_N3, b.background.means_N3)
    np.testing.assert_array_equal(a.background.sh_NK3, b.background.sh_NK3)
    np.testing.assert_array_equal(a.expert.pose_E3, b.expert.pose_E3)
    assert [t.id for t in a.tracks] == [t.id for t in b.tracks]
    for s, t in zip(a.tracks, b.tracks, strict=True):
        np.testing.assert_array_equal(s.pose_T3, t.pose_T3)
    for c in (draft_clip("crossing_cyclist", 12, "train", 0)[0], draft_clip("crossing_cyclist", 11, "test", 0)[0]):
        assert c.v0 != a.expert.v_E[0]


def test_the_weather_is_the_family_s_and_the_length_as_asked() -> None:
    scene, rejected = make_scene_counted("cut_in_rain", scene_seed("tune", "cut_in_rain", 0), "tune", duration_s=20.0)
    assert scene.meta.weather == "rain"
    assert rejected < 6
    assert scene.duration_s == pytest.approx(20.0)
    assert min(t.t_T[-1] for t in scene.tracks) >= 24.0 - 1e-6
    assert scene.background.means_N3[:, 0].max() > 235.0


# ---------------------------------------------------------------- scripts


@pytest.mark.parametrize("family", list(BASE))
def test_agents_keep_apart_and_lights_follow_what_vehicles_do(family: str) -> None:
    c = draft(family, 0)
    boxes_KA5 = np.stack([a.boxes() for a in c.actors], 1) if c.actors else np.zeros((len(c.t_T), 0, 5))
    assert np.isfinite(boxes_KA5).all()
    assert c.t_T[-1] >= BASE[family].duration_s + 4.0 - 1e-6
    for k in range(0, len(c.t_T), 10):
        meets = overlap(boxes_KA5[k, :, None], boxes_KA5[k, None, :])
        assert not (meets & ~np.eye(len(c.actors), dtype=bool)).any(), (family, k)
    for a in c.actors:
        if a.agent_class <= VEHICLES:
            change = np.gradient(a.motion.v_T, 0.1)
            lit = (a.motion.lights_T & BRAKE) > 0
            assert lit[change < -1.0].mean() > 0.9 if (change < -1.0).any() else True
            assert not lit[(change > 0.4) & (a.motion.v_T > 0.5)].any()


@pytest.mark.parametrize("family", list(BASE))
def test_who_matters_is_named(family: str) -> None:
    matters = [keys(draft(family, i)) for i in range(4)]
    if family in ("curve", "empty_road", "red_light"):
        assert not any(matters)
        return
    assert all(matters)
    for i, found in enumerate(matters):
        names = [t.id for t in draft(family, i).tracks()]
        assert sum(name.startswith("key_") for name in names) == len(found)
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("family", ["cut_in", "aborted_lane_change"])
def test_a_lane_change_of_another_is_indicated_before(family: str) -> None:
    seen = 0
    for i in range(6):
        c = draft(family, i)
        for a in keys(c):
            d = a.motion.d_T
            if np.ptp(d) < 3.0:
                continue
            seen += 1
            begins = c.t_T[np.argmax(np.abs(d - d[0]) > 0.05)]
            bit = INDICATOR_LEFT if d[-1] > d[0] else INDICATOR_RIGHT
            lit = (a.motion.lights_T & bit) > 0
            assert begins - c.t_T[np.argmax(lit)] >= min(INDICATE_S, begins) - 1e-6
            assert INDICATE_S > 1.0
            assert not ((a.motion.lights_T & (INDICATOR_LEFT + INDICATOR_RIGHT - bit)) > 0).any()
    assert seen >= 2


def test_conflicts_have_a_trigger_on_the_track_s_own_path() -> None:
    for family in ("crossing_pedestrian", "right_turn_cyclists", "oncoming_left_turn", "crossing_cyclist"):
        c = draft(family, 1)
        track = next(t for t in c.tracks() if t.trigger is not None)
        assert track.trigger is not None
        at = [np.interp(track.trigger.arrives_s, track.t_T, track.pose_T3[:, i]) for i in (0, 1)]
        assert np.hypot(at[0] - track.trigger.x, at[1] - track.trigger.y) < 0.3
        # and near the ego's way
        assert abs(c.path.project(np.array([[track.trigger.x, track.trigger.y]]))[1][0]) < 0.6


def test_turners_indicate_and_pedestrians_have_no_lamps() -> None:
    turned = 0
    for i in range(12):
        c = draft("oncoming_left_turn", i)
        other = keys(c)[0]
        if c.place.turn == Direction.STRAIGHT:
            turned += 1
            assert ((other.motion.lights_T & INDICATOR_LEFT) > 0)[:30].all()
    assert turned >= 3
    walks = keys(draft("crossing_pedestrian", 0))[0].track("p")
    assert not walks.lights_T.any()


def test_lights_are_red_for_the_ego_and_never_green_for_both_streets() -> None:
    greens = 0
    for i in range(6):
        c = draft("red_light", i)
        by_arm = {s.lanes[0].split("_")[0]: s for s in c.signals}
        assert by_arm["main"].at(0.0) == Light.RED
        main, side = by_arm["main"], by_arm.get("right") or by_arm["left"]
        for t in np.arange(0.0, 18.0, 0.25):
            assert Light.RED in (main.at(t), side.at(t))
        greens += main.at(12.0) == Light.GREEN
        moving = [a for a in c.actors if a.motion.line not in (c.line, c.path) and a.motion.v_T.max() > 3.0]
        if "right" in by_arm and "left" in by_arm:
            assert moving  # across, traffic goes on
        for a in moving:  # and passes the box only while it may
            passes = a.motion.t_T[(a.motion.s_T > 0.5) & (a.motion.s_T < 3.0)]
            assert all(side.at(float(t)) != Light.RED for t in passes if t > 0)
    assert 1 <= greens <= 5


def test_all_road_kinds_classes_and_widths_occur() -> None:
    drafts = [draft(family, i) for family in BASE for i in range(4)] + [draft("empty_road", i) for i in range(4, 24)]
    assert {c.place.kind for c in drafts} == set(KINDS)
    assert {c.section.forward for c in drafts} == {1, 2, 3}
    assert {c.limit for c in drafts} == {8.3, 11.1, 13.9}
    classes = {a.agent_class for c in drafts for a in c.actors}
    assert classes >= set(AgentClass) - {AgentClass.STATIC}


def test_commanded_changes_go_both_ways() -> None:
    sides = {np.sign(c.goal_d - c.d) for c in (draft("lane_change", i) for i in range(8))}
    assert sides == {-1.0, 1.0}
    c = draft("lane_change", 0)
    route = c.route()
    _, d = c.line.project(route[[0, -1]])
    assert d == pytest.approx([c.d, c.goal_d], abs=0.02)


# ---------------------------------------------------------------- with the expert


@pytest.mark.parametrize("family", RISKY)
def test_who_does_not_look_fails_and_the_expert_does_not(family: str) -> None:
    failed = 0
    for i in range(3):
        failed += failed < 2 and fails(Naive(), driven(family, i)[0])  # two of three
    assert failed == 2
    assert not fails(Expert(), driven(family, 0)[0])


def test_idm_on_the_lane_fails_less_than_who_does_not_look() -> None:
    clips = [driven(family, 0)[0] for family in RISKY]
    failed = sum(fails(Idm(), scene) for scene in clips)
    assert 1 <= failed < len(clips)


@pytest.mark.parametrize("family", WITH_CHANGE[:3])
def test_the_commanded_change_is_announced_and_made_or_given_up(family: str) -> None:
    scene, c = driven(family, 1)
    command = Direction.CHANGE_LEFT if c.goal_d > c.d else Direction.CHANGE_RIGHT
    assert command in scene.expert.navigation_E
    _, d = c.path.project(scene.expert.pose_E3[:, :2])
    share = d / (c.goal_d - c.d)
    if family != "aborted_lane_change":
        assert share[-1] > 0.75
        assert scene.expert.navigation_E[-1] not in (Direction.CHANGE_LEFT, Direction.CHANGE_RIGHT)


def test_a_change_that_looked_free_is_given_up() -> None:
    given_up = [_gives_up(*driven("aborted_lane_change", i)) for i in range(4)]
    assert sum(given_up) >= 3


def _gives_up(scene: Scene, c: Draft) -> bool:
    """Whether the ego left its lane's middle towards the goal, and came back before it was there."""
    _, d = c.path.project(scene.expert.pose_E3[:, :2])
    share: Array = d / (c.goal_d - c.d)
    furthest = np.maximum.accumulate(share)
    return bool(((furthest > 0.06) & (furthest < 0.8) & (share < 0.5 * furthest)).any())


# ---------------------------------------------------------------- showcase


def test_the_showcase_is_a_clip_and_twenty_variations_of_its_street() -> None:
    assert tuple(SHOWCASE) == CORE[:6]
    assert all(len(set(seeds)) == 21 for seeds in SHOWCASE.values())
    for family, seeds in SHOWCASE.items():
        first, other = (draft_clip(family, seed, "showcase", 0)[0] for seed in seeds[:2])
        np.testing.assert_array_equal(first.line.xy_P2, other.line.xy_P2)
        np.testing.assert_array_equal(first.route()[:3], other.route()[:3])
        assert (first.place.limit, first.place.lane, first.place.turn) == (
            other.place.limit, other.place.lane, other.place.turn,
        )  # fmt: skip
        assert first.v0 != other.v0


@pytest.mark.slow
@pytest.mark.parametrize("family", list(SHOWCASE))
def test_every_clip_of_the_showcase_is_made(family: str) -> None:
    streets = []
    for seed in SHOWCASE[family]:
        scene = make_scene(family, seed, "showcase")
        streets.append(np.concatenate([lane.centre_P2 for lane in scene.map.lanes]))
        np.testing.assert_array_equal(streets[-1], streets[0])
