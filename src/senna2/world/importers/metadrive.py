"""MetaDrive scenario pickles, as ScenarioNet writes them from nuScenes, Waymo and others.

What the files do not say themselves, and what was measured on nuScenes 0061, 0103, 0553 and 0655:

* The ego's length and width are swapped there (1.73 × 4.08). A car is longer than wide, so they are swapped back.
* The nuScenes ego position is the *rear axle*, not the box's centre: in the turn of scene 0061 the pose's side slip
  grows by −0.001 m per rad/s of yaw rate, where a box centre would show 1.4 m.
* Ego poses come from every fifth 50 Hz CAN message, with messages lost now and then: single steps are up to twice as
  long as their neighbours. Objects are interpolated from 2 Hz keyframes. The last frame's velocity is 0. So no velocity
  of the file is read; speeds are derived from positions.
* `speed_limit_kmh` is the converter's constant 100, or None: not a speed limit, hence unknown.
* Lane polygons leave gaps at junctions and connectors have no polygon: no drivable area. The closed lines `boundary_*`
  are typed as painted lines, so they are kept as `edges` to draw by and not as something drivable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from senna2.frames import wrap
from senna2.types import AgentClass, Array, InputError, VehicleShape, require
from senna2.world.importers.log import (
    LoggedLane,
    LoggedTrack,
    RecordedLog,
    drop_egos_own_track,
    link_lanes,
    open_ring,
    without_repeats,
)
from senna2.world.importers.restricted_pickle import load_restricted

ZOE = VehicleShape(
    length=4.084, width=1.73, height=1.562, wheelbase=2.588, rear_overhang=0.657
)  # nuScenes' Renault Zoe
PLACEHOLDER_KMH = 100  # what the converter writes for every lane connector
_STATIC_TYPES = ("TRAFFIC_CONE", "TRAFFIC_BARRIER", "TRAFFIC_OBJECT")
_BY_CATEGORY = (  # first match in the recording's own word decides; [ours]
    ("motorcycle", AgentClass.MOTORCYCLE),
    ("bus", AgentClass.BUS),
    ("truck", AgentClass.TRUCK),
    ("trailer", AgentClass.TRUCK),
    ("construction", AgentClass.TRUCK),
    ("emergency.ambulance", AgentClass.VAN),
)


def is_metadrive(path: Path) -> bool:
    """Whether the path looks like a scenario pickle."""
    return path.is_file() and path.suffix in (".pkl", ".pickle")


def read_metadrive(path: Path) -> RecordedLog:
    """One scenario pickle → `RecordedLog`, recentred to the ego's first position.

    Raises `InputError` naming file and field for anything missing, of the wrong shape, or not plain data.
    """
    scenario = load_restricted(path)
    try:
        return _read(scenario, path)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: malformed MetaDrive scenario ({type(error).__name__}: {error})") from None


def _read(scenario: Any, path: Path) -> RecordedLog:
    for key in ("id", "metadata", "tracks", "map_features"):
        require(
            isinstance(scenario, Mapping) and key in scenario,
            f"{path}",
            f"no '{key}': not a MetaDrive scenario",
        )
    metadata, tracks = scenario["metadata"], scenario["tracks"]
    require(
        isinstance(metadata, Mapping) and isinstance(tracks, Mapping),
        f"{path}",
        "'metadata' and 'tracks' must be dicts",
    )
    dt = _time_step(metadata, str(path))
    ego_id = metadata.get("sdc_id")
    require(ego_id in tracks, f"{path}: metadata.sdc_id", f"names '{ego_id}', which is no track")

    ego = _state(tracks[ego_id], f"{path}: track {ego_id}")
    require(
        bool(ego["valid"].all()),
        f"{path}: track {ego_id}",
        "the ego is not valid in every frame; cut the scenario",
    )
    origin_2 = ego["position"][0, :2].copy()  # map coordinates of 1e3 … 1e6 m: keep float64, then go local
    shape, pose_is_rear_axle = _ego_shape(ego, metadata)
    pose_F3 = _poses(ego, origin_2)
    if not pose_is_rear_axle:
        back = np.stack([np.cos(pose_F3[:, 2]), np.sin(pose_F3[:, 2])], -1) * shape.centre_offset
        pose_F3 = np.column_stack([pose_F3[:, :2] - back, pose_F3[:, 2]])

    agents, dropped = [], []
    for name, raw in tracks.items():
        if name == ego_id:
            continue
        state = _state(raw, f"{path}: track {name}")
        if not state["valid"].any():
            dropped.append((str(name), "valid in no frame"))
            continue
        agents.append(_track(str(name), raw, state, origin_2, len(pose_F3), str(path)))
    kept, own = drop_egos_own_track(agents, pose_F3, shape)
    return RecordedLog(
        name=str(scenario["id"]), source=path.name, dt=dt, ego_shape=shape, ego_pose_F3=pose_F3, tracks=kept,
        dropped=(*dropped, *own), **_map(scenario["map_features"], origin_2, str(path)),
    ).validate()  # fmt: skip


def _time_step(metadata: Mapping[str, Any], where: str) -> float:
    stamps = np.asarray(metadata.get("ts", metadata.get("timestep", ())), np.float64)
    require(stamps.ndim == 1 and len(stamps) >= 2, f"{where}: metadata.ts", "needs at least two time stamps")
    steps = np.diff(stamps)
    uniform = bool(np.isfinite(steps).all() and steps.min() > 0 and np.ptp(steps) < 0.2 * steps.mean())
    require(uniform, f"{where}: metadata.ts", "stamps must increase evenly")
    return round(float(steps.mean()), 4)


def _state(raw: Any, where: str) -> dict[str, Array]:
    """The arrays of one track as float64, sizes as (F,); older files hold them as (F, 1)."""
    try:
        state = {
            k: np.asarray(raw["state"][k], np.float64)
            for k in ("position", "heading", "valid", "length", "width", "height")
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: state lacks a numeric array ({error})") from None
    require(state["position"].ndim == 2 and state["position"].shape[1] >= 2, where, "position must be (F, 3)")
    n = len(state["position"])
    for name in ("heading", "valid", "length", "width", "height"):
        require(state[name].size == n, f"{where}.{name}", f"{state[name].size} values for {n} positions")
        state[name] = state[name].reshape(n)
    return {**state, "valid": state["valid"] > 0.5}


def _ego_shape(ego: Mapping[str, Array], metadata: Mapping[str, Any]) -> tuple[VehicleShape, bool]:
    """The ego's body, and whether its position is the rear axle. nuScenes: the Zoe's own axles; others: a box centre
    with a usual car's proportions (wheelbase 0.6 of the length, rear overhang 0.21) [ours]."""
    length, width = (float(np.median(ego[k])) for k in ("length", "width"))
    if length < width:
        length, width = width, length
    height = float(np.median(ego["height"]))
    if "nuscenes" in str(metadata.get("dataset", "")).lower():
        scale = length / ZOE.length  # 1.00 in the converter's files
        return VehicleShape(length, width, height, ZOE.wheelbase * scale, ZOE.rear_overhang * scale), True
    return VehicleShape(length, width, height, 0.6 * length, 0.21 * length), False


def _poses(state: Mapping[str, Array], origin_2: Array) -> Array:
    return np.column_stack([state["position"][:, :2] - origin_2, wrap(state["heading"])])


def _track(
    name: str, raw: Mapping[str, Any], state: Mapping[str, Array], origin_2: Array, frames: int, path: str
) -> LoggedTrack:
    valid = state["valid"]
    require(len(valid) == frames, f"{path}: track {name}", f"{len(valid)} frames, the ego has {frames}")
    pose = np.where(valid[:, None], _poses(state, origin_2), np.nan)
    length, width, height = (float(np.median(state[k][valid])) for k in ("length", "width", "height"))
    kind, category = str(raw.get("type")), str((raw.get("metadata") or {}).get("type", raw.get("type")))
    return LoggedTrack(name, _agent_class(kind, category, height), category, length, width, height, valid, pose)


def _agent_class(kind: str, category: str, height: float) -> AgentClass:
    if kind in _STATIC_TYPES:
        return AgentClass.STATIC
    if kind == "PEDESTRIAN":
        return AgentClass.PEDESTRIAN
    for word, agent_class in _BY_CATEGORY:
        if word in category.lower():
            return agent_class
    if kind == "CYCLIST":
        return AgentClass.CYCLIST
    if kind == "VEHICLE":
        return AgentClass.VAN if height > 2.0 else AgentClass.CAR  # a taller "car" looks like a van [ours]
    return AgentClass.STATIC


def _map(features: Any, origin_2: Array, where: str) -> dict[str, Any]:
    """Lanes and lines of `map_features`, recentred. Kinds that mean nothing to the road surface are left out."""
    require(isinstance(features, Mapping), f"{where}: map_features", "must be a dict")
    lanes: list[LoggedLane] = []
    lines: dict[str, list[Array]] = {"dividers": [], "centre_lines": [], "edges": [], "crossings": []}
    for name, feature in features.items():
        at = f"{where}: map feature {name}"
        require(isinstance(feature, Mapping), at, "must be a dict")
        kind = str(feature.get("type"))
        if kind.startswith("LANE"):
            lane = _lane(str(name), feature, origin_2, at)
            if lane is not None:
                lanes.append(lane)
        elif kind in ("CROSSWALK", "CROSSWALK_PEDESTRIAN"):
            lines["crossings"].append(open_ring(_points(feature.get("polygon"), origin_2, at)))
        elif kind.startswith(("ROAD_LINE", "ROAD_EDGE")):
            line = without_repeats(_points(feature.get("polyline"), origin_2, at))
            if len(line) < 2:
                continue
            is_edge = str(name).startswith("boundary") or kind.startswith("ROAD_EDGE")
            lines["edges" if is_edge else "centre_lines" if "YELLOW" in kind else "dividers"].append(line)
    if all(lane.polygon_Q2 is None for lane in lanes):  # Waymo's maps have no polygons: no telling what is a junction
        lanes = [dataclasses.replace(lane, in_junction=False) for lane in lanes]
    return {"lanes": link_lanes(lanes), **{k: tuple(v) for k, v in lines.items()}}


def _lane(name: str, feature: Mapping[str, Any], origin_2: Array, at: str) -> LoggedLane | None:
    centre = without_repeats(_points(feature.get("polyline"), origin_2, at))
    if len(centre) < 2:
        return None
    polygon = feature.get("polygon")
    ring = None if polygon is None or len(polygon) < 3 else open_ring(_points(polygon, origin_2, at))
    kmh = feature.get("speed_limit_kmh")
    known = isinstance(kmh, (int, float)) and 0 < kmh < PLACEHOLDER_KMH
    return LoggedLane(
        name, centre, ring, float(kmh) / 3.6 if known and kmh is not None else float("nan"),
        tuple(str(s) for s in feature.get("exit_lanes") or ()), _neighbour(feature.get("left_neighbor")),
        _neighbour(feature.get("right_neighbor")), in_junction=ring is None,
        kind="cycle" if feature.get("type") == "LANE_BIKE_LANE" else "car",
    )  # fmt: skip


def _neighbour(value: Any) -> str | None:
    """The first neighbour's id; entries are ids, or dicts with `feature_id`."""
    for entry in value or ():
        return str(entry.get("feature_id")) if isinstance(entry, Mapping) else str(entry)
    return None


def _points(value: Any, origin_2: Array, at: str) -> Array:
    try:
        points = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{at}: its points are not numbers") from None
    require(points.ndim == 2 and points.shape[1] >= 2, at, f"points have shape {points.shape}, expected (P, 2)")
    require(bool(np.isfinite(points[:, :2]).all()), at, "points hold NaN")
    return points[:, :2] - origin_2
