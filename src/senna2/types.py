"""The values that pass between rooms: numpy, immutable, each with `validate()` and `fake()`.

Legend of shape suffixes: N samples, F frames, A agents, L polylines, P points of a polyline, R route points,
T plan steps, K image history, S kerb segments, V views. Padded rows of float arrays are NaN, of class arrays -1.
Units are SI and radians; x forward, y left, z up; the ego's origin is its rear axle on the ground.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Self

import numpy as np

Array = np.ndarray

PLAN_STEPS = 30  # points of a plan (3 s at 0.1 s); the horizon of the open-loop metrics
PLAN_DT = 0.1  # s between them
MAX_AGENTS = 24  # nearest agents kept in an observation
MAX_LANES = 12  # nearest polylines kept in an observation
LANE_POINTS = 10
ROUTE_POINTS = 20
ROUTE_SPACING = 3.0  # m between route points
MAX_KERBS = 64  # kerb segments kept beside a sample (open-loop static collisions)


class InputError(ValueError):
    """Bad input of the user: names the file, the field and the fix. The command line turns it into exit code 2."""


class Speed(IntEnum):
    """Longitudinal half of a meta-action. UNKNOWN is a mask, never a class."""

    ACCELERATE = 0
    DECELERATE = 1
    KEEP = 2
    STOP = 3
    UNKNOWN = -1


class Direction(IntEnum):
    """Lateral half of a meta-action, and the vocabulary of navigation commands."""

    STRAIGHT = 0
    TURN_LEFT = 1
    TURN_RIGHT = 2
    CHANGE_LEFT = 3
    CHANGE_RIGHT = 4
    UNKNOWN = -1


class Path(IntEnum):
    """Direction folded to what f_K can tell from a trajectory."""

    STRAIGHT = 0
    LEFT = 1
    RIGHT = 2


class AgentClass(IntEnum):
    CAR = 0
    VAN = 1
    TRUCK = 2
    BUS = 3
    MOTORCYCLE = 4
    CYCLIST = 5
    PEDESTRIAN = 6
    STATIC = 7  # cones, barriers, trailers at rest: a box that never moves by itself


class LaneKind(IntEnum):
    """Kinds of the polylines of an observation."""

    ROUTE_LANE = 0  # centre line of the lane the ego's route follows
    LANE = 1  # any other centre line
    DIVIDER = 2
    KERB = 3


def require(condition: bool, where: str, what: str) -> None:
    """Raise `InputError` with the field's name unless `condition` holds."""
    if not condition:
        raise InputError(f"{where}: {what}")


def _shape(value: Array, shape: tuple[int | None, ...], where: str) -> None:
    ok = value.ndim == len(shape) and all(
        s is None or s == n for s, n in zip(shape, value.shape, strict=True)
    )
    wanted = tuple("?" if s is None else s for s in shape)
    require(ok, where, f"shape {value.shape}, expected {wanted}")


@dataclass(frozen=True)
class Decision:
    """A meta-action: speed × direction (paper: 4 × 5 = 20 combinations)."""

    speed: Speed
    direction: Direction

    @classmethod
    def fake(cls) -> Self:
        return cls(Speed.KEEP, Direction.STRAIGHT)


@dataclass(frozen=True)
class VehicleShape:
    """The ego's body; the pose is its rear axle. Lengths in m."""

    length: float = 4.6
    width: float = 1.9
    height: float = 1.6
    wheelbase: float = 2.8
    rear_overhang: float = 0.9  # rear axle to rear bumper

    @property
    def front(self) -> float:
        """Rear axle to front bumper."""
        return self.length - self.rear_overhang

    @property
    def centre_offset(self) -> float:
        """Rear axle to the box's centre, along the heading."""
        return self.length / 2 - self.rear_overhang

    def validate(self) -> Self:
        for name in ("length", "width", "height", "wheelbase"):
            require(getattr(self, name) > 0, f"VehicleShape.{name}", "must be positive")
        require(
            0 <= self.rear_overhang < self.length, "VehicleShape.rear_overhang", "must lie within the length"
        )
        return self

    @classmethod
    def fake(cls) -> Self:
        return cls()


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera fixed to the ego.

    `cam_to_ego_44` maps OpenCV camera axes (x right, y down, z forward) to ego axes. `near` in m: large ground
    gaussians close to a car's camera paint a veil over the image unless they are cut at about 1 m.
    `history_s`: ages of the frames an observation carries, oldest first, the last one 0.
    """

    name: str
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    cam_to_ego_44: Array
    near: float = 1.0
    history_s: tuple[float, ...] = (0.0,)

    def validate(self) -> Self:
        where = f"Camera[{self.name}]"
        require(self.width > 0 and self.height > 0, where, "width and height must be positive")
        require(self.fx > 0 and self.fy > 0, where, "fx and fy must be positive")
        _shape(self.cam_to_ego_44, (4, 4), f"{where}.cam_to_ego_44")
        require(bool(np.isfinite(self.cam_to_ego_44).all()), f"{where}.cam_to_ego_44", "must be finite")
        rot = self.cam_to_ego_44[:3, :3]
        require(
            np.allclose(rot @ rot.T, np.eye(3), atol=1e-5),
            f"{where}.cam_to_ego_44",
            "rotation is not orthonormal",
        )
        require(
            len(self.history_s) > 0 and self.history_s[-1] == 0.0, f"{where}.history_s", "must end with 0.0"
        )
        require(
            list(self.history_s) == sorted(self.history_s, reverse=True), f"{where}.history_s", "oldest first"
        )
        return self

    @classmethod
    def looking(
        cls,
        name: str,
        *,
        yaw_deg: float,
        fov_deg: float,
        width: int,
        height: int,
        horizon_row: float,
        position_in_ego: tuple[float, float, float],
        history_s: tuple[float, ...] = (0.0,),
    ) -> Self:
        """A level camera by horizontal field of view; `horizon_row` crops sky without changing the optics."""
        f = width / 2 / math.tan(math.radians(fov_deg) / 2)
        c, s = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
        m = np.eye(4)
        m[:3, 0] = (s, -c, 0.0)  # camera right
        m[:3, 1] = (0.0, 0.0, -1.0)  # camera down
        m[:3, 2] = (c, s, 0.0)  # camera forward
        m[:3, 3] = position_in_ego
        return cls(name, width, height, f, f, width / 2, horizon_row, m, history_s=history_s)

    @classmethod
    def fake(cls) -> Self:
        return cls.looking("front", yaw_deg=0, fov_deg=80, width=32, height=16, horizon_row=6,
                           position_in_ego=(1.6, 0.0, 1.5))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rig:
    """The cameras of a clip; exactly one is called `front` (the VLM's view)."""

    cameras: tuple[Camera, ...]

    def __getitem__(self, name: str) -> Camera:
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise InputError(f"rig: no camera '{name}'; it has {[c.name for c in self.cameras]}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.cameras)

    def validate(self) -> Self:
        require(len(set(self.names)) == len(self.names), "rig", f"camera names repeat: {self.names}")
        require("front" in self.names, "rig", f"has no camera 'front'; it has {self.names}")
        for camera in self.cameras:
            camera.validate()
        return self

    @classmethod
    def default(cls) -> Self:
        """The rig of generated clips: front 80° with the sky cropped; left, right and rear at half resolution.

        168 × 56 is a whole number of 28-pixel visual tokens, so the VLM reads the front frame unscaled.
        The front camera carries the frame of 0.4 s ago as well (closing speed).
        """
        top = 1.55
        return cls(
            (
                Camera.looking("front", yaw_deg=0, fov_deg=80, width=168, height=56, horizon_row=20,
                               position_in_ego=(1.7, 0.0, top), history_s=(0.4, 0.0)),
                Camera.looking("left", yaw_deg=90, fov_deg=100, width=84, height=28, horizon_row=10,
                               position_in_ego=(1.2, 0.5, top)),
                Camera.looking("right", yaw_deg=-90, fov_deg=100, width=84, height=28, horizon_row=10,
                               position_in_ego=(1.2, -0.5, top)),
                Camera.looking("rear", yaw_deg=180, fov_deg=80, width=84, height=28, horizon_row=10,
                               position_in_ego=(0.4, 0.0, top)),
            )
        )  # fmt: skip

    @classmethod
    def fake(cls) -> Self:
        return cls((Camera.fake(),))


@dataclass(frozen=True)
class EgoState:
    """Ego pose in the world (rear axle) and motion. m, rad, m/s, m/s²; `steer` is the front wheel angle."""

    x: float
    y: float
    yaw: float
    v: float
    a: float = 0.0
    steer: float = 0.0

    def validate(self) -> Self:
        for f in dataclasses.fields(self):
            require(math.isfinite(getattr(self, f.name)), f"EgoState.{f.name}", "must be finite")
        require(self.v >= 0, "EgoState.v", "must not be negative")
        return self

    def as_array(self) -> Array:
        return np.array([self.x, self.y, self.yaw, self.v, self.a, self.steer])

    @classmethod
    def fake(cls) -> Self:
        return cls(0.0, 0.0, 0.0, 8.0)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Points (T, 2) in a named frame at a fixed step. A plan's first point is one `dt` after now."""

    points_T2: Array
    dt: float
    yaw_T: Array | None = None

    def validate(self) -> Self:
        _shape(self.points_T2, (None, 2), "Trajectory.points_T2")
        require(bool(np.isfinite(self.points_T2).all()), "Trajectory.points_T2", "must be finite")
        require(self.dt > 0, "Trajectory.dt", "must be positive")
        if self.yaw_T is not None:
            _shape(self.yaw_T, (len(self.points_T2),), "Trajectory.yaw_T")
            require(bool(np.isfinite(self.yaw_T).all()), "Trajectory.yaw_T", "must be finite")
        return self

    @classmethod
    def fake(cls, v: float = 8.0) -> Self:
        x = v * PLAN_DT * np.arange(1, PLAN_STEPS + 1)
        return cls(np.stack([x, np.zeros_like(x)], 1), PLAN_DT)


@dataclass(frozen=True, eq=False)
class StateObservation:
    """Privileged state around the ego, in the ego frame, nearest first, padded (`obs="state"`).

    boxes_A6: x, y, yaw of the box's centre, length, width, speed. lanes_LP2 with kinds of `LaneKind`.
    """

    boxes_A6: Array
    classes_A: Array
    lanes_LP2: Array
    lane_kinds_L: Array
    route_R2: Array

    def validate(self) -> Self:
        _shape(self.boxes_A6, (MAX_AGENTS, 6), "StateObservation.boxes_A6")
        _shape(self.classes_A, (MAX_AGENTS,), "StateObservation.classes_A")
        _shape(self.lanes_LP2, (MAX_LANES, LANE_POINTS, 2), "StateObservation.lanes_LP2")
        _shape(self.lane_kinds_L, (MAX_LANES,), "StateObservation.lane_kinds_L")
        _shape(self.route_R2, (ROUTE_POINTS, 2), "StateObservation.route_R2")
        require(
            bool(np.isfinite(self.boxes_A6[self.classes_A >= 0]).all()),
            "StateObservation.boxes_A6",
            "NaN in use",
        )
        require(
            bool(np.isfinite(self.lanes_LP2[self.lane_kinds_L >= 0]).all()),
            "StateObservation.lanes_LP2",
            "NaN in use",
        )
        return self

    @classmethod
    def fake(cls) -> Self:
        boxes = np.full((MAX_AGENTS, 6), np.nan, np.float32)
        boxes[0] = (20, 0, 0, 4.5, 1.8, 6)
        classes = np.full(MAX_AGENTS, -1, np.int8)
        classes[0] = AgentClass.CAR
        lanes = np.full((MAX_LANES, LANE_POINTS, 2), np.nan, np.float32)
        lanes[0, :, 0], lanes[0, :, 1] = np.linspace(0, 45, LANE_POINTS), 0.0
        kinds = np.full(MAX_LANES, -1, np.int8)
        kinds[0] = LaneKind.ROUTE_LANE
        route = np.zeros((ROUTE_POINTS, 2), np.float32)
        route[:, 0] = ROUTE_SPACING * np.arange(1, ROUTE_POINTS + 1)
        return cls(boxes, classes, lanes, kinds, route)


@dataclass(frozen=True, eq=False)
class Observation:
    """What a policy sees at one instant; no world pose and no clip name (a driver must not know where it is tested).

    motion_4: v, a, yaw rate, steer. `images[name]` is (K, H, W, 3) uint8, oldest first. `speed_limit` NaN if unknown.
    """

    t_s: float
    motion_4: Array
    navigation: Direction
    speed_limit: float
    instruction: str = ""
    images: Mapping[str, Array] = field(default_factory=dict)
    state: StateObservation | None = None

    @property
    def v(self) -> float:
        return float(self.motion_4[0])

    def validate(self) -> Self:
        _shape(self.motion_4, (4,), "Observation.motion_4")
        require(bool(np.isfinite(self.motion_4).all()), "Observation.motion_4", "must be finite")
        for name, image in self.images.items():
            _shape(image, (None, None, None, 3), f"Observation.images[{name}]")
            require(
                image.dtype == np.uint8, f"Observation.images[{name}]", f"dtype {image.dtype}, expected uint8"
            )
        if self.state is not None:
            self.state.validate()
        return self

    @classmethod
    def fake(cls, rig: Rig | None = None, seed: int = 0) -> Self:
        rng = np.random.default_rng(seed)
        rig = rig or Rig.fake()
        images = {
            c.name: rng.integers(0, 256, (len(c.history_s), c.height, c.width, 3), np.uint8)
            for c in rig.cameras
        }
        motion = np.array([8.0, 0.0, 0.0, 0.0], np.float32)
        return cls(0.0, motion, Direction.STRAIGHT, 13.9, "", images, StateObservation.fake())


@dataclass(frozen=True, eq=False)
class Plan:
    """What a policy returns: where it goes, what was decided, and how old that decision is.

    `vlm_decision` is what the VLM said, `decision` what the planner was given (they differ when one is forced).
    """

    trajectory: Trajectory
    decision: Decision | None = None
    vlm_decision: Decision | None = None
    decision_age_s: float = 0.0
    speed_probs_4: Array | None = None

    def validate(self) -> Self:
        self.trajectory.validate()
        return self

    @classmethod
    def fake(cls) -> Self:
        return cls(Trajectory.fake(), Decision.fake(), Decision.fake())


@dataclass(frozen=True, eq=False)
class Plans:
    """Plans of N samples stacked. speed_N, direction_N: the decision given to the planner (-1: none)."""

    points_NT2: Array
    speed_N: Array
    direction_N: Array
    vlm_speed_N: Array
    vlm_direction_N: Array

    def __len__(self) -> int:
        return len(self.points_NT2)

    def validate(self) -> Self:
        n = len(self)
        _shape(self.points_NT2, (n, PLAN_STEPS, 2), "Plans.points_NT2")
        require(bool(np.isfinite(self.points_NT2).all()), "Plans.points_NT2", "must be finite")
        for name in ("speed_N", "direction_N", "vlm_speed_N", "vlm_direction_N"):
            _shape(getattr(self, name), (n,), f"Plans.{name}")
        return self

    @classmethod
    def stack(cls, plans: Sequence[Plan]) -> Self:
        def column(decision: str, part: str) -> Array:
            given = [getattr(p, decision) for p in plans]
            return np.array([-1 if d is None else int(getattr(d, part)) for d in given], np.int8)

        return cls(
            np.stack([p.trajectory.points_T2 for p in plans]).astype(np.float32),
            column("decision", "speed"),
            column("decision", "direction"),
            column("vlm_decision", "speed"),
            column("vlm_decision", "direction"),
        )

    @classmethod
    def fake(cls, n: int = 4) -> Self:
        return cls.stack([Plan.fake()] * n)


@dataclass(frozen=True, eq=False)
class Samples:
    """N training or open-loop samples as a struct of arrays; everything in the ego frame of its own instant.

    future_NT3: the expert's (x, y, yaw) at 0.1 … 3.0 s. speed_N: f_K of it (UNKNOWN -1); direction_N: annotated.
    agent_futures_NAT3: (x, y, yaw) of every box's centre at 0, 0.1 … 3.0 s, so T is PLAN_STEPS + 1 there.
    kerbs_NS4: kerb segments (x0, y0, x1, y1); `has_kerbs_N` tells "no kerb near" from "the map has none".
    counterfactual_N: the expert was forced (to `speed_N`) from this instant. clip_N indexes `clips`.
    index_N: global sample number; noise and time steps are keyed by it, so batches and ranks do not matter.
    """

    motion_N4: Array
    navigation_N: Array
    speed_limit_N: Array
    instruction_N: tuple[str, ...]
    images: Mapping[str, Array]
    boxes_NA6: Array
    classes_NA: Array
    lanes_NLP2: Array
    lane_kinds_NL: Array
    route_NR2: Array
    future_NT3: Array
    speed_N: Array
    direction_N: Array
    counterfactual_N: Array
    agent_futures_NAT3: Array
    kerbs_NS4: Array
    has_kerbs_N: Array
    clip_N: Array
    frame_N: Array
    index_N: Array
    clips: tuple[str, ...]
    families: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.motion_N4)

    def validate(self) -> Self:
        n, t = len(self), PLAN_STEPS
        shapes: dict[str, tuple[int, ...]] = {
            "motion_N4": (n, 4), "navigation_N": (n,), "speed_limit_N": (n,), "boxes_NA6": (n, MAX_AGENTS, 6),
            "classes_NA": (n, MAX_AGENTS), "lanes_NLP2": (n, MAX_LANES, LANE_POINTS, 2), "lane_kinds_NL": (n, MAX_LANES),
            "route_NR2": (n, ROUTE_POINTS, 2), "future_NT3": (n, t, 3), "speed_N": (n,), "direction_N": (n,),
            "counterfactual_N": (n,), "agent_futures_NAT3": (n, MAX_AGENTS, t + 1, 3), "kerbs_NS4": (n, MAX_KERBS, 4),
            "has_kerbs_N": (n,), "clip_N": (n,), "frame_N": (n,), "index_N": (n,),
        }  # fmt: skip
        for name, shape in shapes.items():
            _shape(getattr(self, name), shape, f"Samples.{name}")
        require(
            len(self.instruction_N) == n,
            "Samples.instruction_N",
            f"has {len(self.instruction_N)} entries, not {n}",
        )
        for name, image in self.images.items():
            _shape(image, (n, None, None, None, 3), f"Samples.images[{name}]")
        require(bool(np.isfinite(self.motion_N4).all()), "Samples.motion_N4", "must be finite")
        require(len(self.families) == len(self.clips), "Samples.families", "one a clip")
        return self

    def take(self, index: Array | slice) -> Self:
        """The samples at `index` (clip names are kept whole)."""
        values: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name in ("clips", "families"):
                values[f.name] = value
            elif f.name == "images":
                values[f.name] = {k: v[index] for k, v in value.items()}
            elif f.name == "instruction_N":
                values[f.name] = tuple(np.array(value, dtype=object)[index])
            else:
                values[f.name] = value[index]
        return type(self)(**values)

    @classmethod
    def concatenate(cls, parts: Iterable[Samples]) -> Self:
        """Stack several; clip names are merged by name."""
        parts = list(parts)
        require(len(parts) > 0, "Samples.concatenate", "nothing to stack")
        names: dict[str, str] = {}
        for p in parts:
            names.update(zip(p.clips, p.families, strict=True))
        number = {name: i for i, name in enumerate(names)}
        values: dict[str, Any] = {"clips": tuple(names), "families": tuple(names.values())}
        for f in dataclasses.fields(cls):
            column = [getattr(p, f.name) for p in parts]
            if f.name in values:
                continue
            if f.name == "clip_N":
                column = [np.array([number[n] for n in p.clips] or [0], np.int32)[p.clip_N] for p in parts]
            if f.name == "images":
                values[f.name] = {k: np.concatenate([c[k] for c in column]) for k in parts[0].images}
            elif f.name == "instruction_N":
                values[f.name] = tuple(s for c in column for s in c)
            else:
                values[f.name] = np.concatenate(column)
        return cls(**values)

    @classmethod
    def from_observations(cls, observations: Sequence[Observation]) -> Self:
        """Samples without a future, to run a model on live observations."""
        n = len(observations)
        require(n > 0, "Samples.from_observations", "no observation")
        states = [o.state for o in observations]
        none = StateObservation.fake()
        blank = dataclasses.replace(
            none,
            boxes_A6=np.full_like(none.boxes_A6, np.nan),
            classes_A=np.full_like(none.classes_A, -1),
            lanes_LP2=np.full_like(none.lanes_LP2, np.nan),
            lane_kinds_L=np.full_like(none.lane_kinds_L, -1),
            route_R2=np.full_like(none.route_R2, np.nan),
        )
        known = [blank if s is None else s for s in states]
        return cls(
            motion_N4=np.stack([o.motion_4 for o in observations]).astype(np.float32),
            navigation_N=np.array([o.navigation for o in observations], np.int8),
            speed_limit_N=np.array([o.speed_limit for o in observations], np.float32),
            instruction_N=tuple(o.instruction for o in observations),
            images={k: np.stack([o.images[k] for o in observations]) for k in observations[0].images},
            boxes_NA6=np.stack([s.boxes_A6 for s in known]).astype(np.float32),
            classes_NA=np.stack([s.classes_A for s in known]).astype(np.int8),
            lanes_NLP2=np.stack([s.lanes_LP2 for s in known]).astype(np.float32),
            lane_kinds_NL=np.stack([s.lane_kinds_L for s in known]).astype(np.int8),
            route_NR2=np.stack([s.route_R2 for s in known]).astype(np.float32),
            future_NT3=np.full((n, PLAN_STEPS, 3), np.nan, np.float32),
            speed_N=np.full(n, -1, np.int8),
            direction_N=np.full(n, -1, np.int8),
            counterfactual_N=np.zeros(n, bool),
            agent_futures_NAT3=np.full((n, MAX_AGENTS, PLAN_STEPS + 1, 3), np.nan, np.float32),
            kerbs_NS4=np.full((n, MAX_KERBS, 4), np.nan, np.float32),
            has_kerbs_N=np.zeros(n, bool),
            clip_N=np.zeros(n, np.int32),
            frame_N=np.arange(n, dtype=np.int32),
            index_N=np.arange(n, dtype=np.int64),
            clips=("live",),
            families=("live",),
        )

    @classmethod
    def fake(cls, n: int = 4, rig: Rig | None = None, seed: int = 0) -> Self:
        """Plausible samples of every speed class: constant acceleration on a straight road."""
        rng = np.random.default_rng(seed)
        base = cls.from_observations([Observation.fake(rig, seed + i) for i in range(n)])
        t = PLAN_DT * np.arange(1, PLAN_STEPS + 1)
        speed = np.arange(n) % 3
        a = np.array([1.5, -2.0, 0.0])[speed]
        v0 = rng.uniform(7, 12, n)
        future = np.zeros((n, PLAN_STEPS, 3), np.float32)
        future[:, :, 0] = v0[:, None] * t + 0.5 * a[:, None] * t**2
        motion = base.motion_N4.copy()
        motion[:, 0] = v0
        agents = base.agent_futures_NAT3.copy()
        agents[:, 0] = 0.0
        agents[:, 0, :, 0] = 20 + 6 * PLAN_DT * np.arange(PLAN_STEPS + 1)
        kerbs = base.kerbs_NS4.copy()
        kerbs[:, 0] = (-20, 6, 60, 6)
        return dataclasses.replace(
            base, motion_N4=motion, future_NT3=future, speed_N=speed.astype(np.int8),
            direction_N=np.zeros(n, np.int8), agent_futures_NAT3=agents, kerbs_NS4=kerbs,
            has_kerbs_N=np.ones(n, bool), clips=("fake",), families=("empty",),
        )  # fmt: skip


@dataclass(frozen=True)
class Contact:
    """The first touch of the ego with one agent or kerb. `kind`: front, rear, lateral, stopped_ego, stopped_agent, static."""

    t_s: float
    agent_id: str
    agent_class: int  # AgentClass; -1 for a kerb
    at_fault: bool
    kind: str
    ego_v: float
    lateral_undecided: bool = False


@dataclass(frozen=True, eq=False)
class Rollout:
    """One policy driven through one clip. F frames at `dt`; frame 0 is the start, the last one the end or the contact.

    ego_F6: world x, y, yaw, v, a, steer. plans_FT2: the plan made at that frame, in its ego frame (NaN: none made).
    decision_F2, vlm_decision_F2: (speed, direction), -1 none. ttc_F: s, inf none. progress_F: m along the route.
    off_road_F: None where the map does not say what is drivable. straddle_F: None where it has no complete lanes.
    boxes_FA6: every agent in the world (x, y, yaw, length, width, v; NaN when absent), ids and classes by column.
    expert_E4: t, v, progress along the route, moving distance of the recorded or generated expert over the full clip.
    """

    clip: str
    family: str
    scene_seed: int
    policy: str
    seed: int
    dt: float
    vehicle: str  # "bicycle" or "perfect"
    traffic: str  # "replay", …
    ego_shape: VehicleShape
    t_F: Array
    ego_F6: Array
    plans_FT2: Array
    decision_F2: Array
    vlm_decision_F2: Array
    decision_age_F: Array
    speed_limit_F: Array
    ttc_F: Array
    progress_F: Array
    off_road_F: Array | None
    straddle_F: Array | None
    boxes_FA6: Array
    agent_ids: tuple[str, ...]
    agent_classes_A: Array
    contacts: tuple[Contact, ...]
    ignored_at_start: int
    has_kerbs: bool
    route_length_m: float
    expert_E4: Array
    observations: tuple[Observation | None, ...] = ()

    def __len__(self) -> int:
        return len(self.t_F)

    def validate(self) -> Self:
        f = len(self)
        require(f > 0, "Rollout", "holds no frame")
        _shape(self.ego_F6, (f, 6), "Rollout.ego_F6")
        _shape(self.plans_FT2, (f, PLAN_STEPS, 2), "Rollout.plans_FT2")
        _shape(self.decision_F2, (f, 2), "Rollout.decision_F2")
        _shape(self.vlm_decision_F2, (f, 2), "Rollout.vlm_decision_F2")
        for name in ("decision_age_F", "speed_limit_F", "ttc_F", "progress_F", "off_road_F", "straddle_F"):
            value = getattr(self, name)
            if value is not None:
                _shape(value, (f,), f"Rollout.{name}")
        _shape(self.boxes_FA6, (f, len(self.agent_ids), 6), "Rollout.boxes_FA6")
        _shape(self.expert_E4, (None, 4), "Rollout.expert_E4")
        require(bool(np.isfinite(self.ego_F6).all()), "Rollout.ego_F6", "must be finite")
        require(len(self.observations) in (0, f), "Rollout.observations", "one a frame, or none at all")
        return self

    @classmethod
    def fake(cls, frames: int = 20, v: float = 8.0) -> Self:
        """A straight drive at constant speed behind a leader of the same speed; the expert drove the same."""
        dt = 0.1
        t = dt * np.arange(frames)
        ego = np.zeros((frames, 6))
        ego[:, 0], ego[:, 3] = v * t, v
        plan = np.broadcast_to(Trajectory.fake(v).points_T2, (frames, PLAN_STEPS, 2)).copy()
        boxes = np.zeros((frames, 1, 6))
        boxes[:, 0, 0] = 25 + v * t
        boxes[:, 0, 3:] = (4.5, 1.8, v)
        decision = np.tile(np.array([Speed.KEEP, Direction.STRAIGHT], np.int8), (frames, 1))
        expert = np.stack([t, np.full(frames, v), v * t, v * t], 1)
        return cls(
            clip="fake", family="empty", scene_seed=0, policy="fake", seed=0, dt=dt, vehicle="bicycle",
            traffic="replay", ego_shape=VehicleShape(), t_F=t, ego_F6=ego, plans_FT2=plan, decision_F2=decision,
            vlm_decision_F2=decision.copy(), decision_age_F=np.zeros(frames), speed_limit_F=np.full(frames, 13.9),
            ttc_F=np.full(frames, np.inf), progress_F=v * t, off_road_F=np.zeros(frames, bool),
            straddle_F=np.zeros(frames, bool), boxes_FA6=boxes, agent_ids=("leader",),
            agent_classes_A=np.array([AgentClass.CAR], np.int8), contacts=(), ignored_at_start=0, has_kerbs=True,
            route_length_m=200.0, expert_E4=expert,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class ClipMeta:
    """What `Policy.reset` is told. The `expert_*` fields are privileged: only the `expert` driver may read them."""

    dt: float
    rig: Rig
    ego_shape: VehicleShape
    duration_s: float
    expert_t_E: Array
    expert_pose_E3: Array  # world x, y, yaw
    start: EgoState

    @classmethod
    def fake(cls) -> Self:
        t = 0.1 * np.arange(50)
        pose = np.zeros((50, 3))
        pose[:, 0] = 8 * t
        return cls(0.1, Rig.fake(), VehicleShape(), 4.9, t, pose, EgoState.fake())
