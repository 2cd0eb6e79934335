"""The map of a clip folder and its traffic lights: map.json and signals.parquet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from senna2.types import Array, InputError, require
from senna2.world.clip_fields import MADE_AGAIN, enum_of, field, floats, points_of, read_json, read_table
from senna2.world.scene import LANE_KINDS, Lane, LaneMap, Light, Signal

_MAP_LINES = ("dividers", "centre_lines", "kerbs", "drivable", "crossings", "stop_lines")


def map_to_json(lane_map: LaneMap) -> dict[str, Any]:
    lanes = [
        {
            "id": lane.id,
            "kind": lane.kind,
            "centre": lane.centre_P2.tolist(),
            "polygon": lane.polygon_Q2.tolist(),
            "speed_limit": None if math.isnan(lane.speed_limit) else lane.speed_limit,
            "successors": list(lane.successors),
            "left": lane.left,
            "right": lane.right,
            "in_junction": lane.in_junction,
        }
        for lane in lane_map.lanes
    ]
    lines = {name: [line.tolist() for line in getattr(lane_map, name)] for name in _MAP_LINES}
    return {"lanes": lanes, **lines, "lanes_complete": lane_map.lanes_complete}


def signals_to_json(signals: tuple[Signal, ...]) -> list[dict[str, Any]]:
    """What does not change of each light; its states are rows of signals.parquet."""
    return [
        {
            "id": s.id,
            "asset": s.asset,
            "pose": s.pose_3.tolist(),
            "stop_line": s.stop_line_22.tolist(),
            "lanes": list(s.lanes),
        }
        for s in signals
    ]


def signal_table(signals: tuple[Signal, ...]) -> pa.Table:
    """One row a light and change: the state from t on."""
    rows = [(float(t), s.id, Light(int(k)).name) for s in signals for t, k in zip(s.t_T, s.state_T, strict=True)]
    t, ids, states = ([row[k] for row in rows] for k in range(3))
    return pa.table(
        {"t": pa.array(t, pa.float64()), "id": pa.array(ids, pa.string()), "state": pa.array(states, pa.string())}
    )


def read_map(path: Path, known: bool) -> LaneMap:
    """`known`: whether clip.json says that the map tells what is drivable. Raises `InputError` by file and field."""
    data = read_json(path)
    lanes = [_lane(raw, f"{path}: lanes[{i}]") for i, raw in enumerate(field(data, "lanes", list, str(path)))]
    lines = {
        name: tuple(points_of(v, f"{path}: {name}[{i}]") for i, v in enumerate(field(data, name, list, str(path))))
        for name in _MAP_LINES
    }
    return LaneMap(
        tuple(lanes), **lines, drivable_known=known, lanes_complete=field(data, "lanes_complete", bool, str(path))
    )


def _lane(raw: Any, at: str) -> Lane:
    require(isinstance(raw, dict), at, "must be an object")
    limit = raw.get("speed_limit")
    for side in ("left", "right"):
        require(raw.get(side) is None or isinstance(raw[side], str), at, f"field '{side}' must be a lane id or null")
    kind = raw.get("kind", "car")  # older folders have car lanes only
    require(kind in LANE_KINDS, at, f"field 'kind' is {kind!r:.60}, expected one of {', '.join(LANE_KINDS)}")
    return Lane(
        id=field(raw, "id", str, at),
        centre_P2=points_of(field(raw, "centre", list, at), f"{at}.centre"),
        polygon_Q2=points_of(field(raw, "polygon", list, at), f"{at}.polygon", 3),
        speed_limit=math.nan if limit is None else field(raw, "speed_limit", float, at),
        successors=tuple(field(raw, "successors", list, at)),
        left=raw.get("left"),
        right=raw.get("right"),
        in_junction=field(raw, "in_junction", bool, at),
        kind=kind,
    )


def read_signals(map_path: Path, states_path: Path) -> tuple[Signal, ...]:
    """The lights of map.json (older folders name none) with their states from signals.parquet."""
    columns = read_table(states_path, ("t", "id", "state"))
    t_N = floats(columns, ("t",), states_path)["t"] if len(columns["t"]) else np.zeros(0)
    listed = read_json(map_path).get("signals", [])
    require(isinstance(listed, list), f"{map_path}: signals", f"must be a list; {MADE_AGAIN}")
    signals = []
    for i, raw in enumerate(listed):
        at = f"{map_path}: signals[{i}]"
        require(isinstance(raw, dict), at, "must be an object")
        name = field(raw, "id", str, at)
        rows = np.flatnonzero(columns["id"] == name)
        require(len(rows) > 0, str(states_path), f"has no row of signal '{name}'; {MADE_AGAIN}")
        require(bool((np.diff(t_N[rows]) > 0).all()), f"{states_path}: signal '{name}'", "column 't' must increase")
        states = enum_of(columns["state"][rows], Light, states_path, "state")
        signals.append(
            Signal(
                id=name,
                asset=field(raw, "asset", str, at),
                pose_3=_numbers(raw, "pose", (3,), at),
                stop_line_22=_numbers(raw, "stop_line", (2, 2), at),
                lanes=tuple(str(lane) for lane in field(raw, "lanes", list, at)),
                t_T=t_N[rows],
                state_T=np.array(states, np.int8),
            )
        )
    known = {s.id for s in signals}
    stray = sorted({str(name) for name in columns["id"]} - known)
    require(not stray, str(states_path), f"column 'id' holds {stray}, which map.json does not list under 'signals'")
    return tuple(signals)


def _numbers(raw: dict[str, Any], key: str, shape: tuple[int, ...], at: str) -> Array:
    try:
        values = np.array(field(raw, key, list, at), np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{at}: field '{key}' must hold numbers; {MADE_AGAIN}") from None
    require(values.shape == shape, at, f"field '{key}' has shape {values.shape}, expected {shape}")
    require(bool(np.isfinite(values).all()), at, f"field '{key}' holds NaN or infinity")
    return values
