"""Each thing that can be wrong with a clip, done to one: it is found, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from recorded_fixtures import real_log

from senna2.types import Array, Direction
from senna2.world.check import Finding, check_scene
from senna2.world.gaussians import GaussianCloud
from senna2.world.scene import Lane, Light, Scene, Signal, Track, Trigger
from senna2.world.town.families import CORE, EXTENDED, make_scene


def track(scene: Scene, **changes: object) -> Scene:
    return replace(scene, tracks=(replace(scene.tracks[0], **changes),))


def lane(scene: Scene, **changes: object) -> Scene:
    first, *rest = scene.map.lanes
    return replace(scene, map=replace(scene.map, lanes=(replace(first, **changes), *rest)))


def expert(scene: Scene, **changes: object) -> Scene:
    return replace(scene, expert=replace(scene.expert, **changes))


def light(scene: Scene, **changes: object) -> Scene:
    """Green, over the right lane, 20 m ahead; the ego passes it at 2 s."""
    signal = Signal("s", "signal", np.array([20.0, -3.0, 0.0]), np.array([(20.0, -1.75), (20.0, 1.75)]), ("right",),
                    np.array([0.0]), np.array([Light.GREEN], np.int8))  # fmt: skip
    lamps = {f"signal{end}": GaussianCloud.fake(4) for end in ("", ".red", ".amber", ".green")}
    return replace(scene, assets={**scene.assets, **lamps}, signals=(replace(signal, **changes),))


def moved(values: Array, at: tuple[int, ...] | int, value: float) -> Array:
    out = np.array(values)
    out[at] = value
    return out


def poses(scene: Scene, index: int, change: Callable[[Array], Array]) -> Array:
    out = scene.tracks[index].pose_T3.copy() if index >= 0 else scene.expert.pose_E3.copy()
    return change(out)


def crossing(scene: Scene) -> Track:
    """A pedestrian that stands on the ego's path, 30 m ahead."""
    n = len(scene.expert.t_E)
    return replace(scene.tracks[0], id="walker", length=0.6, width=0.6, height=1.7, agent_class=6,
                   pose_T3=np.tile([30.0, 0.0, 0.0], (n, 1)), v_T=np.zeros(n))  # fmt: skip


def jump(pose: Array) -> Array:
    pose[30:, 0] += 8.0
    return pose


def degrees(pose: Array) -> Array:
    pose[:, 2] = 90.0
    return pose


def reversed_yaw(pose: Array) -> Array:
    pose[:, 2] = np.pi
    return pose


def farther(pose: Array) -> Array:
    pose[:, 0] = 25 + 2 * (pose[:, 0] - 25)
    return pose


def to_the_left(line: Array, metres: float) -> Array:
    return line + np.array([0.0, metres])


BROKEN: list[tuple[str, Callable[[Scene], Scene], str, str]] = [
    # schema and NaN
    ("unknown asset", lambda s: track(s, asset="ship"), "track leader", "asset 'ship'"),
    ("nan pose", lambda s: track(s, pose_T3=moved(s.tracks[0].pose_T3, (3, 1), np.nan)), "track leader", "NaN"),
    ("nan expert speed", lambda s: expert(s, v_E=moved(s.expert.v_E, 4, np.nan)), "expert: v", "NaN"),
    ("nan lane", lambda s: lane(s, centre_P2=moved(s.map.lanes[0].centre_P2, (2, 0), np.nan)),
     "map: lane right", "NaN"),
    ("uneven columns", lambda s: track(s, v_T=s.tracks[0].v_T[:-1]), "track leader", "rows"),
    ("direction", lambda s: expert(s, direction_E=moved(s.expert.direction_E, 2, 9)), "expert: direction", "9 at row"),
    ("no navigation", lambda s: expert(s, navigation_E=moved(s.expert.navigation_E, 2, len(Direction) - 1)),
     "expert: navigation", "5 at row"),
    ("light bits", lambda s: track(s, lights_T=moved(s.tracks[0].lights_T, 2, 32)), "track leader: lights", "bits"),
    ("trigger", lambda s: track(s, trigger=Trigger(np.nan, 0, 2)), "track leader: trigger", "NaN"),
    # time
    ("time goes back", lambda s: track(s, t_T=moved(s.tracks[0].t_T, 9, 0.3)), "track leader: t", "does not increase"),
    ("expert's time", lambda s: expert(s, t_E=moved(s.expert.t_E, 9, 0.3)), "expert: t", "does not increase"),
    ("late clock", lambda s: expert(s, t_E=s.expert.t_E + 5), "expert: t", "starts at 5 s"),
    ("red light times", lambda s: light(s, t_T=np.array([0.0, 3.0, 2.0]), state_T=np.full(3, 2)), "signal s: t", "not"),
    ("light state", lambda s: light(s, state_T=np.array([7])), "signal s: state", "unknown state"),
    ("light's lane", lambda s: light(s, lanes=("nowhere",)), "signal s: lanes", "['nowhere']"),
    # units
    ("speed in km/h", lambda s: track(s, v_T=3.6 * s.tracks[0].v_T), "track leader: v", "looks like km/h"),
    ("expert in km/h", lambda s: expert(s, v_E=3.6 * s.expert.v_E), "expert: v", "looks like km/h"),
    ("too fast", lambda s: track(s, v_T=0 * s.tracks[0].v_T + 90), "track leader: v", "reaches 90 m/s"),
    ("negative speed", lambda s: track(s, v_T=moved(s.tracks[0].v_T, 5, -1)), "track leader: v", "negative"),
    ("degrees", lambda s: track(s, pose_T3=poses(s, 0, degrees)), "track leader: yaw", "90"),
    ("heading", lambda s: track(s, pose_T3=poses(s, 0, reversed_yaw)), "track leader: yaw", "180° off"),
    ("in millimetres", lambda s: track(s, length=4500.0), "track leader: length", "absurd for car"),
    ("limit in km/h", lambda s: lane(s, speed_limit=50.0), "map: lane right: speed_limit", "50 m/s"),
    ("route limit", lambda s: replace(s, speed_limit_P=s.speed_limit_P * 3.6), "route: speed_limit", "50.04 m/s"),
    ("stands, says it drives", lambda s: track(s, pose_T3=np.tile(s.tracks[0].pose_T3[:1], (60, 1))),
     "track leader: v", "but it stands"),
    # motion
    ("teleport", lambda s: track(s, pose_T3=poses(s, 0, jump)), "track leader", "jumps 8.8 m at 2.9 s"),
    ("overlap", lambda s: replace(s, tracks=(*s.tracks, replace(s.tracks[0], id="twin"))), "track leader", "twin at"),
    # map and route
    ("lane twice", lambda s: replace(s, map=replace(s.map, lanes=(*s.map.lanes, s.map.lanes[0]))), "map: lane right",
     "2 times"),
    ("successor", lambda s: lane(s, successors=("beyond",)), "map: lane right: successors", "['beyond']"),
    ("neighbour", lambda s: lane(s, left="beyond"), "map: lane right: left", "['beyond']"),
    ("kind", lambda s: lane(s, kind="tram"), "map: lane right: kind", "'tram'"),
    ("no polygon", lambda s: replace(s, map=replace(s.map, drivable=())), "map: drivable", "no polygon"),
    ("route off the road", lambda s: replace(s, route_P2=to_the_left(s.route_P2, 7.0)), "route",
     "off the drivable area"),
    ("route against", lambda s: lane(s, centre_P2=s.map.lanes[0].centre_P2[::-1]), "route", "against the lanes"),
    ("short route", lambda s: replace(s, route_P2=np.zeros((2, 2)), speed_limit_P=np.ones(2)), "route", "0.00 m long"),
    # the expert
    ("expert collides", lambda s: replace(s, tracks=(*s.tracks, crossing(s))), "expert", "collides with walker"),
    ("off its route", lambda s: replace(s, route_P2=to_the_left(s.route_P2, 7.0)), "expert", "7.0 m beside its route"),
    ("route reversed", lambda s: replace(s, route_P2=s.route_P2[::-1]), "expert", "goes back"),
    ("red light", lambda s: light(s, state_T=np.array([Light.RED], np.int8)), "expert", "passes signal s on red at"),
]  # fmt: skip
WITH_COMPANY = {
    "off its route", "route off the road", "route reversed", "too fast", "in millimetres", "stands, says it drives",
    "route against",
}  # one cause, several findings  # fmt: skip


@pytest.mark.parametrize(("name", "broken", "where", "what"), BROKEN, ids=[row[0] for row in BROKEN])
def test_each_fault_is_found(name: str, broken: Callable[[Scene], Scene], where: str, what: str) -> None:
    found = check_scene(broken(Scene.fake()))
    errors = [f for f in found if f.level == "error"]
    assert [f for f in errors if f.where == where and what in f.what], found
    assert all(f.fix for f in found)
    if name not in WITH_COMPANY:
        assert len(errors) == 1, errors


def test_a_sound_clip_has_no_finding() -> None:
    assert check_scene(Scene.fake()) == []
    assert check_scene(light(Scene.fake())) == []
    assert check_scene(track(Scene.fake(), trigger=Trigger(30.0, 0.0, 3.0))) == []


def test_an_expert_off_the_road_is_found() -> None:
    scene = Scene.fake()
    drift = scene.expert.pose_E3.copy()
    drift[:, 1] = -np.linspace(0, 4.5, len(drift))
    drift[:, 2] = np.arctan2(np.gradient(drift[:, 1]), np.gradient(drift[:, 0]))
    free = replace(
        scene, map=replace(scene.map, kerbs=(np.array([(0.0, -50), (9, -50)]),))
    )  # else it meets the kerb first
    assert [f for f in check_scene(expert(free, pose_E3=drift)) if "leaves the drivable area" in f.what]
    assert [f for f in check_scene(expert(scene, pose_E3=drift)) if "collides with kerb" in f.what]


def test_a_route_round_an_obstacle_may_use_the_oncoming_lane() -> None:
    scene = Scene.fake()
    right, left = scene.map.lanes
    oncoming = replace(scene.map, lanes=(right, replace(left, centre_P2=left.centre_P2[::-1])))
    for back, errors in ((60.0, []), (95.0, ["runs against the lanes for 71 m"])):
        route = np.array([(0, 0), (20, 0), (25, 3.5), (back - 5, 3.5), (back, 0), (200, 0)], float)
        found = check_scene(replace(scene, map=oncoming, route_P2=route, speed_limit_P=np.full(6, 13.9)))
        assert [f.what.partition(" from ")[0] for f in found] == errors


def test_a_drivable_area_that_does_not_hold_the_drive_is_found() -> None:
    scene = Scene.fake()
    narrow = replace(scene.map, kerbs=(), drivable=(scene.map.drivable[0] * (1, 0.3),))
    found = [f for f in check_scene(replace(scene, map=narrow)) if f.where == "map: drivable"]
    assert [f.what for f in found] == ["does not hold the expert's drive, so that nothing is judged by it"]


def test_an_agent_in_the_ego_is_found() -> None:
    scene = Scene.fake(gap=1.0)
    assert [f.what for f in check_scene(scene)] == ["overlaps the ego at the start; the judge will ignore it"]


@pytest.mark.parametrize("broken", [
    lambda s: track(s, pose_T3=poses(s, 0, jump)),
    lambda s: replace(s, tracks=(*s.tracks, crossing(s))),
    lambda s: replace(s, tracks=(*s.tracks, replace(s.tracks[0], id="twin"))),
])  # fmt: skip
def test_what_a_recording_may_hold_is_a_warning_there(broken: Callable[[Scene], Scene]) -> None:
    scene = Scene.fake()
    found = check_scene(broken(replace(scene, meta=replace(scene.meta, split="recorded"))))
    assert found
    assert {f.level for f in found} == {"warning"}


@pytest.mark.parametrize(("broken", "where"), [
    (lambda s: track(s, t_T=2 * s.tracks[0].t_T, pose_T3=poses(s, 0, farther)), "track leader: t"),
    (lambda s: track(s, length=8.5), "track leader: length"),
    (lambda s: replace(light(s), assets={**s.assets, "signal": GaussianCloud.fake(4)}), "signal s: asset"),
    (lambda s: lane(s, polygon_Q2=to_the_left(s.map.lanes[0].polygon_Q2, 9.0)), "map: lane right: polygon"),
    (lambda s: lane(s, successors=("left",)), "map: lane right: successors"),
])  # fmt: skip
def test_oddities_are_warnings(broken: Callable[[Scene], Scene], where: str) -> None:
    found = check_scene(broken(Scene.fake()))
    assert [(f.level, f.where) for f in found] == [("warning", where)], found


def test_errors_come_first() -> None:
    scene = track(lane(Scene.fake(), successors=("beyond",)), length=8.5)
    assert [f.level for f in check_scene(scene)] == ["error", "warning"]


def test_arrays_that_do_not_fit_at_all_are_a_finding() -> None:
    scene = Scene.fake()
    found = check_scene(replace(scene, route_P2=[[0, 0], [1]], speed_limit_P=np.ones(2)))
    assert [f.level for f in found] == ["error"]
    assert isinstance(found[0], Finding)


def test_a_lane_of_two_points_is_enough() -> None:
    scene = Scene.fake()
    short = Lane("a", np.array([(0.0, 0.0), (5.0, 0.0)]), np.array([(0.0, -1), (5, -1), (5, 1), (0, 1)]))
    assert check_scene(replace(scene, map=replace(scene.map, lanes=(short,)))) == []


RARER = [pytest.param(name, marks=pytest.mark.slow) for name in EXTENDED]


@pytest.mark.parametrize("family", [*CORE, *RARER])
def test_generated_clips_are_sound(family: str) -> None:
    assert check_scene(make_scene(family, 1, "tune")) == []


LONGER = [pytest.param(name, marks=pytest.mark.slow) for name in ("0061", "0103", "0655", "av2")]


@pytest.mark.parametrize("name", ["0553", *LONGER])
def test_dressed_recordings_have_no_error(name: str) -> None:
    from senna2.world.dress import dress_log

    found = check_scene(dress_log(real_log(name)))
    assert [f for f in found if f.level == "error"] == []
