"""What the ego's sensors give: rendered camera frames with their history, and the privileged state observation."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np

from senna2.frames import along_polyline, points_to_ego, pose_to_matrix, sample_polyline
from senna2.types import (
    LANE_POINTS,
    MAX_AGENTS,
    MAX_LANES,
    ROUTE_POINTS,
    ROUTE_SPACING,
    AgentClass,
    Array,
    EgoState,
    LaneKind,
    StateObservation,
)  # fmt: skip
from senna2.world.gaussians import GaussianCloud
from senna2.world.judge import MapJudge, pose_of
from senna2.world.render.base import Instance, PosedCamera, Renderer, Sky, to_u8
from senna2.world.route import Route
from senna2.world.scene import BRAKE, INDICATOR_LEFT, INDICATOR_RIGHT, Light, Scene
from senna2.world.state_kernel import nearest_agents, nearest_lines
from senna2.world.traffic.base import AgentsState

STRIDE_S = 0.25  # legs change twice a second
BLINK_S = 0.3  # a car that brakes and indicates shows both in turn
VIEW_M = 160.0  # agents further away are under a pixel high
CACHED_FRAMES = 64
LANE_DENSE_M = 2.0  # map lines are cut into pieces of this length once, and looked up
LANE_STEP = 3  # dense points between two points of an observed line: 6 m
LANE_BEHIND = 1  # of the LANE_POINTS points, one lies behind the nearest
LANE_RANGE_M = 60.0
STOP_LINE_REACH_M = 2.5  # a stop line that ends this far beside the route still speaks to it

Moment = tuple[AgentsState, EgoState]


class CameraSensor:
    """Renders the rig at (agents, ego). Each moment is rendered once and kept, by camera and all that is seen there:
    two drives that part from one another never share a picture that differs."""

    def __init__(self, scene: Scene, dt: float, renderer: Renderer | None) -> None:
        self._scene, self._dt, self._renderer = scene, dt, renderer
        self._assets = [scene.assets[t.asset] for t in scene.tracks]
        self._walks_A = [t.agent_class in (AgentClass.PEDESTRIAN, AgentClass.CYCLIST) for t in scene.tracks]
        self._signals = [(signal, pose_to_matrix(np.asarray(signal.pose_3, np.float64))) for signal in scene.signals]
        self._sky = Sky.of(scene.meta.weather)
        self._kept: OrderedDict[tuple[str, Moment], Array] = OrderedDict()
        oldest = max(age for camera in scene.rig.cameras for age in camera.history_s)
        self.memory_frames = round(oldest / dt)

    def look(self, now: Moment, past: tuple[Moment, ...]) -> dict[str, Array]:
        """Camera name → (K, H, W, 3) uint8, oldest first. Before the start the first frame is repeated."""
        seen = [*past, now]
        wanted: list[tuple[str, Moment]] = []
        for camera in self._scene.rig.cameras:
            for age in camera.history_s:
                frame = now[0].step - round(age / self._dt)
                at = next((moment for moment in reversed(seen) if moment[0].step <= frame), seen[0])
                wanted.append((camera.name, at))
        self._render_missing(wanted)
        images: dict[str, list[Array]] = {}
        for key in wanted:
            images.setdefault(key[0], []).append(self._kept[key])
        while len(self._kept) > CACHED_FRAMES * len(self._scene.rig.cameras):
            self._kept.popitem(last=False)
        return {name: np.stack(frames) for name, frames in images.items()}

    def _render_missing(self, wanted: list[tuple[str, Moment]]) -> None:
        for moment in dict.fromkeys(sorted((m for _, m in wanted), key=lambda m: m[0].step)):
            names = list(dict.fromkeys(n for n, m in wanted if m == moment and (n, m) not in self._kept))
            if not names:
                continue
            agents, ego = moment
            ego_to_world = pose_to_matrix(pose_of(ego))
            cameras = [PosedCamera(c, ego_to_world @ c.cam_to_ego_44) for c in map(self._scene.rig.__getitem__, names)]
            views = self.renderer.render(self.instances(agents, ego), cameras, self._sky)
            for name, view in zip(names, views, strict=True):
                self._kept[(name, moment)] = to_u8(view.rgb_HW3)

    @property
    def renderer(self) -> Renderer:
        if self._renderer is None:
            from senna2.world.render.select import choose_renderer  # heavy: only when something is rendered

            self._renderer = choose_renderer()
        return self._renderer

    def instances(self, agents: AgentsState, ego: EgoState) -> list[Instance]:
        """The clip at a frame: background, and every agent and traffic light in view range at its pose. The ego itself
        is not drawn."""
        placed = [Instance(self._scene.background)]
        boxes = agents.boxes_A6
        for a in np.flatnonzero(np.hypot(boxes[:, 0] - ego.x, boxes[:, 1] - ego.y) < VIEW_M):
            placed.append(Instance(self._asset(int(a), agents), pose_to_matrix(boxes[a, :3])))
        for signal, pose_44 in self._signals:
            if math.hypot(pose_44[0, 3] - ego.x, pose_44[1, 3] - ego.y) < VIEW_M:
                lit = f"{signal.asset}.{signal.at(agents.step * self._dt).name.lower()}"
                placed.append(Instance(self._scene.assets.get(lit, self._scene.assets[signal.asset]), pose_44))
        return placed

    def _asset(self, a: int, agents: AgentsState) -> GaussianCloud:
        """The agent's cloud with its lights or legs as they are now; a missing variant means the plain one."""
        t, lights = agents.step * self._dt, int(agents.lights_A[a])
        suffix = ""
        if self._walks_A[a]:
            stride = int((t + 0.07 * a) / STRIDE_S + 1e-6) % 2 == 1  # not all in step
            suffix = ".step" if stride and agents.boxes_A6[a, 5] > 0.2 else ""
        else:
            side = ".left" if lights & INDICATOR_LEFT else ".right" if lights & INDICATOR_RIGHT else ""
            brake = ".brake" if lights & BRAKE else ""
            first = int(t / BLINK_S + 1e-6) % 2 == 0
            suffix = (brake if first else side) if brake and side else brake or side
        return self._scene.assets.get(f"{self._scene.tracks[a].asset}{suffix}", self._assets[a])


class StateSensor:
    """Boxes, lanes and route around the ego, in its frame."""

    def __init__(self, scene: Scene, route: Route, judge: MapJudge) -> None:
        self._route = route
        lines = [(lane.centre_P2, LaneKind.LANE) for lane in scene.map.lanes]
        lines += [(line, LaneKind.DIVIDER) for line in (*scene.map.dividers, *scene.map.centre_lines)]
        lines += [(line, LaneKind.KERB) for line in _kerb_polylines(scene, judge)]
        dense = [_dense(np.asarray(line, np.float64)) for line, _ in lines]
        self._kind_L = np.array([kind for _, kind in lines], np.int8)
        self._two_way_L = self._kind_L != LaneKind.LANE  # dividers and kerbs are read the way the ego looks
        counts = np.array([len(d) for d in dense], int)
        self._first_L = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(int) if len(dense) else counts
        self._last_L = self._first_L + counts - 1
        self._points = np.concatenate(dense) if dense else np.zeros((0, 2))
        self._on_route = self._beside_route(scene)
        told = ROUTE_SPACING * np.arange(1, ROUTE_POINTS + 1)
        lane = LANE_DENSE_M * LANE_STEP * np.arange(-LANE_BEHIND, LANE_POINTS - LANE_BEHIND)
        self._ahead_m = np.concatenate([told, lane])  # of the route's points, and of the route lane's
        self._stops = [
            (s, signal, np.asarray(signal.stop_line_22, np.float64))
            for signal in scene.signals
            if (s := route.crossing(signal.stop_line_22, float(signal.pose_3[2]), STOP_LINE_REACH_M)) is not None
        ]

    def _beside_route(self, scene: Scene) -> Array:
        """Per dense point of a lane: it repeats the route line, which every observation carries anyway."""
        from senna2.frames import project_to_polyline

        if len(self._points) == 0:
            return np.zeros(0, bool)
        _, offset = project_to_polyline(self._points, np.asarray(scene.route_P2, np.float64))
        lane = np.repeat(self._kind_L == LaneKind.LANE, self._last_L - self._first_L + 1)
        return lane & (np.abs(offset) < 0.5)

    def look(
        self, ego: EgoState, progress_m: float, boxes_A6: Array, classes_A: Array, t_s: float = 0.0
    ) -> StateObservation:
        pose = pose_of(ego)
        boxes, classes = _nearest_agents(pose, boxes_A6, classes_A)
        points = points_to_ego(self._route.at(progress_m + self._ahead_m), pose).astype(np.float32)
        lanes, kinds = self._lanes(pose, points[ROUTE_POINTS:], self._red_lines(progress_m, t_s))
        return StateObservation(boxes, classes, lanes, kinds, points[:ROUTE_POINTS])

    def _red_lines(self, progress_m: float, t_s: float) -> list[Array]:
        """The stop lines of red and amber lights ahead on the route, the nearest first."""
        ahead = [
            (s, line_22)
            for s, signal, line_22 in self._stops
            if 0 < s - progress_m <= LANE_RANGE_M and signal.at(t_s) != Light.GREEN
        ]
        return [line_22 for _, line_22 in sorted(ahead, key=lambda stop: stop[0])]

    def _lanes(self, pose_3: Array, route_lane_P2: Array, red_lines: list[Array]) -> tuple[Array, Array]:
        lanes = np.full((MAX_LANES, LANE_POINTS, 2), np.nan, np.float32)
        kinds = np.full(MAX_LANES, -1, np.int8)
        lanes[0], kinds[0] = route_lane_P2, LaneKind.ROUTE_LANE
        row = 1
        for line_22 in red_lines[: MAX_LANES - 1]:
            across = line_22[0] + np.linspace(0, 1, LANE_POINTS)[:, None] * (line_22[1] - line_22[0])
            lanes[row], kinds[row] = points_to_ego(across, pose_3), LaneKind.RED_STOP_LINE
            row += 1
        nearest_lines(
            pose_3, self._points, self._first_L, self._last_L, self._two_way_L, self._on_route, self._kind_L, row,
            LANE_RANGE_M, LANE_STEP, LANE_BEHIND, lanes, kinds,
        )  # fmt: skip
        return lanes, kinds


def _nearest_agents(pose_3: Array, boxes_A6: Array, classes_A: Array) -> tuple[Array, Array]:
    boxes = np.full((MAX_AGENTS, 6), np.nan, np.float32)
    classes = np.full(MAX_AGENTS, -1, np.int8)
    nearest_agents(pose_3, boxes_A6, classes_A, boxes, classes)
    return boxes, classes


def _dense(line_P2: Array) -> Array:
    length = along_polyline(line_P2)[-1]
    n = max(int(np.ceil(length / LANE_DENSE_M)), 1)
    return sample_polyline(line_P2, np.linspace(0, length, n + 1))[0]


def _kerb_polylines(scene: Scene, judge: MapJudge) -> list[Array]:
    """The clip's kerbs, or those that stand in for them (the judge's), as polylines."""
    if scene.map.kerbs or not judge.has_kerbs:
        return list(scene.map.kerbs)
    from senna2.world.judge import drivable_boundary

    return list(drivable_boundary(scene.map))
