"""The clip folder: exact round trip, and one clear line for whatever is wrong with it."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from senna2.types import InputError
from senna2.world.clip import clip_info, find_clips, load_clip, read_rig, save_clip
from senna2.world.gaussians import GaussianCloud
from senna2.world.scene import Light, Scene, Signal, Trigger
from senna2.world.town.families import make_scene


@pytest.fixture(scope="module")
def town() -> Scene:
    return make_scene("cut_in", 3, "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_clip(Scene.fake(), tmp_path / "clip")
    return tmp_path / "clip"


def assert_equal(a: Scene, b: Scene) -> None:
    assert asdict(a.meta) == asdict(b.meta)
    for name in ("t_E", "pose_E3", "v_E", "direction_E", "navigation_E"):
        np.testing.assert_array_equal(getattr(a.expert, name), getattr(b.expert, name))
    np.testing.assert_array_equal(a.route_P2, b.route_P2)
    np.testing.assert_array_equal(a.speed_limit_P, b.speed_limit_P)
    assert len(a.tracks) == len(b.tracks)
    for s, t in zip(a.tracks, b.tracks, strict=True):
        for name in ("id", "agent_class", "asset", "length", "width", "height", "controller", "trigger"):
            assert getattr(s, name) == getattr(t, name)
        for name in ("t_T", "pose_T3", "v_T", "lights_T"):
            np.testing.assert_array_equal(getattr(s, name), getattr(t, name))
    for s, t in zip(a.map.lanes, b.map.lanes, strict=True):
        for name in ("id", "successors", "left", "right", "in_junction", "kind"):
            assert getattr(s, name) == getattr(t, name)
        np.testing.assert_equal(s.speed_limit, t.speed_limit)
        np.testing.assert_array_equal(s.centre_P2, t.centre_P2)
        np.testing.assert_array_equal(s.polygon_Q2, t.polygon_Q2)
    for name in ("dividers", "centre_lines", "kerbs", "drivable", "crossings", "stop_lines"):
        for s, t in zip(getattr(a.map, name), getattr(b.map, name), strict=True):
            np.testing.assert_array_equal(s, t)
    assert (a.map.drivable_known, a.map.lanes_complete) == (b.map.drivable_known, b.map.lanes_complete)
    for s, t in zip(a.signals, b.signals, strict=True):
        assert (s.id, s.asset, s.lanes) == (t.id, t.asset, t.lanes)
        for name in ("pose_3", "stop_line_22", "t_T", "state_T"):
            np.testing.assert_array_equal(getattr(s, name), getattr(t, name))
    for c, d in zip(a.rig.cameras, b.rig.cameras, strict=True):
        np.testing.assert_array_equal(c.cam_to_ego_44, d.cam_to_ego_44)
        assert (c.name, c.width, c.height, c.fx, c.fy, c.cx, c.cy, c.near, c.history_s) == (
            d.name, d.width, d.height, d.fx, d.fy, d.cx, d.cy, d.near, d.history_s,
        )  # fmt: skip
    assert a.assets.keys() == b.assets.keys()
    clouds = [(a.background, b.background), *((a.assets[k], b.assets[k]) for k in a.assets)]
    for s, t in clouds:
        np.testing.assert_array_equal(s.means_N3, t.means_N3)
        np.testing.assert_array_equal(s.sh_NK3, t.sh_NK3)
        np.testing.assert_allclose(s.scales_N3, t.scales_N3, rtol=1e-5)  # stored as logarithms
        np.testing.assert_allclose(s.opacities_N, t.opacities_N, rtol=1e-5)  # stored as logits
        np.testing.assert_allclose(s.quats_N4, t.quats_N4, atol=1e-6)


def test_round_trip_of_a_generated_clip(town: Scene, tmp_path: Path) -> None:
    save_clip(town, tmp_path / "a")
    once = load_clip(tmp_path / "a")
    assert_equal(town, once)
    save_clip(once, tmp_path / "b")
    assert_equal(once, load_clip(tmp_path / "b"))


def test_round_trip_keeps_what_is_unknown(tmp_path: Path) -> None:
    scene = Scene.fake()
    lanes = tuple(replace(lane, speed_limit=float("nan")) for lane in scene.map.lanes)
    unknown = replace(scene.map, lanes=lanes, drivable=(), drivable_known=False, lanes_complete=False)
    bare = replace(scene, map=unknown, tracks=(), speed_limit_P=np.full(len(scene.route_P2), np.nan))
    save_clip(bare, tmp_path / "clip")
    assert clip_info(tmp_path / "clip")["drivable"] == "unknown"
    assert_equal(bare, load_clip(tmp_path / "clip"))


def junction() -> Scene:
    """Two lights, a cycle lane, a triggered and a plain agent, rain; numbers that no decimal writes exactly."""
    scene, third = Scene.fake(), 1 / 3
    n = len(scene.expert.t_E)
    lights = tuple(
        Signal(name, "signal", np.array([third + i, -2.0, np.pi / 7]), np.array([(third, i), (2.0, -third)]),
               ("right", "left")[:lanes], third * np.arange(len(states)), np.array(states, np.int8))
        for i, (name, lanes, states) in enumerate(
            [("s0", 2, (Light.RED, Light.GREEN, Light.AMBER, Light.RED)), ("s1", 0, (Light.GREEN,))]
        )
    )  # fmt: skip
    first = scene.tracks[0]
    walker = replace(first, id="walker", trigger=Trigger(third, -1e-17, 2 * third), t_T=first.t_T + third)
    lanes = (*scene.map.lanes[:1], replace(scene.map.lanes[1], kind="cycle"))
    assets = {**scene.assets, **{f"signal{e}": GaussianCloud.fake(4) for e in ("", ".red", ".amber", ".green")}}
    assert n > 10
    return replace(scene, assets=assets, tracks=(first, walker), signals=lights, map=replace(scene.map, lanes=lanes),
                   meta=replace(scene.meta, weather="rain"))  # fmt: skip


def test_round_trip_of_lights_triggers_and_cycle_lanes(tmp_path: Path) -> None:
    save_clip(junction(), tmp_path / "clip")
    back = load_clip(tmp_path / "clip")
    assert_equal(junction(), back)
    assert back.signals[0].at(0.4) == Light.GREEN
    columns = pq.read_table(tmp_path / "clip" / "tracks.parquet")
    n = len(junction().tracks[0].t_T)
    assert columns["trigger_x"].null_count == n  # of the plain agent: null, not NaN
    assert np.isfinite(columns["trigger_x"].to_numpy()[n:]).all()


def test_older_folders_still_load(folder: Path) -> None:
    """Before lights, triggers and cycle lanes were written."""
    tracks, data = pq.read_table(folder / "tracks.parquet"), json.loads((folder / "map.json").read_text())
    pq.write_table(tracks.drop_columns(["trigger_x", "trigger_y", "trigger_s"]), folder / "tracks.parquet")
    del data["signals"]
    for lane in data["lanes"]:
        del lane["kind"]
    (folder / "map.json").write_text(json.dumps(data))
    assert_equal(Scene.fake(), load_clip(folder))


def _set(path: Path, column: str, values: list[object]) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(column), column, [values]), path)


@pytest.mark.parametrize(("name", "column", "change", "message"), [
    ("tracks.parquet", "trigger_x", lambda v: [None] * len(v), r"track 'walker': columns trigger_x.*together"),
    ("tracks.parquet", "trigger_s", lambda v: [np.inf] * len(v), r"tracks.parquet: column 'trigger_s' holds infinity"),
    ("tracks.parquet", "trigger_y", lambda v: ["x"] * len(v), r"tracks.parquet: column 'trigger_y' must hold numbers"),
    ("signals.parquet", "t", lambda v: [np.nan] * len(v), r"signals.parquet: column 't' holds NaN"),
    ("signals.parquet", "t", lambda v: [0.0] * len(v), r"signals.parquet: signal 's0': column 't' must increase"),
    ("signals.parquet", "state", lambda v: ["BLUE"] * len(v), r"signals.parquet: column 'state' holds 'BLUE'"),
    ("signals.parquet", "id", lambda v: ["s1"] * len(v), r"signals.parquet: has no row of signal 's0'"),
    ("signals.parquet", "id", lambda v: [*v[:3], "s9", v[-1]], r"column 'id' holds \['s9'\], which map.json"),
])  # fmt: skip
def test_bad_lights_and_triggers_are_named(
    tmp_path: Path, name: str, column: str, change: Callable[[list[object]], list[object]], message: str
) -> None:
    save_clip(junction(), tmp_path / "clip")
    path = tmp_path / "clip" / name
    _set(path, column, change(pq.read_table(path)[column].to_pylist()))
    with pytest.raises(InputError, match=message):
        load_clip(tmp_path / "clip")


@pytest.mark.parametrize(("keys", "value", "message"), [
    (("signals",), {"s0": 1}, r"map.json: signals: must be a list"),
    (("signals", 0), "s0", r"map.json: signals\[0\]: must be an object"),
    (("signals", 0, "pose"), [1, 2], r"map.json: signals\[0\]: field 'pose' has shape \(2,\)"),
    (("signals", 1, "stop_line"), [[1, 2], [3]], r"map.json: signals\[1\]: field 'stop_line' must hold numbers"),
    (("signals", 1, "stop_line"), [[1, 2], [3, None]], r"map.json: signals\[1\]: field 'stop_line'"),
    (("signals", 0, "asset"), "lamp", r"signal s0: asset 'lamp' is not in the clip"),
    (("lanes", 0, "kind"), "tram", r"map.json: lanes\[0\]: field 'kind' is 'tram', expected one of car, cycle"),
])  # fmt: skip
def test_bad_lights_in_the_map_are_named(tmp_path: Path, keys: tuple, value: object, message: str) -> None:
    save_clip(junction(), tmp_path / "clip")
    path = tmp_path / "clip" / "map.json"
    data = json.loads(path.read_text())
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        load_clip(tmp_path / "clip")


def test_unknown_weather_is_named(folder: Path) -> None:
    info = json.loads((folder / "clip.json").read_text())
    (folder / "clip.json").write_text(json.dumps({**info, "weather": "hail"}))
    with pytest.raises(InputError, match="weather: 'hail' is unknown; there are"):
        load_clip(folder)


def test_the_cameras_alone_can_be_read(folder: Path) -> None:
    assert read_rig(folder).names == Scene.fake().rig.names
    (folder / "rig.json").unlink()
    with pytest.raises(InputError, match=r"rig.json: is missing"):
        read_rig(folder)


def test_the_folder_holds_what_the_contract_says(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["clip.json", "background.ply", "assets", "tracks.parquet", "signals.parquet", "map.json", "rig.json",
         "expert.parquet", "route.json"]
    )  # fmt: skip
    columns = set(pq.read_table(folder / "tracks.parquet").column_names)
    assert {
        "t",
        "id",
        "class",
        "x",
        "y",
        "z",
        "yaw",
        "length",
        "width",
        "height",
        "v",
        "lights",
        "controller",
    } <= columns
    assert {"schema", "split", "family", "seed", "units", "dt", "weather", "drivable"} <= clip_info(folder).keys()


def test_saving_replaces_a_clip_but_nothing_else(folder: Path, tmp_path: Path) -> None:
    other = replace(Scene.fake(), meta=replace(Scene.fake().meta, seed=7))
    save_clip(other, folder)
    assert load_clip(folder).meta.seed == 7
    assert [p.name for p in tmp_path.iterdir()] == ["clip"]  # no temporary sibling stays
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"holiday: exists and is not a clip folder"):
        save_clip(other, tmp_path / "holiday")


def test_a_failing_save_leaves_the_old_clip(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("senna2.world.clip.save_ply", full)
    with pytest.raises(InputError, match="No space"):
        save_clip(replace(Scene.fake(), meta=replace(Scene.fake().meta, seed=9)), folder)
    assert load_clip(folder).meta.seed == 0
    assert [p.name for p in tmp_path.iterdir()] == ["clip"]


def test_an_invalid_scene_is_not_written(tmp_path: Path) -> None:
    scene = Scene.fake()
    pose = scene.tracks[0].pose_T3.copy()
    pose[3, 1] = np.nan
    with pytest.raises(InputError, match=r"track leader: holds NaN poses"):
        save_clip(replace(scene, tracks=(replace(scene.tracks[0], pose_T3=pose),)), tmp_path / "clip")
    assert not (tmp_path / "clip").exists()


FILES = ("clip.json", "background.ply", "assets/car.ply", "tracks.parquet", "signals.parquet", "map.json", "rig.json",
         "expert.parquet", "route.json")  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "garbage"])
def test_damage_is_named(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    if damage == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(
            {"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"\x00\xffnonsense"}[damage]
        )
    with pytest.raises(InputError) as error:
        load_clip(folder)
    named = "track leader: asset 'car'" if (name, damage) == ("assets/car.ply", "missing") else Path(name).name
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "column"),
    [("tracks.parquet", "yaw"), ("tracks.parquet", "t"), ("expert.parquet", "x"), ("expert.parquet", "v")],
)
def test_nan_in_a_table_is_named(folder: Path, name: str, column: str) -> None:
    table = pq.read_table(folder / name)
    values = table[column].to_numpy().copy()
    values[2] = np.nan
    pq.write_table(table.set_column(table.column_names.index(column), column, [values]), folder / name)
    with pytest.raises(InputError, match=rf"{name}: column '{column}' holds NaN.*row 2"):
        load_clip(folder)


def test_a_missing_or_wrong_column_is_named(folder: Path) -> None:
    table = pq.read_table(folder / "tracks.parquet")
    pq.write_table(table.drop_columns(["width"]), folder / "tracks.parquet")
    with pytest.raises(InputError, match=r"tracks.parquet: column 'width' is missing"):
        load_clip(folder)
    wrong = table.set_column(table.column_names.index("class"), "class", [["TANK"] * len(table)])
    pq.write_table(wrong, folder / "tracks.parquet")
    with pytest.raises(InputError, match=r"tracks.parquet: column 'class' holds 'TANK', expected one of CAR"):
        load_clip(folder)


@pytest.mark.parametrize(
    ("name", "keys", "value", "message"),
    [
        ("clip.json", ("schema",), "senna2.clip/9", r"field 'schema' is 'senna2.clip/9'"),
        ("clip.json", ("dt",), "fast", r"clip.json: field 'dt' is 'fast', expected float"),
        ("clip.json", ("dt",), -0.1, r"clip.json: field 'dt' must be positive"),
        ("clip.json", ("ego_shape", "length"), None, r"clip.json: ego_shape: field 'length'"),
        ("map.json", ("lanes", 0, "centre"), [[1, 2]], r"map.json: lanes\[0\].centre: shape"),
        ("map.json", ("lanes", 0, "left"), 4, r"map.json: lanes\[0\]: field 'left' must be a lane id"),
        ("map.json", ("kerbs", 1), "x", r"map.json: kerbs\[1\]"),
        ("rig.json", ("cameras", 0, "name"), "nose", r"rig.json: rig: has no camera 'front'"),
        ("rig.json", ("cameras", 0, "fx"), None, r"rig.json: cameras\[0\]: field 'fx'"),
        ("route.json", ("speed_limit",), [1.0], r"route.json: speed_limit: has 1 values"),
        ("route.json", ("points",), [[0, 0], [float("nan"), 1]], r"route.json: points: holds NaN"),
    ],
)
def test_a_bad_field_is_named(folder: Path, name: str, keys: tuple, value: object, message: str) -> None:
    data = json.loads((folder / name).read_text())
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (folder / name).write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        load_clip(folder)


def test_find_clips(folder: Path, tmp_path: Path) -> None:
    assert find_clips(folder) == [folder]
    assert find_clips(tmp_path) == [folder]
    with pytest.raises(InputError, match="no such folder"):
        find_clips(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no clip folder"):
        find_clips(tmp_path / "empty")
