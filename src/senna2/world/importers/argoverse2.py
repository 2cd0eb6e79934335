"""Argoverse 2 sensor logs: `annotations.feather`, `city_SE3_egovehicle.feather` and `map/log_map_archive_*.json`.

The ego frame's origin is the rear axle. Annotations are cuboids in the ego frame of their own sweep (10 Hz) and are
composed with the full SE(3) ego pose of that stamp. The simulator's world is planar: the ground's height and tilt are
left out by keeping x, y and the yaw of the composed rotation and putting everything on z = 0 [ours]; the ground height
raster is therefore not needed. The map says what is drivable.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
from scipy.spatial.transform import Rotation, Slerp

from senna2.frames import along_polyline, sample_polyline, wrap
from senna2.types import AgentClass, Array, InputError, VehicleShape, require
from senna2.world.importers.log import (
    LoggedLane,
    LoggedTrack,
    RecordedLog,
    drop_egos_own_track,
    moved,
    open_ring,
    without_repeats,
)

FUSION = VehicleShape(
    length=4.869, width=1.852, height=1.476, wheelbase=2.85, rear_overhang=1.0955
)  # Ford Fusion Hybrid
SWEEP_NS = 100_000_000
_ANNOTATIONS, _EGO = "annotations.feather", "city_SE3_egovehicle.feather"
_QUAT, _XYZ, _SIZE = ("qx", "qy", "qz", "qw"), ("tx_m", "ty_m", "tz_m"), ("length_m", "width_m", "height_m")
_CLASSES = {
    "REGULAR_VEHICLE": AgentClass.CAR,
    "LARGE_VEHICLE": AgentClass.TRUCK,
    "BOX_TRUCK": AgentClass.TRUCK,
    "TRUCK": AgentClass.TRUCK,
    "TRUCK_CAB": AgentClass.TRUCK,
    "VEHICULAR_TRAILER": AgentClass.TRUCK,
    "BUS": AgentClass.BUS,
    "SCHOOL_BUS": AgentClass.BUS,
    "ARTICULATED_BUS": AgentClass.BUS,
    "RAILED_VEHICLE": AgentClass.BUS,
    "MOTORCYCLE": AgentClass.MOTORCYCLE,
    "MOTORCYCLIST": AgentClass.MOTORCYCLE,
    "BICYCLIST": AgentClass.CYCLIST,
    "WHEELED_RIDER": AgentClass.CYCLIST,
    "PEDESTRIAN": AgentClass.PEDESTRIAN,
    "OFFICIAL_SIGNALER": AgentClass.PEDESTRIAN,
    "WHEELCHAIR": AgentClass.PEDESTRIAN,
    "DOG": AgentClass.PEDESTRIAN,
    "ANIMAL": AgentClass.PEDESTRIAN,
}
_IF_MOVING = {  # annotated apart from whoever rides or pushes them: static while nobody does [ours]
    "BICYCLE": AgentClass.CYCLIST,
    "WHEELED_DEVICE": AgentClass.CYCLIST,
    "STROLLER": AgentClass.PEDESTRIAN,
}


def is_argoverse2(path: Path) -> bool:
    """Whether the path looks like a log folder of the sensor data set."""
    return path.is_dir() and ((path / _ANNOTATIONS).exists() or (path / _EGO).exists())


def read_argoverse2(path: Path) -> RecordedLog:
    """One log folder → `RecordedLog`, recentred to the ego's first position.

    Raises `InputError` naming file and field for a missing or corrupt file, column or map entry.
    """
    boxes = _columns(path / _ANNOTATIONS, ("timestamp_ns", "track_uuid", "category", *_SIZE, *_QUAT, *_XYZ))
    ego = _columns(path / _EGO, ("timestamp_ns", *_QUAT, *_XYZ))
    stamp_F, frame_N = _clock(boxes["timestamp_ns"], f"{path / _ANNOTATIONS}: timestamp_ns")
    position_F3, rotation_F = _ego_poses(ego, stamp_F, str(path / _EGO))
    origin_2 = position_F3[0, :2].copy()
    pose_F3 = np.column_stack([position_F3[:, :2] - origin_2, _yaw(rotation_F)])

    in_ego = _rotation(boxes, f"{path / _ANNOTATIONS}: rotation")
    in_city = rotation_F[frame_N] * in_ego
    centre_N3 = (
        rotation_F[frame_N].apply(_stack(boxes, _XYZ, f"{path / _ANNOTATIONS}: position")) + position_F3[frame_N]
    )
    box_pose_N3 = np.column_stack([centre_N3[:, :2] - origin_2, _yaw(in_city)])

    size_N3 = _stack(boxes, _SIZE, f"{path / _ANNOTATIONS}: size")
    tracks = []
    for uuid in dict.fromkeys(boxes["track_uuid"].tolist()):
        rows = boxes["track_uuid"] == uuid
        tracks.append(
            _track(
                uuid,
                boxes["category"][rows][0],
                size_N3[rows],
                frame_N[rows],
                box_pose_N3[rows],
                len(stamp_F),
            )
        )
    kept, dropped = drop_egos_own_track(tracks, pose_F3, FUSION)
    return RecordedLog(
        name=path.resolve().name, source=path.resolve().name, dt=SWEEP_NS * 1e-9, ego_shape=FUSION, ego_pose_F3=pose_F3,
        tracks=kept, dropped=dropped, **_map(path, origin_2),
    ).validate()  # fmt: skip


def _columns(file: Path, names: Iterable[str]) -> dict[str, Array]:
    try:
        table = feather.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: missing, truncated or no feather file ({error}); copy the log again") from None
    missing = [n for n in names if n not in table.column_names]
    require(not missing and table.num_rows > 0, f"{file}", f"has no rows or lacks the columns {missing}")
    return {n: table[n].to_numpy(zero_copy_only=False) for n in names}


def _stack(columns: Mapping[str, Array], names: Iterable[str], where: str) -> Array:
    values = np.stack([np.asarray(columns[n], np.float64) for n in names], -1)
    require(bool(np.isfinite(values).all()), where, "holds NaN or infinity")
    return values


def _rotation(columns: Mapping[str, Array], where: str) -> Rotation:
    quat_N4 = _stack(columns, _QUAT, where)
    norm_N = np.linalg.norm(quat_N4, axis=1)
    require(norm_N.min() > 1e-6, where, f"is a zero quaternion in row {norm_N.argmin()}; copy the log again")
    return Rotation.from_quat(quat_N4)


def _clock(stamp_N: Array, where: str) -> tuple[Array, Array]:
    """Sweep stamps (F,) on a uniform 10 Hz grid and each row's frame; a missing sweep is a frame without objects."""
    stamp_N = stamp_N.astype(np.int64)
    seen = np.unique(stamp_N)
    index = np.rint((seen - seen[0]) / SWEEP_NS).astype(int)
    require(
        len(seen) >= 2 and bool((np.diff(index) > 0).all()),
        where,
        "needs at least two sweeps about 0.1 s apart",
    )
    grid = seen[0] + SWEEP_NS * np.arange(index[-1] + 1, dtype=np.int64)
    grid[index] = seen  # the true stamp where there is one: sweeps wander by some 0.2 ms
    return grid, index[np.searchsorted(seen, stamp_N)]


def _ego_poses(ego: Mapping[str, Array], stamp_F: Array, where: str) -> tuple[Array, Rotation]:
    """Ego position and rotation at the sweeps, interpolated between the file's ~180 Hz poses."""
    position, rotation = _stack(ego, _XYZ, f"{where}: position"), _rotation(ego, f"{where}: rotation")
    stamp, first = np.unique(ego["timestamp_ns"].astype(np.int64), return_index=True)
    tolerance_ns = 10_000_000
    covered = stamp[0] - tolerance_ns <= stamp_F[0] and stamp_F[-1] <= stamp[-1] + tolerance_ns
    require(
        len(stamp) >= 2 and bool(covered),
        f"{where}: timestamp_ns",
        "the ego poses do not cover the annotations",
    )
    t = (stamp - stamp[0]) * 1e-9  # integer ns first: float64 seconds of an epoch lose precision
    t_F = np.clip((stamp_F - stamp[0]) * 1e-9, 0.0, t[-1])
    at_F = np.stack([np.interp(t_F, t, position[first, i]) for i in range(3)], -1)
    return at_F, Slerp(t, rotation[first])(t_F)


def _yaw(rotation: Rotation) -> Array:
    """Heading of the rotated x axis in the plane."""
    forward = rotation.apply(np.array([1.0, 0.0, 0.0]))
    return wrap(np.arctan2(forward[..., 1], forward[..., 0]))


def _track(uuid: str, category: str, size_R3: Array, frame_R: Array, pose_R3: Array, frames: int) -> LoggedTrack:
    pose_F3 = np.full((frames, 3), np.nan)
    pose_F3[frame_R] = pose_R3
    valid = np.zeros(frames, bool)
    valid[frame_R] = True
    length, width, height = (float(v) for v in np.median(size_R3, axis=0))
    agent_class = _CLASSES.get(category, AgentClass.STATIC)
    if category in _IF_MOVING and moved(pose_F3, valid):
        agent_class = _IF_MOVING[category]
    if agent_class == AgentClass.CAR and height > 2.0:
        agent_class = AgentClass.VAN  # looks only: AV2 has one word for both [ours]
    return LoggedTrack(uuid, agent_class, category, length, width, height, valid, pose_F3)


def _map(path: Path, origin_2: Array) -> dict[str, Any]:
    """Lanes, painted lines, crossings and drivable polygons of the log's vector map."""
    files = sorted((path / "map").glob("log_map_archive_*.json"))
    require(len(files) == 1, f"{path / 'map'}", f"needs one log_map_archive_*.json, has {len(files)}")
    at = str(files[0])
    try:
        content = json.loads(files[0].read_text())
        segments = {str(k): v for k, v in content["lane_segments"].items()}
        lanes = _each(at, "lane", segments, lambda k, v: _lane(k, v, segments, origin_2))
        dividers, centre_lines = _painted(segments, origin_2)
        crossings = _each(at, "crossing", content["pedestrian_crossings"], lambda _, c: _crossing(c, origin_2))
        areas = _each(at, "drivable area", content["drivable_areas"], lambda _, a: _area(a, origin_2))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{at}: truncated or no JSON ({error}); copy the log again") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{at}: map entry lacks {error}; is it an Argoverse 2 log map?") from None
    drivable = tuple(a for a in areas if len(a) >= 3) or None
    return {
        "lanes": tuple(lanes),
        "dividers": dividers,
        "centre_lines": centre_lines,
        "crossings": tuple(crossings),
        "drivable": drivable,
    }


def _each(at: str, kind: str, entries: Mapping[str, Any], read: Callable[[str, Any], Any]) -> list[Any]:
    """What `read` makes of each entry's id and content. Raises `InputError` naming the bad one."""
    done = []
    for name, entry in entries.items():
        try:
            done.append(read(name, entry))
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
            raise InputError(f"{at}: {kind} {name} {what}; copy the log again") from None
    return done


def _area(area: Mapping[str, Any], origin_2: Array) -> Array:
    return open_ring(_xy(area["area_boundary"], origin_2))


def _xy(points: Iterable[Mapping[str, float]], origin_2: Array) -> Array:
    return np.array([(p["x"], p["y"]) for p in points], np.float64).reshape(-1, 2) - origin_2


def _lane(name: str, segment: Mapping[str, Any], segments: Mapping[str, Any], origin_2: Array) -> LoggedLane:
    """A lane from its two boundaries; the centre line is the mean of both at equal shares of their length."""
    left, right = (_xy(segment[f"{side}_lane_boundary"], origin_2) for side in ("left", "right"))
    share = np.linspace(0, 1, max(2, int(max(along_polyline(left)[-1], along_polyline(right)[-1]) / 2.0) + 1))
    centre = (_at_share(left, share) + _at_share(right, share)) / 2
    ring = np.concatenate([left, right[::-1]])
    line = without_repeats(centre)
    if len(line) < 2:
        raise ValueError("its boundaries have no length")

    def neighbour(side: str) -> str | None:
        """Neighbours may run the other way: the left one of a two-way street does. Only equal senses count."""
        other = str(segment[f"{side}_neighbor_id"])
        if other not in segments:
            return None
        beside = _xy(segments[other]["left_lane_boundary"], origin_2)
        return other if float((beside[-1] - beside[0]) @ (centre[-1] - centre[0])) > 0 else None

    return LoggedLane(
        id=name,
        centre_P2=line,
        polygon_Q2=ring,
        successors=tuple(str(s) for s in segment["successors"] if str(s) in segments),
        left=neighbour("left"),
        right=neighbour("right"),
        in_junction=bool(segment["is_intersection"]),
        kind="cycle" if segment["lane_type"] == "BIKE" else "car",
    )


def _at_share(line_P2: Array, share: Array) -> Array:
    return sample_polyline(line_P2, share * along_polyline(line_P2)[-1])[0]


def _painted(segments: Mapping[str, Any], origin_2: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Painted boundaries as (white between lanes, yellow between senses), each drawn once."""
    white: dict[tuple, Array] = {}
    yellow: dict[tuple, Array] = {}
    for segment in segments.values():
        for side in ("left", "right"):
            mark = str(segment[f"{side}_lane_mark_type"])
            if mark in ("NONE", "UNKNOWN"):
                continue
            line = without_repeats(_xy(segment[f"{side}_lane_boundary"], origin_2))
            key = tuple(sorted((tuple(np.round(line[0], 1)), tuple(np.round(line[-1], 1)))))
            if len(line) >= 2:
                (yellow if "YELLOW" in mark else white)[key] = line
    return tuple(white.values()), tuple(yellow.values())


def _crossing(crossing: Mapping[str, Any], origin_2: Array) -> Array:
    first, second = _xy(crossing["edge1"], origin_2), _xy(crossing["edge2"], origin_2)
    straight = np.hypot(*(first[-1] - second[0])) + np.hypot(*(second[-1] - first[0]))
    crossed = np.hypot(*(first[-1] - second[-1])) + np.hypot(*(second[0] - first[0]))
    return np.concatenate([first, second if straight < crossed else second[::-1]])
