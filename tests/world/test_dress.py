"""Dressing recordings: nothing of the log is lost, nothing unsaid is made up, the recorded ego never hits."""

import dataclasses
import json

import numpy as np
import pytest
import shapely
from recorded_fixtures import (
    FRAMES,
    NUSCENES,
    along,
    real_log,
    scenario,
    state,
    straight,
    track,
    write_argoverse2,
    write_pickle,
)

from senna2.drivers import Expert
from senna2.frames import project_to_polyline
from senna2.rollouts import drive
from senna2.types import AgentClass, Direction, InputError, VehicleShape
from senna2.world.clip import load_clip, save_clip
from senna2.world.dress import dress, dress_log, read_log
from senna2.world.dress_map import build_map, lane_changes
from senna2.world.importers.log import LoggedLane, RecordedLog
from senna2.world.importers.restricted_pickle import load_restricted
from senna2.world.scene import BRAKE

VEHICLES = (AgentClass.CAR, AgentClass.VAN, AgentClass.TRUCK, AgentClass.BUS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return dress_log(write_pickle(tmp_path_factory.mktemp("md") / "tiny.pkl", scenario()))


@pytest.fixture(scope="module")
def tiny_av2(tmp_path_factory):
    return dress_log(write_argoverse2(tmp_path_factory.mktemp("av2") / "tiny"))


_SCENES: dict = {}


def real_scene(name):
    """Each real recording is dressed once."""
    path = real_log(name)
    if name not in _SCENES:
        _SCENES[name] = dress_log(path)
    return _SCENES[name]


def by_id(scene, name):
    return next(t for t in scene.tracks if t.id == name)


# ---------------------------------------------------------------- tiny recordings


def test_tracks_with_a_gap_are_split_and_none_is_lost(tiny):
    assert {t.id for t in tiny.tracks} == {"leader#1", "leader#2", "parked", "walker", "rider", "moped", "cone"}
    first, second = by_id(tiny, "leader#1"), by_id(tiny, "leader#2")
    assert (first.t_T[0], first.t_T[-1]) == (0.0, pytest.approx(1.9))
    assert (second.t_T[0], second.t_T[-1]) == (pytest.approx(3.0), pytest.approx(6.0))
    assert first.asset == second.asset
    np.testing.assert_allclose(second.pose_T3[0], (25 + 24, 0, 0), atol=1e-9)


def test_speeds_come_from_positions_not_from_the_last_frames_zero(tiny):
    np.testing.assert_allclose(by_id(tiny, "leader#2").v_T, 8.0, atol=1e-6)
    np.testing.assert_allclose(tiny.expert.v_E, 8.0, atol=1e-6)
    assert not (by_id(tiny, "leader#2").lights_T & BRAKE).any()


def test_a_lost_message_is_no_burst_of_speed(tmp_path):
    xy = straight(0, 0, 8.0)
    xy[30:, 0] += 0.8  # one step of twice the length
    content = scenario()
    content["tracks"]["ego"]["state"] = state(xy, 0.0, (1.73, 4.08, 1.56))
    scene = dress_log(write_pickle(tmp_path / "s.pkl", content))
    assert scene.expert.v_E.max() < 8.3
    np.testing.assert_allclose(scene.expert.pose_E3[:, :2], xy, atol=1e-9)  # poses stay as recorded


def test_parked_cars_tremble_without_speed_or_lights(tiny):
    parked = by_id(tiny, "parked")
    assert np.ptp(parked.pose_T3[:, 0]) > 0.05
    assert (parked.v_T == 0).all()
    assert not parked.lights_T.any()


def test_brake_lights_follow_deceleration(tmp_path):
    t = 0.1 * np.arange(FRAMES)
    x = np.where(t < 3, 8 * t, 24 + 8 * (t - 3) - 1.5 * (t - 3) ** 2)  # −3 m/s² from 3 s on
    x = np.where(t > 3 + 8 / 3, 24 + 64 / 6, x)
    content = scenario()
    content["tracks"]["braking"] = track(
        "VEHICLE", "vehicle.car", state(np.stack([x, x * 0 - 3], 1), 0.0, (4, 1.8, 1.5))
    )
    lights = by_id(dress_log(write_pickle(tmp_path / "s.pkl", content)), "braking").lights_T & BRAKE
    assert not lights[:22].any()
    assert lights[36:].all()  # while slowing and while held


def test_assets_have_each_boxs_own_size(tiny):
    for t in tiny.tracks:
        cloud = tiny.assets[t.asset]
        reach = np.abs(cloud.means_N3[:, :2]).max(0)
        assert reach[0] == pytest.approx(t.length / 2, rel=0.35, abs=0.2)
        assert cloud.means_N3[:, 2].max() < t.height + 0.4
    assert f"{by_id(tiny, 'walker').asset}.step" in tiny.assets


def test_nothing_is_made_up_where_the_map_does_not_say(tiny):
    assert not tiny.map.drivable_known
    assert not tiny.map.lanes_complete
    assert tiny.map.kerbs == ()
    assert tiny.map.drivable == ()
    assert np.isnan(tiny.speed_limit_P).all()
    assert tiny.background.means_N3[:, 2].min() < 0  # an underlay
    low = np.abs(tiny.background.means_N3[:, 2] - 0.15) < 0.02
    assert not low.any()  # no raised kerb stones


def test_what_was_left_out_is_told(tiny):
    assert "2 objects left out" in tiny.meta.source
    assert "shadow" in tiny.meta.source


def test_identity_and_determinism(tmp_path):
    path = write_pickle(tmp_path / "s.pkl", scenario())
    a, b = dress_log(path), dress_log(path)
    assert (a.meta.split, a.meta.family, a.meta.name) == ("recorded", "recorded", "nuscenes-tiny")
    for name in ("means_N3", "scales_N3", "quats_N4", "sh_NK3"):
        np.testing.assert_array_equal(getattr(a.background, name), getattr(b.background, name))
    assert list(a.assets) == list(b.assets)


def test_a_dressed_clip_survives_the_disk(tiny, tmp_path):
    save_clip(tiny, tmp_path / "clip")
    back = load_clip(tmp_path / "clip")
    assert [t.id for t in back.tracks] == [t.id for t in tiny.tracks]
    np.testing.assert_array_equal(back.expert.pose_E3, tiny.expert.pose_E3)
    assert back.meta.source == tiny.meta.source


def test_route_follows_the_recording_and_runs_on(tiny):
    s, d = project_to_polyline(tiny.expert.pose_E3[:, :2], tiny.route_P2)
    assert np.abs(d).max() < 0.05
    assert s[-1] == pytest.approx(48.0, abs=0.1)
    np.testing.assert_allclose(tiny.route_P2[-1], (48 + 5, 0), atol=1e-6)


def test_a_standing_ego_still_has_a_route(tmp_path):
    content = scenario()
    content["tracks"]["ego"]["state"] = state(straight(0, 0, 0.0), 1.2, (1.73, 4.08, 1.56))
    scene = dress_log(write_pickle(tmp_path / "s.pkl", content))
    np.testing.assert_allclose(scene.route_P2[-1], 30 * np.array([np.cos(1.2), np.sin(1.2)]), atol=1e-6)


@pytest.mark.parametrize(("side", "turn"), [(1, Direction.TURN_LEFT), (-1, Direction.TURN_RIGHT)])
def test_turns_are_annotated_and_announced(side, turn):
    """4 s straight, then a quarter turn in 2 s, then straight: the command comes before the manoeuvre."""
    t = 0.1 * np.arange(101)
    yaw = side * np.clip((t - 4) / 2, 0, 1) * np.pi / 2
    step = 0.5 * np.stack([np.cos(yaw), np.sin(yaw)], 1)
    log = RecordedLog("t", "t", 0.1, VehicleShape(), np.column_stack([np.cumsum(step, 0), yaw]), ())
    expert = dress(log).expert
    at = {s: (Direction(expert.direction_E[10 * s]), Direction(expert.navigation_E[10 * s])) for s in (1, 3, 5, 8)}
    assert at[1] == (Direction.STRAIGHT, turn)
    assert at[3] == (turn, turn)
    assert at[5] == (turn, turn)
    assert at[8] == (Direction.STRAIGHT, Direction.STRAIGHT)
    assert not {int(turn)} ^ set(expert.direction_E.tolist()) - {int(Direction.STRAIGHT)}


@pytest.mark.parametrize(("side", "change"), [(1, Direction.CHANGE_LEFT), (-1, Direction.CHANGE_RIGHT)])
def test_lane_changes_are_annotated_where_neighbours_are_known(side, change):
    x = np.linspace(-10, 120, 66)

    def lane(name, y, **rest):
        ring = np.array([(-10, y - 1.75), (120, y - 1.75), (120, y + 1.75), (-10, y + 1.75)])
        return LoggedLane(name, np.stack([x, np.full_like(x, y)], 1), ring, **rest)

    mine, other = {"left": "b"} if side > 0 else {"right": "b"}, {"right": "a"} if side > 0 else {"left": "a"}
    lanes = (lane("a", 0.0, **mine), lane("b", 3.5 * side, **other))
    t = 0.1 * np.arange(101)
    y = side * 3.5 * np.clip((t - 4) / 3, 0, 1)
    pose = np.stack([10 * t, y, np.arctan2(np.gradient(y, t), 10)], 1)
    log = RecordedLog("t", "t", 0.1, VehicleShape(), pose, (), lanes)
    found = lane_changes(log, 30)
    assert found[10] == Direction.STRAIGHT
    assert (found[30:54] == change).all()
    assert (found[60:] == Direction.STRAIGHT).all()
    bikes = (lanes[0], dataclasses.replace(lanes[1], kind="cycle"))
    assert (lane_changes(dataclasses.replace(log, lanes=bikes), 30) == Direction.STRAIGHT).all()
    bare = tuple(dataclasses.replace(lane, left=None, right=None) for lane in lanes)
    assert (lane_changes(dataclasses.replace(log, lanes=bare), 30) == Direction.STRAIGHT).all()


def test_a_bike_lane_is_kept_as_such_and_nobody_s_neighbour(tmp_path):
    folder = write_argoverse2(tmp_path / "log")
    file = next((folder / "map").glob("*.json"))
    content = json.loads(file.read_text())
    mine = content["lane_segments"]["1"]
    content["lane_segments"]["9"] = {**mine, "id": 9, "lane_type": "BIKE", "successors": [], "left_neighbor_id": 1}
    mine["right_neighbor_id"] = 9
    file.write_text(json.dumps(content))
    log = read_log(folder)
    assert [lane.right for lane in log.lanes if lane.id == "1"] == ["9"]  # as it is written there
    lanes = {lane.id: lane for lane in build_map(log, log.ego_pose_F3[:, :2]).lanes}
    assert {name: lane.kind for name, lane in lanes.items()} == {"1": "car", "2": "car", "3": "car", "9": "cycle"}
    assert (lanes["1"].right, lanes["9"].left) == (None, None)


def test_a_declared_area_gives_kerbs_and_judgement(tiny_av2):
    scene = tiny_av2
    assert scene.map.drivable_known
    assert scene.map.lanes_complete
    assert len(scene.map.kerbs) == 2  # the two sides; the cuts across the road are where the map ends
    for d in (8.0, -8.0):
        side = min(scene.map.kerbs, key=lambda k: shapely.LineString(k).distance(shapely.Point(along(30, d))))
        assert shapely.LineString(side).distance(shapely.Point(along(30, d))) < 0.2
    for end in (-40.0, 130.0):
        assert min(shapely.LineString(k).distance(shapely.Point(along(end, 0.0))) for k in scene.map.kerbs) > 5.0
    raised = np.abs(scene.background.means_N3[:, 2] - 0.15) < 0.02
    assert raised.sum() > 50


def test_an_area_that_does_not_hold_the_ego_is_not_believed(tmp_path):
    scene = dress_log(write_argoverse2(tmp_path / "log", area_half=0.7))
    assert not scene.map.drivable_known
    assert scene.map.kerbs == ()
    rollout = drive(Expert(), scene, policy_name="expert")
    assert rollout.off_road_F is None


def test_av2_objects_and_expert(tiny_av2):
    ids = [t.id for t in tiny_av2.tracks]
    assert {i.split("#")[0] for i in ids} == {"car", "parked", "bus", "bike_rack", "bike", "ped", "cone"}
    assert {"parked#1", "parked#2", "car#1", "car#2"} <= set(ids)
    rollout = drive(Expert(), tiny_av2, policy_name="expert")
    assert rollout.contacts == ()
    assert not rollout.off_road_F.any()


def test_nobody_is_drawn_on_a_bicycle_that_stands_all_the_time(tiny, tiny_av2):
    ridden, parked = (by_id(tiny_av2, name).asset for name in ("bike#1", "bike_rack#1"))
    assert parked.startswith("bicycle-")
    assert len(tiny_av2.assets[parked]) < len(tiny_av2.assets[ridden])
    assert by_id(tiny, "rider").asset.startswith("cyclist-")


def test_parked_cars_off_the_road_share_one_lot(tmp_path):
    """Two rows 8 m apart beyond the pavement: the ground between them is a lot, not grass."""
    content = scenario()
    for i, y in enumerate((-20.0, -28.0)):
        standing = state(straight(30, y, 0.0), 0.0, (4.5, 1.8, 1.5))
        content["tracks"][f"row{i}"] = track("VEHICLE", "vehicle.car", standing)
    ground = dress_log(write_pickle(tmp_path / "s.pkl", content)).background
    flat = np.abs(ground.means_N3[:, 2]) < 0.01
    between = flat & (np.hypot(*(ground.means_N3[:, :2] - (30, -24)).T) < 1.5)
    beyond = flat & (np.hypot(*(ground.means_N3[:, :2] - (30, -40)).T) < 3.0)
    grey = np.ptp(ground.sh_NK3[:, 0], axis=1)  # asphalt has no colour, soil is green
    assert between.any()
    assert beyond.any()
    assert grey[between].mean() < 0.5 * grey[beyond].mean()


def test_scenery_keeps_off_the_road_and_away_from_tracks(tiny_av2):
    tall = tiny_av2.background.means_N3[tiny_av2.background.means_N3[:, 2] > 0.25]
    low = tall[tall[:, 2] < 2.0, :2]  # walls, trunks and posts at the height of cars
    assert len(low) > 100
    for polygon in tiny_av2.map.drivable:
        assert not shapely.contains_xy(shapely.Polygon(polygon), low[:, 0], low[:, 1]).any()
    for t in tiny_av2.tracks:
        nearest = np.hypot(*(low[:, None] - t.pose_T3[None, :, :2]).transpose(2, 0, 1)).min()
        assert nearest > max(t.length, t.width) / 2


def test_unknown_kinds_of_logs(tmp_path):
    (tmp_path / "log.bag").write_text("x")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "log.bag", tmp_path / "folder", tmp_path / "absent.pkl"):
        with pytest.raises(InputError, match=r"Argoverse 2"):
            read_log(path)


# ---------------------------------------------------------------- the real recordings


@pytest.mark.parametrize("name", NUSCENES)
def test_every_object_of_a_real_scenario_is_in_the_clip(name):
    """Counted from the raw pickle, past the reader."""
    raw = load_restricted(real_log(name))
    scene = real_scene(name)
    wanted = {kind: {k for k, t in raw["tracks"].items() if t["type"] == kind and k != "ego"} for kind in
              ("VEHICLE", "CYCLIST", "PEDESTRIAN", "TRAFFIC_CONE", "TRAFFIC_BARRIER")}  # fmt: skip
    classes = {
        "VEHICLE": VEHICLES,
        "CYCLIST": (AgentClass.CYCLIST, AgentClass.MOTORCYCLE),
        "PEDESTRIAN": (AgentClass.PEDESTRIAN,),
    }
    for kind, ids in wanted.items():
        found = {t.id.split("#")[0] for t in scene.tracks if t.agent_class in classes.get(kind, (AgentClass.STATIC,))}
        assert ids <= found
    assert len({t.id.split("#")[0] for t in scene.tracks}) == sum(map(len, wanted.values()))
    seen = sum(int((t["state"]["valid"] > 0.5).sum()) for k, t in raw["tracks"].items() if k != "ego")
    assert sum(len(t.t_T) for t in scene.tracks) == seen  # not one frame of one object is missing


def test_every_object_of_the_real_av2_log_is_in_the_clip():
    import pyarrow.feather as feather

    boxes = feather.read_table(real_log("av2") / "annotations.feather")
    scene = real_scene("av2")
    assert {t.id.split("#")[0] for t in scene.tracks} == set(boxes["track_uuid"].to_pylist())
    assert sum(len(t.t_T) for t in scene.tracks) == boxes.num_rows
    people = {
        u
        for u, c in zip(boxes["track_uuid"].to_pylist(), boxes["category"].to_pylist(), strict=True)
        if c == "PEDESTRIAN"
    }
    assert {t.id.split("#")[0] for t in scene.tracks if t.agent_class == AgentClass.PEDESTRIAN} == people


def test_the_swapped_size_taken_literally_collides():
    """The trap: 1.73 m long and 4.08 m wide, the recorded ego of scene 0061 hits something."""
    scene = real_scene("0061")
    literal = dataclasses.replace(scene.meta.ego_shape, length=1.73, width=4.08, rear_overhang=0.3)
    rollout = drive(
        Expert(), dataclasses.replace(scene, meta=dataclasses.replace(scene.meta, ego_shape=literal)), policy_name="e"
    )
    assert len(rollout.contacts) > 0


@pytest.mark.parametrize("name", [*NUSCENES, "av2"])
def test_clouds_stay_within_the_budget(name):
    scene = real_scene(name)
    assert 30_000 < len(scene.background) < 120_000


def test_the_real_av2_turn_is_told():
    scene = real_scene("av2")
    assert Direction.TURN_LEFT in scene.expert.direction_E
    assert Direction.TURN_RIGHT not in scene.expert.direction_E
    assert scene.map.lanes_complete
