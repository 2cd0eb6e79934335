"""The clip: splats, agents, map, route, rig and expert, in memory and as a folder on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

import numpy as np

from senna2.types import AgentClass, Array, Camera, EgoState, Rig, VehicleShape, require
from senna2.world.gaussians import GaussianCloud

SCHEMA = "senna2.clip/1"
BRAKE, INDICATOR_LEFT, INDICATOR_RIGHT = 1, 2, 4  # bits of Track.lights_T
WEATHERS = ("day", "dusk", "rain")
LANE_KINDS = ("car", "cycle")


class Light(IntEnum):
    """States of a traffic light."""

    RED = 0
    AMBER = 1
    GREEN = 2


@dataclass(frozen=True)
class Trigger:
    """Where and when (s on the track's own clock) an agent's scripted path meets the ego's: triggered traffic runs
    the track's clock so that it arrives there with the ego, however fast that one comes."""

    x: float
    y: float
    arrives_s: float


@dataclass(frozen=True, eq=False)
class Track:
    """One agent over time. pose_T3 is the box's centre (x, y, yaw) in the world at t_T (s, uniform at the clip's dt).

    The agent exists from t_T[0] to t_T[-1] only. `asset` names a cloud of the scene (box frame: origin at the
    bottom centre, x forward) made for exactly this size. lights_T: bits BRAKE, INDICATOR_LEFT, INDICATOR_RIGHT.
    trigger: of agents whose path conflicts with the ego's; only triggered traffic heeds it.
    """

    id: str
    agent_class: AgentClass
    asset: str
    length: float
    width: float
    height: float
    t_T: Array
    pose_T3: Array
    v_T: Array
    lights_T: Array
    controller: str = "replay"
    trigger: Trigger | None = None


@dataclass(frozen=True, eq=False)
class Signal:
    """A traffic light over time. pose_3: foot of its post (x, y) and the heading of the traffic it speaks to.

    `asset` names a cloud with the variants ".red", ".amber", ".green" (box frame of tracks). stop_line_22: end points.
    lanes: ids of the lanes that end at the line. state_T: `Light` from t_T on, until the next time stamp.
    """

    id: str
    asset: str
    pose_3: Array
    stop_line_22: Array
    lanes: tuple[str, ...]
    t_T: Array
    state_T: Array

    def at(self, t_s: float) -> Light:
        """The state at a time; before the first stamp, the first."""
        i = int(np.searchsorted(self.t_T, t_s + 1e-6, side="right")) - 1
        return Light(int(self.state_T[max(i, 0)]))


@dataclass(frozen=True, eq=False)
class Lane:
    """centre_P2 runs with the traffic. polygon_Q2 is the lane's area (open ring). speed_limit m/s, NaN unknown."""

    id: str
    centre_P2: Array
    polygon_Q2: Array
    speed_limit: float = float("nan")
    successors: tuple[str, ...] = ()
    left: str | None = None  # neighbour in the same sense of travel
    right: str | None = None
    in_junction: bool = False
    kind: str = "car"  # one of LANE_KINDS


@dataclass(frozen=True, eq=False)
class LaneMap:
    """dividers: lines between lanes of one sense, and between the two senses (`centre_lines`). kerbs: what must not
    be touched. drivable: polygons (open rings), empty if `drivable_known` is False. `lanes_complete`: every drivable
    metre that can be in a lane is in one, so that lateral fault and straddling can be judged."""

    lanes: tuple[Lane, ...] = ()
    dividers: tuple[Array, ...] = ()
    centre_lines: tuple[Array, ...] = ()
    kerbs: tuple[Array, ...] = ()
    drivable: tuple[Array, ...] = ()
    crossings: tuple[Array, ...] = ()
    stop_lines: tuple[Array, ...] = ()
    drivable_known: bool = False
    lanes_complete: bool = False


@dataclass(frozen=True, eq=False)
class Expert:
    """The recorded or generated ego: t_E s, pose_E3 rear axle, v_E m/s, annotated direction_E, navigation_E."""

    t_E: Array
    pose_E3: Array
    v_E: Array
    direction_E: Array
    navigation_E: Array

    def start(self) -> EgoState:
        x, y, yaw = (float(c) for c in self.pose_E3[0])
        return EgoState(x, y, yaw, float(self.v_E[0]))


@dataclass(frozen=True, eq=False)
class SceneMeta:
    """name: unique clip name; split train/tune/val/test/showcase/recorded; source: generator or file it came from."""

    name: str
    family: str
    split: str
    seed: int
    dt: float = 0.1
    weather: str = "day"
    source: str = "town"
    ego_shape: VehicleShape = field(default_factory=VehicleShape)


@dataclass(frozen=True, eq=False)
class Scene:
    """A drivable 3DGS clip. route_P2: the polyline the ego is told to follow; speed_limit_P along it (NaN unknown)."""

    meta: SceneMeta
    background: GaussianCloud
    assets: dict[str, GaussianCloud]
    tracks: tuple[Track, ...]
    map: LaneMap
    rig: Rig
    expert: Expert
    route_P2: Array
    speed_limit_P: Array
    signals: tuple[Signal, ...] = ()

    @property
    def duration_s(self) -> float:
        return float(self.expert.t_E[-1])

    def validate(self, where: str = "clip") -> Self:
        require(len(self.expert.t_E) >= 2, f"{where}: expert", "needs at least two poses")
        require(bool(np.isfinite(self.expert.pose_E3).all()), f"{where}: expert pose", "holds NaN")
        require(
            len(self.route_P2) >= 2 and bool(np.isfinite(self.route_P2).all()),
            f"{where}: route",
            "needs two finite points",
        )
        require(len(self.speed_limit_P) == len(self.route_P2), f"{where}: route speed limit", "one a point")
        ids = [t.id for t in self.tracks]
        require(len(set(ids)) == len(ids), f"{where}: tracks", "an id occurs twice")
        for t in self.tracks:
            at = f"{where}: track {t.id}"
            require(t.asset in self.assets, at, f"asset '{t.asset}' is not in the clip")
            require(bool(np.isfinite(t.pose_T3).all() and np.isfinite(t.v_T).all()), at, "holds NaN poses")
            require(min(t.length, t.width, t.height) > 0, at, "size must be positive")
        for signal in self.signals:
            at = f"{where}: signal {signal.id}"
            require(signal.asset in self.assets, at, f"asset '{signal.asset}' is not in the clip")
            require(len(signal.t_T) == len(signal.state_T) >= 1, at, "needs one state a time stamp, at least one")
            finite = np.isfinite(signal.pose_3).all() and np.isfinite(signal.stop_line_22).all()
            require(bool(finite and np.isfinite(signal.t_T).all()), at, "holds NaN")
        known = self.meta.weather in WEATHERS
        require(known, f"{where}: weather", f"'{self.meta.weather}' is unknown; there are {WEATHERS}")
        self.background.validate(f"{where}: background")
        for name, cloud in self.assets.items():
            cloud.validate(f"{where}: asset {name}")
        self.rig.validate()
        return self

    @classmethod
    def fake(cls, *, frames: int = 60, v: float = 8.0, leader_v: float = 8.0, gap: float = 25.0) -> Self:
        """A straight two-lane road with a leader, a few gaussians, kerbs at ±3.5/7 m: enough for simulator tests."""
        t = 0.1 * np.arange(frames)
        pose = np.zeros((frames, 3))
        pose[:, 0] = v * t
        leader = np.zeros((frames, 3))
        leader[:, 0] = gap + leader_v * t
        x = np.linspace(-40.0, 400.0, 23)

        def line(y: float) -> Array:
            return np.stack([x, np.full_like(x, y)], 1)

        def strip(y0: float, y1: float) -> Array:
            return np.array([(x[0], y0), (x[-1], y0), (x[-1], y1), (x[0], y1)])

        lanes = (
            Lane("right", line(0.0), strip(-1.75, 1.75), 13.9, left="left"),
            Lane("left", line(3.5), strip(1.75, 5.25), 13.9, right="right"),
        )
        lane_map = LaneMap(lanes, (line(1.75),), (), (line(-1.75 - 0.4), line(5.65)), (strip(-2.15, 5.65),),
                           drivable_known=True, lanes_complete=True)  # fmt: skip
        track = Track(
            "leader",
            AgentClass.CAR,
            "car",
            4.5,
            1.8,
            1.5,
            t,
            leader,
            np.full(frames, leader_v),
            np.zeros(frames, np.int8),
        )
        zeros = np.zeros(frames, np.int8)
        cameras = Rig((Camera.fake(),))
        return cls(
            SceneMeta("fake", "following_and_stop", "test", 0),
            GaussianCloud.fake(),
            {"car": GaussianCloud.fake(16, 1)},
            (track,),
            lane_map,
            cameras,
            Expert(t, pose, np.full(frames, v), zeros, zeros),  # 0 is Direction.STRAIGHT
            line(0.0),
            np.full(len(x), 13.9),
        )
