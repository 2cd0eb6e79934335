"""Readers of recorded drives: every kind, every way a file is wrong, and the labels that come out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from senna2.data.label import format_counts, label_file
from senna2.data.recordings import course, enu_from_ecef, read_recording
from senna2.types import InputError

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
N = 60
T = 0.1 * np.arange(N)


def braking_to_the_left():
    """t, x, y, yaw: an arc of 40 m radius from 12 m/s, braking at 2 m/s² down to 0.2 m/s."""
    s = 12 * T - T**2
    return T, 40 * np.sin(s / 40), 40 * (1 - np.cos(s / 40)), s / 40


def write_csv(path, columns):
    header, rows = ",".join(columns), zip(*columns.values(), strict=True)
    path.write_text(header + "\n" + "\n".join(",".join(repr(float(v)) for v in row) for row in rows) + "\n")
    return path


def columns(*names):
    return dict(zip(names, braking_to_the_left(), strict=False))


# --- kinds ----------------------------------------------------------------------------------------------------


def test_csv_with_yaw_and_columns_in_any_order(tmp_path):
    t, x, y, yaw = braking_to_the_left()
    path = write_csv(tmp_path / "drive.csv", {"y": y, "extra": t, "yaw": yaw, "t": 1.6e9 + t, "x": x})
    recording = read_recording(path)
    assert recording.kind == "csv"
    assert np.array_equal(recording.poses_T3, np.column_stack([x, y, yaw]))
    assert recording.duration_s == pytest.approx(5.9)


def test_csv_of_a_spreadsheet(tmp_path):
    """Byte-order mark, spaces in the header, a column of words nobody asks for."""
    lines = "\ufefft, x ,y,weather\n" + "".join(f"{t:.1f},{8 * t},0,dry\n" for t in T)
    (tmp_path / "drive.csv").write_text(lines, encoding="utf-8")
    assert label_file(tmp_path / "drive.csv")["speed"]["KEEP SPEED"]["share"] == 1


def test_without_yaw_the_course_is_taken(tmp_path):
    t, x, y, yaw = braking_to_the_left()
    recording = read_recording(write_csv(tmp_path / "drive.csv", {"t": t, "x": x, "y": y}))
    assert np.allclose(recording.poses_T3[1:-1, 2], yaw[1:-1], atol=1e-3)
    counts = label_file(tmp_path / "drive.csv")
    assert counts["path"]["LEFT"]["count"] > 10
    assert counts["speed"]["DECELERATE"]["count"] == counts["frames"] == N - 14


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parquet(tmp_path, dtype):
    t, x, y, yaw = braking_to_the_left()
    table = pa.table({"id": ["a"] * N, "t": t, "x": x.astype(dtype), "y": y.astype(dtype), "yaw": yaw})
    pq.write_table(table, tmp_path / "drive.parquet")
    recording = read_recording(tmp_path / "drive.parquet")
    assert recording.kind == "parquet"
    assert recording.poses_T3.dtype == np.float64
    assert np.allclose(recording.poses_T3, np.column_stack([x, y, yaw]), atol=1e-5)


@pytest.mark.parametrize("names", ["xy", "xyw", "txy", "txyw"])
def test_npy_by_its_number_of_columns(tmp_path, names):
    t, x, y, yaw = braking_to_the_left()
    parts = {"t": 100 + t, "x": x, "y": y, "w": yaw}
    np.save(tmp_path / "drive.npy", np.column_stack([parts[n] for n in names]))
    recording = read_recording(tmp_path / "drive.npy")
    assert np.allclose(recording.poses_T3[:, :2], np.column_stack([x, y]))
    assert np.allclose(np.diff(recording.t_T), 0.1)
    assert np.allclose(recording.poses_T3[1:-1, 2], yaw[1:-1], atol=1e-3)


def test_npy_that_can_be_read_two_ways_is_refused(tmp_path):
    """(0.1, 0, 0) a row: parked for 6 s with time stamps, or driving east at 1 m/s."""
    np.save(tmp_path / "drive.npy", np.column_stack([T, 0 * T, 0 * T]))
    with pytest.raises(InputError, match=r"t, x, y as well as x, y, yaw"):
        read_recording(tmp_path / "drive.npy")


def comma_folder(folder, position, velocity, t=T):
    (folder / "global_pose").mkdir(parents=True)
    for name, value in (("frame_times", t), ("frame_positions", position), ("frame_velocities", velocity)):
        with (folder / "global_pose" / name).open("wb") as file:
            np.save(file, value)
    return folder


def test_comma2k19_layout(tmp_path):
    """A drive on the local plane at 45° N, 9° E, written as ECEF, comes back, heading included."""
    t, x, y, yaw = braking_to_the_left()
    origin = np.array([4462100.0, 706700.0, 4487400.0])
    rotation = enu_from_ecef(origin)
    v = np.gradient(np.column_stack([x, y, 0 * x]), t, axis=0)
    position = origin + np.column_stack([x, y, 0 * x]) @ rotation
    folder = comma_folder(tmp_path / "40", position, v @ rotation)
    for path in (folder, folder / "global_pose"):
        recording = read_recording(path)
        assert recording.kind == "comma2k19"
        assert np.allclose(recording.poses_T3[:, :2], np.column_stack([x, y]), atol=1e-6)
        assert np.allclose(recording.poses_T3[1:-1, 2], yaw[1:-1], atol=1e-3)
    bad = comma_folder(tmp_path / "41", position.astype(np.float32), v)
    with pytest.raises(InputError, match="float64"):
        read_recording(bad)
    (bad / "global_pose" / "frame_velocities").unlink()
    with pytest.raises(InputError, match="frame_velocities"):
        read_recording(bad)


def test_east_north_up():
    """Known places: the equator at Greenwich, the pole side, and geodetic (not geocentric) latitude at 45°."""
    assert np.allclose(enu_from_ecef(np.array([6378137.0, 0, 0])), [(0, 1, 0), (0, 0, 1), (1, 0, 0)])
    f = 1 / 298.257223563
    e2, lat, lon, h = f * (2 - f), np.deg2rad(45), np.deg2rad(30), 300.0
    n = 6378137 / np.sqrt(1 - e2 * np.sin(lat) ** 2)
    up = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    position = np.array([n + h, n + h, n * (1 - e2) + h]) * up
    rotation = enu_from_ecef(position)
    assert np.allclose(rotation[2], up, atol=1e-9)
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)


@pytest.mark.parametrize("stamp", ["GPSTime", "ROSTime"])
@pytest.mark.parametrize("place", ["camera_poses.csv", "applanix/lidar_poses.csv"])
def test_boreas_layout(tmp_path, stamp, place):
    t, x, y, yaw = braking_to_the_left()
    v = np.gradient(np.column_stack([x, y]), t, axis=0)
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    write_csv(path, {
        stamp: np.round((1628184886 + t) * 1e6), "easting": 623426 + x, "northing": 4848821 + y, "altitude": t,
        "vel_east": v[:, 0], "vel_north": v[:, 1], "heading": 9 + 0 * t,
    })  # fmt: skip
    for recording in (read_recording(path), read_recording(tmp_path)):
        assert recording.kind == "boreas"
        assert recording.duration_s == pytest.approx(5.9)
        assert np.allclose(recording.poses_T3[1:-1, 2], yaw[1:-1], atol=1e-3)


# --- heading of a point ---------------------------------------------------------------------------------------


def test_course_is_held_while_standing_and_back_filled_before_the_start():
    """Stands 2 s, drives north-west, stands again; GPS noise of 2 mm must not turn it."""
    s = 3 * np.clip(T - 2, 0, 2)
    noise = np.random.default_rng(0).normal(0, 0.002, (N, 2))
    heading = course(T, np.column_stack([-s, s]) + noise)
    assert np.allclose(heading, 0.75 * np.pi, atol=0.05)
    assert not course(T, np.zeros((N, 2))).any()


def test_course_of_a_fast_log_is_not_jitter():
    """200 Hz with 1 mm noise: a step is 4 cm, its direction off by 1.4°; over ±0.1 s it is 40 times less."""
    t = np.arange(0, 3, 0.005)
    points = np.column_stack([8 * t, 0 * t]) + np.random.default_rng(0).normal(0, 0.001, (len(t), 2))
    assert np.abs(course(t, points)[30:-30]).max() < 0.005


# --- what is wrong is named -----------------------------------------------------------------------------------


def refuse(path, *parts):
    with pytest.raises(InputError) as caught:
        label_file(path)
    for part in (path.name, *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["t", "x", "y"])
def test_missing_column(tmp_path, name):
    kept = {k: v for k, v in columns("t", "x", "y").items() if k != name}
    refuse(write_csv(tmp_path / "drive.csv", kept), f"no column '{name}'", "it has")
    pq.write_table(pa.table(kept), tmp_path / "drive.parquet")
    refuse(tmp_path / "drive.parquet", f"no column '{name}'")


def test_rows_that_are_no_numbers(tmp_path):
    path = tmp_path / "drive.csv"
    path.write_text("t,x,y\n0.0,1,2\n0.1,abc,2\n")
    refuse(path, "line 3", "'x'", "abc")
    path.write_text("t,x,y\n0.0,1,2\n0.1\n")
    refuse(path, "line 3", "missing")
    path.write_text("")
    refuse(path, "no rows")
    pq.write_table(pa.table({"t": ["a"], "x": [1.0], "y": [1.0]}), tmp_path / "drive.parquet")
    refuse(tmp_path / "drive.parquet", "column 't' is string")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 no")
    refuse(tmp_path / "torn.parquet", "not a readable Parquet")


def test_rows_that_cannot_be_a_drive(tmp_path):
    drive = columns("t", "x", "y", "yaw")
    for name, row, value, parts in (
        ("x", 4, np.nan, ("x of row 5", "finite")),
        ("yaw", 2, np.inf, ("yaw of row 3",)),
        ("t", 7, 0.55, ("t of row 8", "does not increase")),
    ):
        bad = {k: v.copy() for k, v in drive.items()}
        bad[name][row] = value
        refuse(write_csv(tmp_path / "drive.csv", bad), *parts)
        if name != "yaw":
            del bad["yaw"]
            refuse(write_csv(tmp_path / "drive.csv", bad), *parts)
    refuse(write_csv(tmp_path / "drive.csv", drive | {"t": 1000 * T}), "100 s a row", "is t in seconds?")
    short = {k: v[:10] for k, v in drive.items()}
    with pytest.raises(InputError, match=r"lasts 0.90 s"):
        label_file(write_csv(tmp_path / "drive.csv", short))


def test_float32_far_from_the_origin_is_refused(tmp_path):
    """At UTM or ECEF distances it would be labelled UNKNOWN nearly everywhere, silently."""
    array = np.column_stack([T, 623426 + 8 * T, 0 * T, 0 * T])
    np.save(tmp_path / "drive.npy", array.astype(np.float32))
    refuse(tmp_path / "drive.npy", "float32", "subtract an origin")
    np.save(tmp_path / "drive.npy", array)
    assert label_file(tmp_path / "drive.npy")["speed"]["KEEP SPEED"]["share"] == 1


def test_files_that_are_no_recording(tmp_path):
    refuse(tmp_path / "absent.csv", "no such file")
    refuse(tmp_path, "no recording in this folder")
    (tmp_path / "drive.txt").write_text("hello")
    refuse(tmp_path / "drive.txt", "no reader for '.txt'")
    np.save(tmp_path / "drive.npy", np.zeros((5, 7)))
    refuse(tmp_path / "drive.npy", "(5, 7)")
    np.save(tmp_path / "drive.npy", np.array([{"a": 1}]), allow_pickle=True)
    refuse(tmp_path / "drive.npy", "not a readable numpy array")


# --- label ----------------------------------------------------------------------------------------------------


def test_label_file_is_json_and_adds_up(tmp_path):
    counts = label_file(write_csv(tmp_path / "drive.csv", columns("t", "x", "y", "yaw")))
    assert json.loads(json.dumps(counts)) == counts
    for kind in ("speed", "path"):
        assert sum(v["count"] for v in counts[kind].values()) == counts["frames"] == N - 14
        assert sum(v["share"] for v in counts[kind].values()) == pytest.approx(1)
    assert list(counts["speed"]) == ["ACCELERATE", "DECELERATE", "KEEP SPEED", "STOP", "UNKNOWN"]
    assert list(counts["path"]) == ["STRAIGHT", "LEFT", "RIGHT", "UNKNOWN"]
    text = format_counts(counts)
    assert "DECELERATE" in text
    assert "drive.csv (csv): 5.9 s, 46 labelled frames" in text


@pytest.mark.skipif(not (DATA / "boreas_objects").is_dir(), reason="shared/data/boreas_objects is not here")
def test_real_drives_read():
    """Their shares are in test_decisions.py. The second Boreas drive has holes, which must not become KEEP SPEED."""
    assert read_recording(DATA / "comma2k19_example1").duration_s == pytest.approx(59.95, abs=0.1)
    assert read_recording(DATA / "boreas" / "camera_poses.csv").duration_s == pytest.approx(1119.1, abs=0.1)
    recording = read_recording(DATA / "boreas_objects")
    assert np.diff(recording.t_T).max() > 0.25
    assert label_file(DATA / "boreas_objects")["path"]["UNKNOWN"]["count"] > 100
