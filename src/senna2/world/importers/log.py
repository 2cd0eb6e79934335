"""The plain value that every reader of recorded logs returns, and the few rules all readers share.

Legend: F frames, P points of a polyline, Q corners of a polygon (open ring). World frame: planar, metres about a local
origin (float64), x east, y north, yaw counter-clockwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from senna2.types import AgentClass, Array, VehicleShape, require

MOVED_M = 1.5  # an object that stays within this radius of its median position never moved (annotation jitter is less)


@dataclass(frozen=True, eq=False)
class LoggedTrack:
    """One annotated object. pose_F3: box centre (x, y, yaw) in the world, NaN where `valid_F` is False; size in m.

    `category` is the recording's own word for it.
    """

    id: str
    agent_class: AgentClass
    category: str
    length: float
    width: float
    height: float
    valid_F: Array
    pose_F3: Array


@dataclass(frozen=True, eq=False)
class LoggedLane:
    """A lane of the recording's map. polygon_Q2 is None where only the centre line is known. speed_limit m/s or NaN.
    kind: one of `scene.LANE_KINDS`."""

    id: str
    centre_P2: Array
    polygon_Q2: Array | None = None
    speed_limit: float = float("nan")
    successors: tuple[str, ...] = ()
    left: str | None = None
    right: str | None = None
    in_junction: bool = False
    kind: str = "car"


@dataclass(frozen=True, eq=False)
class RecordedLog:
    """A recording without images: the ego, the objects and the map, on a uniform clock of `dt` s.

    ego_pose_F3: rear axle (x, y, yaw). dividers, centre_lines: painted lines between lanes of one sense and between the
    two senses. edges: closed lines the map draws around the carriageway; they are *drawn*, not vouched for as drivable.
    drivable: polygons the map declares drivable, None where it does not say. dropped: (object, reason) of what the
    reader left out.
    """

    name: str
    source: str
    dt: float
    ego_shape: VehicleShape
    ego_pose_F3: Array
    tracks: tuple[LoggedTrack, ...]
    lanes: tuple[LoggedLane, ...] = ()
    dividers: tuple[Array, ...] = ()
    centre_lines: tuple[Array, ...] = ()
    edges: tuple[Array, ...] = ()
    crossings: tuple[Array, ...] = ()
    drivable: tuple[Array, ...] | None = None
    dropped: tuple[tuple[str, str], ...] = field(default=())

    @property
    def frames(self) -> int:
        return len(self.ego_pose_F3)

    def validate(self) -> Self:
        at = f"{self.source}: ego"
        require(self.dt > 0, f"{self.source}: time", "the step must be positive")
        require(self.frames >= 2, at, "needs at least two frames")
        require(
            bool(np.isfinite(self.ego_pose_F3).all()),
            at,
            "pose holds NaN; cut the log to frames with a known ego",
        )
        self.ego_shape.validate()
        for t in self.tracks:
            at = f"{self.source}: track {t.id}"
            require(
                t.pose_F3.shape == (self.frames, 3) and t.valid_F.shape == (self.frames,),
                at,
                "one row a frame",
            )
            require(bool(t.valid_F.any()), at, "is valid in no frame")
            require(bool(np.isfinite(t.pose_F3[t.valid_F]).all()), at, "pose holds NaN in a valid frame")
            sizes = (t.length, t.width, t.height)
            require(bool(np.isfinite(sizes).all()) and min(sizes) > 0, at, f"size {sizes} must be positive")
        for lane in self.lanes:
            ring = lane.centre_P2 if lane.polygon_Q2 is None else lane.polygon_Q2
            require(bool(np.isfinite(ring).all()), f"{self.source}: lane {lane.id}", "area holds NaN")
            require(
                bool(np.isfinite(lane.centre_P2).all()),
                f"{self.source}: lane {lane.id}",
                "centre line holds NaN",
            )
        for name in ("dividers", "centre_lines", "edges", "crossings"):
            for i, line in enumerate(getattr(self, name)):
                require(bool(np.isfinite(line).all()), f"{self.source}: {name}[{i}]", "holds NaN")
        for i, area in enumerate(self.drivable or ()):
            require(bool(np.isfinite(area).all()), f"{self.source}: drivable[{i}]", "holds NaN")
        return self


def moved(pose_F3: Array, valid_F: Array) -> bool:
    """Whether an object ever left the `MOVED_M` neighbourhood of its median position."""
    xy = pose_F3[valid_F, :2]
    return bool((np.hypot(*(xy - np.median(xy, axis=0)).T) > MOVED_M).any())


def drop_egos_own_track(
    tracks: Iterable[LoggedTrack], ego_pose_F3: Array, shape: VehicleShape
) -> tuple[tuple[LoggedTrack, ...], tuple[tuple[str, str], ...]]:
    """Leave out objects that *are* the ego: their centre lies inside the ego's box in most frames they are seen in.

    An object that merely touches the ego's box in passing stays: a contact in the data has to show, not to vanish.
    """
    kept, dropped = [], []
    for t in tracks:
        ego = ego_pose_F3[t.valid_F]
        delta = t.pose_F3[t.valid_F, :2] - ego[:, :2]
        c, s = np.cos(ego[:, 2]), np.sin(ego[:, 2])
        ahead = c * delta[:, 0] + s * delta[:, 1] - shape.centre_offset
        aside = -s * delta[:, 0] + c * delta[:, 1]
        inside = (np.abs(ahead) < shape.length / 2) & (np.abs(aside) < shape.width / 2)
        if inside.mean() > 0.5:
            dropped.append((t.id, f"{t.category}: lies inside the ego's box in {inside.sum()} of {len(inside)} frames"))
        else:
            kept.append(t)
    return tuple(kept), tuple(dropped)


def link_lanes(lanes: Sequence[LoggedLane], reach_m: float = 1.0, turn_rad: float = 0.6) -> tuple[LoggedLane, ...]:
    """Fill in the successors of lanes that have none: lanes that begin where it ends, in its direction. [ours]"""
    if not lanes:
        return ()
    starts = np.array([lane.centre_P2[0] for lane in lanes])
    first = np.array([_heading(lane.centre_P2[:2]) for lane in lanes])
    linked = []
    for i, lane in enumerate(lanes):
        if not lane.successors:
            near = np.hypot(*(starts - lane.centre_P2[-1]).T) < reach_m
            turn = np.angle(np.exp(1j * (first - _heading(lane.centre_P2[-2:]))))
            follow = [lanes[j].id for j in np.flatnonzero(near & (np.abs(turn) < turn_rad)).tolist() if j != i]
            lane = dataclasses.replace(lane, successors=tuple(follow))
        linked.append(lane)
    return tuple(linked)


def _heading(two_points_22: Array) -> float:
    dx, dy = two_points_22[1] - two_points_22[0]
    return float(np.arctan2(dy, dx))


def open_ring(ring_Q2: Array) -> Array:
    """A ring without its repeated last corner."""
    return ring_Q2[:-1] if len(ring_Q2) > 1 and np.allclose(ring_Q2[0], ring_Q2[-1]) else ring_Q2


def without_repeats(line_P2: Array) -> Array:
    """A polyline without points that repeat their predecessor (they have no direction)."""
    keep = np.concatenate([[True], np.hypot(*np.diff(line_P2, axis=0).T) > 1e-3])
    return line_P2[keep]
