"""Readers of recordings: the vendors' layouts rebuilt in small, the traps of the real files, and hostile input."""

import json
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pytest
from recorded_fixtures import (
    CORNER,
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

from senna2.types import AgentClass, InputError
from senna2.world.importers.argoverse2 import read_argoverse2
from senna2.world.importers.metadrive import read_metadrive
from senna2.world.importers.restricted_pickle import load_restricted

# ---------------------------------------------------------------- restricted pickle


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_containers_and_arrays_are_read(tmp_path, protocol):
    content = {
        "array": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "scalar": np.float32(1.5),
        "bool": np.array([True, False]),
        "nested": [(1, 2.5, None, "a"), {"x", "y"}, b"bytes", True],
    }
    back = load_restricted(write_pickle(tmp_path / "a.pkl", content, protocol))
    np.testing.assert_array_equal(back["array"], content["array"])
    np.testing.assert_array_equal(back["columns"], content["columns"])
    assert back["scalar"] == 1.5
    assert back["nested"] == content["nested"]


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_module_paths_of_numpy_1_and_2(tmp_path, core):
    data = pickle.dumps([np.arange(3), np.float64(2.0)], protocol=2).replace(b"cnumpy._core.", b"c" + core + b".")
    assert b"c" + core + b".multiarray" in data
    (tmp_path / "a.pkl").write_bytes(data)
    array, scalar = load_restricted(tmp_path / "a.pkl")
    np.testing.assert_array_equal(array, np.arange(3))
    assert scalar == 2.0


class _Attack:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("touch {marker}",), "system"),
        (eval, ("open('{marker}', 'w')",), "builtins.eval"),
        (exec, ("open('{marker}', 'w')",), "builtins.exec"),
        (getattr, ("", "upper"), "builtins.getattr"),
        (np.load, ("{marker}",), "numpy.load"),
        (print, ("x",), "builtins.print"),
    ],
)
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path, function, arguments, named):
    marker = tmp_path / "marker"
    attack = _Attack(function, *(a.format(marker=marker) for a in arguments))
    path = write_pickle(tmp_path / "evil.pkl", {"id": "x", "tracks": attack})
    with pytest.raises(InputError, match=rf"evil\.pkl.*{named}.*refused"):
        read_metadrive(path)
    assert not marker.exists()


def test_attribute_walks_and_other_codecs_are_refused(tmp_path):
    walk = tmp_path / "walk.pkl"
    walk.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")
    with pytest.raises(InputError, match=r"ndarray\.tofile"):
        load_restricted(walk)
    codec = tmp_path / "codec.pkl"
    codec.write_bytes(b"c_codecs\nencode\n(Vabc\nVzip\ntR.")
    with pytest.raises(InputError, match="corrupt"):
        load_restricted(codec)


def test_truncated_corrupt_missing_and_foreign_pickles(tmp_path):
    data = pickle.dumps(scenario())
    for name, content in {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "noise": b"\x80\x04\xff\x00garbage",
        "text": b"hello",
    }.items():
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}\.pkl.*corrupt"):
            read_metadrive(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_metadrive(tmp_path / "absent.pkl")
    for foreign in ([1, 2], {"id": 1}, None):
        with pytest.raises(InputError, match="not a MetaDrive scenario"):
            read_metadrive(write_pickle(tmp_path / "foreign.pkl", foreign))


def test_an_array_too_large_for_memory_is_an_input_error(tmp_path):
    path = write_pickle(tmp_path / "bomb.pkl", _Attack(np.ndarray, (1 << 60,)))
    with pytest.raises(InputError, match="corrupt"):
        load_restricted(path)


# ---------------------------------------------------------------- MetaDrive


def test_nuscenes_position_is_the_rear_axle_and_the_swapped_size_is_put_right(tmp_path):
    log = read_metadrive(write_pickle(tmp_path / "s.pkl", scenario()))
    np.testing.assert_allclose(log.ego_pose_F3[:, :2], straight(0, 0, 8.0), atol=1e-9)  # local and not rounded
    assert (log.ego_shape.length, log.ego_shape.width) == (4.08, 1.73)
    assert log.ego_shape.rear_overhang == pytest.approx(0.657, abs=0.01)
    assert log.ego_shape.front == pytest.approx(3.42, abs=0.02)
    assert log.dt == 0.1


def test_other_data_sets_give_the_box_centre(tmp_path):
    log = read_metadrive(write_pickle(tmp_path / "s.pkl", scenario("waymo")))
    back = -log.ego_shape.centre_offset
    assert back < -1.0
    np.testing.assert_allclose(log.ego_pose_F3[:, :2], straight(back, 0, 8.0), atol=1e-9)


def test_classes_and_what_was_left_out(tmp_path):
    log = read_metadrive(write_pickle(tmp_path / "s.pkl", scenario()))
    classes = {t.id: t.agent_class for t in log.tracks}
    assert classes == {
        "leader": AgentClass.CAR, "parked": AgentClass.TRUCK, "walker": AgentClass.PEDESTRIAN,
        "rider": AgentClass.CYCLIST, "moped": AgentClass.MOTORCYCLE, "cone": AgentClass.STATIC,
    }  # fmt: skip
    assert {name for name, _ in log.dropped} == {"shadow", "never"}
    assert any("inside the ego's box in 61 of 61 frames" in why for _, why in log.dropped)


def test_an_object_that_only_touches_the_ego_stays(tmp_path):
    content = scenario()
    content["tracks"]["crash"] = track("VEHICLE", "vehicle.car", state(straight(30, 0, 0.0), 0.0, (4.5, 1.8, 1.5)))
    log = read_metadrive(write_pickle(tmp_path / "s.pkl", content))
    assert "crash" in {t.id for t in log.tracks}


def test_lanes_lines_and_placeholder_limits(tmp_path):
    log = read_metadrive(write_pickle(tmp_path / "s.pkl", scenario()))
    a, b = log.lanes
    assert a.successors == ("lane_b",)
    assert a.polygon_Q2.shape == (4, 2)
    assert b.polygon_Q2 is None
    assert np.isnan(b.speed_limit)  # the converter's constant 100 km/h is not a limit
    assert (len(log.dividers), len(log.centre_lines), len(log.edges)) == (1, 1, 1)
    assert log.drivable is None
    content = scenario()
    content["map_features"]["lane_b"]["speed_limit_kmh"] = 36.0
    assert read_metadrive(write_pickle(tmp_path / "s.pkl", content)).lanes[1].speed_limit == pytest.approx(10.0)


def test_a_bike_lane_is_no_car_lane(tmp_path):
    content = scenario()
    content["map_features"]["bikes"] = {**content["map_features"]["lane_a"], "type": "LANE_BIKE_LANE"}
    log = read_metadrive(write_pickle(tmp_path / "s.pkl", content))
    assert {lane.id: lane.kind for lane in log.lanes} == {"lane_a": "car", "lane_b": "car", "bikes": "cycle"}


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda s: s["tracks"]["ego"]["state"]["position"].__setitem__((3, 0), np.nan), "ego"),
        (lambda s: s["tracks"]["leader"]["state"]["heading"].__setitem__(3, np.nan), "track leader"),
        (lambda s: s["tracks"]["ego"]["state"]["valid"].__setitem__(9, 0), "track ego"),
        (lambda s: s["tracks"]["rider"]["state"].pop("width"), "track rider"),
        (lambda s: s["tracks"]["rider"]["state"].update(heading=np.zeros(3)), "track rider.heading"),
        (lambda s: s["tracks"].pop("ego"), "sdc_id"),
        (lambda s: s["metadata"].update(ts=np.zeros(FRAMES)), "metadata.ts"),
        (lambda s: s["metadata"].pop("ts"), "metadata.ts"),
        (lambda s: s["map_features"]["white"].update(polyline="nonsense"), "map feature white"),
        (lambda s: s["map_features"]["white"].update(polyline=[(0, np.nan), (1, 1)]), "map feature white"),
        (lambda s: s["map_features"].update(bad=3), "map feature bad"),
        (lambda s: s.update(tracks=[1]), "tracks"),
    ],
)
def test_bad_fields_are_named(tmp_path, spoil, named):
    content = scenario()
    spoil(content)
    with pytest.raises(InputError, match=named) as error:
        read_metadrive(write_pickle(tmp_path / "s.pkl", content))
    assert "s.pkl" in str(error.value)


# ---------------------------------------------------------------- Argoverse 2


@pytest.fixture(scope="module")
def av2(tmp_path_factory):
    return read_argoverse2(write_argoverse2(tmp_path_factory.mktemp("av2") / "log"))


def _at(log, uuid):
    return next(t for t in log.tracks if t.id == uuid)


def test_boxes_of_a_tilted_ego_land_where_they_stand(av2):
    """The annotations were written from known city poses through a tilted, turning ego frame: they must come back."""
    parked, car = _at(av2, "parked"), _at(av2, "car")
    np.testing.assert_allclose(
        parked.pose_F3[parked.valid_F, :2], np.tile(along(40, -5.5), (parked.valid_F.sum(), 1)), atol=5e-3
    )
    np.testing.assert_allclose(parked.pose_F3[parked.valid_F, 2], 0.4, atol=2e-3)
    for k in (0, 10, 60):
        np.testing.assert_allclose(car.pose_F3[k, :2], along(30 + 0.8 * k), atol=5e-3)
        np.testing.assert_allclose(av2.ego_pose_F3[k, :2], along(0.8 * k), atol=5e-3)
        assert av2.ego_pose_F3[k, 2] == pytest.approx(0.3 + 0.002 * k, abs=1e-3)


def test_clock_gaps_and_classes(av2):
    assert (av2.dt, av2.frames) == (0.1, FRAMES)
    assert not _at(av2, "car").valid_F[40]  # the sweep that is missing
    assert _at(av2, "car").valid_F.sum() == FRAMES - 1
    assert _at(av2, "cone").valid_F.nonzero()[0].tolist() == [7]
    classes = {t.id: t.agent_class for t in av2.tracks}
    assert classes["bike_rack"] == AgentClass.STATIC  # nobody on it
    assert classes["bike"] == AgentClass.CYCLIST
    assert classes["bus"] == AgentClass.BUS


def test_map_of_argoverse2(av2):
    lanes = {lane.id: lane for lane in av2.lanes}
    assert lanes["1"].successors == ("2",)
    assert lanes["2"].successors == ()  # 99 lies outside the log's map
    assert lanes["1"].left is None  # the neighbour on the left comes the other way
    np.testing.assert_allclose(lanes["1"].centre_P2[0], along(-40, -3.0), atol=1e-6)
    assert len(av2.centre_lines) == 3  # each painted once, though two lanes name it
    assert len(av2.drivable) == 1
    assert av2.crossings[0].shape == (4, 2)


def test_bad_argoverse2_files_are_named(tmp_path):
    log = write_argoverse2(tmp_path / "log")
    boxes, ego, maps = (
        log / "annotations.feather",
        log / "city_SE3_egovehicle.feather",
        next((log / "map").glob("log_map*")),
    )
    good = {p: p.read_bytes() for p in (boxes, ego, maps)}

    def fails(path, content, match):
        path.write_bytes(content)
        with pytest.raises(InputError, match=match):
            read_argoverse2(log)
        path.write_bytes(good[path])

    fails(boxes, good[boxes][:500], "annotations.feather.*truncated")
    fails(ego, b"", "city_SE3_egovehicle.feather")
    fails(maps, good[maps][:500], "log_map_archive.*truncated")
    fails(maps, b'{"lane_segments": {}}', "pedestrian_crossings")
    content = json.loads(good[maps])
    del content["lane_segments"]["1"]["left_lane_boundary"]
    fails(maps, json.dumps(content).encode(), "lane 1 lacks 'left_lane_boundary'")
    for kind, name, entry, field, value in (
        ("lane_segments", "1", "lane 1", "left_lane_boundary", []),
        ("lane_segments", "2", "lane 2", "right_lane_boundary", [{"x": "east", "y": 0.0}]),
        ("lane_segments", "2", "lane 2", "right_lane_boundary", 7),
        ("pedestrian_crossings", "8", "crossing 8", "edge1", []),
        ("drivable_areas", "7", "drivable area 7", "area_boundary", [{"x": 1.0, "y": {}}]),
    ):
        content = json.loads(good[maps])
        content[kind][name][field] = value
        fails(maps, json.dumps(content).encode(), f"log_map_archive.*{entry} is malformed")
    content = json.loads(good[maps])
    point = content["lane_segments"]["1"]["left_lane_boundary"][:1]
    content["lane_segments"]["1"] |= {"left_lane_boundary": 2 * point, "right_lane_boundary": 2 * point}
    fails(maps, json.dumps(content).encode(), "lane 1 .*no length")

    table = feather.read_table(boxes)
    feather.write_feather(table.drop_columns(["qw"]), boxes)
    fails(boxes, boxes.read_bytes(), "lacks the columns.*qw")
    holed = table["tx_m"].to_numpy().copy()
    holed[5] = np.nan
    feather.write_feather(table.set_column(table.column_names.index("tx_m"), "tx_m", pa.array(holed)), boxes)
    fails(boxes, boxes.read_bytes(), "annotations.feather: position.*NaN")
    for path in (boxes, ego):
        table = feather.read_table(path)
        for name in ("qw", "qx", "qy", "qz"):
            turned = table[name].to_numpy().copy()
            turned[5] = 0.0
            table = table.set_column(table.column_names.index(name), name, pa.array(turned))
        feather.write_feather(table, path)
        fails(path, path.read_bytes(), f"{path.name}: rotation: .*zero quaternion in row 5")
    feather.write_feather(feather.read_table(ego).slice(0, 100), ego)
    fails(ego, ego.read_bytes(), "do not cover")
    maps.unlink()
    with pytest.raises(InputError, match="log_map_archive"):
        read_argoverse2(log)


# ---------------------------------------------------------------- the real recordings


def test_the_real_ego_pose_is_the_rear_axle():
    """Side slip v_lat = offset · yaw rate: a box centre would show an offset of 1.4 m."""
    pose = read_metadrive(real_log("0061")).ego_pose_F3[::5]
    v = (pose[2:, :2] - pose[:-2, :2]) / 1.0
    yaw = np.unwrap(pose[:, 2])
    rate, mid = yaw[2:] - yaw[:-2], yaw[1:-1]
    lateral = -np.sin(mid) * v[:, 0] + np.cos(mid) * v[:, 1]
    turning = np.abs(rate) > 0.1
    offset = np.linalg.lstsq(rate[turning, None], lateral[turning], rcond=None)[0][0]
    assert turning.sum() > 10
    assert abs(offset) < 0.2


@pytest.mark.parametrize("name", [*NUSCENES, "av2"])
def test_real_logs_are_local_and_whole(name):
    path = real_log(name)
    log = read_argoverse2(path) if name == "av2" else read_metadrive(path)
    np.testing.assert_allclose(log.ego_pose_F3[0, :2], 0.0)
    assert log.ego_shape.length > 4.0 > 2.0 > log.ego_shape.width
    assert log.dropped == ()
    assert CORNER[0] > np.abs(log.ego_pose_F3).max()
    assert (log.drivable is None) == (name != "av2")
