"""Tiny recordings in the vendors' layouts, made from closed forms, and where the real ones lie if they are here."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pytest
from scipy.spatial.transform import Rotation

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
NUSCENES = ("0061", "0103", "0553", "0655")
CORNER = np.array([411_249.5, 5_180_743.25])  # far from the origin: float32 would lose decimetres here
FRAMES = 61


def real_log(name: str) -> Path:
    """A real recording beside the checkout, or skip: "0061" … or "av2"."""
    found = (
        [SHARED / "av2_sensor_7fab"]
        if name == "av2"
        else sorted(SHARED.glob(f"scenarionet_nuscenes_waymo/*/sd_nuscenes_v1.0-mini_scene-{name}.pkl"))
    )
    if not found or not found[0].exists():
        pytest.skip("shared/data is not beside this checkout")
    return found[0]


def state(xy, heading, size, valid=None) -> dict:
    """The arrays of one MetaDrive track; junk (zeros) where it is not valid, as the converter leaves it."""
    n = len(xy)
    valid = np.ones(n) if valid is None else np.asarray(valid, float)
    velocity = np.zeros((n, 2))
    velocity[:-1] = np.diff(xy, axis=0) / 0.1  # the last frame stays 0: the trap
    on = valid[:, None]
    return {
        "position": np.column_stack([xy + CORNER, np.zeros(n)]) * on,
        "heading": np.broadcast_to(np.asarray(heading, float), n) * valid,
        "velocity": velocity * on,
        "valid": valid,
        **{k: np.full((n, 1), v) * on for k, v in zip(("length", "width", "height"), size, strict=True)},
    }


def track(kind: str, category: str, arrays: dict) -> dict:
    return {"type": kind, "state": arrays, "metadata": {"type": category, "track_length": len(arrays["valid"])}}


def straight(x0, y0, v) -> np.ndarray:
    t = 0.1 * np.arange(FRAMES)
    return np.stack([x0 + v * t, np.full(FRAMES, y0)], 1)


def scenario(dataset: str = "nuscenes") -> dict:
    """The ego at 8 m/s along +x; a leader lost for a second, a parked car that trembles, people, a cone."""
    trembling = straight(30, 5, 0) + np.random.default_rng(0).normal(0, 0.04, (FRAMES, 2))
    seen = np.ones(FRAMES)
    seen[20:30] = 0
    lane = np.column_stack([np.linspace(-20, 30, 26), np.zeros(26), np.zeros(26)]) + np.append(CORNER, 0)
    after = np.column_stack([np.linspace(30, 90, 26), np.zeros(26), np.zeros(26)]) + np.append(CORNER, 0)
    ring = np.array([(-20, -1.75), (30, -1.75), (30, 1.75), (-20, 1.75)]) + CORNER
    edge = np.array([(-60.0, -5), (120, -5), (120, 8.5), (-60, 8.5), (-60, -5)]) + CORNER
    return {
        "id": f"{dataset}-tiny",
        "version": "test",
        "length": FRAMES,
        "metadata": {"dataset": dataset, "sdc_id": "ego", "ts": 0.1 * np.arange(FRAMES), "sample_rate": 0.1},
        "dynamic_map_states": {},
        "tracks": {
            "ego": track("VEHICLE", "vehicle.car", state(straight(0, 0, 8.0), 0.0, (1.73, 4.08, 1.56))),
            "leader": track("VEHICLE", "vehicle.car", state(straight(25, 0, 8.0), 0.0, (4.5, 1.8, 1.5), seen)),
            "parked": track(
                "VEHICLE", "vehicle.truck", state(trembling, 0.0, (7, 2.4, 3))
            ),
            "walker": track("PEDESTRIAN", "human.pedestrian.adult", state(straight(40, -7, 1.3), 0.0, (0.7, 0.7, 1.8))),
            "rider": track("CYCLIST", "vehicle.bicycle", state(straight(10, 6.0, 5.0), 0.0, (1.7, 0.6, 1.7))),
            "moped": track("CYCLIST", "vehicle.motorcycle", state(straight(5, 6.0, 5.0), 0.0, (2.0, 0.8, 1.5))),
            "cone": track("TRAFFIC_CONE", "cone", state(straight(20, -4, 0), 0.0, (0.4, 0.4, 0.7))),
            "shadow": track("VEHICLE", "vehicle.car", state(straight(1.2, 0, 8.0), 0.0, (4.1, 1.7, 1.5))),
            "never": track("VEHICLE", "vehicle.car", state(straight(9, 9, 0), 0.0, (4, 2, 1.5), np.zeros(FRAMES))),
        },
        "map_features": {
            "lane_a": {"type": "LANE_SURFACE_STREET", "polyline": lane, "polygon": ring.tolist()},
            "lane_b": {"type": "LANE_SURFACE_STREET", "polyline": [tuple(p) for p in after], "speed_limit_kmh": 100},
            "white": {"type": "ROAD_LINE_BROKEN_SINGLE_WHITE", "polyline": lane[:, :2] + (0, 1.75)},
            "yellow": {"type": "ROAD_LINE_SOLID_SINGLE_YELLOW", "polyline": (lane[:, :2] + (0, 5.25)).tolist()},
            "boundary_0": {"type": "ROAD_LINE_SOLID_SINGLE_WHITE", "polyline": edge},
        },
    }  # fmt: skip


def write_pickle(path: Path, content, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def write_argoverse2(folder: Path, *, tilt_deg: float = 3.0, area_half: float = 8.0) -> Path:
    """A log folder: the ego at 8 m/s up a tilted road turning gently left, objects placed in the *city* and written as
    they would be annotated, in the ego's frame."""
    (folder / "map").mkdir(parents=True)
    start_ns = 315_966_253_660_357_000
    fine = np.arange(-0.05, 0.1 * FRAMES + 0.05, 0.01)
    yaw, pitch = 0.3 + 0.02 * fine, np.deg2rad(-tilt_deg)
    radius = 8.0 / 0.02
    xy = CORNER + radius * np.stack([np.sin(yaw) - np.sin(0.3), np.cos(0.3) - np.cos(yaw)], 1)
    z = 60 + 8.0 * fine * np.sin(-pitch)
    rotation = Rotation.from_euler("ZYX", np.stack([yaw, np.full_like(yaw, pitch), np.zeros_like(yaw)], 1))
    ego = {
        "timestamp_ns": start_ns + np.rint(fine * 1e9).astype(np.int64),
        **_pose_columns(rotation, np.column_stack([xy, z])),
    }
    feather.write_feather(pa.table(ego), folder / "city_SE3_egovehicle.feather")

    rows: dict[str, list] = {}
    sweeps = [k for k in range(FRAMES) if k != 40]  # one sweep is missing
    for uuid, category, size, place, seen in _av2_objects():
        for k in sweeps:
            if not seen(k):
                continue
            i = int(np.argmin(np.abs(fine - 0.1 * k)))
            centre, heading = place(0.1 * k)
            in_city = Rotation.from_euler("z", heading)
            relative = rotation[i].inv()
            quat = (relative * in_city).as_quat()
            at = relative.apply(np.array([*(CORNER + centre), z[i] + 0.8]) - np.array([*xy[i], z[i]]))
            row = {"timestamp_ns": start_ns + k * 100_000_000 + (137_000 if k % 3 else -210_000) * (k > 0),
                   "track_uuid": uuid, "category": category, "length_m": size[0],
                   "width_m": size[1], "height_m": size[2],
                   "qw": quat[3], "qx": quat[0], "qy": quat[1], "qz": quat[2],
                   "tx_m": at[0], "ty_m": at[1], "tz_m": at[2]}  # fmt: skip
            for name, value in row.items():
                rows.setdefault(name, []).append(value)
    feather.write_feather(pa.table(rows), folder / "annotations.feather")
    content = _av2_map(area_half)
    (folder / "map" / "log_map_archive_tiny____PIT_city_1.json").write_text(json.dumps(content))
    return folder


def _pose_columns(rotation: Rotation, xyz: np.ndarray) -> dict:
    q = rotation.as_quat()
    return {
        "qw": q[:, 3],
        "qx": q[:, 0],
        "qy": q[:, 1],
        "qz": q[:, 2],
        "tx_m": xyz[:, 0],
        "ty_m": xyz[:, 1],
        "tz_m": xyz[:, 2],
    }


def along(s: float, d: float = 0.0) -> tuple[float, float]:
    """City point (from `CORNER`) at s m along the fixture's road and d m to its left."""
    radius, yaw = 8.0 / 0.02, 0.3 + 0.02 * s / 8.0
    point = radius * np.array([np.sin(yaw) - np.sin(0.3), np.cos(0.3) - np.cos(yaw)])
    return tuple(point + d * np.array([-np.sin(yaw), np.cos(yaw)]))


def _av2_objects() -> list:
    def always(k: int) -> bool:
        return True

    return [
        (
            "car",
            "REGULAR_VEHICLE",
            (4.6, 1.9, 1.6),
            lambda t: (along(30 + 8 * t), 0.3 + 0.02 * (30 + 8 * t) / 8),
            always,
        ),
        ("parked", "REGULAR_VEHICLE", (4.6, 1.9, 1.6), lambda t: (along(40, -5.5), 0.4), lambda k: k < 15 or k > 25),
        ("bus", "BUS", (11.0, 2.6, 3.2), lambda t: (along(90 - 6 * t, 5.2), 3.4), always),
        ("bike_rack", "BICYCLE", (1.7, 0.6, 1.0), lambda t: (along(20, -9.0), 1.0), always),
        ("bike", "BICYCLE", (1.7, 0.6, 1.0), lambda t: (along(5 + 4 * t, -6.5), 0.35), always),
        ("ped", "PEDESTRIAN", (0.6, 0.6, 1.8), lambda t: (along(50, -8 + 0.5 * t), 1.9), always),
        ("cone", "CONSTRUCTION_CONE", (0.4, 0.4, 0.9), lambda t: (along(25, -4.5), 0.0), lambda k: k == 7),
    ]


def _av2_map(area_half: float) -> dict:
    s = np.linspace(-40, 160, 41)

    def points(line_s, d) -> list[dict]:
        at = [along(float(v), d) + CORNER for v in line_s]
        return [{"x": float(p[0]), "y": float(p[1]), "z": 60.0} for p in at]

    def segment(name: int, line_s, left: float, right: float, *, back: bool = False, **rest) -> dict:
        lo, hi = (points(line_s, left), points(line_s, right))
        if back:
            lo, hi = hi[::-1], lo[::-1]
        return {"id": name, "is_intersection": False, "lane_type": "VEHICLE",
                "left_lane_boundary": lo, "right_lane_boundary": hi,
                "left_lane_mark_type": "SOLID_YELLOW", "right_lane_mark_type": "NONE", "successors": [],
                "predecessors": [], "left_neighbor_id": None, "right_neighbor_id": None, **rest}  # fmt: skip

    first, second = s[:21], s[20:]
    lanes = [
        segment(1, first, 2.0, -area_half, successors=[2], left_neighbor_id=3),
        segment(2, second, 2.0, -area_half, successors=[99], left_neighbor_id=3),
        segment(3, s, area_half, 2.0, back=True, left_neighbor_id=1),
    ]
    ring = points(np.linspace(-40, 130, 35), area_half) + points(np.linspace(130, -40, 35), -area_half)
    edge = {"edge1": points([60, 60], -8)[:1] + points([60], 8), "edge2": points([64], -8) + points([64], 8)}
    return {
        "lane_segments": {str(lane["id"]): lane for lane in lanes},
        "drivable_areas": {"7": {"id": 7, "area_boundary": ring}},
        "pedestrian_crossings": {"8": {"id": 8, **edge}},
    }
