"""The clip folder: a `Scene` on disk in open formats (JSON, Parquet, 3DGS PLY), written whole or not at all.

clip.json          schema, name, split, family, seed, units, dt, weather, source, ego shape, drivable: known | unknown
background.ply     assets/<asset>.ply        splats
tracks.parquet     t, id, class, asset, x, y, z, yaw, length, width, height, v, lights, controller, trigger_x, _y, _s
signals.parquet    t, id, state              of the lights that map.json lists
map.json  rig.json  route.json               numbers that do not exist are null
expert.parquet     t, x, y, z, yaw, v, direction, navigation
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from senna2.files import replace_folder
from senna2.types import AgentClass, Array, Camera, Direction, InputError, Rig, VehicleShape, require
from senna2.world.clip_fields import (
    MADE_AGAIN,
    enum_of,
    field,
    floats,
    numbers_or_null,
    points_of,
    read_cloud,
    read_json,
    read_table,
)
from senna2.world.clip_map import map_to_json, read_map, read_signals, signal_table, signals_to_json
from senna2.world.ply import save_ply
from senna2.world.scene import SCHEMA, Expert, Scene, SceneMeta, Track, Trigger

UNITS = {
    "length": "m",
    "angle": "rad",
    "time": "s",
    "axes": "x forward, y left, z up; ego origin: rear axle on the ground",
}
_ASSET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_TRACK_FLOATS = ("t", "x", "y", "yaw", "length", "width", "height", "v")
_TRIGGER = ("trigger_x", "trigger_y", "trigger_s")


def save_clip(scene: Scene, folder: Path) -> None:
    """Write a validated scene as a clip folder; an older clip there is replaced only once the new one is complete.

    Raises `InputError` for an invalid scene, a full disk, or if `folder` is something else than a clip.
    """
    folder = Path(folder).absolute()  # "." has no name
    scene.validate(f"clip {scene.meta.name}")
    occupied = folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / "clip.json").exists())
    require(not occupied, str(folder), "exists and is not a clip folder; choose another output folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    shutil.rmtree(building, ignore_errors=True)
    try:
        (building / "assets").mkdir(parents=True)
        _write(scene, building)
        replace_folder(building, folder)
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error}); free disk space or choose another --out"
        raise InputError(f"{folder}: {reason}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def load_clip(folder: Path) -> Scene:
    """Read and validate a clip folder. Raises `InputError` naming file and field of anything missing or damaged."""
    folder = Path(folder)
    meta = clip_meta(folder)
    drivable = field(clip_info(folder), "drivable", str, str(folder / "clip.json"))
    stated = drivable in ("known", "unknown")
    require(stated, f"{folder / 'clip.json'}: drivable", f"is '{drivable}'; it must be 'known' or 'unknown'")
    known = drivable == "known"
    clouds = sorted((folder / "assets").glob("*.ply"))
    route_P2, limit_P = _read_route(folder / "route.json")
    scene = Scene(
        meta=meta,
        background=read_cloud(folder / "background.ply"),
        assets={path.name.removesuffix(".ply"): read_cloud(path) for path in clouds},
        tracks=_read_tracks(folder / "tracks.parquet"),
        map=read_map(folder / "map.json", known=known),
        rig=read_rig(folder),
        expert=read_expert(folder),
        route_P2=route_P2,
        speed_limit_P=limit_P,
        signals=read_signals(folder / "map.json", folder / "signals.parquet"),
    )
    return scene.validate(str(folder))


def clip_meta(folder: Path) -> SceneMeta:
    """What a clip is, from clip.json alone. Raises `InputError` as `load_clip` does."""
    info, at = clip_info(folder), str(Path(folder) / "clip.json")
    meta = SceneMeta(
        name=field(info, "name", str, at),
        family=field(info, "family", str, at),
        split=field(info, "split", str, at),
        seed=field(info, "seed", int, at),
        dt=field(info, "dt", float, at),
        weather=field(info, "weather", str, at),
        source=field(info, "source", str, at),
        ego_shape=_shape_from_json(field(info, "ego_shape", dict, at), at),
    )
    require(meta.dt > 0, at, "field 'dt' must be positive")
    return meta


def clip_info(folder: Path) -> dict[str, Any]:
    """The content of clip.json alone. Raises `InputError` if the folder is no clip or of another schema."""
    path = Path(folder) / "clip.json"
    require(path.is_file(), str(folder), "is not a clip folder: it has no clip.json")
    info = read_json(path)
    require(info.get("schema") == SCHEMA, str(path), f"field 'schema' is {info.get('schema')!r}, expected '{SCHEMA}'")
    return info


def find_clips(path: Path) -> list[Path]:
    """The clip folder itself, or the clip folders directly inside `path`, by name. Raises `InputError` if none."""
    path = Path(path)
    require(path.is_dir(), str(path), "no such folder")
    if (path / "clip.json").is_file():
        return [path]
    found = sorted(p.parent for p in path.glob("*/clip.json") if not p.parent.name.startswith("."))
    require(len(found) > 0, str(path), "holds no clip folder (a folder with clip.json)")
    return found


# ---------------------------------------------------------------- writing


def _write(scene: Scene, folder: Path) -> None:
    meta = dataclasses.asdict(scene.meta)
    known = "known" if scene.map.drivable_known else "unknown"
    _dump(folder / "clip.json", {"schema": SCHEMA, **meta, "units": UNITS, "drivable": known})
    save_ply(folder / "background.ply", scene.background)
    for name, cloud in scene.assets.items():
        require(_ASSET_NAME.fullmatch(name) is not None, f"asset '{name}'", "name may hold letters, digits, . _ - only")
        save_ply(folder / "assets" / f"{name}.ply", cloud)
    pq.write_table(_track_table(scene.tracks), folder / "tracks.parquet")
    pq.write_table(signal_table(scene.signals), folder / "signals.parquet")
    _dump(folder / "map.json", {**map_to_json(scene.map), "signals": signals_to_json(scene.signals)})
    cameras = [{**dataclasses.asdict(c), "cam_to_ego_44": c.cam_to_ego_44.tolist()} for c in scene.rig.cameras]
    _dump(folder / "rig.json", {"cameras": cameras})
    _dump(folder / "route.json", {"points": scene.route_P2.tolist(), "speed_limit": _nulls(scene.speed_limit_P)})
    e = scene.expert
    columns = {
        "t": e.t_E, "x": e.pose_E3[:, 0], "y": e.pose_E3[:, 1], "z": 0 * e.t_E, "yaw": e.pose_E3[:, 2], "v": e.v_E,
        "direction": [Direction(int(d)).name for d in e.direction_E],
        "navigation": [Direction(int(d)).name for d in e.navigation_E],
    }  # fmt: skip
    pq.write_table(pa.table(columns), folder / "expert.parquet")


def _track_table(tracks: tuple[Track, ...]) -> pa.Table:
    """One row a track and instant; float64, so that poses return bit by bit."""
    counts = [len(t.t_T) for t in tracks]

    def text(values: list[str]) -> pa.Array:
        return pa.array([v for v, n in zip(values, counts, strict=True) for _ in range(n)], pa.string())

    def number(values: list[float]) -> Array:
        return np.repeat(np.array(values, np.float64), counts)

    def joined(parts: list[Array], dtype: type) -> Array:
        return np.concatenate([*parts, np.zeros(0)]).astype(dtype)

    places = [(math.nan,) * 3 if t.trigger is None else dataclasses.astuple(t.trigger) for t in tracks]
    triggers = {name: number([place[k] for place in places]) for k, name in enumerate(_TRIGGER)}
    return pa.table(
        {
            "t": joined([t.t_T for t in tracks], np.float64),
            "id": text([t.id for t in tracks]),
            "class": text([AgentClass(t.agent_class).name for t in tracks]),
            "asset": text([t.asset for t in tracks]),
            "x": joined([t.pose_T3[:, 0] for t in tracks], np.float64),
            "y": joined([t.pose_T3[:, 1] for t in tracks], np.float64),
            "z": np.zeros(sum(counts)),
            "yaw": joined([t.pose_T3[:, 2] for t in tracks], np.float64),
            "length": number([t.length for t in tracks]),
            "width": number([t.width for t in tracks]),
            "height": number([t.height for t in tracks]),
            "v": joined([t.v_T for t in tracks], np.float64),
            "lights": joined([t.lights_T for t in tracks], np.int8),
            "controller": text([t.controller for t in tracks]),
            **{name: pa.array(values, mask=np.isnan(values)) for name, values in triggers.items()},
        }
    )


def _nulls(values: Array) -> list[float | None]:
    return [None if math.isnan(v) else float(v) for v in values]


def _dump(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- reading


def _read_tracks(path: Path) -> tuple[Track, ...]:
    names = (*_TRACK_FLOATS, "id", "class", "asset", "lights", "controller")
    columns = read_table(path, names, optional=_TRIGGER)
    number = floats(columns, (*_TRACK_FLOATS, "lights", *_TRIGGER), path)
    ids = columns["id"]
    tracks = []
    for track_id in dict.fromkeys(ids):  # in the order of the file
        rows = np.flatnonzero(ids == track_id)
        at = f"{path}: track '{track_id}'"
        t = number["t"][rows]
        require(bool((np.diff(t) > 0).all()), at, f"column 't' must increase; {MADE_AGAIN}")
        first = rows[0]
        tracks.append(
            Track(
                id=str(track_id),
                agent_class=enum_of(columns["class"][rows[:1]], AgentClass, path, "class")[0],
                asset=str(columns["asset"][first]),
                length=float(number["length"][first]),
                width=float(number["width"][first]),
                height=float(number["height"][first]),
                t_T=t,
                pose_T3=np.stack([number[c][rows] for c in ("x", "y", "yaw")], 1),
                v_T=number["v"][rows],
                lights_T=number["lights"][rows].astype(np.int8),
                controller=str(columns["controller"][first]),
                trigger=_trigger([float(number[name][first]) for name in _TRIGGER], at),
            )
        )
    return tuple(tracks)


def _trigger(values: list[float], at: str) -> Trigger | None:
    """None if all three are null."""
    given = [not math.isnan(v) for v in values]
    require(all(given) or not any(given), at, f"columns {', '.join(_TRIGGER)} must be given together, or all be null")
    return Trigger(*values) if all(given) else None


def read_expert(folder: Path) -> Expert:
    """A clip folder's expert alone. Raises `InputError` naming the column that is missing or damaged."""
    path = Path(folder) / "expert.parquet"
    columns = read_table(path, ("t", "x", "y", "yaw", "v", "direction", "navigation"))
    number = floats(columns, ("t", "x", "y", "yaw", "v"), path)
    require(len(number["t"]) >= 2, str(path), "needs at least two rows")
    require(bool((np.diff(number["t"]) > 0).all()), str(path), f"column 't' must increase; {MADE_AGAIN}")
    direction, navigation = (
        np.array(enum_of(columns[name], Direction, path, name), np.int8) for name in ("direction", "navigation")
    )
    pose = np.stack([number[c] for c in ("x", "y", "yaw")], 1)
    return Expert(number["t"], pose, number["v"], direction, navigation)


def read_rig(folder: Path) -> Rig:
    """A clip folder's cameras alone. Raises `InputError` naming the field that is missing or damaged."""
    path = Path(folder) / "rig.json"
    cameras = []
    for i, raw in enumerate(field(read_json(path), "cameras", list, str(path))):
        at = f"{path}: cameras[{i}]"
        require(isinstance(raw, dict), at, "must be an object")
        numbers = {k: field(raw, k, float, at) for k in ("fx", "fy", "cx", "cy", "near")}
        sizes = {k: field(raw, k, int, at) for k in ("width", "height")}
        try:
            matrix = np.array(field(raw, "cam_to_ego_44", list, at), np.float64)
            history = tuple(float(age) for age in field(raw, "history_s", list, at))
        except (TypeError, ValueError):
            raise InputError(f"{at}: cam_to_ego_44 and history_s must hold numbers; {MADE_AGAIN}") from None
        camera = Camera(name=field(raw, "name", str, at), cam_to_ego_44=matrix, history_s=history, **sizes, **numbers)
        cameras.append(camera)
    try:
        return Rig(tuple(cameras)).validate()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_route(path: Path) -> tuple[Array, Array]:
    data = read_json(path)
    points = points_of(field(data, "points", list, str(path)), f"{path}: points")
    limit = numbers_or_null(field(data, "speed_limit", list, str(path)), f"{path}: speed_limit")
    require(len(limit) == len(points), f"{path}: speed_limit", f"has {len(limit)} values for {len(points)} points")
    return points, limit


def _shape_from_json(data: dict[str, Any], where: str) -> VehicleShape:
    names = [f.name for f in dataclasses.fields(VehicleShape)]
    shape = VehicleShape(**{n: field(data, n, float, f"{where}: ego_shape") for n in names})
    try:
        return shape.validate()
    except InputError as error:
        raise InputError(f"{where}: ego_shape: {error}") from None
