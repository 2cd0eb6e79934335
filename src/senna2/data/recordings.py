"""Readers of recorded drives: a file or folder → time stamps and plane poses, ready for f_K.

What is read (`read_recording` tells them apart):

* CSV with a header, or Parquet: columns t (s), x, y (m) and, if known, yaw (rad); others are ignored.
* `.npy`: (N, 2) x, y at 0.1 s; (N, 4) t, x, y, yaw; (N, 3) is t, x, y if its first column can be a time
  (every step above 0 and at most 0.25 s), else x, y, yaw at 0.1 s. Where both readings hold, it is refused.
* comma2k19: a segment's folder, or its `global_pose` (ECEF → east, north about the first position).
* Boreas: `camera_poses.csv`, `lidar_poses.csv`, or the folder that holds one (µs, easting, northing).

Without a yaw the heading is the direction in which the recorded point moves. For comma2k19 and Boreas it is the
direction of the recorded velocity: their point is a sensor, not the rear axle, and in a turn the car's yaw is not
the direction of that point's steps, which f_K compares it with.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from senna2.decisions import MAX_GAP_S, MIN_STEP
from senna2.types import PLAN_DT, Array, InputError

MOVES = MIN_STEP / PLAN_DT  # m/s; below it the heading is held
FLOAT32_REACH = 16384.0  # m; beyond it float32 resolves less than 1 mm, and f_K's accelerations drown in rounding
BOREAS_COLUMNS = ("easting", "northing", "vel_east", "vel_north")
BOREAS_STAMPS = ("GPSTime", "ROSTime")  # µs, in either; which one depends on the release
COMMA_FILES = ("frame_times", "frame_positions", "frame_velocities")
WGS84_A, WGS84_F = 6378137.0, 1 / 298.257223563


@dataclass(frozen=True, eq=False)
class Recording:
    """One drive. t_T: (T,) s, increasing. poses_T3: x, y, yaw in a plane frame, m and rad, float64.

    kind: csv, parquet, npy, comma2k19 or boreas.
    """

    kind: str
    source: str
    t_T: Array
    poses_T3: Array

    @property
    def duration_s(self) -> float:
        return float(self.t_T[-1] - self.t_T[0])

    def validate(self) -> Self:
        t, poses = self.t_T, self.poses_T3
        if t.ndim != 1 or poses.shape != (len(t), 3) or len(t) < 2:
            raise InputError(f"{self.source}: {poses.shape} poses at {t.shape} times; needs at least two, (T, 3)")
        for name, column in (("t", t), ("x", poses[:, 0]), ("y", poses[:, 1]), ("yaw", poses[:, 2])):
            bad = np.flatnonzero(~np.isfinite(column))
            if len(bad):
                raise InputError(f"{self.source}: {name} of row {bad[0] + 1} is not finite; drop or fill the row")
        late = np.flatnonzero(np.diff(t) <= 0)
        if len(late):
            raise InputError(f"{self.source}: t of row {late[0] + 2} does not increase; sort the rows by time")
        step = float(np.median(np.diff(t)))
        if step > MAX_GAP_S:
            raise InputError(
                f"{self.source}: t moves by {step:g} s a row; decisions need at most {MAX_GAP_S} s "
                "(is t in seconds? was the drive thinned out?)"
            )
        return self


def read_recording(path: Path | str) -> Recording:
    """Read a drive; the kinds are listed above. Raises `InputError` naming the file, the field and the
    fix."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        return _read_folder(path).validate()
    match path.suffix.lower():
        case ".csv":
            return _read_csv(path).validate()
        case ".parquet" | ".pq":
            return _read_parquet(path).validate()
        case ".npy":
            return _read_npy(path).validate()
    raise InputError(f"{path}: no reader for '{path.suffix}'; give .csv, .parquet, .npy or a recording's folder")


def course(t_T: Array, points_T2: Array) -> Array:
    """Heading (T,) of a point from its own track: the direction of its central difference over ±0.1 s, held
    while it moves slower than 2 cm in 0.1 s. At a high rate, row by row,
    it would be jitter."""
    t, local = t_T - t_T[0], points_T2 - points_T2[0]
    before, after = np.maximum(t - PLAN_DT, 0), np.minimum(t + PLAN_DT, t[-1])
    move = np.stack([np.interp(after, t, local[:, k]) - np.interp(before, t, local[:, k]) for k in (0, 1)], 1)
    return _held_heading(move / (after - before)[:, None])


def _held_heading(velocity_T2: Array) -> Array:
    """Direction of a velocity, held where it is too slow for one; a standing start takes the first one."""
    moves = np.hypot(velocity_T2[:, 0], velocity_T2[:, 1]) >= MOVES
    if not moves.any():
        return np.zeros(len(velocity_T2))
    index = np.where(moves, np.arange(len(moves)), -1)
    index = np.maximum(np.maximum.accumulate(index), np.argmax(moves))
    return np.arctan2(velocity_T2[index, 1], velocity_T2[index, 0])


def _from_columns(kind: str, path: Path, columns: dict[str, Array]) -> Recording:
    missing = [name for name in ("t", "x", "y") if name not in columns]
    if missing:
        raise InputError(
            f"{path}: no column '{missing[0]}'; it has {sorted(columns)}. "
            "Needs t (s), x and y (m) and, if known, yaw (rad)"
        )
    for name in ("x", "y"):
        column = columns[name]
        reach = float(np.nanmax(np.abs(column), initial=0.0))
        if column.dtype == np.float32 and reach > FLOAT32_REACH:
            raise InputError(
                f"{path}: {name} is float32 and reaches {reach:.0f} m, where it resolves no millimetre; "
                "store float64, or subtract an origin before the cast"
            )
    t, x, y = (np.asarray(columns[name], np.float64) for name in ("t", "x", "y"))
    points = np.stack([x, y], 1)
    if "yaw" in columns:
        yaw = np.asarray(columns["yaw"], np.float64)
    else:
        # The heading needs what `validate` asks for; a bad row is reported under its own name.
        yaw = np.zeros(len(t))
        Recording(kind, str(path), t, np.column_stack([points, yaw])).validate()
        yaw = course(t, points)
    return Recording(kind, str(path), t, np.column_stack([points, yaw]))


def _read_csv(path: Path) -> Recording:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no CSV in UTF-8 ({error})") from error
    if len(rows) < 2:
        raise InputError(f"{path}: no rows under a header")
    header = [name.strip() for name in rows[0]]
    stamp = next((name for name in BOREAS_STAMPS if name in header), None)
    boreas = stamp is not None and all(name in header for name in BOREAS_COLUMNS)
    wanted = (stamp, *BOREAS_COLUMNS) if boreas else ("t", "x", "y", "yaw")
    columns = {name: np.empty(len(rows) - 1) for name in header if name in wanted}
    for name, column in columns.items():
        k = header.index(name)
        for i, row in enumerate(rows[1:]):
            try:
                column[i] = float(row[k])
            except (ValueError, IndexError):
                value = row[k] if k < len(row) else "missing"
                raise InputError(f"{path}: line {i + 2}: column '{name}' is no number: {value!r}") from None
    if boreas:
        t, east, north, v_east, v_north = (columns[str(name)] for name in wanted)
        yaw = _held_heading(np.column_stack([v_east, v_north]))
        return Recording("boreas", str(path), t * 1e-6, np.column_stack([east, north, yaw]))
    return _from_columns("csv", path, columns | {name: np.empty(0) for name in header if name not in columns})


def _read_parquet(path: Path) -> Recording:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        table = pq.read_table(path, columns=[name for name in ("t", "x", "y", "yaw") if name in names])
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from None
    columns = {}
    for name in table.column_names:
        column = table[name].to_numpy()
        if column.dtype.kind not in "fiu":
            raise InputError(f"{path}: column '{name}' is {table[name].type}; needs plain numbers (t in s)")
        columns[name] = column
    return _from_columns("parquet", path, columns | {n: np.empty(0) for n in names if n not in columns})


def _read_npy(path: Path) -> Recording:
    array = _load_npy(path)
    if array.ndim != 2 or array.shape[1] not in (2, 3, 4) or array.dtype.kind not in "fiu" or len(array) < 2:
        raise InputError(f"{path}: {array.dtype} array {array.shape}; needs numbers (N, 2), (N, 3) or (N, 4)")
    names: tuple[str, ...] = ("t", "x", "y", "yaw")
    if array.shape[1] == 2:
        names = ("x", "y")
    elif array.shape[1] == 3:
        as_time = _can_be_time(array[:, 0])
        if as_time and _can_be_pose(array):
            raise InputError(
                f"{path}: (N, 3) that can be t, x, y as well as x, y, yaw; save (N, 4) t, x, y, yaw, or a CSV"
            )
        names = ("t", "x", "y") if as_time else ("x", "y", "yaw")
    columns = {"t": PLAN_DT * np.arange(len(array))} | {name: array[:, k] for k, name in enumerate(names)}
    return _from_columns("npy", path, columns)


def _can_be_time(column: Array) -> bool:
    step = np.diff(column.astype(np.float64))
    return bool(np.isfinite(step).all() and (step > 0).all() and step.max() <= MAX_GAP_S)


def _can_be_pose(array: Array) -> bool:
    """Whether column 2 is about the direction of motion of columns 0 and 1 at 0.1 s."""
    a = array.astype(np.float64)
    if not np.isfinite(a).all() or np.abs(a[:, 2]).max() > 2 * np.pi:
        return False
    step = np.diff(a[:, :2], axis=0)
    moves = np.hypot(step[:, 0], step[:, 1]) >= MIN_STEP
    off = np.angle(np.exp(1j * (np.arctan2(step[:, 1], step[:, 0]) - a[:-1, 2])))[moves]
    return len(off) == 0 or float(np.median(np.abs(off))) < 0.3


def _load_npy(path: Path) -> Array:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a readable numpy array ({error})") from None


def _read_folder(path: Path) -> Recording:
    for folder in (path, path / "global_pose"):
        if (folder / "frame_positions").is_file():
            return _comma2k19(folder)
    for folder in (path, path / "applanix"):
        for name in ("camera_poses.csv", "lidar_poses.csv"):
            if (folder / name).is_file():
                return _read_csv(folder / name)
    raise InputError(
        f"{path}: no recording in this folder; looked for global_pose/frame_positions (comma2k19) and "
        "camera_poses.csv or lidar_poses.csv (Boreas)"
    )


def _comma2k19(folder: Path) -> Recording:
    for name in COMMA_FILES:
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no file '{name}'; a comma2k19 global_pose folder has {COMMA_FILES}")
    t, position, velocity = (_load_npy(folder / name) for name in COMMA_FILES)
    if t.ndim != 1 or position.shape != (len(t), 3) or velocity.shape != (len(t), 3) or len(t) == 0:
        raise InputError(f"{folder}: shapes {t.shape}, {position.shape}, {velocity.shape}; needs (N,), (N, 3), (N, 3)")
    if position.dtype != np.float64:
        raise InputError(f"{folder}/frame_positions: {position.dtype}; ECEF needs float64 (float32 is off by 0.5 m)")
    east_north = enu_from_ecef(position[0])[:2]
    xy = (position - position[0]) @ east_north.T
    yaw = _held_heading(velocity.astype(np.float64) @ east_north.T)
    return Recording("comma2k19", str(folder), t.astype(np.float64), np.column_stack([xy, yaw]))


def enu_from_ecef(origin_3: Array) -> Array:
    """Rotation (3, 3) whose rows are east, north and up at an ECEF position (m), on the WGS 84 ellipsoid.

    Latitude by Bowring's formula, exact to 1e-11 rad for any height a car can have.
    """
    x, y, z = (float(c) for c in origin_3)
    p, b = np.hypot(x, y), WGS84_A * (1 - WGS84_F)
    if p < 1.0 and abs(z) < 1.0:
        raise InputError(f"ECEF position {origin_3}: lies at the centre of the Earth")
    e2, ep2 = WGS84_F * (2 - WGS84_F), (WGS84_A / b) ** 2 - 1
    theta = np.arctan2(z * WGS84_A, p * b)
    lat = np.arctan2(z + ep2 * b * np.sin(theta) ** 3, p - e2 * WGS84_A * np.cos(theta) ** 3)
    lon = np.arctan2(y, x)
    sa, ca, so, co = np.sin(lat), np.cos(lat), np.sin(lon), np.cos(lon)
    return np.array([[-so, co, 0.0], [-sa * co, -sa * so, ca], [ca * co, ca * so, sa]])
