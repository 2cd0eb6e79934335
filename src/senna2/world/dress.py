"""A recorded log without images → a drivable 3DGS clip.

The ego, every object and the map come from the recording; looks come from the town's own models, scaled to each box.
What the recording does not say is not made up: unknown speed limits stay NaN, and kerbs exist only where the map
declares what is drivable.

Legend: F frames of the log, T frames of a track, E frames of the expert, P points of a line, N things.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from senna2.frames import along_polyline, sample_polyline, wrap
from senna2.types import AgentClass, Array, Direction, InputError, Rig
from senna2.world.dress_map import build_map, lane_changes, limits_along
from senna2.world.dress_surfaces import background
from senna2.world.gaussians import GaussianCloud
from senna2.world.importers.argoverse2 import is_argoverse2, read_argoverse2
from senna2.world.importers.log import LoggedTrack, RecordedLog, moved
from senna2.world.importers.metadrive import is_metadrive, read_metadrive
from senna2.world.scene import BRAKE, Expert, Scene, SceneMeta, Track
from senna2.world.town.assets import make_asset
from senna2.world.town.people import bicycle

LONGEST_BICYCLE = 2.5  # m; a longer "bicycle" is a rack of them
LOOKS = 24  # paints and clothes an asset may have; sizes are never rounded
ROUTE_STEP = 2.0  # m between route points
ROUTE_AHEAD = 5.0  # m the route runs straight on after the last recorded pose
ROUTE_SHORTEST = 30.0  # m, for an ego that hardly moves: a driver must still be told where to
TURN_RAD = np.deg2rad(30.0)
TURN_WINDOW_S = (-0.5, 3.0)  # heading change from a moment before to this far ahead makes a TURN
COMMAND_AHEAD_S = 4.0  # navigation names a manoeuvre this much before it begins
BRAKING = -0.6  # m/s², mean over a second, from which on brake lights burn


class Reader(NamedTuple):
    """How one kind of log is recognised and read."""

    what: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], RecordedLog]


DRESS_READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "metadrive": Reader("a MetaDrive/ScenarioNet scenario (.pkl)", is_metadrive, read_metadrive),
        "argoverse2": Reader("an Argoverse 2 sensor log folder", is_argoverse2, read_argoverse2),
    }
)


def read_log(path: Path | str) -> RecordedLog:
    """The log at `path`, by whichever reader recognises it. Raises `InputError` if none does or the log is bad."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: does not exist; give one of: {_known()}")
    for reader in DRESS_READERS.values():
        if reader.recognises(path):
            return reader.read(path)
    raise InputError(f"{path}: no known kind of log; give one of: {_known()}")


def dress_log(path: Path | str) -> Scene:
    """A recorded log on disk → a validated, drivable clip (family and split "recorded").

    Raises `InputError` naming the file, the field and the fix for a log that cannot be read.
    """
    return dress(read_log(path))


def dress(log: RecordedLog) -> Scene:
    """A `RecordedLog` → a validated clip. Deterministic: looks and scenery are seeded by the log's name."""
    log.validate()
    seed = zlib.crc32(log.name.encode())
    expert = _expert(log)
    route_P2 = _route(log.ego_pose_F3)
    tracks, assets = _tracks(log, seed)
    lane_map = build_map(log, route_P2)
    return Scene(
        meta=SceneMeta(log.name, "recorded", "recorded", seed, log.dt, source=_source(log), ego_shape=log.ego_shape),
        background=background(log, lane_map, route_P2, seed),
        assets=assets,
        tracks=tracks,
        map=lane_map,
        rig=Rig.default(),
        expert=expert,
        route_P2=route_P2,
        speed_limit_P=limits_along(lane_map, route_P2),
    ).validate(f"{log.source}")


def _known() -> str:
    return "; ".join(reader.what for reader in DRESS_READERS.values())


def _source(log: RecordedLog) -> str:
    """Where the clip comes from, with what was left out of it: nothing vanishes silently."""
    left_out = "; ".join(f"{name} ({why})" for name, why in log.dropped)
    return log.source + (f"; {len(log.dropped)} objects left out: {left_out}" if left_out else "")


# ---------------------------------------------------------------- ego


def _expert(log: RecordedLog) -> Expert:
    pose_E3 = log.ego_pose_F3.copy()
    v_E = _speeds(pose_E3, log.dt)
    direction_E = _directions(log)
    return Expert(log.dt * np.arange(len(v_E)), pose_E3, v_E, direction_E, _navigation(direction_E, log.dt))


def _speeds(pose_T3: Array, dt: float) -> Array:
    """Speeds (T,) in m/s from positions alone: recorded velocities have holes (a last frame of 0, say).

    Step velocities go through a median of five, because recordings lose messages and then show single steps of twice
    the length, and a mean of five, as vectors, so that annotation jitter cancels instead of adding up. [ours]
    """
    if len(pose_T3) < 2:
        return np.zeros(len(pose_T3))
    step_S2 = np.diff(pose_T3[:, :2], axis=0) / dt
    calm = _windowed(_windowed(step_S2, 5, np.median), 5, np.mean)
    at_T2 = np.concatenate([calm[:1], (calm[1:] + calm[:-1]) / 2, calm[-1:]])
    return np.hypot(at_T2[:, 0], at_T2[:, 1])


def _windowed(values_S2: Array, width: int, reduce: Callable[..., Array]) -> Array:
    """A centred running reduction whose window shrinks at the ends and stays symmetric."""
    n, out = len(values_S2), np.empty_like(values_S2)
    for i in range(n):
        h = min(width // 2, i, n - 1 - i)
        out[i] = reduce(values_S2[i - h : i + h + 1], axis=0)
    return out


def _directions(log: RecordedLog) -> Array:
    """Annotated `Direction` of each frame: TURN while the heading changes by more than 30° within the next seconds,
    else a lane change where the map knows neighbours, else STRAIGHT. [ours]"""
    yaw = np.unwrap(log.ego_pose_F3[:, 2])
    frames = np.arange(len(yaw))
    before, after = (np.clip(frames + round(s / log.dt), 0, len(yaw) - 1) for s in TURN_WINDOW_S)
    change = yaw[after] - yaw[before]
    direction = lane_changes(log, round(TURN_WINDOW_S[1] / log.dt))
    direction[change > TURN_RAD] = Direction.TURN_LEFT
    direction[change < -TURN_RAD] = Direction.TURN_RIGHT
    return direction.astype(np.int8)


def _navigation(direction_E: Array, dt: float) -> Array:
    """The command at each frame: the manoeuvre under way, or the next one that begins within `COMMAND_AHEAD_S`."""
    out = direction_E.copy()
    ahead = round(COMMAND_AHEAD_S / dt)
    for i in np.flatnonzero(direction_E == Direction.STRAIGHT):
        coming = direction_E[i : i + ahead + 1]
        coming = coming[coming != Direction.STRAIGHT]
        if len(coming):
            out[i] = coming[0]
    return out


def _route(pose_F3: Array) -> Array:
    """The recorded path as a polyline of even steps, running straight on at its end; standing jitter is left out."""
    kept = [pose_F3[0, :2]]
    for point in pose_F3[1:, :2]:
        if np.hypot(*(point - kept[-1])) > 0.3:
            kept.append(point)
    x, y, yaw = pose_F3[-1]
    length = float(along_polyline(np.array(kept))[-1]) if len(kept) > 1 else 0.0
    ahead = max(ROUTE_AHEAD, ROUTE_SHORTEST - length)
    kept.append(np.array([x + ahead * np.cos(yaw), y + ahead * np.sin(yaw)]))
    line = np.array(kept)
    total = float(along_polyline(line)[-1])
    return sample_polyline(line, np.linspace(0.0, total, max(2, round(total / ROUTE_STEP) + 1)))[0]


# ---------------------------------------------------------------- objects


def _tracks(log: RecordedLog, seed: int) -> tuple[tuple[Track, ...], dict[str, GaussianCloud]]:
    """Every object of the log as tracks without gaps (`id#1`, `id#2` where it was lost between), and their assets."""
    tracks: list[Track] = []
    assets: dict[str, GaussianCloud] = {}
    for logged in log.tracks:
        look = zlib.crc32(logged.id.encode()) % LOOKS
        size = (logged.length, logged.width, logged.height)
        kind = logged.agent_class
        # A bicycle that stands all the time is a parked one: nobody is drawn on it. [ours]
        is_bicycle = "bicycle" in logged.category.lower() and logged.length < LONGEST_BICYCLE
        bare = is_bicycle and not moved(logged.pose_F3, logged.valid_F)
        name = ("bicycle-" if bare else f"{kind.name.lower()}-") + "x".join(f"{m:.3f}" for m in size) + f"-{look}"
        runs = _runs(logged.valid_F)
        parts = [_track(logged, run, f"#{i + 1}" if len(runs) > 1 else "", name, log.dt) for i, run in enumerate(runs)]
        wanted = {""}
        if any((t.lights_T & BRAKE).any() for t in parts):
            wanted.add(".brake")
        if kind in (AgentClass.PEDESTRIAN, AgentClass.CYCLIST) and any((t.v_T > 0.2).any() for t in parts):
            wanted.add(".step")
        paint = seed % 1000 + look
        made = bicycle(*size, np.random.default_rng(paint)) if bare else make_asset(kind, *size, seed=paint)
        assets.update({f"{name}{suffix}": cloud for suffix, cloud in made.items() if suffix in wanted})
        tracks += parts
    return tuple(tracks), assets


def _runs(valid_F: Array) -> list[slice]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], valid_F.astype(np.int8), [0]])))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _track(logged: LoggedTrack, run: slice, suffix: str, asset: str, dt: float) -> Track:
    pose_T3 = logged.pose_F3[run].copy()
    pose_T3[:, 2] = wrap(pose_T3[:, 2])
    goes = logged.agent_class != AgentClass.STATIC and moved(logged.pose_F3, logged.valid_F)
    # Annotated boxes of parked cars tremble by centimetres a frame; that is no speed. [ours]
    v_T = _speeds(pose_T3, dt) if goes else np.zeros(len(pose_T3))
    lights_T = np.where(_brakes(logged.agent_class, v_T, dt) & goes, BRAKE, 0).astype(np.int8)
    t_T = dt * np.arange(run.start, run.stop)
    return Track(
        f"{logged.id}{suffix}", logged.agent_class, asset, logged.length, logged.width, logged.height,
        t_T, pose_T3, v_T, lights_T,
    )  # fmt: skip


def _brakes(agent_class: AgentClass, v_T: Array, dt: float) -> Array:
    """Brake lights of motor vehicles: while slowing down, and while held at a stop. Keyframes 0.5 s apart make steps
    of speed, so the acceleration is the mean over a second. [ours]"""
    if agent_class in (AgentClass.CYCLIST, AgentClass.PEDESTRIAN, AgentClass.STATIC):
        return np.zeros(len(v_T), bool)
    half = max(1, round(0.5 / dt))
    frames = np.arange(len(v_T))
    before, after = np.clip(frames - half, 0, None), np.clip(frames + half, None, len(v_T) - 1)
    a_T = (v_T[after] - v_T[before]) / (np.maximum(after - before, 1) * dt)
    return (a_T < BRAKING) | (v_T < 0.3)
